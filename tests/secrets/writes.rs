//! Writing environment files on a mount, as `sops` and others do.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use atelier::fuse::{self, MountOptions, Session};
use atelier::secret::identity::Identities;
use atelier::secret::{EnvironmentFile, OpenEnvironment, Value};
use atelier::tree::secrets::SecretsTree;

use super::home::{Home, done, stderr};
use crate::support::program;

const CANARY: &str = "canary-91c2e6d07b3f4a58";

/// The `secrets/` directory of a home's project, mounted.
pub(crate) struct Secrets {
    pub(crate) home: Home,
    dir: PathBuf,
    session: Option<Session>,
}

impl Secrets {
    pub(crate) async fn mount() -> Self {
        let home = Home::new().await;
        let dir = home.dir().join("mount");
        fs::create_dir(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        let tree = SecretsTree::new(home.catalog.clone(), home.project.clone());
        let options = MountOptions { source: "secrets".into(), ..MountOptions::default() };
        let session = fuse::mount(Arc::new(tree), Arc::default(), &dir, &options).unwrap();
        Self { home, dir, session: Some(session) }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs the real `sops` as ada, on a file of the mount, with a folder of its own to work in.
    fn sops(&self, args: &[&str]) -> Output {
        self.sops_command(args).output().unwrap()
    }

    pub(crate) fn sops_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program::find("sops"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.dir().join("ada"))
            .env("SOPS_AGE_KEY_FILE", self.home.key_file("ada"))
            .env("SOPS_DISABLE_VERSION_CHECK", "1")
            .current_dir(&self.dir);
        command
    }

    fn ada(&self) -> Identities {
        Identities::load(&self.home.key_file("ada")).unwrap()
    }

    /// An encrypted file as a member of the project may write it.
    pub(crate) fn sealed(&self, value: &str, recipients: &[String]) -> Vec<u8> {
        let mut environment = OpenEnvironment::create("project").unwrap();
        environment.set("A", Value::new(value.as_bytes().to_vec())).unwrap();
        let own = [self.ada().recipient()];
        environment.seal(if recipients.is_empty() { &own } else { recipients }).unwrap()
    }

    pub(crate) async fn value(&self, environment: &str, key: &str) -> String {
        let body = self.home.body(environment).await;
        let opened = EnvironmentFile::parse(environment, &body).unwrap().open(&self.ada()).unwrap();
        String::from_utf8(opened.value(key).unwrap().expose().to_vec()).unwrap()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.unmount(fuse::Unmount::Lazily).unwrap();
        }
    }
}

fn errno<T>(result: std::io::Result<T>) -> Option<rustix::io::Errno> {
    result.err().and_then(|error| rustix::io::Errno::from_io_error(&error))
}

/// `close(2)` with its answer, which Rust passes over and Python doesn't.
pub(crate) fn close(file: File) -> std::io::Result<()> {
    let script = "import os, sys\ntry: os.close(0)\nexcept OSError as e: sys.exit(e.errno)";
    let output = Command::new("python3").args(["-c", script]).stdin(file).output()?;
    match output.status.code() {
        Some(0) => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code.unwrap_or(5))),
    }
}

fn truncating() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options
}

/// All that `sops` does to a file, it does to one on the mount, and everybody sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sops_writes_on_the_mount() {
    let secrets = Secrets::mount().await;
    let home = &secrets.home;
    done(&home.set("A", "project", b"first"));
    done(&home.set("B", "project", b"stays"));
    let before = String::from_utf8(home.body("project").await).unwrap();

    done(&secrets.sops(&["set", "project.env", "[\"A\"]", "\"second\""]));
    assert_eq!(secrets.value("project", "A").await, "second");
    let after = String::from_utf8(home.body("project").await).unwrap();
    let line = |text: &str| text.lines().find(|line| line.starts_with("B=")).map(str::to_owned);
    assert_eq!(line(&before), line(&after));
    assert_eq!(done(&home.run(&["run", "--", "printenv", "A"])), "second\n");
    assert_eq!(done(&secrets.sops(&["exec-env", "project.env", "printenv A"])), "second\n");

    done(&secrets.sops(&["rotate", "--in-place", "project.env"]));
    assert_eq!(secrets.value("project", "B").await, "stays");
    done(&secrets.sops(&["unset", "project.env", "[\"B\"]"]));
    let keys = done(&home.run(&["secret", "list"]));
    assert!(!keys.contains('B') || !keys.contains("B  "), "{keys}");

    let mut edit = secrets.sops_command(&["edit", "project.env"]);
    done(&edit.env("EDITOR", "sed -i s/second/third/").output().unwrap());
    assert_eq!(secrets.value("project", "A").await, "third");
}

