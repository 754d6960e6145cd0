//! The directories of a subtree out of one flat listing of it.

use std::collections::BTreeSet;

use super::known::{MOST_LISTED, Node};
use super::listing::{Draft, Listing};
use crate::object::names::encode;
use crate::object::{ListPage, ObjectMeta};
use crate::path::TreePath;

/// A subtree that is being listed without a delimiter.
///
/// Whether a store lists in byte order or directory by directory: the keys below a directory follow
/// one another, so that it is whole once a key comes that isn't below it.
#[derive(Debug)]
pub(super) struct Flat {
    /// The directory that all keys are below, which is not listed itself, and its part of the keys.
    base: TreePath,
    prefix: String,
    /// The directories that the last key was in, from below the base down.
    open: Vec<Dir>,
    /// The directories right below the base that are over.
    passed: BTreeSet<String>,
}

#[derive(Debug)]
struct Dir {
    part: String,
    /// `None` where no name can stand for it.
    path: Option<TreePath>,
    objects: Vec<(String, Node)>,
    directories: BTreeSet<String>,
    bytes: usize,
}

/// Directories that are whole.
pub(super) type Whole = Vec<(TreePath, Listing)>;

/// A store that comes back to a directory it had left: its flat listings are of no use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

impl Flat {
    /// The subtrees in the directory `base`, whose keys begin with `prefix`.
    pub(super) fn new(base: TreePath, prefix: String) -> Self {
        Self { base, prefix, open: Vec::new(), passed: BTreeSet::new() }
    }

    /// Takes a page; the directories that it has come to the end of.
    pub(super) fn take(&mut self, page: ListPage) -> Result<Whole, OutOfOrder> {
        let mut whole = Whole::new();
        for object in page.objects {
            self.take_object(object, &mut whole)?;
        }
        Ok(whole)
    }

    /// The directories that are whole now that the listing is over.
    pub(super) fn finish(mut self) -> Whole {
        let mut whole = Whole::new();
        self.close(0, &mut whole);
        whole
    }

    fn take_object(&mut self, object: ObjectMeta, whole: &mut Whole) -> Result<(), OutOfOrder> {
        let Some(rest) = object.key.strip_prefix(&self.prefix) else { return Ok(()) };
        let mut parts: Vec<&str> = rest.split('/').collect();
        let name = parts.pop().unwrap_or_default().to_owned();
        let shared = self.open.iter().zip(&parts).take_while(|(dir, part)| dir.part == **part);
        let shared = shared.count();
        self.close(shared, whole);
        for part in &parts[shared..] {
            self.enter(part)?;
        }
        // An object `a/` is only there to make the directory.
        if let Some(dir) = self.open.last_mut()
            && (!name.is_empty() || object.size > 0)
        {
            let ObjectMeta { size, modified, etag, .. } = object;
            dir.bytes += name.len() + etag.0.len() + 100;
            dir.objects.push((name, Node::File { size, modified, etag }));
            if dir.bytes > MOST_LISTED {
                // Too many to be kept: whoever comes here lists it anew.
                dir.path = None;
                dir.objects = Vec::new();
            }
        }
        Ok(())
    }

    fn enter(&mut self, part: &str) -> Result<(), OutOfOrder> {
        let (siblings, above) = match self.open.last_mut() {
            Some(dir) => (&mut dir.directories, dir.path.as_ref()),
            None => (&mut self.passed, Some(&self.base)),
        };
        if !siblings.insert(part.to_owned()) {
            return Err(OutOfOrder);
        }
        let path = above.zip(encode(part, false));
        let path = path.and_then(|(above, name)| above.join(name.as_bytes()).ok());
        self.open.push(Dir {
            part: part.to_owned(),
            path,
            objects: Vec::new(),
            directories: BTreeSet::new(),
            bytes: 0,
        });
        Ok(())
    }

