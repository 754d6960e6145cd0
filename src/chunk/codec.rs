//! How a frame's bytes are stored: as they are, or compressed where a probe says that it pays.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use crate::object::buffers::Buffers;

/// The level of zstd: higher ones cost more time than the disk saves.
const LEVEL: i32 = 1;

/// How much of a frame is compressed to learn whether the rest is worth it, in bytes.
const PROBE: usize = 4096;

/// How a frame's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    Raw,
    /// As one zstd frame (RFC 8878).
    Zstd,
}

impl Codec {
    /// The codec of a byte in a pack or page; `None` when there is no such codec.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The byte that stands for it in packs and pages.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    /// Turns stored bytes into the `plain_len` bytes they stand for.
    ///
    /// # Errors
    /// `InvalidData` when they stand for anything else.
    pub(super) fn decode(
        self,
        buffers: &Buffers,
        stored: Bytes,
        plain_len: usize,
    ) -> io::Result<Bytes> {
        let plain = match self {
            Self::Raw => stored,
            Self::Zstd => decompress(buffers, &stored, plain_len)?,
        };
        if plain.len() == plain_len { Ok(plain) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Chooses the codec of a frame and applies it.
pub(super) fn encode(plain: Bytes) -> (Codec, Bytes) {
    let pays = |plain: &[u8], compressed: &[u8]| compressed.len() < plain.len() - plain.len() / 8;
    let probe = &plain[..plain.len().min(PROBE)];
    let worth_it = compress(probe).is_ok_and(|compressed| pays(probe, &compressed));
    if worth_it
        && let Ok(compressed) = compress(&plain)
        && pays(&plain, &compressed)
    {
        return (Codec::Zstd, compressed.into());
    }
    (Codec::Raw, plain)
}

fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    thread_local! {
        // A context takes longer to make than a small frame to compress.
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|slot| match slot {
        Some(compressor) => compressor.compress(plain),
        None => slot.insert(Compressor::new(LEVEL)?).compress(plain),
    })
}

fn decompress(buffers: &Buffers, stored: &[u8], plain_len: usize) -> io::Result<Bytes> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let mut plain = buffers.take_to_overwrite(plain_len);
    let len = DECOMPRESSOR.with_borrow_mut(|slot| match slot {
        Some(decompressor) => decompressor.decompress_to_buffer(stored, &mut plain[..]),
        None => slot.insert(Decompressor::new()?).decompress_to_buffer(stored, &mut plain[..]),
    })?;
    plain.truncate(len);
    Ok(buffers.lend(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_compressed_and_noise_is_not() {
        let text: Bytes = b"one,two,three\n".repeat(1000).into();
        let (codec, stored) = encode(text.clone());
        assert_eq!(codec, Codec::Zstd);
        assert!(stored.len() < text.len() / 4);
        assert_eq!(codec.decode(&Buffers::default(), stored, text.len()).unwrap(), text);

        let mut noise = vec![0; 14_000];
        getrandom::fill(&mut noise).unwrap();
        let (codec, stored) = encode(noise.clone().into());
        assert_eq!((codec, &stored[..]), (Codec::Raw, &noise[..]));
    }

    #[test]
    fn bytes_that_do_not_decode_are_an_error() {
        let (codec, stored) = encode(Bytes::from(vec![7; 5000]));
        assert_eq!(codec, Codec::Zstd);
        for len in [0, 4999, 5001] {
            assert!(codec.decode(&Buffers::default(), stored.clone(), len).is_err(), "{len}");
        }
        assert!(codec.decode(&Buffers::default(), stored.slice(1..), 5000).is_err());
        assert!(codec.decode(&Buffers::default(), stored.slice(..stored.len() - 1), 5000).is_err());
        assert!(Codec::Raw.decode(&Buffers::default(), stored, 5000).is_err());
    }
}
