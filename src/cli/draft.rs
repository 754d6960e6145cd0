//! Drafts: datasets that commands are filling.
//!
//! A draft is a directory below `drafts/` of the home. In it are the files as they are written,
//! and the place where they are mounted. The process that fills it holds a lock on it, so a draft
//! without one is left of a process that ended before it could clear it away.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{IoContext as _, Result};
use crate::fuse::{self, Unmount, mounts};

/// Where the files of a draft are; no dataset has such a name.
const FILES: &str = ".files";

/// A draft of this process. What is left of it goes with this.
pub(super) struct Draft {
    dir: PathBuf,
    mount_point: PathBuf,
    _lock: File,
}

impl Draft {
    /// Makes an empty draft of a dataset.
    ///
    /// # Errors
    /// `StorageFull`, `PermissionDenied` and others of the file system.
    pub(super) fn make(config: &Config, name: &str) -> Result<Self> {
        let drafts = config.drafts_dir();
        let unmade = || format!("a draft can't be made in {}", drafts.display());
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(&drafts).context(unmade)?;
        let drafts = drafts.canonicalize().context(unmade)?;
        // Nobody takes it for one that was left before it has its own lock.
        let all = File::open(&drafts).context(unmade)?;
        all.lock().context(unmade)?;
        let mut numbers = 1_u64..;
        let dir = loop {
            let dir = drafts.join(numbers.next().unwrap_or(0).to_string());
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break made.map(|()| dir).context(unmade)?,
            }
        };
        let lock = File::open(&dir).context(unmade)?;
        lock.lock().context(unmade)?;
        let draft = Self { mount_point: dir.join(name), dir, _lock: lock };
        fs::create_dir(&draft.mount_point).context(unmade)?;
        fs::create_dir(draft.files()).context(unmade)?;
        // It becomes the dataset's own, whatever may be read by others here.
        let shown = fs::Permissions::from_mode(0o755);
        fs::set_permissions(draft.files(), shown).context(unmade)?;
        Ok(draft)
    }

    /// The directory in which its files are.
    pub(super) fn files(&self) -> PathBuf {
        self.dir.join(FILES)
    }

    /// Makes sure that all files can be read: a command may have taken that from their owner, and
    /// nothing of what it wrote may be left out.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn let_owner_read(&self) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let files = self.files();
        allow(&files, 0o500, 0o400).context(|| format!("{} can't be read", files.display()))
    }

    /// The directory to mount it on.
    pub(super) fn mount_point(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir) {
            super::table::say(format!("warning: a draft is left behind: {error:?}"));
        }
    }
}

/// Clears away the drafts of this home whose processes have ended, with their mounts.
pub(super) fn clear(config: &Config) {
    if let Err(error) = clear_all(&config.drafts_dir()) {
        tracing::warn!("drafts that were left can't be cleared away: {error:?}");
    }
}

fn clear_all(drafts: &Path) -> Result<()> {
    let unseen = || format!("{} can't be looked at", drafts.display());
    let all = match File::open(drafts) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context(unseen)?,
    };
    match all.try_lock() {
        Ok(()) => {}
        // Somebody else makes a draft, or clears.
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error).context(unseen),
    }
    let drafts = drafts.canonicalize().context(unseen)?;
    for draft in fs::read_dir(&drafts).context(unseen)? {
        let dir = draft.context(unseen)?.path();
        let lock = match File::open(&dir) {
            // Its own process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.context(unseen)?,
        };
        if lock.try_lock().is_ok() {
            remove(&dir)?;
            tracing::info!(draft = %dir.display(), "cleared away what a process left");
        }
    }
    Ok(())
}

/// Removes a draft, with what is mounted in it.
fn remove(dir: &Path) -> Result<()> {
    let mut mounted = mounts::all()?;
    mounted.retain(|mounted| mounted.is_ours() && mounted.mount_point.starts_with(dir));
    for mounted in mounted.iter().rev() {
        fuse::unmount(mounted, Unmount::Lazily)?;
    }
    let removed = match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            allow(dir, 0o700, 0).and_then(|()| fs::remove_dir_all(dir))
        }
        other => other,
    };
    removed.context(|| format!("{} can't be removed", dir.display()))
}

/// Gives the owner of a directory and of all below it these rights, where he lacks them.
fn allow(dir: &Path, on_directories: u32, on_files: u32) -> io::Result<()> {
    add_mode(dir, fs::symlink_metadata(dir)?.permissions().mode(), on_directories)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            allow(&entry.path(), on_directories, on_files)?;
        } else if metadata.is_file() {
            add_mode(&entry.path(), metadata.permissions().mode(), on_files)?;
        }
    }
    Ok(())
}

fn add_mode(path: &Path, mode: u32, more: u32) -> io::Result<()> {
    if mode & more == more {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 | more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_gets_the_rights_that_he_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let set = |name: &str, mode| {
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b/shut"), "").unwrap();
        fs::write(path("a/open"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("a/link")).unwrap();
        set("a/b/shut", 0o070);
        set("a/open", 0o644);
        set("a/b", 0o000);
        allow(dir.path(), 0o500, 0o400).unwrap();
        let mode = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode("a/b"), mode("a/b/shut"), mode("a/open")], [0o500, 0o470, 0o644]);
    }
}