/// A new file is there when `sops encrypt` has written it, by whichever way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sops_makes_a_new_file_on_the_mount() {
    let secrets = Secrets::mount().await;
    let plain = secrets.home.dir().join("plain.env");
    fs::write(&plain, "# comment\nA=1\n").unwrap();
    let plain = plain.to_str().unwrap();
    let recipient = secrets.ada().recipient();
    done(&secrets.sops(&["encrypt", "--age", &recipient, "--output", "new.env", plain]));
    assert_eq!(secrets.value("new", "A").await, "1");
    assert!(secrets.file("new.env").exists());

    let redirected = format!(
        "{} encrypt --age {recipient} {plain} > other.env && cp other.env third.env",
        program::find("sops").display()
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &redirected]).current_dir(&secrets.dir);
    done(&shell.output().unwrap());
    assert_eq!(secrets.value("other", "A").await, "1");
    assert_eq!(secrets.value("third", "A").await, "1");
}

/// `sops updatekeys` lets in who became a member, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sops_updates_keys_on_the_mount() {
    let secrets = Secrets::mount().await;
    let home = &secrets.home;
    done(&home.set("A", "project", b"1"));
    let bob = home.member("bob").await;
    let eve = Identities::load_or_create(&home.key_file("eve")).unwrap();
    let config = home.dir().join("sops.yaml");
    let update = |recipients: &[String]| {
        let rule = format!("creation_rules:\n  - age: {}\n", recipients.join(","));
        fs::write(&config, rule).unwrap();
        let config = config.to_str().unwrap();
        secrets.sops(&["--config", config, "updatekeys", "--yes", "project.env"])
    };
    let ada = secrets.ada().recipient();
    assert!(!update(&[ada.clone(), eve.recipient()]).status.success());
    let body = home.body("project").await;
    assert!(EnvironmentFile::parse("project", &body).unwrap().open(&eve).is_err());
    done(&update(&[ada, bob.recipient()]));
    let body = home.body("project").await;
    assert!(EnvironmentFile::parse("project", &body).unwrap().open(&bob).is_ok());
}

/// Of two who write over the same version, the one who closes last is told so, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_race_is_estale_at_close() {
    let secrets = Secrets::mount().await;
    let file = secrets.file("project.env");
    fs::write(&file, secrets.sealed("000", &[])).unwrap();
    let over = || {
        let opened = OpenOptions::new().read(true).write(true).open(&file).unwrap();
        opened.set_len(0).unwrap();
        opened
    };
    let [mut one, mut two] = [over(), over()];
    one.write_all(&secrets.sealed("one", &[])).unwrap();
    two.write_all(&secrets.sealed("two", &[])).unwrap();
    assert_eq!(secrets.value("project", "A").await, "000");
    close(one).unwrap();
    assert_eq!(errno(close(two)), Some(rustix::io::Errno::STALE));
    assert_eq!(secrets.value("project", "A").await, "one");
}

/// Who writes a whole file is told by the write already, and by the close once more: `sops` doesn't
/// heed a close.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_race_is_estale_at_the_last_write() {
    let secrets = Secrets::mount().await;
    done(&secrets.home.set("A", "project", b"first"));
    let stale = Some(rustix::io::Errno::STALE);
    for name in ["project", "new"] {
        let file = secrets.file(&format!("{name}.env"));
        let [mut one, mut two] = [(); 2].map(|()| truncating().open(&file).unwrap());
        one.write_all(&secrets.sealed("one", &[])).unwrap();
        assert_eq!(errno(two.write_all(&secrets.sealed("two", &[]))), stale);
        close(one).unwrap();
        assert_eq!(errno(close(two)), stale);
        assert_eq!(secrets.value(name, "A").await, "one");
    }
    let mut late = truncating().open(secrets.file("project.env")).unwrap();
    done(&secrets.home.set("A", "project", b"by another"));
    assert_eq!(errno(late.write_all(&secrets.sealed("late", &[]))), stale);
    assert_eq!(errno(close(late)), stale);
    assert_eq!(secrets.value("project", "A").await, "by another");
}

