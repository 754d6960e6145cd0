//! What was done once isn't done again: after a kill, an interruption, or where nothing changed.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use atelier::chunk::Packs;
use atelier::object::memory::MemoryStore;
use atelier::path::TreePath;
use atelier::snapshot::{Capture, Captured, Progress, Version};
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::support::place::until;

/// The length of a pack, in bytes.
const PACK: u64 = 32 << 20;

/// A tar of files that fill more than four packs.
fn large_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..300 {
        let mut bytes = vec![0; 500_000];
        getrandom::fill(&mut bytes).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{number:03}"), &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Begins to take in the tar and waits until three packs are stored and the fourth is begun.
fn begin(home: &Home, tar: &[u8]) -> (Child, ChildStdin) {
    let mut child = home
        .command(["dataset", "create", "large", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&tar[..3 * PACK as usize + PACK as usize / 2]).unwrap();
    let packs = home.atelier().join("store/packs");
    until("three packs are stored", || stored_packs(&packs) >= 3);
    (child, input)
}

fn stored_packs(packs: &Path) -> usize {
    let entries = walkdir::WalkDir::new(packs).into_iter().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_file()).count()
}

/// Takes in all of it; returns how many bytes had to be stored.
fn complete(home: &Home, tar: &[u8]) -> u64 {
    home.run_with(tar, ["dataset", "create", "large", "-"]).expect_ok();
    home.ok(["dataset", "verify", "large"]);
    let shown = home.json(["dataset", "show", "large"]);
    assert_eq!(shown["files"], 300);
    shown["stored_bytes"].as_u64().unwrap()
}

#[test]
fn what_was_stored_before_a_kill_is_not_stored_again() {
    let (home, tar) = (Home::with_project(), large_tar());
    let (mut child, _input) = begin(&home, &tar);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
    // Of packs that arrived, the last two may not be known to have.
    let stored = complete(&home, &tar);
    assert!(stored <= tar.len() as u64 - PACK, "{stored} of {}", tar.len());
}

#[test]
fn an_interrupted_ingest_says_so_and_keeps_what_it_read() {
    let (home, tar) = (Home::with_project(), large_tar());
    let (child, _input) = begin(&home, &tar);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("error: large wasn't made: it was interrupted"), "{said}");
    assert!(said.contains("hint: run it again to go on"), "{said}");
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
    let stored = complete(&home, &tar);
    assert!(stored <= tar.len() as u64 - 3 * PACK, "{stored} of {}", tar.len());
}

/// Captures a directory that may be remembered; returns how many bytes were read.
async fn capture(
    packs: &Packs,
    from: &Path,
    memory: &Path,
    previous: Option<&Captured>,
) -> (Captured, u64) {
    let progress = Arc::new(Progress::default());
    let capture = Capture::new().directory(TreePath::root(), from).progress(progress.clone());
    let mut capture = capture.remember(memory).survey();
    if let Some(previous) = previous {
        capture = capture.since(Version::open(packs.clone(), previous.root).await.unwrap());
    }
    let captured = capture.run(packs).await.unwrap();
    (captured, progress.bytes.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_as_they_were_are_not_read_again() {
    let (memory, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    zoo(from.path());
    fs::remove_file(from.path().join("sparse")).unwrap();
    let all: u64 = shape_bytes(from.path());
    // A file that has just changed could change again without a sign.
    let (first, read) = capture(&packs, from.path(), memory.path(), None).await;
    assert_eq!(read, all);
    let (second, read) = capture(&packs, from.path(), memory.path(), Some(&first)).await;
    assert_eq!((read, second.root), (all, first.root));
    std::thread::sleep(Duration::from_millis(2100));
    let (third, _) = capture(&packs, from.path(), memory.path(), Some(&second)).await;
    let (fourth, read) = capture(&packs, from.path(), memory.path(), Some(&third)).await;
    assert_eq!((read, fourth.root, fourth.stored > 0), (0, first.root, true));
    assert_eq!(fourth.totals, first.totals);
    // What was read for the newest version, and which packs its pages need.
    assert_eq!(fs::read_dir(memory.path()).unwrap().count(), 2);

    // Length and time of a change can be made to lie; that of the inode can't.
    let file = from.path().join("sizes/4096");
    let before = fs::metadata(&file).unwrap();
    fs::write(&file, noise(4096, 77)).unwrap();
    let handle = fs::File::options().write(true).open(&file).unwrap();
    handle.set_modified(before.modified().unwrap()).unwrap();
    fs::rename(from.path().join("text/513"), from.path().join("text/moved")).unwrap();
    let (changed, read) = capture(&packs, from.path(), memory.path(), Some(&fourth)).await;
    // It has a hard link.
    assert_eq!(read, 4096 * 2 + 513);
    assert_ne!(changed.root, fourth.root);
    let version = Version::open(packs.clone(), changed.root).await.unwrap();
    assert!(version.verify().await.unwrap().is_whole());
    let entry = version.read(&TreePath::parse("sizes/4096").unwrap(), 0..u64::MAX).await.unwrap();
    assert!(entry == noise(4096, 77));
    assert_eq!(fs::metadata(&file).unwrap().mtime(), before.mtime());

    // What is kept of it may be lost.
    fs::remove_dir_all(memory.path()).unwrap();
    let (again, read) = capture(&packs, from.path(), memory.path(), Some(&changed)).await;
    assert_eq!((read, again.root), (all, changed.root));
}

fn shape_bytes(dir: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let files = entries.map(|entry| entry.metadata().unwrap()).filter(fs::Metadata::is_file);
    files.map(|metadata| metadata.len()).sum()
}

/// A file that somebody writes to all the time is taken in, and named.
#[test]
fn a_file_that_keeps_changing_is_named() {
    let home = Home::with_project();
    plain(&home);
    fs::write(home.path("plain/busy"), vec![0; 100_000_000]).unwrap();
    let mut child = home
        .command(["dataset", "create", "plain", "plain"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut times = 0;
    while child.try_wait().unwrap().is_none() {
        times += 1;
        let file = fs::File::options().write(true).open(home.path("plain/busy")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(times)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("busy: it kept changing while it was read"), "{said}");
    assert_eq!(home.json(["dataset", "show", "plain"])["files"], 4);
}
