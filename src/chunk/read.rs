//! Reads frames, and ranges of the files that are made of them.

use std::num::NonZeroU64;
use std::ops::Range;

use bytes::Bytes;
use rustix::fs::Advice;
use tokio::task::spawn_blocking;

use super::{Area, Codec, Id, Packs, Place, Run, Shared, Stored, damaged, slice};
use crate::cache;
use crate::error::{Error, ErrorKind, Result};
use crate::object;

/// Frames up to this length, in bytes, are decoded and checked on the thread that asks: that takes
/// about 100 us, and a hop to another thread takes part of it.
const INLINE_WORK: usize = 256 << 10;

/// A frame, and the range of its bytes that is wanted.
type Part = (Stored, Range<u64>);

impl Packs {
    /// Reads a whole frame and checks it against its id.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing or the bytes aren't what they were.
    pub async fn frame(&self, area: Area, pack: &Id, place: &Place, id: &Id) -> Result<Bytes> {
        let stored = self.get(area, pack, place.range()).await?;
        if (place.plain_len as usize) < INLINE_WORK {
            return self.decode(area, pack, place, id, stored);
        }
        let (packs, pack, place, id) = (self.clone(), *pack, *place, *id);
        aside(move || packs.decode(area, &pack, &place, &id, stored)).await
    }

    /// Reads `range` of the bytes of a data frame; shorter where the frame ends.
    ///
    /// All of the frame is read and checked, also for a part of it: no byte is handed out that
    /// isn't what it was.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing or the bytes aren't what they were.
    pub async fn read(
        &self,
        pack: &Id,
        place: &Place,
        id: &Id,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let len = u64::from(place.plain_len);
        let range = range.start.min(len)..range.end.min(len);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let plain = if range == (0..len) {
            self.frame(Area::Data, pack, place, id).await?
        } else {
            self.decoded(pack, place, id).await?
        };
        slice(&plain, &range).ok_or_else(|| damaged(&Area::Data.key(pack), "a frame is too short"))
    }

    /// Reads `range` of the bytes of a run, in pieces that follow each other; all frames that it
    /// touches are checked.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing, has no such frames, or the bytes aren't what they were.
    pub async fn read_run(&self, run: &Run, range: Range<u64>) -> Result<Vec<Bytes>> {
        let footer = self.footer(&run.pack).await?;
        let frames = footer.run(run).ok_or_else(|| {
            damaged(&Area::Data.key(&run.pack), "frames that a file needs aren't in it")
        })?;
        let mut parts = Vec::new();
        let mut start = 0;
        for frame in frames {
            let len = u64::from(frame.place.plain_len);
            let wanted = range.start.saturating_sub(start).min(len)
                ..range.end.saturating_sub(start).min(len);
            start += len;
            if !wanted.is_empty() {
                parts.push((*frame, wanted));
            }
        }
        let mut pieces = Vec::new();
        let both_raw = |one: &Part, two: &Part| [one, two].iter().all(|(frame, _)| is_raw(frame));
        for neighbours in parts.chunk_by(both_raw) {
            match neighbours {
                [(frame, wanted)] => {
                    let wanted = wanted.clone();
                    pieces.push(self.read(&run.pack, &frame.place, &frame.id, wanted).await?);
                }
                several => pieces.push(self.read_raw(&run.pack, several).await?),
            }
        }
        Ok(pieces)
    }

    /// The chunk of a run that has the byte at `at`, and where it begins in the run.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing, has no such frames, or the bytes aren't what they were.
    pub async fn chunk_at(&self, run: &Run, at: u64) -> Result<Option<(u64, Bytes)>> {
        let footer = self.footer(&run.pack).await?;
        let mut start = 0;
        for frame in footer.run(run).unwrap_or_default() {
            let len = u64::from(frame.place.plain_len);
            if at < start + len {
                let bytes = self.decoded(&run.pack, &frame.place, &frame.id).await?;
                return Ok(Some((start, bytes)));
            }
            start += len;
        }
        Ok(None)
    }

    /// Has the kernel read what will be asked for soon of a data pack that is a local file.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn expect_reads(&self, pack: &Id, range: Range<u64>) -> Result<()> {
        let Shared { store, files, .. } = &*self.0;
        let file = files.open(&**store, Area::Data, pack)?;
        if let (Some(file), Some(len)) = (file, NonZeroU64::new(range.end - range.start)) {
            // Where the kernel doesn't, the bytes are read when they are asked for.
            let _ = rustix::fs::fadvise(&*file, range.start, Some(len), Advice::WillNeed);
        }
        Ok(())
    }

    /// How many bytes of packs can be in memory at once; none where they come from afar.
    pub fn room_in_memory(&self) -> u64 {
        match self.0.store.near() {
            Some(near) if near.place() == object::Place::Memory => cache::affordable(near.room()),
            _ => 0,
        }
    }

    /// A decompressed frame, from memory where somebody has just read another part of it.
    async fn decoded(&self, pack: &Id, place: &Place, id: &Id) -> Result<Bytes> {
        let load = async {
            let plain = self.frame(Area::Data, pack, place, id).await?;
            let len = plain.len();
            Ok((plain, len))
        };
        self.0.decoded.get_or_load(*id, load).await
    }

    /// Reads parts of uncompressed frames that follow each other in one request.
    async fn read_raw(&self, pack: &Id, parts: &[Part]) -> Result<Bytes> {
        let ([(first, head), ..], [.., (last, tail)]) = (parts, parts) else {
            return Ok(Bytes::new());
        };
        let (start, end) = (first.place.range().start, last.place.range().end);
        let bytes = self.get(Area::Data, pack, start..end).await?;
        let wanted = head.start..last.place.range().start + tail.end - start;
        let (packs, pack) = (self.clone(), *pack);
        let frames: Vec<_> = parts.iter().map(|(frame, _)| *frame).collect();
        let checked = move || {
            for Stored { place, id } in frames {
                let stored = place.range().start - start..place.range().end - start;
                let stored = slice(&bytes, &stored).unwrap_or_default();
                packs.decode(Area::Data, &pack, &place, &id, stored)?;
            }
            slice(&bytes, &wanted).ok_or_else(|| damaged(&Area::Data.key(&pack), "it is too short"))
        };
        if end - start < INLINE_WORK as u64 { checked() } else { aside(checked).await }
    }
}

fn is_raw(frame: &Stored) -> bool {
    frame.place.codec == Codec::Raw
}

/// Runs what takes long on a thread that nobody waits for.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Io, "a check stopped").with_source(error))?
}
