//! Entries that come in any order, as archives and buckets have them, and leave it sorted.
//!
//! What comes last at a path counts. A path with something below it is a directory, whether its
//! own entry came or not; nothing is ever looked for behind a symbolic link.

use std::collections::HashMap;

use bytes::Bytes;

use super::feed::At;
use crate::error::Result;
use crate::object::names;
use crate::snapshot::format::{Content, Entry, Mtime};

/// The mode of a directory that nobody described.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

/// What came so far.
pub(super) struct Unordered {
    entries: Vec<Kept>,
    directories: Vec<Directory>,
    /// The directories by their paths.
    numbers: HashMap<Bytes, u32>,
    top: Option<(u32, Mtime)>,
    /// Whether they are objects, whose names don't clash with those of directories.
    objects: bool,
}

/// An entry in few bytes: there may be millions.
struct Kept {
    directory: u32,
    name: Box<[u8]>,
    /// Counted from 1, in the order in which they came; 0 for a directory that has to be there.
    turn: u32,
    what: What,
}

enum What {
    Entry(Entry<u32>),
    Link(Box<At>),
    Implied,
}

struct Directory {
    path: Bytes,
    /// When anything below it was last changed.
    newest: Option<Mtime>,
    /// Its position among all directories, once they are sorted.
    rank: u32,
}

/// What became of an entry that came.
pub(super) enum Outcome {
    Entry(Entry<u32>),
    /// It is left out, for this reason.
    Skipped(String),
}

impl Unordered {
    pub(super) fn new(objects: bool) -> Self {
        let (entries, directories) = (Vec::new(), Vec::new());
        let mut new = Self { entries, directories, numbers: HashMap::new(), top: None, objects };
        new.directory(&Bytes::new());
        new
    }

    pub(super) fn add(&mut self, at: &At, entry: Entry<u32>) {
        if at.name.is_empty() {
            self.top = Some((entry.mode, entry.mtime));
            return;
        }
        let directory = self.directory(&at.directory);
        let newest = &mut self.directories[directory as usize].newest;
        *newest = (*newest).max(Some(entry.mtime));
        self.push(directory, &at.name, What::Entry(entry));
    }

    /// Adds one that is the same as what came at `target` before.
    pub(super) fn link(&mut self, at: &At, target: At) {
        let directory = self.directory(&at.directory);
        self.push(directory, &at.name, What::Link(Box::new(target)));
    }

    fn push(&mut self, directory: u32, name: &[u8], what: What) {
        let turn = number(self.entries.len() + 1);
        self.entries.push(Kept { directory, name: name.into(), turn, what });
    }

