//! The format of a pack.
//!
//! ```text
//! frame … frame            stored bytes, one after another
//! record … record          41 bytes a frame, in order:
//!   stored length  u32
//!   plain length   u32
//!   codec          u8      0 raw, 1 zstd
//!   id             32      BLAKE3 of the plain bytes
//! trailer                  24 bytes:
//!   frames         u32     how many
//!   CRC32          u32     of the records, then of the other 20 bytes of the trailer
//!   frame bytes    u64     how many before the first record
//!   version        u16     1
//!   magic          6       "ATPACK"
//! ```
//!
//! Numbers are little-endian. The object is named by the BLAKE3 of all of it. Version and magic end
//! a pack of any version, so that one of a later version is known to be that and not damaged.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::codec::{self, Codec};
use super::{Flaw, Id, Run};
use crate::error::{Error, ErrorKind};
use crate::object::direct::room_for;

/// A pack is complete when its frames take this much, in bytes.
pub const TARGET_LEN: usize = 32 << 20;

/// A pack is complete when it has this many frames, so that its footer stays below 700 KiB.
pub const MAX_FRAMES: usize = 1 << 14;

/// No frame is larger, in bytes: a damaged length shall not exhaust the memory.
pub const MAX_FRAME_LEN: u32 = 64 << 20;

/// Room for a complete pack: for its last frame, too, and for its footer.
const ROOM: usize = TARGET_LEN + (2 << 20);

/// Room for the first frames of a pack that may remain a small one, in bytes.
const FIRST_ROOM: usize = 1 << 20;

/// Length of a record in bytes.
const RECORD_LEN: usize = 4 + 4 + 1 + Id::LEN;

/// Length of the trailer in bytes.
const TRAILER_LEN: usize = 24;

const VERSION: u16 = 1;
const MAGIC: &[u8; 6] = b"ATPACK";

/// Bytes that are ready to be stored.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The hash of the plain bytes.
    pub id: Id,
    /// Length of the plain bytes.
    pub plain_len: u32,
    /// How they are stored.
    pub codec: Codec,
    /// The stored bytes.
    pub stored: Bytes,
}

impl Frame {
    /// Makes a frame of plain bytes whose hash is known.
    ///
    /// # Panics
    /// Never for what is captured: whole files and chunks are far below 4 GiB.
    pub fn new(id: Id, plain: Bytes) -> Self {
        let plain_len = u32::try_from(plain.len()).expect("a frame is a small file or a chunk");
        let (codec, stored) = codec::encode(plain);
        Self { id, plain_len, codec, stored }
    }
}

/// Where a frame lies in its pack, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where its stored bytes begin, in bytes.
    pub offset: u32,
    /// Length as it is stored.
    pub stored_len: u32,
    /// Length when decoded.
    pub plain_len: u32,
    /// How it is stored.
    pub codec: Codec,
}

impl Place {
    /// The stored bytes in the pack.
    pub fn range(&self) -> std::ops::Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.stored_len)
    }

    /// Whether this can be a place in a pack.
    pub fn is_sane(&self) -> bool {
        self.plain_len <= MAX_FRAME_LEN
            && self.stored_len <= MAX_FRAME_LEN
            && (self.codec != Codec::Raw || self.stored_len == self.plain_len)
    }
}

/// A frame in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The hash of the plain bytes.
    pub id: Id,
    /// Where they are.
    pub place: Place,
}

/// Collects the frames of a pack.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: BytesMut,
    frames: Vec<Stored>,
}

impl Builder {
    /// Collects them in this buffer, whatever it holds.
    pub(super) fn within(mut buffer: BytesMut) -> Self {
        buffer.clear();
        Self { bytes: buffer, frames: Vec::new() }
    }

