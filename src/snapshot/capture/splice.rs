//! Goes through the pages of the previous version: what hasn't changed is used again as it is.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::gone::{Gone, key};
use crate::chunk::Id;
use crate::error::Result;
use crate::snapshot::format::{Entry, Page, PageRef};
use crate::snapshot::read::Version;

/// The previous version, from a place on.
pub(super) struct Splice {
    version: Version,
    gone: Gone,
    /// The pages whose packs may be used.
    usable: HashSet<Id>,
    /// The next page that wasn't looked at yet.
    next: usize,
    /// The page that is being gone through, and where.
    open: Option<(Arc<Page>, usize)>,
}

/// What the previous version has next.
pub(super) enum Next {
    /// A page that stays as it is.
    Page(PageRef),
    /// An entry that stays as it is.
    Kept(Bytes, Bytes, Entry),
    /// An entry that isn't there any more.
    Dropped(Entry),
    /// The entry whose place is asked for.
    Replaced(Entry),
    /// Nothing in front of that place.
    Nothing,
}

impl Splice {
    pub(super) fn new(version: Version, gone: Gone, usable: HashSet<Id>) -> Self {
        Self { version, gone, usable, next: 0, open: None }
    }

    pub(super) fn version(&self) -> &Version {
        &self.version
    }

    /// Goes on towards a key, or to the end. A page is used as it is where the pages so far end
    /// before it: `at_start`.
    pub(super) async fn step(&mut self, to: Option<&[u8]>, at_start: bool) -> Result<Next> {
        loop {
            if let Some((page, at)) = &mut self.open {
                let Some((directory, name, entry)) = page.get(*at) else {
                    self.open = None;
                    continue;
                };
                let key = key(&directory, &name);
                let next = match to {
                    Some(to) if key.as_slice() > to => return Ok(Next::Nothing),
                    Some(to) if key == to => Next::Replaced(entry),
                    _ if self.gone.contains(&key) => Next::Dropped(entry),
                    _ => Next::Kept(directory, name, entry),
                };
                *at += 1;
                return Ok(next);
            }
            let pages = self.version.pages();
            let Some(page) = pages.get(self.next) else { return Ok(Next::Nothing) };
            if to.is_some_and(|to| page.first[..] > *to) {
                return Ok(Next::Nothing);
            }
            let behind = pages.get(self.next + 1).map(|page| &page.first);
            // The last page ends where it does since nothing follows.
            let is_passed = to.is_none_or(|to| behind.is_some_and(|behind| behind[..] <= *to));
            self.next += 1;
            if is_passed
                && at_start
                && self.usable.contains(&page.pack)
                && !self.gone.touches(&page.first, behind)
            {
                return Ok(Next::Page(page.clone()));
            }
            self.open = Some((self.version.page(self.next - 1).await?, 0));
        }
    }
}
