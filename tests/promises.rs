//! What the README promises of a mount, sentence by sentence.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier::cache::BlockCache;
use atelier::fuse::{self, MountOptions, Unmount};
use atelier::object::{ObjectStore as _, PutMode};
use atelier::tree::bucket::BucketTree;
use bytes::Bytes;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::support::place::{Place, until};
use crate::support::proxy::Proxy;
use crate::support::seaweed::{self, Seaweed};

/// What a secret of a test looks like: nothing else does.
const CANARY: &str = "canary-7f3c9d51-do-not-leak";

/// Immutable things are served by content: every byte of a dataset or a checkpoint is hashed when
/// it comes in, and `atelier dataset verify` finds one that has changed since.
#[test]
fn immutable_things_are_served_by_content() {
    let place = Place::new();
    let source = place.home.path("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    for (name, len) in
        [("empty", 0), ("small", 100), ("deep/frame", 70_000), ("deep/er/big", 3 << 20)]
    {
        fs::write(source.join(name), noise(len)).unwrap();
    }
    place.home.ok(["dataset", "create", "flowers", source.to_str().unwrap()]);
    place.mount();
    for name in ["empty", "small", "deep/frame", "deep/er/big"] {
        let captured = fs::read(place.dir.join("datasets/flowers").join(name)).unwrap();
        assert!(captured == fs::read(source.join(name)).unwrap(), "{name}");
    }

    place.home.ok(["dataset", "verify", "flowers"]);
    for pack in files_below(&place.home.atelier().join("store/packs")) {
        let mut bytes = fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let found = place.home.run(["dataset", "verify", "flowers"]);
    assert!(found.code == 1 && found.stderr.contains("affected: deep/er/big"), "{found:?}");
}

/// One open file never mixes two versions of an object: a read that would is `ESTALE`.
#[test]
fn one_open_file_never_mixes_two_versions() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Seaweed::start());
    let store = runtime.block_on(server.store("mix/"));
    let put = |fill: u8| {
        let body = Bytes::from(vec![fill; 8 << 20]);
        runtime.block_on(store.put("model", body, PutMode::Overwrite)).unwrap()
    };
    put(b'a');
    let place = Place::new();
    connect(&place, &server.endpoint(), "mix", seaweed::KEY_ID, seaweed::SECRET);
    place.mount();

    let file = File::open(place.dir.join("s3/raw/model")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    put(b'b');
    assert_eq!(errno(file.read_exact_at(&mut byte, 6 << 20)), Errno::STALE);
    until("a new open sees the new version", || {
        let file = File::open(place.dir.join("s3/raw/model")).unwrap();
        file.read_exact_at(&mut byte, 6 << 20).is_ok() && byte == [b'b']
    });
}

/// Nothing acknowledged is lost by `kill -9` of the daemon.
#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let place = Place::new();
    place.mount();
    let files = place.dir.join("files");
    fs::write(files.join("note"), "kept").unwrap();
    fs::rename(files.join("note"), files.join("kept")).unwrap();
    fs::create_dir(files.join("source")).unwrap();
    fs::write(files.join("source/data"), noise(100_000)).unwrap();
    place.home.ok(["dataset", "create", "flowers", files.join("source").to_str().unwrap()]);
    place.home.run_with(b"value", ["secret", "set", "KEY"]).expect_ok();

    rustix::process::kill_process(place.server(), Signal::KILL).unwrap();
    until("the mount is dead", || errno_of(fs::metadata(&files)) == Some(Errno::NOTCONN));
    place.mount();
    assert_eq!(fs::read_to_string(files.join("kept")).unwrap(), "kept");
    let data = fs::read(place.dir.join("datasets/flowers/data")).unwrap();
    assert!(data == noise(100_000));
    assert!(place.home.ok(["secret", "list"]).contains("KEY"));
}

