//! Object stores: keys to immutable bytes, with a small core that every store keeps to.
//!
//! What all implementations promise is written down once, as the contract suite in
//! `tests/object_contract.rs`.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::Result;

pub(crate) mod buffers;
pub(crate) mod direct;
pub mod local;
pub mod memory;
pub(crate) mod names;
pub mod s3;

/// A place that keeps objects: a local directory, an S3 bucket, memory.
///
/// Every call ends: remote implementations put a deadline on each.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// Reads `range` (bytes, end exclusive) of an object; shorter only where the object ends.
    ///
    /// # Errors
    /// `NotFound` when there is no such object; `StaleHandle` when `if_match` is given and the
    /// object's version is another one; `PermissionDenied`, `TimedOut`, `Io` as the store says.
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes>;

    /// Reads a range as [`get`](Self::get) does, and hands its bytes to `sink` piece by piece, in
    /// order and each once, as soon as they come: whoever waits for the first needn't wait for
    /// the last.
    ///
    /// # Errors
    /// Those of `get`; the pieces that came before are right.
    async fn get_into(
        &self,
        key: &str,
        range: Range<u64>,
        if_match: Option<&ETag>,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<()> {
        sink(self.get(key, range, if_match).await?);
        Ok(())
    }

    /// The same store for what may be of use later: its requests let those of this one go first.
    /// `None` where no request waits for another.
    fn read_ahead(&self) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    /// The same store, in which each key leads to the version `id` of its object, where there is
    /// one. `None` where objects have no versions to be named.
    fn at_version(&self, _id: &str) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    /// The file that an object is, to read it in place; `None` where objects aren't local files.
    ///
    /// # Errors
    /// `NotFound` when there is no such object; those of opening it.
    fn file(&self, _key: &str) -> Result<Option<File>> {
        Ok(None)
    }

    /// Forgets what it knows of an object whose bytes aren't what they should be: another one may
    /// have taken its place.
    fn doubt(&self, _key: &str) {}

    /// Where bytes of its objects can be kept nearer than they are; `None` where there is no such
    /// place.
    fn near(&self) -> Option<&dyn Near> {
        None
    }

    /// Describes an object.
    ///
    /// # Errors
    /// `NotFound` only when the store says that the object is absent, never for a failure.
    async fn head(&self, key: &str) -> Result<ObjectMeta>;

    /// Writes a whole object, atomically and durably: a reader sees the old bytes or the new.
    ///
    /// # Errors
    /// `AlreadyExists` under [`PutMode::Create`] when the key is taken.
    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag>;

    /// Removes an object; one that isn't there is no error.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Lists the keys that begin with `prefix`, in byte order, a page at a time. Some S3 stores
    /// walk directories instead, so that `a/x` comes before `a-`; no store repeats a key.
    ///
    /// With [`Depth::Children`] the keys are cut after the next `/` behind the prefix and come as
    /// [`ListPage::prefixes`], each once.
    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>>;
}

/// A place where bytes of a store are kept before they are asked for.
#[async_trait]
pub trait Near: Send + Sync {
    /// What it is.
    fn place(&self) -> Place;

    /// How many bytes can be there at once, with room for others beside them.
    fn room(&self) -> u64;

    /// Brings bytes of an object there that aren't yet.
    ///
    /// # Errors
    /// `StorageFull` when they can't be kept; those of [`ObjectStore::get`].
    async fn bring(&self, key: &str, range: Range<u64>) -> Result<Brought>;
}

/// What a place is where bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The kernel's memory.
    Memory,
    /// A disk of this host.
    Disk,
}

/// What became of bytes that were to be brought near.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// How many were there.
    pub there: u64,
    /// How many had to be brought.
    pub brought: u64,
}

/// How a [`put`](ObjectStore::put) treats an object that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Replace it.
    Overwrite,
    /// Refuse.
    Create,
}

/// How far below its prefix a listing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// To the next `/`, as a directory listing does.
    Children,
    /// All the way.
    All,
}

/// An opaque version of an object's bytes (RFC 9110, section 8.8.3), quotes included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// What a store tells of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole key.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// When the object was last written.
    pub modified: SystemTime,
    /// The version of its bytes.
    pub etag: ETag,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects, in byte order of their keys.
    pub objects: Vec<ObjectMeta>,
    /// Common prefixes, each ending in `/`, in byte order.
    pub prefixes: Vec<String>,
}
