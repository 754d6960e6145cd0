//! Takes in the objects of a bucket: keys become paths as they do in a mount of it.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::feed::{At, Coming, Feed, Stopped};
use super::read::{Done, Input, Part, ReadError, Reading, Unwanted};
use super::seen::{Previous, Print};
use super::unordered::DIRECTORY_MODE;
use super::{Progress, Total};
use crate::chunk::split::WHOLE;
use crate::error::{Error, ErrorKind, Result};
use crate::object::{Depth, ETag, ObjectMeta, ObjectStore, names};
use crate::snapshot::format::{Content, Entry, Mtime};

/// Objects that are read at the same time: most are small, and waiting costs nothing.
pub(super) const READERS: usize = 32;

/// How much of a large object one request reads, in bytes.
const RANGE: u64 = 4 << 20;

/// How many requests for parts of one large object are under way.
const RANGES_AHEAD: usize = 2;

/// How often an object is read that changes while it is read.
const ATTEMPTS: usize = 3;

/// The mode of files that objects become.
const FILE_MODE: u32 = 0o644;

/// Takes in all objects of a store.
pub(super) fn take(
    store: &Arc<dyn ObjectStore>,
    previous: Option<&Previous>,
    progress: &Progress,
    feed: &Feed,
    runtime: &Handle,
) -> Result<(), Stopped> {
    let mut pages = store.list("", Depth::All);
    while let Some(page) = runtime.block_on(pages.try_next())? {
        for meta in page.objects {
            let (Some(at), marker) = place(&meta) else {
                let at = At { directory: Bytes::new(), name: meta.key.into() };
                feed.skip(at, "a part of its key is too long for a name")?;
                continue;
            };
            let mtime = Mtime::from(meta.modified);
            if marker {
                let entry = Entry { mode: DIRECTORY_MODE, mtime, content: Content::Directory };
                feed.send(at, Coming::Entry(entry))?;
                continue;
            }
            let object = Object { store: store.clone(), runtime: runtime.clone(), meta };
            let print = Print::of_object(&at, &object);
            match previous.and_then(|previous| previous.content(&at, print)) {
                Some(content) => {
                    progress.unchanged.fetch_add(object.size(), Ordering::Relaxed);
                    let entry = Entry { mode: FILE_MODE, mtime, content };
                    feed.send(at, Coming::Unchanged(entry, print))?;
                }
                None => feed.file(at, Input::Object(object))?,
            }
        }
    }
    Ok(())
}

/// Counts the objects of a store.
pub(super) fn survey(
    store: &Arc<dyn ObjectStore>,
    runtime: &Handle,
    wanted: impl Fn() -> bool,
) -> Option<Total> {
    let (mut pages, mut total) = (store.list("", Depth::All), Total::default());
    while wanted() {
        // Whoever takes the objects in will hear what is wrong.
        let Some(page) = runtime.block_on(pages.try_next()).ok()? else { return Some(total) };
        total.entries += page.objects.len() as u64;
        total.bytes += page.objects.iter().map(|object| object.size).sum::<u64>();
    }
    None
}

/// Where an object is in the version, and whether it only says that there is a directory; nowhere
/// when a name would be too long.
fn place(meta: &ObjectMeta) -> (Option<At>, bool) {
    let marker = meta.size == 0 && meta.key.ends_with('/');
    let key = if marker { &meta.key[..meta.key.len() - 1] } else { &meta.key[..] };
    let parts: Option<Vec<_>> = key.split('/').map(|part| names::encode(part, false)).collect();
    let at = parts.and_then(|parts| {
        let (name, directory) = parts.split_last()?;
        Some(At { directory: directory.join("/").into(), name: name.to_string().into() })
    });
    (at, marker)
}

/// An object that is to be read.
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    meta: ObjectMeta,
}

impl Object {
    pub(super) fn size(&self) -> u64 {
        self.meta.size
    }

    pub(super) fn mtime(&self) -> Mtime {
        self.meta.modified.into()
    }

    pub(super) fn etag(&self) -> &str {
        &self.meta.etag.0
    }

    /// Reads one version of it.
    pub(super) fn read(mut self, at: &At, reading: &Reading<'_>) -> Result<(), Unwanted> {
        for attempt in 1..=ATTEMPTS {
            let error = match self.read_once(reading) {
                Ok(()) => {
                    let print = Some(Print::of_object(at, &self));
                    let (mode, mtime) = (FILE_MODE, self.mtime());
                    return reading.send(Part::Done(Done { mode, mtime, settled: true, print }));
                }
                Err(ReadError::Unwanted) => return Err(Unwanted),
                Err(ReadError::Io(error)) => plain(error),
            };
            match error.kind() {
                ErrorKind::StaleHandle if attempt < ATTEMPTS => {
                    match self.runtime.block_on(self.store.head(&self.meta.key)) {
                        Ok(meta) => self.meta = meta,
                        Err(error) => return reading.send(lost(error)),
                    }
                    reading.send(Part::Again)?;
                }
                ErrorKind::StaleHandle => {
                    let reason = "it kept changing while it was read";
                    return reading.send(Part::Failed(reason.to_owned()));
                }
                _ => return reading.send(lost(error)),
            }
        }
        Ok(())
    }

