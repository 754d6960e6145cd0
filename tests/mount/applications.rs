//! Programs that people use every day work in `files/` as they do on a disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use atelier::tree::local::LocalTree;

use super::{Mount, limited};

/// More than anything here needs, in bytes.
const LIMIT: u64 = 1 << 40;

/// A project's storage, mounted.
fn storage() -> Mount {
    Mount::new(|dir| Arc::new(LocalTree::open(dir).expect("a local tree")))
}

/// Runs a command in a folder, which has to succeed, and returns its standard output.
fn run(dir: &Path, command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}: scripts/setup installs it", command[0]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn path_of(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}

/// fsx reads, writes, maps, truncates and punches at random and compares with what it remembers.
#[test]
fn the_file_system_exerciser_finds_no_difference_in_20_000_operations() {
    let project = storage();
    let exerciser = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/bin/fsx");
    assert!(Path::new(exerciser).exists(), "fsx isn't built: scripts/test builds it");
    let artifacts = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = path_of(artifacts.path());
    run(&project.path(""), &[exerciser, "-q", "-N", "20000", "-S", "7", "-P", dir, "exercised"]);
}

/// What is counted of a file is its length, whatever was done to it.
#[test]
fn the_file_system_exerciser_leaves_the_room_counted_right() {
    let exerciser = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/bin/fsx");
    assert!(Path::new(exerciser).exists(), "fsx isn't built: scripts/test builds it");
    let artifacts = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = path_of(artifacts.path());
    let project = limited(LIMIT);
    // A round's file stays, and the next one begins by cutting it.
    for seed in ["1", "2", "3"] {
        let arguments = ["-q", "-N", "4000", "-S", seed, "-P", dir, "exercised"];
        run(&project.path(""), &[&[exerciser], &arguments[..]].concat());
        let space = rustix::fs::statvfs(project.path("")).unwrap();
        let len = fs::metadata(project.path("exercised")).unwrap().len();
        let used = LIMIT - space.f_bfree * space.f_frsize;
        assert_eq!(used, len.next_multiple_of(space.f_frsize), "after seed {seed}");
    }
}

#[test]
fn git_clones_commits_packs_and_finds_its_repository_whole() {
    let project = storage();
    let files = project.path("");
    let origin = tempfile::tempdir().expect("a temporary folder can be made");
    let git = |dir: &Path, arguments: &[&str]| {
        let identity = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"];
        run(dir, &[&identity, arguments].concat())
    };
    git(origin.path(), &["init", "--quiet", "--initial-branch=main"]);
    for commit in 0..5 {
        for file in 0..60 {
            let dir = origin.path().join(format!("folder-{}", file % 7));
            fs::create_dir_all(&dir).unwrap();
            let text = format!("line {file}\n").repeat(file * 20 + commit);
            fs::write(dir.join(format!("{file}.txt")), text).unwrap();
        }
        git(origin.path(), &["add", "--all"]);
        git(origin.path(), &["commit", "--quiet", "--message", &format!("state {commit}")]);
    }

    git(&files, &["clone", "--quiet", "--no-local", path_of(origin.path()), "clone"]);
    let clone = files.join("clone");
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    fs::write(clone.join("folder-0/new.txt"), "new\n").unwrap();
    git(&clone, &["add", "--all"]);
    git(&clone, &["commit", "--quiet", "--message", "written through the mount"]);
    git(&clone, &["gc", "--quiet"]);
    git(&clone, &["fsck", "--full", "--strict"]);
    git(&clone, &["push", "--quiet", "origin", "HEAD:refs/heads/back"]);
    git(origin.path(), &["diff", "--quiet", "back", "main", "--", "folder-1"]);
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
}

