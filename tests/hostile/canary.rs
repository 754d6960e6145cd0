//! Somebody who wants a secret from whatever the program leaves behind or shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::{stderr, stdout};
use crate::support::home::Home;
use crate::support::moto::Moto;
use crate::support::place::{Place, until};
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
        &["env", "--format", "none"],
        &["dataset", "create", "flowers", "none"],
        &["whoami"],
    ] {
        hunt.run(words);
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
    rustix::process::kill_process(hunt.place.server(), rustix::process::Signal::ABORT).unwrap();
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
    let value = atelier::secret::Value::new(CANARIES[0].as_bytes().to_vec());
    let credentials = atelier::object::s3::Credentials::Static {
        key_id: "K".into(),
        secret: CANARIES[1].into(),
        token: Some(CANARIES[2].into()),
    };
    let home = Home::new();
    let keys = home.path(".config/sops/age/keys.txt");
    let identities = atelier::secret::identity::Identities::load(&keys).unwrap();
    let printed = format!("{value:?} {credentials:?} {identities:?} {value:#?} {credentials:#?}");
    assert!(CANARIES.iter().all(|canary| !printed.contains(canary)), "{printed}");
    assert!(printed.contains("***") && !printed.contains("AGE-SECRET"), "{printed}");
}
