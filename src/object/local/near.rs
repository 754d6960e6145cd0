//! The kernel's memory as the place near a local disk.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::ops::Range;

use async_trait::async_trait;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::task::spawn_blocking;

use super::LocalStore;
use crate::error::{IoContext as _, Result};
use crate::object::{Brought, Near, Place};

/// How much is read at a time, in bytes: what is there is told apart from what isn't as finely.
const STEP: usize = 128 << 10;

#[async_trait]
impl Near for LocalStore {
    fn place(&self) -> Place {
        Place::Memory
    }

    /// Half of what is available: what is read through a mount is in memory a second time.
    fn room(&self) -> u64 {
        let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        available(&table).unwrap_or(0) / 2
    }

    async fn bring(&self, key: &str, range: Range<u64>) -> Result<Brought> {
        let (file, _) = self.open_object(key)?;
        let brought = spawn_blocking(move || bring(&file, range)).await;
        let brought = brought.map_err(io::Error::other).flatten();
        brought.context(|| format!("object {key} can't be read"))
    }
}

/// Reads what isn't in memory, and counts.
fn bring(file: &File, range: Range<u64>) -> io::Result<Brought> {
    // Nothing is read ahead, so that what is found there isn't there because of us.
    rustix::fs::fadvise(file, 0, None, Advice::Random)?;
    let (mut brought, mut at) = (Brought::default(), range.start);
    let mut buffer = vec![0; STEP];
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(STEP).min(STEP);
        let mut buffers = [IoSliceMut::new(&mut buffer[..len])];
        let read = match rustix::io::preadv2(file, &mut buffers, at, ReadWriteFlags::NOWAIT) {
            Ok(read) => {
                brought.there += read as u64;
                read
            }
            Err(Errno::AGAIN | Errno::OPNOTSUPP) => {
                let read = rustix::io::pread(file, &mut buffer[..len], at)?;
                brought.brought += read as u64;
                read
            }
            Err(error) => return Err(error.into()),
        };
        if read == 0 {
            break;
        }
        at += read as u64;
    }
    Ok(brought)
}

/// The bytes that programs can have without swapping, see `proc_meminfo(5)`.
fn available(table: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// On the disk of the sources: a file system in memory has nothing that could be brought.
    #[test]
    fn what_was_dropped_is_brought_and_then_is_there() {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let path = dir.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![7; 3 * STEP]).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let file = File::open(&path).unwrap();
        let all = 3 * STEP as u64;
        let first = bring(&file, 0..all).unwrap();
        assert_eq!(first.there + first.brought, all);
        assert!(first.brought > 0, "{first:?}");
        let again = bring(&file, 0..u64::MAX).unwrap();
        assert_eq!(again, Brought { there: all, brought: 0 });
    }

    #[test]
    fn available_memory_is_read_from_the_kernels_table() {
        let table = "MemTotal:       2000 kB\nMemAvailable:       1000 kB\n";
        assert_eq!(available(table), Some(1000 << 10));
        assert_eq!(available(""), None);
    }
}
