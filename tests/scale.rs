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
/// ago: the unoptimized program, its listings' budget and what the allocator holds back.
const MOST_RESIDENT: u64 = 300 << 10;

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

/// Walks a bucket of `dirs` directories by a daemon of its own; how much it held then, in KiB.
fn walk(keys: Keys, expected: &str) -> u64 {
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
    place.mount();
    let server_pid = place.server().as_raw_nonzero();
    let root = place.dir.join("s3/many");
    assert_eq!(shell("find \"$0\" -type f | wc -l", &root), expected);
    eprintln!("{} requests", server.requests());
    let status = fs::read_to_string(format!("/proc/{server_pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_walk_of_thirty_thousand_objects_takes_little_memory() {
    let key = |n| format!("{:02}/{:02}/{:02}.bin", n / 1000, n / 10 % 100, n % 10);
    let peak = walk(Keys { len: 30_000, key }, "30000");
    assert!(peak < MOST_RESIDENT, "{peak} KiB");
}

/// `cargo nextest run --run-ignored only -E 'test(/scale::/)' --no-capture` takes some minutes.
#[test]
#[ignore = "takes minutes: a million objects in ten thousand directories"]
fn a_walk_of_a_million_objects_takes_little_memory() {
    let key = |n| format!("{:02}/{:02}/{:02}.bin", n / 10_000, n / 100 % 100, n % 100);
    let peak = walk(Keys { len: 1_000_000, key }, "1000000");
    eprintln!("{peak} KiB at most");
    assert!(peak < MOST_RESIDENT, "{peak} KiB");
}
