//! Names in archives, which may be anything.

use bytes::Bytes;

use crate::snapshot::capture::feed::At;

/// The longest path that is taken in, in bytes: what programs can name (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;

/// The longest name that a mount can show, in bytes: `FUSE_NAME_MAX`.
const LONGEST_NAME: usize = 1024;

/// Where an entry belongs; what leads outside belongs nowhere, and the reason says so.
pub(super) fn place(name: &[u8]) -> Result<At, &'static str> {
    if name.starts_with(b"/") {
        return Err("its name is absolute");
    }
    if name.len() > LONGEST_PATH {
        return Err("its name is too long");
    }
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Vec<_> = parts.collect();
    if parts.contains(&&b".."[..]) {
        return Err("its name leads outside");
    }
    if name.contains(&0) {
        return Err("its name has a NUL in it");
    }
    if parts.iter().any(|part| part.len() > LONGEST_NAME) {
        return Err("its name is too long");
    }
    Ok(match parts.split_last() {
        None => At { directory: Bytes::new(), name: Bytes::new() },
        Some((name, directory)) => {
            At { directory: directory.join(&b'/').into(), name: Bytes::copy_from_slice(name) }
        }
    })
}

/// What names an entry that belongs nowhere.
pub(super) fn nowhere(name: &[u8]) -> At {
    let name = &name[..name.len().min(LONGEST_PATH)];
    At { directory: Bytes::new(), name: Bytes::copy_from_slice(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cleaned_or_refused() {
        let placed = |name: &[u8]| place(name).map(|at| at.path());
        assert_eq!(placed(b"./a//b/./c/"), Ok(b"a/b/c".to_vec()));
        assert_eq!(placed(b"\xff/..."), Ok(b"\xff/...".to_vec()));
        for top in [&b""[..], b".", b"./", b".//./"] {
            assert_eq!(placed(top), Ok(Vec::new()));
        }
        for hostile in
            [&b"../a"[..], b"a/../b", b"a/..", b"..", b"/a", b"//", b"a\0b", &[b'x'; 1025]]
        {
            assert!(placed(hostile).is_err(), "{}", hostile.escape_ascii());
        }
        assert!(placed(&b"a/".repeat(3000)).is_err());
    }
}
