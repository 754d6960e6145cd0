//! Reads frames, and ranges of the files that are made of them.

use std::ops::Range;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{Area, Codec, Footer, Id, Packs, Place, Run, Stored, damaged, decode, slice};
use crate::error::{Error, ErrorKind, Result};

impl Packs {
    /// Reads a whole frame and checks it against its id.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing or the bytes aren't what they were.
    pub async fn frame(&self, area: Area, pack: &Id, place: &Place, id: &Id) -> Result<Bytes> {
        let key = area.key(pack);
        let stored = self.get(&key, place.range()).await?;
        decode(&key, place, id, stored)
    }

    /// Reads `range` of the bytes of a data frame; shorter where the frame ends.
    ///
    /// Bytes that aren't compressed and not all asked for are read without a check.
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
        let whole = range == (0..len);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if place.codec == Codec::Raw {
            let start = u64::from(place.offset);
            let key = Area::Data.key(pack);
            let bytes = self.get(&key, start + range.start..start + range.end).await?;
            return if whole { decode(&key, place, id, bytes) } else { Ok(bytes) };
        }
        let plain = if whole {
            self.frame(Area::Data, pack, place, id).await?
        } else {
            self.decoded(pack, place, id).await?
        };
        slice(&plain, &range).ok_or_else(|| damaged(&Area::Data.key(pack), "a frame is too short"))
    }

    /// Reads `range` of the bytes of a run, in pieces that follow each other.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing, has no such frames, or the bytes aren't what they were.
    pub async fn read_run(&self, run: &Run, range: Range<u64>) -> Result<Vec<Bytes>> {
        let footer = self.footer(&run.pack).await?;
        let key = Area::Data.key(&run.pack);
        let frames = footer
            .run(run)
            .ok_or_else(|| damaged(&key, "frames that a file needs aren't in it"))?;
        let mut pieces = Vec::new();
        let mut neighbours = Vec::new();
        let mut start = 0;
        for frame in frames {
            let len = u64::from(frame.place.plain_len);
            let wanted = range.start.saturating_sub(start).min(len)
                ..range.end.saturating_sub(start).min(len);
            start += len;
            if wanted.is_empty() {
                continue;
            }
            if frame.place.codec == Codec::Raw {
                neighbours.push((frame, wanted));
                continue;
            }
            self.read_raw(&key, &mut neighbours, &mut pieces).await?;
            pieces.push(self.read(&run.pack, &frame.place, &frame.id, wanted).await?);
        }
        self.read_raw(&key, &mut neighbours, &mut pieces).await?;
        Ok(pieces)
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
    async fn read_raw(
        &self,
        key: &str,
        parts: &mut Vec<(&Stored, Range<u64>)>,
        pieces: &mut Vec<Bytes>,
    ) -> Result<()> {
        let (Some((first, head)), Some((last, tail))) = (parts.first(), parts.last()) else {
            return Ok(());
        };
        let start = first.place.range().start + head.start;
        let end = last.place.range().start + tail.end;
        let bytes = self.get(key, start..end).await?;
        for (frame, part) in parts.drain(..) {
            let at = frame.place.range().start + part.start - start;
            let len = part.end - part.start;
            let stored = slice(&bytes, &(at..at + len));
            let stored = stored.ok_or_else(|| damaged(key, "it is too short"))?;
            if len == u64::from(frame.place.plain_len) {
                decode(key, &frame.place, &frame.id, stored)?;
            }
        }
        pieces.push(bytes);
        Ok(())
    }

    /// Reads a whole pack and checks every byte of it.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing or anything in it isn't what it was.
    pub async fn verify(&self, area: Area, pack: &Id) -> Result<Footer> {
        let key = area.key(pack);
        let bytes = self.get(&key, 0..u64::MAX).await?;
        let id = *pack;
        let checked = spawn_blocking(move || check(&key, &id, &bytes)).await;
        checked.map_err(|error| Error::new(ErrorKind::Io, "a check stopped").with_source(error))?
    }
}

/// Checks every byte of a pack.
fn check(key: &str, id: &Id, bytes: &Bytes) -> Result<Footer> {
    if Id::of(bytes) != *id {
        return Err(damaged(key, "its hash is another one"));
    }
    let footer = Footer::parse(bytes, bytes.len() as u64).map_err(|what| damaged(key, what))?;
    for frame in footer.frames() {
        let stored = slice(bytes, &frame.place.range());
        let stored = stored.ok_or_else(|| damaged(key, "a frame lies outside"))?;
        decode(key, &frame.place, &frame.id, stored)?;
    }
    Ok(footer)
}