    /// Closes all directories below the first `depth`, the innermost first.
    fn close(&mut self, depth: usize, whole: &mut Whole) {
        while self.open.len() > depth {
            let Some(Dir { path, objects, directories, .. }) = self.open.pop() else { return };
            let Some(path) = path else { continue };
            let mut draft = Draft::new();
            for (part, node) in &objects {
                if let Some(name) = encode(part, directories.contains(part)) {
                    draft.push(name.as_bytes(), node);
                }
            }
            for name in directories.iter().filter_map(|part| encode(part, false)) {
                draft.push(name.as_bytes(), &Node::Directory);
            }
            whole.push((path, draft.finish()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::object::ETag;

    fn page(keys: &[&str]) -> ListPage {
        let object = |key: &&str| ObjectMeta {
            key: (*key).to_owned(),
            size: u64::from(!key.ends_with('/')),
            modified: SystemTime::UNIX_EPOCH,
            etag: ETag("\"1\"".into()),
        };
        ListPage { objects: keys.iter().map(object).collect(), prefixes: Vec::new() }
    }

    #[allow(clippy::needless_pass_by_value)] // It is what `take` returns.
    fn told(whole: Whole) -> Vec<String> {
        let names = |listing: &Listing| {
            let names = (0..listing.len()).filter_map(|at| {
                let name = String::from_utf8(listing.name(at)?.to_vec()).ok()?;
                Some(if listing.object(at).is_none() { name + "/" } else { name })
            });
            names.collect::<Vec<_>>().join(" ")
        };
        whole.iter().map(|(path, listing)| format!("{path}: {}", names(listing))).collect()
    }

    fn flat(base: &str) -> Flat {
        let path = TreePath::parse(base).unwrap();
        Flat::new(path, if base.is_empty() { String::new() } else { format!("{base}/") })
    }

    #[test]
    fn a_directory_is_whole_when_a_key_comes_that_is_not_below_it() {
        let mut flat = flat("d");
        let first = flat.take(page(&["d/a", "d/b/1", "d/b/2/x"])).unwrap();
        assert_eq!(told(first), [""; 0]);
        let second = flat.take(page(&["d/b/3", "d/c/", "d/e/f/g/h"])).unwrap();
        assert_eq!(told(second), ["d/b/2: x", "d/b: 1 2/ 3", "d/c: "]);
        assert_eq!(told(flat.finish()), ["d/e/f/g: h", "d/e/f: g/", "d/e: f/"]);
    }

    #[test]
    fn both_orders_tell_the_same() {
        for keys in [["d/x/a-/1", "d/x/a/1", "d/x/b"], ["d/x/a/1", "d/x/a-/1", "d/x/b"]] {
            let mut flat = flat("d");
            let mut all = told(flat.take(page(&keys)).unwrap());
            all.extend(told(flat.finish()));
            all.sort();
            assert_eq!(all, ["d/x/a-: 1", "d/x/a: 1", "d/x: a/ a-/ b"]);
        }
    }

    #[test]
    fn odd_keys_are_named_as_in_any_listing() {
        let mut flat = flat("");
        let keys = ["d//x", "d/./y", "d/a", "d/a!", "d/a/b"];
        let mut all = told(flat.take(page(&keys)).unwrap());
        all.extend(told(flat.finish()));
        assert_eq!(all, ["d/%: x", "d/%2E: y", "d/a: b", "d: %/ %2E/ a/ a! a%2F"]);
    }

    #[test]
    fn a_store_that_comes_back_to_a_directory_is_found_out() {
        let mut flat = flat("d");
        flat.take(page(&["d/a/1", "d/b/1"])).unwrap();
        assert_eq!(flat.take(page(&["d/a/2"])).unwrap_err(), OutOfOrder);
    }

    proptest! {
        #[test]
        fn all_objects_below_directories_are_listed_once(
            keys in proptest::collection::btree_set("d(/[a-b]{1,2}){1,4}", 0..40),
            page_len in 1_usize..7,
        ) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let mut flat = flat("d");
            let mut all = Whole::new();
            for keys in keys.chunks(page_len) {
                all.extend(flat.take(page(keys)).unwrap());
            }
            all.extend(flat.finish());
            let objects: usize = all
                .iter()
                .map(|(_, listing)| {
                    (0..listing.len()).filter(|at| listing.object(*at).is_some()).count()
                })
                .sum();
            let expected = keys.iter().filter(|key| key.matches('/').count() > 1).count();
            prop_assert_eq!(objects, expected);
        }
    }
}
