//! Writes a version into an empty directory, as plain files.
//!
//! While it does, the directory holds another one with the version's name, in which files are until
//! they are whole. So an export that was interrupted is known, and the next one goes on with it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::read::Version;
use super::restore::{Restore, Restored, Restoring};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::path::TreePath;

/// What the directory in which unfinished files are is called, with the version's id behind it.
const UNFINISHED: &str = ".atelier-export-";

/// Writes all files, directories and links of a version into the directory `into`, with their
/// modes and times. It is made if it isn't there, and has to be empty otherwise, or left by an
/// export of the same version that didn't come to its end.
///
/// # Errors
/// `DirectoryNotEmpty`; `ResourceBusy` while another export fills it; `StorageFull` and others of
/// the file system; `Damaged`. What was written until then stays.
pub async fn export(version: &Version, into: &Path, progress: Arc<Restoring>) -> Result<Restored> {
    let (version, into) = (version.clone(), into.to_owned());
    let work = move || {
        let scratch = into.join(format!("{UNFINISHED}{}", version.id()));
        let _lock = prepare(&into, &scratch)?;
        let restore = Restore::new(version, progress).with_scratch(scratch.clone());
        let done = restore.run(&TreePath::root(), &into)?;
        fs::remove_dir_all(&scratch)
            .context(|| format!("{} can't be removed", scratch.display()))?;
        Ok(done)
    };
    let done = spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Io, "an export was stopped").with_source(error))?
}

/// Makes sure that the directory may be filled; nobody else fills it while the lock is held.
fn prepare(into: &Path, scratch: &PathBuf) -> Result<File> {
    let shown = into.display();
    fs::create_dir_all(into).context(|| format!("directory {shown} can't be made"))?;
    let mut entries =
        fs::read_dir(into).context(|| format!("directory {shown} can't be listed"))?;
    let begun = scratch.is_dir();
    if !begun && entries.next().is_some() {
        return Err(Error::new(ErrorKind::DirectoryNotEmpty, format!("{shown} isn't empty"))
            .with_hint("name a directory that is empty, or that isn't there yet"));
    }
    let unprepared = || format!("{} can't be made", scratch.display());
    match fs::create_dir(scratch) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.context(unprepared)?,
    }
    let lock = File::open(scratch).context(unprepared)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("another export is filling {shown}");
            return Err(Error::new(ErrorKind::ResourceBusy, message));
        }
        Err(TryLockError::Error(error)) => return Err(error).context(unprepared),
    }
    for left in fs::read_dir(scratch).context(unprepared)? {
        let left = left.context(unprepared)?.path();
        fs::remove_file(&left).context(|| format!("{} can't be removed", left.display()))?;
    }
    Ok(lock)
}