    /// Adds a frame and tells where it lies.
    ///
    /// # Panics
    /// Never below 4 GiB: a pack is complete long before.
    pub fn push(&mut self, frame: &Frame) -> Stored {
        let len = |len: usize| u32::try_from(len).expect("a pack is far below 4 GiB");
        let place = Place {
            offset: len(self.bytes.len()),
            stored_len: len(frame.stored.len()),
            plain_len: frame.plain_len,
            codec: frame.codec,
        };
        if self.bytes.capacity() < self.bytes.len() + frame.stored.len() {
            self.grow(frame.stored.len());
        }
        self.bytes.extend_from_slice(&frame.stored);
        let stored = Stored { id: frame.id, place };
        self.frames.push(stored);
        stored
    }

    /// Makes room for so many bytes more. What nobody writes to takes no memory, so that there are
    /// only two sizes.
    fn grow(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        let len = if needed <= FIRST_ROOM { FIRST_ROOM } else { needed.max(ROOM) };
        let mut larger = room_for(len);
        larger.extend_from_slice(&self.bytes);
        self.bytes = larger;
    }

    /// How many frames there are.
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    /// The bytes of the frames so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Ends the pack: its id and its bytes.
    ///
    /// # Panics
    /// Never below 2^32 frames: a pack is complete long before.
    pub fn finish(mut self) -> (Id, Bytes) {
        let frame_bytes = self.bytes.len();
        for Stored { id, place } in &self.frames {
            self.bytes.put_u32_le(place.stored_len);
            self.bytes.put_u32_le(place.plain_len);
            self.bytes.put_u8(place.codec.to_byte());
            self.bytes.put_slice(id.as_bytes());
        }
        let frames = u32::try_from(self.frames.len()).expect("a pack is far below 4 GiB");
        let trailer = trailer(frames, frame_bytes as u64);
        let crc = crc_of(&self.bytes[frame_bytes..], &trailer);
        self.bytes.put_slice(&trailer[..4]);
        self.bytes.put_u32_le(crc);
        self.bytes.put_slice(&trailer[4..]);
        let bytes = self.bytes.freeze();
        (Id::of(&bytes), bytes)
    }
}

/// A pack of the same frames and one that nobody asked for, so that it has another name.
///
/// # Errors
/// `Damaged` when it isn't a pack; `Io` when the system has no random numbers.
pub(super) fn salted(pack: &Bytes) -> Result<(Id, Bytes), Error> {
    let footer = Footer::parse(pack, pack.len() as u64).map_err(|flaw| flaw.error("a new pack"))?;
    let mut salt = vec![0; 16];
    getrandom::fill(&mut salt).map_err(|error| {
        Error::new(ErrorKind::Io, "the system has no random numbers").with_source(error)
    })?;
    let end = footer.frames.last().map_or(0, |last| last.place.range().end);
    let end = usize::try_from(end).unwrap_or(pack.len());
    let mut builder = Builder { bytes: BytesMut::from(&pack[..end]), frames: footer.frames };
    builder.push(&Frame::new(Id::of(&salt), salt.into()));
    Ok(builder.finish())
}

/// The trailer without its CRC.
fn trailer(frames: u32, frame_bytes: u64) -> [u8; TRAILER_LEN - 4] {
    let mut trailer = [0; TRAILER_LEN - 4];
    let mut out = &mut trailer[..];
    out.put_u32_le(frames);
    out.put_u64_le(frame_bytes);
    out.put_u16_le(VERSION);
    out.put_slice(MAGIC);
    trailer
}

fn crc_of(records: &[u8], trailer: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(records);
    crc.update(trailer);
    crc.finalize()
}

/// What a pack holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    frames: Vec<Stored>,
}

impl Footer {
    /// How much of the end of a pack to read at first: the footer of about 1,500 frames.
    pub const PROBE_LEN: u64 = 64 << 10;

    /// Whether the end of an object is that of a pack.
    pub(super) fn ends(tail: &[u8]) -> bool {
        tail.ends_with(MAGIC)
    }

