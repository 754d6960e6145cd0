//! The tables of what is open: files and directories, by handle and by node.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The number by which the front end names something open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// Everything of one sort that is open, by handle and by node.
pub(super) struct Handles<T> {
    open: HashMap<Handle, (u64, Arc<T>)>,
    by_node: HashMap<u64, Vec<Handle>>,
    next: u64,
}

impl<T> Handles<T> {
    pub(super) fn new() -> Self {
        Self { open: HashMap::new(), by_node: HashMap::new(), next: 1 }
    }

    pub(super) fn insert(&mut self, ino: u64, value: T) -> Handle {
        let handle = Handle(self.next);
        self.next += 1;
        self.open.insert(handle, (ino, Arc::new(value)));
        self.by_node.entry(ino).or_default().push(handle);
        handle
    }

    /// Finds what a handle stands for, and its node.
    ///
    /// # Errors
    /// `BadDescriptor` when it isn't open.
    pub(super) fn at(&self, handle: Handle) -> Result<(u64, Arc<T>)> {
        let found = self.open.get(&handle);
        found.map(|(ino, value)| (*ino, Arc::clone(value))).ok_or_else(|| {
            Error::new(ErrorKind::BadDescriptor, format!("handle {} isn't open", handle.0))
        })
    }

    /// Takes a handle out; gives its node and value, and whether it was the node's last.
    pub(super) fn remove(&mut self, handle: Handle) -> Option<(u64, Arc<T>, bool)> {
        let (ino, value) = self.open.remove(&handle)?;
        let handles = self.by_node.get_mut(&ino)?;
        handles.retain(|other| *other != handle);
        let last = handles.is_empty();
        if last {
            self.by_node.remove(&ino);
        }
        Some((ino, value, last))
    }

    /// What is open of a node, oldest first.
    pub(super) fn of(&self, ino: u64) -> impl Iterator<Item = &Arc<T>> {
        let handles = self.by_node.get(&ino).into_iter().flatten();
        handles.filter_map(|handle| self.open.get(handle).map(|(_, value)| value))
    }

    /// Whether anything of a node is open.
    pub(super) fn has(&self, ino: u64) -> bool {
        self.by_node.contains_key(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_handle_of_a_node_is_told_apart() {
        let mut handles = Handles::new();
        let (first, second) = (handles.insert(5, "a"), handles.insert(5, "b"));
        assert_ne!(first, second);
        assert_eq!(handles.of(5).map(|value| **value).collect::<Vec<_>>(), ["a", "b"]);
        assert!(!handles.remove(first).unwrap().2);
        assert!(handles.has(5));
        assert!(handles.remove(second).unwrap().2);
        assert!(!handles.has(5));
        assert_eq!(handles.at(first).unwrap_err().kind(), ErrorKind::BadDescriptor);
    }
}
