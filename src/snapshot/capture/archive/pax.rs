//! Extended headers of tar archives (`pax(1)`, POSIX.1-2001).

use std::io::{self, Read};

use tar::{Entry, PaxExtension};

use crate::snapshot::format::Mtime;

/// What an extended header says and the header doesn't.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) mtime: Option<Mtime>,
    pub(super) sparse: Option<Sparse>,
}

/// A sparse file as GNU tar writes it into a pax archive: see "Storing Sparse Files" in its manual.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The name of the file, where the header has another one.
    pub(super) name: Option<Vec<u8>>,
    /// Its length with the holes, in bytes.
    pub(super) size: Option<u64>,
    /// Where its data belong, in bytes: offset and length.
    pub(super) map: Vec<(u64, u64)>,
    /// Whether the map is written before the data.
    pub(super) map_in_data: bool,
}

impl Pax {
    pub(super) fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let mut pax = Self::default();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            pax.add(&extension?).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(pax)
    }

    fn add(&mut self, extension: &PaxExtension<'_>) -> Option<()> {
        let value = extension.value_bytes();
        let text = || extension.value().ok();
        match extension.key_bytes() {
            b"mtime" => self.mtime = Some(time(text()?)?),
            b"GNU.sparse.major" => self.sparse().map_in_data = text()? != "0",
            b"GNU.sparse.name" => self.sparse().name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse().size = Some(text()?.parse().ok()?);
            }
            b"GNU.sparse.offset" => {
                let offset = text()?.parse().ok()?;
                self.sparse().map.push((offset, 0));
            }
            b"GNU.sparse.numbytes" => {
                self.sparse().map.last_mut()?.1 = text()?.parse().ok()?;
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> =
                    text()?.split(',').map(|number| number.parse().ok()).collect();
                let numbers = numbers?;
                let (pairs, _) = numbers.as_chunks::<2>();
                self.sparse().map = pairs.iter().map(|[offset, len]| (*offset, *len)).collect();
            }
            _ => {}
        }
        Some(())
    }

    fn sparse(&mut self) -> &mut Sparse {
        self.sparse.get_or_insert_default()
    }
}

/// A time as a pax header has it: seconds with a fraction, before or after 1970.
fn time(text: &str) -> Option<Mtime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits =
        Some(fraction).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let digits = &digits[..digits.len().min(9)];
    let nanos = if digits.is_empty() { 0 } else { digits.parse::<u32>().ok()? };
    let nanos = nanos * 10_u32.pow(9 - u32::try_from(digits.len()).ok()?);
    if whole.starts_with('-') && nanos > 0 {
        return Some(Mtime { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Mtime { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_on_both_sides_of_1970() {
        for (text, seconds, nanos) in [
            ("1700000000", 1_700_000_000, 0),
            ("1700000000.5", 1_700_000_000, 500_000_000),
            ("1.1234567891", 1, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
        ] {
            assert_eq!(time(text), Some(Mtime { seconds, nanos }), "{text}");
        }
        for wrong in ["", "x", "1.x", "1.+5", "1.5e3", "99999999999999999999"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
