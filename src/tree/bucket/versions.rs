//! `key@version`: one version of an object in a versioned bucket, found by its name only.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::Shared;
use super::known::Node;
use crate::cache::Source;
use crate::error::{ErrorKind, Result};
use crate::object::names::Place;
use crate::path::TreePath;

/// How many answers are kept.
const MOST: NonZeroUsize = NonZeroUsize::new(1_000).expect("isn't zero");

/// The longest name of a version, in bytes (S3 User Guide, "Working with Version IDs").
const LONGEST: usize = 1024;

/// What is known of names that could be those of versions.
pub(super) struct Versions {
    /// Guards the answers; held for a map operation.
    known: Mutex<LruCache<TreePath, (Instant, Option<Located>)>>,
}

impl Default for Versions {
    fn default() -> Self {
        Self { known: Mutex::new(LruCache::new(MOST)) }
    }
}

/// What a path leads to, and for how long that may be believed.
#[derive(Clone)]
pub(super) struct Located {
    pub(super) node: Node,
    pub(super) ttl: Duration,
    /// Where it is read from, where it is an object.
    pub(super) source: Option<Arc<Source>>,
}

impl Shared {
    /// What `path` leads to; where there is nothing of that name, maybe a version of an object.
    pub(super) async fn locate(self: &Arc<Self>, path: &TreePath) -> Result<Located> {
        match self.node(path).await {
            Ok((node, ttl)) => {
                let source = Place::of(path).and_then(|place| self.source(&place, &node));
                Ok(Located { node, ttl, source: source.map(Arc::new) })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.version(path).await?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn version(&self, path: &TreePath) -> Result<Option<Located>> {
        let Some((object, id)) = split(path) else { return Ok(None) };
        let (Some(place), Some(store)) = (Place::of(&object), self.store.at_version(id)) else {
            return Ok(None);
        };
        let ttl = self.known.ttl();
        if let Some((seen, known)) = self.lock_versions().get(path)
            && seen.elapsed() < ttl
        {
            return Ok(known.clone());
        }
        let asked = Instant::now();
        let located = match store.head(&place.key).await {
            Ok(meta) => {
                let node = Node::File { size: meta.size, modified: meta.modified, etag: meta.etag };
                let source = self.source(&place, &node);
                let source = source.map(|source| Arc::new(Source { store, ..source }));
                Some(Located { node, ttl, source })
            }
            // Most names with an `@` are just names: a store that refuses to take the rest of one
            // as a version's says that there is none.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        self.lock_versions().put(path.clone(), (asked, located.clone()));
        Ok(located)
    }

    fn lock_versions(
        &self,
    ) -> std::sync::MutexGuard<'_, LruCache<TreePath, (Instant, Option<Located>)>> {
        self.versions.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of the object and the version that a name may mean.
fn split(path: &TreePath) -> Option<(TreePath, &str)> {
    let name = path.name()?;
    let at = name.iter().rposition(|byte| *byte == b'@')?;
    let id = str::from_utf8(&name[at + 1..]).ok()?;
    let plain = !id.is_empty() && id.len() <= LONGEST && id.bytes().all(|b| b.is_ascii_graphic());
    let object = path.parent()?.join(&name[..at]).ok().filter(|_| plain)?;
    Some((object, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_last_at_sign_may_be_a_version() {
        let split = |text: &str| {
            let path = TreePath::parse(text).unwrap();
            super::split(&path).map(|(object, id)| format!("{object} {id}"))
        };
        assert_eq!(split("a/b@c@1.x_-"), Some("a/b@c 1.x_-".to_owned()));
        for text in ["a@1/b", "@1", "a@", "a@1 2", "a@é"] {
            assert_eq!(split(text), None, "{text}");
        }
    }
}
