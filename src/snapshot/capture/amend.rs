//! Finds what differs from the previous version, where it is known what may.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::runtime::Handle;

use super::changes::{Changes, Depth};
use super::gone::{self, Gone, Range};
use super::walk::{Found, Walk, What, look};
use super::{Source, Total};
use crate::error::{ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::format::{Content, Mtime};
use crate::snapshot::read::Version;

/// What makes the next version of the previous one.
pub(super) struct Amendment {
    /// What takes the place of what the previous version has there, or is new; sorted.
    pub(super) found: Vec<Found>,
    /// What isn't there any more, unless it was found.
    pub(super) gone: Gone,
    /// What there will be below the directory whose changes are known.
    pub(super) total: Total,
}

/// A directory whose changes since the previous version are known.
pub(super) struct Amended<'a> {
    pub(super) previous: &'a Version,
    pub(super) at: &'a TreePath,
    pub(super) from: &'a Path,
    pub(super) changes: &'a Changes,
}

impl Amended<'_> {
    /// Looks at what may have changed, and takes the other sources as they are.
    pub(super) fn scan(
        &self,
        others: Vec<(TreePath, Source)>,
        runtime: &Handle,
    ) -> Result<Amendment> {
        let now = Mtime::from(SystemTime::now());
        let Self { previous, at, from, .. } = *self;
        let mut scan = Scan {
            previous,
            runtime,
            at,
            from,
            now,
            found: BTreeMap::new(),
            gone: Vec::new(),
            seen: HashMap::new(),
        };
        for (path, depth) in self.changes.iter() {
            scan.change(path, depth)?;
        }
        // The directory itself, and those on the way to it.
        scan.entry(&TreePath::root(), Depth::Entry)?;
        let inside = Gone::new(scan.gone);
        let total = total(previous, at, &scan.found, &inside, runtime)?;
        let mut found = scan.found;
        for other in Walk::new(others, now) {
            let place = (other.at.directory.clone(), other.at.name.clone());
            found.entry(place).or_insert(other.what);
        }
        let gone = Gone::new([inside.ranges(), &gone::outside(at)].concat());
        let found =
            found.into_iter().map(|((directory, name), what)| Found::new(directory, name, what));
        Ok(Amendment { found: found.collect(), gone, total })
    }
}

/// Directory and name of what was found.
type Place = (Bytes, Bytes);

struct Scan<'a> {
    previous: &'a Version,
    runtime: &'a Handle,
    at: &'a TreePath,
    from: &'a Path,
    now: Mtime,
    found: BTreeMap<Place, What>,
    gone: Vec<Range>,
    /// What became of the paths that were looked at.
    seen: HashMap<TreePath, Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// A directory that the previous version has, too: what is in it is told one by one.
    Directory,
    /// Something all of which is found, or gone.
    Whole,
}

impl Scan<'_> {
    /// Looks at a path that may have changed, unless it is part of what is done.
    fn change(&mut self, path: &TreePath, depth: Depth) -> Result<()> {
        let mut end = 0;
        let bytes = path.as_bytes();
        while let Some(slash) = bytes[end..].iter().position(|byte| *byte == b'/') {
            let above = TreePath::parse(&bytes[..end + slash])?;
            if self.entry(&above, Depth::Entry)? == Seen::Whole {
                return Ok(());
            }
            end += slash + 1;
        }
        // A change in it changes the directory itself: when it was changed last.
        self.entry(&path.parent().unwrap_or_default(), Depth::Entry)?;
        self.entry(path, depth)?;
        Ok(())
    }

    fn entry(&mut self, path: &TreePath, depth: Depth) -> Result<Seen> {
        if let Some(seen) = self.seen.get(path)
            && (*seen == Seen::Whole || depth == Depth::Entry)
        {
            return Ok(*seen);
        }
        let at = self.at.join_path(path);
        let local = self.local(path);
        let is_directory = match self.runtime.block_on(self.previous.entry(&at)) {
            Ok(entry) => entry.content == Content::Directory,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                false
            }
            Err(error) => return Err(error),
        };
        let what = look(&local);
        let seen = match &what {
            Some(What::Directory { .. }) if is_directory && depth == Depth::Entry => {
                Seen::Directory
            }
            _ => Seen::Whole,
        };
        if seen == Seen::Whole {
            self.gone.push(gone::entry(&at));
            if is_directory {
                self.gone.extend(gone::below(&at));
            }
        }
        if seen == Seen::Whole && matches!(what, Some(What::Directory { .. })) {
            for Found { at, what } in Walk::below(&at, local, self.now) {
                self.found.insert((at.directory, at.name), what);
            }
        }
        if let Some(what) = what {
            let parent = at.parent().unwrap_or_default();
            let name = Bytes::copy_from_slice(at.name().unwrap_or_default());
            self.found.insert((Bytes::copy_from_slice(parent.as_bytes()), name), what);
        }
        self.seen.insert(path.clone(), seen);
        Ok(seen)
    }

    fn local(&self, path: &TreePath) -> PathBuf {
        self.from.join(path.as_path())
    }
}

/// How many files there will be below a directory, and how long they are together.
fn total(
    previous: &Version,
    at: &TreePath,
    found: &BTreeMap<Place, What>,
    gone: &Gone,
    runtime: &Handle,
) -> Result<Total> {
    let mut total = Counted::default();
    let all = previous.totals();
    (total.files, total.bytes) = (all.files, all.bytes);
    let not_counted = Gone::new([gone.ranges(), &gone::outside(at)].concat());
    for (from, to) in not_counted.ranges() {
        let mut entries = previous.entries_of_range(from, to.as_deref());
        while let Some(named) = runtime.block_on(entries.try_next())? {
            total.less(&named.entry.content);
        }
    }
    for ((directory, name), what) in found {
        if let What::File(_, metadata) = what {
            total.files += 1;
            total.bytes += metadata.len();
        }
        let key = gone::key(directory, name);
        if !not_counted.contains(&key) {
            let path = TreePath::parse(directory)?.join(name)?;
            match runtime.block_on(previous.entry(&path)) {
                Ok(entry) => total.less(&entry.content),
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Total { entries: total.files, bytes: total.bytes })
}

#[derive(Default)]
struct Counted {
    files: u64,
    bytes: u64,
}

impl Counted {
    fn less(&mut self, content: &Content) {
        if !matches!(content, Content::Directory | Content::Symlink(_)) {
            self.files = self.files.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(content.len());
        }
    }
}

/// How many regular files a directory holds, and how long they are together, in bytes.
pub(super) fn count(dir: &Path) -> Total {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(fs::Metadata::is_file)
        .fold(Total::default(), |Total { entries, bytes }, metadata| Total {
            entries: entries + 1,
            bytes: bytes + metadata.len(),
        })
}
