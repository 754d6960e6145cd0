//! A home with a project in it, and what its members' commands answer.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use atelier::catalog::{Catalog, CommunityName, Project, Role, Scope};
use atelier::secret::identity::Identities;
use atelier::secret::reveal;
use tempfile::TempDir;

/// A home with a project `acme/pets/cats` and a user, ada.
pub(crate) struct Home {
    dir: TempDir,
    pub(crate) catalog: Catalog,
    pub(crate) project: Project,
}

impl Home {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("home/catalog.db"), "ada").await.unwrap();
        catalog.create_organization("acme").await.unwrap();
        catalog.create_community("acme", "pets", "").await.unwrap();
        let at = CommunityName { organization: "acme".into(), community: "pets".into() };
        let project = catalog.create_project(&at, "cats", "", None).await.unwrap();
        let home = Self { dir, catalog, project };
        home.member("ada").await;
        home
    }

    /// Makes a user a Developer with an identity of his own.
    pub(crate) async fn member(&self, user: &str) -> Identities {
        let identities = Identities::load_or_create(&self.key_file(user)).unwrap();
        if user != "ada" {
            let on = Scope::Project(self.project.name.clone());
            self.catalog.set_role(user, Role::Developer, &on).await.unwrap();
        }
        let catalog = self.catalog.as_user(user);
        catalog.add_recipient(user, &identities.recipient()).await.unwrap();
        identities
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn key_file(&self, user: &str) -> PathBuf {
        self.dir.path().join(user).join("keys.txt")
    }

    pub(crate) fn command(&self, user: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atelier"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path().join(user))
            .env("ATELIER_HOME", self.dir.path().join("home"))
            .env("ATELIER_USER", user)
            .env("ATELIER_PROJECT", self.project.name.to_string())
            .env("SOPS_AGE_KEY_FILE", self.key_file(user))
            .env("RUST_LOG", "trace")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command("ada", args).output().unwrap()
    }

    pub(crate) fn set(&self, key: &str, environment: &str, value: &[u8]) -> Output {
        self.set_as("ada", key, environment, value)
    }

    pub(crate) fn set_as(&self, user: &str, key: &str, environment: &str, value: &[u8]) -> Output {
        let args = ["secret", "set", key, "--env", environment];
        let mut child = self
            .command(user, &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses before it reads closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(value);
        child.wait_with_output().unwrap()
    }

    /// What shows on a terminal where ada runs a command and, after its prompt, types.
    pub(crate) fn on_terminal(&self, args: &str, prompt: &str, typed: &str) -> String {
        let typed_in = format!("{} {args}", env!("CARGO_BIN_EXE_atelier"));
        let model = self.command("ada", &[]);
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &typed_in, "/dev/null"])
            .env_clear()
            .envs(model.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains(prompt) {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{shown:?}");
            shown.extend(byte);
        }
        // The prompt shows a moment before the terminal stops to echo.
        std::thread::sleep(Duration::from_millis(500));
        stdin.write_all(typed.as_bytes()).unwrap();
        stdout.read_to_end(&mut shown).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
        String::from_utf8(shown).unwrap()
    }

    /// Whether ada finds this value in an environment file.
    pub(crate) fn opens_to(&self, body: &[u8], key: &str, value: &str) -> bool {
        let ada = Identities::load(&self.key_file("ada")).unwrap();
        reveal("test", body, &ada, key).is_ok_and(|found| found.expose() == value.as_bytes())
    }

    pub(crate) async fn body(&self, environment: &str) -> Vec<u8> {
        self.catalog.environment(&self.project, environment).await.unwrap().body
    }

    pub(crate) async fn replace_body(&self, environment: &str, body: Vec<u8>) {
        let found = self.catalog.environment(&self.project, environment).await.unwrap();
        let expected = Some(found.generation);
        self.catalog.put_environment(&self.project, environment, expected, body).await.unwrap();
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output)
}

#[track_caller]
pub(crate) fn refused(output: &Output, code: i32, why: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    assert!(stderr(output).contains(why), "{}", stderr(output));
    assert_eq!(stdout(output), "");
}
