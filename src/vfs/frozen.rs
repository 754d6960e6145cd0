//! A shelf of versions by inode number, without a table of what the front end knows.
//!
//! What is on the shelf comes, goes and is replaced; what is inside a version never changes. So a
//! name on the shelf is believed for a moment, and everything below it for ever. Each version gets
//! a slot when it is first seen, and no slot is used twice: the inode number of an entry is that of
//! its slot and its own in the version. A file that is open stays what it is, whatever becomes of
//! the name that led to it.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use self::slots::{Slot, Slots};
use super::{Known, Listed, ROOT};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::number::TOP;
use crate::tree::namespace::{Label, Shelf, TTL};
use crate::tree::snapshot::SnapshotTree;
use crate::tree::{Attr, Tree};

pub mod push;
mod slots;

/// How many bits of an inode number count the entries of a version.
const ENTRY_BITS: u32 = 32;

/// The offset of the first entry of a listing behind `.` and `..`.
const FIRST: u64 = 2;

/// The versions on a shelf, by inode number.
pub struct Frozen {
    shelf: Shelf,
    /// Guards which slot stands for what; held for a look only.
    slots: RwLock<Slots>,
}

/// What an inode number stands for.
enum Node {
    /// The shelf itself.
    Shelf,
    /// What has a name on it.
    Slot(Arc<Slot>),
    /// An entry inside a version.
    Entry(Arc<Slot>, u64),
}

