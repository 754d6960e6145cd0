//! Paths inside a tree: relative, of bytes, and unable to lead outside.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// A path below the root of a tree, such as `datasets/flowers/1.jpg`.
///
/// It is a sequence of names joined by `/`; the root is the empty sequence. A name is a non-empty
/// byte string without `/` and NUL that isn't `.` or `..`, so no path leads outside its tree.
/// Clones share their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Bytes);

impl TreePath {
    /// The root of a tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses names joined by `/`; empty is the root.
    ///
    /// # Errors
    /// `InvalidInput` when a name is empty, `.`, `..`, or holds NUL.
    pub fn parse(path: impl AsRef<[u8]>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_empty() {
            path.split(|byte| *byte == b'/').try_for_each(check_name)?;
        }
        Ok(Self(Bytes::copy_from_slice(path)))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of the entry `name` in this directory.
    ///
    /// # Errors
    /// `InvalidInput` when `name` is empty, `.`, `..`, or holds `/` or NUL.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        check_name(name)?;
        if self.is_root() {
            return Ok(Self(Bytes::copy_from_slice(name)));
        }
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        path.push(b'/');
        path.extend_from_slice(name);
        Ok(Self(path.into()))
    }

    /// The path of `below` seen from above this directory.
    #[must_use]
    pub fn join_path(&self, below: &TreePath) -> Self {
        if self.is_root() {
            return below.clone();
        }
        if below.is_root() {
            return self.clone();
        }
        Self([&self.0[..], b"/", &below.0[..]].concat().into())
    }

    /// The directory this entry is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self(self.0.slice(..end)))
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.0.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// The first name and the path that is left below it; `None` for the root.
    pub fn split_first(&self) -> Option<(Bytes, Self)> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().position(|byte| *byte == b'/') {
            Some(end) => (self.0.slice(..end), Self(self.0.slice(end + 1..))),
            None => (self.0.clone(), Self::root()),
        })
    }

    /// The names, from the root down.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// The names joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a relative [`Path`]; empty for the root.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    let fine = !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | 0));
    if fine {
        return Ok(());
    }
    let name = name.escape_ascii();
    Err(Error::new(ErrorKind::InvalidInput, format!("\"{name}\" can't be a file's name")))
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn a_path_can_not_lead_outside() {
        for text in ["..", "a/../b", "/a", "a/", "a//b", ".", "a\0b"] {
            assert!(TreePath::parse(text).is_err(), "{text:?}");
        }
        for name in ["", ".", "..", "a/b", "\0"] {
            assert!(TreePath::root().join(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn parent_and_name_undo_join() {
        let joined = path("a/b").join("c").unwrap();
        assert_eq!(joined, path("a/b/c"));
        assert_eq!(joined.parent(), Some(path("a/b")));
        assert_eq!(joined.name(), Some(&b"c"[..]));
        assert_eq!(path("a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(TreePath::root().name(), None);
    }

    #[test]
    fn the_first_name_splits_off() {
        let (first, rest) = path("a/b/c").split_first().unwrap();
        assert_eq!((&first[..], rest), (&b"a"[..], path("b/c")));
        let (first, rest) = path("a").split_first().unwrap();
        assert_eq!((&first[..], rest), (&b"a"[..], TreePath::root()));
        assert!(TreePath::root().split_first().is_none());
    }
}
