//! Turns a version, or a directory of it, into a directory of this machine.
//!
//! One thread goes through the version's directories and makes them; a few others write the files.
//! Modes and times of directories come last, when nothing is written into them any more.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::format::{Content, Entry, Mtime};
use super::read::{Named, Version};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::path::TreePath;

mod changed;

pub use changed::restore_changes;

/// How much of a file is read and written at a time, in bytes.
const BLOCK: usize = 1 << 20;

/// How many pieces of a file are read at the same time, for stores with latency.
const AHEAD: usize = 4;

/// Threads that write files; a store with latency keeps more of them waiting than the disk does.
const WRITERS: usize = 8;

/// Files and links that wait to be written.
const QUEUE: usize = 64;

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

/// How far a restore is; read it while it runs.
#[derive(Debug, Default)]
pub struct Restoring {
    /// Files and links that were written.
    pub written: AtomicU64,
    /// Files and links that were as they should be.
    pub unchanged: AtomicU64,
    /// Bytes of files that were written, or read to compare them.
    pub bytes: AtomicU64,
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
    let restore = Restore::new(version.clone(), Arc::default());
    let (from, into) = (from.clone(), into.to_owned());
    let done = spawn_blocking(move || restore.run(&from, &into)).await;
    done.map_err(|error| Error::new(ErrorKind::Io, "a restore was stopped").with_source(error))?
}

/// Like [`restore`], for a directory that may be lost with a crash: nothing is made durable.
///
/// # Errors
/// Those of `restore`.
pub async fn restore_scratch(version: &Version, from: &TreePath, into: &Path) -> Result<Restored> {
    let mut restore = Restore::new(version.clone(), Arc::default());
    restore.durable = false;
    let (from, into) = (from.clone(), into.to_owned());
    let done = spawn_blocking(move || restore.run(&from, &into)).await;
    done.map_err(|error| Error::new(ErrorKind::Io, "a restore was stopped").with_source(error))?
}

/// A restore at work.
pub(super) struct Restore {
    version: Version,
    runtime: Handle,
    progress: Arc<Restoring>,
    /// Where files are until they are finished, and then nothing is removed that the version
    /// doesn't have; beside the finished ones if it isn't said.
    scratch: Option<PathBuf>,
    /// Whether all is durable in the end.
    durable: bool,
    /// Guards why the writers stopped.
    failed: Mutex<Option<Error>>,
}

/// A file or a link that is to be there.
struct Job {
    entry: Entry,
    to: PathBuf,
}

/// What is left to do when all files are written.
#[derive(Default)]
struct Rest {
    /// Directories, each before those in it.
    directories: Vec<(PathBuf, Entry)>,
    surplus: Vec<PathBuf>,
}

impl Restore {
    pub(super) fn new(version: Version, progress: Arc<Restoring>) -> Self {
        let runtime = Handle::current();
        Self { version, runtime, progress, scratch: None, durable: true, failed: Mutex::default() }
    }

    /// Keeps files in a directory of their own until they are finished, and what is there already
    /// where it is.
    pub(super) fn with_scratch(self, scratch: PathBuf) -> Self {
        Self { scratch: Some(scratch), ..self }
    }

    pub(super) fn run(&self, from: &TreePath, into: &Path) -> Result<Restored> {
        self.run_with(into, |jobs| self.go_through(from, into, jobs))
    }

