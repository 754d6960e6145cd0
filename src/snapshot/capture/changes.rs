//! What may differ from the previous version, so that nothing else has to be looked at.

use std::collections::BTreeMap;

use crate::path::TreePath;

/// How far a change reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// The entry itself.
    Entry,
    /// The entry and all that is below it.
    Below,
}

/// Paths below a directory that may differ from the previous version: what isn't among them, nor
/// below one of [`Depth::Below`], is as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(BTreeMap<TreePath, Depth>);

impl Changes {
    /// Adds a path.
    pub fn add(&mut self, path: TreePath, depth: Depth) {
        let present = self.0.entry(path).or_insert(depth);
        *present = depth.max(*present);
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether everything may differ.
    pub fn is_everything(&self) -> bool {
        self.0.get(&TreePath::root()) == Some(&Depth::Below)
    }

    /// The paths, each behind the directory that it is in.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, Depth)> {
        self.0.iter().map(|(path, depth)| (path, *depth))
    }
}
