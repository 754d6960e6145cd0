//! Files that lost their last name while the front end knows them.
//!
//! Between finding a name and opening what it names, another process may replace or remove it; POSIX
//! lets the open succeed nevertheless. So a file that is about to lose its last name is opened and
//! kept until the front end forgets it, which a kernel does at once when nobody uses it.

use super::{Handle, Vfs, lock};
use crate::path::TreePath;
use crate::tree::OpenMode;

/// A file that was opened to be kept.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    ino: u64,
    handle: Handle,
}

impl Vfs {
    /// Opens what is about to lose its last name, where that costs no more than a system call:
    /// in trees that tell files apart. One that can't be opened isn't kept.
    pub(super) async fn keep(&self, parent: u64, name: &[u8], path: &TreePath) -> Option<Kept> {
        let ino = lock(&self.nodes).with_last_name(parent, name)?;
        let opened = self.tree.open(path, OpenMode::READ).await.ok()?;
        let file = self.checked(ino, opened).await.ok()?;
        Some(Kept { ino, handle: self.opened(ino, file, OpenMode::READ).handle })
    }

    /// Keeps the file until it is forgotten.
    pub(super) fn keep_until_forgotten(&self, kept: Option<Kept>) {
        if let Some(Kept { ino, handle }) = kept {
            lock(&self.kept).insert(ino, handle);
            self.drop_if_forgotten(ino);
        }
    }

    /// Lets go of a file that didn't lose its name after all.
    pub(super) fn let_go(&self, kept: Option<Kept>) {
        if let Some(kept) = kept {
            self.release(kept.handle);
        }
    }

    /// Lets go of a file that nobody can ask for any more.
    pub(super) fn drop_if_forgotten(&self, ino: u64) {
        if !lock(&self.nodes).knows(ino) {
            let kept = lock(&self.kept).remove(&ino);
            if let Some(handle) = kept {
                self.release(handle);
            }
        }
    }
}
