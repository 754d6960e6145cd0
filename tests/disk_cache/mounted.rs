//! The disk cache of a real mount, and the commands for it.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use atelier::object::{ObjectStore as _, PutMode};
use bytes::Bytes;
use rustix::process::Signal;

use super::{files, flip};
use crate::support::place::{Place, until};
use crate::support::proxy::Proxy;
use crate::support::seaweed::{self, Seaweed};

const SIZES: [usize; 6] = [1, 40_000, 40_001, 300_000, 1 << 20, (5 << 20) + 3];

/// A bucket behind a proxy that counts, and a project that shows it.
struct Bucket {
    place: Place,
    proxy: Proxy,
    _server: Seaweed,
    _runtime: tokio::runtime::Runtime,
}

fn content(size: usize) -> Bytes {
    (0..=size / 8)
        .flat_map(|n| (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(size)
        .collect()
}

fn bucket(name: &str) -> Bucket {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Seaweed::start());
    let store = runtime.block_on(server.store(&format!("{name}/")));
    for size in SIZES {
        let key = size.to_string();
        let put = store.put(&key, content(size), PutMode::Overwrite);
        runtime.block_on(put).unwrap();
    }
    let proxy = Proxy::start(server.port());
    let place = Place::new();
    place.home.run_with(seaweed::SECRET.as_bytes(), ["secret", "set", "S3_SECRET"]).expect_ok();
    let mut words = vec!["s3", "connect", "raw", "--no-test", "--bucket", seaweed::BUCKET];
    let endpoint = proxy.endpoint();
    words.extend(["--endpoint", &endpoint, "--region", "us-east-1", "--prefix", name]);
    words.extend(["--key-id", seaweed::KEY_ID, "--secret-ref", "project/S3_SECRET"]);
    place.home.ok(words);
    place.mount();
    Bucket { place, proxy, _server: server, _runtime: runtime }
}

impl Bucket {
    fn read_all(&self) {
        for size in SIZES {
            let file = self.place.dir.join("s3/raw").join(size.to_string());
            assert!(fs::read(file).unwrap() == content(size), "{size} bytes");
        }
    }

    /// How many objects, or parts of them, were asked for since the last time.
    fn gets(&self) -> usize {
        let requests = self.proxy.requests();
        let is_get =
            |request: &&String| request.starts_with("GET ") && !request.contains("list-type");
        requests.iter().filter(is_get).count()
    }

    fn used(&self) -> u64 {
        let status = self.place.home.run(["cache", "status", "--json"]);
        if status.code != 0 {
            return 0;
        }
        serde_json::from_str::<serde_json::Value>(&status.stdout).unwrap()["used_bytes"]
            .as_u64()
            .unwrap()
    }

    fn wait_until_kept(&self) {
        self.wait_until(SIZES.iter().map(|size| *size as u64).sum());
    }

    fn wait_until(&self, kept: u64) {
        until("it is kept", || self.used() >= kept);
    }

    fn unmount(&self) {
        self.place.home.ok(["unmount", self.place.dir()]);
    }

    fn blocks(&self) -> PathBuf {
        self.place.home.path(".cache/atelier/blocks")
    }
}

#[test]
fn another_mount_reads_what_was_read_without_a_request() {
    let bucket = bucket("again");
    bucket.read_all();
    assert!(bucket.gets() > 0);
    bucket.wait_until_kept();
    bucket.unmount();
    bucket.place.mount();
    bucket.read_all();
    assert_eq!(bucket.gets(), 0);

    // Also after a crash.
    rustix::process::kill_process(bucket.place.server(), Signal::KILL).unwrap();
    until("the mount is dead", || fs::metadata(bucket.place.dir.join("s3")).is_err());
    bucket.place.mount();
    bucket.read_all();
    assert_eq!(bucket.gets(), 0);
}

/// A large object that is whole on disk is read by the kernel itself, from the first open of the
/// next mount on.
#[test]
fn the_kernel_reads_what_is_whole_by_itself() {
    let bucket = bucket("whole");
    let (large, status) = (SIZES[5], ["status", bucket.place.dir()]);
    let file = bucket.place.dir.join("s3/raw").join(large.to_string());
    let counts = || {
        let metrics = &bucket.place.home.json(status)["report"]["metrics"];
        ["fuse_passthrough_opens_total", "s3_reads_total"].map(|name| metrics[name].as_u64())
    };
    assert!(fs::read(&file).unwrap() == content(large));
    bucket.wait_until(large as u64);
    bucket.gets();
    bucket.unmount();
    bucket.place.mount();
    assert!(fs::read(&file).unwrap() == content(large));
    if crate::mount::passthrough::is_allowed(&bucket.blocks()) {
        assert_eq!(counts(), [Some(1), Some(0)]);
        let told = bucket.place.home.ok(status);
        assert!(told.contains("1 opens that the kernel reads by itself don't count"), "{told}");
    } else {
        assert_eq!(counts()[0], Some(0));
    }
    assert_eq!(bucket.gets(), 0);

    // While it is open the cache may lose it.
    let open = fs::File::open(&file).unwrap();
    bucket.place.home.ok(["cache", "clear"]);
    let mut last = [0; 3];
    open.read_exact_at(&mut last, large as u64 - 3).unwrap();
    assert!(last[..] == content(large)[large - 3..]);
    drop(open);
    assert!(fs::read(&file).unwrap() == content(large));
}

#[test]
fn a_mount_reads_on_while_its_cache_is_damaged_emptied_or_gone() {
    let bucket = bucket("damaged");
    bucket.read_all();
    bucket.wait_until_kept();
    for file in files(&bucket.blocks()) {
        let len = fs::metadata(&file).unwrap().len();
        for at in (0..len).step_by(4099) {
            flip(&file, at);
        }
    }
    bucket.unmount();
    bucket.place.mount();
    bucket.gets();
    bucket.read_all();
    assert!(bucket.gets() > 0);
    let verified = || bucket.place.home.run(["cache", "verify"]).code == 0;
    until("it is mended", || bucket.used() > 6 << 20 && verified());

    bucket.place.home.ok(["cache", "clear"]);
    assert_eq!(bucket.used(), 0);
    bucket.read_all();
    fs::remove_dir_all(bucket.blocks()).unwrap();
    bucket.unmount();
    bucket.place.mount();
    bucket.read_all();
    bucket.wait_until_kept();
}

#[test]
fn what_verify_finds_it_names_and_drops() {
    let bucket = bucket("verify");
    bucket.read_all();
    bucket.wait_until_kept();
    bucket.unmount();
    let home = &bucket.place.home;
    let whole = home.json(["cache", "verify"]);
    assert_eq!(whole["objects"], SIZES.len());
    assert_eq!(whole["bytes"].as_u64().unwrap(), SIZES.iter().sum::<usize>() as u64);
    let large = files(&bucket.blocks())
        .into_iter()
        .find(|file| fs::metadata(file).unwrap().len() == SIZES[5] as u64);
    flip(&large.unwrap(), 3 << 20);
    let told = home.run(["cache", "verify"]);
    let name = format!("{}/verify/{}  1\n", seaweed::BUCKET, SIZES[5]);
    assert!(told.code == 1 && told.stdout.ends_with(&name), "{told:?}");
    home.ok(["cache", "verify"]);

    let status = home.json(["cache", "status"]);
    assert_eq!(status["objects"], SIZES.len());
    assert!(status["limit_bytes"].as_u64() > Some(0) && status["reserve_bytes"].as_u64() > Some(0));
    assert!(home.ok(["cache", "status"]).contains("oldest use:"));
    let cleared = home.json(["cache", "clear", "--older-than", "1h"]);
    assert_eq!(cleared["objects"], 0);
    let cleared = home.json(["cache", "clear"]);
    assert_eq!(cleared["objects"], SIZES.len());
    let none = home.fails(["cache", "status", "--cache-dir", "/nowhere"]);
    assert!(none.contains("there is no cache in /nowhere"), "{none}");
}

#[test]
fn a_mount_without_a_cache_says_so_once_and_works() {
    let bucket = bucket("without");
    bucket.unmount();
    let blocks = bucket.blocks();
    fs::remove_dir_all(&blocks).unwrap();
    fs::write(&blocks, "in the way").unwrap();
    let mounted = bucket.place.home.run(["mount", "lab/cats/tabby", bucket.place.dir()]);
    assert_eq!(mounted.stderr.matches("nothing is kept on disk").count(), 1, "{mounted:?}");
    bucket.read_all();

    bucket.unmount();
    fs::remove_file(&blocks).unwrap();
    let home = &bucket.place.home;
    home.ok(["mount", "--cache-size", "0", "lab/cats/tabby", bucket.place.dir()]);
    bucket.read_all();
    assert!(!blocks.exists());
}
