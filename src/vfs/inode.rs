//! The table of nodes: which inode number stands for which name in which directory.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;

use super::passing::Passing;
use super::place::{Forgettable, Names, Place};
use crate::path::TreePath;
use crate::tree::{Attr, ContentVersion, FileType, Identity, RenameMode};

/// The inode number of the root, as FUSE has it.
pub const ROOT: u64 = 1;

/// What the front end was told of a file and hasn't forgotten.
///
/// There may be a million of these, so it is small: no path, no attributes, and room for one name.
struct Node {
    names: Names,
    identity: Option<Box<Identity>>,
    version: Option<ContentVersion>,
    /// How often the front end was told of it.
    lookups: u64,
    /// How many names lie in it.
    children: u32,
    file_type: FileType,
    /// Whether it was ever opened, so that the front end keeps more of it than its name.
    opened: bool,
}

/// The nodes that the front end knows.
pub(super) struct Nodes {
    /// Boxed: half of the table is empty when it has just grown.
    by_number: HashMap<u64, Box<Node>>,
    by_name: HashMap<Place, u64>,
    by_identity: HashMap<Identity, u64>,
    /// Counts up for ever, so that no number is used twice.
    next: u64,
    /// How often names were moved or taken off.
    changes: u64,
    passing: Passing,
}

impl Nodes {
    pub(super) fn new() -> Self {
        let root = Node {
            names: Names::default(),
            identity: None,
            version: None,
            lookups: 1,
            children: 0,
            file_type: FileType::Directory,
            opened: false,
        };
        Self {
            by_number: HashMap::from([(ROOT, Box::new(root))]),
            by_name: HashMap::new(),
            by_identity: HashMap::new(),
            next: ROOT + 1,
            changes: 0,
            passing: Passing::default(),
        }
    }

    /// Finds or makes the node that stands for what the tree has at this name, and counts a
    /// lookup.
    pub(super) fn enter(&mut self, parent: u64, name: &[u8], attr: &Attr) -> u64 {
        let place = Place::new(parent, name);
        let ino = match self.by_name.get(&place).copied() {
            Some(ino) if self.stands_for(ino, attr) => ino,
            other => {
                if other.is_some() {
                    self.detach(&place, false);
                }
                let ino = self.other_name(attr).unwrap_or_else(|| self.insert(attr));
                self.attach(ino, place.clone());
                ino
            }
        };
        if let Some(node) = self.by_number.get_mut(&ino) {
            node.lookups += 1;
            node.names.prefer(&place);
        }
        ino
    }

    /// The same for a file that was just made, which can't be any that is known.
    pub(super) fn enter_new(&mut self, parent: u64, name: &[u8], attr: &Attr) -> u64 {
        if let Some(identity) = &attr.identity {
            self.by_identity.remove(identity);
        }
        self.enter(parent, name, attr)
    }

    /// Whether attributes are those of another file than the one that has this name here.
    pub(super) fn contradicts(&self, parent: u64, name: &[u8], attr: &Attr) -> bool {
        self.at(parent, name).is_some_and(|ino| !self.stands_for(ino, attr))
    }

    /// Grows with every name that was moved or taken off.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether a node stands for one file or version of several that its name can lead to.
    pub(super) fn is_particular(&self, ino: u64) -> bool {
        let node = self.by_number.get(&ino);
        node.is_some_and(|node| node.identity.is_some() || node.version.is_some())
    }

    /// The node at this name, if there is one.
    pub(super) fn at(&self, parent: u64, name: &[u8]) -> Option<u64> {
        self.by_name.get(&Place::new(parent, name)).copied()
    }

    /// Whether attributes that the tree gave for a node's path are still those of the same file.
    pub(super) fn stands_for(&self, ino: u64, attr: &Attr) -> bool {
        self.by_number.get(&ino).is_some_and(|node| {
            ino == ROOT
                || node.file_type == attr.file_type
                    && node.version == attr.version
                    && node.identity.as_deref() == attr.identity.as_ref()
        })
    }

    /// Takes back `count` lookups; a node that nothing needs any more is dropped.
    pub(super) fn forget(&mut self, ino: u64, count: u64) {
        if let Some(node) = self.by_number.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.drop_unused(ino);
    }

