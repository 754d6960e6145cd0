//! The magics, in a kernel that has the extension.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{NOTEBOOK, home, variable};
use crate::support::home::Home;
use crate::support::kernel::{Kernel, python};

/// Puts the extension where the tests' kernels look for packages.
fn with_extension(home: &Home) {
    let (from, to) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/notebook/python"),
        home.path("python/atelier"),
    );
    fs::create_dir_all(&to).unwrap();
    fs::copy(from.join("magics.py"), to.join("__init__.py")).unwrap();
    fs::copy(from.join("state.py"), to.join("state.py")).unwrap();
    fs::write(to.join("installed.py"), format!("PROGRAM = {:?}\n", env!("CARGO_BIN_EXE_atelier")))
        .unwrap();
}

#[test]
fn a_notebook_saves_and_restores_itself() {
    let (home, _files) = home();
    with_extension(&home);
    let kernel = Kernel::start(&home, "magic");
    kernel.run("%load_ext atelier");
    kernel.run("import numpy as np\nx, secret = np.zeros(100_000), 1");
    kernel.run("%state_exclude secret");
    kernel.run(&format!("%checkpoint good --wait --notebook {NOTEBOOK}"));
    let made = home.json(["checkpoint", "show", "good"]);
    assert_eq!((&made["operation"], &made["notebook"]), (&json!("manual"), &json!(NOTEBOOK)));
    assert_eq!(made["execution"]["count"], 4, "the cell that saves");
    assert_eq!(variable(&made, "secret")["left_out"], "excluded");
    assert!(kernel.printed("get_ipython().run_line_magic('checkpoints', '')").contains("good"));
    kernel.kill();

    let kernel = Kernel::start(&home, "again");
    kernel.run("%load_ext atelier");
    let said = kernel.printed("get_ipython().run_line_magic('restore', 'good')");
    assert!(said.contains("2 variables are back"), "{said}");
    assert!(said.contains("the checkpoint doesn't have: secret"), "{said}");
    assert_eq!(
        kernel.value("float(x.sum()), x.flags.writeable, x.shape"),
        "(0.0, True, (100000,))"
    );
    assert_eq!(home.json(["checkpoint", "show", "latest"])["of"], made["id"]);
    // From outside the same kernel is asked, and finds its own files.
    home.ok(["checkpoint", "create", "--notebook", NOTEBOOK, "--kernel", "again"]);
    assert_eq!(kernel.fails("%restore nothing"), "UsageError");
    assert_eq!(kernel.fails("%restore one two"), "UsageError");
}

#[test]
fn each_cell_is_saved_also_one_that_fails() {
    let (home, _files) = home();
    with_extension(&home);
    let kernel = Kernel::start(&home, "auto");
    kernel.run("%load_ext atelier");
    kernel.run("%checkpoint --auto");
    kernel.run("x = 1");
    assert_eq!(kernel.fails("y = 2\n1 / 0"), "ZeroDivisionError");
    // However many cells ran while one was saved, the last state is saved in the end.
    let saved = || {
        let all = home.json(["checkpoint", "list"]);
        all.as_array()
            .unwrap()
            .iter()
            .any(|made| made["operation"] == "cell_run" && variable(made, "y")["type"] == "int")
    };
    while !saved() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    kernel.run("%checkpoint --auto off");
}

#[test]
fn secrets_come_into_a_kernel_and_are_not_shown() {
    let (home, _files) = home();
    with_extension(&home);
    home.run_with(b"canary-4711", ["secret", "set", "API_TOKEN"]).expect_ok();
    let kernel = Kernel::start(&home, "secrets");
    kernel.run("%load_ext atelier");
    let said = kernel.printed("get_ipython().run_line_magic('secrets', '')");
    assert_eq!(said, "in the environment: API_TOKEN\n");
    kernel.run("import os\ntoken = os.environ['API_TOKEN']");
    kernel.run(&format!("%checkpoint --wait --notebook {NOTEBOOK}"));
    let made = home.json(["checkpoint", "show", "latest"]);
    assert_eq!(variable(&made, "token")["left_out"], "it is a secret");
    let shown = kernel.value("os.environ['API_TOKEN']");
    assert_eq!(shown, "'***'", "the kernel has it, but answers don't show it");
    assert_eq!(kernel.value("len(token)"), "11");
}

#[test]
fn the_extension_is_a_package_of_the_python_that_runs_kernels() {
    let home = Home::new();
    let made = Command::new(python()).args(["-m", "venv"]).arg(home.path("venv")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let own = home.path("venv/bin/python");
    let packages = |python: &Path| {
        let find = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let output = Command::new(python).args(["-c", find]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    // The packages that it needs are there, so nothing is fetched.
    fs::write(format!("{}/others.pth", packages(&own)), packages(&python())).unwrap();
    let install = ["notebook", "install", "--python", own.to_str().unwrap()];
    let said = home.run(install);
    assert!(said.stderr.contains("`%load_ext atelier` loads it"), "{said:?}");
    said.expect_ok();
    home.ok(install);
    let run = |args: &[&str]| {
        let output = Command::new(&own).args(args).env("HOME", home.path("")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let load = "from IPython.core.interactiveshell import InteractiveShell as S\n\
                s = S.instance(); s.run_line_magic('load_ext', 'atelier')\n\
                import atelier.installed; print(atelier.installed.PROGRAM)";
    assert_eq!(run(&["-c", load]).trim(), env!("CARGO_BIN_EXE_atelier"));
    let module = Path::new(&packages(&own)).join("atelier/__init__.py");
    let mode = fs::metadata(&module).unwrap().permissions().mode();
    assert_eq!(mode & 0o444, 0o444, "other users of that Python read it, too");
    run(&["-m", "pip", "uninstall", "--yes", "--quiet", "atelier-notebook"]);
    assert!(!module.exists());
    let refused = home.fails(["notebook", "install", "--python", "/nowhere/python"]);
    assert!(refused.contains("/nowhere/python can't be started"), "{refused}");
}
