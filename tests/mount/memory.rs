//! How much memory a mount takes, whatever is read through it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use atelier::object::{ObjectStore as _, PutMode};
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::support::place::Place;
use crate::support::seaweed::{BUCKET, KEY_ID, SECRET, Seaweed};

const FILES: usize = 100;
const LEN: usize = 4 << 20;

/// What `--memory` allows, and what a mount may take beside it.
const MEMORY: u64 = 32 << 20;
const BESIDES: u64 = 128 << 20;

/// The most memory that a process has had, in bytes.
fn peak(process: rustix::process::Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Two files in order and one here and there at a time, for each of 64 readers.
#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_many_files_take_no_more_than_was_allowed() {
    let server = Seaweed::start().await;
    let store = server.store("").await;
    let content: Bytes = (0..LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let puts = (0..FILES).map(|number| {
        let (store, content) = (store.clone(), content.clone());
        async move { store.put(&format!("{number:03}"), content, PutMode::Overwrite).await.unwrap() }
    });
    futures_util::stream::iter(puts).buffer_unordered(8).collect::<Vec<_>>().await;

    let place = Place::new();
    let secret = ["secret", "set", "AWS_SECRET_ACCESS_KEY"];
    place.home.run_with(SECRET.as_bytes(), secret).expect_ok();
    let endpoint = server.endpoint();
    let connect = ["s3", "connect", "b", "--bucket", BUCKET, "--endpoint", &endpoint];
    let key = ["--key-id", KEY_ID, "--secret-ref", "project/AWS_SECRET_ACCESS_KEY"];
    place.home.ok([&connect[..], &key[..]].concat());
    let memory = (MEMORY >> 20).to_string() + "MiB";
    place.home.ok(["mount", "--memory", &memory, "lab/cats/tabby", place.dir()]);

    let next = AtomicUsize::new(0);
    let dir = place.dir.join("s3/b");
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= 2 * FILES {
                        break;
                    }
                    let file = File::open(dir.join(format!("{:03}", turn % FILES))).unwrap();
                    for step in 0..LEN / buffer.len() {
                        let place = if turn.is_multiple_of(3) { step * 7 + 3 } else { step };
                        let offset = place * buffer.len() % LEN;
                        file.read_exact_at(&mut buffer, offset as u64).unwrap();
                        assert!(buffer == content[offset..offset + buffer.len()], "{turn}");
                    }
                }
            });
        }
    });
    let peak = peak(place.server());
    assert!(peak <= MEMORY + BESIDES, "{} MiB", peak >> 20);
}
