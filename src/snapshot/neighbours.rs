//! What lies around what is read: the files that follow each other, and the rest of a chunk.

use std::ops::Range;

use bytes::Bytes;

use super::format::Content;
use super::read::Version;
use crate::error::Result;

impl Version {
    /// Whether all of it, and the store's own copy of it beside it, takes but a part of the memory
    /// that is available. It never does where the store isn't a local disk.
    pub fn fits_in_memory(&self) -> bool {
        self.totals().bytes <= self.packs().room_in_memory() / 2
    }

    /// The small files among these numbers, which follow each other in the store as well: a disk
    /// begins to read all of them.
    ///
    /// # Errors
    /// `Damaged`; those of the store.
    pub async fn expect_small_files(
        &self,
        numbers: impl IntoIterator<Item = u64>,
    ) -> Result<Vec<(u64, Content)>> {
        let mut files = Vec::new();
        for number in numbers {
            let Some((page, at)) = self.page_of(number).await? else { continue };
            match page.get(at) {
                Some((_, _, entry)) if is_small(&entry.content) => {
                    files.push((number, entry.content));
                }
                _ => {}
            }
        }
        let mut places: Vec<(_, Range<u64>)> = Vec::new();
        for (_, content) in &files {
            let Content::Frame { pack, place, .. } = content else { continue };
            match places.last_mut() {
                Some((last, range)) if last == pack && range.end == place.range().start => {
                    range.end = place.range().end;
                }
                _ => places.push((*pack, place.range())),
            }
        }
        for (pack, range) in places {
            self.packs().expect_reads(&pack, range)?;
        }
        Ok(files)
    }

    /// The chunk of a large file that has the byte at `offset`, and where it begins.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`; those of the store.
    pub async fn chunk_at(&self, number: u64, offset: u64) -> Result<Option<(u64, Bytes)>> {
        let Content::Runs { runs, .. } = self.numbered(number).await?.entry.content else {
            return Ok(None);
        };
        let mut start = 0;
        for run in runs {
            if offset < start + run.len {
                let chunk = self.packs().chunk_at(&run, offset - start).await?;
                return Ok(chunk.map(|(at, bytes)| (start + at, bytes)));
            }
            start += run.len;
        }
        Ok(None)
    }
}

/// Whether a file is one frame.
fn is_small(content: &Content) -> bool {
    matches!(content, Content::Frame { .. })
}