impl Frozen {
    /// Puts numbers over a shelf.
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf, slots: RwLock::default() }
    }

    /// Finds `name` in a directory.
    ///
    /// # Errors
    /// `NotFound`, with the time for which that may be believed; `NotADirectory`; those of the
    /// catalogue and the store.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Known> {
        let (slot, number) = match self.node(parent)? {
            Node::Shelf => return self.on_shelf(name).await,
            Node::Slot(slot) => (slot, TOP),
            Node::Entry(slot, number) => (slot, number),
        };
        let tree = slot.tree().await?;
        let (number, attr) = by_number(&tree)?.find_in(number, name).await?;
        Ok(Known { ino: slot.first | number, attr })
    }

    /// Describes a node.
    ///
    /// # Errors
    /// `StaleHandle` for a number that was never given; those of the catalogue and the store.
    pub async fn stat(&self, ino: u64) -> Result<Attr> {
        match self.node(ino)? {
            Node::Shelf => Ok(Attr::dir(self.shelf.changed().await?, TTL)),
            Node::Slot(slot) => Ok(slot.attr()),
            Node::Entry(slot, number) => by_number(&slot.tree().await?)?.attr_at(number).await,
        }
    }

    /// Hands out the entries of a directory from `offset` on, until `fill` says that it took one
    /// too many.
    ///
    /// # Errors
    /// `NotADirectory`; those of the catalogue and the store.
    pub async fn read_dir(
        &self,
        ino: u64,
        offset: u64,
        mut fill: impl FnMut(Listed<'_>) -> bool + Send,
    ) -> Result<()> {
        let (slot, number) = match self.node(ino)? {
            Node::Shelf => return self.read_shelf(offset, fill).await,
            Node::Slot(slot) => (slot, TOP),
            Node::Entry(slot, number) => (slot, number),
        };
        let (tree, first) = (slot.tree().await?, slot.first);
        let tree = by_number(&tree)?;
        if offset < FIRST {
            let parent = match number {
                TOP => ROOT,
                _ => first | tree.parent_of(number).await?,
            };
            if dots(offset, [ino, parent], &tree.attr_at(number).await?, &mut fill) {
                return Ok(());
            }
        }
        let from = offset.checked_sub(FIRST).filter(|at| *at > 0).map(|last| last + 1);
        let listed = tree.list_in(number, from, |number, name, attr| {
            fill(Listed { ino: first | number, next_offset: FIRST + number, name, attr })
        });
        listed.await
    }

    /// Reads `len` bytes of a file at `offset`; shorter only at its end.
    ///
    /// # Errors
    /// `IsADirectory`, `Damaged`; those of the store.
    pub async fn read(&self, ino: u64, offset: u64, len: usize) -> Result<Bytes> {
        match self.node(ino)? {
            Node::Shelf | Node::Slot(_) => {
                Err(Error::new(ErrorKind::IsADirectory, "it has no bytes"))
            }
            Node::Entry(slot, number) => {
                by_number(&slot.tree().await?)?.read_at(number, offset, len).await
            }
        }
    }

    /// Reads what a symbolic link holds.
    ///
    /// # Errors
    /// `InvalidInput` for what isn't one; those of the store.
    pub async fn read_link(&self, ino: u64) -> Result<Bytes> {
        match self.node(ino)? {
            Node::Slot(slot) => slot.target(),
            Node::Entry(slot, number) => by_number(&slot.tree().await?)?.link_at(number).await,
            Node::Shelf => Err(Error::new(ErrorKind::InvalidInput, "it isn't a symbolic link")),
        }
    }

    /// Reads an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute` when there is none of that name.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Bytes> {
        let value = match self.node(ino)? {
            Node::Shelf => None,
            Node::Slot(slot) | Node::Entry(slot, _) => {
                slot.label().and_then(|label| label.value(name))
            }
        };
        value.ok_or_else(|| ErrorKind::NoAttribute.into())
    }

    /// Lists the names of the extended attributes.
    ///
    /// # Errors
    /// `StaleHandle` for a number that was never given.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<Bytes>> {
        Ok(match self.node(ino)? {
            Node::Shelf => Vec::new(),
            Node::Slot(slot) | Node::Entry(slot, _) => {
                slot.label().map(Label::names).unwrap_or_default()
            }
        })
    }

    async fn on_shelf(&self, name: &[u8]) -> Result<Known> {
        let found = self.shelf.find(name).await?.ok_or_else(|| {
            let name = name.escape_ascii();
            Error::new(ErrorKind::NotFound, format!("{name} isn't there")).lasting(TTL)
        })?;
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.enter(name, found);
        // Its name may lead elsewhere in a moment.
        Ok(Known { ino: slot.first, attr: Attr { ttl: TTL, ..slot.attr() } })
    }

    async fn read_shelf(
        &self,
        offset: u64,
        mut fill: impl FnMut(Listed<'_>) -> bool + Send,
    ) -> Result<()> {
        let own = self.stat(ROOT).await?;
        if dots(offset, [ROOT, ROOT], &own, &mut fill) {
            return Ok(());
        }
        let names = self.shelf.names().await?;
        let places = {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            slots.in_order(names)
        };
        let last = offset.saturating_sub(FIRST);
        for (place, name) in places.into_iter().filter(|(place, _)| *place > last) {
            match self.on_shelf(&name).await {
                Ok(Known { ino, attr }) => {
                    let next_offset = FIRST + place;
                    if fill(Listed { ino, next_offset, name: &name, attr: &attr }) {
                        break;
                    }
                }
                // Gone since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn node(&self, ino: u64) -> Result<Node> {
        if ino == ROOT {
            return Ok(Node::Shelf);
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.at(ino >> ENTRY_BITS).ok_or_else(|| {
            Error::new(ErrorKind::StaleHandle, format!("inode {ino} stands for nothing"))
        })?;
        Ok(match ino ^ slot.first {
            TOP => Node::Slot(slot),
            number => Node::Entry(slot, number),
        })
    }
}

/// The tree of a slot by number.
fn by_number(tree: &Arc<dyn Tree>) -> Result<&SnapshotTree> {
    tree.by_number().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "only the entries of a version have numbers")
    })
}

/// Hands out `.` and `..` where the listing begins there; tells whether that was one too many.
fn dots(
    offset: u64,
    inos: [u64; 2],
    attr: &Attr,
    fill: &mut impl FnMut(Listed<'_>) -> bool,
) -> bool {
    let names = [&b"."[..], b".."];
    let mut dots = (0..).zip(inos).zip(names).skip_while(|((at, _), _)| *at < offset);
    dots.any(|((at, ino), name)| fill(Listed { ino, next_offset: at + 1, name, attr }))
}