    /// Makes what `go_through` finds, which sends files and links to who writes them.
    fn run_with(
        &self,
        into: &Path,
        go_through: impl FnOnce(&SyncSender<Job>) -> Result<Rest>,
    ) -> Result<Restored> {
        fs::create_dir_all(into)
            .context(|| format!("directory {} can't be made", into.display()))?;
        let (jobs, queue) = sync_channel(QUEUE);
        let queue = Mutex::new(queue);
        let rest = thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| self.work(&queue));
            }
            let rest = go_through(&jobs);
            // Without the sender the writers end.
            drop(jobs);
            rest
        })?;
        if let Some(error) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        for path in &rest.surplus {
            remove(path).context(|| format!("{} can't be removed", path.display()))?;
        }
        for (path, entry) in rest.directories.iter().rev() {
            let set = set_mode(path, entry.mode).and_then(|()| set_mtime(path, entry.mtime));
            set.context(|| format!("the mode of {} can't be set", path.display()))?;
        }
        if self.durable {
            let synced = File::open(into).and_then(|top| Ok(rustix::fs::syncfs(&top)?));
            synced.context(|| format!("{} can't be made durable", into.display()))?;
        }
        Ok(Restored {
            written: self.progress.written.load(Ordering::Relaxed),
            unchanged: self.progress.unchanged.load(Ordering::Relaxed),
            removed: rest.surplus.len() as u64,
        })
    }

    /// Makes the directories, and has the files in them written.
    fn go_through(&self, from: &TreePath, into: &Path, jobs: &SyncSender<Job>) -> Result<Rest> {
        let mut rest = Rest::default();
        let mut ahead = vec![(from.clone(), into.to_owned())];
        while let Some((from, into)) = ahead.pop() {
            let listed = self.version.list(&from).try_collect();
            let wanted: Vec<Named> = self.runtime.block_on(listed)?;
            if self.scratch.is_none() {
                let names = wanted.iter().map(|named| &named.name).collect();
                let surplus = surplus(&into, &names);
                let unlisted = || format!("directory {} can't be listed", into.display());
                rest.surplus.extend(surplus.context(unlisted)?);
            }
            let below = ahead.len();
            for Named { name, entry, .. } in wanted {
                let to = into.join(OsStr::from_bytes(&name));
                if entry.content == Content::Directory {
                    // Also a directory that nobody may write must be filled.
                    make_dir(&to)
                        .context(|| format!("directory {} can't be made", to.display()))?;
                    ahead.push((from.join(&name)?, to.clone()));
                    rest.directories.push((to, entry));
                } else if self.is_stopped() || jobs.send(Job { entry, to }).is_err() {
                    return Ok(rest);
                }
            }
            // What is stored first is written first.
            ahead[below..].reverse();
        }
        Ok(rest)
    }

    /// Writes files and links until there are no more; after a failure it only lets them pass.
    fn work(&self, queue: &Mutex<Receiver<Job>>) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { entry, to }) = next else { return };
            if self.is_stopped() {
                continue;
            }
            let done = match &entry.content {
                Content::Symlink(target) => self.link(target, &entry, &to),
                _ => self.file(&entry, &to),
            };
            if let Err(error) = done {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn link(&self, target: &Bytes, entry: &Entry, to: &Path) -> Result<()> {
        let target = Path::new(OsStr::from_bytes(target));
        if fs::read_link(to).is_ok_and(|present| present == target) {
            self.progress.unchanged.fetch_add(1, Ordering::Relaxed);
        } else {
            let made = make_way(to, |kind| !kind.is_dir())
                .and_then(|()| self.unfinished(to, |path| symlink(target, path)))
                .and_then(|((), unfinished)| fs::rename(&unfinished.0, to));
            made.context(|| format!("link {} can't be made", to.display()))?;
            self.progress.written.fetch_add(1, Ordering::Relaxed);
        }
        set_mtime(to, entry.mtime).context(|| format!("the time of {} can't be set", to.display()))
    }

    fn file(&self, entry: &Entry, to: &Path) -> Result<()> {
        if self.is_there(entry, to)? {
            self.progress.unchanged.fetch_add(1, Ordering::Relaxed);
            let set = set_mode(to, entry.mode).and_then(|()| set_mtime(to, entry.mtime));
            return set.context(|| format!("the mode of {} can't be set", to.display()));
        }
        let unwritten = || format!("file {} can't be written", to.display());
        make_way(to, |kind| !kind.is_dir()).context(unwritten)?;
        let made = self.unfinished(to, |path| {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        });
        let (mut file, unfinished) = made.context(unwritten)?;
        let mut blocks = self.blocks(entry);
        while let Some(bytes) = self.runtime.block_on(blocks.next()) {
            file.write_all(&bytes?).context(unwritten)?;
        }
        set_mode(&unfinished.0, entry.mode)
            .and_then(|()| set_mtime(&unfinished.0, entry.mtime))
            .and_then(|()| fs::rename(&unfinished.0, to))
            .context(unwritten)?;
        self.progress.written.fetch_add(1, Ordering::Relaxed);
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
        let (mut present, mut blocks) = (Vec::with_capacity(BLOCK), self.blocks(entry));
        while let Some(bytes) = self.runtime.block_on(blocks.next()) {
            present.clear();
            let read = (&file).take(BLOCK as u64).read_to_end(&mut present);
            if read.is_err() || bytes? != present {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bytes of a file in order, each piece of the same length but for the last.
    fn blocks(&self, entry: &Entry) -> BoxStream<'static, Result<Bytes>> {
        let (version, progress) = (self.version.clone(), self.progress.clone());
        let content = Arc::new(entry.content.clone());
        let offsets = (0..content.len()).step_by(BLOCK);
        let read = move |offset| {
            let (version, progress, content) = (version.clone(), progress.clone(), content.clone());
            async move {
                let range = offset..offset + BLOCK as u64;
                let bytes = version.read_content(&content, range).await?;
                progress.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(bytes)
            }
        };
        stream::iter(offsets).map(read).buffered(AHEAD).boxed()
    }

    /// Makes what will be `to` under a name that nobody asks for.
    fn unfinished<T>(
        &self,
        to: &Path,
        make: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<(T, Unfinished)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".atelier-{}-{count}", std::process::id());
        let path = match &self.scratch {
            Some(scratch) => scratch.join(name),
            None => to.with_file_name(name),
        };
        let value = make(&path)?;
        Ok((value, Unfinished(path)))
    }
}

/// A name that goes away again unless it was renamed.
struct Unfinished(PathBuf);

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
