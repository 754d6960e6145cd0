//! The tree of a version by number instead of path, for a front end that keeps no table.

use bytes::Bytes;

use super::{SnapshotTree, TTL, attr_of};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::number::TOP;
use crate::snapshot::{Content, Named};
use crate::tree::Attr;

impl SnapshotTree {
    /// Describes the entry of a number.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub async fn attr_at(&self, number: u64) -> Result<Attr> {
        Ok(attr_of(&self.version.numbered(number).await?.entry))
    }

    /// Finds `name` in a directory.
    ///
    /// # Errors
    /// `NotFound`, which is true for ever; `NotADirectory`, `Damaged`.
    pub async fn find_in(&self, directory: u64, name: &[u8]) -> Result<(u64, Attr)> {
        let path = self.directory(directory).await?.path();
        let found = self.version.number_of(&path, name).await?;
        let (number, entry) = found.ok_or_else(|| {
            let (path, name) = (path.escape_ascii(), name.escape_ascii());
            Error::new(ErrorKind::NotFound, format!("{path}/{name} isn't there")).lasting(TTL)
        })?;
        Ok((number, attr_of(&entry)))
    }

    /// Hands out the entries of a directory, from the number `from` on or else from its first,
    /// until `fill` says that it took one too many.
    ///
    /// # Errors
    /// `NotADirectory`, `Damaged`.
    pub async fn list_in(
        &self,
        directory: u64,
        from: Option<u64>,
        mut fill: impl FnMut(u64, &[u8], &Attr) -> bool + Send,
    ) -> Result<()> {
        let path = self.directory(directory).await?.path();
        let mut number = match from {
            Some(number) => number,
            None => self.version.first_below(&path).await?,
        };
        while let Some((page, first)) = self.version.page_of(number).await? {
            for at in first..page.len() {
                let Some((parent, name, entry)) = page.get(at) else { break };
                if parent != path || fill(number, &name, &attr_of(&entry)) {
                    return Ok(());
                }
                number += 1;
            }
        }
        Ok(())
    }

    /// The number of the directory that an entry is in; the top directory is in itself.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub async fn parent_of(&self, number: u64) -> Result<u64> {
        let above = self.version.numbered(number).await?.directory;
        if above.is_empty() {
            return Ok(TOP);
        }
        let cut = above.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = match cut {
            Some(cut) => (&above[..cut], &above[cut + 1..]),
            None => (&b""[..], &above[..]),
        };
        let found = self.version.number_of(directory, name).await?;
        found.map(|(number, _)| number).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Reads `len` bytes of a file at `offset`; shorter only at its end.
    ///
    /// # Errors
    /// Those of [`Version::read_content`](crate::snapshot::Version::read_content); the message
    /// names the file.
    pub async fn read_at(&self, number: u64, offset: u64, len: usize) -> Result<Bytes> {
        let Named { directory, name, entry } = self.version.numbered(number).await?;
        let range = offset..offset.saturating_add(len as u64);
        let read = self.version.read_content(&entry.content, range).await;
        read.map_err(|error| self.unreadable(&Named { directory, name, entry }.path(), error))
    }

    /// Reads what a symbolic link holds.
    ///
    /// # Errors
    /// `InvalidInput` for what isn't one; `NotFound`, `Damaged`.
    pub async fn link_at(&self, number: u64) -> Result<Bytes> {
        match self.version.numbered(number).await?.entry.content {
            Content::Symlink(target) => Ok(target),
            _ => Err(Error::new(ErrorKind::InvalidInput, "it isn't a symbolic link")),
        }
    }

    async fn directory(&self, number: u64) -> Result<Named> {
        let named = self.version.numbered(number).await?;
        if named.entry.content == Content::Directory {
            return Ok(named);
        }
        let path = named.path().escape_ascii().to_string();
        Err(Error::new(ErrorKind::NotADirectory, format!("{path} isn't a directory")))
    }
}
