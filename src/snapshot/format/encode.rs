//! Writes numbers, bytes and times.

use crate::chunk::{Id, Place};

use super::Mtime;

/// An unsigned number as LEB128.
pub(super) fn number(out: &mut Vec<u8>, number: impl Into<u64>) {
    let mut rest = number.into();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

/// A signed number, zigzag.
pub(super) fn signed(out: &mut Vec<u8>, signed: i64) {
    number(out, (signed.cast_unsigned() << 1) ^ (signed >> 63).cast_unsigned());
}

/// A length and that many bytes.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// An id.
pub(super) fn id(out: &mut Vec<u8>, id: &Id) {
    out.extend_from_slice(id.as_bytes());
}

/// A time.
pub(super) fn mtime(out: &mut Vec<u8>, mtime: Mtime) {
    signed(out, mtime.seconds);
    number(out, mtime.nanos);
}

/// Where a frame lies.
pub(super) fn place(out: &mut Vec<u8>, place: &Place) {
    number(out, place.offset);
    number(out, place.stored_len);
    number(out, place.plain_len);
    out.push(place.codec.to_byte());
}
