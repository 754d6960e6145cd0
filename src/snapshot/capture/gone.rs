//! Which entries of the previous version aren't in the next one, as ranges of keys.

use bytes::Bytes;

use crate::path::TreePath;

/// Ranges of keys, sorted; none touches another.
#[derive(Debug, Default)]
pub(super) struct Gone(Vec<Range>);

/// From a key on up to another one, or to the last.
pub(super) type Range = (Vec<u8>, Option<Vec<u8>>);

/// The key that entries are sorted by.
pub(super) fn key(directory: &[u8], name: &[u8]) -> Vec<u8> {
    [directory, b"\0", name].concat()
}

/// The entry at a path that isn't the root.
pub(super) fn entry(path: &TreePath) -> Range {
    let parent = path.parent().unwrap_or_default();
    let from = key(parent.as_bytes(), path.name().unwrap_or_default());
    let behind = [&from[..], b"\0"].concat();
    (from, Some(behind))
}

/// All that is below a directory.
pub(super) fn below(directory: &TreePath) -> Vec<Range> {
    if directory.is_root() {
        return vec![(Vec::new(), None)];
    }
    let then = |byte: u8| [directory.as_bytes(), &[byte]].concat();
    // The directory's own entries, and those of the directories in it.
    vec![(then(0), Some(then(1))), (then(b'/'), Some(then(b'/' + 1)))]
}

/// All but a directory and what is below it.
pub(super) fn outside(directory: &TreePath) -> Vec<Range> {
    let mut inside = below(directory);
    inside.push(entry(directory));
    inside.sort();
    let mut outside = Vec::new();
    let mut from = Some(Vec::new());
    for (start, end) in inside {
        outside.extend(from.map(|from| (from, Some(start))));
        from = end;
    }
    outside.extend(from.map(|from| (from, None)));
    outside
}

impl Gone {
    pub(super) fn new(mut ranges: Vec<Range>) -> Self {
        ranges.sort();
        let mut merged: Vec<Range> = Vec::new();
        for (from, to) in ranges {
            match merged.last_mut() {
                Some((_, None)) => break,
                Some((_, last)) if last.as_ref().is_some_and(|end| from <= *end) => {
                    *last = last.take().zip(to).map(|(end, to)| end.max(to));
                }
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    /// Whether a key is in one of the ranges.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let next = self.0.partition_point(|(from, _)| from.as_slice() <= key);
        let range = next.checked_sub(1).map(|at| &self.0[at]);
        range.is_some_and(|(_, to)| to.as_ref().is_none_or(|to| key < to.as_slice()))
    }

    /// Whether a range has keys in common with one of these.
    pub(super) fn touches(&self, from: &Bytes, to: Option<&Bytes>) -> bool {
        let ends_behind = |end: &Option<Vec<u8>>| end.as_ref().is_none_or(|end| end[..] > from[..]);
        let first = self.0.partition_point(|(_, end)| !ends_behind(end));
        self.0.get(first).is_some_and(|(start, _)| to.is_none_or(|to| start[..] < to[..]))
    }

    pub(super) fn ranges(&self) -> &[Range] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn what_is_below_a_directory_is_told_from_what_only_begins_like_it() {
        let gone = Gone::new(below(&path("a")));
        for (directory, name, is_gone) in [
            ("", "a", false),
            ("a", "x", true),
            ("a/b", "x", true),
            ("a/b/c", "x", true),
            ("a-b", "x", false),
            ("a0", "x", false),
            ("", "b", false),
        ] {
            let key = key(directory.as_bytes(), name.as_bytes());
            assert_eq!(gone.contains(&key), is_gone, "{directory} {name}");
        }
    }

    #[test]
    fn what_is_outside_of_a_directory_is_all_but_it() {
        let gone = Gone::new(outside(&path("files")));
        for (directory, name, is_gone) in [
            ("", "checkpoint.json", true),
            ("", "files", false),
            ("", "files.txt", true),
            ("", "notebook.ipynb", true),
            ("files", "x", false),
            ("files-2", "x", true),
            ("files/sub", "x", false),
            ("files0", "x", true),
            ("variables", "x", true),
        ] {
            let key = key(directory.as_bytes(), name.as_bytes());
            assert_eq!(gone.contains(&key), is_gone, "{directory} {name}");
        }
    }

    #[test]
    fn ranges_that_meet_become_one() {
        let range = |from: &str, to: Option<&str>| (from.into(), to.map(Into::into));
        let gone = Gone::new(vec![
            range("d", Some("f")),
            range("a", Some("b")),
            range("e", Some("h")),
            range("h", Some("i")),
            range("x", None),
            range("y", Some("z")),
        ]);
        let expected = [range("a", Some("b")), range("d", Some("i")), range("x", None)];
        assert_eq!(gone.ranges(), expected);
        let touches = |from: &'static str, to: Option<&'static str>| {
            gone.touches(&Bytes::from(from), to.map(Bytes::from).as_ref())
        };
        assert!(touches("a", Some("c")) && touches("c", Some("e")) && touches("g", Some("gg")));
        assert!(!touches("b", Some("d")) && !touches("i", Some("x")));
        assert!(touches("i", None) && touches("zz", None));
    }
}
