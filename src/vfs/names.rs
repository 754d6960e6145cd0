//! Names: making, linking, removing and renaming them.

use super::moves::Move;
use super::place::Place;
use super::{Known, RETURNS, Vfs, lock};
use crate::error::{ErrorKind, Result};
use crate::tree::{Attr, FileType, NewNode, RenameMode};

impl Vfs {
    /// Makes a directory.
    pub async fn create_dir(&self, parent: u64, name: &[u8], new: NewNode) -> Result<Known> {
        let made =
            self.below(parent, name, |path| async move { self.tree.create_dir(&path, new).await });
        self.made(parent, name, made.await)
    }

    /// Makes a node that isn't a directory.
    pub async fn create_node(
        &self,
        parent: u64,
        name: &[u8],
        new: NewNode,
        file_type: FileType,
        rdev: u64,
    ) -> Result<Known> {
        let made = self.below(parent, name, |path| async move {
            self.tree.create_node(&path, new, file_type, rdev).await
        });
        self.made(parent, name, made.await)
    }

    /// Makes a symbolic link that holds `target`.
    pub async fn symlink(
        &self,
        parent: u64,
        name: &[u8],
        target: &[u8],
        new: NewNode,
    ) -> Result<Known> {
        let made = self
            .below(parent, name, |path| async move { self.tree.symlink(&path, target, new).await });
        self.made(parent, name, made.await)
    }

    /// Gives a file a second name.
    pub async fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Known> {
        let linked = self.on(ino, |path| async move {
            let new_path = self.child_path(parent, name)?;
            self.tree.link(&path, &new_path).await
        });
        let attr = linked.await?;
        self.touch_node(ino);
        self.directories.touch(parent);
        Ok(self.enter(parent, name, attr))
    }

    /// Removes a name that isn't a directory.
    pub async fn remove_file(&self, parent: u64, name: &[u8]) -> Result<()> {
        let kept = self.keep(parent, name, &self.child_path(parent, name)?).await;
        let removed =
            self.below(parent, name, |path| async move { self.tree.remove_file(&path).await });
        if let Err(error) = removed.await {
            self.let_go(kept);
            return Err(error);
        }
        self.unlinked(parent, name);
        self.keep_until_forgotten(kept);
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn remove_dir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.below(parent, name, |path| async move { self.tree.remove_dir(&path).await }).await?;
        self.unlinked(parent, name);
        Ok(())
    }

    /// Renames `name` in `parent` to `new_name` in `new_parent`.
    pub async fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        if lock(&self.nodes).at(parent, name).is_some() {
            return self.rename_known(parent, name, new_parent, new_name, mode).await;
        }
        // Only of a name that is known it can be told whether the other one leads to the same
        // file: then both stay.
        let known = self.lookup(parent, name).await?;
        let renamed = self.rename_known(parent, name, new_parent, new_name, mode).await;
        self.forget(known.ino, 1);
        renamed
    }

    async fn rename_known(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let to = self.child_path(new_parent, new_name)?;
        let kept = match mode {
            RenameMode::Replace => self.keep(new_parent, new_name, &to).await,
            RenameMode::NoReplace | RenameMode::Exchange => None,
        };
        let under_way = match self.move_in_tree(parent, name, new_parent, new_name, mode).await {
            Ok(under_way) => under_way,
            Err(error) => {
                self.let_go(kept);
                return Err(error);
            }
        };
        let replaced = lock(&self.nodes).at(new_parent, new_name);
        let open = replaced.is_some_and(|ino| lock(&self.files).has(ino));
        let (from, to) = (Place::new(parent, name), Place::new(new_parent, new_name));
        lock(&self.nodes).rename(from, to, mode, open);
        drop(under_way);
        self.settle_identity(replaced.filter(|_| open));
        self.keep_until_forgotten(kept);
        self.directories.touch(parent);
        self.directories.touch(new_parent);
        Ok(())
    }

    /// Renames in the tree; the move is over when the table shows it too.
    async fn move_in_tree(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<Move<'_>> {
        let paths = || -> Result<_> {
            Ok((self.child_path(parent, name)?, self.child_path(new_parent, new_name)?))
        };
        let mut attempts = 0..RETURNS;
        loop {
            let changes = lock(&self.nodes).changes();
            let (from, to) = paths()?;
            let under_way = self.moves.begin(&from, &to);
            match self.tree.rename(&from, &to, mode).await {
                Ok(()) => return Ok(under_way),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    drop(under_way);
                    let waited = self.moves.settled(&from).await || self.moves.settled(&to).await;
                    if !waited && paths()? == (from, to) && !self.was_away(changes, &mut attempts) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn made(&self, parent: u64, name: &[u8], made: Result<Attr>) -> Result<Known> {
        let attr = made?;
        let ino = lock(&self.nodes).enter_new(parent, name, &attr);
        self.directories.touch(parent);
        Ok(Known { ino, attr })
    }

    fn unlinked(&self, parent: u64, name: &[u8]) {
        let ino = lock(&self.nodes).at(parent, name);
        let open = ino.is_some_and(|ino| lock(&self.files).has(ino));
        lock(&self.nodes).unlink(parent, name, open);
        self.settle_identity(ino.filter(|_| open));
        self.directories.touch(parent);
    }

    /// Ends what keeps an identity if the node, which was open when it lost its name, was closed
    /// before it did.
    fn settle_identity(&self, unlinked: Option<u64>) {
        if let Some(ino) = unlinked
            && !lock(&self.files).has(ino)
        {
            lock(&self.nodes).closed(ino);
        }
    }
}
