//! Somebody who wants a secret from whatever the program leaves behind or shows.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use atelier::object::s3::Credentials;
use atelier::secret::identity::Identities;
use atelier::secret::{OpenEnvironment, Value};
use rustix::process::{Signal, kill_process};

use super::{stderr, stdout};
use crate::support::home::Home;
use crate::support::moto::Moto;
use crate::support::place::{Place, until};
use crate::support::root;
use crate::support::seaweed::BUCKET;

/// What nothing else looks like: a secret, the secret of an S3 key, its session's token.
const CANARIES: [&str; 3] =
    ["canary-value-5b1e77c0", "canary-s3-secret-93aa41d2", "canary-session-token-c8f06e1b"];

/// Everything that was heard while the canaries were about, and where to look for them.
struct Hunt {
    place: Place,
    /// The canaries, and the user's private key.
    canaries: Vec<String>,
    keys: PathBuf,
    /// What the program said.
    heard: Vec<(String, Output)>,
}

impl Hunt {
    fn new() -> Self {
        let home = Home::empty()
            .with_variable("ATELIER_LOG", "trace")
            .with_variable("RUST_LOG", "trace")
            .with_variable("RUST_BACKTRACE", "full");
        home.ok(["init"]);
        home.make_project();
        let keys = home.path(".config/sops/age/keys.txt");
        let text = fs::read_to_string(&keys).unwrap();
        let key = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
        let canaries = CANARIES.into_iter().chain([key]).map(str::to_owned).collect();
        Self { place: Place::of(home), canaries, keys, heard: Vec::new() }
    }

    /// Runs the program, however it ends.
    fn run(&mut self, words: &[&str]) {
        let output = self.place.home.command(words).output().unwrap();
        self.heard.push((words.join(" "), output));
    }

    fn set(&self, key: &str, value: &str) {
        self.place.home.run_with(value.as_bytes(), ["secret", "set", key]).expect_ok();
    }

    fn assert_nothing(&self, place: &str, bytes: &[u8]) {
        for canary in &self.canaries {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{place} tells {canary}");
        }
    }

