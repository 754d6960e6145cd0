//! `atelier dataset init`: a command fills a dataset, or nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

use atelier::fuse::mounts;
use rustix::process::{Pid, Signal};

use crate::support::home::{Ended, Home};
use crate::support::place::until;

/// A home with a project and a script in it.
fn home(script: &str) -> Home {
    let home = Home::with_project();
    fs::write(home.path("fill.sh"), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(home.path("fill.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    home
}

fn init(home: &Home, size: &str) -> Ended {
    home.run(["dataset", "init", "photos", "--size", size, "--", "./fill.sh", "an argument"])
}

/// Runs the script in the background and waits until it has made the file `ready` in the home.
fn started(home: &Home) -> Child {
    let words = ["dataset", "init", "photos", "--size", "1MiB", "--", "./fill.sh"];
    let child = home.command(words).stderr(Stdio::null()).spawn().unwrap();
    until("the command runs", || home.path("ready").exists());
    child
}

fn mounted(home: &Home) -> Vec<PathBuf> {
    let drafts = home.atelier().canonicalize().unwrap().join("drafts");
    let all = mounts::all().unwrap().into_iter().map(|mounted| mounted.mount_point);
    all.filter(|place| place.starts_with(&drafts)).collect()
}

#[track_caller]
fn nothing_is_left(home: &Home) {
    assert_eq!(mounted(home), Vec::<PathBuf>::new());
    let drafts = fs::read_dir(home.atelier().join("drafts"));
    assert_eq!(drafts.map_or(0, Iterator::count), 0);
}

#[track_caller]
fn nothing_is_made(home: &Home) {
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
    nothing_is_left(home);
}

#[test]
fn what_a_command_writes_is_the_dataset() {
    let home = home(
        "set -e\n\
         cd \"$ATELIER_DATASET\"\n\
         mkdir -p cats/tabby empty\n\
         head -c 300000 /dev/urandom > cats/tabby/1.jpg\n\
         ln cats/tabby/1.jpg cats/again.jpg\n\
         ln -s cats/tabby link\n\
         echo \"$1\" > note && chmod 750 note\n\
         touch -d 2001-02-03T04:05:06Z note",
    );
    let made = init(&home, "1MiB");
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stderr.contains("dataset photos@1 made: 3 files"), "{made:?}");
    nothing_is_left(&home);
    let shown = home.json(["dataset", "show", "photos"]);
    assert_eq!(shown["init"]["command"], serde_json::json!(["./fill.sh", "an argument"]));
    assert_eq!(shown["init"]["script"]["path"], "./fill.sh");
    let text = home.ok(["dataset", "show", "photos"]);
    assert!(text.contains("init code:") && text.contains("./fill.sh 'an argument'"), "{text}");
    assert!(text.contains("mkdir -p cats/tabby empty"), "{text}");
    home.ok(["dataset", "export", "photos", "out"]);
    assert_eq!(fs::read_to_string(home.path("out/note")).unwrap(), "an argument\n");
    let note = fs::metadata(home.path("out/note")).unwrap();
    assert_eq!(note.permissions().mode() & 0o777, 0o750);
    let since = note.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 981_173_106);
    assert_eq!(
        fs::read(home.path("out/cats/again.jpg")).unwrap(),
        fs::read(home.path("out/cats/tabby/1.jpg")).unwrap()
    );
    assert!(home.path("out/empty").is_dir() && home.path("out/link").is_symlink());
    home.ok(["dataset", "verify", "photos"]);
    // What is made in the usual way is the next version, and keeps the init code.
    home.ok(["dataset", "create", "photos", "out/cats"]);
    assert_eq!(home.json(["dataset", "show", "photos"])["init"], shown["init"]);
}

#[test]
fn there_is_no_room_past_the_size() {
    let home = home("exec python3 fill.py");
    fs::write(
        home.path("fill.py"),
        "import errno, os\n\
         top = os.environ['ATELIER_DATASET']\n\
         def free():\n\
         \x20   space = os.statvfs(top)\n\
         \x20   assert space.f_blocks * space.f_frsize == 2 << 20\n\
         \x20   return space.f_bavail * space.f_frsize\n\
         def full(write):\n\
         \x20   try: write()\n\
         \x20   except OSError as e: assert e.errno == errno.ENOSPC, e\n\
         \x20   else: raise SystemExit('it is written past the end')\n\
         assert free() == 2 << 20\n\
         f = os.open(top + '/a', os.O_RDWR | os.O_CREAT)\n\
         for n in range(32): assert os.pwrite(f, bytes([n]) * 65536, n * 65536) == 65536\n\
         assert free() == 0\n\
         full(lambda: os.pwrite(f, b'x', 2 << 20))\n\
         full(lambda: os.ftruncate(f, (2 << 20) + 1))\n\
         b = os.open(top + '/b', os.O_RDWR | os.O_CREAT)\n\
         full(lambda: os.write(b, b'x'))\n\
         full(lambda: os.posix_fallocate(b, 0, 1))\n\
         assert os.pwrite(f, b'over', 0) == 4\n\
         assert os.pread(f, 65536, 31 * 65536) == b'\\x1f' * 65536\n\
         os.ftruncate(f, 1 << 20)\n\
         assert free() == 1 << 20\n\
         assert os.write(b, b'b' * (1 << 20)) == 1 << 20\n\
         os.rename(top + '/b', top + '/a')\n\
         full(lambda: os.pwrite(b, b'x', 1 << 20))\n\
         os.close(f)\n\
         assert os.pwrite(b, b'x', 1 << 20) == 1\n",
    )
    .unwrap();
    let made = init(&home, "2MiB");
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stderr.contains("warning: 2.00 MiB were full for a while"), "{made:?}");
    let shown = home.json(["dataset", "show", "photos"]);
    assert_eq!((&shown["files"], &shown["bytes"]), (&1.into(), &((1 << 20) + 1).into()));
    nothing_is_left(&home);
}