    /// How many bytes at the end of a pack its footer takes, given the last bytes of it.
    pub fn len_in(tail: &[u8]) -> Result<u64, &'static str> {
        let mut trailer = tail
            .len()
            .checked_sub(TRAILER_LEN)
            .and_then(|start| tail.get(start..))
            .ok_or("it is too short for a pack")?;
        let frames = trailer.get_u32_le();
        Ok(u64::from(frames) * RECORD_LEN as u64 + TRAILER_LEN as u64)
    }

    /// Reads the footer out of the last bytes of a pack that is `size` bytes long.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(tail: &[u8], size: u64) -> Result<Self, Flaw> {
        // What tells the format is where it is in any of them.
        let mut number = tail.strip_suffix(MAGIC).ok_or("it isn't a pack")?;
        number = number.get(number.len().saturating_sub(2)..).unwrap_or_default();
        match number.try_get_u16_le() {
            Ok(VERSION) => {}
            Ok(later) => return Err(Flaw::Later(later)),
            Err(_) => return Err("it is too short for a pack".into()),
        }
        let footer_len = Self::len_in(tail)?;
        let start = usize::try_from(footer_len).ok().and_then(|len| tail.len().checked_sub(len));
        let footer = &tail[start.ok_or("it is too short for its frames")?..];
        let (mut records, end) = footer.split_at(footer.len() - TRAILER_LEN);
        let mut fields = end;
        let count = fields.get_u32_le();
        let crc = fields.get_u32_le();
        let frame_bytes = fields.get_u64_le();
        if crc_of(records, &trailer(count, frame_bytes)) != crc {
            return Err("its footer doesn't match its checksum".into());
        }
        let mut frames = Vec::with_capacity(records.len() / RECORD_LEN);
        let mut offset = 0_u32;
        while records.has_remaining() {
            let (stored_len, plain_len) = (records.get_u32_le(), records.get_u32_le());
            let codec = Codec::from_byte(records.get_u8()).ok_or("a frame's codec is unknown")?;
            let mut id = [0; Id::LEN];
            records.copy_to_slice(&mut id);
            let place = Place { offset, stored_len, plain_len, codec };
            if !place.is_sane() {
                return Err("a frame's length makes no sense".into());
            }
            frames.push(Stored { id: id.into(), place });
            offset = offset.checked_add(stored_len).ok_or("its frames are too long")?;
        }
        if u64::from(offset) != frame_bytes || frame_bytes.checked_add(footer_len) != Some(size) {
            return Err("its length isn't that of its frames".into());
        }
        Ok(Self { frames })
    }

    /// The frames, in order.
    pub fn frames(&self) -> &[Stored] {
        &self.frames
    }

    /// The frames of a run; `None` when they aren't here or have another length.
    pub fn run<P>(&self, run: &Run<P>) -> Option<&[Stored]> {
        let first = run.first as usize;
        let frames = self.frames.get(first..first.checked_add(run.count as usize)?)?;
        let len: u64 = frames.iter().map(|frame| u64::from(frame.place.plain_len)).sum();
        (len == run.len).then_some(frames)
    }

    /// What it takes in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.frames.capacity() * size_of::<Stored>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::object::buffers::Buffers;

    fn pack_of(plains: &[Vec<u8>]) -> (Vec<Stored>, Bytes) {
        let mut builder = Builder::default();
        let stored = plains
            .iter()
            .map(|plain| builder.push(&Frame::new(Id::of(plain), plain.clone().into())))
            .collect();
        (stored, builder.finish().1)
    }

    /// The bytes are a promise: packs of today must be readable for ever.
    #[test]
    fn a_pack_is_these_bytes() {
        let expected = [
            "68656c6c6f",
            "0500000005000000",
            "00",
            "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f",
            "01000000",
            "752fac58",
            "0500000000000000",
            "0100",
            "41545041434b",
        ];
        let (stored, bytes) = pack_of(&[b"hello".to_vec()]);
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), expected.concat());
        assert_eq!(Footer::parse(&bytes, bytes.len() as u64).unwrap().frames(), stored);
    }

    /// zstd may come to compress otherwise; what it once made stays readable.
    #[test]
    fn a_pack_of_these_bytes_reads() {
        let plains = [b"hello".to_vec(), vec![b'a'; 2000], Vec::new()];
        let zstd = "28b52ffd60d006833e0061";
        let ids = plains.each_ref().map(|plain| Id::of(plain).to_string());
        let records = [
            ["0500000005000000", "00", &ids[0]].concat(),
            ["0b000000d0070000", "01", &ids[1]].concat(),
            ["0000000000000000", "00", &ids[2]].concat(),
        ];
        let trailer = ["03000000", "dab0796f", "1000000000000000", "0100", "41545041434b"];
        let hex = ["68656c6c6f", zstd, &records.concat(), &trailer.concat()].concat();
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        let footer = Footer::parse(&bytes, bytes.len() as u64).unwrap();
        let bytes = Bytes::from(bytes);
        for (frame, plain) in footer.frames().iter().zip(&plains) {
            let start = frame.place.offset as usize;
            let stored = bytes.slice(start..start + frame.place.stored_len as usize);
            let decoded =
                frame.place.codec.decode(&Buffers::default(), stored, plain.len()).unwrap();
            assert_eq!((&decoded[..], frame.id), (&plain[..], Id::of(plain)));
        }
        assert_eq!(footer.frames().len(), plains.len());
    }

    #[test]
    fn a_pack_of_a_later_version_is_known_to_be_that() {
        let (_, bytes) = pack_of(&[b"hello".to_vec()]);
        let mut later = bytes.to_vec();
        let version = later.len() - MAGIC.len() - 2;
        later[version] = 2;
        assert_eq!(Footer::parse(&later, later.len() as u64), Err(Flaw::Later(2)));
    }

    #[test]
    fn a_changed_byte_in_the_footer_is_found() {
        let (_, bytes) = pack_of(&[b"hello".to_vec(), vec![b'a'; 2000]]);
        let footer_len = usize::try_from(Footer::len_in(&bytes).unwrap()).unwrap();
        for at in bytes.len() - footer_len..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert!(Footer::parse(&changed, changed.len() as u64).is_err(), "byte {at}");
        }
        assert!(Footer::parse(&bytes, bytes.len() as u64 + 1).is_err());
    }

    #[test]
    fn a_salted_pack_has_the_same_frames_and_another_name() {
        let (stored, bytes) = pack_of(&[b"hello".to_vec(), vec![b'a'; 2000]]);
        let (id, salted) = salted(&bytes).unwrap();
        assert_ne!(id, Id::of(&bytes));
        let footer = Footer::parse(&salted, salted.len() as u64).unwrap();
        assert_eq!(footer.frames()[..2], stored);
        assert_eq!(footer.frames().len(), 3);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_found(plains in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20)) {
            let (stored, bytes) = pack_of(&plains);
            let footer = Footer::parse(&bytes, bytes.len() as u64).unwrap();
            prop_assert_eq!(footer.frames(), &stored[..]);
            for (plain, Stored { id, place }) in plains.iter().zip(stored) {
                let start = place.offset as usize;
                let stored = bytes.slice(start..start + place.stored_len as usize);
                let decoded = place.codec.decode(&Buffers::default(), stored, place.plain_len as usize).unwrap();
                prop_assert_eq!(&decoded[..], &plain[..]);
                prop_assert_eq!(Id::of(&decoded), id);
            }
        }

        #[test]
        fn a_truncated_pack_is_an_error(len in 0_usize..200) {
            let (_, bytes) = pack_of(&[b"hello".to_vec(), vec![b'a'; 2000]]);
            let len = len.min(bytes.len() - 1);
            prop_assert!(Footer::parse(&bytes[..len], len as u64).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), frames in 0_u32..4, valid: bool) {
            if valid && bytes.len() >= TRAILER_LEN {
                // A footer whose checksum is right gets further.
                let at = bytes.len() - TRAILER_LEN;
                let frame_bytes = u64::from(bytes[0]);
                let records = at.saturating_sub(frames as usize * RECORD_LEN);
                let end = trailer(frames, frame_bytes);
                let crc = crc_of(&bytes[records..at], &end);
                bytes.truncate(at);
                bytes.extend_from_slice(&end[..4]);
                bytes.extend_from_slice(&crc.to_le_bytes());
                bytes.extend_from_slice(&end[4..]);
            }
            let _ = Footer::parse(&bytes, bytes.len() as u64);
        }
    }
}
