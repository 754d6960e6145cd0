//! `atelier gc`: what nobody needs goes, what somebody needs stays.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

#[test]
fn what_was_deleted_is_freed_after_its_grace() {
    let home = home();
    home.ok(["dataset", "create", "kept", "flowers"]);
    fill(&home, 1);
    home.ok(["dataset", "create", "flowers", "flowers"]);
    delete(&home, "flowers");
    let before = files(&home.atelier().join("store")).len();

    let would = home.json(["gc", "--dry-run", "--grace", "0s"]);
    assert!(would["freed_bytes"].as_u64().unwrap() > 3 << 20, "{would}");
    assert_eq!(files(&home.atelier().join("store")).len(), before, "it only tells");
    let waits = home.json(["gc"]);
    assert_eq!(waits["freed_objects"], 0, "{waits}");
    assert_eq!(waits["waiting_objects"], would["freed_objects"]);
    let told = home.run(["gc", "--grace", "0s"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stderr.contains("freed: 3 objects, 3."), "{}", told.stderr);
    assert_eq!(files(&home.atelier().join("store")).len(), before - 3);
    home.ok(["dataset", "verify", "kept"]);
    let shown = home.json(["store", "show"]);
    assert_eq!((&shown["objects"], &shown["unused_objects"]), (&3.into(), &0.into()));
    assert_eq!(home.json(["gc", "--grace", "0s"])["freed_objects"], 0);
}

#[test]
fn the_same_content_can_be_taken_in_after_it_was_collected() {
    let home = home();
    for _ in 0..3 {
        home.ok(["dataset", "create", "flowers", "flowers"]);
        home.ok(["dataset", "verify", "flowers"]);
        delete(&home, "flowers");
        assert_eq!(home.json(["gc", "--grace", "0s"])["freed_objects"], 3);
    }
    assert!(files(&home.atelier().join("store/packs")).is_empty());
}

#[test]
fn checkpoints_that_are_dropped_are_freed() {
    let home = Home::with_project();
    home.ok(["project", "show"]);
    let project = home.json(["project", "show"])["id"].as_str().map(str::to_owned);
    let dir = match project {
        Some(id) => home.atelier().join("projects").join(id).join("files"),
        None => panic!("a project has an id"),
    };
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.ipynb"), r#"{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}"#)
        .unwrap();
    for _ in 0..12 {
        fs::write(dir.join("data"), noise(5000)).unwrap();
        home.ok(["checkpoint", "create", "--notebook", "files/a.ipynb"]);
    }
    let done = home.json(["gc", "--grace", "0s"]);
    assert_eq!(done["freed_objects"], 6, "two of twelve were dropped: {done}");
    home.ok(["store", "verify"]);
}

#[test]
fn what_is_left_of_a_pack_that_is_mostly_dead_is_written_anew() {
    let home = home();
    fs::write(home.path("flowers/red/tulip.bin"), noise(700_000)).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fs::remove_file(home.path("flowers/large.bin")).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["dataset", "create", "copy", "flowers"]);
    home.ok(["dataset", "delete", "flowers@1"]);
    let would = home.json(["gc", "--dry-run", "--grace", "0s"]);
    assert_eq!(would["rewritten_packs"], 1, "{would}");
    let done = home.json(["gc", "--grace", "0s"]);
    assert_eq!(done["rewritten_packs"], 1, "{done}");
    assert!(done["freed_bytes"].as_u64().unwrap() > 3 << 20, "{done}");
    assert!(done["kept_bytes"].as_u64().unwrap() < 1 << 20, "{done}");
    home.ok(["store", "verify"]);
    home.ok(["dataset", "verify", "flowers@2"]);
    home.ok(["dataset", "verify", "copy"]);
    assert_eq!(home.json(["gc", "--grace", "0s"])["rewritten_packs"], 0);
    let again = home.run(["dataset", "create", "flowers", "flowers"]);
    assert!(again.stderr.contains("unchanged: flowers is still version 2"), "{again:?}");
}

/// A writer that is stopped for longer than its lease and its grace publishes what is right, or
/// says that it has to be done again.
#[test]
fn a_writer_that_slept_through_a_collection_is_right_or_does_it_again() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    for delay in [120, 250, 500] {
        fill(&home, 1);
        let mut child = home
            .command(["--lease", "1s", "dataset", "create", "slow", "flowers"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(delay));
        let process = Pid::from_child(&child);
        // Whoever is stopped in the middle of a change of the catalogue keeps all others waiting.
        loop {
            kill_process(process, Signal::STOP).unwrap();
            thread::sleep(Duration::from_millis(2100));
            if collects_soon(&home) && collects_soon(&home) {
                break;
            }
            kill_process(process, Signal::CONT).unwrap();
            thread::sleep(Duration::from_millis(3));
        }
        kill_process(process, Signal::CONT).unwrap();
        if !child.wait().unwrap().success() {
            home.ok(["dataset", "create", "slow", "flowers"]);
        }
        home.ok(["store", "verify"]);
        delete(&home, "slow");
    }
}

fn collects_soon(home: &Home) -> bool {
    let mut child = home
        .command(["gc", "--grace", "0s"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..100 {
        if let Some(ended) = child.try_wait().unwrap() {
            return ended.success();
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn collecting_in_a_loop_harms_nobody_who_writes() {
    let home = home();
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            for _ in 0..12 {
                home.ok(["gc", "--grace", "0s"]);
            }
        });
        let mut round = 1;
        while !collector.is_finished() {
            let name = format!("flowers-{}", round % 3);
            fs::write(home.path("flowers/red/rose.bin"), noise(60_000)).unwrap();
            home.ok(["dataset", "create", &name, "flowers"]);
            home.ok(["dataset", "verify", &name]);
            if round % 3 == 0 {
                delete(&home, &name);
            }
            round += 1;
        }
    });
    home.ok(["store", "verify"]);
}

/// `kill -9` at any moment of `create` and `gc` leaves a whole store.
#[test]
fn killed_writers_and_collectors_leave_a_whole_store() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    for round in 1..=10_u8 {
        fill(&home, round);
        let name = format!("flowers-{}", round % 2);
        let kill = |args: &[&str], delay: u64| {
            let mut child =
                home.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(delay));
            child.kill().unwrap();
            child.wait().unwrap();
        };
        kill(&["dataset", "create", &name, "flowers"], 17 * u64::from(round));
        kill(&["gc", "--grace", "0s"], 9 * u64::from(round));
        home.ok(["store", "verify"]);
        home.ok(["dataset", "create", &name, "flowers"]);
        home.ok(["dataset", "verify", &name]);
        delete(&home, &name);
    }
    home.ok(["gc", "--grace", "0s"]);
    let left = home.json(["store", "show"]);
    assert_eq!((&left["objects"], &left["unused_objects"]), (&3.into(), &0.into()));
    home.ok(["store", "verify"]);
}