    /// Looks at what every process was started with.
    fn look_at_processes(&self) {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            for part in ["cmdline", "environ"] {
                // It may be another user's, or have ended.
                let told = fs::read(process.path().join(part)).unwrap_or_default();
                self.assert_nothing(&process.path().join(part).display().to_string(), &told);
            }
        }
    }

    fn look_everywhere(&self) {
        for (command, output) in &self.heard {
            self.assert_nothing(command, &output.stdout);
            self.assert_nothing(command, &output.stderr);
        }
        let mut looked_at = Vec::new();
        for entry in walkdir::WalkDir::new(self.place.home.path("")) {
            let Ok(path) = entry.map(walkdir::DirEntry::into_path) else { continue };
            if path != self.keys && path.is_file() {
                self.assert_nothing(&path.display().to_string(), &fs::read(&path).unwrap());
                looked_at.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        for name in ["catalog.db", "mount.log", "store.json"] {
            assert!(looked_at.iter().any(|looked_at| looked_at == name), "{name} in {looked_at:?}");
        }
    }

    /// How much the block cache has on disk, in bytes.
    fn cached(&self) -> u64 {
        let files = walkdir::WalkDir::new(self.place.home.path(".cache/atelier/blocks"));
        let sizes = files.into_iter().flatten().filter_map(|entry| entry.metadata().ok());
        sizes.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
    }
}

fn log(place: &Place) -> String {
    fs::read_to_string(place.home.atelier().join("log/mount.log")).unwrap_or_default()
}

#[test]
fn who_wants_a_secret_finds_it_in_no_log_file_process_or_message() {
    let server = Moto::start();
    let mut hunt = Hunt::new();
    let [value, secret, token] = CANARIES;
    hunt.set("TOKEN", value);
    hunt.set("S3_SECRET", secret);
    hunt.set("S3_TOKEN", token);
    let endpoint = server.endpoint();
    let connect = |name, endpoint| {
        vec![
            "s3",
            "connect",
            name,
            "--bucket",
            BUCKET,
            "--region",
            "us-east-1",
            "--endpoint",
            endpoint,
            "--key-id",
            "K",
            "--secret-ref",
            "project/S3_SECRET",
            "--token-ref",
            "project/S3_TOKEN",
            "--no-test",
        ]
    };
    hunt.run(&connect("raw", &endpoint));
    hunt.run(&connect("broken", "http://127.0.0.1:9"));
    let dir = hunt.place.dir().to_owned();
    hunt.run(&["mount", "--metrics", "127.0.0.1:0", "--deadline", "2s", "lab/cats/tabby", &dir]);
    assert!(hunt.place.is_mounted(), "{:?}", hunt.heard.last());
    // What works, and what fails in each way.
    assert!(fs::read_dir(hunt.place.dir.join("s3/raw")).unwrap().next().is_none());
    let large = "no secret\n".repeat(300_000);
    server.put("large", "", &large);
    until("the object shows", || hunt.place.dir.join("s3/raw/large").exists());
    assert!(fs::read_to_string(hunt.place.dir.join("s3/raw/large")).unwrap() == large);
    until("it is kept on disk", || hunt.cached() >= large.len() as u64);
    assert!(fs::read(hunt.place.dir.join("s3/raw/none")).is_err());
    assert!(fs::read_dir(hunt.place.dir.join("s3/broken")).unwrap().next().unwrap().is_err());
    let env = fs::read(hunt.place.dir.join("secrets/project.env")).unwrap();
    hunt.assert_nothing("the mount", &env);
    hunt.look_at_processes();
    for words in [
        &["status", &dir][..],
        &["status", &dir, "--json"],
        &["s3", "test", "raw"],
        &["s3", "test", "broken"],
        &["s3", "show", "raw"],
        &["secret", "list"],
        &["secret", "show", "TOKEN"],
        &["run", "--", "true"],
        &["run", "--", "no such program"],
        &["run", "--env", "none", "--", "true"],
        &["secret", "show", "TOKEN", "--reveal"],
        &["env", "--format", "none"],
        &["dataset", "create", "flowers", "none"],
        &["whoami"],
    ] {
        hunt.run(words);
    }
    // Whoever listens is gone, or has no room for it.
    for (script, of) in [("exec >&-", "TOKEN"), ("exec >/dev/full", "TOKEN"), ("exec 2>&-", "NONE")]
    {
        let script =
            format!("{script}; \"$0\" env --format json; \"$0\" secret show {of} --reveal");
        let words = ["-c", &script, env!("CARGO_BIN_EXE_atelier")];
        let output = hunt.place.home.program("sh", words).output().unwrap();
        let output = if of == "NONE" { Output { stdout: Vec::new(), ..output } } else { output };
        assert!(!stderr(&output).contains("panicked"), "{output:?}");
        hunt.heard.push((script, output));
    }
    until("the log tells of requests", || log(&hunt.place).contains("DEBUG"));
    // A file that is damaged, and no key any more.
    let script = "sqlite3 .local/share/atelier/catalog.db \
                  \"UPDATE environment SET body = replace(body, 'A', 'B')\"";
    let damaged = hunt.place.home.program("sh", ["-c", script]).output().unwrap();
    assert!(damaged.status.success(), "{}{}", stdout(&damaged), stderr(&damaged));
    hunt.run(&["run", "--", "true"]);
    let kept = fs::read(&hunt.keys).unwrap();
    fs::write(&hunt.keys, [b"no key: ", &kept[..]].concat()).unwrap();
    hunt.run(&["run", "--", "true"]);
    hunt.run(&["s3", "test", "raw"]);
    assert!(hunt.heard.iter().filter(|(_, output)| !output.status.success()).count() >= 6);
    // It ends badly; what it leaves is looked at, too.
    kill_process(hunt.place.server(), Signal::ABORT).unwrap();
    until("it has ended", || log(&hunt.place).len() > 1 && is_dead(&hunt.place.dir));
    hunt.run(&["status"]);
    hunt.run(&["unmount", &dir]);
    hunt.look_everywhere();
}

/// Whether whoever served a mount has ended.
fn is_dead(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_err_and(|error| error == rustix::io::Errno::NOTCONN)
}

#[test]
fn who_wants_a_secret_in_a_debugger_s_print_finds_a_mask() {
    let (value, credentials, identities) = secrets();
    let printed = format!("{value:?} {credentials:?} {identities:?} {value:#?} {credentials:#?}");
    assert!(CANARIES.iter().all(|canary| !printed.contains(canary)), "{printed}");
    assert!(printed.contains("***") && !printed.contains("AGE-SECRET"), "{printed}");
}

/// A secret, the key of a bucket and a user's identities, as the program has them in memory.
fn secrets() -> (Value, Credentials, Identities) {
    let value = Value::new(CANARIES[0].as_bytes().to_vec());
    let credentials = Credentials::Static {
        key_id: "K".into(),
        secret: CANARIES[1].into(),
        token: Some(CANARIES[2].into()),
    };
    let home = Home::new();
    let identities = Identities::load(&home.path(".config/sops/age/keys.txt")).unwrap();
    (value, credentials, identities)
}

#[test]
fn who_wants_a_secret_in_a_panic_finds_a_mask() {
    // What `unwrap`, `expect` and `assert_eq!` print when they fail.
    let panics: [fn(); 4] = [
        || black_box(Err(secrets())).unwrap(),
        || black_box(Ok(secrets())).unwrap_err(),
        || assert_eq!(secrets().0, Value::new(CANARIES[1].as_bytes().to_vec())),
        || {
            let mut environment = OpenEnvironment::create("project").unwrap();
            environment.set("TOKEN", secrets().0).unwrap();
            panic!("{environment:?}");
        },
    ];
    for panic in panics {
        let payload = std::thread::spawn(panic).join().unwrap_err();
        let said = payload.downcast_ref::<String>().unwrap();
        assert!(said.contains("***"), "{said}");
        let tells = CANARIES.iter().any(|canary| said.contains(canary));
        assert!(!tells && !said.contains("AGE-SECRET"), "{said}");
    }
}

/// The kernel's pattern for cores, which leads to a directory of ours as long as this is there.
struct Cores {
    dir: tempfile::TempDir,
    before: String,
}

impl Cores {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";

    fn caught() -> Self {
        let (dir, before) = (tempfile::tempdir().unwrap(), fs::read_to_string(Self::PATTERN));
        let before = before.unwrap();
        fs::write(Self::PATTERN, format!("{}/core.%p", dir.path().display())).unwrap();
        Self { dir, before }
    }

    /// The cores that were left.
    fn left(&self) -> Vec<Vec<u8>> {
        let files = fs::read_dir(self.dir.path()).unwrap();
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATTERN, &self.before);
    }
}

