//! A bucket as a directory tree: keys are cut at their slashes, objects are files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use self::file::{BucketFile, Pinned};
use self::known::{Fresh, Known, Node};
use self::lookup::Lookups;
use self::siblings::Siblings;
use self::versions::{Located, Versions};
use self::walk::Walk;
use self::walks::Walks;
use super::{Attr, ContentVersion, Entry, File, OpenMode, Tree, read_only};
use crate::cache::{BlockCache, ObjectVersion, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::object::names::Place;
use crate::object::{Depth, ObjectStore};
use crate::path::TreePath;

mod ahead;
mod file;
mod flat;
mod flights;
mod known;
mod listing;
mod lookup;
mod plan;
mod scan;
mod siblings;
mod versions;
mod walk;
mod walks;

/// The extended attribute that holds the version of an object.
const ETAG: &[u8] = b"user.atelier.etag";

/// The objects of a store as a tree that can be read.
///
/// Directories are what keys have in common up to a slash, and markers: empty objects whose key
/// ends in one. How keys become names is told in `object/names.rs`. An open file is one version of
/// its object for as long as it is open; when that version is gone, reading it is `StaleHandle`.
pub struct BucketTree {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    /// The same, for what nobody waits for yet.
    quiet: Arc<dyn ObjectStore>,
    cache: Arc<BlockCache>,
    /// Tells this store's objects from those of others in the cache.
    source: String,
    /// The time that directories show, since a bucket keeps none for them.
    born: SystemTime,
    known: Known,
    lookups: Lookups,
    siblings: Siblings,
    walks: Walks,
    versions: Versions,
    /// Which version is open at a path. Guards a map; held for one operation.
    open: Mutex<HashMap<TreePath, Weak<Pinned>>>,
}

impl BucketTree {
    /// Makes a tree of all objects of `store`.
    ///
    /// `source` is where the store is, so that with a key behind it, it names one object of all that
    /// share `cache`: trees of the same source see each other's blocks. Listings and attributes are believed for `ttl`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cache: Arc<BlockCache>,
        source: impl Into<String>,
        ttl: Duration,
    ) -> Self {
        let shared = Shared {
            quiet: store.read_ahead().unwrap_or_else(|| store.clone()),
            store,
            cache,
            source: source.into(),
            born: SystemTime::now(),
            known: Known::new(ttl),
            lookups: Lookups::default(),
            siblings: Siblings::default(),
            walks: Walks::default(),
            versions: Versions::default(),
            open: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

#[async_trait]
impl Tree for BucketTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        let Located { node, ttl, .. } = self.shared.locate(path).await?;
        Ok(self.shared.attr(&node, ttl))
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        let (shared, dir) = (self.shared.clone(), dir.clone());
        Box::pin(stream::once(shared.list(dir)).flatten())
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        let Located { node, ttl, source } = self.shared.locate(path).await?;
        if node == Node::Directory {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{path} is a directory")));
        }
        if mode.writes() {
            return Err(read_only());
        }
        let pinned = self.shared.pin(path, source.ok_or_else(|| not_found(path))?);
        self.shared.note_open(path, &pinned.source);
        let attr = self.shared.attr(&node, ttl);
        let (shared, path, local) = (self.shared.clone(), path.clone(), OnceLock::new());
        let file = BucketFile { shared, path, attr, pinned, local };
        file.begin();
        Ok(Arc::new(file))
    }

    async fn xattr(&self, path: &TreePath, name: &[u8]) -> Result<Bytes> {
        match self.shared.locate(path).await?.node {
            Node::File { etag, .. } if name == ETAG => Ok(etag.0.into()),
            _ => {
                let name = name.escape_ascii();
                let message = format!("{path} has no attribute {name}");
                Err(Error::new(ErrorKind::NoAttribute, message))
            }
        }
    }

    async fn xattrs(&self, path: &TreePath) -> Result<Vec<Bytes>> {
        Ok(match self.shared.locate(path).await?.node {
            Node::File { .. } => vec![Bytes::from_static(ETAG)],
            Node::Directory => Vec::new(),
        })
    }
}

impl Shared {
    async fn list(self: Arc<Self>, dir: TreePath) -> BoxStream<'static, Result<Entry>> {
        if let Some(fresh) = self.arrive(&dir).await {
            self.known.note_use(&dir);
            self.walk_below(&dir, &fresh.0);
            return Box::pin(stream::iter(self.entries(fresh)));
        }
        let Some(prefix) = prefix_of(&dir) else {
            return Box::pin(stream::once(async move {
                self.node(&dir).await?;
                Err(not_a_directory(&dir))
            }));
        };
        let pages = self.store.list(&prefix, Depth::Children);
        let start = Some((self, dir, Walk::new(pages, prefix)));
        let batches = stream::try_unfold(start, |state| async move {
            let Some((shared, dir, mut walk)) = state else { return Ok(None) };
            match walk.next().await.transpose()? {
                Some(batch) => {
                    let ttl = shared.known.ttl();
                    let entry = |(name, node)| Entry { name, attr: shared.attr(&node, ttl) };
                    let entries: Vec<_> = batch.into_iter().map(entry).map(Ok).collect();
                    Ok(Some((stream::iter(entries), Some((shared, dir, walk)))))
                }
                None => shared.finish(dir, walk).await.map(|()| None),
            }
        });
        Box::pin(batches.try_flatten())
    }

    /// The entries of a listing, made as they are asked for.
    fn entries(
        self: &Arc<Self>,
        (listing, ttl): Fresh,
    ) -> impl Iterator<Item = Result<Entry>> + Send + use<> {
        let dir = Attr::dir(self.born, ttl);
        (0..listing.len()).filter_map(move |at| {
            let object = listing.object(at);
            let attr = object.map(|(size, modified, tag)| object_attr(size, modified, tag, ttl));
            let name = listing.name(at)?;
            Some(Ok(Entry { name, attr: attr.unwrap_or_else(|| dir.clone()) }))
        })
    }

    /// Where an object is read from; `None` for a directory.
    fn source(&self, place: &Place, node: &Node) -> Option<Source> {
        let Node::File { size, etag, .. } = node else { return None };
        let object = format!("{}{}", self.source, place.key).into();
        let version = Arc::new(ObjectVersion { object, etag: etag.clone(), size: *size });
        Some(Source { store: self.store.clone(), key: place.key.as_str().into(), version })
    }

    /// What all handles of the version of `source` share; a version that was opened before stays
    /// with those that have it open.
    fn pin(&self, path: &TreePath, source: Arc<Source>) -> Arc<Pinned> {
        let mut open = self.lock_open();
        if let Some(pinned) = open.get(path).and_then(Weak::upgrade)
            && pinned.source.version == source.version
        {
            return pinned;
        }
        // Now and then, so that it costs nothing: what was closed is forgotten.
        if open.len().is_power_of_two() {
            open.retain(|_, pinned| pinned.strong_count() > 0);
        }
        let pinned = Arc::new(Pinned::new(source));
        open.insert(path.clone(), Arc::downgrade(&pinned));
        pinned
    }

    fn lock_open(&self) -> MutexGuard<'_, HashMap<TreePath, Weak<Pinned>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attributes of a node, which may be believed for `ttl`.
    fn attr(&self, node: &Node, ttl: Duration) -> Attr {
        match node {
            Node::File { size, modified, etag } => object_attr(*size, *modified, &etag.0, ttl),
            Node::Directory => Attr::dir(self.born, ttl),
        }
    }
}

fn object_attr(size: u64, modified: SystemTime, etag: &str, ttl: Duration) -> Attr {
    Attr { version: Some(ContentVersion::of(etag)), ..Attr::file(size, modified, ttl) }
}

/// What the keys below a directory begin with; `None` when no key can be there.
fn prefix_of(dir: &TreePath) -> Option<String> {
    if dir.is_root() {
        return Some(String::new());
    }
    Place::of(dir).filter(|place| !place.beside).map(|place| place.prefix())
}

fn not_a_directory(path: &TreePath) -> Error {
    Error::new(ErrorKind::NotADirectory, format!("{path} isn't a directory"))
}

fn not_found(path: &TreePath) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path} isn't in the bucket"))
}
