//! The same through a real mount: what a program sees while its bucket fails.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atelier::object::{ObjectStore as _, PutMode};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::io::Errno;
use tokio::runtime::Runtime;

use super::{BLOCK, GET, noise};
use crate::support::place::Place;
use crate::support::proxy::{Fault, Proxy};
use crate::support::seaweed::{self, Seaweed};

/// How long a read may take here.
pub(super) const DEADLINE: Duration = Duration::from_secs(4);

/// What such a mount may keep.
const MEMORY: u64 = 64 << 20;

/// A mount of a bucket, by way of a proxy.
pub(super) struct Mounted {
    runtime: Runtime,
    server: Seaweed,
    pub(super) proxy: Proxy,
    place: Place,
}

impl Mounted {
    fn new() -> Self {
        let (deadline, memory) = (format!("{}s", DEADLINE.as_secs()), MEMORY.to_string());
        Self::with(&["--deadline", &deadline, "--memory", &memory, "--cache-size", "0"])
    }

    /// Mounts it with these options.
    pub(super) fn with(options: &[&str]) -> Self {
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(Seaweed::start());
        let proxy = Proxy::start(server.port());
        let place = Place::new();
        let Place { home, .. } = &place;
        home.run_with(seaweed::SECRET.as_bytes(), ["secret", "set", "S3_SECRET"]).expect_ok();
        let endpoint = proxy.endpoint();
        let mut words = vec!["s3", "connect", "raw", "--no-test", "--bucket", seaweed::BUCKET];
        words.extend(["--endpoint", &endpoint, "--region", "us-east-1"]);
        words.extend(["--key-id", seaweed::KEY_ID, "--secret-ref", "project/S3_SECRET"]);
        home.ok(words);
        let mounted = Self { runtime, server, proxy, place };
        mounted.mount(options);
        mounted
    }

    fn mount(&self, options: &[&str]) {
        let words = [&["mount"], options, &["lab/cats/tabby", self.place.dir()]].concat();
        self.place.home.ok(words);
    }

    /// Ends the mount and begins another: the kernel and the memory have nothing then.
    pub(super) fn mount_again(&self, options: &[&str]) {
        self.place.home.ok(["unmount", self.place.dir()]);
        self.mount(options);
    }

    pub(super) fn put(&self, key: &str, bytes: Bytes) {
        let put = async {
            let store = self.server.store("").await;
            store.put(key, bytes, PutMode::Overwrite).await.unwrap();
        };
        self.runtime.block_on(put);
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.place.dir.join("s3/raw").join(key)
    }

    /// Reads a range of a file; all of it, or an errno.
    pub(super) fn read(&self, key: &str, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        File::open(self.path(key))?.read_exact_at(&mut bytes, offset as u64)?;
        Ok(bytes)
    }

    /// The most memory that the daemon had.
    fn peak(&self) -> u64 {
        let process = self.place.server().as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

pub(super) fn is_told(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::TIMEDOUT))
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let at = prop_oneof![
        Just(0),
        Just(1),
        Just(BLOCK - 1),
        Just(BLOCK),
        Just(BLOCK + 1),
        0_usize..400_000
    ];
    let millis = |most: u64| (1..most).prop_map(Duration::from_millis);
    prop_oneof![
        prop_oneof![Just(500), Just(502), Just(503), Just(429)].prop_map(Fault::Status),
        at.clone().prop_map(Fault::Truncate),
        at.clone().prop_map(Fault::Reset),
        (at.clone(), millis(300)).prop_map(|(at, pause)| Fault::Pause(at, pause)),
        millis(300).prop_map(Fault::Delay),
        (1_i64..100).prop_map(Fault::Claim),
        (1_i64..100).prop_map(|less| Fault::Claim(-less)),
        (1_usize..100).prop_map(Fault::Cut),
        (0_usize..50).prop_map(Fault::Trickle),
        Just(Fault::Chunked),
    ]
}

