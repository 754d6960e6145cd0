//! Footers of packs: objects of a store that may be damaged.
#![no_main]

use atelier::chunk::Footer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (size, tail) = input;
    let _ = Footer::len_in(tail);
    for size in [size, tail.len() as u64] {
        if let Ok(footer) = Footer::parse(tail, size) {
            for stored in footer.frames() {
                let range = stored.place.range();
                assert!(range.start <= range.end && range.end <= size);
            }
        }
    }
});
