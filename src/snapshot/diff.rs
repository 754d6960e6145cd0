//! What differs between two versions, at the cost of what differs.
//!
//! Versions share the pages in which nothing changed. A key is in one page of a version only, so
//! whatever is in a page that both have is the same in both, and only the other pages are read.

use std::cmp::Ordering;
use std::collections::HashSet;

use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::format::Entry;
use super::read::{Named, Version};
use crate::chunk::Id;
use crate::error::{Error, Result};
use crate::path::TreePath;

/// An entry that isn't the same in two versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where it is.
    pub path: TreePath,
    /// What became of it.
    pub change: Change,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second version has it.
    Added(Entry),
    /// Only the first version has it.
    Removed(Entry),
    /// Both have it, with other bytes, of another kind or with another mode.
    Changed {
        /// As the first version has it.
        before: Entry,
        /// As the second version has it.
        after: Entry,
    },
    /// Both have it and it differs in its time alone.
    Touched,
}

/// What differs between two versions, sorted by the path of the directory and then by name.
///
/// # Errors
/// As items of the stream: `Damaged`; those of the store.
pub fn diff(before: &Version, after: &Version) -> BoxStream<'static, Result<Difference>> {
    let ids =
        |version: &Version| -> HashSet<Id> { version.pages().iter().map(|page| page.id).collect() };
    let (old, new) = (ids(before), ids(after));
    let sides = Sides {
        before: before.entries_outside(&new).peekable(),
        after: after.entries_outside(&old).peekable(),
    };
    stream::try_unfold(sides, |mut sides| async move {
        Ok::<_, Error>(sides.next().await?.map(|difference| (difference, sides)))
    })
    .boxed()
}

type Entries = stream::Peekable<BoxStream<'static, Result<Named>>>;

/// The entries of both versions that may differ, sorted.
struct Sides {
    before: Entries,
    after: Entries,
}

impl Sides {
    async fn next(&mut self) -> Result<Option<Difference>> {
        loop {
            let order = match (key(&mut self.before).await, key(&mut self.after).await) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => before.cmp(&after),
            };
            // An error has the least key, and comes out here.
            let before = if order.is_le() { self.before.try_next().await? } else { None };
            let after = if order.is_ge() { self.after.try_next().await? } else { None };
            match (before, after) {
                (Some(before), Some(after)) => {
                    if let Some(change) = compare(&before.entry, &after.entry) {
                        return difference(&before, change).map(Some);
                    }
                }
                (Some(only), None) => {
                    let change = Change::Removed(only.entry.clone());
                    return difference(&only, change).map(Some);
                }
                (None, Some(only)) => {
                    let change = Change::Added(only.entry.clone());
                    return difference(&only, change).map(Some);
                }
                (None, None) => return Ok(None),
            }
        }
    }
}

/// What the next entry is sorted by; an error comes first.
async fn key(entries: &mut Entries) -> Option<(bytes::Bytes, bytes::Bytes)> {
    let next = std::pin::Pin::new(entries).peek().await?;
    Some(match next {
        Ok(named) => (named.directory.clone(), named.name.clone()),
        Err(_) => Default::default(),
    })
}

fn compare(before: &Entry, after: &Entry) -> Option<Change> {
    if before.mode != after.mode || !before.content.is_same(&after.content) {
        return Some(Change::Changed { before: before.clone(), after: after.clone() });
    }
    (before.mtime != after.mtime).then_some(Change::Touched)
}

fn difference(named: &Named, change: Change) -> Result<Difference> {
    Ok(Difference { path: TreePath::parse(named.path())?, change })
}
