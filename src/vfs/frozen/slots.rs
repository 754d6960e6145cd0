//! Which slot stands for what has a name on a shelf.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::ENTRY_BITS;
use crate::error::{Error, ErrorKind, Result};
use crate::tree::namespace::{self, Label, OnShelf};
use crate::tree::{Attr, ContentVersion, Tree};

/// How long the attributes of a version's own directory may be believed: they never change.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

/// All slots of a shelf, also those that no name leads to any more.
#[derive(Default)]
pub(super) struct Slots {
    all: Vec<Arc<Slot>>,
    by_key: HashMap<String, usize>,
    /// The place of each name in listings, so that one goes on where it was.
    places: HashMap<Bytes, u64>,
}

/// What stands, or stood, on a shelf.
pub(super) struct Slot {
    /// The inode number of the thing itself, on which those of its entries follow.
    pub(super) first: u64,
    thing: Thing,
    /// Guards which tree is open; others keep it open.
    tree: Mutex<Option<Weak<dyn Tree>>>,
}

enum Thing {
    Version(OnShelf),
    Link { target: Bytes, created: SystemTime },
}

impl Slots {
    /// The slot of a number, counted from 1.
    pub(super) fn at(&self, number: u64) -> Option<Arc<Slot>> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.all.get(at).cloned()
    }

    /// The slot of what was found under a name.
    pub(super) fn enter(&mut self, name: &[u8], found: namespace::Found) -> Arc<Slot> {
        let (key, thing) = match found {
            namespace::Found::Resource(resource) => (resource.key(), Thing::Version(resource)),
            namespace::Found::Link { target, created } => {
                let (name, text) = (name.escape_ascii(), target.escape_ascii());
                (format!("{name} -> {text}"), Thing::Link { target, created })
            }
        };
        let next = self.all.len();
        let at = *self.by_key.entry(key).or_insert(next);
        if at == next {
            let first = (next as u64 + 1) << ENTRY_BITS;
            self.all.push(Arc::new(Slot { first, thing, tree: Mutex::new(None) }));
        }
        Arc::clone(&self.all[at])
    }

    /// Names in the order of their places, which count from 1: what is new comes last.
    pub(super) fn in_order(&mut self, names: Vec<Bytes>) -> Vec<(u64, Bytes)> {
        let places = names.into_iter().map(|name| {
            let next = self.places.len() as u64 + 1;
            (*self.places.entry(name.clone()).or_insert(next), name)
        });
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        places
    }
}

impl Slot {
    /// The attributes of the thing itself.
    pub(super) fn attr(&self) -> Attr {
        match &self.thing {
            Thing::Version(resource) => resource.attr(FOR_EVER),
            Thing::Link { target, created } => Attr {
                version: Some(ContentVersion::of(target)),
                ..Attr::symlink(target.len() as u64, *created, FOR_EVER)
            },
        }
    }

    /// What it tells of itself.
    pub(super) fn label(&self) -> Option<&Label> {
        match &self.thing {
            Thing::Version(resource) => Some(&resource.label),
            Thing::Link { .. } => None,
        }
    }

    /// What it holds, if it is a link.
    ///
    /// # Errors
    /// `InvalidInput` for what isn't one.
    pub(super) fn target(&self) -> Result<Bytes> {
        match &self.thing {
            Thing::Link { target, .. } => Ok(target.clone()),
            Thing::Version(_) => {
                Err(Error::new(ErrorKind::InvalidInput, "it isn't a symbolic link"))
            }
        }
    }

    /// Its tree, opened if it isn't.
    ///
    /// # Errors
    /// `NotADirectory` for a link; those of opening it.
    pub(super) async fn tree(&self) -> Result<Arc<dyn Tree>> {
        let open = self.open_tree().as_ref().and_then(Weak::upgrade);
        if let Some(tree) = open {
            return Ok(tree);
        }
        let Thing::Version(resource) = &self.thing else {
            return Err(Error::new(ErrorKind::NotADirectory, "a symbolic link has no entries"));
        };
        let tree = resource.open().await?;
        *self.open_tree() = Some(Arc::downgrade(&tree));
        Ok(tree)
    }

    fn open_tree(&self) -> std::sync::MutexGuard<'_, Option<Weak<dyn Tree>>> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