    fn read_once(&self, reading: &Reading<'_>) -> Result<(), ReadError> {
        let size = self.meta.size;
        if size == 0 {
            reading.send_whole(Bytes::new())?;
            return Ok(());
        }
        if size <= WHOLE as u64 {
            let ObjectMeta { key, etag, .. } = &self.meta;
            let bytes = self.runtime.block_on(self.store.get(key, 0..size, Some(etag)));
            let bytes = bytes.map_err(io::Error::other)?;
            check(bytes.len() as u64, size)?;
            reading.send_whole(bytes)?;
            return Ok(());
        }
        let read = reading.send_parts(Ranges::new(self), size)?;
        Ok(check(read, size)?)
    }
}

/// Why an object isn't in the version; what isn't about this one alone ends everything.
fn lost(error: Error) -> Part {
    match error.kind() {
        ErrorKind::NotFound => Part::Failed("it was removed before it was read".to_owned()),
        ErrorKind::PermissionDenied => Part::Failed(error.to_string()),
        _ => Part::Broken(error),
    }
}

fn check(read: u64, size: u64) -> io::Result<()> {
    if read == size {
        return Ok(());
    }
    Err(io::Error::other(Error::new(
        ErrorKind::Io,
        format!("{read} bytes came of an object that has {size}"),
    )))
}

/// The error of the store in an error of reading.
fn plain(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io(error, "an object can't be read"),
    }
}

/// The bytes of a large object, some of which are always on their way.
struct Ranges<'a> {
    object: &'a Object,
    /// Where the next request begins.
    next: u64,
    coming: VecDeque<JoinHandle<Result<Bytes>>>,
    current: Bytes,
}

impl<'a> Ranges<'a> {
    fn new(object: &'a Object) -> Self {
        Self { object, next: 0, coming: VecDeque::new(), current: Bytes::new() }
    }

    fn ask(&mut self) {
        let Object { store, runtime, meta } = self.object;
        while self.coming.len() < RANGES_AHEAD && self.next < meta.size {
            let range = self.next..meta.size.min(self.next + RANGE);
            self.next = range.end;
            let (store, key, etag) = (store.clone(), meta.key.clone(), meta.etag.clone());
            let get = async move { get_all(&*store, &key, range, &etag).await };
            self.coming.push_back(runtime.spawn(get));
        }
    }
}

async fn get_all(
    store: &dyn ObjectStore,
    key: &str,
    range: std::ops::Range<u64>,
    etag: &ETag,
) -> Result<Bytes> {
    let wanted = range.end - range.start;
    let bytes = store.get(key, range, Some(etag)).await?;
    if bytes.len() as u64 == wanted {
        return Ok(bytes);
    }
    let message = format!("{} bytes of {key} came where {wanted} were asked for", bytes.len());
    Err(Error::new(ErrorKind::Io, message))
}

impl Read for Ranges<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            self.ask();
            let Some(next) = self.coming.pop_front() else { return Ok(0) };
            self.current = self
                .object
                .runtime
                .block_on(next)
                .map_err(io::Error::other)?
                .map_err(io::Error::other)?;
            self.ask();
        }
        let len = into.len().min(self.current.len());
        into[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}

impl Drop for Ranges<'_> {
    fn drop(&mut self) {
        for coming in &self.coming {
            coming.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_key_is_the_path_that_a_mount_of_the_bucket_has() {
        let placed = |key: &str, size| {
            let (modified, etag) = (SystemTime::UNIX_EPOCH, ETag(String::new()));
            let (at, marker) = place(&ObjectMeta { key: key.into(), size, modified, etag });
            (at.map(|at| String::from_utf8(at.path()).unwrap()), marker)
        };
        assert_eq!(placed("a/b", 1), (Some("a/b".into()), false));
        assert_eq!(placed("a/", 0), (Some("a".into()), true));
        assert_eq!(placed("a/", 1), (Some("a/%".into()), false));
        assert_eq!(placed("../etc//passwd", 1), (Some("%2E%2E/etc/%/passwd".into()), false));
        assert_eq!(placed(&"x".repeat(2000), 1), (None, false));
    }
}
