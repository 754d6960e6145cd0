//! The quickstart ends with a mounted project, goes on where it was, and leaves nothing behind.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

/// A quickstart in a folder of its own, removed also when the test fails.
struct Quickstart {
    dir: tempfile::TempDir,
}

impl Quickstart {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("atelier-quickstart-").tempdir();
        Self { dir: dir.expect("a temporary folder can be made") }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn run(&self, options: &[&str]) -> Output {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/quickstart"));
        // What the test runner says of this package would make the script's own build compile
        // anew each dependency whose build script looks at such variables.
        for (name, _) in std::env::vars_os() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of| starts_with(&name, of)) {
                command.env_remove(name);
            }
        }
        command
            .arg("--dir")
            .arg(self.path())
            .args(options)
            .env("NO_COLOR", "1")
            .output()
            .expect("the script can be started")
    }

    /// Runs the script, which has to succeed, and returns what it said.
    fn succeed(&self, options: &[&str]) -> String {
        let output = self.run(options);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    /// The processes that serve this folder: the mount's and the object store's.
    fn processes(&self) -> Vec<Pid> {
        let name = self.path().to_string_lossy();
        let entries = fs::read_dir("/proc").expect("/proc is there").filter_map(Result::ok);
        entries
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
                let command = fs::read(entry.path().join("cmdline")).ok()?;
                String::from_utf8_lossy(&command).contains(&*name).then_some(pid)
            })
            .collect()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
        mounts.contains(&*self.path().to_string_lossy())
    }
}

/// The SHA-256 of each file below a directory, by its path there.
fn sums(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.expect("it lists"));
    let files = entries.filter(|entry| entry.file_type().is_file());
    let sums = files.map(|entry| {
        let below = entry.path().strip_prefix(dir).expect("it is below").to_owned();
        (below, Sha256::digest(fs::read(entry.path()).expect("it reads")).to_vec())
    });
    sums.collect()
}

fn starts_with(name: &OsStr, beginning: &str) -> bool {
    name.as_encoded_bytes().starts_with(beginning.as_bytes())
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        if self.path().exists() {
            self.run(&["--clean"]);
        }
    }
}

#[test]
fn the_quickstart_mounts_a_project_goes_on_after_a_crash_and_takes_all_away() {
    let quickstart = Quickstart::new();
    quickstart.succeed(&[]);
    let mount = quickstart.path().join("mount");
    let summary = fs::read_to_string(mount.join("files/summary.md")).expect("the notebook ran");
    assert!(summary.contains("handwritten digits: 1797"), "{summary}");
    assert!(mount.join("checkpoints/first/notebook.ipynb").is_file());
    let again = fs::read_to_string(mount.join("files/again.md")).expect("the second one ran");
    assert!(again.contains("1797 digits"), "{again}");
    assert!(mount.join("checkpoints/tour/variables/iris.pkl").is_file());
    assert!(!mount.join("checkpoints/tour/variables/token.pkl").exists(), "it is a secret");

    // As after a power cut: no process is left, only what is on the disk.
    for process in quickstart.processes() {
        let _ = kill_process(process, Signal::KILL);
    }
    let said = quickstart.succeed(&[]);
    assert!(said.contains("dataset sources: 7110 files: there already"), "{said}");
    let input = quickstart.path().join("input");
    assert_eq!(sums(&mount.join("datasets/samples")), sums(&input.join("samples")));
    assert_eq!(sums(&mount.join("datasets/sources")), sums(&input.join("sources")));
    assert_eq!(sums(&mount.join("s3/warehouse")), sums(&input));

    quickstart.succeed(&["--clean"]);
    assert!(!quickstart.is_mounted());
    assert_eq!(quickstart.processes(), []);
    assert!(!quickstart.path().exists());
}
