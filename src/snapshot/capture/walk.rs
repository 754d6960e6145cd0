//! Walks what is captured, in the order in which a version keeps it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::vec;

use bytes::Bytes;

use super::Source;
use crate::path::TreePath;
use crate::snapshot::format::Mtime;

/// What was found at a path.
pub(super) struct Found {
    pub(super) directory: Bytes,
    pub(super) name: Bytes,
    pub(super) what: What,
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
    File(Input),
    /// What is left out, and why.
    Skipped(String),
}

/// Where the bytes of a file come from.
pub(super) enum Input {
    /// A file of this machine.
    File(PathBuf),
    /// Bytes at hand, and when they were made.
    Bytes { bytes: Bytes, mtime: Mtime },
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
    pub(super) fn new(sources: Vec<(TreePath, Source)>, now: Mtime) -> Self {
        let mut pending = BTreeMap::<Vec<u8>, Pending>::new();
        pending.entry(Vec::new()).or_default();
        for (path, source) in sources {
            // The directories on the way exist in the version, whatever this machine has.
            let mut below = path.clone();
            let mut child = match source {
                Source::Directory(local) => {
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
                let what = look(&at);
                if let What::Directory { .. } = what {
                    self.enter(&path, &name).local = Some(at);
                }
                found.insert(name, what);
            }
        }
        for (name, child) in directory.named {
            let what = match child {
                Child::Bytes(bytes) => What::File(Input::Bytes { bytes, mtime: self.now }),
                Child::Directory => {
                    let local = self.enter(&path, &name).local.clone();
                    match local.as_deref().map(look) {
                        Some(what @ What::Directory { .. }) => what,
                        _ => What::Directory { mode: 0o755, mtime: self.now },
                    }
                }
            };
            found.insert(name, what);
        }
        let directory = Bytes::from(path);
        let found = found.into_iter().map(|(name, what)| Found {
            directory: directory.clone(),
            name: name.into(),
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
                    let (directory, name) = (path.into(), Bytes::new());
                    return Some(Found { directory, name, what });
                }
            }
        }
    }
}

fn look(path: &Path) -> What {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return What::Skipped(error.to_string()),
    };
    let (mode, mtime) = (metadata.mode() & 0o7777, mtime_of(&metadata));
    let kind = metadata.file_type();
    if kind.is_dir() {
        What::Directory { mode, mtime }
    } else if kind.is_file() {
        What::File(Input::File(path.to_owned()))
    } else if kind.is_symlink() {
        match fs::read_link(path) {
            Ok(target) => {
                What::Symlink { mode, mtime, target: target.into_os_string().into_vec().into() }
            }
            Err(error) => What::Skipped(error.to_string()),
        }
    } else {
        What::Skipped("it is neither a file, a directory nor a symbolic link".to_owned())
    }
}

/// When a file was last changed.
pub(super) fn mtime_of(metadata: &fs::Metadata) -> Mtime {
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Mtime { seconds: metadata.mtime(), nanos }
}