#[test]
fn a_command_that_fails_leaves_nothing() {
    let home = home(
        "mkdir $ATELIER_DATASET/dir\n\
         echo x > $ATELIER_DATASET/dir/file\n\
         chmod 0 $ATELIER_DATASET/dir\n\
         case \"$1\" in signal) kill -KILL $$;; esac\n\
         exit 7",
    );
    let failed = init(&home, "1MiB");
    assert_eq!(failed.code, 7);
    let said = failed.expect_failure();
    assert!(said.contains("photos isn't made: the command ended with exit status: 7"), "{said}");
    let run = |words: &[&str]| {
        let before = ["dataset", "init", "photos", "--size", "1MiB", "--"];
        home.run(before.iter().chain(words))
    };
    assert_eq!(run(&["./fill.sh", "signal"]).code, 137);
    assert_eq!(run(&["./none"]).code, 127);
    assert_eq!(run(&["/dev/null"]).code, 126);
    let nothing = run(&["true"]);
    assert_eq!(nothing.code, 2);
    assert!(nothing.stderr.contains("wrote no files into $ATELIER_DATASET"), "{nothing:?}");
    let too_much = run(&["sh", "-c", "head -c 2000000 /dev/zero > $ATELIER_DATASET/zero"]);
    assert_eq!(too_much.code, 1);
    assert!(too_much.stderr.contains("hint: it wrote more than 1.00 MiB"), "{too_much:?}");
    nothing_is_made(&home);
}

#[test]
fn what_can_be_refused_is_refused_before_the_command_runs() {
    let home = home("touch ran; echo x > $ATELIER_DATASET/file");
    fs::create_dir(home.path("source")).unwrap();
    fs::write(home.path("source/file"), "x").unwrap();
    assert!(init(&home, "0").expect_failure().contains("no bytes"));
    home.ok(["dataset", "create", "photos", "source"]);
    let taken = init(&home, "1MiB").expect_failure();
    assert!(taken.contains("dataset photos is there already"), "{taken}");
    assert!(taken.contains("hint: `atelier dataset create photos DIR`"), "{taken}");
    home.ok(["project", "set", "--active-datasets", "1"]);
    let command = ["--size", "1MiB", "--", "./fill.sh"];
    let more = home.fails(["dataset", "init", "more"].iter().chain(&command));
    assert!(more.contains("1 active dataset, and has photos"), "{more}");
    home.fails(["dataset", "init", "Photos!"].iter().chain(&command));
    assert!(!home.path("ran").exists());
    nothing_is_left(&home);
}

