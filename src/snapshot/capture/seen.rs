//! Which files were read for a version, so that the next one needn't read them again.
//!
//! A file that has the same path, inode, length and times as when it was read is the same: no
//! program can set the time of the last change of an inode (`ctime`, `inode(7)`). What is kept is a
//! hash of these for each file, in a file that is named by the root of the version; one that is
//! lost costs nothing but time.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use super::feed::At;
use super::memo::PackMemo;
use super::objects::Object;
use crate::chunk::Id;
use crate::chunk::index::Index;
use crate::chunk::split::Chunks;
use crate::path::TreePath;
use crate::snapshot::format::{Content, Mtime};
use crate::snapshot::read::Version;

/// A file that changed less than this before it was read could change again without a sign: clocks
/// of file systems are coarse, two seconds at worst.
const COARSEST: Duration = Duration::from_secs(2);

/// Length of what is kept of a file, in bytes.
const PRINT_LEN: usize = 16;

/// What a file can be known by without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Print([u8; PRINT_LEN]);

impl Print {
    pub(super) fn of_file(at: &At, metadata: &Metadata) -> Self {
        let numbers = [
            metadata.dev().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.len().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ];
        Self::of(at, numbers.map(i64::to_le_bytes).as_flattened())
    }

    pub(super) fn of_object(at: &At, object: &Object) -> Self {
        let Mtime { seconds, nanos } = object.mtime();
        let what = format!("{} {seconds} {nanos} {}", object.size(), object.etag());
        Self::of(at, what.as_bytes())
    }

    fn of(at: &At, what: &[u8]) -> Self {
        let id = Id::of(&[&at.path(), &b"\0"[..], what].concat());
        Self(*id.as_bytes().first_chunk().expect("an id is longer"))
    }
}

/// Whether a change after `read` would show in what is known of the file.
pub(super) fn would_show(metadata: &Metadata, read: SystemTime) -> bool {
    let nanos = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
    let changed = Mtime { seconds: metadata.ctime(), nanos }.to_system();
    read.duration_since(changed).is_ok_and(|age| age > COARSEST)
}

/// The previous version, and what is known of the files that were read for it.
pub(super) struct Previous {
    version: Version,
    memory: Option<Memory>,
    /// What is known of the files, read when the first one is asked for.
    prints: OnceLock<HashSet<Print>>,
    index: Arc<RwLock<Index>>,
    runtime: Handle,
}

impl Previous {
    pub(super) fn new(
        version: Version,
        memory: Option<Memory>,
        index: Arc<RwLock<Index>>,
        runtime: Handle,
    ) -> Self {
        Self { version, memory, prints: OnceLock::new(), index, runtime }
    }

    /// What a file holds that was read for the previous version and is the same since.
    pub(super) fn content(&self, at: &At, print: Print) -> Option<Content<u32>> {
        if !self.prints().contains(&print) {
            return None;
        }
        self.numbered(self.entry(at)?)
    }

    /// Whether a file is the same as it was read for the previous version.
    pub(super) fn has(&self, at: &At, metadata: &Metadata) -> bool {
        self.prints().contains(&Print::of_file(at, metadata))
    }

    fn prints(&self) -> &HashSet<Print> {
        self.prints.get_or_init(|| {
            let memory = self.memory.as_ref();
            memory.map(|memory| memory.recall(self.version.id())).unwrap_or_default()
        })
    }

    /// What the previous version holds there, if it is these bytes.
    pub(super) fn content_of(&self, at: &At, bytes: &[u8]) -> Option<Content<u32>> {
        let content = self.entry(at)?;
        is_content(bytes, &content).then(|| self.numbered(content)).flatten()
    }

    fn entry(&self, at: &At) -> Option<Content> {
        let path = TreePath::parse(at.path()).ok()?;
        Some(self.runtime.block_on(self.version.entry(&path)).ok()?.content)
    }

    fn numbered(&self, content: Content) -> Option<Content<u32>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        content.rename_packs(|pack| index.number_of(&pack))
    }
}

/// Whether a file with this content has these bytes.
fn is_content(bytes: &[u8], content: &Content) -> bool {
    if content.len() != bytes.len() as u64 {
        return false;
    }
    match content {
        Content::Directory | Content::Symlink(_) => false,
        Content::Inline(inline) => inline == bytes,
        Content::Frame { id, .. } => *id == Id::of(bytes),
        Content::Runs { id, .. } => {
            let mut ids = Vec::new();
            for chunk in Chunks::new(bytes) {
                let Ok(chunk) = chunk else { return false };
                ids.extend_from_slice(Id::of(&chunk).as_bytes());
            }
            *id == Id::of(&ids)
        }
    }
}

/// The directory in which it is kept which files were read.
#[derive(Clone, Debug)]
pub(super) struct Memory(PathBuf);

impl Memory {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Which packs the pages need of versions for which files were read.
    pub(super) fn packs(&self) -> PackMemo {
        PackMemo::open(self.0.join("packs"))
    }

    fn recall(&self, root: Id) -> HashSet<Print> {
        let kept = fs::read(self.file(root)).unwrap_or_default();
        let (prints, _) = kept.as_chunks::<PRINT_LEN>();
        prints.iter().map(|print| Print(*print)).collect()
    }

    /// Keeps what was read for `root` in addition to what was read for the version before; what of
    /// that isn't so any more is of no use and no harm.
    pub(super) fn add(&self, root: Id, before: Id, prints: &[Print]) {
        if prints.is_empty() {
            // Where nothing was kept, nothing is.
            let _ = fs::rename(self.file(before), self.file(root));
            return;
        }
        let mut all = self.recall(before);
        all.extend(prints);
        self.keep(root, Some(before), &all.into_iter().collect::<Vec<_>>());
    }

    /// Keeps what was read for `root`, in place of what was read for the version before.
    pub(super) fn keep(&self, root: Id, before: Option<Id>, prints: &[Print]) {
        if let Err(error) = self.write(&self.file(root), prints) {
            let dir = self.0.display();
            tracing::warn!("which files were read isn't kept in {dir}: {error}");
        }
        if let Some(before) = before.filter(|before| *before != root) {
            // One that stays takes room, and no more.
            let _ = fs::remove_file(self.file(before));
        }
    }

    fn write(&self, file: &Path, prints: &[Print]) -> std::io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let bytes: Vec<u8> = prints.iter().flat_map(|print| print.0).collect();
        let draft = file.with_extension(format!("{}.draft", std::process::id()));
        fs::write(&draft, bytes)?;
        fs::rename(&draft, file)
    }

    fn file(&self, root: Id) -> PathBuf {
        self.0.join(root.to_string())
    }
}
