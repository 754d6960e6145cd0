//! What mount(8) passes on from a command line and from `/etc/fstab`.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use atelier::cli::mount::helper;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let words = bytes.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned());
    let given = [OsStr::new("mount.atelier").to_owned()].into_iter().chain(words);
    let words = helper::arguments(given);
    assert_eq!(words[1], "mount");
    assert!(words.iter().any(|word| word == "--"), "places come behind it");
    for list in words.iter().filter_map(|word| word.to_str()) {
        for sloppy in [false, true] {
            if let Err(error) = helper::check(list, sloppy) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
});
