//! Roots: what a version begins with.
#![no_main]

use atelier::snapshot::format::Root;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(root) = Root::decode(&bytes) {
        assert_eq!(root.encode(), bytes, "one root has one form");
    }
});
