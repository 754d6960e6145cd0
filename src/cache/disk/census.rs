//! What is on disk now: found by looking, since several processes and crashes change it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use data_encoding::HEXLOWER;

use super::layout::{NAME, TAIL_SUFFIX};

/// The names of files, without what tells the tail from the bytes.
pub(super) type Name = [u8; NAME / 2];

/// One object on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: Name,
    /// When it was last used, in seconds.
    pub(super) used: u64,
    /// The room that its files take, in bytes.
    pub(super) room: u64,
}

impl Record {
    pub(super) fn file_name(&self) -> String {
        HEXLOWER.encode(&self.name)
    }
}

/// Looks at all that is kept in a cache, in the order of names.
pub(super) fn take(root: &Path) -> io::Result<Vec<Record>> {
    let mut all = Vec::new();
    for shelf in 0..=u8::MAX {
        let mut found = Vec::new();
        match fs::read_dir(root.join(HEXLOWER.encode(&[shelf]))) {
            Ok(entries) => {
                for entry in entries {
                    found.extend(record(&entry?)?);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        found.sort_unstable_by_key(|record| record.name);
        found.dedup_by(|later, first| {
            let same = later.name == first.name;
            if same {
                first.used = first.used.max(later.used);
                first.room += later.room;
            }
            same
        });
        all.append(&mut found);
    }
    Ok(all)
}

/// What one file adds; nothing if it isn't ours, or was removed in the meantime.
fn record(entry: &fs::DirEntry) -> io::Result<Option<Record>> {
    let file = entry.file_name();
    let name = file.to_str().map(|name| name.strip_suffix(TAIL_SUFFIX).unwrap_or(name));
    let decoded = name.and_then(|name| HEXLOWER.decode(name.as_bytes()).ok());
    let Some(name) = decoded.and_then(|bytes| Name::try_from(bytes).ok()) else { return Ok(None) };
    match entry.metadata() {
        Ok(metadata) => Ok(Some(Record {
            name,
            used: u64::try_from(metadata.mtime()).unwrap_or(0),
            room: metadata.blocks() * 512,
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
