//! A kernel's variables, in the form in which the code inside it writes and reads them.
//!
//! `python/state.py` says what is in such a directory. It is this machine's and this user's: what a
//! kernel wrote for one checkpoint stays there, so that for the next it only writes what changed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// The code that runs inside a kernel.
pub const CODE: &str = include_str!("python/state.py");

/// The file that lists the variables.
pub const LIST: &str = "state.json";

/// The directories that hold their values.
pub const VALUES: [&str; 2] = ["variables", "shared"];

/// Why a variable isn't there that the user doesn't want saved.
const EXCLUDED: &str = "excluded";

/// The file by which one process at a time has the directory.
const LOCK: &str = "lock";

/// How often it is looked whether the directory is free.
const PATIENCE: Duration = Duration::from_millis(50);

/// A variable of a notebook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The name of its type, such as `numpy.ndarray`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The length of its pickle, in bytes; none where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The lengths of an array or a table along its axes, or of a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<u64>>,
    /// The module that it is, which is imported again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    /// The file in which it is together with others that share objects with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// Why it isn't there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// What is missing in it, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts_left_out: Vec<String>,
}

/// The variables of a kernel at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct State {
    /// Each variable, in the order in which they were made.
    pub variables: Vec<Variable>,
    /// The cell that ran last, or that runs now.
    pub execution: Execution,
}

/// A run of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// Its number in the kernel.
    pub count: u64,
    /// The id of the cell, where the frontend tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
}

impl State {
    /// Reads the list of variables from the bytes of its file.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::new(ErrorKind::Damaged, "the list of the kernel's variables can't be read")
                .with_source(error)
        })
    }

    /// Those that aren't there, without those that the user excluded.
    pub fn not_serialized(&self) -> impl Iterator<Item = (&str, &str)> {
        let left_out = self
            .variables
            .iter()
            .filter_map(|variable| Some((variable.name.as_str(), variable.left_out.as_deref()?)));
        left_out.filter(|(_, reason)| *reason != EXCLUDED)
    }
}

/// Where a kernel's variables are written and read.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Held as long as nobody else may write there; none where our caller holds it.
    _lock: Option<File>,
}

impl Directory {
    /// Takes the directory of the kernel with this id, below `parent`, for this process alone.
    ///
    /// Directories of kernels that ended are removed.
    ///
    /// # Errors
    /// `ResourceBusy` when another process has it beyond `deadline`.
    pub fn take(parent: &Path, id: &str, deadline: Duration) -> Result<Self> {
        let path = parent.join(id);
        let unmade = || format!("{} can't be made", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&path).context(unmade)?;
        sweep(parent, &path);
        let lock = open_lock(&path).context(unmade)?;
        let until = Instant::now() + deadline;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(error).context(unmade);
            }
            if Instant::now() >= until {
                let message = format!("another checkpoint of kernel {id} is being saved");
                return Err(Error::new(ErrorKind::ResourceBusy, message)
                    .with_hint("try again when it is done"));
            }
            std::thread::sleep(PATIENCE);
        }
        Ok(Self { path, _lock: Some(lock) })
    }

    /// The directory of the kernel that started this process and has it for itself.
    pub fn of_caller(path: PathBuf) -> Self {
        Self { path, _lock: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The list of variables, as it is written.
    ///
    /// # Errors
    /// `NotFound` when the kernel wrote none.
    pub fn list(&self) -> Result<Vec<u8>> {
        fs::read(self.path.join(LIST)).context(|| "the kernel saved no variables".to_owned())
    }
}

fn open_lock(dir: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))
}

/// Removes the directories of kernels that ended.
///
/// One that is removed though its kernel lives, in another container for instance, is written anew.
fn sweep(parent: &Path, own: &Path) {
    #[derive(Deserialize)]
    struct Owner {
        pid: u32,
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let dir = entry.path();
        if dir == own {
            continue;
        }
        let owner = fs::read(dir.join(LIST)).ok();
        let owner = owner.and_then(|bytes| serde_json::from_slice::<Owner>(&bytes).ok());
        // Without a list it is being written, or whoever began it has died.
        let lives = owner.is_some_and(|Owner { pid }| Path::new(&format!("/proc/{pid}")).exists());
        if lives {
            continue;
        }
        let Ok(lock) = open_lock(&dir) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // What can't be removed takes room, and no more.
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_has_a_directory() {
        let parent = tempfile::tempdir().unwrap();
        let held = Directory::take(parent.path(), "k1", Duration::ZERO).unwrap();
        let refused = Directory::take(parent.path(), "k1", Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
        Directory::take(parent.path(), "k2", Duration::ZERO).unwrap();
        drop(held);
        Directory::take(parent.path(), "k1", Duration::ZERO).unwrap();
    }

    #[test]
    fn the_directories_of_kernels_that_ended_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let write = |id: &str, pid: u32| {
            fs::create_dir(parent.path().join(id)).unwrap();
            fs::write(parent.path().join(id).join(LIST), format!("{{\"pid\": {pid}}}")).unwrap();
        };
        write("dead", u32::MAX);
        write("alive", std::process::id());
        let dead_but_held = Directory::take(parent.path(), "held", Duration::ZERO).unwrap();
        Directory::take(parent.path(), "own", Duration::ZERO).unwrap();
        assert!(!parent.path().join("dead").exists());
        assert!(parent.path().join("alive").exists() && dead_but_held.path().exists());
    }
}
