//! Reads numbers, bytes and times out of bytes that may be anything.

use bytes::{Buf, Bytes};

use crate::chunk::{Codec, Id, Place};

use super::Mtime;

/// What can be wrong with bytes.
pub(super) type Result<T> = std::result::Result<T, &'static str>;

/// Bytes that are read from the front.
pub(super) struct Decoder(Bytes);

impl Decoder {
    /// Reads what follows these first bytes.
    pub(super) fn new(mut bytes: Bytes, magic: &[u8]) -> Result<Self> {
        if !bytes.starts_with(magic) {
            return Err("it isn't what it should be, or of a later version");
        }
        bytes.advance(magic.len());
        Ok(Self(bytes))
    }

    pub(super) fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err("it is longer than it says") }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<Bytes> {
        if len > self.0.len() { Err("it ends early") } else { Ok(self.0.split_to(len)) }
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|byte| byte[0])
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
        let len = self.u64()?.try_into().map_err(|_| "it ends early")?;
        self.take(len)
    }

    pub(super) fn id(&mut self) -> Result<Id> {
        let hash: [u8; Id::LEN] =
            self.take(Id::LEN)?[..].try_into().map_err(|_| "it ends early")?;
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
        let count = usize::try_from(count).ok().filter(|count| *count <= self.0.len());
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
            let mut decoder = Decoder(bytes.into());
            prop_assert_eq!(decoder.u64().unwrap(), number);
            prop_assert_eq!(decoder.signed().unwrap(), signed);
            prop_assert!(decoder.end().is_ok());
        }

        #[test]
        fn a_number_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(number) = Decoder(bytes.clone().into()).u64() {
                let mut again = Vec::new();
                encode::number(&mut again, number);
                prop_assert!(bytes.starts_with(&again));
            }
        }
    }
}
