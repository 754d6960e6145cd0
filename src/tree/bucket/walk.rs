//! A directory out of the pages of a listing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::known::{MOST_LISTED, Node};
use super::listing::{Draft, Listing};
use crate::error::Result;
use crate::object::names::encode;
use crate::object::{ListPage, ObjectMeta};

/// A directory that is being listed.
pub(super) struct Walk {
    source: BoxStream<'static, Result<ListPage>>,
    /// What all keys begin with: empty, or ending in `/`.
    prefix: String,
    /// Objects whose name a directory may still claim: one that is called `a` is told once the
    /// listing is past `a/`, so these are few.
    held: Vec<(String, Node)>,
    /// The directories that were told, for a store that lists them before objects of their names;
    /// forgotten with the draft.
    directories: HashSet<String>,
    /// All entries until now; `None` when they are too many to be kept.
    draft: Option<Draft>,
    /// Whether any key came, be it only a marker.
    inhabited: bool,
    skipped: usize,
    over: bool,
    /// How many pages came.
    pub(super) pages: usize,
    /// When the last page was asked for: what a directory is believed to be as of, since the
    /// first page of a long one may be old by its end.
    asked: Instant,
}

/// What a whole listing has shown.
pub(super) enum Seen {
    /// No key at all.
    Nothing,
    /// A directory, as of this time.
    All(Arc<Listing>, Instant),
    /// A directory of more entries than are kept.
    TooMany,
}

/// Names and what they lead to.
pub(super) type Batch = Vec<(Bytes, Node)>;

impl Walk {
    pub(super) fn new(source: BoxStream<'static, Result<ListPage>>, prefix: String) -> Self {
        Self {
            source,
            prefix,
            held: Vec::new(),
            directories: HashSet::new(),
            draft: Some(Draft::new()),
            inhabited: false,
            skipped: 0,
            over: false,
            pages: 0,
            asked: Instant::now(),
        }
    }

