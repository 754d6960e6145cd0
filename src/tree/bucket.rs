//! A bucket as a directory tree: keys are cut at their slashes, objects are files.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use self::file::{BucketFile, Pinned};
use self::known::{Found, Known, Node};
use self::names::Place;
use self::walk::Walk;
use super::{Attr, ContentVersion, Entry, File, OpenMode, Tree, read_only};
use crate::cache::{BlockCache, ObjectVersion, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::object::{Depth, ObjectStore};
use crate::path::TreePath;

mod ahead;
mod file;
mod known;
mod names;
mod walk;

/// The extended attribute that holds the version of an object.
const ETAG: &[u8] = b"user.atelier.etag";

/// The objects of a store as a tree that can be read.
///
/// Directories are what keys have in common up to a slash, and markers: empty objects whose key
/// ends in one. How keys become names is told in `bucket/names.rs`. An open file is one version of
/// its object for as long as it is open; when that version is gone, reading it is `StaleHandle`.
pub struct BucketTree {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    cache: Arc<BlockCache>,
    /// Tells this store's objects from those of others in the cache.
    source: String,
    ttl: Duration,
    /// The time that directories show, since a bucket keeps none for them.
    born: SystemTime,
    known: Known,
    /// Which version is open at a path. Guards a map; held for one operation.
    open: Mutex<HashMap<TreePath, Weak<Pinned>>>,
}

impl BucketTree {
    /// Makes a tree of all objects of `store`.
    ///
    /// `source` names the store among all that share `cache`: trees of the same name see each
    /// other's blocks. Listings and attributes are believed for `ttl`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cache: Arc<BlockCache>,
        source: impl Into<String>,
        ttl: Duration,
    ) -> Self {
        let shared = Shared {
            store,
            cache,
            source: source.into(),
            ttl,
            born: SystemTime::now(),
            known: Known::new(ttl),
            open: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

#[async_trait]
impl Tree for BucketTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        Ok(self.shared.attr(&self.shared.node(path).await?))
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        if let Some(entries) = self.shared.known.entries(dir) {
            let shared = self.shared.clone();
            let entries = entries.into_iter().map(move |(name, node)| shared.entry(name, &node));
            return Box::pin(stream::iter(entries.map(Ok)));
        }
        let Some(prefix) = prefix_of(dir) else {
            let error = not_found(dir);
            return Box::pin(stream::once(async { Err(error) }));
        };
        let pages = self.shared.store.list(&prefix, Depth::Children);
        let start = Some((self.shared.clone(), dir.clone(), Walk::new(pages, prefix)));
        let batches = stream::try_unfold(start, |state| async move {
            let Some((shared, dir, mut walk)) = state else { return Ok(None) };
            match walk.next().await.transpose()? {
                Some(batch) => {
                    let entries = batch.into_iter().map(|(name, node)| shared.entry(name, &node));
                    let entries: Vec<_> = entries.map(Ok).collect();
                    Ok(Some((stream::iter(entries), Some((shared, dir, walk)))))
                }
                None => shared.finish(dir, walk).await.map(|()| None),
            }
        });
        Box::pin(batches.try_flatten().boxed())
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        let node = self.shared.node(path).await?;
        let Node::File { size, etag, .. } = &node else {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{path} is a directory")));
        };
        if mode.writes() {
            return Err(read_only());
        }
        let place = Place::of(path).ok_or_else(|| not_found(path))?;
        let object = format!("{}\0{}", self.shared.source, place.key).into();
        let version = Arc::new(ObjectVersion { object, etag: etag.clone(), size: *size });
        let source = Source { store: self.shared.store.clone(), key: place.key.into(), version };
        Ok(Arc::new(BucketFile {
            shared: self.shared.clone(),
            path: path.clone(),
            attr: self.shared.attr(&node),
            pinned: self.shared.pin(path, source),
            readers: Mutex::default(),
        }))
    }

    async fn xattr(&self, path: &TreePath, name: &[u8]) -> Result<Bytes> {
        match self.shared.node(path).await? {
            Node::File { etag, .. } if name == ETAG => Ok(etag.0.into()),
            _ => {
                let name = name.escape_ascii();
                let message = format!("{path} has no attribute {name}");
                Err(Error::new(ErrorKind::NoAttribute, message))
            }
        }
    }

    async fn xattrs(&self, path: &TreePath) -> Result<Vec<Bytes>> {
        Ok(match self.shared.node(path).await? {
            Node::File { .. } => vec![Bytes::from_static(ETAG)],
            Node::Directory => Vec::new(),
        })
    }
}

impl Shared {
    /// What `path` leads to: from what is known, else by one question or two.
    async fn node(&self, path: &TreePath) -> Result<Node> {
        if path.is_root() {
            return Ok(Node::Directory);
        }
        match self.known.find(path) {
            Some(Found::There(node)) => return Ok(node),
            Some(Found::Nowhere) => return Err(not_found(path)),
            None => {}
        }
        let node = match Place::of(path) {
            Some(place) => self.ask(path, &place).await?,
            None => None,
        };
        self.known.remember(path.clone(), node.clone());
        node.ok_or_else(|| not_found(path))
    }

    /// Asks for the object and for a directory of the same name, both at once.
    async fn ask(&self, path: &TreePath, place: &Place) -> Result<Option<Node>> {
        let (object, directory) =
            futures_util::join!(self.ask_for_object(place), self.ask_for_directory(path, place));
        match (directory, object) {
            (Ok(true), object) if place.beside => object,
            (Ok(false), _) if place.beside => Ok(None),
            (Ok(true), _) => Ok(Some(Node::Directory)),
            (Ok(false), object) => object,
            // Who may read may not be allowed to list.
            (Err(error), Ok(Some(node))) if error.kind() == ErrorKind::PermissionDenied => {
                Ok(Some(node))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn ask_for_object(&self, place: &Place) -> Result<Option<Node>> {
        if place.key.is_empty() {
            return Ok(None);
        }
        match self.store.head(&place.key).await {
            Ok(meta) if place.may_be_marker() && meta.size == 0 => Ok(None),
            Ok(meta) => {
                Ok(Some(Node::File { size: meta.size, modified: meta.modified, etag: meta.etag }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there are keys below; if they fit on one page, the directory is listed by that.
    async fn ask_for_directory(&self, path: &TreePath, place: &Place) -> Result<bool> {
        let prefix = place.prefix();
        let mut pages = self.store.list(&prefix, Depth::Children);
        let Some(first) = pages.next().await.transpose()? else { return Ok(false) };
        if first.objects.is_empty() && first.prefixes.is_empty() {
            return Ok(false);
        }
        let full = first.objects.len() + first.prefixes.len() >= FULL_PAGE;
        // Only the end comes at once: another page would have to be asked for.
        if !full && !place.beside && matches!(pages.next().now_or_never(), Some(None)) {
            let mut walk = Walk::new(Box::pin(stream::once(async { Ok(first) })), prefix);
            while walk.next().await.transpose()?.is_some() {}
            let since = walk.since;
            if let Some(entries) = walk.finish() {
                self.known.remember_listing(path.clone(), since, entries);
            }
        }
        Ok(true)
    }

    /// A listing has come to its end: remembers it, unless nothing was there to be listed.
    async fn finish(&self, dir: TreePath, walk: Walk) -> Result<()> {
        let since = walk.since;
        let entries = match walk.finish() {
            Some(entries) => entries,
            None if dir.is_root() || self.known.was_directory(&dir) => known::Entries::new(),
            None => {
                let place = Place::of(&dir).ok_or_else(|| not_found(&dir))?;
                return Err(match self.ask_for_object(&place).await? {
                    Some(_) => {
                        Error::new(ErrorKind::NotADirectory, format!("{dir} isn't a directory"))
                    }
                    None => not_found(&dir),
                });
            }
        };
        self.known.remember_listing(dir, since, entries);
        Ok(())
    }

    /// Makes the version of `source` the one that is open at `path`; older ones can't be read on.
    fn pin(&self, path: &TreePath, source: Source) -> Arc<Pinned> {
        let mut open = self.lock_open();
        if let Some(pinned) = open.get(path).and_then(Weak::upgrade) {
            if pinned.source.version == source.version {
                return pinned;
            }
            pinned.replaced.store(true, Ordering::Relaxed);
        }
        // Now and then, so that it costs nothing: what was closed is forgotten.
        if open.len().is_power_of_two() {
            open.retain(|_, pinned| pinned.strong_count() > 0);
        }
        let pinned =
            Arc::new(Pinned { source: Arc::new(source), replaced: AtomicBool::new(false) });
        open.insert(path.clone(), Arc::downgrade(&pinned));
        pinned
    }

    fn lock_open(&self) -> MutexGuard<'_, HashMap<TreePath, Weak<Pinned>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, name: Bytes, node: &Node) -> Entry {
        Entry { name, attr: self.attr(node) }
    }

    fn attr(&self, node: &Node) -> Attr {
        match node {
            Node::File { size, modified, etag } => Attr {
                version: Some(ContentVersion::of(&etag.0)),
                ..Attr::file(*size, *modified, self.ttl)
            },
            Node::Directory => Attr::dir(self.born, self.ttl),
        }
    }
}

/// A page of so many entries is probably not the last.
const FULL_PAGE: usize = 1000;

/// What the keys below a directory begin with; `None` when no key can be there.
fn prefix_of(dir: &TreePath) -> Option<String> {
    if dir.is_root() {
        return Some(String::new());
    }
    Place::of(dir).filter(|place| !place.beside).map(|place| place.prefix())
}

fn not_found(path: &TreePath) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path} isn't in the bucket"))
}
