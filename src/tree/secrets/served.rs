//! Which versions of environment files were read here, to tell a change of an old one.
//!
//! `sops set` reads a file, and opens it once more to write it. What somebody else changes between
//! the two, it would undo without knowing: the version that it opened to write isn't the one that
//! it has changed. But what it writes tells, since it leaves the lines alone that it doesn't change.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::catalog::{Environment, Id};

/// How many versions of a file are remembered.
const MOST: usize = 8;

/// For how long; who edits for longer than that is on his own.
const MEMORY: Duration = Duration::from_mins(10);

/// The lines of a file but its metadata: a hash by name, the whole line for a comment's.
type Lines = BTreeMap<String, u64>;

/// What was read lately.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Guards the versions of each file, oldest first.
    versions: Mutex<HashMap<Id, VecDeque<Version>>>,
}

#[derive(Debug)]
struct Version {
    generation: i64,
    read: Instant,
    lines: Lines,
}

impl Served {
    /// Notes that a version is read.
    pub(super) fn note(&self, environment: &Environment) {
        let mut all = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = all.entry(environment.resource.id.clone()).or_default();
        versions.retain(|version| {
            version.read.elapsed() < MEMORY && version.generation != environment.generation
        });
        if versions.len() == MOST {
            versions.pop_front();
        }
        versions.push_back(Version {
            generation: environment.generation,
            read: Instant::now(),
            lines: lines(&environment.body),
        });
    }

    /// Whether `changed` was made from an older version than `present`: it differs from that one
    /// in less, and in something.
    pub(super) fn is_outdated(&self, present: &Environment, changed: &[u8]) -> bool {
        let all = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = all.get(&present.resource.id) else { return false };
        let changed = lines(changed);
        let least = differences(&lines(&present.body), &changed);
        versions
            .iter()
            .filter(|old| old.generation < present.generation && old.read.elapsed() < MEMORY)
            .any(|old| (1..least).contains(&differences(&old.lines, &changed)))
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