    /// The entries of the next page; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Batch>> {
        let mut batch = Batch::new();
        let asked = Instant::now();
        match self.source.next().await {
            Some(Ok(page)) => {
                self.asked = asked;
                self.pages += 1;
                self.take(page, &mut batch);
            }
            Some(Err(error)) => return Some(Err(error)),
            None if self.held.is_empty() => {
                self.over = true;
                return None;
            }
            None => self.release(None, &mut batch),
        }
        Some(Ok(batch))
    }

    /// Whether [`next`](Self::next) has come to the end.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// All entries, once [`next`](Self::next) has come to the end.
    pub(super) fn finish(self) -> Seen {
        if self.skipped > 0 {
            tracing::warn!(
                prefix = self.prefix,
                keys = self.skipped,
                "keys that no file name can stand for are left out"
            );
        }
        match self.draft {
            _ if !self.inhabited => Seen::Nothing,
            Some(draft) => Seen::All(Arc::new(draft.finish()), self.asked),
            None => Seen::TooMany,
        }
    }

    /// Merges a page's objects and prefixes, both of which are sorted, in byte order.
    fn take(&mut self, page: ListPage, batch: &mut Batch) {
        self.inhabited |= !page.objects.is_empty() || !page.prefixes.is_empty();
        let mut objects = page.objects.into_iter().peekable();
        for prefix in page.prefixes {
            while let Some(object) = objects.next_if(|object| object.key < prefix) {
                self.take_object(object, batch);
            }
            self.take_prefix(&prefix, batch);
        }
        for object in objects {
            self.take_object(object, batch);
        }
    }

    fn take_object(&mut self, object: ObjectMeta, batch: &mut Batch) {
        let Some(part) = self.part(&object.key).filter(|part| !part.contains('/')) else {
            self.skipped += 1;
            return;
        };
        self.release(Some(&part), batch);
        // An object `a/` is only there to make the directory.
        if !part.is_empty() || object.size > 0 {
            let ObjectMeta { size, modified, etag, .. } = object;
            let node = Node::File { size, modified, etag };
            if self.directories.contains(&part) {
                self.emit(&part, true, node, batch);
            } else {
                self.held.push((part, node));
            }
        }
    }

    fn take_prefix(&mut self, prefix: &str, batch: &mut Batch) {
        let Some(part) = self.part(prefix.strip_suffix('/').unwrap_or(prefix)) else {
            self.skipped += 1;
            return;
        };
        let below = format!("{part}/");
        self.release(Some(&below), batch);
        if let Some(at) = self.held.iter().position(|(held, _)| *held == part) {
            let (_, node) = self.held.remove(at);
            self.emit(&part, true, node, batch);
        }
        self.emit(&part, false, Node::Directory, batch);
        if self.draft.is_some() {
            self.directories.insert(part);
        }
    }

    /// A key below this directory, without what they all begin with.
    fn part(&self, key: &str) -> Option<String> {
        key.strip_prefix(&self.prefix).map(str::to_owned)
    }

    /// Tells the held objects whose directory can't come any more, now that the listing is at
    /// `reached`, or at its end.
    fn release(&mut self, reached: Option<&str>, batch: &mut Batch) {
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(part, _)| {
                reached.is_some_and(|reached| {
                    reached <= part.as_str()
                        || reached.as_bytes() <= [part.as_bytes(), b"/"].concat().as_slice()
                })
            });
        self.held = stay;
        for (part, node) in go {
            self.emit(&part, false, node, batch);
        }
    }

    fn emit(&mut self, part: &str, beside: bool, node: Node, batch: &mut Batch) {
        let Some(name) = encode(part, beside) else {
            self.skipped += 1;
            return;
        };
        if let Some(draft) = &mut self.draft {
            draft.push(name.as_bytes(), &node);
            if draft.bytes() > MOST_LISTED / 2 {
                self.draft = None;
                self.directories = HashSet::new();
            }
        }
        batch.push((Bytes::copy_from_slice(name.as_bytes()), node));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::stream;

    use super::*;
    use crate::object::ETag;

    fn object(key: &str) -> ObjectMeta {
        let etag = ETag("\"1\"".into());
        ObjectMeta { key: key.into(), size: 1, modified: SystemTime::UNIX_EPOCH, etag }
    }

    /// The names that pages of keys make; a key that ends in `/` is a common prefix.
    async fn names(prefix: &str, pages: &[&[&str]]) -> Vec<String> {
        let pages: Vec<_> = pages
            .iter()
            .map(|keys| {
                let mut page = ListPage::default();
                for key in *keys {
                    match key.strip_suffix("/") {
                        Some(_) if *key != prefix => page.prefixes.push((*key).into()),
                        _ => page.objects.push(object(key)),
                    }
                }
                Ok(page)
            })
            .collect();
        let mut walk = Walk::new(Box::pin(stream::iter(pages)), prefix.into());
        let mut names = Vec::new();
        while let Some(batch) = walk.next().await {
            for (name, node) in batch.unwrap() {
                let name = String::from_utf8(name.to_vec()).unwrap();
                names.push(if node == Node::Directory { name + "/" } else { name });
            }
        }
        let listed = match walk.finish() {
            Seen::All(listing, _) => listing.len(),
            Seen::Nothing | Seen::TooMany => 0,
        };
        assert_eq!(listed, names.len());
        names.sort();
        names
    }

    #[tokio::test]
    async fn objects_are_files_and_prefixes_directories() {
        assert_eq!(names("", &[&["a", "b/"], &["c"]]).await, ["a", "b/", "c"]);
        assert_eq!(names("x/", &[&["x/a", "x/b/"]]).await, ["a", "b/"]);
        assert!(names("x/", &[]).await.is_empty());
    }

    #[tokio::test]
    async fn an_object_beside_a_directory_of_its_name_keeps_a_name() {
        assert_eq!(names("", &[&["a", "a/", "b"]]).await, ["a%2F", "a/", "b"]);
        let between = names("", &[&["a", "a!", "a-", "a-/"], &["a.txt"], &["a/"]]).await;
        assert_eq!(between, ["a!", "a%2F", "a-%2F", "a-/", "a.txt", "a/"]);
        assert_eq!(names("", &[&["a"], &["a/"]]).await, ["a%2F", "a/"]);
        // A store may list directories first.
        assert_eq!(names("", &[&["a/", "b/"], &["a", "c"]]).await, ["a%2F", "a/", "b/", "c"]);
    }

    #[tokio::test]
    async fn odd_keys_have_names() {
        let odd = names("x/", &[&["x/", "x/.", "x/..", "x/a\0", "x//"]]).await;
        assert_eq!(odd, ["%%2F", "%/", "%2E", "%2E%2E", "a%00"]);
    }
}
