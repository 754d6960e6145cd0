//! Footers of packs: objects of a store that may be damaged.
#![no_main]

use atelier::chunk::Footer;
use libfuzzer_sys::fuzz_target;

/// How much of a footer follows its records, in bytes.
const TRAILER: usize = 24;

fuzz_target!(|input: (u64, &[u8])| {
    let (size, tail) = input;
    let mut tail = tail.to_vec();
    mend(&mut tail);
    let _ = Footer::len_in(&tail);
    for size in [size, tail.len() as u64] {
        if let Ok(footer) = Footer::parse(&tail, size) {
            for stored in footer.frames() {
                let range = stored.place.range();
                assert!(range.start <= range.end && range.end <= size);
            }
        }
    }
});

/// Puts the checksum right: else next to nothing would get past it.
fn mend(tail: &mut [u8]) {
    let Ok(len) = Footer::len_in(tail) else { return };
    let start = usize::try_from(len).ok().and_then(|len| tail.len().checked_sub(len));
    let (Some(start), Some(end)) = (start, tail.len().checked_sub(TRAILER)) else { return };
    let (count, frame_bytes) = (end..end + 4, end + 8..end + 16);
    if start > end {
        return;
    }
    let mut crc = crc32fast::Hasher::new();
    for part in [start..end, count, frame_bytes.start..tail.len()] {
        crc.update(&tail[part]);
    }
    tail[end + 4..end + 8].copy_from_slice(&crc.finalize().to_le_bytes());
}
