//! Turns a version, or a directory of it, into a directory of this machine.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::format::{Content, Entry, Mtime};
use super::read::{Named, Version};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::path::TreePath;

/// How much of a file is read and written at a time, in bytes.
const BLOCK: usize = 1 << 20;

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files and links that were written.
    pub written: u64,
    /// Files and links that were as they should be.
    pub unchanged: u64,
    /// Names that the version doesn't have and that are gone now, with all below them.
    pub removed: u64,
}

/// Makes the directory `into` hold exactly what the version holds in its directory `from`.
///
/// A file is replaced in one step, so whoever reads it meanwhile sees the old bytes or the new.
/// What the version doesn't have is removed last. All is durable when this returns.
///
/// # Errors
/// `NotFound`, `NotADirectory` for `from`; `StorageFull`, `PermissionDenied` and others of the
/// file system; `Damaged`. What was done until then stays.
pub async fn restore(version: &Version, from: &TreePath, into: &Path) -> Result<Restored> {
    let (version, from, into) = (version.clone(), from.clone(), into.to_owned());
    let work = move || {
        let mut restore =
            Restore { version, runtime: Handle::current(), done: Restored::default() };
        fs::create_dir_all(&into)
            .context(|| format!("directory {} can't be made", into.display()))?;
        restore.fill(&from, &into)?;
        let synced = File::open(&into).and_then(|top| Ok(rustix::fs::syncfs(&top)?));
        synced.context(|| format!("{} can't be made durable", into.display()))?;
        Ok(restore.done)
    };
    let done = spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Io, "a restore was stopped").with_source(error))?
}

struct Restore {
    version: Version,
    runtime: Handle,
    done: Restored,
}

impl Restore {
    fn directory(&mut self, from: &TreePath, entry: &Entry, into: &Path) -> Result<()> {
        // Also a directory that nobody may write must be filled; its mode comes afterwards.
        make_dir(into).context(|| format!("directory {} can't be made", into.display()))?;
        self.fill(from, into)?;
        let set = set_mode(into, entry.mode).and_then(|()| set_mtime(into, entry.mtime));
        set.context(|| format!("the mode of {} can't be set", into.display()))
    }

    fn fill(&mut self, from: &TreePath, into: &Path) -> Result<()> {
        let listed = self.version.list(from).try_collect();
        let wanted: Vec<Named> = self.runtime.block_on(listed)?;
        for Named { name, entry, .. } in &wanted {
            let to = into.join(OsStr::from_bytes(name));
            match &entry.content {
                Content::Directory => self.directory(&from.join(name)?, entry, &to)?,
                Content::Symlink(target) => self.link(target, entry, &to)?,
                _ => self.file(entry, &to)?,
            }
        }
        let wanted: HashSet<&Bytes> = wanted.iter().map(|named| &named.name).collect();
        let surplus = surplus(into, &wanted)
            .context(|| format!("directory {} can't be listed", into.display()))?;
        for path in surplus {
            remove(&path).context(|| format!("{} can't be removed", path.display()))?;
            self.done.removed += 1;
        }
        Ok(())
    }

    fn link(&mut self, target: &Bytes, entry: &Entry, to: &Path) -> Result<()> {
        let target = Path::new(OsStr::from_bytes(target));
        if fs::read_link(to).is_ok_and(|present| present == target) {
            self.done.unchanged += 1;
        } else {
            let made = make_way(to, |kind| !kind.is_dir())
                .and_then(|()| Unfinished::beside(to, |path| symlink(target, path)))
                .and_then(|((), unfinished)| fs::rename(&unfinished.0, to));
            made.context(|| format!("link {} can't be made", to.display()))?;
            self.done.written += 1;
        }
        set_mtime(to, entry.mtime).context(|| format!("the time of {} can't be set", to.display()))
    }

    fn file(&mut self, entry: &Entry, to: &Path) -> Result<()> {
        if self.is_there(entry, to)? {
            self.done.unchanged += 1;
            let set = set_mode(to, entry.mode).and_then(|()| set_mtime(to, entry.mtime));
            return set.context(|| format!("the mode of {} can't be set", to.display()));
        }
        let unwritten = || format!("file {} can't be written", to.display());
        make_way(to, |kind| !kind.is_dir()).context(unwritten)?;
        let made = Unfinished::beside(to, |path| {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        });
        let (mut file, unfinished) = made.context(unwritten)?;
        for offset in (0..entry.content.len()).step_by(BLOCK) {
            let bytes = self.read(entry, offset)?;
            file.write_all(&bytes).context(unwritten)?;
        }
        set_mode(&unfinished.0, entry.mode)
            .and_then(|()| set_mtime(&unfinished.0, entry.mtime))
            .and_then(|()| fs::rename(&unfinished.0, to))
            .context(unwritten)?;
        self.done.written += 1;
        Ok(())
    }

    /// Whether the file has the right bytes already.
    fn is_there(&self, entry: &Entry, to: &Path) -> Result<bool> {
        let same_len = fs::symlink_metadata(to)
            .is_ok_and(|present| present.is_file() && present.len() == entry.content.len());
        if !same_len {
            return Ok(false);
        }
        let Ok(file) = File::open(to) else { return Ok(false) };
        let mut present = Vec::with_capacity(BLOCK);
        for offset in (0..entry.content.len()).step_by(BLOCK) {
            present.clear();
            let read = (&file).take(BLOCK as u64).read_to_end(&mut present);
            if read.is_err() || self.read(entry, offset)? != present {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&self, entry: &Entry, offset: u64) -> Result<Bytes> {
        let range = offset..offset + BLOCK as u64;
        self.runtime.block_on(self.version.read_content(&entry.content, range))
    }
}

/// A name that goes away again unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside<T>(to: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<(T, Self)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = to.with_file_name(format!(".atelier-{}-{count}", std::process::id()));
        let value = make(&path)?;
        Ok((value, Self(path)))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the rename there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a directory that its owner can fill, in place of whatever else has the name.
fn make_dir(path: &Path) -> io::Result<()> {
    make_way(path, |kind| kind.is_dir())?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
            if mode & 0o700 == 0o700 { Ok(()) } else { set_mode(path, mode | 0o700) }
        }
        other => other,
    }
}

/// Removes what has the name, unless it is of a kind that may stay.
fn make_way(path: &Path, may_stay: impl FnOnce(fs::FileType) -> bool) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(present) if may_stay(present.file_type()) => Ok(()),
        Ok(_) => remove(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// What is in a directory and not wanted.
fn surplus(dir: &Path, wanted: &HashSet<&Bytes>) -> io::Result<Vec<PathBuf>> {
    let mut surplus = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !wanted.contains(&Bytes::copy_from_slice(entry.file_name().as_bytes())) {
            surplus.push(entry.path());
        }
    }
    Ok(surplus)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Sets when a file, or a link itself, was last changed.
fn set_mtime(path: &Path, mtime: Mtime) -> io::Result<()> {
    let last_modification = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access, last_modification };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
