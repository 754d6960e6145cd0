//! A server that dies while much is being fetched that nobody waits for yet.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::mounted::{DEADLINE, Mounted, is_told};
use super::{GET, noise};
use crate::support::place::until;
use crate::support::proxy::Fault;

/// A mount with room for all that is read here, in memory and on disk.
const OPTIONS: [&str; 6] = ["--deadline", "4s", "--memory", "256M", "--cache-size", "1G"];

/// Long enough for calls to end by their deadline.
const OUTAGE: Duration = Duration::from_secs(6);

/// A number that looks like chance.
fn anywhere(n: usize, below: usize) -> usize {
    let word = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) as usize % below
}

/// Runs what may fail while a server is away; it does so in time.
fn in_time<T>(run: impl FnOnce() -> io::Result<T>) -> Option<T> {
    let start = Instant::now();
    let outcome = run();
    // The name, the opening and the bytes: each waits by itself, and those that come when
    // somebody has waited in vain have little patience.
    assert!(start.elapsed() < 3 * DEADLINE, "{:?}", start.elapsed());
    outcome.inspect_err(|error| assert!(is_told(error), "{error:?}")).ok()
}

/// How many bytes a request asks for.
fn asked(request: &str) -> usize {
    let range = request.rsplit_once("bytes=").and_then(|(_, range)| range.split_once('-'));
    let ends = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    ends.map_or(0, |(first, last): (usize, usize)| last + 1 - first)
}

#[test]
fn a_server_that_dies_while_a_hot_object_is_fetched_harms_nothing() {
    const LEN: usize = 48 << 20;
    const READ: usize = 4096;
    let mounted = Mounted::with(&OPTIONS);
    let bytes = noise(LEN);
    mounted.put("hot", bytes.clone());
    mounted.put("other", bytes.slice(..100_000));
    let file = File::open(mounted.path("hot")).unwrap();
    let read = |n: usize| {
        let at = anywhere(n, LEN - READ);
        let mut got = vec![0; READ];
        let outcome = file.read_exact_at(&mut got, at as u64);
        assert!(outcome.is_err() || got == bytes[at..at + READ], "at {at}");
        outcome
    };
    // Who waits as long makes it hot, and its parts take some time.
    mounted.proxy.fail_those(GET, 12, Fault::Delay(Duration::from_millis(50)));
    mounted.proxy.fail_those(GET, 100, Fault::Pause(1 << 20, Duration::from_millis(400)));
    let mut reads = 0;
    while !mounted.proxy.requests().iter().any(|request| asked(request) >= 2 << 20) {
        read(reads).unwrap();
        reads += 1;
        assert!(reads < 1000, "it doesn't become hot");
    }
    std::thread::sleep(Duration::from_millis(600));
    mounted.proxy.stop();
    let start = Instant::now();
    let mut failed = 0;
    while start.elapsed() < OUTAGE {
        reads += 1;
        failed += usize::from(in_time(|| read(reads)).is_none());
        in_time(|| mounted.read("other", 0, 100_000));
    }
    assert!(failed > 0, "{reads} reads and the server was never missed");
    mounted.proxy.resume();
    for n in 0..500 {
        read(reads + n).unwrap();
    }
    assert!(mounted.read("hot", 0, LEN).unwrap() == bytes);
    drop(file);
    mounted.mount_again(&OPTIONS);
    assert!(mounted.read("hot", 0, LEN).unwrap() == bytes);
    assert!(mounted.read("other", 0, 100_000).unwrap() == bytes[..100_000]);
}

#[test]
fn a_server_that_dies_in_a_shuffled_epoch_harms_nothing() {
    const FILES: usize = 400;
    const WORKERS: usize = 8;
    let mounted = Mounted::with(&OPTIONS);
    let bytes = noise(FILES * 8 + 30_000);
    let content = |file: usize| &bytes[file * 8..file * 8 + 10_000 + file * 50 % 20_000];
    for file in 0..FILES {
        mounted.put(&format!("train/{file:04}"), bytes.slice_ref(content(file)));
    }
    assert_eq!(fs::read_dir(mounted.path("train")).unwrap().count(), FILES);
    let read = |file: usize| {
        let got = fs::read(mounted.path(&format!("train/{file:04}")));
        got.inspect(|got| assert!(got == content(file), "{file}"))
    };
    let (opened, failed, away) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    mounted.proxy.fail_those(GET, 10_000, Fault::Pause(5_000, Duration::from_millis(20)));
    mounted.proxy.requests();
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (read, opened, failed, away) = (&read, &opened, &failed, &away);
            scope.spawn(move || {
                // As long as the server is away, over and over.
                for n in (worker..).step_by(WORKERS) {
                    if n >= FILES && !away.load(Ordering::SeqCst) {
                        break;
                    }
                    let got = in_time(|| read(n * 77 % FILES));
                    opened.fetch_add(1, Ordering::SeqCst);
                    failed.fetch_add(usize::from(got.is_none()), Ordering::SeqCst);
                }
            });
        }
        until("some were opened", || opened.load(Ordering::SeqCst) >= 40);
        away.store(true, Ordering::SeqCst);
        mounted.proxy.stop();
        let ahead = mounted.proxy.requests().len();
        assert!(ahead > opened.load(Ordering::SeqCst) + WORKERS, "nothing was fetched ahead");
        std::thread::sleep(OUTAGE);
        mounted.proxy.resume();
        away.store(false, Ordering::SeqCst);
    });
    assert!(failed.load(Ordering::SeqCst) > 0, "the server was never missed");
    for epoch in 0..2 {
        for n in 0..FILES {
            assert!(read(n * 77 % FILES).is_ok(), "epoch {epoch}: {n}");
        }
        mounted.mount_again(&OPTIONS);
    }
}
