//! A directory's entries in few bytes: sorted, immutable, shared by all who read them.

use std::time::SystemTime;

use bytes::Bytes;

use super::known::Node;
use crate::object::ETag;

/// What stands for the length of a version's name where there is a directory.
const DIRECTORY: u16 = u16::MAX;

/// The entries of a directory, in byte order of their names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// All names, each followed by its version.
    text: Bytes,
    items: Box<[Item]>,
}

/// Where an entry's texts are, and the rest of what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    start: u32,
    name_len: u16,
    etag_len: u16,
    size: u64,
    modified: SystemTime,
}

impl Item {
    fn etag_start(&self) -> usize {
        self.start as usize + usize::from(self.name_len)
    }
}

impl Listing {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.items)
    }

    /// Where `name` is; else where it would be.
    pub(super) fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.items.binary_search_by(|item| self.text_of(item).cmp(name))
    }

    /// What `name` leads to.
    pub(super) fn find(&self, name: &[u8]) -> Option<Node> {
        self.node(self.position(name).ok()?)
    }

    /// The name at a position. It shares the listing's bytes.
    pub(super) fn name(&self, at: usize) -> Option<Bytes> {
        let item = self.items.get(at)?;
        Some(self.text.slice(item.start as usize..item.etag_start()))
    }

    /// What the entry at a position leads to.
    pub(super) fn node(&self, at: usize) -> Option<Node> {
        let item = self.items.get(at)?;
        if item.etag_len == DIRECTORY {
            return Some(Node::Directory);
        }
        let (size, modified, etag) = self.object(at)?;
        Some(Node::File { size, modified, etag: ETag(etag.to_owned()) })
    }

    /// Size, time and version of the object at a position; `None` for a directory and behind the
    /// end.
    pub(super) fn object(&self, at: usize) -> Option<(u64, SystemTime, &str)> {
        let item = self.items.get(at).filter(|item| item.etag_len != DIRECTORY)?;
        let start = item.etag_start();
        let etag = &self.text[start..start + usize::from(item.etag_len)];
        // It was text when it came.
        Some((item.size, item.modified, str::from_utf8(etag).unwrap_or_default()))
    }

    /// How many of the entries are directories.
    pub(super) fn directories(&self) -> usize {
        self.items.iter().filter(|item| item.etag_len == DIRECTORY).count()
    }

    fn text_of(&self, item: &Item) -> &[u8] {
        &self.text[item.start as usize..item.etag_start()]
    }
}

/// A listing that is being made, from entries in any order.
#[derive(Debug, Default)]
pub(super) struct Draft {
    text: Vec<u8>,
    items: Vec<Item>,
    sorted: bool,
}

impl Draft {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self { sorted: true, ..Self::default() }
    }

    /// The bytes it takes by now.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.items)
    }

    /// Adds an entry; one that is there already under this name stays.
    ///
    /// An entry that doesn't fit the fields isn't taken, which no name and no store comes near to.
    pub(super) fn push(&mut self, name: &[u8], node: &Node) {
        let (etag, size, modified) = match node {
            Node::File { size, modified, etag } => (etag.0.as_bytes(), *size, *modified),
            Node::Directory => (&b""[..], 0, SystemTime::UNIX_EPOCH),
        };
        let fits = |len: usize| u16::try_from(len).ok().filter(|len| *len != DIRECTORY);
        let (Ok(start), Some(name_len), Some(etag_len)) =
            (u32::try_from(self.text.len()), fits(name.len()), fits(etag.len()))
        else {
            return;
        };
        let etag_len = if matches!(node, Node::Directory) { DIRECTORY } else { etag_len };
        self.sorted &= self
            .items
            .last()
            .is_none_or(|last| &self.text[last.start as usize..last.etag_start()] < name);
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(etag);
        self.items.push(Item { start, name_len, etag_len, size, modified });
    }

    /// The listing of all that came.
    pub(super) fn finish(self) -> Listing {
        let Self { mut text, mut items, sorted } = self;
        text.shrink_to_fit();
        if !sorted {
            let name = |item: &Item| &text[item.start as usize..item.etag_start()];
            items.sort_by(|a, b| name(a).cmp(name(b)));
            items.dedup_by(|a, b| name(a) == name(b));
        }
        Listing { text: text.into(), items: items.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(etag: &str) -> Node {
        Node::File { size: 7, modified: SystemTime::UNIX_EPOCH, etag: ETag(etag.into()) }
    }

    #[test]
    fn what_came_in_any_order_is_found_by_name_and_by_position() {
        let mut draft = Draft::new();
        draft.push(b"b", &file("\"1\""));
        draft.push(b"a", &Node::Directory);
        draft.push(b"c", &file(""));
        draft.push(b"b", &Node::Directory);
        let listing = draft.finish();
        assert_eq!(listing.len(), 3);
        assert_eq!(listing.find(b"a"), Some(Node::Directory));
        assert_eq!(listing.find(b"b"), Some(file("\"1\"")));
        assert_eq!(listing.find(b"c"), Some(file("")));
        assert_eq!(listing.find(b"d"), None);
        assert_eq!(listing.position(b"bb"), Err(2));
        let names: Vec<_> = (0..4).map_while(|at| listing.name(at)).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!((listing.object(0), listing.object(1).map(|(size, ..)| size)), (None, Some(7)));
    }
}
