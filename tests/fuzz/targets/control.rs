//! Requests to a mount's socket.
#![no_main]

use std::time::Instant;

use atelier::control::{About, Options, Report, reply};
use atelier::metrics::Metrics;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let options = Options {
        memory: 1,
        cache_dir: String::new(),
        cache_size: String::new(),
        metadata_ttl: jiff::SignedDuration::ZERO,
        deadline: jiff::SignedDuration::ZERO,
        metrics: None,
    };
    let about = About {
        project: "o/c/p".into(),
        mount_point: "/mnt".into(),
        home: "/home".into(),
        pid: 7,
        since: jiff::Timestamp::UNIX_EPOCH,
        options,
    };
    let answer = reply(line, || Report::new(&about, Instant::now(), &Metrics::default()));
    assert_eq!(answer["error"].is_string(), answer["status"].is_null());
});