#[test]
fn a_killed_init_is_cleared_away_by_the_next_command() {
    for next in [&["dataset", "list"][..], &["gc"]] {
        let home = home(
            "echo x > $ATELIER_DATASET/file\n\
             touch ready\n\
             while echo y >> $ATELIER_DATASET/file; do sleep 0.05; done\n\
             touch ended",
        );
        let mut child = started(&home);
        assert_eq!(mounted(&home).len(), 1);
        // Not while it lives.
        home.ok(["dataset", "list"]);
        assert_eq!(mounted(&home).len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        until("the command gets errors", || home.path("ended").exists());
        home.ok(next);
        nothing_is_made(&home);
    }
}

/// At whatever point `atelier` is killed: before the command, in it, or while its files are taken in.
/// `$ATELIER_TEST_KILLS` sets how often, 6 times if it isn't set.
#[test]
fn whenever_it_is_killed_the_dataset_is_whole_or_there_is_none() {
    let kills = std::env::var("ATELIER_TEST_KILLS").map_or(6, |kills| kills.parse().unwrap());
    let script = "cd \"$ATELIER_DATASET\" && for n in 1 2 3 4 5 6 7 8 9; do\n\
                  head -c 100000 /dev/urandom > $n || exit 1\n\
                  done";
    let undisturbed = home(script);
    let start = Instant::now();
    assert_eq!(init(&undisturbed, "1MiB").code, 0);
    let takes = start.elapsed();
    for kill in 0..kills {
        let home = home(script);
        let words = ["dataset", "init", "photos", "--size", "1MiB", "--", "./fill.sh"];
        let mut child = home.command(words).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(takes * kill / kills);
        child.kill().unwrap();
        child.wait().unwrap();
        let listed = home.json(["dataset", "list"]);
        if listed != serde_json::json!([]) {
            assert_eq!((&listed[0]["files"], &listed[0]["bytes"]), (&9.into(), &900_000.into()));
            home.ok(["dataset", "verify", "photos"]);
        }
        nothing_is_left(&home);
        home.ok(["gc", "--grace", "0s"]);
        home.ok(["store", "verify"]);
    }
}

#[test]
fn signals_are_passed_on_and_the_command_decides() {
    let home = home(
        "trap 'exit 3' TERM\n\
         trap 'echo x > $ATELIER_DATASET/file; exit 0' HUP\n\
         touch ready\n\
         while :; do sleep 0.05; done",
    );
    for (signal, code) in [(Signal::TERM, 3), (Signal::HUP, 0)] {
        let mut child = started(&home);
        nothing_was_made_yet(&home);
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        fs::remove_file(home.path("ready")).unwrap();
    }
    assert_eq!(home.json(["dataset", "show", "photos"])["files"], 1);
    nothing_is_left(&home);
}

fn nothing_was_made_yet(home: &Home) {
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
}

#[test]
fn what_nohup_ignores_is_ignored() {
    let home = home(
        "touch ready\n\
         while [ ! -e go ]; do sleep 0.05; done\n\
         echo x > $ATELIER_DATASET/file",
    );
    let atelier = env!("CARGO_BIN_EXE_atelier");
    let ignoring = ["-c", "trap '' HUP; exec \"$@\"", "sh", atelier];
    let words = ["dataset", "init", "photos", "--size", "1MiB", "--", "./fill.sh"];
    let mut command = home.program("sh", ignoring.iter().chain(&words));
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    until("the command runs", || home.path("ready").exists());
    rustix::process::kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // It is on its way to the command now, if it is passed on.
    home.ok(["dataset", "list"]);
    fs::write(home.path("go"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(home.json(["dataset", "show", "photos"])["files"], 1);
}

#[test]
fn a_process_that_the_command_left_can_not_change_the_dataset() {
    let home = home(
        "echo one > $ATELIER_DATASET/file\n\
         (exec 3>>$ATELIER_DATASET/file; touch ready\n\
          while [ ! -e go ]; do sleep 0.05; done\n\
          echo two >&3; echo $? > wrote) > /dev/null 2>&1 &\n\
         while [ ! -e ready ]; do sleep 0.05; done",
    );
    let made = init(&home, "1MiB");
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stderr.contains("warning: the command left processes"), "{made:?}");
    fs::write(home.path("go"), "").unwrap();
    until("the process ends", || home.path("wrote").exists());
    home.ok(["dataset", "export", "photos", "out"]);
    assert_eq!(fs::read_to_string(home.path("out/file")).unwrap(), "one\n");
    until("it has said so", || fs::read(home.path("wrote")).unwrap().ends_with(b"\n"));
    assert_ne!(fs::read_to_string(home.path("wrote")).unwrap(), "0\n");
    nothing_is_left(&home);
}
