//! Objects as files below a directory.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use rustix::fs::FlockOperation;
use tokio::task::spawn_blocking;

use super::buffers::Buffers;
use super::direct::Direct;
use super::{Depth, ETag, ListPage, Near, ObjectMeta, ObjectStore, PutMode};
use crate::error::{Error, ErrorKind, IoContext, Result};

mod near;
mod walk;

/// The directory below the root where objects are written before they get their key.
const UNFINISHED: &str = ".unfinished";

/// How old an unfinished file must be before it counts as left behind by a crash, on top of its
/// lock being free: a file is born a moment before it is locked.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);

/// An object store in a directory of a local file system.
///
/// A key is a path below the directory, so a key can't be a prefix of another one up to a `/`,
/// and its names can't be empty, `.` or `..`. Files and directories are the owner's only.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    durable: Arc<Durable>,
    buffers: Buffers,
}

/// The folders that are durable in theirs, as far as this process has seen to it: folders are never
/// removed. Guarded for the moment of looking.
type Durable = Mutex<HashSet<PathBuf>>;

impl LocalStore {
    /// Opens the store in `root`, which is made if it isn't there, and removes what a crash left
    /// unfinished in it.
    ///
    /// # Errors
    /// `PermissionDenied`, `NotADirectory`, `StorageFull` as the file system says.
    pub fn open(root: &Path) -> Result<Self> {
        let unfinished = root.join(UNFINISHED);
        private_dirs()
            .create(&unfinished)
            .context(|| format!("the store {} can't be made", root.display()))?;
        remove_abandoned(&unfinished)
            .context(|| format!("{} can't be cleaned up", unfinished.display()))?;
        Ok(Self { root: root.to_owned(), durable: Arc::default(), buffers: Buffers::default() })
    }

    fn path_of(&self, key: &str) -> Result<PathBuf> {
        let safe = key.split('/').all(|name| !matches!(name, "" | "." | "..") && !has_nul(name));
        if !safe || key.split('/').next() == Some(UNFINISHED) {
            let message = format!("\"{}\" can't be an object's key here", key.escape_default());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(self.root.join(key))
    }

    fn open_object(&self, key: &str) -> Result<(File, fs::Metadata)> {
        let opened = File::open(self.path_of(key)?).and_then(|file| {
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match opened {
            Ok((_, metadata)) if !metadata.is_file() => Err(missing(key)),
            Ok(opened) => Ok(opened),
            Err(error) if absent(&error) => Err(missing(key)),
            Err(error) => Err(Error::io(error, format!("object {key} can't be opened"))),
        }
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        let (file, metadata) = self.open_object(key)?;
        if if_match.is_some_and(|etag| *etag != etag_of(&metadata)) {
            return Err(Error::new(ErrorKind::StaleHandle, format!("object {key} has changed")));
        }
        let end = range.end.min(metadata.len());
        let len = usize::try_from(end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let read = read_file(&self.buffers, Arc::new(file), range.start, len).await;
        read.context(|| format!("object {key} can't be read"))
    }

    fn file(&self, key: &str) -> Result<Option<File>> {
        self.open_object(key).map(|(file, _)| Some(file))
    }

    fn near(&self) -> Option<&dyn Near> {
        Some(self)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let (_, metadata) = self.open_object(key)?;
        Ok(meta_of(key.to_owned(), &metadata))
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        let (root, durable) = (self.root.clone(), Arc::clone(&self.durable));
        let target = self.path_of(key)?;
        let write = move || write_object(&root, &durable, &target, &bytes, mode);
        let written = spawn_blocking(write).await;
        written.map_err(io::Error::other).flatten().map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return Error::io(error, format!("object {key} is there already"));
            }
            let error = Error::io(error, format!("object {key} can't be written"));
            match error.kind() {
                ErrorKind::StorageFull => {
                    let root = self.root.display();
                    error.with_hint(format!("make room on the disk of {root}"))
                }
                _ => error,
            }
        })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path_of(key)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if absent(&error) || error.kind() == io::ErrorKind::IsADirectory => {
                return Ok(());
            }
            Err(error) => return Err(Error::io(error, format!("object {key} can't be removed"))),
        }
        let folder = path.parent().unwrap_or(&self.root);
        sync_dir(folder).context(|| format!("the removal of object {key} can't be made durable"))
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        stream::iter(walk::Pages::new(self.root.clone(), prefix, depth)).boxed()
    }
}

