//! Variables of real kernels: saved from a shell and from a cell, and given back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::home::Home;
use crate::support::kernel::{Kernel, python};

mod magics;

const NOTEBOOK: &str = "files/train.ipynb";

/// A home with a project whose storage holds a notebook.
fn home() -> (Home, PathBuf) {
    let home = Home::with_project();
    let id = home.json(["project", "show", "lab/cats/tabby"])["id"].as_str().unwrap().to_owned();
    let files = home.atelier().join("projects").join(id).join("files");
    fs::create_dir_all(&files).unwrap();
    write_notebook(&files, "1");
    (home, files)
}

fn write_notebook(files: &Path, output: &str) {
    let cell = json!({
        "cell_type": "code", "id": "c1", "metadata": {}, "source": "step()", "execution_count": 1,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": output}]
    });
    let metadata = json!({"kernelspec": {"name": "python3", "display_name": "Python 3"}});
    let notebook =
        json!({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [cell]});
    fs::write(files.join("train.ipynb"), notebook.to_string()).unwrap();
}

fn variable<'a>(made: &'a Value, name: &str) -> &'a Value {
    let all = made["variables"].as_array().unwrap();
    all.iter().find(|variable| variable["name"] == name).unwrap_or(&Value::Null)
}

const VARIABLES: &str = "
import sqlite3, threading
import numpy as np, pandas as pd
import matplotlib.pyplot as plt
from sklearn.linear_model import LinearRegression
large = np.arange(2_000_000.0)
frame = pd.DataFrame({'n': range(1000), 'text': ['t'] * 1000})
frames = {'train': frame}
model = LinearRegression().fit(large[:10].reshape(-1, 1), large[:10] * 3)
figure, axes = plt.subplots()
_ = axes.plot([1, 2], [3, 4])
generator = (n for n in range(3))
file = open('/dev/null')
connection = sqlite3.connect(':memory:')
lock = threading.Lock()
twice = lambda n: n * factor
factor = 2
class Point:
    def __init__(self, x): self.x = x
    def scaled(self): return self.x * factor
point = Point(21)
";

