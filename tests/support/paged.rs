//! Objects in memory, listed in pages of a few entries, in the order of one store or another.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use atelier::error::Result;
use atelier::object::memory::MemoryStore;
use atelier::object::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};

/// In which order a store lists its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// By their bytes, as AWS does: `a-` before `a/x`.
    Bytes,
    /// Directory by directory, as SeaweedFS does: `a/x` before `a-`.
    Directories,
}

impl Order {
    /// What a key sorts by.
    fn rank(self, key: &str) -> Vec<u16> {
        let rank = |byte: u8| match self {
            Self::Directories if byte == b'/' => 0,
            _ => u16::from(byte) + 1,
        };
        key.bytes().map(rank).collect()
    }
}

/// A store in memory whose listings have short pages, each of what is there when it is asked for.
#[derive(Debug)]
pub(crate) struct PagedStore {
    inner: Arc<MemoryStore>,
    page_len: usize,
    order: Order,
}

impl PagedStore {
    pub(crate) fn new(page_len: usize, order: Order) -> Arc<Self> {
        let inner = Arc::new(MemoryStore::new());
        Arc::new(Self { inner, page_len, order })
    }
}

/// A line of a listing: an object, or what keys have in common.
enum Line {
    Object(ObjectMeta),
    Prefix(String),
}

impl Line {
    fn key(&self) -> &str {
        match self {
            Self::Object(meta) => &meta.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// The page behind `after`, and whether there is another.
async fn page(
    inner: &MemoryStore,
    prefix: &str,
    depth: Depth,
    (order, page_len): (Order, usize),
    after: Option<&str>,
) -> Result<(ListPage, Option<String>)> {
    let pages: Vec<ListPage> = inner.list(prefix, depth).try_collect().await?;
    let mut lines = Vec::new();
    for page in pages {
        lines.extend(page.objects.into_iter().map(Line::Object));
        lines.extend(page.prefixes.into_iter().map(Line::Prefix));
    }
    lines.sort_by_key(|line| order.rank(line.key()));
    let after = after.map(|key| order.rank(key));
    lines.retain(|line| after.as_ref().is_none_or(|after| order.rank(line.key()) > *after));
    let more = lines.len() > page_len;
    lines.truncate(page_len);
    let next = lines.last().filter(|_| more).map(|line| line.key().to_owned());
    let mut page = ListPage::default();
    for line in lines {
        match line {
            Line::Object(meta) => page.objects.push(meta),
            Line::Prefix(prefix) => page.prefixes.push(prefix),
        }
    }
    Ok((page, next))
}

#[async_trait]
impl ObjectStore for PagedStore {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        self.inner.get(key, range, if_match).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.inner.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let (inner, prefix) = (self.inner.clone(), prefix.to_owned());
        let shape = (self.order, self.page_len);
        stream::try_unfold(Some(None::<String>), move |state| {
            let (inner, prefix) = (inner.clone(), prefix.clone());
            async move {
                let Some(after) = state else { return Ok(None) };
                let (page, next) = page(&inner, &prefix, depth, shape, after.as_deref()).await?;
                Ok(Some((page, next.map(Some))))
            }
        })
        .boxed()
    }
}
