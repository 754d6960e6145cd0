//! A kernel of `IPython`, as a notebook has it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use atelier::notebook::kernel;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::home::Home;

/// A kernel that ends when this is dropped.
pub(crate) struct Kernel {
    child: Child,
    wire: kernel::Kernel,
    runtime: Runtime,
}

/// The Python that the tests' packages are installed for.
pub(crate) fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python")
}

impl Kernel {
    /// Starts one for the user of a home; `id` tells it from others.
    pub(crate) fn start(home: &Home, id: &str) -> Self {
        Self::start_in(home, id, &home.path(""))
    }

    /// Starts one that works in a directory.
    pub(crate) fn start_in(home: &Home, id: &str, dir: &Path) -> Self {
        let runtime_dir = home.path(".local/share/jupyter/runtime");
        std::fs::create_dir_all(&runtime_dir).unwrap();
        let file = runtime_dir.join(format!("kernel-{id}.json"));
        let programs = Path::new(env!("CARGO_BIN_EXE_atelier")).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path)));
        let child = home
            .program(python(), ["-m", "ipykernel_launcher", "-f"])
            .arg(&file)
            .env("IPYTHONDIR", home.path(".ipython"))
            .env("MPLBACKEND", "agg")
            .env("PATH", path.unwrap())
            .env("PYTHONPATH", home.path("python"))
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let runtime = Runtime::new().unwrap();
        let wire = loop {
            // The file is there before all of it is.
            if let Ok(wire) = kernel::Kernel::open(&file) {
                break wire;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let kernel = Self { child, wire, runtime };
        while !kernel.runtime.block_on(kernel.wire.lives()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        kernel
    }

    /// Runs a cell, which has to succeed.
    pub(crate) fn run(&self, code: &str) {
        let reply = self.ask(code, json!({}));
        assert_eq!(reply["status"], "ok", "{code}: {reply}");
    }

    /// Runs a cell, which has to fail, and returns the name of the error.
    pub(crate) fn fails(&self, code: &str) -> String {
        let reply = self.ask(code, json!({}));
        reply["ename"].as_str().unwrap_or_else(|| panic!("{code}: {reply}")).to_owned()
    }

    /// Has a cell run; returns when it has begun.
    pub(crate) fn begin(&self, code: &str) {
        let (_, sign) = tempfile::NamedTempFile::new().unwrap().keep().unwrap();
        let code = format!("import os\nos.unlink('{}')\n{code}", sign.display());
        let (wire, request) = (self.wire.clone(), request(&code, json!({})));
        self.runtime.spawn(async move { wire.exchange("execute_request", &request).await });
        while sign.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The representation of a value.
    pub(crate) fn value(&self, expression: &str) -> String {
        let reply = self.ask("", json!({ "value": expression }));
        let text = &reply["user_expressions"]["value"]["data"]["text/plain"];
        text.as_str().unwrap_or_else(|| panic!("{expression}: {reply}")).to_owned()
    }

    /// What a cell prints.
    pub(crate) fn printed(&self, code: &str) -> String {
        let shown = tempfile::NamedTempFile::new().unwrap();
        let body = code.replace('\n', "\n    ");
        self.run(&format!(
            "from IPython.utils.capture import capture_output as __captured__\n\
             with __captured__() as __shown__:\n    {body}\n\
             __wrote__ = open('{}', 'w').write(__shown__.stdout + __shown__.stderr)",
            shown.path().display()
        ));
        std::fs::read_to_string(shown.path()).unwrap()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn ask(&self, code: &str, expressions: Value) -> Value {
        let request = request(code, expressions);
        self.runtime.block_on(self.wire.exchange("execute_request", &request)).unwrap()
    }
}

/// A cell, or a silent question where it is empty.
fn request(code: &str, expressions: Value) -> Value {
    json!({
        "code": code, "silent": code.is_empty(), "store_history": !code.is_empty(),
        "user_expressions": expressions, "allow_stdin": false, "stop_on_error": false,
    })
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // One that has ended can't be ended again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
