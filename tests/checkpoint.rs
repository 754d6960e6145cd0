//! Checkpoints on the command line: saved, kept, pinned, applied.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::home::Home;
use crate::support::place::Place;

const NOTEBOOK: &str = "files/train.ipynb";

/// A home with a project whose storage holds a notebook and a few files.
fn home() -> (Home, PathBuf) {
    let home = Home::with_project();
    let project = home.json(["project", "show", "lab/cats/tabby"]);
    let id = project["id"].as_str().unwrap();
    let files = home.atelier().join("projects").join(id).join("files");
    fs::create_dir_all(files.join("src/empty")).unwrap();
    write_notebook(&files, 1);
    fs::write(files.join("src/model.py"), "weights = 1\n").unwrap();
    symlink("src/model.py", files.join("link")).unwrap();
    (home, files)
}

/// A notebook with one cell of text and `runs` cells of code with one output each.
fn write_notebook(files: &std::path::Path, runs: u64) {
    let mut cells = vec![json!({"cell_type": "markdown", "metadata": {}, "source": "# Train"})];
    cells.extend((1..=runs).map(|run| {
        json!({"cell_type": "code", "metadata": {}, "source": "step()", "execution_count": run,
               "outputs": [{"output_type": "stream", "name": "stdout", "text": "done\n"}]})
    }));
    let kernel = json!({"kernelspec": {"name": "python3", "display_name": "Python 3"}});
    let notebook = json!({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells});
    fs::write(files.join("train.ipynb"), notebook.to_string()).unwrap();
}

fn create(home: &Home) -> Value {
    home.json(["checkpoint", "create", "--notebook", NOTEBOOK])
}

