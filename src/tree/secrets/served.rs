//! Which versions of environment files were read here, to tell a change of an old one.
//!
//! `sops set` reads a file, and opens it once more to write it. What somebody else changes between
//! the two, it would undo without knowing: the version that it opened to write isn't the one that
//! it has changed. But what it writes tells, since it leaves the lines alone that it doesn't change.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Body, attr_of};
use crate::catalog::Environment;

/// How many versions of a file are remembered.
const MOST: usize = 8;

/// How many lines of all versions are remembered, which take some megabytes: ten files of the
/// largest kind, in some versions each.
const MOST_LINES: usize = 100_000;

/// For how long; who edits for longer than that is on his own.
const MEMORY: Duration = Duration::from_mins(10);

/// The lines of a file but its metadata: a hash by name, the whole line for a comment's.
type Lines = BTreeMap<String, u64>;

/// What was read lately.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Guards the versions of all files, in the order in which they were read.
    versions: Mutex<VecDeque<Version>>,
}

#[derive(Debug)]
struct Version {
    /// The id of the resource.
    of: String,
    generation: i64,
    /// The file, as long as somebody has it open.
    body: Weak<Body>,
    read: Instant,
    lines: Lines,
}

impl Served {
    /// Notes that a version is read, and gives it to be read: the same one to all who have it open.
    pub(super) fn note(&self, environment: Environment) -> Arc<Body> {
        let (id, generation) =
            (environment.resource.id.as_str().to_owned(), environment.generation);
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = versions.iter().position(|old| old.of == id && old.generation == generation);
        let known = known.and_then(|at| versions.remove(at));
        let (body, lines) = match known.map(|known| (known.body.upgrade(), known.lines)) {
            Some((Some(body), lines)) => (body, lines),
            other => {
                let lines = other.map_or_else(|| lines(&environment.body), |(_, lines)| lines);
                let attr = attr_of(&environment);
                (Arc::new(Body { attr, bytes: environment.body.into() }), lines)
            }
        };
        let read = Instant::now();
        let version = Version { of: id, generation, body: Arc::downgrade(&body), read, lines };
        remember(&mut versions, version);
        body
    }

    /// Whether `changed` was made from an older version than `present`: it differs from that one
    /// in less, and in something.
    pub(super) fn is_outdated(&self, present: &Environment, changed: &[u8]) -> bool {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = lines(changed);
        let least = differences(&lines(&present.body), &changed);
        versions
            .iter()
            .filter(|old| {
                old.of == present.resource.id.as_str() && old.generation < present.generation
            })
            .filter(|old| old.read.elapsed() < MEMORY)
            .any(|old| (1..least).contains(&differences(&old.lines, &changed)))
    }
}

/// Puts a version behind the others, and forgets the oldest where there are too many.
fn remember(versions: &mut VecDeque<Version>, version: Version) {
    versions.retain(|old| old.read.elapsed() < MEMORY);
    let of_it = versions.iter().filter(|old| old.of == version.of).count();
    if of_it >= MOST
        && let Some(oldest) = versions.iter().position(|old| old.of == version.of)
    {
        versions.remove(oldest);
    }
    versions.push_back(version);
    let mut count: usize = versions.iter().map(|old| old.lines.len()).sum();
    while count > MOST_LINES
        && versions.len() > 1
        && let Some(oldest) = versions.pop_front()
    {
        count -= oldest.lines.len();
    }
}

fn lines(body: &[u8]) -> Lines {
    let text = String::from_utf8_lossy(body);
    let data = text.lines().filter(|line| !line.is_empty() && !line.starts_with("sops_"));
    data.map(|line| {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        (name.to_owned(), hasher.finish())
    })
    .collect()
}

/// In how many lines two files differ.
fn differences(one: &Lines, other: &Lines) -> usize {
    let changed = one.iter().filter(|(name, hash)| other.get(*name) != Some(hash)).count();
    changed + other.keys().filter(|name| !one.contains_key(*name)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(old: &str, present: &str, changed: &str) -> bool {
        let (old, present) = (lines(old.as_bytes()), lines(present.as_bytes()));
        let changed = lines(changed.as_bytes());
        (1..differences(&present, &changed)).contains(&differences(&old, &changed))
    }

    fn version(of: &str, generation: i64, count: usize) -> Version {
        let lines = (0..count).map(|number| (number.to_string(), 0)).collect();
        Version { of: of.to_owned(), generation, body: Weak::new(), read: Instant::now(), lines }
    }

    #[test]
    fn only_so_much_is_remembered_and_the_newest_stays() {
        let mut versions = VecDeque::new();
        for generation in 0..20 {
            remember(&mut versions, version("a", generation, 10));
            remember(&mut versions, version("b", generation, 10));
        }
        assert_eq!(versions.len(), 2 * MOST);
        assert!(versions.iter().all(|version| version.generation >= 12));
        remember(&mut versions, version("c", 1, MOST_LINES - 25));
        assert_eq!(versions.len(), 3);
        remember(&mut versions, version("d", 1, MOST_LINES + 1));
        assert_eq!((versions.len(), versions[0].lines.len()), (1, MOST_LINES + 1));
    }

    #[test]
    fn a_change_of_an_old_version_is_told_from_one_of_the_present() {
        for (old, present, changed) in [
            ("A=1", "A=1\nB=1", "A=1\nC=1"),
            ("A=1\nB=1", "A=2\nB=1", "A=1\nB=2"),
            ("A=1\nB=1", "A=1\nB=1\nC=1", "A=1"),
            ("A=1\nB=1", "A=1", "A=1\nB=1\nC=1"),
            ("A=1\nB=1", "A=1\nB=1\nC=1", "A=7\nB=7"),
        ] {
            assert!(found(old, present, changed), "{old:?} {present:?} {changed:?}");
        }
        for (old, present, changed) in [
            ("A=1", "A=1\nB=1", "A=1\nB=1\nC=1"),
            ("A=1", "A=1\nB=1", "A=1"),
            ("A=1", "A=2", "A=3"),
            ("A=1", "A=1\nB=1", "A=7\nB=7"),
            ("A=1", "A=1\nB=1\nC=1", "A=1\nC=1"),
        ] {
            assert!(!found(old, present, changed), "{old:?} {present:?} {changed:?}");
        }
    }
}
