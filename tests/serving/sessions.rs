//! The mounts of versions inside a project's: for whom there are some, and what they cost.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::process::{Command, Output};

use atelier::fuse::mounts;

use super::fill;
use crate::support::home::Home;
use crate::support::place::{Place, until};
use crate::support::root;

const FILES: usize = 20;

/// Nobody, as Linux has it.
const USER: u32 = 65534;

/// Runs a program as an ordinary user.
fn by_user(home: &Home, words: &[&str]) -> Output {
    let id = USER.to_string();
    let program = ["--reuid", &id, "--regid", &id, "--clear-groups", "--"];
    home.program("setpriv", program.iter().chain(words)).output().unwrap()
}

/// Where there are mounts at a place and in it.
fn mounted(place: &Place) -> Vec<String> {
    let all = mounts::all().unwrap().into_iter().map(|mounted| mounted.mount_point);
    let inside = all.filter_map(|at| Some(at.strip_prefix(&place.dir).ok()?.to_owned()));
    let mut inside: Vec<_> = inside.map(|at| at.to_str().unwrap().to_owned()).collect();
    inside.sort();
    inside
}

fn expect(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What an ordinary user does; it prints where there are mounts then.
const BY_USER: &str = "\
    trap '\"$0\" unmount \"$1\"' EXIT\n\
    \"$0\" init\n\
    \"$0\" org create lab\n\
    \"$0\" project create 'lab/lab Team/tabby'\n\
    \"$0\" dataset create photos photos\n\
    \"$0\" mount \"$1\"\n\
    diff -r photos \"$1/datasets/photos\"\n\
    if touch \"$1/datasets/photos/new\" 2>touched; then exit 1; fi\n\
    grep -q 'Read-only file system' touched\n\
    grep fuse.atelier /proc/self/mounts\n";

#[test]
fn an_ordinary_user_gets_the_same_from_one_mount() {
    if !root::is_here() {
        return;
    }
    let place = Place::of(Home::empty());
    let home = &place.home;
    fill(home, FILES);
    expect(home.program("chown", ["-R", &USER.to_string(), "."]).output().unwrap());
    // The device may be closed to users: in a place of their own there is one that isn't.
    let open = "mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && exec \"$@\"";
    let user = USER.to_string();
    let words = ["--mount", "sh", "-c", open, "sh"];
    let words = words.into_iter().chain(["setpriv", "--reuid", &user, "--regid", &user]);
    let words = words.chain(["--clear-groups", "sh", "-ec", BY_USER]);
    let words = words.chain([env!("CARGO_BIN_EXE_atelier"), place.dir()]);
    let mounts = expect(home.program("unshare", words).output().unwrap());
    // Those of others were there before.
    let below_home = format!(" {}/", home.path("").display()).replace("//", "/");
    let is_ours = |line: &&str| line.contains("fuse.atelier") && line.contains(&below_home);
    let ours = mounts.lines().filter(is_ours).count();
    assert_eq!(ours, 1, "{mounts}");
}

#[test]
fn others_enter_the_mounts_inside_where_they_enter_the_project() {
    if !root::is_here() {
        return;
    }
    let place = Place::new();
    fill(&place.home, FILES);
    place.home.ok(["dataset", "create", "photos", "photos"]);
    place.home.ok(["member", "add", "nobody", "--role", "developer", "--on", "cats/tabby"]);
    place.home.ok(["member", "map", "nobody", &USER.to_string()]);
    fs::set_permissions(place.home.path(""), Permissions::from_mode(0o755)).unwrap();
    let dataset = place.dir.join("datasets/photos");
    let diff = ["diff", "-r", "photos", dataset.to_str().unwrap()];
    for (options, enters) in [("allow_other", true), ("ro", false)] {
        place.home.ok(["mount", "-o", options, place.dir()]);
        assert_eq!(mounted(&place), ["", "checkpoints", "datasets"]);
        assert_eq!(by_user(&place.home, &diff).status.success(), enters, "{options}");
        // Root is asked for in either case.
        expect(place.home.program(diff[0], &diff[1..]).output().unwrap());
        place.home.ok(["unmount", place.dir()]);
    }
}

/// What the mount has counted under a name.
fn counted(place: &Place, name: &str) -> u64 {
    place.home.json(["status", place.dir()])["report"]["metrics"][name].as_u64().unwrap()
}

/// Files in an order that is none, each once.
fn shuffled(files: usize) -> impl Iterator<Item = usize> {
    // 389 has no divisor in common with the number of files.
    (0..files).map(move |at| at * 389 % files)
}

#[test]
fn who_reads_many_files_is_given_their_neighbours_and_each_byte_is_right() {
    if !root::is_here() {
        return;
    }
    let place = Place::new();
    fill(&place.home, 400);
    place.home.ok(["dataset", "create", "photos", "photos"]);
    place.mount();
    let dataset = place.dir.join("datasets/photos");
    // As loaders do: names first.
    let listed = Command::new("find").arg(&dataset).args(["-name", "*.jpg"]).output().unwrap();
    assert_eq!(expect(listed).lines().count(), 400);
    for number in shuffled(400) {
        let name = format!("{}/{number:04}.jpg", number / 40);
        let read = fs::read(dataset.join(&name)).unwrap();
        assert!(read == fs::read(place.home.path("photos").join(&name)).unwrap(), "{name}");
    }
    until("something was given", || counted(&place, "fuse_pushed_bytes_total") > 0);
    let same = Command::new("diff").arg("-r").args([place.home.path("photos"), dataset]).output();
    expect(same.unwrap());
}

#[test]
fn who_reads_here_and_there_is_given_whole_chunks() {
    if !root::is_here() {
        return;
    }
    let place = Place::new();
    let mut noise = vec![0; 8 << 20];
    getrandom::fill(&mut noise).unwrap();
    fs::create_dir(place.home.path("large")).unwrap();
    fs::write(place.home.path("large/noise"), &noise).unwrap();
    place.home.ok(["dataset", "create", "large", "large"]);
    place.mount();
    let file = fs::File::open(place.dir.join("datasets/large/noise")).unwrap();
    let mut page = [0; 4096];
    for number in shuffled(2048) {
        let at = number * 4096;
        file.read_exact_at(&mut page, at as u64).unwrap();
        assert!(page[..] == noise[at..at + 4096], "at {at}");
    }
    until("something was given", || counted(&place, "fuse_pushed_bytes_total") > 0);
    assert!(fs::read(place.dir.join("datasets/large/noise")).unwrap() == noise);
}

/// How much the process that serves holds, in KiB.
fn resident(place: &Place) -> u64 {
    let process = place.server().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// An inode number is a place in the version, so that nothing is kept of a file that was seen.
#[test]
fn a_walk_of_twenty_thousand_files_leaves_no_memory_taken() {
    if !root::is_here() {
        return;
    }
    let place = Place::new();
    for number in 0..20_000 {
        let dir = place.home.path(format!("many/{:03}", number / 200));
        if number % 200 == 0 {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write(dir.join(format!("{number:05}.txt")), number.to_string()).unwrap();
    }
    place.home.ok(["dataset", "create", "many", "many"]);
    place.mount();
    let dataset = place.dir.join("datasets/many");
    assert_eq!(fs::read_dir(&dataset).unwrap().count(), 100);
    let before = resident(&place);
    let count = "find \"$0\" -type f -size -2 | wc -l";
    let found = Command::new("sh").args(["-c", count]).arg(&dataset).output().unwrap();
    assert_eq!(expect(found).trim(), "20000");
    let grown = resident(&place).saturating_sub(before);
    // Its listings are kept: a mebibyte. A table of what was seen would take several.
    assert!(grown < 8 << 10, "{grown} KiB");
}
