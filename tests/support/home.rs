//! Runs the built program in a throwaway home, cut off from whoever runs the tests.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home that is gone when this is dropped.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

/// How the program ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; -1 where a signal ended it.
    pub(crate) code: i32,
    /// Data.
    pub(crate) stdout: String,
    /// Talk.
    pub(crate) stderr: String,
}

impl Home {
    /// An empty home: `atelier init` has not run.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        Self { dir, variables: Vec::new() }
    }

    /// The same home, whose user has an environment variable more.
    pub(crate) fn with_variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// A home after `atelier init`.
    pub(crate) fn new() -> Self {
        let home = Self::empty();
        home.ok(["init"]);
        home
    }

    /// A home with the project `lab/cats/tabby`, which is chosen.
    pub(crate) fn with_project() -> Self {
        let home = Self::new();
        home.make_project();
        home
    }

    /// Makes the project `lab/cats/tabby`.
    pub(crate) fn make_project(&self) {
        self.ok(["org", "create", "lab"]);
        self.ok(["community", "create", "lab/cats"]);
        self.ok(["project", "create", "lab/cats/tabby"]);
    }

    /// A path in the user's home directory, which has room for what a test needs.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `$ATELIER_HOME`.
    pub(crate) fn atelier(&self) -> PathBuf {
        self.path(".local/share/atelier")
    }

    /// The program with a scrubbed environment, the user `ada` acting.
    pub(crate) fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        self.program(env!("CARGO_BIN_EXE_atelier"), args)
    }

    /// Any program with that environment.
    pub(crate) fn program<I: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = I>,
    ) -> Command {
        const STRANGE: &[&str] = &["ATELIER_", "AWS_", "SOPS_", "XDG_", "RUST_LOG"];
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if STRANGE.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command
            .env("HOME", self.dir.path())
            .env("ATELIER_USER", "ada")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", self.path("no-aws-config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.path("no-aws-credentials"))
            .env("NO_PROXY", "127.0.0.1,localhost")
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ended {
        ended(self.command(args).output().expect("the program starts"))
    }

    /// Runs the program as another user.
    pub(crate) fn run_as<I: AsRef<OsStr>>(
        &self,
        user: &str,
        args: impl IntoIterator<Item = I>,
    ) -> Ended {
        let output = self.command(args).env("ATELIER_USER", user).output();
        ended(output.expect("the program starts"))
    }

    /// Runs the program with `input` on its standard input.
    pub(crate) fn run_with<I: AsRef<OsStr>>(
        &self,
        input: &[u8],
        args: impl IntoIterator<Item = I>,
    ) -> Ended {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // A program that doesn't read its input to the end is fine.
        let _ = child.stdin.take().expect("it is piped").write_all(input);
        ended(child.wait_with_output().expect("the program ends"))
    }

    /// Runs the program, which has to succeed, and returns its standard output.
    pub(crate) fn ok<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> String {
        self.run(args).expect_ok()
    }

    /// Runs the program with `--json`, which has to succeed, and returns what it prints.
    pub(crate) fn json<I: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
    ) -> serde_json::Value {
        let output = self.command(args).arg("--json").output().expect("the program starts");
        serde_json::from_str(&ended(output).expect_ok()).expect("it prints JSON")
    }

    /// Runs the program, which has to fail, and returns its standard error.
    pub(crate) fn fails<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> String {
        self.run(args).expect_failure()
    }
}

impl Ended {
    /// The standard output of a success.
    pub(crate) fn expect_ok(self) -> String {
        assert_eq!(self.code, 0, "it failed: {self:?}");
        self.stdout
    }

    /// The standard error of a failure, which keeps to the form of errors.
    pub(crate) fn expect_failure(self) -> String {
        assert_ne!(self.code, 0, "it succeeded: {self:?}");
        assert!(self.stderr.starts_with("error: "), "it has no `error:` line: {self:?}");
        self.stderr
    }
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("the output is text"),
        stderr: String::from_utf8(output.stderr).expect("the talk is text"),
    }
}
