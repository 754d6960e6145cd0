//! Buckets of very many objects: few requests, and memory that doesn't grow with them.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use atelier::cache::BlockCache;
use atelier::tree::bucket::BucketTree;

use crate::support::generated::{Generated, Keys};
use crate::support::mounted::Mounted;
use crate::support::place::Place;
use crate::support::seaweed::{BUCKET, KEY_ID, SECRET, limits, store_at};

/// More than this, in KiB, isn't what a daemon takes that keeps nothing of what was listed long
/// ago: the unoptimized program, its listings' budget, the names that are left to the kernel and
/// what the allocator holds back.
const MOST_RESIDENT: u64 = 150 << 10;

fn shell(command: &str, argument: &std::path::Path) -> String {
    let output = Command::new("sh").args(["-c", command]).arg(argument).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_hundred_thousand_names_in_one_directory_take_110_requests_at_most() {
    let server = Generated::start(Keys { len: 100_000, key: |n| format!("flat/{n:06}.bin") });
    let endpoint = server.endpoint();
    let mounted = Mounted::new(async {
        let store = store_at(endpoint, "", limits()).await;
        let cache = Arc::new(BlockCache::new(1 << 20, Arc::default()));
        BucketTree::new(Arc::new(store), cache, "scale", Duration::from_mins(1))
    });
    assert_eq!(shell("ls -U \"$0/flat\" | wc -l", &mounted.path()), "100000");
    let requests = server.requests();
    assert!(requests <= 110, "{requests} requests");
    // What was listed isn't asked for again.
    let first_and_last = "stat -c %s \"$0/flat/000000.bin\" \"$0/flat/099999.bin\"";
    assert_eq!(shell(first_and_last, &mounted.path()), "15\n15");
    assert_eq!(server.requests(), 0);
}

/// Walks a bucket by a daemon of its own; how many requests that took, and how much memory at most,
/// in KiB.
fn walk(keys: Keys) -> (usize, u64) {
    let expected = keys.len.to_string();
    let server = Generated::start(keys);
    let place = Place::new();
    let secret = place.home.run_with(SECRET.as_bytes(), ["secret", "set", "KEY"]);
    secret.expect_ok();
    let endpoint = server.endpoint();
    let connection = [
        "s3",
        "connect",
        "many",
        "--bucket",
        BUCKET,
        "--region",
        "us-east-1",
        "--endpoint",
        &endpoint,
    ];
    place.home.ok([&connection[..], &["--key-id", KEY_ID, "--secret-ref", "project/KEY"]].concat());
    // Longer than the walk takes, so that nothing depends on how fast the machine is.
    place.home.ok(["mount", "--metadata-ttl", "10m", "lab/cats/tabby", place.dir()]);
    let server_pid = place.server().as_raw_nonzero();
    let root = place.dir.join("s3/many");
    assert_eq!(shell("find \"$0\" -type f | wc -l", &root), expected);
    let requests = server.requests();
    // What was forgotten is found again.
    assert_eq!(shell("stat -c %s \"$0/00/00/00.bin\"", &root), "12");
    let status = fs::read_to_string(format!("/proc/{server_pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    (requests, peak.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Two thousand directories of a hundred objects each, more than are left to the kernel, and with
/// `ATELIER_TEST_MILLION` set five times as many.
#[test]
fn a_walk_of_very_many_objects_takes_few_requests_and_flat_memory() {
    let tops = if std::env::var_os("ATELIER_TEST_MILLION").is_some() { 100 } else { 20 };
    let key = |n| format!("{:02}/{:02}/{:02}.bin", n / 10_000, n / 100 % 100, n % 100);
    let (requests, peak) = walk(Keys { len: tops * 10_000, key });
    eprintln!("{requests} requests, {peak} KiB at most");
    // Ten pages of a thousand keys for each of the directories at the top, and some that overlap.
    assert!(requests <= tops * 15, "{requests} requests");
    assert!(peak < MOST_RESIDENT, "{peak} KiB, more than {MOST_RESIDENT}");
}