/// Writes a file next to nobody, makes it durable, and gives it its name in one step.
fn write_object(
    root: &Path,
    durable: &Durable,
    target: &Path,
    bytes: &[u8],
    mode: PutMode,
) -> io::Result<ETag> {
    let unfinished = Unfinished::create(root)?;
    let written = Direct::default().write(&unfinished.file, bytes, 0)?;
    unfinished.file.write_all_at(&bytes[written..], written as u64)?;
    // The clock of the file system may tick every 4 ms only; the ETag shall differ each time.
    unfinished.file.set_modified(SystemTime::now())?;
    unfinished.file.sync_all()?;
    let metadata = unfinished.file.metadata()?;
    let folder = target.parent().unwrap_or(root);
    match unfinished.publish(target, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            private_dirs().create(folder)?;
            unfinished.publish(target, mode)?;
        }
        other => other?,
    }
    sync_name(root, durable, folder)?;
    Ok(etag_of(&metadata))
}

/// Makes a new name in `folder` durable: the folder, and each on the way to it that may be new.
fn sync_name(root: &Path, durable: &Durable, folder: &Path) -> io::Result<()> {
    let known = || durable.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(folder) {
        return sync_dir(folder);
    }
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(root)) {
        sync_dir(folder)?;
    }
    known().insert(folder.to_owned());
    Ok(())
}

/// A file that has no key yet, locked as long as its writer lives; dropping it removes it.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    fn create(root: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{:08x}-{count}", std::process::id(), random()?);
        let path = root.join(UNFINISHED).join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let unfinished = Self { file, path };
        rustix::fs::flock(&unfinished.file, FlockOperation::LockExclusive)?;
        Ok(unfinished)
    }

    fn publish(&self, target: &Path, mode: PutMode) -> io::Result<()> {
        match mode {
            PutMode::Overwrite => fs::rename(&self.path, target),
            PutMode::Create => fs::hard_link(&self.path, target),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_abandoned(unfinished: &Path) -> io::Result<()> {
    for entry in fs::read_dir(unfinished)? {
        let path = entry?.path();
        let Ok(file) = File::open(&path) else { continue };
        let born = file.metadata()?.modified()?;
        let old = born.elapsed().is_ok_and(|age| age >= ABANDONED_AFTER);
        if old && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Reads up to this length run on the thread that asks: a hop to another thread costs more.
const INLINE_READ: usize = 1 << 20;

/// Reads `len` bytes of a local file at `offset` into one of `buffers`; shorter only at its end.
///
/// # Errors
/// Those of `pread(2)`.
pub(crate) async fn read_file(
    buffers: &Buffers,
    file: Arc<File>,
    offset: u64,
    len: usize,
) -> io::Result<Bytes> {
    if len <= INLINE_READ {
        return buffers.read(&file, offset, len);
    }
    let buffers = buffers.clone();
    let read = spawn_blocking(move || buffers.read(&file, offset, len)).await;
    read.map_err(io::Error::other).flatten()
}

fn meta_of(key: String, metadata: &fs::Metadata) -> ObjectMeta {
    ObjectMeta {
        key,
        size: metadata.len(),
        modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        etag: etag_of(metadata),
    }
}

fn etag_of(metadata: &fs::Metadata) -> ETag {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    ETag(format!("\"{:x}-{:x}-{seconds:x}.{nanos:x}\"", metadata.ino(), metadata.len()))
}

fn missing(key: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("object {key} isn't there"))
}

/// Whether the file system says that there is nothing of that name, rather than that it failed.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn has_nul(name: &str) -> bool {
    name.as_bytes().contains(&0)
}

fn private_dirs() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn random() -> io::Result<u32> {
    getrandom::u32().map_err(io::Error::other)
}
