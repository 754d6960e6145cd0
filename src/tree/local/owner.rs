//! Whose a new node is, and with which mode.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};

use super::attr::{attr_of, set_mode, set_owner};
use crate::tree::{Attr, FileType, NewNode, Owner};

/// The set-group-ID bit, see `inode(7)`.
const SET_GID: u32 = 0o2000;

/// This process, which makes nodes on behalf of others.
pub(super) struct Maker {
    me: Owner,
}

impl Maker {
    pub(super) fn new() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Self { me: Owner { uid, gid } }
    }

    /// Makes sure that a node opened by its name is the one that was just made there.
    ///
    /// Whoever may write to the directory behind the mount could have swapped it for another
    /// file, which must not change hands.
    pub(super) fn claim(&self, node: BorrowedFd<'_>, file_type: FileType) -> Result<()> {
        let attr = attr_of(node)?;
        let mine = attr.owner.is_some_and(|owner| owner.uid == self.me.uid);
        let single = attr.is_dir() || attr.nlink == 1;
        if mine && single && attr.file_type == file_type { Ok(()) } else { Err(Errno::STALE) }
    }

    /// Gives a new node the caller as its owner, where this process may, and all of its mode,
    /// some of which this process' umask or the change of owner may have taken.
    pub(super) fn finish(
        &self,
        dir: BorrowedFd<'_>,
        node: BorrowedFd<'_>,
        new: NewNode,
    ) -> Result<Attr> {
        let mut attr = attr_of(node)?;
        if self.me.uid == 0 && new.owner != self.me {
            // The group of a set-group-ID directory has been inherited already.
            let inherits = attr_of(dir)?.mode & SET_GID != 0;
            set_owner(node, Some(new.owner.uid), (!inherits).then_some(new.owner.gid))?;
            attr = attr_of(node)?;
        }
        let inherited = if attr.is_dir() { attr.mode & SET_GID } else { 0 };
        let mode = new.mode & 0o7777 | inherited;
        if attr.file_type != FileType::Symlink && attr.mode != mode {
            set_mode(node, mode)?;
            attr = attr_of(node)?;
        }
        Ok(attr)
    }
}
