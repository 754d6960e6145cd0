//! Restores what differs, where it is known what may.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::task::spawn_blocking;

use super::{Job, Rest, Restore, Restored, make_dir};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::path::TreePath;
use crate::snapshot::capture::{Changes, Depth};
use crate::snapshot::format::{Content, Entry};
use crate::snapshot::read::Version;

/// Makes the directory `into` hold what the version holds in its directory `from`, of which only
/// `changes` may differ.
///
/// # Errors
/// Those of [`restore`](super::restore).
pub async fn restore_changes(
    version: &Version,
    from: &TreePath,
    into: &Path,
    changes: Changes,
) -> Result<Restored> {
    let restore = Restore::new(version.clone(), Arc::default());
    let (from, into) = (from.clone(), into.to_owned());
    let done = spawn_blocking(move || {
        restore.run_with(&into, |jobs| restore.go_through_changes(&from, &into, &changes, jobs))
    });
    done.await
        .map_err(|error| Error::new(ErrorKind::Io, "a restore was stopped").with_source(error))?
}

impl Restore {
    fn go_through_changes(
        &self,
        from: &TreePath,
        into: &Path,
        changes: &Changes,
        jobs: &SyncSender<Job>,
    ) -> Result<Rest> {
        let mut rest = Rest::default();
        // Directories whose times change when something in them does, by path: those above first.
        let mut touched = BTreeMap::new();
        for (path, depth) in changes.iter() {
            if self.is_stopped() {
                break;
            }
            if let Some(parent) = path.parent() {
                match self.wanted(&from.join_path(&parent))? {
                    Some(entry) if entry.content == Content::Directory => {
                        touched.insert(parent, entry);
                    }
                    // What was in a directory goes with it.
                    _ => continue,
                }
            }
            let to = into.join(path.as_path());
            let Some(entry) = self.wanted(&from.join_path(path))? else {
                if std::fs::symlink_metadata(&to).is_ok() {
                    rest.surplus.push(to);
                }
                continue;
            };
            self.make_directories_above(from, into, path, &mut touched)?;
            if entry.content != Content::Directory {
                if jobs.send(Job { entry, to }).is_err() {
                    break;
                }
                continue;
            }
            let was_there = std::fs::symlink_metadata(&to).is_ok_and(|found| found.is_dir());
            make_dir(&to).context(|| format!("directory {} can't be made", to.display()))?;
            touched.insert(path.clone(), entry);
            if depth == Depth::Below || !was_there {
                let mut below = self.go_through(&from.join_path(path), &to, jobs)?;
                rest.surplus.append(&mut below.surplus);
                rest.directories.append(&mut below.directories);
            }
        }
        let touched = touched.into_iter();
        let mut directories: Vec<_> =
            touched.map(|(path, entry)| (into.join(path.as_path()), entry)).collect();
        directories.append(&mut rest.directories);
        rest.directories = directories;
        Ok(rest)
    }

    /// Makes the directories that the version has above a path.
    fn make_directories_above(
        &self,
        from: &TreePath,
        into: &Path,
        path: &TreePath,
        touched: &mut BTreeMap<TreePath, Entry>,
    ) -> Result<()> {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(directory) = above.filter(|directory| !directory.is_root()) {
            let to = into.join(directory.as_path());
            if std::fs::symlink_metadata(&to).is_ok_and(|found| found.is_dir()) {
                break;
            }
            above = directory.parent();
            missing.push((directory, to));
        }
        for (directory, to) in missing.into_iter().rev() {
            make_dir(&to).context(|| format!("directory {} can't be made", to.display()))?;
            if let Some(entry) = self.wanted(&from.join_path(&directory))? {
                touched.insert(directory, entry);
            }
        }
        Ok(())
    }

    fn wanted(&self, path: &TreePath) -> Result<Option<Entry>> {
        match self.runtime.block_on(self.version.entry(path)) {
            Ok(entry) => Ok(Some(entry)),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