/// The write-ahead log needs shared memory mappings and byte-range locks between processes.
#[test]
fn sqlite_keeps_a_database_with_a_write_ahead_log_and_several_writers() {
    let project = storage();
    let files = project.path("");
    let sqlite = |sql: &str| run(&files, &["sqlite3", "-cmd", ".timeout 20000", "numbers.db", sql]);
    assert_eq!(sqlite("PRAGMA journal_mode=wal; CREATE TABLE number (n, writer);"), "wal\n");
    let insert = |writer: usize| {
        let row = |n: usize| format!("INSERT INTO number VALUES ({n}, {writer});");
        let batch = |first: usize| {
            let rows = (first..first + 50).map(row).collect::<String>();
            format!("BEGIN IMMEDIATE; {rows} COMMIT;")
        };
        sqlite(&(0..10).map(|number| batch(number * 50)).collect::<String>());
    };
    thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || insert(writer));
        }
    });
    assert_eq!(sqlite("SELECT count(*), sum(n) FROM number;"), "2000|499000\n");
    sqlite("PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM number WHERE n % 3 = 0; VACUUM;");
    assert_eq!(sqlite("PRAGMA integrity_check;"), "ok\n");
}

#[test]
fn a_virtual_environment_installs_a_package_and_runs_it() {
    let project = storage();
    let files = project.path("");
    let wheels = tempfile::tempdir().expect("a temporary folder can be made");
    let wheel = r#"
import zipfile
info = "greeting-1.0.dist-info/"
with zipfile.ZipFile("greeting-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("greeting.py", "def main(): print('hello from the mount')\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\n"
                   "Root-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "entry_points.txt", "[console_scripts]\ngreet = greeting:main\n")
    wheel.writestr(info + "RECORD", "")
"#;
    run(wheels.path(), &["python3", "-c", wheel]);
    run(&files, &["python3", "-m", "venv", "env"]);
    let from = format!("--find-links={}", wheels.path().display());
    let install = ["env/bin/python", "-m", "pip", "install", "--quiet", "--no-index", &from];
    run(&files, &[&install[..], &["greeting"]].concat());
    assert_eq!(run(&files, &["env/bin/greet"]), "hello from the mount\n");
}

/// As vim does it: the old text is kept under another name until the new one is on the disk.
#[test]
fn an_editor_saves_by_backup_new_file_and_fsync() {
    let project = storage();
    let dir = project.path("");
    let (note, backup, swap) = (dir.join("note"), dir.join("note~"), dir.join(".note.swp"));
    fs::write(&note, "first\n").unwrap();
    fs::set_permissions(&note, fs::Permissions::from_mode(0o640)).unwrap();
    let reader = File::open(&note).unwrap();
    for round in 0..20 {
        let text = format!("round {round}\n");
        fs::write(&swap, &text).unwrap();
        fs::rename(&note, &backup).unwrap();
        let mut options = OpenOptions::new();
        let mut new = options.write(true).create_new(true).mode(0o600).open(&note).unwrap();
        new.write_all(text.as_bytes()).unwrap();
        new.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        new.sync_all().unwrap();
        File::open(&dir).and_then(|dir| dir.sync_all()).unwrap();
        fs::remove_file(&backup).unwrap();
        fs::remove_file(&swap).unwrap();
        assert_eq!(fs::read_to_string(&note).unwrap(), text);
        assert_eq!(fs::metadata(&note).unwrap().permissions().mode() & 0o777, 0o640);
    }
    assert_eq!(std::io::read_to_string(reader).unwrap(), "first\n");
    let left: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["note"]);
}

/// As most other editors and tools do it: a temporary file takes the place of the old one.
#[test]
fn an_editor_saves_by_renaming_over_while_a_reader_never_misses_the_file() {
    let project = storage();
    let (note, draft) = (project.path("").join("note"), project.path("").join("note.tmp"));
    fs::write(&note, "0".repeat(5000)).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..100 {
                let mut file = File::create(&draft).unwrap();
                file.write_all((round % 10).to_string().repeat(5000).as_bytes()).unwrap();
                file.sync_all().unwrap();
                drop(file);
                fs::rename(&draft, &note).unwrap();
            }
        });
        while !writer.is_finished() {
            let text = fs::read(&note).expect("the file is always there");
            assert_eq!(text.len(), 5000);
            assert!(text.iter().all(|byte| *byte == text[0]), "two states were mixed");
        }
    });
}