/// No request hangs for ever: every remote wait has a deadline and ends in an error.
#[test]
fn no_request_hangs_for_ever() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Seaweed::start());
    let store = runtime.block_on(server.store("stall/"));
    let body = Bytes::from(noise(4 << 20));
    runtime.block_on(store.put("model", body.clone(), PutMode::Overwrite)).unwrap();

    let proxy = Proxy::start(server.port());
    let limits = seaweed::limits();
    let through = runtime.block_on(seaweed::store_at(proxy.endpoint(), "stall/", limits));
    let cache = Arc::new(BlockCache::new(64 << 20, Arc::default()));
    let tree = BucketTree::new(Arc::new(through), cache, "stall", Duration::from_secs(1));
    let dir = tempfile::tempdir().unwrap();
    let mount_point = dir.path().join("mount");
    fs::create_dir(&mount_point).unwrap();
    let mount_point = mount_point.canonicalize().unwrap();
    let options = MountOptions { source: "o/c/p".into(), ..MountOptions::default() };
    let session = {
        let _context = runtime.enter();
        fuse::mount(Arc::new(tree), Arc::default(), &mount_point, &options).unwrap()
    };

    let file = File::open(mount_point.join("model")).unwrap();
    proxy.stop();
    let start = Instant::now();
    let mut bytes = vec![0; body.len()];
    assert!(file.read_exact_at(&mut bytes, 0).is_err());
    assert!(start.elapsed() < limits.deadline * 3, "it took {:?}", start.elapsed());
    proxy.resume();
    fs::metadata(&mount_point).expect("the mount lives");
    until("reading works again", || file.read_exact_at(&mut bytes, 0).is_ok());
    assert!(bytes == body);
    drop(file);
    session.unmount(Unmount::Lazily).unwrap();
}

/// Errors are the right errno: `EROFS` where nothing can be written, `EPERM` for plaintext below
/// `secrets/`, `EACCES` for a bucket that refuses, `ENOENT` only for what is absent; `EIO` is for
/// damage or a failing server.
#[test]
fn errors_are_the_right_errno() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Seaweed::start());
    let place = Place::new();
    let source = place.home.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("data"), "data").unwrap();
    place.home.ok(["dataset", "create", "flowers", source.to_str().unwrap()]);
    connect(&place, &server.endpoint(), "", seaweed::STRANGER_ID, seaweed::STRANGER_SECRET);
    place.mount();
    let at = |name: &str| place.dir.join(name);

    for name in ["datasets/flowers/data", "datasets/flowers", "datasets"] {
        let changed =
            fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(0o600));
        assert_eq!(errno(changed), Errno::ROFS, "chmod {name}");
    }
    for name in ["secrets/project.env", "secrets/new.env"] {
        assert_eq!(errno(fs::write(at(name), "PLAIN=text\n")), Errno::PERM, "{name}");
    }
    assert_eq!(errno(File::create(at("secrets/.project.env.swp"))), Errno::PERM);
    for name in ["datasets/flowers/new", "datasets/new", "s3/new", "new"] {
        assert_eq!(errno(File::create(at(name))), Errno::ROFS, "create {name}");
        assert_eq!(errno(fs::create_dir(at(name))), Errno::ROFS, "mkdir {name}");
        assert_eq!(errno(std::os::unix::fs::symlink("x", at(name))), Errno::ROFS, "symlink {name}");
    }
    let data = at("datasets/flowers/data");
    assert_eq!(errno(OpenOptions::new().write(true).open(&data)), Errno::ROFS);
    assert_eq!(errno(OpenOptions::new().append(true).open(&data)), Errno::ROFS);
    assert_eq!(errno(fs::remove_file(&data)), Errno::ROFS);
    assert_eq!(errno(fs::remove_dir_all(at("datasets/flowers"))), Errno::ROFS);
    assert_eq!(errno(fs::rename(&data, at("datasets/flowers/x"))), Errno::ROFS);
    assert_eq!(errno(fs::rename(&data, at("files/x"))), Errno::XDEV);
    // A directory can be opened before anybody knows whether it can be listed.
    let listed = fs::read_dir(at("s3/raw")).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    assert_eq!(errno(listed), Errno::ACCESS);
    assert_eq!(errno(fs::metadata(at("s3/raw/any"))), Errno::ACCESS);
    for name in ["none", "datasets/none", "datasets/flowers/none", "datasets/flowers@9", "s3/none"]
    {
        assert_eq!(errno(fs::metadata(at(name))), Errno::NOENT, "{name}");
    }
}

