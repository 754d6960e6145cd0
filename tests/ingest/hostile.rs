//! Archives that somebody made to do harm: `tests/fuzz` tries many more.

use std::io::{Read as _, Write as _};

use atelier::chunk::Packs;
use atelier::error::{ErrorKind, Result};
use atelier::object::memory::MemoryStore;
use atelier::snapshot::{Archive, Capture, Content};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::TryStreamExt as _;
use proptest::prelude::*;
use tar::{EntryType, Header};
use tokio::runtime::Runtime;

use super::*;

/// What the mutations begin with: each format with each kind of entry.
const SEEDS: [&[u8]; 6] = [
    include_bytes!("../fuzz/seeds/archive/ustar"),
    include_bytes!("../fuzz/seeds/archive/gnu"),
    include_bytes!("../fuzz/seeds/archive/pax"),
    include_bytes!("../fuzz/seeds/archive/gzip"),
    include_bytes!("../fuzz/seeds/archive/zstd"),
    include_bytes!("../fuzz/seeds/archive/zip"),
];

/// Takes an archive in and reads all of the version; tells the paths in it.
fn taken_in(archive: &[u8]) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive");
    fs::write(&file, archive).unwrap();
    Runtime::new().unwrap().block_on(async {
        let packs = Packs::new(Arc::new(MemoryStore::new()));
        let captured = Capture::new().archive(Archive::open(&file)?).run(&packs).await?;
        let version = Version::open(packs, captured.root).await?;
        let entries: Vec<_> = version.entries().try_collect().await?;
        let mut paths = Vec::new();
        for named in entries {
            let content = &named.entry.content;
            if !matches!(content, Content::Directory | Content::Symlink(_)) {
                let read = version.read_content(content, 0..u64::MAX).await?;
                assert_eq!(read.len() as u64, content.len());
            }
            let path = [&named.directory[..], b"/", &named.name[..]].concat();
            paths.push(String::from_utf8_lossy(&path).trim_start_matches('/').to_owned());
        }
        Ok(paths)
    })
}

fn leads_outside(path: &str) -> bool {
    path.contains('\0') || path.split('/').any(|part| part == ".." || part == ".")
}

/// Puts the checksums of what looks like the headers of a tar right: else none would be read.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn what_fuzzing_begins_with_is_taken_in() {
    for seed in SEEDS {
        let paths = taken_in(seed).unwrap();
        assert!(paths.contains(&"d/f".to_owned()) && paths.len() >= 4, "{paths:?}");
    }
    assert!(taken_in(SEEDS[2]).unwrap().contains(&"s".to_owned()), "a sparse file");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn a_mutated_archive_is_taken_in_or_refused_and_leads_nowhere(
        seed in 0..SEEDS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        name in prop::option::of("[./a\\\\]{1,12}"),
    ) {
        let mut bytes = SEEDS[seed].to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            // What makes a hole of exabytes takes as long as it says.
            if bytes[at] != b'9' {
                bytes[at] = byte;
            }
        }
        if let Some(name) = name.filter(|_| seed < 3) {
            bytes[..100].fill(0);
            bytes[..name.len()].copy_from_slice(name.as_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        mend(&mut bytes);
        if let Ok(paths) = taken_in(&bytes) {
            prop_assert!(!paths.iter().any(|path| leads_outside(path)), "{:?}", paths);
        }
    }
}

/// A compressed tar of one header of zeros that are as many as one likes.
fn bomb(kind: EntryType, len: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_entry_type(kind);
    header.set_size(len);
    header.set_cksum();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(len), &mut gzip).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn headers_without_end_are_refused_before_they_fill_the_memory() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let bomb = bomb(kind, 64 << 20);
        assert!(bomb.len() < 1 << 20);
        let error = taken_in(&bomb).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(format!("{error:?}").contains("headers are too long"), "{error:?}");
    }
    // What isn't a header may be long, whether it is taken in or left out.
    for kind in [EntryType::Regular, EntryType::Fifo] {
        let (bomb, mut bytes) = (bomb(kind, 16 << 20), Vec::new());
        flate2::read::GzDecoder::new(&bomb[..]).read_to_end(&mut bytes).unwrap();
        bytes.extend(SEEDS[0]);
        assert!(taken_in(&bytes).unwrap().contains(&"d/f".to_owned()), "{kind:?}");
    }
}
