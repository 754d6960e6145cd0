//! Archives: whatever somebody makes a dataset of.
//!
//! What a capture of one takes in is a version like any other: it can be read to its end, and no
//! name in it leads elsewhere.
#![no_main]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use atelier::chunk::Packs;
use atelier::object::memory::MemoryStore;
use atelier::snapshot::{Archive, Capture, Content, Version};
use futures_util::TryStreamExt as _;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long one may take: its holes may be as long as they like.
const PATIENCE: Duration = Duration::from_secs(2);

/// Length of a tar's blocks, in bytes.
const BLOCK: usize = 512;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("it starts"));

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    let (_file, path) = kept(&bytes);
    let Ok(archive) = Archive::open(&path) else { return };
    // Nobody waits for one that takes too long.
    let _ = RUNTIME.block_on(async { timeout(PATIENCE, capture(archive)).await });
});

async fn capture(archive: Archive) {
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let Ok(captured) = Capture::new().archive(archive).run(&packs).await else { return };
    let version = Version::open(packs, captured.root).await.expect("it was just made");
    let entries: Vec<_> = version.entries().try_collect().await.expect("its pages are whole");
    for named in &entries {
        let parts = named.directory.split(|byte| *byte == b'/').chain([&named.name[..]]);
        for part in parts.filter(|part| !part.is_empty()) {
            assert!(part != b"." && part != b"..", "{named:?}");
            assert!(!part.contains(&0) && !part.contains(&b'/'), "{named:?}");
        }
        if !matches!(named.entry.content, Content::Directory | Content::Symlink(_)) {
            let content = &named.entry.content;
            let read = version.read_content(content, 0..u64::MAX).await;
            assert_eq!(read.expect("it is there").len() as u64, content.len());
        }
    }
}

/// Puts the checksums of what looks like the headers of a tar right: else none would be read.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// A file of these bytes, which is gone when it is dropped.
fn kept(bytes: &[u8]) -> (File, PathBuf) {
    let memory = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.expect("there is memory"));
    file.write_all(bytes).expect("there is memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (file, path.into())
}