    /// The number of a directory, which has to be there from now on, as those above it have.
    fn directory(&mut self, path: &Bytes) -> u32 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        if !path.is_empty() {
            let end = path.iter().rposition(|byte| *byte == b'/');
            let above = self.directory(&path.slice(..end.unwrap_or(0)));
            let name = path[end.map_or(0, |end| end + 1)..].into();
            self.entries.push(Kept { directory: above, name, turn: 0, what: What::Implied });
        }
        let new = number(self.directories.len());
        let path = Bytes::copy_from_slice(path);
        self.numbers.insert(path.clone(), new);
        self.directories.push(Directory { path, newest: None, rank: 0 });
        new
    }

    /// Puts objects that lie beside a directory of their name where a mount of the bucket has
    /// them.
    fn put_beside(&mut self) {
        for kept in &mut self.entries {
            let What::Entry(entry) = &kept.what else { continue };
            let directory = self.directories[kept.directory as usize].path.clone();
            let at = At { directory, name: Bytes::copy_from_slice(&kept.name) };
            if entry.content != Content::Directory && self.numbers.contains_key(&at.path()[..]) {
                kept.name = [&kept.name[..], names::BESIDE.as_bytes()].concat().into();
            }
        }
    }

    /// Hands over all that came, sorted; returns mode and mtime of the top.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) fn finish(
        mut self,
        mut take: impl FnMut(At, Outcome) -> Result<()>,
    ) -> Result<(u32, Option<Mtime>)> {
        if self.objects {
            self.put_beside();
        }
        self.sort();
        let mut rest = &self.entries[..];
        while let Some(first) = rest.first() {
            let same = |other: &Kept| self.key(other) == self.key(first);
            let len = rest.partition_point(same);
            let (group, others) = rest.split_at(len);
            rest = others;
            let at = At {
                directory: self.directories[first.directory as usize].path.clone(),
                name: Bytes::copy_from_slice(&first.name),
            };
            let (outcome, lost) = self.choose(&at, group);
            if let Some(reason) = lost {
                take(at.clone(), Outcome::Skipped(reason))?;
            }
            take(at, outcome)?;
        }
        let newest = self.directories[0].newest;
        Ok(self.top.map_or((DIRECTORY_MODE, newest), |(mode, mtime)| (mode, Some(mtime))))
    }

    /// What is at a path where all of these came, and why something else isn't.
    fn choose(&self, at: &At, group: &[Kept]) -> (Outcome, Option<String>) {
        let is_directory = |kept: &&Kept| {
            matches!(&kept.what, What::Entry(Entry { content: Content::Directory, .. }))
        };
        let [.., last] = group else { return (Outcome::Skipped(String::new()), None) };
        if group[0].turn > 0 {
            return (self.resolve(last), None);
        }
        let described = group.iter().rev().find(is_directory);
        let entry = if let Some(What::Entry(entry)) = described.map(|kept| &kept.what) {
            entry.clone()
        } else {
            let number = self.numbers.get(&at.path()[..]);
            let newest = number.and_then(|number| self.directories[*number as usize].newest);
            let mtime = newest.unwrap_or_default();
            Entry { mode: DIRECTORY_MODE, mtime, content: Content::Directory }
        };
        let lost = group.iter().any(|kept| kept.turn > 0 && !is_directory(&kept));
        let reason = || "there are entries below it, so it is a directory".to_owned();
        (Outcome::Entry(entry), lost.then(reason))
    }

    /// What an entry is, wherever it links to.
    fn resolve<'a>(&'a self, mut kept: &'a Kept) -> Outcome {
        loop {
            let target = match &kept.what {
                What::Entry(entry) => return Outcome::Entry(entry.clone()),
                What::Link(target) => target,
                What::Implied => return Outcome::Skipped("it is a directory".to_owned()),
            };
            // Only what came before, so this ends.
            let Some(found) = self.before(target, kept.turn) else {
                let target = String::from_utf8_lossy(&target.path()).into_owned();
                return Outcome::Skipped(format!("it is a link to {target}, which isn't there"));
            };
            kept = found;
        }
    }

    /// The last file or link at a path that came before a turn.
    fn before(&self, at: &At, turn: u32) -> Option<&Kept> {
        let directory = *self.numbers.get(&at.directory)?;
        let key = (self.directories[directory as usize].rank, &at.name[..], turn);
        let end = self.entries.partition_point(|kept| self.order(kept) < key);
        let found = self.entries[..end].last()?;
        let is_file = !matches!(
            &found.what,
            What::Implied | What::Entry(Entry { content: Content::Directory, .. })
        );
        (self.key(found) == (key.0, key.1) && is_file).then_some(found)
    }

    fn sort(&mut self) {
        let mut sorted: Vec<u32> = (0..number(self.directories.len())).collect();
        sorted.sort_unstable_by(|a, b| {
            let path = |number: &u32| &self.directories[*number as usize].path;
            path(a).cmp(path(b))
        });
        for (rank, directory) in sorted.iter().enumerate() {
            self.directories[*directory as usize].rank = number(rank);
        }
        // What is below a directory sorts behind it, so each has heard of all before its turn.
        for directory in sorted.iter().rev() {
            let Directory { path, newest, .. } = &self.directories[*directory as usize];
            let (end, newest) = (path.iter().rposition(|byte| *byte == b'/'), *newest);
            let above = self.numbers.get(&path[..end.unwrap_or(0)]);
            if let Some(above) = above.map(|above| &mut self.directories[*above as usize].newest) {
                *above = (*above).max(newest);
            }
        }
        let directories = &self.directories;
        let order = |kept: &Kept| (directories[kept.directory as usize].rank, kept.turn);
        self.entries.sort_unstable_by(|a, b| {
            let ((one, one_turn), (other, other_turn)) = (order(a), order(b));
            (one, &a.name, one_turn).cmp(&(other, &b.name, other_turn))
        });
    }

    fn order<'a>(&self, kept: &'a Kept) -> (u32, &'a [u8], u32) {
        (self.directories[kept.directory as usize].rank, &kept.name, kept.turn)
    }

    fn key<'a>(&self, kept: &'a Kept) -> (u32, &'a [u8]) {
        (self.directories[kept.directory as usize].rank, &kept.name)
    }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).expect("there are fewer than 2^32 entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> At {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        At { directory: directory.to_owned().into(), name: name.to_owned().into() }
    }

    fn file(text: &'static str, seconds: i64) -> Entry<u32> {
        let content = Content::Inline(Bytes::from_static(text.as_bytes()));
        Entry { mode: 0o644, mtime: Mtime { seconds, nanos: 0 }, content }
    }

    fn directory(mode: u32) -> Entry<u32> {
        Entry { mode, mtime: Mtime::default(), content: Content::Directory }
    }

    /// What is there at the end, one line an entry.
    fn lines(unordered: Unordered) -> Vec<String> {
        let mut lines = Vec::new();
        unordered
            .finish(|at, outcome| {
                let path = String::from_utf8(at.path()).unwrap();
                lines.push(match outcome {
                    Outcome::Skipped(reason) => format!("{path} left out: {reason}"),
                    Outcome::Entry(Entry { mode, mtime, content }) => match content {
                        Content::Inline(text) => format!("{path} {}", text.escape_ascii()),
                        _ => format!("{path}/ {mode:o} {}", mtime.seconds),
                    },
                });
                Ok(())
            })
            .unwrap();
        lines
    }

    #[test]
    fn entries_leave_by_directory_and_name_and_the_last_one_counts() {
        let mut unordered = Unordered::new(false);
        unordered.add(&at("b/y"), file("first", 5));
        unordered.add(&at("b"), directory(0o700));
        unordered.add(&at("a-"), file("minus", 1));
        unordered.add(&at("a/deep/x"), file("x", 9));
        unordered.add(&at("b/y"), file("second", 6));
        let expected =
            ["a/ 755 9", "a- minus", "b/ 700 0", "a/deep/ 755 9", "a/deep/x x", "b/y second"];
        assert_eq!(lines(unordered), expected);
    }

    #[test]
    fn what_has_entries_below_it_is_a_directory() {
        let mut unordered = Unordered::new(false);
        unordered.add(&at("a"), file("file", 1));
        unordered.add(&at("a/b"), file("below", 2));
        unordered.add(&at("c"), directory(0o711));
        unordered.add(&at("c"), file("replaced", 3));
        assert_eq!(
            lines(unordered),
            [
                "a left out: there are entries below it, so it is a directory",
                "a/ 755 2",
                "c replaced",
                "a/b below"
            ]
        );
    }

    #[test]
    fn a_link_is_what_was_there_before_it() {
        let mut unordered = Unordered::new(false);
        unordered.link(&at("early"), at("a"));
        unordered.add(&at("a"), file("one", 1));
        unordered.link(&at("b"), at("a"));
        unordered.link(&at("c"), at("b"));
        unordered.add(&at("a"), file("two", 1));
        unordered.link(&at("d"), at("a"));
        unordered.link(&at("d"), at("d"));
        unordered.link(&at("loop"), at("loop"));
        assert_eq!(
            lines(unordered),
            [
                "a two",
                "b one",
                "c one",
                "d two",
                "early left out: it is a link to a, which isn't there",
                "loop left out: it is a link to loop, which isn't there"
            ]
        );
    }

    #[test]
    fn an_object_beside_a_directory_has_its_own_name() {
        let mut unordered = Unordered::new(true);
        unordered.add(&at("a"), file("object", 1));
        unordered.add(&at("a/b"), file("below", 2));
        assert_eq!(lines(unordered), ["a/ 755 2", "a%2F object", "a/b below"]);
    }
}