fn ids(home: &Home) -> Vec<String> {
    let list = home.json(["checkpoint", "list"]);
    let ids = list.as_array().unwrap().iter().map(|line| line["id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[test]
fn a_checkpoint_says_what_it_holds() {
    let (home, _files) = home();
    let made = create(&home);
    assert_eq!(made["id"], "0001");
    assert_eq!(made["operation"], "manual");
    assert_eq!(made["notebook"], NOTEBOOK);
    assert_eq!((&made["creator"], &made["data"]), (&json!("ada"), &json!(true)));
    assert_eq!((&made["cells"], &made["outputs"]), (&json!(2), &json!(1)));
    assert_eq!((&made["kernel"], &made["files"]), (&json!("python3"), &json!(2)));
    assert_eq!(home.json(["checkpoint", "list"]), json!([made]));
    for id in ["1", "0001", "latest"] {
        assert_eq!(home.json(["checkpoint", "show", id]), made, "{id}");
    }
    let shown = home.ok(["checkpoint", "show", "1"]);
    assert!(shown.contains("files/train.ipynb") && shown.contains("manual"), "{shown}");
}

#[test]
fn ten_regular_checkpoints_are_kept_and_numbers_are_not_used_again() {
    let (home, _files) = home();
    home.ok(["checkpoint", "create", "--notebook", NOTEBOOK, "--name", "baseline"]);
    for _ in 0..11 {
        create(&home);
    }
    let kept: Vec<_> =
        (1..=12).filter(|number| *number != 2).map(|number| format!("{number:04}")).collect();
    assert_eq!(ids(&home), kept, "the pinned one is kept, the oldest regular one isn't");
    home.ok(["checkpoint", "delete", "12"]);
    assert_eq!(create(&home)["id"], "0013");
}

#[test]
fn a_pinned_checkpoint_has_a_name_and_an_eleventh_is_refused() {
    let (home, _files) = home();
    for number in 1..=10 {
        let name = format!("model-{number}");
        home.ok(["checkpoint", "create", "--notebook", NOTEBOOK, "--name", &name]);
    }
    assert_eq!(home.json(["checkpoint", "show", "model-3"])["id"], "0003");
    let full = "error: lab/cats/tabby has 10 pinned checkpoints, the most there can be\n\
                hint: `atelier checkpoint unpin` one of them first\n";
    let refused = home.fails(["checkpoint", "create", "--notebook", NOTEBOOK, "--name", "more"]);
    assert_eq!(refused, full);
    assert_eq!(create(&home)["id"], "0011", "a refused one takes no number");
    assert_eq!(home.fails(["checkpoint", "pin", "11", "more"]), full);
    home.ok(["checkpoint", "unpin", "model-3"]);
    assert!(home.fails(["checkpoint", "show", "model-3"]).contains("no checkpoint \"model-3\""));
    assert_eq!(home.json(["checkpoint", "pin", "latest", "more"])["name"], "more");
    assert_eq!(home.json(["checkpoint", "show", "more"])["id"], "0011");
    let taken = home.fails(["checkpoint", "pin", "3", "more"]);
    assert!(taken.contains("more"), "{taken}");
    for name in ["latest", "7", "Final", ""] {
        home.fails(["checkpoint", "create", "--notebook", NOTEBOOK, "--name", name]);
    }
}

#[test]
fn applying_brings_the_files_back_and_loses_nothing() {
    let (home, files) = home();
    create(&home);
    let notebook = fs::read(files.join("train.ipynb")).unwrap();

    write_notebook(&files, 3);
    fs::write(files.join("src/model.py"), "weights = 2\n").unwrap();
    fs::write(files.join("unsaved.txt"), "only here\n").unwrap();
    fs::remove_file(files.join("link")).unwrap();
    fs::remove_dir(files.join("src/empty")).unwrap();

    let rollback = home.json(["checkpoint", "apply", "1"]);
    assert_eq!((&rollback["operation"], &rollback["of"]), (&json!("rollback"), &json!("0001")));
    assert_eq!((&rollback["id"], &rollback["cells"]), (&json!("0003"), &json!(2)));
    assert_eq!(fs::read(files.join("train.ipynb")).unwrap(), notebook);
    assert_eq!(fs::read(files.join("src/model.py")).unwrap(), b"weights = 1\n");
    assert_eq!(fs::read_link(files.join("link")).unwrap(), PathBuf::from("src/model.py"));
    assert!(files.join("src/empty").is_dir());
    assert!(!files.join("unsaved.txt").exists());

    // What was there before is a checkpoint of its own, with the notebook as it was then.
    let before = home.json(["checkpoint", "show", "2"]);
    assert_eq!((&before["operation"], &before["before"]), (&json!("manual"), &json!("0001")));
    assert_eq!(before["cells"], 4);
    home.ok(["checkpoint", "apply", "2"]);
    assert_eq!(fs::read(files.join("unsaved.txt")).unwrap(), b"only here\n");
    assert_eq!(fs::read(files.join("src/model.py")).unwrap(), b"weights = 2\n");
    assert!(!files.join("link").exists());
    // The rollback had the files as they were: nothing was to be saved before.
    assert_eq!(ids(&home), ["0001", "0002", "0003", "0004"]);
}

#[test]
fn an_applied_checkpoint_shows_in_a_mount_at_once() {
    let place = Place::of(home().0);
    create(&place.home);
    place.mount();
    let files = place.dir.join("files");
    let model = files.join("src/model.py");
    fs::write(&model, "much longer than it was\n").unwrap();
    fs::write(files.join("new"), "").unwrap();
    // What changed a moment ago the kernel believes for longer than a checkpoint takes.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(fs::metadata(&model).unwrap().len(), 24);
    assert!(files.join("new").exists());
    place.home.ok(["checkpoint", "apply", "1"]);
    assert_eq!(fs::metadata(&model).unwrap().len(), 12);
    assert_eq!(fs::read(&model).unwrap(), b"weights = 1\n");
    assert!(!files.join("new").exists());
}

#[test]
fn the_oldest_checkpoint_can_be_applied_though_two_more_are_made() {
    let (home, files) = home();
    fs::write(files.join("src/model.py"), "the oldest\n").unwrap();
    for _ in 0..10 {
        create(&home);
        fs::write(files.join("src/model.py"), "newer\n").unwrap();
    }
    fs::write(files.join("src/model.py"), "unsaved\n").unwrap();
    assert_eq!(home.json(["checkpoint", "apply", "1"])["id"], "0012");
    assert_eq!(fs::read(files.join("src/model.py")).unwrap(), b"the oldest\n");
    assert_eq!(ids(&home).len(), 10);
    home.ok(["checkpoint", "apply", "11"]);
    assert_eq!(fs::read(files.join("src/model.py")).unwrap(), b"unsaved\n");
}

#[test]
fn what_can_not_be_saved_is_named_and_stops_a_rollback() {
    let (home, files) = home();
    let fifo = files.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let saved = home.run(["checkpoint", "create", "--notebook", NOTEBOOK]);
    assert!(saved.stderr.contains("left out: files/pipe"), "{saved:?}");
    saved.expect_ok();
    let refused = home.fails(["checkpoint", "apply", "1"]);
    assert!(refused.contains("files/pipe can't be saved and would be lost"), "{refused}");
    assert!(fifo.exists());
    fs::remove_file(&fifo).unwrap();
    home.ok(["checkpoint", "apply", "1"]);
}

#[test]
fn wrong_input_gets_one_line_that_says_what_is_wrong() {
    let (home, files) = home();
    fs::write(files.join("notes.txt"), "not JSON").unwrap();
    fs::write(files.join("old.ipynb"), r#"{"nbformat": 3, "worksheets": []}"#).unwrap();
    symlink("train.ipynb", files.join("alias.ipynb")).unwrap();
    symlink("/etc", files.join("outside")).unwrap();
    for (notebook, complaint) in [
        ("files/none.ipynb", "project lab/cats/tabby has no notebook files/none.ipynb"),
        ("files/train.ipynb/x", "has no notebook files/train.ipynb/x"),
        ("train.ipynb", "notebook \"train.ipynb\" isn't in the project's files/"),
        ("/etc/passwd", "notebook \"/etc/passwd\" isn't in the project's files/"),
        ("files/../../x", "isn't in the project's files/"),
        ("files/outside/passwd", "has no notebook files/outside/passwd"),
        ("files", "isn't in the project's files/"),
        ("files/src", "files/src is a directory"),
        ("files/alias.ipynb", "files/alias.ipynb is a symbolic link"),
        ("files/notes.txt", "files/notes.txt isn't a Jupyter notebook"),
        ("files/old.ipynb", "files/old.ipynb is a notebook of format 3, not 4"),
    ] {
        let refused = home.fails(["checkpoint", "create", "--notebook", notebook]);
        assert!(refused.contains(complaint), "{notebook}: {refused}");
        assert_eq!(refused.lines().filter(|line| line.starts_with("error:")).count(), 1);
    }
    let none = home.fails(["checkpoint", "apply", "latest"]);
    assert!(none.contains("project lab/cats/tabby has no checkpoint yet"), "{none}");
    assert_eq!(create(&home)["id"], "0001", "a refused one takes no number");
    for command in ["show", "apply", "unpin", "delete"] {
        for id in ["2", "00001x", "model", "-"] {
            let refused = home.fails(["checkpoint", command, id]);
            assert!(refused.contains("no checkpoint"), "{command} {id}: {refused}");
        }
    }
    home.ok(["checkpoint", "unpin", "1"]);
}

#[test]
fn who_may_only_look_makes_no_checkpoint_and_applies_none() {
    let (home, files) = home();
    create(&home);
    fs::write(files.join("src/model.py"), "weights = 3\n").unwrap();
    home.ok(["member", "add", "bob", "--role", "viewer", "--on", "lab/cats/tabby"]);
    let as_bob = |args: &[&str]| {
        let project = ["--project", "lab/cats/tabby"];
        home.run_as("bob", project.iter().chain(args))
    };
    assert!(as_bob(&["checkpoint", "list"]).expect_ok().contains("0001"));
    for args in [
        &["checkpoint", "create", "--notebook", NOTEBOOK][..],
        &["checkpoint", "apply", "1"],
        &["checkpoint", "pin", "1", "mine"],
        &["checkpoint", "delete", "1"],
    ] {
        let refused = as_bob(args).expect_failure();
        assert!(refused.contains("developer"), "{args:?}: {refused}");
    }
    assert_eq!(ids(&home), ["0001"]);
    assert_eq!(fs::read(files.join("src/model.py")).unwrap(), b"weights = 3\n");
}
