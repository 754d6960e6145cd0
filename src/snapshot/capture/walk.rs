//! Walks what is captured, in the order in which a version keeps it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use std::vec;

use bytes::Bytes;

use super::feed::{At, Coming, Feed, Stopped};
use super::read::Input;
use super::seen::{Previous, Print};
use super::{Progress, Source, Total};
use crate::path::TreePath;
use crate::snapshot::format::{Content, Entry, Mtime};

/// What was found at a path.
pub(super) struct Found {
    pub(super) at: At,
    pub(super) what: What,
}

impl Found {
    pub(super) fn new(directory: Bytes, name: Bytes, what: What) -> Self {
        Self { at: At { directory, name }, what }
    }
}

pub(super) enum What {
    Directory {
        mode: u32,
        mtime: Mtime,
    },
    Symlink {
        mode: u32,
        mtime: Mtime,
        target: Bytes,
    },
    /// A regular file that isn't read yet.
    File(PathBuf, Box<Metadata>),
    /// Bytes at hand.
    Bytes(Bytes),
    /// What is left out, and why.
    Skipped(String),
}

/// The mode of files and directories that exist in the version only.
const MODES: (u32, u32) = (0o644, 0o755);

/// Takes in directories and bytes at hand.
pub(super) fn take(
    sources: Vec<(TreePath, Source)>,
    previous: Option<&Previous>,
    progress: &Progress,
    feed: &Feed,
) -> Result<(), Stopped> {
    let now = Mtime::from(SystemTime::now());
    take_found(Walk::new(sources, now), previous, progress, feed)
}

/// Takes in what was found, which comes sorted.
pub(super) fn take_found(
    found: impl IntoIterator<Item = Found>,
    previous: Option<&Previous>,
    progress: &Progress,
    feed: &Feed,
) -> Result<(), Stopped> {
    let now = Mtime::from(SystemTime::now());
    for Found { at, what } in found {
        match what {
            What::Directory { mode, mtime } => {
                let content = Content::Directory;
                feed.send(at, Coming::Entry(Entry { mode, mtime, content }))?;
            }
            What::Symlink { mode, mtime, target } => {
                let content = Content::Symlink(target);
                feed.send(at, Coming::Entry(Entry { mode, mtime, content }))?;
            }
            What::Skipped(reason) => feed.skip(at, reason)?,
            What::Bytes(bytes) => {
                let (mode, mtime) = (MODES.0, now);
                let known = previous.and_then(|previous| previous.content_of(&at, &bytes));
                if let Some(content) = known {
                    feed.send(at, Coming::Entry(Entry { mode, mtime, content }))?;
                    continue;
                }
                feed.file(at, Input::Bytes { bytes, mode: MODES.0, mtime: now })?;
            }
            What::File(path, metadata) => {
                let print = Print::of_file(&at, &metadata);
                match previous.and_then(|previous| previous.content(&at, print)) {
                    Some(content) => {
                        progress.unchanged.fetch_add(metadata.len(), Ordering::Relaxed);
                        let (mode, mtime) = (metadata.mode() & 0o7777, mtime_of(&metadata));
                        let entry = Entry { mode, mtime, content };
                        feed.send(at, Coming::Unchanged(entry, print))?;
                    }
                    None => feed.file(at, Input::File(path))?,
                }
            }
        }
    }
    Ok(())
}

/// Counts what is below a directory.
pub(super) fn survey(dir: &Path, wanted: impl Fn() -> bool) -> Option<Total> {
    let mut total = Total::default();
    for entry in walkdir::WalkDir::new(dir) {
        if !wanted() {
            return None;
        }
        // What can't be looked at is named when it is to be taken in.
        let Ok(entry) = entry else { continue };
        total.entries += 1;
        if entry.file_type().is_file()
            && let Ok(metadata) = entry.metadata()
        {
            total.bytes += metadata.len();
        }
    }
    Some(total)
}

/// A directory of the version: names that were asked for, and a directory of this machine.
#[derive(Default)]
struct Pending {
    named: BTreeMap<Vec<u8>, Child>,
    local: Option<PathBuf>,
}

enum Child {
    Directory,
    Bytes(Bytes),
}

/// Yields entries sorted by the path of their directory and then by name.
pub(super) struct Walk {
    /// Directories that weren't visited yet, by path. What is found below a directory sorts
    /// behind it, so the first one is always the next one.
    pending: BTreeMap<Vec<u8>, Pending>,
    current: vec::IntoIter<Found>,
    /// When directories were made that exist in the version only.
    now: Mtime,
}

