//! The directory to mount on.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::table;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::fuse::{self, Unmount, mounts};

/// Checks that a directory can be mounted on, and takes away a mount there whose process died.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `DirectoryNotEmpty`; `ResourceBusy` when a project is mounted there.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf> {
    let place = mounts::absolute(dir).map_err(|error| missing(dir, error))?;
    // Several dead mounts may lie on each other, one a crash.
    while let Some(mounted) = mounts::at(&place)?.filter(mounts::Mounted::is_ours)
        && is_dead(&place)
    {
        fuse::unmount(&mounted, Unmount::Lazily)?;
        table::say(format!("took away a mount on {} whose process had died", place.display()));
    }
    let shown = place.display();
    if let Some(mounted) = mounts::at(&place)?.filter(mounts::Mounted::is_ours) {
        let message = format!("{} is mounted on {shown} already", mounted.source);
        return Err(Error::new(ErrorKind::ResourceBusy, message)
            .with_hint(format!("`atelier unmount {}` takes it away", shell_word(&place))));
    }
    let metadata = fs::metadata(&place).context(|| format!("{shown} can't be looked at"));
    if !metadata.map_err(|error| missing(dir, error))?.is_dir() {
        return Err(Error::new(ErrorKind::NotADirectory, format!("{shown} isn't a directory"))
            .with_hint("a project is mounted on an empty directory"));
    }
    let mut entries = fs::read_dir(&place).context(|| format!("{shown} can't be listed"))?;
    if entries.next().is_some() {
        return Err(Error::new(ErrorKind::DirectoryNotEmpty, format!("{shown} isn't empty"))
            .with_hint("choose an empty directory, since a mount hides what is below it"));
    }
    Ok(place)
}

/// Whether what is mounted there has nobody who answers.
///
/// `stat` wouldn't tell: for as long as they may be cached, the kernel knows the attributes.
pub(in crate::cli) fn is_dead(place: &Path) -> bool {
    rustix::fs::statfs(place).is_err_and(|errno| errno == Errno::NOTCONN)
}

fn missing(dir: &Path, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let shown = dir.display();
    Error::new(ErrorKind::NotFound, format!("there is no directory {shown} to mount on"))
        .with_hint(format!("make it with `mkdir -p {}`", shell_word(dir)))
}

/// A path as it can be typed in a shell.
pub(in crate::cli) fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_typed() {
        assert_eq!(shell_word(Path::new("/mnt/a-b")), "/mnt/a-b");
        assert_eq!(shell_word(Path::new("/mnt/my cat's")), r"'/mnt/my cat'\''s'");
    }

    #[test]
    fn only_an_empty_directory_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |name: &str| prepare(&dir.path().join(name)).unwrap_err().kind();
        fs::create_dir_all(dir.path().join("full/inside")).unwrap();
        fs::create_dir(dir.path().join("an empty one")).unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        assert_eq!(kind("none"), ErrorKind::NotFound);
        assert_eq!(kind("none/deeper"), ErrorKind::NotFound);
        assert_eq!(kind("file"), ErrorKind::NotADirectory);
        assert_eq!(kind("full"), ErrorKind::DirectoryNotEmpty);
        assert!(prepare(&dir.path().join("an empty one")).is_ok());
        std::os::unix::fs::symlink("an empty one", dir.path().join("link")).unwrap();
        let resolved = prepare(&dir.path().join("link")).unwrap();
        assert_eq!(resolved.file_name().unwrap(), "an empty one");
    }
}
