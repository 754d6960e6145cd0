//! A project's files as one who mounts them has them: owned, limited, and in checkpoints that cost
//! what changed.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::home::Home;
use crate::support::place::{Place, until};
use crate::support::root;

const GIB: u64 = 1 << 30;

fn notebook(dir: &Path) {
    let notebook = json!({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []});
    fs::write(dir.join("files/train.ipynb"), notebook.to_string()).unwrap();
}

fn mounted() -> Place {
    let place = Place::new();
    place.mount();
    notebook(&place.dir);
    place
}

fn create(home: &Home) -> Value {
    home.json(["checkpoint", "create", "--notebook", "files/train.ipynb"])
}

/// The directory behind the mount.
fn backing(home: &Home) -> PathBuf {
    let project = home.json(["project", "show", "lab/cats/tabby"]);
    home.atelier().join("projects").join(project["id"].as_str().unwrap()).join("files")
}

fn kill(place: &Place) {
    let server = place.server();
    kill_process(server, Signal::KILL).unwrap();
    let process = format!("/proc/{}", server.as_raw_nonzero());
    until("it is gone", || !Path::new(&process).exists());
}

/// What a checkpoint has below its `files/`, by path; the mount shows it.
fn saved(place: &Place, id: &str) -> Vec<(PathBuf, Vec<u8>)> {
    contents(&place.dir.join("checkpoints").join(id).join("files"))
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = walkdir::WalkDir::new(dir)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let below = entry.path().strip_prefix(dir).unwrap().to_owned();
            (below, fs::read(entry.path()).unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_checkpoint_of_a_mounted_project_has_what_changed_and_what_did_not() {
    let place = mounted();
    let files = place.dir.join("files");
    fs::create_dir_all(files.join("src/deep")).unwrap();
    for number in 0..300 {
        fs::write(files.join(format!("src/{number}")), format!("{number}")).unwrap();
    }
    let first = create(&place.home);
    assert_eq!(first["files"], 301);
    fs::write(files.join("src/7"), "changed").unwrap();
    fs::remove_file(files.join("src/8")).unwrap();
    fs::rename(files.join("src"), files.join("code")).unwrap();
    fs::write(files.join("code/deep/new"), "new").unwrap();
    let second = create(&place.home);
    assert_eq!(second["files"], 301);
    until("the mount shows it", || place.dir.join("checkpoints/0002").exists());
    assert_eq!(saved(&place, "0002"), contents(&files));
    let told = fs::read(place.dir.join("checkpoints/0002/checkpoint.json")).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!((&told["files"], &told["bytes"]), (&second["files"], &second["bytes"]));
    // What was changed behind the mount's back takes a look at everything. Another mount has
    // written nothing down.
    place.home.ok(["unmount", place.dir()]);
    place.mount();
    create(&place.home);
    fs::write(backing(&place.home).join("code/9"), "behind").unwrap();
    create(&place.home);
    place.home.ok(["checkpoint", "create", "--notebook", "files/train.ipynb", "--rescan"]);
    until("the mount shows it", || place.dir.join("checkpoints/0005").exists());
    let has = |id: &str| fs::read(place.dir.join("checkpoints").join(id).join("files/code/9"));
    assert_eq!(has("0004").unwrap(), b"9");
    assert_eq!(has("0005").unwrap(), b"behind");
}

/// `kill -9` of the process that serves a mount, again and again while somebody writes: what the
/// next checkpoint has is what the files are.
#[test]
fn a_killed_mount_forgets_no_change() {
    let place = mounted();
    let files = backing(&place.home);
    fs::write(files.join("behind"), "written before the first checkpoint").unwrap();
    create(&place.home);
    for round in 1_u64..=6 {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let dir = place.dir.join("files");
                for number in 0_u64.. {
                    let name = dir.join(format!("{}", number % 23));
                    // Until the mount is gone each of these works, or fails for what it is.
                    let _ = match number % 5 {
                        0 => fs::remove_file(&name),
                        1 => fs::create_dir(dir.join(format!("d{}", number % 7))),
                        2 => fs::rename(&name, dir.join(format!("d{}/x", number % 7))),
                        _ => fs::write(&name, format!("{round} {number}")),
                    };
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            thread::sleep(Duration::from_millis(40 * round));
            if round % 2 == 0 {
                create(&place.home);
            }
            kill(&place);
            done.store(true, Ordering::Relaxed);
        });
        let id = create(&place.home)["id"].as_str().unwrap().to_owned();
        place.mount();
        until("it shows the checkpoint", || place.dir.join("checkpoints").join(&id).exists());
        assert_eq!(saved(&place, &id), contents(&files), "round {round}");
    }
}

/// `kill -9` of `checkpoint create` leaves the checkpoints that were there, or one more; what it
/// was about to save is in the next.
#[test]
fn a_killed_checkpoint_is_there_or_not_and_loses_nothing() {
    let place = mounted();
    let files = place.dir.join("files");
    for number in 0..200 {
        fs::write(files.join(format!("{number}")), vec![1; 3000]).unwrap();
    }
    create(&place.home);
    let mut known = 1;
    for round in 1_u64..=8 {
        fs::write(files.join(format!("{round}")), format!("round {round}")).unwrap();
        let mut child = place
            .home
            .command(["checkpoint", "create", "--notebook", "files/train.ipynb"])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(25 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let count = place.home.json(["checkpoint", "list"]).as_array().unwrap().len();
        assert!(count == known || count == known + 1, "{count} after {known}");
        known = count;
    }
    let id = create(&place.home)["id"].as_str().unwrap().to_owned();
    until("the mount shows it", || place.dir.join("checkpoints").join(&id).exists());
    assert_eq!(saved(&place, &id), contents(&files));
}

/// A writer that never stops doesn't keep a checkpoint from being made, and what is torn is named.
#[test]
fn a_file_that_never_rests_is_named_and_taken_once_it_does() {
    let place = mounted();
    let log = place.dir.join("files/log");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
            while !done.load(Ordering::Relaxed) {
                (&file).write_all(&[b'x'; 4096]).unwrap();
                if file.metadata().unwrap().len() > 64 << 20 {
                    file.set_len(0).unwrap();
                }
            }
        });
        until("it is written", || fs::metadata(&log).is_ok_and(|log| log.len() > 4 << 20));
        for _ in 0..3 {
            let made = place.home.run(["checkpoint", "create", "--notebook", "files/train.ipynb"]);
            assert!(made.code == 0, "{made:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
    let id = create(&place.home)["id"].as_str().unwrap().to_owned();
    until("the mount shows it", || place.dir.join("checkpoints").join(&id).exists());
    assert_eq!(saved(&place, &id), contents(&place.dir.join("files")));
}

#[test]
fn what_can_not_be_saved_is_named_by_each_checkpoint() {
    let place = mounted();
    let fifo = place.dir.join("files/pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for _ in 0..3 {
        let made = place.home.run(["checkpoint", "create", "--notebook", "files/train.ipynb"]);
        assert!(made.stderr.contains("left out: files/pipe"), "{made:?}");
    }
}

#[test]
fn a_limit_holds_to_the_byte_and_follows_what_is_decided() {
    let place = Place::new();
    for (wrong, complaint) in [
        ("0", "a quota is 1 to 4096 GiB"),
        ("4097GiB", "a quota is 1 to 4096 GiB"),
        ("1500MiB", "is no quota"),
        ("much", "is no quota"),
    ] {
        let said = place.home.fails(["project", "resize", wrong]);
        assert!(said.contains(complaint), "{wrong}: {said}");
    }
    assert_eq!(place.home.json(["project", "resize", "1GiB"])["quota_gib"], 1);
    place.mount();
    let files = place.dir.join("files");
    let file = File::create(files.join("large")).unwrap();
    file.set_len(GIB - 4).unwrap();
    file.write_all_at(b"1234", GIB - 4).unwrap();
    let full = file.write_all_at(b"5", GIB).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(fs::metadata(files.join("large")).unwrap().len(), GIB);
    let space = rustix::fs::statvfs(&files).unwrap();
    assert_eq!((space.f_blocks * space.f_frsize, space.f_bavail), (GIB, 0));

    // A mount that has a limit follows at once; what is there is never lost.
    place.home.ok(["project", "resize", "lab/cats/tabby", "2"]);
    until("there is more room", || file.write_all_at(b"5", GIB).is_ok());
    place.home.ok(["project", "resize", "1GiB"]);
    until("there is less", || {
        let more = file.write_all_at(b"678", GIB + 1);
        let full = more.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull);
        file.set_len(GIB + 1).unwrap();
        full
    });
    assert_eq!(fs::metadata(files.join("large")).unwrap().len(), GIB + 1);

    // What is deleted while it is open is counted until it is closed; a crash forgets that.
    fs::remove_file(files.join("large")).unwrap();
    assert_eq!(rustix::fs::statvfs(&files).unwrap().f_bavail, 0);
    drop(file);
    until("it is given back", || rustix::fs::statvfs(&files).unwrap().f_bavail > 0);
    fs::write(files.join("kept"), vec![1; 1 << 20]).unwrap();
    let gone = File::create(files.join("gone")).unwrap();
    gone.set_len(GIB - (2 << 20)).unwrap();
    fs::remove_file(files.join("gone")).unwrap();
    kill(&place);
    drop(gone);
    place.mount();
    let space = rustix::fs::statvfs(&files).unwrap();
    let used = (space.f_blocks - space.f_bavail) * space.f_frsize;
    assert_eq!(used, 1 << 20, "what was open is gone, and what is there is counted");
    place.home.ok(["project", "resize", "none"]);
    until("there is no limit", || {
        File::create(files.join("large")).unwrap().set_len(3 * GIB).is_ok()
    });
}

#[test]
fn one_mount_at_a_time_changes_the_files() {
    let place = Place::new();
    place.mount();
    let second = place.home.path("second");
    fs::create_dir(&second).unwrap();
    let second = second.to_str().unwrap();
    let refused = place.home.fails(["mount", "lab/cats/tabby", second]);
    let expected = format!("project lab/cats/tabby is mounted on {} already", place.dir());
    assert!(refused.contains(&expected), "{refused}");
    let refused = place.home.fails(["project", "delete", "lab/cats/tabby", "--with-files"]);
    assert!(refused.contains("is mounted on"), "{refused}");
    fs::write(place.dir.join("files/note"), "seen by both").unwrap();
    place.home.ok(["mount", "-o", "ro", "lab/cats/tabby", second]);
    let seen = fs::read(Path::new(second).join("files/note"));
    place.home.ok(["unmount", second]);
    assert_eq!(seen.unwrap(), b"seen by both");
    // Whoever comes next has them, at once.
    place.home.ok(["unmount", place.dir()]);
    place.home.ok(["mount", "lab/cats/tabby", second]);
    let seen = fs::read(Path::new(second).join("files/note"));
    place.home.ok(["unmount", second]);
    assert_eq!(seen.unwrap(), b"seen by both");
}

/// Two hosts that share a catalogue and a store, and nothing else.
fn other_host(place: &Place) -> Place {
    let other = Home::empty();
    fs::create_dir_all(other.atelier()).unwrap();
    for shared in ["catalog.db", "store"] {
        symlink(place.home.atelier().join(shared), other.atelier().join(shared)).unwrap();
    }
    other.ok(["use", "lab/cats/tabby"]);
    Place::of(other)
}

#[test]
fn another_host_is_refused_by_name_or_takes_over_from_the_newest_checkpoint() {
    let here = mounted();
    fs::write(here.dir.join("files/model"), "saved").unwrap();
    create(&here.home);
    fs::write(here.dir.join("files/model"), "not saved").unwrap();
    let there = other_host(&here);
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let refused = format!("the files of lab/cats/tabby are on host {}", name.trim());
    for command in [
        &["mount", "lab/cats/tabby", there.dir()][..],
        &["mount", "-o", "ro", "lab/cats/tabby", there.dir()],
        &["checkpoint", "create", "--notebook", "files/train.ipynb"],
        &["checkpoint", "apply", "1"],
    ] {
        let said = there.home.fails(command);
        assert!(said.contains(&refused) && said.contains("--take-over"), "{said}");
    }
    there.home.ok(["mount", "--take-over", "lab/cats/tabby", there.dir()]);
    assert_eq!(fs::read(there.dir.join("files/model")).unwrap(), b"saved");
    // The first host's mount is told, and changes nothing any more.
    until("it is read-only", || {
        let refused = fs::write(here.dir.join("files/late"), "late");
        refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
    });
    assert!(here.home.fails(["mount", "lab/cats/tabby", here.dir()]).contains("already"));
    here.home.ok(["unmount", here.dir()]);
    assert!(here.home.fails(["mount", "lab/cats/tabby", here.dir()]).contains(&refused));

    // Back again: what it had and didn't save is saved before the newest takes its place.
    fs::write(there.dir.join("files/model"), "from there").unwrap();
    create(&there.home);
    there.home.ok(["unmount", there.dir()]);
    here.home.ok(["mount", "--take-over", "lab/cats/tabby", here.dir()]);
    assert_eq!(fs::read(here.dir.join("files/model")).unwrap(), b"from there");
    let checkpoints = here.home.json(["checkpoint", "list"]);
    let before = checkpoints.as_array().unwrap().iter().find(|line| line["before"].is_string());
    let id = before.expect("what was here is saved")["id"].as_str().unwrap();
    let kept = here.dir.join("checkpoints").join(id).join("files/model");
    until("the mount shows it", || kept.exists());
    assert_eq!(fs::read(kept).unwrap(), b"not saved");
}

#[test]
fn what_has_no_checkpoint_begins_empty_where_it_is_taken_over() {
    let here = mounted();
    let there = other_host(&here);
    let said = there.home.run(["mount", "--take-over", "lab/cats/tabby", there.dir()]);
    assert!(said.code == 0 && said.stderr.contains("has no checkpoint"), "{said:?}");
    assert_eq!(fs::read_dir(there.dir.join("files")).unwrap().count(), 0);
    there.home.ok(["unmount", there.dir()]);
    here.home.ok(["unmount", here.dir()]);
    here.home.ok(["mount", "--take-over", "lab/cats/tabby", here.dir()]);
    assert!(here.dir.join("files/train.ipynb").exists());
}

#[test]
fn files_above_the_limit_of_checkpoints_are_left_out_and_the_rest_is_saved() {
    let place = mounted();
    let files = place.dir.join("files");
    let set = place.home.json(["project", "set", "--checkpoint-files", "1GiB"]);
    assert_eq!(set["checkpoint_gib"], 1);
    assert_eq!(create(&place.home)["data"], true);
    File::create(files.join("large")).unwrap().set_len(GIB + 1).unwrap();
    let made = create(&place.home);
    assert_eq!((&made["data"], &made["files"]), (&json!(false), &json!(2)));
    until("the mount shows it", || place.dir.join("checkpoints/0002").exists());
    let shown = place.dir.join("checkpoints/0002");
    assert!(shown.join("notebook.ipynb").exists() && !shown.join("files").exists());
    let told: Value =
        serde_json::from_slice(&fs::read(shown.join("checkpoint.json")).unwrap()).unwrap();
    assert_eq!((&told["data"], &told["bytes"]), (&made["data"], &made["bytes"]));
    // Whoever went back would lose what can't be saved.
    let said = place.home.fails(["checkpoint", "apply", "1"]);
    assert!(said.contains("would be lost") && said.contains("--checkpoint-files none"), "{said}");
    assert!(place.home.fails(["checkpoint", "apply", "2"]).contains("has no files"));
    fs::remove_file(files.join("large")).unwrap();
    fs::write(files.join("small"), "small").unwrap();
    assert_eq!(create(&place.home)["data"], true);
    place.home.ok(["checkpoint", "apply", "1"]);
    assert!(!files.join("small").exists());
}

#[test]
fn applying_through_a_mount_changes_what_differs_and_shows_at_once() {
    let place = mounted();
    let files = place.dir.join("files");
    fs::create_dir_all(files.join("src/deep")).unwrap();
    for number in 0..100 {
        fs::write(files.join(format!("src/{number}")), format!("{number}")).unwrap();
    }
    symlink("src/7", files.join("link")).unwrap();
    create(&place.home);
    let before = contents(&files);
    fs::write(files.join("src/7"), "changed").unwrap();
    fs::rename(files.join("src/deep"), files.join("moved")).unwrap();
    fs::write(files.join("moved/new"), "new").unwrap();
    fs::remove_file(files.join("link")).unwrap();
    fs::create_dir(files.join("link")).unwrap();
    fs::write(files.join("link/inside"), "inside").unwrap();
    fs::remove_file(files.join("src/9")).unwrap();
    let said = place.home.run(["checkpoint", "apply", "1"]);
    // src/7, src/9 and link; of the hundred others some are looked at that were just made.
    assert!(said.stderr.contains("0001 applied: 3 written, "), "{said:?}");
    assert!(said.stderr.contains(" unchanged, 1 removed"), "{said:?}");
    assert_eq!(contents(&files), before);
    assert_eq!(contents(&files), contents(&backing(&place.home)));
    assert_eq!(fs::read_link(files.join("link")).unwrap(), Path::new("src/7"));
    assert!(files.join("src/deep").is_dir() && !files.join("moved").exists());
    // And back again.
    place.home.ok(["checkpoint", "apply", "2"]);
    assert_eq!(fs::read(files.join("moved/new")).unwrap(), b"new");
    assert_eq!(fs::read(files.join("link/inside")).unwrap(), b"inside");
    assert!(!files.join("src/9").exists());
    let id = create(&place.home)["id"].as_str().unwrap().to_owned();
    until("the mount shows it", || place.dir.join("checkpoints").join(&id).exists());
    assert_eq!(saved(&place, &id), contents(&files));
}

/// A home on a small disk of its own, which goes with it.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Where not a byte is left, files can be removed still, and the next checkpoint knows of it.
#[test]
fn a_full_disk_hides_no_change_from_the_next_checkpoint() {
    if !root::is_here() {
        return;
    }
    let home = Home::empty();
    fs::create_dir_all(home.atelier()).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", home.atelier(), "tmpfs", flags, Some(c"size=24m,mode=700"))
        .unwrap();
    let mounted = SmallDisk(home.atelier());
    home.ok(["init"]);
    home.make_project();
    let place = Place::of(home);
    // It goes before the home that it is in.
    let _disk = mounted;
    place.mount();
    notebook(&place.dir);
    let files = place.dir.join("files");
    for number in 0..400 {
        fs::write(files.join(format!("{number}")), [b'x'; 100]).unwrap();
    }
    create(&place.home);
    let filler = place.home.atelier().join("filler");
    let mut full = File::create(&filler).unwrap();
    while full.write_all(&[1; 1000]).is_ok() || full.write(&[1]).is_ok() {}
    drop(full);

    let written = fs::write(files.join("large"), vec![1; 1 << 20]).unwrap_err();
    assert_eq!(written.kind(), std::io::ErrorKind::StorageFull);
    let said = place.home.fails(["checkpoint", "create", "--notebook", "files/train.ipynb"]);
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    for number in 0..400 {
        fs::remove_file(files.join(format!("{number}"))).unwrap();
    }
    fs::remove_file(&filler).unwrap();
    assert_eq!(fs::read(files.join("train.ipynb")).unwrap().first(), Some(&b'{'));
    let id = create(&place.home)["id"].as_str().unwrap().to_owned();
    until("the mount shows it", || place.dir.join("checkpoints").join(&id).exists());
    assert_eq!(saved(&place, &id), contents(&files));
    place.home.ok(["unmount", place.dir()]);
}