#[test]
fn whatever_fails_the_bytes_are_right_or_an_errno_is() {
    let mounted = Mounted::new();
    let bytes = noise(400_000);
    let reads = prop::collection::vec((0_usize..399_000, 1_usize..200_000), 1..6);
    let schedule = (prop::collection::vec(any_fault(), 1..8), reads);
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    // Another object each time: nothing of it is cached.
    for number in 1..=80 {
        mounted.put(&format!("object-{number}"), bytes.clone());
    }
    let number = Cell::new(0);
    let outcome = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
    .run(&schedule, |(faults, reads)| {
        number.set(number.get() % 80 + 1);
        let key = format!("object-{}", number.get());
        for fault in &faults {
            mounted.proxy.fail_those(GET, 1, *fault);
        }
        for (offset, len) in reads {
            let end = bytes.len().min(offset + len);
            match mounted.read(&key, offset, end - offset) {
                Ok(got) => prop_assert!(got == bytes[offset..end], "{offset}..{end}"),
                Err(error) => prop_assert!(is_told(&error), "{error:?}"),
            }
        }
        mounted.proxy.resume();
        let whole = mounted.read(&key, 0, bytes.len());
        prop_assert!(whole.is_ok_and(|whole| whole == bytes));
        prop_assert!(mounted.place.is_mounted());
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn a_server_that_is_gone_is_an_errno_in_time_and_is_found_again() {
    let mounted = Mounted::new();
    let bytes = noise(300_000);
    for key in ["a", "b", "c"] {
        mounted.put(key, bytes.clone());
    }
    assert!(mounted.read("a", 0, 1000).unwrap() == bytes[..1000]);
    let open = ["b", "c"].map(|key| File::open(mounted.path(key)).unwrap());
    for (file, frozen) in open.iter().zip([false, true]) {
        if frozen {
            mounted.server.freeze();
        } else {
            mounted.proxy.stop();
        }
        let start = Instant::now();
        let mut buffer = vec![0; 200_000];
        let error = file.read_exact_at(&mut buffer, 60_000);
        // An open fetches small objects ahead, which may have come before.
        if let Err(error) = error {
            assert!(is_told(&error), "{error:?}");
        }
        // The kernel asks a second time for the page that the program waits for, when it read
        // ahead in vain; that has less patience.
        assert!(start.elapsed() < 2 * DEADLINE);
        // What a listing told is believed for a second.
        std::thread::sleep(Duration::from_millis(1200));
        let start = Instant::now();
        let absent = mounted.path(&format!("nobody-asked-{frozen}/for-this"));
        let error = fs::metadata(&absent).unwrap_err();
        assert!(is_told(&error), "{error:?}");
        assert!(start.elapsed() < 2 * DEADLINE);
        mounted.server.thaw();
        mounted.proxy.resume();
        file.read_exact_at(&mut buffer, 60_000).unwrap();
        assert!(buffer == bytes[60_000..260_000]);
        let error = fs::metadata(&absent).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
    assert!(mounted.read("a", 0, bytes.len()).unwrap() == bytes);
}

#[test]
fn memory_stays_within_its_bound_whatever_fails() {
    const LEN: usize = 1 << 20;
    let mounted = Mounted::new();
    let bytes = noise(LEN + 8 * 100);
    let content = |file: usize| bytes.slice(8 * file..8 * file + LEN);
    for file in 0..100 {
        mounted.put(&format!("many/{file}"), content(file));
    }
    for round in 0..20 {
        let at = round * LEN / 20;
        mounted.proxy.fail_those(GET, 3, Fault::Truncate(at));
        mounted.proxy.fail_those(GET, 1, Fault::Status(503));
        mounted.proxy.fail_those(GET, 2, Fault::Reset(at));
        mounted.proxy.fail_those(GET, 2, Fault::Pause(at, Duration::from_millis(100)));
    }
    std::thread::scope(|scope| {
        for reader in 0..64 {
            let (mounted, content) = (&mounted, &content);
            scope.spawn(move || {
                for turn in 0..4 {
                    let file = (reader * 37 + turn * 29) % 100;
                    match mounted.read(&format!("many/{file}"), 0, LEN) {
                        Ok(got) => assert!(got == content(file), "{file}"),
                        Err(error) => assert!(is_told(&error), "{file}: {error:?}"),
                    }
                }
            });
        }
    });
    let peak = mounted.peak();
    assert!(peak <= MEMORY + (128 << 20), "{} MiB", peak >> 20);
    assert!(mounted.read("many/7", 0, LEN).unwrap() == content(7));
}
