//! What is compared with the model: a bare tree, or the same tree mounted.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atelier::error::{Error, ErrorKind};
use atelier::path::TreePath;
use atelier::tree::bucket::BucketTree;
use atelier::tree::{self, Attr, Entry, OpenMode, Tree as _};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rustix::fs::{Dir, Mode, OFlags};
use tokio::runtime::Runtime;

use crate::support::mounted::Mounted;

/// Why not, in the words of errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    NotADirectory,
    IsADirectory,
    Stale,
    NoAttribute,
    Other(String),
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) is_dir: bool,
    pub(super) size: u64,
    /// For how long that may be believed from now on.
    pub(super) believed: Duration,
}

pub(super) type Names = Vec<(String, Seen)>;

/// A tree of files as a program has it.
pub(super) trait Subject {
    type File;

    fn stat(&self, path: &str) -> Result<Seen, Refusal>;
    fn etag(&self, path: &str) -> Result<String, Refusal>;
    /// Reads a directory and calls `between` after some entries.
    fn list(&self, path: &str, piece: usize, between: &mut dyn FnMut()) -> Result<Names, Refusal>;
    fn open(&self, path: &str) -> Result<Self::File, Refusal>;
    fn len(&self, file: &Self::File) -> Result<u64, Refusal>;
    fn read(&self, file: &Self::File, offset: u64, len: usize) -> Result<Vec<u8>, Refusal>;
}

/// A tree without anything above it.
pub(super) struct Bare<'a> {
    pub(super) tree: BucketTree,
    pub(super) runtime: &'a Runtime,
}

impl Bare<'_> {
    fn on<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Refusal> {
        self.runtime.block_on(work).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Refusal::NotFound,
            ErrorKind::NotADirectory => Refusal::NotADirectory,
            ErrorKind::IsADirectory => Refusal::IsADirectory,
            ErrorKind::StaleHandle => Refusal::Stale,
            ErrorKind::NoAttribute => Refusal::NoAttribute,
            _ => Refusal::Other(format!("{error:?}")),
        })
    }
}

impl Subject for Bare<'_> {
    type File = Arc<dyn tree::File>;

    fn stat(&self, path: &str) -> Result<Seen, Refusal> {
        self.on(self.tree.stat(&parse(path))).map(|attr| seen(&attr))
    }

    fn etag(&self, path: &str) -> Result<String, Refusal> {
        let value = self.on(self.tree.xattr(&parse(path), b"user.atelier.etag"))?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    fn list(&self, path: &str, piece: usize, between: &mut dyn FnMut()) -> Result<Names, Refusal> {
        let mut entries = self.tree.list(&parse(path));
        let mut first: Vec<Entry> = Vec::new();
        self.on(async {
            while first.len() < piece
                && let Some(entry) = entries.next().await.transpose()?
            {
                first.push(entry);
            }
            Ok(())
        })?;
        between();
        first.extend(self.on(entries.try_collect::<Vec<_>>())?);
        let name = |entry: &Entry| String::from_utf8(entry.name.to_vec()).unwrap();
        Ok(first.iter().map(|entry| (name(entry), seen(&entry.attr))).collect())
    }

    fn open(&self, path: &str) -> Result<Self::File, Refusal> {
        self.on(self.tree.open(&parse(path), OpenMode::READ))
    }

    fn len(&self, file: &Self::File) -> Result<u64, Refusal> {
        self.on(file.stat()).map(|attr| attr.size)
    }

    fn read(&self, file: &Self::File, offset: u64, len: usize) -> Result<Vec<u8>, Refusal> {
        self.on(file.read_at(offset, len)).map(|bytes| bytes.to_vec())
    }
}

fn parse(path: &str) -> TreePath {
    TreePath::parse(path).unwrap()
}

fn seen(attr: &Attr) -> Seen {
    let size = if attr.is_dir() { 0 } else { attr.size };
    Seen { is_dir: attr.is_dir(), size, believed: attr.ttl }
}

/// A mounted tree.
pub(super) struct OnMount(pub(super) Mounted);

impl OnMount {
    fn at(&self, path: &str) -> PathBuf {
        let root = self.0.path();
        if path.is_empty() { root } else { root.join(path) }
    }
}

fn refusal(errno: i32) -> Refusal {
    match rustix::io::Errno::from_raw_os_error(errno) {
        rustix::io::Errno::NOENT => Refusal::NotFound,
        rustix::io::Errno::NOTDIR => Refusal::NotADirectory,
        rustix::io::Errno::ISDIR => Refusal::IsADirectory,
        rustix::io::Errno::STALE => Refusal::Stale,
        rustix::io::Errno::NODATA => Refusal::NoAttribute,
        other => Refusal::Other(format!("{other:?}")),
    }
}

fn io<T>(result: std::io::Result<T>) -> Result<T, Refusal> {
    result.map_err(|error| refusal(error.raw_os_error().unwrap_or_default()))
}

fn call<T>(result: rustix::io::Result<T>) -> Result<T, Refusal> {
    result.map_err(|errno| refusal(errno.raw_os_error()))
}

impl Subject for OnMount {
    type File = File;

    fn stat(&self, path: &str) -> Result<Seen, Refusal> {
        let meta = io(std::fs::symlink_metadata(self.at(path)))?;
        let size = if meta.is_dir() { 0 } else { meta.size() };
        Ok(Seen { is_dir: meta.is_dir(), size, believed: Duration::ZERO })
    }

    fn etag(&self, path: &str) -> Result<String, Refusal> {
        let mut value = [0; 100];
        let len = call(rustix::fs::getxattr(self.at(path), "user.atelier.etag", &mut value[..]))?;
        Ok(String::from_utf8(value[..len].to_vec()).unwrap())
    }

    /// Also goes back to where it was, and at the end to the start, as `telldir(3)` promises.
    fn list(&self, path: &str, piece: usize, between: &mut dyn FnMut()) -> Result<Names, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = call(rustix::fs::open(self.at(path), flags, Mode::empty()))?;
        let mut stream = call(Dir::read_from(&dir))?;
        let mut names = Vec::new();
        let mut offset = 0;
        while names.len() < piece + 2
            && let Some(entry) = stream.read()
        {
            let entry = call(entry)?;
            offset = entry.offset();
            names.push(entry.file_name().to_bytes().to_vec());
        }
        between();
        if offset != 0 {
            call(stream.seek(offset))?;
        }
        for entry in stream {
            names.push(call(entry)?.file_name().to_bytes().to_vec());
        }
        let mut listed = Names::new();
        for name in names.into_iter().filter(|name| name != b"." && name != b"..") {
            let text = String::from_utf8(name.clone()).unwrap();
            match self.stat(&super::view::below(path, &text)) {
                Ok(seen) => listed.push((text, seen)),
                // It was removed since it was listed.
                Err(Refusal::NotFound) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(listed)
    }

    fn open(&self, path: &str) -> Result<File, Refusal> {
        let file = io(File::open(self.at(path)))?;
        let is_dir = io(file.metadata())?.is_dir();
        if is_dir { Err(Refusal::IsADirectory) } else { Ok(file) }
    }

    fn len(&self, file: &File) -> Result<u64, Refusal> {
        io(file.metadata()).map(|meta| meta.len())
    }

    fn read(&self, file: &File, offset: u64, len: usize) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match io(file.read_at(&mut bytes[filled..], offset + filled as u64))? {
                0 => break,
                more => filled += more,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}