impl Walk {
    /// What is below a directory of this machine, to be found below `at`.
    pub(super) fn below(at: &TreePath, local: PathBuf, now: Mtime) -> Self {
        let directory = Pending { local: Some(local), ..Pending::default() };
        let pending = BTreeMap::from([(at.as_bytes().to_vec(), directory)]);
        Self { pending, current: Vec::new().into_iter(), now }
    }

    pub(super) fn new(sources: Vec<(TreePath, Source)>, now: Mtime) -> Self {
        let mut pending = BTreeMap::<Vec<u8>, Pending>::new();
        pending.entry(Vec::new()).or_default();
        for (path, source) in sources {
            // The directories on the way exist in the version, whatever this machine has.
            let mut below = path.clone();
            let mut child = match source {
                Source::Directory(local) | Source::Beside(local) => {
                    pending.entry(path.as_bytes().to_vec()).or_default().local = Some(local);
                    Child::Directory
                }
                Source::Bytes(bytes) => Child::Bytes(bytes),
            };
            while let (Some(parent), Some(name)) = (below.parent(), below.name()) {
                let directory = pending.entry(parent.as_bytes().to_vec()).or_default();
                directory.named.insert(name.to_vec(), child);
                child = Child::Directory;
                below = parent;
            }
        }
        Self { pending, current: Vec::new().into_iter(), now }
    }

    fn visit(&mut self, path: Vec<u8>, directory: Pending) -> io::Result<Vec<Found>> {
        let mut found = BTreeMap::new();
        if let Some(local) = &directory.local {
            for entry in fs::read_dir(local)? {
                let name = entry?.file_name().into_vec();
                let at = local.join(Path::new(OsStr::from_bytes(&name)));
                let Some(what) = look(&at) else { continue };
                if let What::Directory { .. } = what {
                    self.enter(&path, &name).local = Some(at);
                }
                found.insert(name, what);
            }
        }
        for (name, child) in directory.named {
            let what = match child {
                Child::Bytes(bytes) => What::Bytes(bytes),
                Child::Directory => {
                    let local = self.enter(&path, &name).local.clone();
                    match local.as_deref().and_then(look) {
                        Some(what @ What::Directory { .. }) => what,
                        _ => What::Directory { mode: MODES.1, mtime: self.now },
                    }
                }
            };
            found.insert(name, what);
        }
        let directory = Bytes::from(path);
        let found = found.into_iter().map(|(name, what)| Found {
            at: At { directory: directory.clone(), name: name.into() },
            what,
        });
        Ok(found.collect())
    }

    /// Notes a directory to be visited.
    fn enter(&mut self, parent: &[u8], name: &[u8]) -> &mut Pending {
        let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
        self.pending.entry([parent, slash, name].concat()).or_default()
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            if let Some(found) = self.current.next() {
                return Some(found);
            }
            let (path, directory) = self.pending.pop_first()?;
            match self.visit(path.clone(), directory) {
                Ok(found) => self.current = found.into_iter(),
                // The directory itself is in the version already; what is in it is left out.
                Err(error) => {
                    let what = What::Skipped(format!("the directory can't be listed: {error}"));
                    let at = At { directory: path.into(), name: Bytes::new() };
                    return Some(Found { at, what });
                }
            }
        }
    }
}

/// What is at a path of this machine; `None` for nothing.
pub(super) fn look(path: &Path) -> Option<What> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::InvalidFilename
            ) =>
        {
            return None;
        }
        Err(error) => return Some(What::Skipped(error.to_string())),
    };
    let (mode, mtime) = (metadata.mode() & 0o7777, mtime_of(&metadata));
    let kind = metadata.file_type();
    Some(if kind.is_dir() {
        What::Directory { mode, mtime }
    } else if kind.is_file() {
        What::File(path.to_owned(), Box::new(metadata))
    } else if kind.is_symlink() {
        match fs::read_link(path) {
            Ok(target) => {
                What::Symlink { mode, mtime, target: target.into_os_string().into_vec().into() }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => What::Skipped(error.to_string()),
        }
    } else {
        What::Skipped("it is neither a file, a directory nor a symbolic link".to_owned())
    })
}

/// When a file was last changed.
pub(super) fn mtime_of(metadata: &Metadata) -> Mtime {
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Mtime { seconds: metadata.mtime(), nanos }
}
