//! Keys as file names, reversibly: every object can be reached, and nothing leads outside.
//!
//! A key is cut at its slashes, and each part becomes a name. Nearly all parts are names as they
//! are. The others are written with these codes, in upper case:
//!
//! | part of a key | name |
//! | --- | --- |
//! | empty, as in `a//b` | `%` |
//! | `.` and `..` | `%2E` and `%2E%2E` |
//! | NUL | `%00` |
//! | an object `a` beside keys `a/…` | `a%2F`, since `a` is the directory |
//! | one that would be read as one of these | each `%` of it as `%25` |

use std::borrow::Cow;

use crate::path::TreePath;

/// How the name of an object ends that lies beside a directory of the same name.
pub(crate) const BESIDE: &str = "%2F";

/// The longest name: what FUSE takes (`FUSE_NAME_MAX` in the kernel's `fs/fuse/fuse_i.h`).
const LONGEST: usize = 1024;

/// The name of a part of a key; `None` when it would be too long.
pub(crate) fn encode(part: &str, beside_directory: bool) -> Option<Cow<'_, str>> {
    let plain = match part {
        "" => Cow::Borrowed("%"),
        "." => Cow::Borrowed("%2E"),
        ".." => Cow::Borrowed("%2E%2E"),
        _ if reads_as_code(part) => Cow::Owned(part.replace('%', "%25").replace('\0', "%00")),
        _ if part.contains('\0') => Cow::Owned(part.replace('\0', "%00")),
        _ => Cow::Borrowed(part),
    };
    let name = if beside_directory { Cow::Owned(format!("{plain}{BESIDE}")) } else { plain };
    (name.len() <= LONGEST).then_some(name)
}

fn reads_as_code(part: &str) -> bool {
    matches!(part, "%" | "%2E" | "%2E%2E")
        || part.contains("%00")
        || part.contains("%25")
        || part.ends_with(BESIDE)
}

/// The part of a key that a name stands for, and whether it is an object beside a directory.
///
/// `None` for a name that no part of a key has.
pub(crate) fn decode(name: &[u8]) -> Option<(String, bool)> {
    let name = str::from_utf8(name).ok()?;
    let (plain, beside) = match name.strip_suffix(BESIDE) {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let part = match plain {
        "%" => String::new(),
        "%2E" => ".".to_owned(),
        "%2E%2E" => "..".to_owned(),
        _ => unescape(plain),
    };
    (encode(&part, beside)? == name).then_some((part, beside))
}

fn unescape(plain: &str) -> String {
    let mut part = String::with_capacity(plain.len());
    let mut rest = plain;
    while let Some(at) = rest.find('%') {
        let (before, code) = rest.split_at(at);
        part.push_str(before);
        let (letter, len) = match code.get(..3) {
            Some("%00") => ('\0', 3),
            Some("%25") => ('%', 3),
            _ => ('%', 1),
        };
        part.push(letter);
        rest = &code[len..];
    }
    part.push_str(rest);
    part
}

/// Where in the bucket a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The key of the object, if it is one.
    pub(crate) key: String,
    /// Whether only an object is meant that lies beside a directory of its name.
    pub(crate) beside: bool,
}

impl Place {
    /// The place of a path that isn't the root; `None` when nothing can be there.
    pub(crate) fn of(path: &TreePath) -> Option<Self> {
        let mut place = Self { key: String::new(), beside: false };
        for (depth, name) in path.names().enumerate() {
            if place.beside {
                // An object has nothing below it.
                return None;
            }
            let (part, beside) = decode(name)?;
            if depth > 0 {
                place.key.push('/');
            }
            place.key.push_str(&part);
            place.beside = beside;
        }
        Some(place)
    }

    /// What the keys begin with that are below this, if it is a directory.
    pub(crate) fn prefix(&self) -> String {
        format!("{}/", self.key)
    }

    /// Whether this is where a directory's marker is: an object `a/` that only says that there is
    /// a directory, unless it holds something.
    pub(crate) fn may_be_marker(&self) -> bool {
        self.key.is_empty() || self.key.ends_with('/')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(part: &str) -> String {
        encode(part, false).unwrap().into_owned()
    }

    #[test]
    fn ordinary_parts_are_names_as_they_are() {
        for part in ["a", "a.txt", "...", "a%20b", "100%", "%2F.txt", "é", "a\nb", "%2E.txt"] {
            assert_eq!(name(part), part);
            assert_eq!(decode(part.as_bytes()), Some((part.to_owned(), false)));
        }
    }

    #[test]
    fn parts_that_are_no_names_get_one() {
        let pairs = [
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("a\0b", "a%00b"),
            ("%", "%25"),
            ("%2E", "%252E"),
            ("a%00", "a%2500"),
            ("a%2F", "a%252F"),
            ("50%25", "50%2525"),
        ];
        for (part, expected) in pairs {
            assert_eq!(name(part), expected);
            assert_eq!(decode(expected.as_bytes()), Some((part.to_owned(), false)));
        }
        assert_eq!(encode("a", true).unwrap(), "a%2F");
        assert_eq!(decode(b"a%2F"), Some(("a".to_owned(), true)));
        assert_eq!(decode(b"%%2F"), Some((String::new(), true)));
    }

    #[test]
    fn a_part_has_one_name_only() {
        for name in [&b"%2F"[..], b"%25.txt", b"%252e%25", b"\xff", b"%2E%2F%2F"] {
            assert_eq!(decode(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_path_is_a_key() {
        let place = |path: &str| Place::of(&TreePath::parse(path).unwrap());
        assert_eq!(place("a/%/b%20c").unwrap().key, "a//b%20c");
        assert_eq!(place("%2E%2E/etc/passwd").unwrap().key, "../etc/passwd");
        assert_eq!(place("a%2F"), Some(Place { key: "a".into(), beside: true }));
        assert_eq!(place("a%2F/b"), None);
        assert!(place("a/%").unwrap().may_be_marker());
        assert!(!place("a/b").unwrap().may_be_marker());
    }

    proptest! {
        #[test]
        fn every_part_comes_back(part in "[%02EF5.a\0]{0,12}|[^/]{0,40}", beside: bool) {
            let name = encode(&part, beside).unwrap();
            prop_assert!(TreePath::root().join(name.as_bytes()).is_ok());
            prop_assert_eq!(decode(name.as_bytes()), Some((part.clone(), beside)));
        }

        #[test]
        fn no_name_leads_outside(name in "[%02EF5./\0a]{0,12}") {
            if let Some((part, _)) = decode(name.as_bytes()) {
                prop_assert!(!name.contains('\0'));
                prop_assert!(!part.contains('/') || name.contains('/'));
            }
        }
    }
}
