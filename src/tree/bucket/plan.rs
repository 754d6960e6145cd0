//! What to list ahead of a walk: which of a directory's subtrees next, and how many by one request.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::listing::Listing;
use crate::object::names::decode;
use crate::path::TreePath;

/// How many keys one flat listing ahead shall bring: few enough to be there soon, so many that its
/// last page, which isn't full, doesn't count.
const KEYS: usize = 4000;

/// The subtrees of a directory that a walk is still to come to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) dir: TreePath,
    /// What all keys below the directory begin with.
    prefix: String,
    listing: Arc<Listing>,
    /// How many of the entries before each are directories.
    directories: Vec<u32>,
    /// The positions of those that are to be listed.
    left: BTreeSet<usize>,
}

/// One listing to make ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// The directory it is in, and what all keys below that begin with.
    pub(super) dir: TreePath,
    pub(super) base: String,
    /// What the keys to list begin with.
    pub(super) prefix: String,
    /// What the names in `dir` begin with that it covers, or the one name.
    pub(super) names: Names,
    /// Whether everything below is listed, or only the directory itself.
    pub(super) all: bool,
}

/// Names in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// All that begin so.
    Beginning(Vec<u8>),
    /// This one.
    One(Vec<u8>),
}

impl Names {
    fn cover(&self, name: &[u8]) -> bool {
        match self {
            Self::Beginning(beginning) => name.starts_with(beginning),
            Self::One(one) => name == one,
        }
    }
}

impl Unit {
    /// Whether the listing tells what is in `path`.
    pub(super) fn covers(&self, path: &TreePath) -> bool {
        let below = if self.dir.is_root() {
            path.as_bytes()
        } else {
            let rest = path.as_bytes().strip_prefix(self.dir.as_bytes());
            let Some(rest) = rest.and_then(|rest| rest.strip_prefix(b"/")) else { return false };
            rest
        };
        let mut names = below.splitn(2, |byte| *byte == b'/');
        let first = names.next().unwrap_or_default();
        !first.is_empty() && self.names.cover(first) && (self.all || names.next().is_none())
    }
}

impl Plan {
    /// A plan for the subdirectories of `dir` that aren't `known`; `None` where there are none.
    pub(super) fn new(
        dir: TreePath,
        prefix: String,
        listing: Arc<Listing>,
        known: impl Fn(&[u8]) -> bool,
    ) -> Option<Self> {
        let mut directories = Vec::with_capacity(listing.len() + 1);
        let mut left = BTreeSet::new();
        let mut count = 0;
        for at in 0..listing.len() {
            directories.push(count);
            if listing.object(at).is_none() {
                count += 1;
                if listing.name(at).is_some_and(|name| !known(&name)) {
                    left.insert(at);
                }
            }
        }
        directories.push(count);
        (!left.is_empty()).then_some(Self { dir, prefix, listing, directories, left })
    }