    /// The path of a node by the name it was last looked up by; `None` once it has no name.
    pub(super) fn path(&self, ino: u64) -> Option<TreePath> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let place = self.by_number.get(&at)?.names.latest.as_ref()?;
            names.push(&place.name[..]);
            at = place.parent;
        }
        names.reverse();
        TreePath::parse(names.join(&b'/')).ok()
    }

    /// The directory a node is in; the root is in itself.
    pub(super) fn parent(&self, ino: u64) -> u64 {
        let place = self.by_number.get(&ino).and_then(|node| node.names.latest.as_ref());
        place.map_or(ROOT, |place| place.parent)
    }

    /// Whether a node is known.
    pub(super) fn knows(&self, ino: u64) -> bool {
        self.by_number.contains_key(&ino)
    }

    /// The regular file that has this name and no other, in a tree that tells files apart.
    pub(super) fn with_last_name(&self, parent: u64, name: &[u8]) -> Option<u64> {
        let ino = self.at(parent, name)?;
        let node = self.by_number.get(&ino)?;
        let is_file = node.file_type == FileType::File && node.identity.is_some();
        (is_file && node.names.others.is_none()).then_some(ino)
    }

    /// Whether a node is a directory without a name.
    pub(super) fn is_removed_dir(&self, ino: u64) -> bool {
        let removed =
            |node: &Node| node.file_type == FileType::Directory && node.names.latest.is_none();
        ino != ROOT && self.by_number.get(&ino).is_some_and(|node| removed(node))
    }

    /// The directories that have a name of this node.
    pub(super) fn parents(&self, ino: u64) -> Vec<u64> {
        let names = self.by_number.get(&ino).into_iter().flat_map(|node| node.names.iter());
        names.map(|place| place.parent).collect()
    }

    /// Takes a name off; the node lives on without it until it is forgotten.
    ///
    /// While the node is `open`, its file can't be mistaken for another one: the identity stays.
    pub(super) fn unlink(&mut self, parent: u64, name: &[u8], open: bool) {
        self.changes += 1;
        self.detach(&Place::new(parent, name), open);
    }

    /// Moves names as the tree just did; `open` tells whether the node that was at `to` is open.
    pub(super) fn rename(&mut self, from: Place, to: Place, mode: RenameMode, open: bool) {
        self.changes += 1;
        let (moved, replaced) = (self.by_name.get(&from).copied(), self.by_name.get(&to).copied());
        if moved.is_some() && moved == replaced {
            // Two names of one file: rename(2) does nothing then.
            return;
        }
        match mode {
            RenameMode::Exchange => {
                if let Some(ino) = replaced {
                    self.take_name(ino, &to);
                    self.move_name(moved, &from, to);
                    self.attach(ino, from);
                } else {
                    self.move_name(moved, &from, to);
                }
            }
            RenameMode::Replace | RenameMode::NoReplace => {
                self.detach(&to, open);
                self.move_name(moved, &from, to);
            }
        }
    }

    /// Ends what keeps an identity of a nameless node: its last open file was closed.
    pub(super) fn closed(&mut self, ino: u64) {
        if self.by_number.get(&ino).is_some_and(|node| node.names.latest.is_none()) {
            self.drop_identity(ino);
        }
    }

    /// Notes that a node was opened.
    pub(super) fn note_opened(&mut self, ino: u64) {
        if let Some(node) = self.by_number.get_mut(&ino) {
            node.opened = true;
        }
    }

    /// Where it comes out what may be forgotten.
    pub(super) fn forgettable(&mut self) -> Receiver<Forgettable> {
        self.passing.listen()
    }

    /// How many nodes are known, the root among them.
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// The known node of a file that turned up under a name that it didn't have here.
    ///
    /// A directory has one name only, so it isn't searched: a bind mount would make a ring. And
    /// where a file has one name, that of the node is no longer its: it was deleted behind our
    /// back, and the system gave its inode number to a new file.
    fn other_name(&self, attr: &Attr) -> Option<u64> {
        let ino = *self.by_identity.get(attr.identity.as_ref()?)?;
        let node = self.by_number.get(&ino)?;
        let can_have_both = attr.nlink > 1 || node.names.latest.is_none();
        (!attr.is_dir() && can_have_both && self.stands_for(ino, attr)).then_some(ino)
    }

    fn insert(&mut self, attr: &Attr) -> u64 {
        let ino = self.next;
        self.next += 1;
        let node = Node {
            names: Names::default(),
            identity: attr.identity.map(Box::new),
            version: attr.version,
            lookups: 0,
            children: 0,
            file_type: attr.file_type,
            opened: false,
        };
        self.by_number.insert(ino, Box::new(node));
        // A file that is found again after it was forgotten has another number. Where files can be
        // changed in place, programs such as git take that for a change.
        if attr.version.is_some() && attr.identity.is_none() {
            let nodes = &self.by_number;
            let unopened = |ino| nodes.get(&ino).filter(|node| !node.opened);
            self.passing.note(ino, |ino| unopened(ino)?.names.latest.clone());
        }
        if let Some(identity) = attr.identity
            && !attr.is_dir()
        {
            self.by_identity.insert(identity, ino);
        }
        ino
    }

    fn attach(&mut self, ino: u64, place: Place) {
        if let Some(parent) = self.by_number.get_mut(&place.parent) {
            parent.children += 1;
        }
        if let Some(node) = self.by_number.get_mut(&ino) {
            node.names.push(place.clone());
        }
        self.by_name.insert(place, ino);
    }

    fn detach(&mut self, place: &Place, keep_identity: bool) {
        let Some(ino) = self.by_name.get(place).copied() else { return };
        self.take_name(ino, place);
        if self.by_number.get(&ino).is_some_and(|node| node.names.latest.is_none())
            && !keep_identity
        {
            self.drop_identity(ino);
        }
        self.drop_unused(ino);
    }

    fn move_name(&mut self, moved: Option<u64>, from: &Place, to: Place) {
        if let Some(ino) = moved {
            // Attached first: the directory that it leaves may be above the one it enters.
            self.attach(ino, to);
            self.take_name(ino, from);
        }
    }

    fn take_name(&mut self, ino: u64, place: &Place) {
        self.by_name.remove(place);
        if let Some(node) = self.by_number.get_mut(&ino) {
            node.names.remove(place);
        }
        if let Some(parent) = self.by_number.get_mut(&place.parent) {
            parent.children = parent.children.saturating_sub(1);
        }
        self.drop_unused(place.parent);
    }

    fn drop_identity(&mut self, ino: u64) {
        let identity = self.by_number.get(&ino).and_then(|node| node.identity.as_deref());
        if let Some(identity) = identity
            && self.by_identity.get(identity) == Some(&ino)
        {
            self.by_identity.remove(identity);
        }
    }

    /// Drops a node that nobody knows and nothing lies in, and so on upwards.
    fn drop_unused(&mut self, ino: u64) {
        let unused = |node: &Node| node.lookups == 0 && node.children == 0;
        let mut waiting = vec![ino];
        while let Some(ino) = waiting.pop() {
            if ino == ROOT || !self.by_number.get(&ino).is_some_and(|node| unused(node)) {
                continue;
            }
            self.drop_identity(ino);
            let Some(node) = self.by_number.remove(&ino) else { continue };
            for place in node.names.iter() {
                self.by_name.remove(place);
                if let Some(parent) = self.by_number.get_mut(&place.parent) {
                    parent.children = parent.children.saturating_sub(1);
                    waiting.push(place.parent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::passing;
    use super::*;

    fn file() -> Attr {
        Attr::file(0, SystemTime::UNIX_EPOCH, Duration::ZERO)
    }

    fn dir() -> Attr {
        Attr::dir(SystemTime::UNIX_EPOCH, Duration::ZERO)
    }

    fn with_identity(inode: u64) -> Attr {
        Attr { identity: Some(Identity { device: 1, inode }), nlink: 2, ..file() }
    }

    fn path(nodes: &Nodes, ino: u64) -> String {
        nodes.path(ino).map_or_else(|| "gone".to_owned(), |path| path.to_string())
    }

    #[test]
    fn files_that_were_found_long_ago_and_not_opened_may_be_forgotten() {
        let mut nodes = Nodes::new();
        let forgettable = nodes.forgettable();
        let object = Attr { version: Some(ContentVersion::of("etag")), ..file() };
        let opened = nodes.enter(ROOT, b"opened", &object);
        nodes.note_opened(opened);
        let forgotten = nodes.enter(ROOT, b"forgotten", &object);
        nodes.forget(forgotten, 1);
        nodes.enter(ROOT, b"directory", &dir());
        nodes.enter(ROOT, b"local", &Attr { version: object.version, ..with_identity(7) });
        for n in 0..passing::LEFT + 2 {
            nodes.enter(ROOT, n.to_string().as_bytes(), &object);
        }
        let offered: Vec<_> = forgettable.try_iter().map(|offer| offer.place).collect();
        assert_eq!(offered, [Place::new(ROOT, b"0"), Place::new(ROOT, b"1")]);
    }

    #[test]
    fn a_renamed_directory_carries_its_descendants() {
        let mut nodes = Nodes::new();
        let a = nodes.enter(ROOT, b"a", &dir());
        let b = nodes.enter(a, b"b", &dir());
        let c = nodes.enter(b, b"c", &file());
        nodes.rename(Place::new(ROOT, b"a"), Place::new(ROOT, b"z"), RenameMode::Replace, false);
        assert_eq!(path(&nodes, c), "z/b/c");
        assert_eq!(nodes.at(ROOT, b"a"), None);
    }

    #[test]
    fn a_number_stays_while_it_is_known_and_is_never_used_again() {
        let mut nodes = Nodes::new();
        let first = nodes.enter(ROOT, b"a", &file());
        assert_eq!(nodes.enter(ROOT, b"a", &file()), first);
        nodes.forget(first, 1);
        assert_eq!(nodes.at(ROOT, b"a"), Some(first));
        nodes.forget(first, 1);
        assert_eq!(nodes.at(ROOT, b"a"), None);
        assert_ne!(nodes.enter(ROOT, b"a", &file()), first);
    }

    #[test]
    fn a_directory_stays_while_something_lies_in_it() {
        let mut nodes = Nodes::new();
        let a = nodes.enter(ROOT, b"a", &dir());
        let b = nodes.enter(a, b"b", &file());
        nodes.forget(a, 1);
        assert_eq!(path(&nodes, b), "a/b");
        nodes.forget(b, 1);
        assert_eq!(nodes.len(), 1);
    }

    #[test]
    fn names_of_one_file_share_a_node() {
        let mut nodes = Nodes::new();
        let a = nodes.enter(ROOT, b"a", &with_identity(7));
        assert_eq!(nodes.enter(ROOT, b"b", &with_identity(7)), a);
        assert_eq!(path(&nodes, a), "b");
        nodes.unlink(ROOT, b"b", false);
        assert_eq!(path(&nodes, a), "a");
        nodes.unlink(ROOT, b"a", false);
        assert_eq!(path(&nodes, a), "gone");
        assert_ne!(nodes.enter(ROOT, b"c", &with_identity(7)), a, "the inode was used again");
    }

    #[test]
    fn an_inode_that_was_used_again_is_another_node() {
        let mut nodes = Nodes::new();
        let only = Attr { nlink: 1, ..with_identity(7) };
        let a = nodes.enter(ROOT, b"a", &only);
        let b = nodes.enter(ROOT, b"b", &only);
        assert_ne!(a, b, "a file with one name can't have two");
        let c = nodes.enter_new(ROOT, b"c", &with_identity(7));
        assert_ne!(b, c, "a file that was just made isn't known");
    }

    #[test]
    fn another_file_at_the_same_name_is_another_node() {
        let mut nodes = Nodes::new();
        let a = nodes.enter(ROOT, b"a", &with_identity(7));
        let b = nodes.enter(ROOT, b"a", &with_identity(8));
        assert_ne!(a, b);
        assert_eq!(path(&nodes, a), "gone");
        assert_ne!(nodes.enter(ROOT, b"a", &dir()), b);
    }

    #[test]
    fn an_exchange_swaps_two_names() {
        let mut nodes = Nodes::new();
        let a = nodes.enter(ROOT, b"a", &dir());
        let b = nodes.enter(a, b"b", &file());
        let x = nodes.enter(ROOT, b"x", &dir());
        let y = nodes.enter(x, b"y", &file());
        nodes.rename(Place::new(ROOT, b"x"), Place::new(a, b"b"), RenameMode::Exchange, false);
        assert_eq!(path(&nodes, y), "a/b/y");
        assert_eq!((path(&nodes, x), path(&nodes, b)), ("a/b".into(), "x".into()));
    }

    #[test]
    fn a_name_that_is_replaced_leaves_its_node_without_one() {
        let mut nodes = Nodes::new();
        let a = nodes.enter(ROOT, b"a", &with_identity(1));
        let b = nodes.enter(ROOT, b"b", &with_identity(2));
        nodes.rename(Place::new(ROOT, b"a"), Place::new(ROOT, b"b"), RenameMode::Replace, true);
        assert_eq!((path(&nodes, a), path(&nodes, b)), ("b".into(), "gone".into()));
        assert_eq!(nodes.enter(ROOT, b"other", &with_identity(2)), b, "it is open, so the same");
        nodes.unlink(ROOT, b"other", true);
        nodes.closed(b);
        assert_ne!(nodes.enter(ROOT, b"other", &with_identity(2)), b);
    }
}
