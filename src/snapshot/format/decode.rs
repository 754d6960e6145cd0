//! Reads numbers, bytes and times out of bytes that may be anything.

use bytes::Bytes;

use crate::chunk::{Codec, Flaw, Id, Place};

use super::Mtime;

/// What can be wrong with bytes.
pub(super) type Result<T> = std::result::Result<T, &'static str>;

/// Bytes that are read from the front.
pub(super) struct Decoder<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Reads what follows the magic, whose last byte is the format's number.
    pub(super) fn new(bytes: &'a Bytes, magic: [u8; 5]) -> std::result::Result<Self, Flaw> {
        let [name @ .., known] = &magic;
        let found = bytes.strip_prefix(name).ok_or("it isn't what it should be")?;
        match found.first() {
            Some(found) if found == known => Ok(Self { bytes, at: magic.len() }),
            Some(later) => Err(Flaw::Later((*later).into())),
            None => Err("it ends early".into()),
        }
    }

    /// Reads from a place that was reached before.
    pub(super) fn resume(bytes: &'a Bytes, at: usize) -> Self {
        Self { bytes, at }
    }

    /// How much was read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn end(self) -> Result<()> {
        if self.at == self.bytes.len() { Ok(()) } else { Err("it is longer than it says") }
    }

    /// The next bytes, without making them anybody's own.
    pub(super) fn slice(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let slice = rest.get(..len).ok_or("it ends early")?;
        self.at += len;
        Ok(slice)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<Bytes> {
        let start = self.at;
        self.slice(len)?;
        Ok(self.bytes.slice(start..self.at))
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or("it ends early")?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err("a number is too large, or longer than it need be");
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number is too long")
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.u64()?.try_into().map_err(|_| "a number is too large")
    }

    pub(super) fn signed(&mut self) -> Result<i64> {
        let number = self.u64()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes> {
        let len = self.len()?;
        self.take(len)
    }

    /// The same as [`bytes`](Self::bytes), without making them anybody's own.
    pub(super) fn borrowed(&mut self) -> Result<&'a [u8]> {
        let len = self.len()?;
        self.slice(len)
    }

    fn len(&mut self) -> Result<usize> {
        self.u64()?.try_into().map_err(|_| "it ends early")
    }

    pub(super) fn id(&mut self) -> Result<Id> {
        let hash: [u8; Id::LEN] = self.slice(Id::LEN)?.try_into().map_err(|_| "it ends early")?;
        Ok(hash.into())
    }

    pub(super) fn mtime(&mut self) -> Result<Mtime> {
        let mtime = Mtime { seconds: self.signed()?, nanos: self.u32()? };
        if mtime.nanos < 1_000_000_000 { Ok(mtime) } else { Err("a time makes no sense") }
    }

    pub(super) fn mode(&mut self) -> Result<u32> {
        let mode = self.u32()?;
        if mode <= 0o7777 { Ok(mode) } else { Err("a mode makes no sense") }
    }

    pub(super) fn place(&mut self) -> Result<Place> {
        let (offset, stored_len, plain_len) = (self.u32()?, self.u32()?, self.u32()?);
        let codec = Codec::from_byte(self.byte()?).ok_or("a frame's codec is unknown")?;
        let place = Place { offset, stored_len, plain_len, codec };
        if place.is_sane() { Ok(place) } else { Err("a frame's length makes no sense") }
    }

    /// A number of things and that many of them, each of which takes at least a byte.
    pub(super) fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.u64()?;
        let left = self.bytes.len() - self.at;
        let count = usize::try_from(count).ok().filter(|count| *count <= left);
        (0..count.ok_or("it ends early")?).map(|_| one(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::format::encode;

    proptest! {
        #[test]
        fn numbers_come_back(number: u64, signed: i64) {
            let mut bytes = Vec::new();
            encode::number(&mut bytes, number);
            encode::signed(&mut bytes, signed);
            let bytes = bytes.into();
            let mut decoder = Decoder::resume(&bytes, 0);
            prop_assert_eq!(decoder.u64().unwrap(), number);
            prop_assert_eq!(decoder.signed().unwrap(), signed);
            prop_assert!(decoder.end().is_ok());
        }

        #[test]
        fn a_number_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(number) = Decoder::resume(&bytes.clone().into(), 0).u64() {
                let mut again = Vec::new();
                encode::number(&mut again, number);
                prop_assert!(bytes.starts_with(&again));
            }
        }
    }
}