/// No plaintext secret is in the mount, the catalogue, the store or the logs.
#[test]
fn no_plaintext_secret_is_anywhere() {
    let place = Place::new();
    place.home.run_with(CANARY.as_bytes(), ["secret", "set", "TOKEN"]).expect_ok();
    place.mount();
    let env = fs::read_to_string(place.dir.join("secrets/project.env")).unwrap();
    assert!(env.starts_with("TOKEN=ENC[AES256_GCM,"), "{env}");
    let told = place.home.ok(["run", "--", "sh", "-c", "printf %s \"$TOKEN\""]);
    assert_eq!(told, CANARY, "the command gets it");
    place.home.ok(["secret", "list"]);
    place.home.run(["run", "--", "false"]);

    for file in files_below(&place.home.path(".")) {
        if let Ok(bytes) = fs::read(&file) {
            let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "{} holds it", file.display());
        }
    }
}

/// What changes in the catalogue, such as a new dataset or a secret, shows in a live mount within
/// a second.
#[test]
fn changes_show_in_a_live_mount() {
    let place = Place::new();
    place.mount();
    let source = place.home.path("source");
    fs::create_dir(&source).unwrap();
    let data = place.dir.join("datasets/flowers/data");
    assert!(!data.exists());
    for content in ["one", "two"] {
        fs::write(source.join("data"), content).unwrap();
        place.home.ok(["dataset", "create", "flowers", source.to_str().unwrap()]);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(fs::read_to_string(&data).unwrap(), content);
    }
    let first = place.dir.join("datasets/flowers@1/data");
    assert_eq!(fs::read_to_string(first).unwrap(), "one");
    place.home.run_with(b"value", ["secret", "set", "KEY"]).expect_ok();
    std::thread::sleep(Duration::from_secs(1));
    assert!(place.dir.join("secrets/project.env").exists());
    place.home.ok(["dataset", "deactivate", "flowers"]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(!data.exists());
}

/// The list in the README is the list of these tests.
#[test]
fn each_promise_is_tested() {
    let readme = include_str!("../README.md");
    let list = readme.split("## What the mount promises").nth(1).expect("the README promises");
    let list = list.split("\n## ").next().unwrap_or(list);
    let mut promised: Vec<String> = Vec::new();
    for line in list.lines() {
        match line.split_once(". ") {
            Some((number, text)) if number.parse::<u32>().is_ok() => promised.push(text.to_owned()),
            _ => {
                if let (Some(last), Some(more)) = (promised.last_mut(), line.strip_prefix("   ")) {
                    last.push(' ');
                    last.push_str(more);
                }
            }
        }
    }
    let mut tested: Vec<String> = Vec::new();
    let mut sentence = Vec::new();
    for line in include_str!("promises.rs").lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            sentence.push(text);
        } else {
            if line == "#[test]" {
                tested.push(sentence.join(" "));
            }
            sentence.clear();
        }
    }
    tested.pop();
    assert_eq!(promised, tested);
}

fn connect(place: &Place, endpoint: &str, prefix: &str, key_id: &str, secret: &str) {
    place.home.run_with(secret.as_bytes(), ["secret", "set", "S3_SECRET"]).expect_ok();
    let mut words = vec!["s3", "connect", "raw", "--no-test", "--bucket", seaweed::BUCKET];
    words.extend(["--endpoint", endpoint, "--region", "us-east-1", "--prefix", prefix]);
    words.extend(["--key-id", key_id, "--secret-ref", "project/S3_SECRET"]);
    place.home.ok(words);
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

fn errno_of<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

fn errno<T>(result: io::Result<T>) -> Errno {
    errno_of(result).expect("it fails with an errno")
}