    /// Whether nothing is left to list.
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Whether a subdirectory is left to list.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.listing.position(name).is_ok_and(|at| self.left.contains(&at))
    }

    /// A walk lists a subdirectory itself.
    pub(super) fn pass(&mut self, name: &[u8]) {
        if let Ok(at) = self.listing.position(name) {
            self.left.remove(&at);
        }
    }

    /// The next listing: from the first subdirectory on, or from `name`, where each is expected to
    /// have `below` keys.
    pub(super) fn next(&mut self, from: Option<&[u8]>, below: usize) -> Option<Unit> {
        let from = match from {
            Some(name) => self.listing.position(name).ok()?,
            None => 0,
        };
        let at = *self.left.range(from..).next()?;
        let name = self.listing.name(at)?;
        let (part, _) = decode(&name)?;
        let all = below <= KEYS;
        // The shortest beginning that doesn't bring too much at once.
        let short = (0..=name.len()).find_map(|len| {
            let beginning = part.get(..len).filter(|_| part.as_bytes() == name)?;
            let range = self.range(beginning.as_bytes());
            let directories = self.directories[range.end] - self.directories[range.start];
            let keys = range.len() + directories as usize * below;
            (all && keys <= KEYS && directories > 1).then_some((beginning.to_owned(), range))
        });
        let (names, prefix, range) = match short {
            Some((text, range)) => {
                (Names::Beginning(text.clone().into()), format!("{}{text}", self.prefix), range)
            }
            None => (Names::One(name.to_vec()), format!("{}{part}/", self.prefix), at..at + 1),
        };
        self.left.retain(|at| !range.contains(at));
        Some(Unit { dir: self.dir.clone(), base: self.prefix.clone(), prefix, names, all })
    }

    /// Where the names are that begin so.
    fn range(&self, beginning: &[u8]) -> Range<usize> {
        let start = self.listing.position(beginning).unwrap_or_else(|at| at);
        // No name is text with this byte in it, so that it is behind all that begin so.
        let end = self.listing.position(&[beginning, b"\xff"].concat()).unwrap_or_else(|at| at);
        start..end
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::known::Node;
    use super::super::listing::Draft;
    use super::*;
    use crate::object::ETag;

    fn plan(files: &[String], dirs: &[String]) -> Plan {
        let mut draft = Draft::new();
        let file = Node::File { size: 1, modified: SystemTime::UNIX_EPOCH, etag: ETag("1".into()) };
        files.iter().for_each(|name| draft.push(name.as_bytes(), &file));
        dirs.iter().for_each(|name| draft.push(name.as_bytes(), &Node::Directory));
        let dir = TreePath::parse("d").unwrap();
        Plan::new(dir, "d/".into(), Arc::new(draft.finish()), |_| false).unwrap()
    }

    fn numbered(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{n:03}")).collect()
    }

    fn prefixes(plan: &mut Plan, below: usize) -> Vec<String> {
        std::iter::from_fn(|| plan.next(None, below)).map(|unit| unit.prefix).collect()
    }

    #[test]
    fn small_subtrees_are_listed_together() {
        assert_eq!(prefixes(&mut plan(&[], &numbered(100)), 10), ["d/"]);
        let tens: Vec<_> = (0..10).map(|n| format!("d/{n}")).collect();
        assert_eq!(prefixes(&mut plan(&[], &numbered(1000)), 30), tens);
    }

    #[test]
    fn large_subtrees_are_listed_each() {
        assert_eq!(prefixes(&mut plan(&[], &numbered(3)), 3000), ["d/000/", "d/001/", "d/002/"]);
        let deep = plan(&[], &numbered(3)).next(None, 1_000_000).unwrap();
        assert!(!deep.all);
    }

    #[test]
    fn files_beside_subtrees_are_not_listed_again() {
        let dirs = ["x".to_owned(), "y".to_owned()];
        assert_eq!(prefixes(&mut plan(&numbered(50_000), &dirs), 10), ["d/x/", "d/y/"]);
        assert_eq!(prefixes(&mut plan(&numbered(50), &dirs), 10), ["d/"]);
    }

    #[test]
    fn a_name_with_a_code_is_listed_by_its_key() {
        let mut plan = plan(&[], &["%2E".to_owned(), "%".to_owned()]);
        assert_eq!(prefixes(&mut plan, 5000), ["d//", "d/./"]);
    }

    #[test]
    fn what_a_walk_lists_itself_is_left_out() {
        let mut plan = plan(&[], &numbered(3));
        plan.pass(b"001");
        assert!(plan.has(b"000") && !plan.has(b"001") && !plan.has(b"absent"));
        assert_eq!(prefixes(&mut plan, 3000), ["d/000/", "d/002/"]);
    }

    #[test]
    fn a_walk_may_come_to_any_directory_first() {
        let mut plan = plan(&[], &numbered(20));
        let unit = plan.next(Some(b"007"), 2000).unwrap();
        assert_eq!(unit.prefix, "d/007/");
        let path = |text: &str| TreePath::parse(text).unwrap();
        assert!(unit.covers(&path("d/007")) && unit.covers(&path("d/007/x")));
        assert!(!unit.covers(&path("d/0071")) && !unit.covers(&path("d")));
        assert!(!plan.is_done());
        assert_eq!(prefixes(&mut plan, 2000).len(), 19);
        assert!(plan.is_done());
    }
}
