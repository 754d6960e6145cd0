//! Entries by number, for whoever can keep no more of each than that.
//!
//! The top directory of a version is number 0; the others count from 1 on in the order of its
//! pages, in which the children of a directory follow each other. Since a version never changes, a
//! number stands for the same entry for ever.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{Content, Entry, Page, Root};
use super::{Named, Version};
use crate::error::{Error, ErrorKind, Result};

/// The number of the top directory.
pub const TOP: u64 = 0;

impl Version {
    /// The entry of a number.
    ///
    /// # Errors
    /// `NotFound` when there is no such number; `Damaged`.
    pub async fn numbered(&self, number: u64) -> Result<Named> {
        if number == TOP {
            return Ok(self.top());
        }
        let found = self.page_of(number).await?.and_then(|(page, at)| page.get(at));
        let (directory, name, entry) = found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} has no entry {number}", self.id()))
        })?;
        Ok(Named { directory, name, entry })
    }

    /// The number of `name` in the directory of this path, and its entry.
    ///
    /// # Errors
    /// `Damaged`.
    pub async fn number_of(&self, directory: &[u8], name: &[u8]) -> Result<Option<(u64, Entry)>> {
        let Some(page_number) = self.page_number(directory, name) else { return Ok(None) };
        let page = self.page(page_number).await?;
        let Ok(at) = page.find(directory, name) else { return Ok(None) };
        let number = 1 + self.first_of(page_number) + at as u64;
        Ok(page.get(at).map(|(_, _, entry)| (number, entry)))
    }

    /// The number from which the children of a directory follow each other, if it has any.
    ///
    /// # Errors
    /// `Damaged`.
    pub async fn first_below(&self, directory: &[u8]) -> Result<u64> {
        let Some(page_number) = self.page_number(directory, b"") else { return Ok(1) };
        let page = self.page(page_number).await?;
        let at = page.find(directory, b"").unwrap_or_else(|at| at);
        Ok(1 + self.first_of(page_number) + at as u64)
    }

    /// The page that has the entry of a number, and its position there.
    ///
    /// # Errors
    /// `Damaged`.
    pub async fn page_of(&self, number: u64) -> Result<Option<(Arc<Page>, usize)>> {
        let Some(ordinal) = number.checked_sub(1) else { return Ok(None) };
        let Some((page_number, at)) = self.place_of(ordinal) else { return Ok(None) };
        let page = self.page(page_number).await?;
        Ok((at < page.len()).then_some((page, at)))
    }

    fn top(&self) -> Named {
        let Root { mode, mtime, .. } = *self.root();
        let entry = Entry { mode, mtime, content: Content::Directory };
        Named { directory: Bytes::new(), name: Bytes::new(), entry }
    }
}

impl Named {
    /// Its path: the names from the top directory down.
    pub fn path(&self) -> Bytes {
        match (self.directory.is_empty(), self.name.is_empty()) {
            (true, _) => self.name.clone(),
            (false, true) => self.directory.clone(),
            (false, false) => [&self.directory, &b"/"[..], &self.name].concat().into(),
        }
    }
}