/// While a file is written, everybody else reads the version before, as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_written_is_not_seen() {
    let secrets = Secrets::mount().await;
    done(&secrets.home.set("A", "project", b"first"));
    let file = secrets.file("project.env");
    let before = fs::read(&file).unwrap();
    let mut old = File::open(&file).unwrap();
    let next = secrets.sealed("second, and longer", &[]);
    let mut writer = truncating().open(&file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), before);
    writer.write_all(&next[..next.len() / 2]).unwrap();
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(fs::metadata(&file).unwrap().len(), before.len() as u64);
    writer.write_all(&next[next.len() / 2..]).unwrap();
    close(writer).unwrap();
    assert_eq!(fs::read(&file).unwrap(), next);
    let mut kept = Vec::new();
    old.read_to_end(&mut kept).unwrap();
    assert_eq!(kept, before);
    // Emptied and closed, it is as it was.
    drop(truncating().open(&file).unwrap());
    assert_eq!(fs::read(&file).unwrap(), next);
}

/// By whatever way plaintext comes, it is refused with EPERM, and it is nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_eperm_and_leaves_no_trace() {
    let secrets = Secrets::mount().await;
    done(&secrets.home.set("A", "project", b"first"));
    let before = secrets.home.body("project").await;
    let plain = tempfile::tempdir().unwrap();
    let source = plain.path().join("plain.env");
    fs::write(&source, format!("PASSWORD={CANARY}\n")).unwrap();
    let source = source.to_str().unwrap();
    for script in [
        format!("echo PASSWORD={CANARY} > project.env"),
        format!("echo PASSWORD={CANARY} > new.env"),
        format!("echo PASSWORD={CANARY} >> project.env"),
        format!("printf '{CANARY}=' > new.env"),
        format!("cp {source} project.env"),
        format!("cp {source} new.env"),
        format!("cp {source} new.txt"),
        format!("cat {source} > new.env"),
        format!("dd if={source} of=project.env conv=notrunc status=none"),
        format!("dd if={source} of=new.env bs=1 conv=fsync status=none"),
        format!("tee new.env < {source}"),
        format!("mv {source} new.env"),
        format!("ln {source} new.env"),
        format!("ln -s {source} new.env"),
        format!("sed -i s/A/{CANARY}/ project.env"),
        "truncate -s 0 project.env".to_owned(),
        "mkdir new.env".to_owned(),
        "mkfifo new.env".to_owned(),
        "rm project.env".to_owned(),
        "mv project.env new.env".to_owned(),
        "chmod 600 project.env".to_owned(),
        "touch project.env".to_owned(),
    ] {
        let mut shell = Command::new("bash");
        let output = shell.args(["-c", &script]).current_dir(&secrets.dir).output().unwrap();
        if script.starts_with("printf") {
            // Only its close can tell, which no shell heeds.
            continue;
        }
        let said = stderr(&output);
        assert!(!output.status.success(), "{script}");
        assert!(
            said.contains("not permitted") || said.contains("cross-device"),
            "{script}: {said}"
        );
        fs::write(source, format!("PASSWORD={CANARY}\n")).unwrap();
    }
    let mapped = "import mmap, os\n\
        f = os.open('project.env', os.O_RDWR)\n\
        mmap.mmap(f, 100, mmap.MAP_SHARED)";
    let mut python = Command::new("python3");
    let mapped = python.args(["-c", mapped]).current_dir(&secrets.dir).output().unwrap();
    assert!(stderr(&mapped).contains("OSError"), "{}", stderr(&mapped));

    assert_eq!(secrets.home.body("project").await, before);
    let names: Vec<_> = fs::read_dir(&secrets.dir).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let home = secrets.home.dir().join("home");
    assert_eq!(holds(&home, CANARY.as_bytes()), Vec::<PathBuf>::new());
}

/// What would only be added to a file, or lie behind its end, is refused at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_and_a_gap_are_refused() {
    let secrets = Secrets::mount().await;
    done(&secrets.home.set("A", "project", b"first"));
    let file = secrets.file("project.env");
    let before = fs::read(&file).unwrap();
    let mut appended = OpenOptions::new().append(true).open(&file).unwrap();
    assert_eq!(errno(appended.write_all(b"B=plain\n")), Some(rustix::io::Errno::PERM));
    let written = OpenOptions::new().write(true).open(&file).unwrap();
    let far = before.len() as u64 + 100;
    let gap = std::os::unix::fs::FileExt::write_all_at(&written, b"#\n", far);
    assert_eq!(errno(gap), Some(rustix::io::Errno::PERM));
    drop((appended, written));
    assert_eq!(fs::read(&file).unwrap(), before);
}

/// Whether any file below a directory holds these bytes.
fn holds(dir: &Path, needle: &[u8]) -> Vec<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .filter(|file| fs::read(file).unwrap().windows(needle.len()).any(|part| part == needle))
        .collect()
}
