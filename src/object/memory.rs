//! Objects in memory: for tests, and as the shortest statement of what a store does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use crate::error::{Error, ErrorKind, Result};

/// Keys a page of a listing holds at most, as in S3.
const PAGE_LEN: usize = 1000;

/// An object store that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Held for map operations only, never across an `await`.
    objects: Mutex<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<String, Object>,
    writes: u64,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    modified: SystemTime,
    etag: ETag,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Objects) -> T) -> T {
        work(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn object(&self, key: &str) -> Result<Object> {
        self.with(|objects| objects.by_key.get(key).cloned())
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("object {key} isn't there")))
    }
}

impl Object {
    fn meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            key: key.to_owned(),
            size: self.bytes.len() as u64,
            modified: self.modified,
            etag: self.etag.clone(),
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        let object = self.object(key)?;
        if if_match.is_some_and(|etag| *etag != object.etag) {
            return Err(Error::new(ErrorKind::StaleHandle, format!("object {key} has changed")));
        }
        let len = object.bytes.len();
        let end = usize::try_from(range.end).unwrap_or(len).min(len);
        let start = usize::try_from(range.start).unwrap_or(end).min(end);
        Ok(object.bytes.slice(start..end))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        Ok(self.object(key)?.meta(key))
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.with(|objects| {
            if mode == PutMode::Create && objects.by_key.contains_key(key) {
                let message = format!("object {key} is there already");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            objects.writes += 1;
            let etag = ETag(format!("\"{}\"", objects.writes));
            let object = Object { bytes, modified: SystemTime::now(), etag: etag.clone() };
            objects.by_key.insert(key.to_owned(), object);
            Ok(etag)
        })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.with(|objects| objects.by_key.remove(key));
        Ok(())
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let mut pages = vec![ListPage::default()];
        self.with(|objects| {
            let from = objects.by_key.range(prefix.to_owned()..);
            for (key, object) in from.take_while(|(key, _)| key.starts_with(prefix)) {
                let rest = &key[prefix.len()..];
                let slash = rest.find('/').filter(|_| depth == Depth::Children);
                let common = slash.map(|slash| key[..=prefix.len() + slash].to_owned());
                if common.is_some() && last_prefix(&pages) == common.as_ref() {
                    continue;
                }
                if pages.last().is_some_and(|page| page_len(page) == PAGE_LEN) {
                    pages.push(ListPage::default());
                }
                let Some(page) = pages.last_mut() else { return };
                match common {
                    Some(common) => page.prefixes.push(common),
                    None => page.objects.push(object.meta(key)),
                }
            }
        });
        stream::iter(pages.into_iter().map(Ok)).boxed()
    }
}

fn page_len(page: &ListPage) -> usize {
    page.objects.len() + page.prefixes.len()
}

/// The prefix listed last, which may be on an earlier page.
fn last_prefix(pages: &[ListPage]) -> Option<&String> {
    pages.iter().rev().find_map(|page| page.prefixes.last())
}
