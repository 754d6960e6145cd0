//! What somebody tries who wants what isn't his: one file a theme, each test named by what he wants.
//!
//! Most of it takes root, to become several users: see `support/root.rs`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::home::Home;
use crate::support::place::Place;

mod access;
mod bucket;
mod canary;
mod control;
mod forgery;
mod grammar;
mod links;
mod process;
mod races;

/// Users of this machine, whom no account database needs to know.
const VIEWER: u32 = 64_001;
const DEVELOPER: u32 = 64_002;
const STRANGER: u32 = 64_003;

/// One whom the account database knows, which `fusermount3` asks for.
const NOBODY: u32 = 65_534;

/// Where programs are that every user may run.
const PATH: &str = "/usr/bin:/bin";

/// What a shell of another user does in a directory.
fn shell_of(home: &Home, uid: u32, dir: &Path, script: &str) -> Output {
    let uid = uid.to_string();
    let words = ["--reuid", &uid, "--regid", &uid, "--clear-groups", "sh", "-c"];
    // The directory is entered by him, too.
    let script = format!("cd \"$0\" && {{ {script}\n}}");
    let program = home.program("setpriv", words);
    within(program, &script).arg(dir).env("PATH", PATH).output().unwrap()
}

fn within(mut program: Command, script: &str) -> Command {
    program.arg(script);
    program
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    stdout(&output)
}

#[track_caller]
fn is_denied(output: Output) {
    assert!(!output.status.success(), "{output:?}");
    assert!(stderr(&output).contains("Permission denied"), "{output:?}");
}

/// A project with something of each kind, its home and place open to be passed through.
fn shared_place() -> Place {
    let place = Place::new();
    let home = &place.home;
    fs::create_dir(home.path("photos")).unwrap();
    fs::write(home.path("photos/cat.txt"), "a cat").unwrap();
    home.ok(["dataset", "create", "photos", "photos"]);
    assert_eq!(home.run_with(b"hunter2", ["secret", "set", "TOKEN"]).code, 0);
    for (user, role, uid) in [("vera", "viewer", VIEWER), ("dora", "developer", DEVELOPER)] {
        home.ok(["member", "add", user, "--role", role, "--on", "cats/tabby"]);
        home.ok(["member", "map", user, &uid.to_string()]);
    }
    fs::set_permissions(home.path(""), Permissions::from_mode(0o755)).unwrap();
    place
}

/// The same, mounted for others to enter.
fn shared_mount() -> Place {
    let place = shared_place();
    place.home.ok(["mount", "-o", "allow_other", "lab/cats/tabby", place.dir()]);
    fs::write(place.dir.join("files/notes"), "what we know").unwrap();
    fs::create_dir(place.dir.join("files/ours")).unwrap();
    fs::set_permissions(place.dir.join("files/ours"), Permissions::from_mode(0o1777)).unwrap();
    let his = place.dir.join("files/ours/his");
    fs::write(&his, "").unwrap();
    std::os::unix::fs::chown(&his, Some(VIEWER), Some(VIEWER)).unwrap();
    place
}
