//! Where programs begin to read a file, by what its name says of its format.

use std::ops::Range;

/// Formats that are read from an index at their end, after a glance at their first bytes.
const INDEXED: &[&str] = &["parquet", "arrow", "feather", "zip", "npz", "pt", "pth", "whl", "jar"];

/// What the glance brings, and what holds most indexes: `pyarrow` asks for 64 KiB first.
const GLANCE: u64 = 16 << 10;
const INDEX: u64 = 256 << 10;

/// How programs begin to read an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tree::bucket) enum Beginning {
    /// At its start, and then on.
    #[default]
    InOrder,
    /// At the index at its end, and then anywhere.
    AtIndex,
}

impl Beginning {
    /// What the key of an object says.
    pub(in crate::tree::bucket) fn of(key: &str) -> Self {
        let extension = key.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        match extension {
            Some(extension) if INDEXED.contains(&&*extension) => Self::AtIndex,
            _ => Self::InOrder,
        }
    }

    /// What to ask for when the file is opened, all of it at once.
    pub(in crate::tree::bucket) fn ranges(self, size: u64) -> Vec<Range<u64>> {
        match self {
            Self::InOrder => Vec::new(),
            Self::AtIndex if size <= INDEX => vec![0..size],
            Self::AtIndex => vec![0..GLANCE, size - INDEX..size],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_where_the_index_is() {
        for (key, beginning) in [
            ("a/b.parquet", Beginning::AtIndex),
            ("a/B.ZIP", Beginning::AtIndex),
            ("a.parquet/b", Beginning::InOrder),
            ("parquet", Beginning::InOrder),
            ("a.csv", Beginning::InOrder),
        ] {
            assert_eq!(Beginning::of(key), beginning, "{key}");
        }
    }

    #[test]
    fn an_index_is_asked_for_with_the_first_bytes() {
        assert_eq!(Beginning::AtIndex.ranges(1 << 20), [0..GLANCE, (1 << 20) - INDEX..1 << 20]);
        assert_eq!(Beginning::AtIndex.ranges(1000), [0..1000]);
        assert!(Beginning::InOrder.ranges(1 << 20).is_empty());
    }
}