/// An editor that ends the process that called it by a signal. Rust's own handler takes the first
/// SEGV and BUS for the end of a stack, and looks again.
const KILLS: &str = "#!/bin/sh\np=$PPID\n\
    while [ \"$(cat /proc/$p/comm)\" != atelier ]; do\n\
    \x20 p=$(sed -n 's/^PPid:[^0-9]*//p' /proc/$p/status)\ndone\n\
    grep -q canary-value \"$1\" || exit\n\
    for again in 1 2 3; do kill -$SIGNAL $p 2>/dev/null; sleep 0.1; done\n";

#[test]
fn who_wants_a_secret_in_a_core_gets_no_core() {
    if !root::is_here() {
        return;
    }
    let cores = Cores::caught();
    let mut control = Command::new("sh");
    control.args(["-c", "ulimit -c unlimited; kill -SEGV $$"]).env("TOKEN", CANARIES[0]);
    assert!(!control.status().unwrap().success());
    let left = cores.left();
    let tells = |core: &Vec<u8>| core.windows(12).any(|part| part == &CANARIES[0].as_bytes()[..12]);
    // Else nothing would be looked at.
    assert!(left.len() == 1 && left.iter().all(tells), "{} cores", left.len());

    let mut hunt = Hunt::new();
    hunt.set("TOKEN", CANARIES[0]);
    let editor = hunt.place.home.path("editor");
    fs::write(&editor, KILLS).unwrap();
    fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for signal in ["SEGV", "ABRT", "BUS", "ILL", "SYS"] {
        let script = "ulimit -c unlimited; exec \"$0\" secret edit";
        let words = ["-c", script, env!("CARGO_BIN_EXE_atelier")];
        let mut edit = hunt.place.home.program("sh", words);
        let output = edit.env("VISUAL", "./editor").env("SIGNAL", signal).output().unwrap();
        assert!(output.status.code().is_none(), "{signal}: {output:?}");
        hunt.heard.push((signal.to_owned(), output));
    }
    let script = "ulimit -c unlimited; exec \"$0\" mount lab/cats/tabby \"$1\"";
    let words = ["-c", script, env!("CARGO_BIN_EXE_atelier"), hunt.place.dir()];
    assert!(hunt.place.home.program("sh", words).status().unwrap().success());
    let server = hunt.place.server();
    until("it has ended", || {
        let _ = kill_process(server, Signal::SEGV);
        is_dead(&hunt.place.dir)
    });
    assert_eq!(cores.left().len(), 1, "only that of the shell");
    hunt.run(&["dataset", "list"]);
    hunt.look_everywhere();
    // What the killed ones left in memory is wiped by the next one.
    let script = "exec \"$0\" secret edit";
    let words = ["-c", script, env!("CARGO_BIN_EXE_atelier")];
    let mut edit = hunt.place.home.program("sh", words);
    assert!(edit.env("VISUAL", "true").status().unwrap().success());
    for entry in walkdir::WalkDir::new("/dev/shm").into_iter().flatten() {
        if entry.file_type().is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            hunt.assert_nothing(&entry.path().display().to_string(), &bytes);
        }
    }
}