#[test]
fn the_variables_of_a_kernel_outlive_it() {
    let (home, files) = home();
    let kernel = Kernel::start(&home, "first");
    kernel.run(VARIABLES);
    let count = kernel.value("get_ipython().execution_count");
    let names = kernel.value("sorted(globals())");
    let saved = home.run(["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "auto"]);
    assert!(
        saved.stderr.contains(
            "the following variables cannot be serialized: generator, file, connection, lock"
        ),
        "{saved:?}"
    );
    saved.expect_ok();
    assert_eq!(kernel.value("get_ipython().execution_count"), count, "it wasn't an execution");
    assert_eq!(kernel.value("sorted(globals())"), names, "it leaves no name behind");
    assert_eq!(kernel.value("_oh"), "{}", "nor an output");

    let made = home.json(["checkpoint", "show", "1"]);
    assert_eq!((&made["cells"], &made["files"]), (&json!(1), &json!(1)));
    assert_eq!(variable(&made, "large")["shape"], json!([2_000_000]));
    assert_eq!(variable(&made, "large")["type"], "numpy.ndarray");
    assert_eq!(variable(&made, "np")["import"], "numpy");
    assert!(variable(&made, "generator")["left_out"].as_str().unwrap().contains("generator"));
    assert_eq!(made["execution"], json!({"count": 1}));

    kernel.kill();
    write_notebook(&files, "2");
    fs::write(files.join("new.txt"), "new").unwrap();
    let kernel = Kernel::start(&home, "second");
    kernel.run("stranger = 1");
    let applied = home.run(["checkpoint", "apply", "1", "--kernel", "auto"]);
    assert!(applied.stderr.contains("variables of the checkpoint"), "{applied:?}");
    applied.expect_ok();
    for (expression, value) in [
        ("large.sum() == sum(range(2_000_000)) and large.flags.writeable", "True"),
        ("int(frame.n.sum()), frame.text.nunique(), frames['train'] is frame", "(499500, 1, True)"),
        ("round(float(model.predict([[7]])[0]), 3)", "21.0"),
        ("figure.axes[0] is axes, axes.lines[0].get_ydata().tolist()", "(True, [3, 4])"),
        ("twice(4), point.scaled(), isinstance(point, Point)", "(8, 42, True)"),
        ("'stranger' in globals(), 'lock' in globals()", "(False, False)"),
    ] {
        assert_eq!(kernel.value(expression), value, "{expression}");
    }
    kernel.run("factor = 10\nlarge[0] = 5");
    assert_eq!(kernel.value("twice(4), point.scaled()"), "(40, 210)");
    assert!(!files.join("new.txt").exists());
    assert!(fs::read_to_string(files.join("train.ipynb")).unwrap().contains("\"text\":\"1\""));

    // What was there is a checkpoint, and so is the outcome, with the variables.
    let before = home.json(["checkpoint", "show", "2"]);
    assert_eq!((&before["before"], &before["files"]), (&json!("0001"), &json!(2)));
    assert_eq!(variable(&before, "stranger")["type"], "int");
    let rollback = home.json(["checkpoint", "show", "3"]);
    assert_eq!((&rollback["operation"], &rollback["of"]), (&json!("rollback"), &json!("0001")));
    assert_eq!(rollback["variables"], made["variables"]);
}

#[test]
fn a_kernel_that_is_busy_is_named_and_not_interrupted() {
    let (home, _files) = home();
    let kernel = Kernel::start(&home, "busy");
    kernel.begin("import time\nended = False\ntime.sleep(6)\nended = True");
    let create = ["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "busy"];
    let refused = home.fails(create.iter().chain(&["--deadline", "1s"]));
    assert!(refused.contains("kernel busy is busy"), "{refused}");
    assert_eq!(home.json(["checkpoint", "list"]), json!([]));
    // Who waits longer gets it when the cell has ended.
    home.ok(create);
    assert_eq!(kernel.value("ended"), "True");
    let made = home.json(["checkpoint", "show", "1"]);
    assert_eq!(variable(&made, "ended")["type"], "bool");
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    let (home, _files) = home();
    let create = |kernel: &str| {
        home.fails(["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", kernel])
    };
    assert!(create("auto").contains("no running kernel is found for the notebook"));
    assert!(create("nobody").contains("there is no kernel nobody"));
    assert!(create("/dev/null").contains("/dev/null isn't a kernel's connection file"));
    let one = Kernel::start(&home, "one");
    one.run("x = 1");
    one.kill();
    assert!(create("one").contains("kernel one doesn't run any more"));
    let (_two, _three) = (Kernel::start(&home, "two"), Kernel::start(&home, "twofold"));
    let several = create("auto");
    assert!(several.contains("2 kernels run: ") && several.contains("two"), "{several}");
    assert!(create("tw").contains("several kernels begin with tw"));
    // A whole id is meant, though another begins with it.
    home.ok(["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "two"]);
}

#[test]
fn parts_of_a_checkpoint_are_applied_by_themselves() {
    let (home, files) = home();
    let kernel = Kernel::start(&home, "parts");
    kernel.run("x = 1");
    fs::write(files.join("data.txt"), "1").unwrap();
    home.ok(["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "parts"]);
    let change = || {
        kernel.run("x = 2");
        fs::write(files.join("data.txt"), "2").unwrap();
        write_notebook(&files, "2");
    };
    let state = || {
        let notebook = fs::read_to_string(files.join("train.ipynb")).unwrap();
        let output = if notebook.contains("\"text\":\"1\"") { "1" } else { "2" };
        let data = fs::read_to_string(files.join("data.txt")).unwrap();
        format!("{} {data} {output}", kernel.value("x"))
    };
    change();
    home.ok(["checkpoint", "apply", "1", "--variables", "--kernel", "parts"]);
    assert_eq!(state(), "1 2 2");
    change();
    home.ok(["checkpoint", "apply", "1", "--notebook-only"]);
    assert_eq!(state(), "2 2 1");
    change();
    home.ok(["checkpoint", "apply", "1", "--files"]);
    assert_eq!(state(), "2 1 1");
    let refused = home.fails(["checkpoint", "apply", "1", "--variables"]);
    assert!(refused.contains("it isn't said whose variables"), "{refused}");
    home.ok(["checkpoint", "create", "--notebook", NOTEBOOK]);
    let refused = home.fails(["checkpoint", "apply", "latest", "--variables", "--kernel", "parts"]);
    assert!(refused.contains("has no variables"), "{refused}");
}

#[test]
fn variables_of_another_user_are_loaded_by_who_trusts_him() {
    let (home, _files) = home();
    let kernel = Kernel::start(&home, "trust");
    kernel.run("x = 1");
    home.ok(["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "trust"]);
    kernel.run("x = 2");
    home.ok(["member", "add", "bob", "--role", "developer", "--on", "lab/cats/tabby"]);
    let apply = ["--project", "lab/cats/tabby", "checkpoint", "apply", "1", "--kernel", "trust"];
    let refused = home.run_as("bob", apply).expect_failure();
    assert!(refused.contains("variables of checkpoint 0001 were saved by ada"), "{refused}");
    assert_eq!(kernel.value("x"), "2");
    home.run_as("bob", apply.iter().chain(&["--trust"])).expect_ok();
    assert_eq!(kernel.value("x"), "1");
}

#[test]
fn what_differs_between_two_checkpoints_is_told() {
    let (home, files) = home();
    let kernel = Kernel::start(&home, "diff");
    kernel.run("import json\nsame, changed, gone = list(range(300)), 1, 'x'");
    fs::write(files.join("old.txt"), "1").unwrap();
    let create = ["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "diff"];
    home.ok(create);
    kernel.run("changed, added = 2, 3.5\ndel gone");
    fs::rename(files.join("old.txt"), files.join("new.txt")).unwrap();
    write_notebook(&files, "2");
    home.ok(create);
    let found = home.json(["checkpoint", "diff", "1", "2"]);
    assert_eq!(found["cells"], json!([{"cell": 1, "change": "output", "text": "step()"}]));
    let variables: Vec<_> = found["variables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {}", one["name"].as_str().unwrap(), one["change"].as_str().unwrap()))
        .collect();
    assert_eq!(variables, ["added added", "changed changed", "gone removed"]);
    let shown = home.ok(["checkpoint", "diff", "1"]);
    let lines: Vec<_> = shown.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "~ cell 1 output",
            "+ variable added",
            "~ variable changed",
            "- variable gone",
            "+ files/new.txt",
            "- files/old.txt",
            "~ files/train.ipynb"
        ]
    );
    assert_eq!(home.json(["checkpoint", "diff", "2", "2"])["variables"], json!([]));
}

#[test]
fn a_project_begins_as_a_checkpoint_of_another() {
    let (home, files) = home();
    let kernel = Kernel::start(&home, "from");
    kernel.run("x = 41");
    fs::write(files.join("data.txt"), "1").unwrap();
    home.ok(["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "from", "--name", "good"]);
    let refused = home.fails(["project", "create", "lab/cats/kitten", "--from", "nothing"]);
    assert!(refused.contains("no checkpoint \"nothing\""), "{refused}");
    home.ok(["project", "create", "lab/cats/kitten", "--from", "good"]);
    let of = ["--project", "lab/cats/kitten"];
    let first = home.json(of.iter().chain(&["checkpoint", "show", "1"]));
    assert_eq!(first["of"], "lab/cats/tabby/checkpoint/0001");
    assert_eq!((&first["files"], &first["cells"]), (&json!(2), &json!(1)));
    assert_eq!(variable(&first, "x")["type"], "int");
    kernel.run("x = 1");
    home.ok(of.iter().chain(&["checkpoint", "apply", "1", "--variables", "--kernel", "from"]));
    assert_eq!(kernel.value("x"), "41");
}

#[test]
fn the_state_code_keeps_its_promises() {
    let test = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/notebook/state_test.py");
    let output = Command::new(python()).arg("-B").arg(test).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
