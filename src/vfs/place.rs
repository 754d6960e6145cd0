//! Names in directories, and those of one node.

use std::sync::Arc;

/// A file that the front end had better forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgettable {
    /// Its inode number.
    pub ino: u64,
    /// The name by which it was found.
    pub place: Place,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The inode number of the directory.
    pub parent: u64,
    /// The name in it.
    pub name: Arc<[u8]>,
}

impl Place {
    pub(super) fn new(parent: u64, name: &[u8]) -> Self {
        Self { parent, name: name.into() }
    }
}

/// The names of a node: mostly one, none once it is unlinked, several for hard links.
#[derive(Default)]
pub(super) struct Names {
    /// The one by which the node is reached.
    pub(super) latest: Option<Place>,
    /// A box around the vector, since hardly any node has a second name.
    #[allow(clippy::box_collection)]
    pub(super) others: Option<Box<Vec<Place>>>,
}

impl Names {
    pub(super) fn push(&mut self, place: Place) {
        if let Some(before) = self.latest.replace(place) {
            self.others.get_or_insert_default().push(before);
        }
    }

    pub(super) fn remove(&mut self, place: &Place) {
        if self.latest.as_ref() == Some(place) {
            self.latest = self.others.as_mut().and_then(|others| others.pop());
        } else if let Some(others) = &mut self.others {
            others.retain(|other| other != place);
        }
        if self.others.as_ref().is_some_and(|others| others.is_empty()) {
            self.others = None;
        }
    }

    /// Makes this the name by which the node is reached.
    pub(super) fn prefer(&mut self, place: &Place) {
        if self.others.is_some() && self.latest.as_ref() != Some(place) {
            self.remove(place);
            self.push(place.clone());
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.latest.iter().chain(self.others.iter().flat_map(|others| others.iter()))
    }
}
