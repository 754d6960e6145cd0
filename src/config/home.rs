//! Whether a home is its user's alone.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// In a directory with this bit only the owner of a name can replace it, as in `/tmp`.
const STICKY: u32 = 0o1000;

/// Refuses a home that is another user's, or that others can write or put something else in the
/// place of. One that isn't there yet is fine where nobody else can make it.
///
/// What is in it is trusted: its directories are opened by name, and links in it are followed.
///
/// # Errors
/// `PermissionDenied`.
pub(super) fn check(home: &Path) -> Result<()> {
    check_place(home)?;
    if fs::metadata(home).is_ok_and(|found| others_write(&found)) {
        let shown = home.display();
        let message = format!("the home {shown} can be written by others");
        return Err(Error::new(ErrorKind::PermissionDenied, message)
            .with_hint(format!("`chmod 700 \"{shown}\"` closes it")));
    }
    Ok(())
}

/// The same, but for who may write to the home itself: whoever makes it closes it to others.
///
/// # Errors
/// `PermissionDenied`.
pub(super) fn check_place(home: &Path) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    let shown = home.display();
    let found = match fs::metadata(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.context(|| format!("the home {shown} can't be looked at"))?),
    };
    if let Some(found) = found.as_ref().filter(|found| found.uid() != me) {
        let message = format!("the home {shown} belongs to uid {}, not to {me}", found.uid());
        return Err(Error::new(ErrorKind::PermissionDenied, message)
            .with_hint("use it as that user, or name a home of your own with --home"));
    }
    let there = home.ancestors().find(|above| above.exists()).unwrap_or(home);
    let resolved = there.canonicalize().context(|| format!("{shown} can't be resolved"))?;
    // Both as it was named and where it really is: a link on the way could be replaced, too.
    for above in home.ancestors().chain(resolved.ancestors()).skip(1) {
        if above == home || (found.is_some() && above == resolved) {
            continue;
        }
        let found = match fs::metadata(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.context(|| format!("{} can't be looked at", above.display()))?,
        };
        let foreign = found.uid() != me && found.uid() != 0;
        if foreign || others_write(&found) && found.mode() & STICKY == 0 {
            let message = format!(
                "others can put another home in the place of {shown}: they can write to {}",
                above.display()
            );
            return Err(Error::new(ErrorKind::PermissionDenied, message)
                .with_hint("choose a home in a directory that is yours alone"));
        }
    }
    Ok(())
}

/// Whether anybody but the owner and root can write. A group of the owner's number is his own, as
/// distributions make one for each user.
fn others_write(found: &Metadata) -> bool {
    let is_private = found.gid() == found.uid() || found.gid() == 0;
    found.mode() & 0o002 != 0 || found.mode() & 0o020 != 0 && !is_private
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::PathBuf;

    use super::*;

    fn made(dir: &tempfile::TempDir, name: &str, mode: u32) -> PathBuf {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refused(home: &Path) -> String {
        let error = check(home).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        error.to_string()
    }

    #[test]
    fn only_its_owner_may_write_to_a_home() {
        let dir = tempfile::tempdir().unwrap();
        check(&made(&dir, "private", 0o700)).unwrap();
        check(&made(&dir, "readable", 0o755)).unwrap();
        check(&dir.path().join("none yet")).unwrap();
        assert!(refused(&made(&dir, "open", 0o777)).contains("can be written by others"));
        check(&made(&dir, "sticky", 0o1777)).unwrap_err();
    }

    #[test]
    fn nobody_else_may_put_another_home_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        for (above, mode, is_fine) in [("shared", 0o777, false), ("sticky", 0o1777, true)] {
            let above = made(&dir, above, mode);
            fs::create_dir(above.join("home")).unwrap();
            assert_eq!(check(&above.join("home")).is_ok(), is_fine);
            assert_eq!(check(&above.join("none/yet")).is_ok(), is_fine);
        }
        let link = dir.path().join("shared/link");
        symlink(made(&dir, "target", 0o700), &link).unwrap();
        assert!(refused(&link).contains("in the place of"));
        let way = dir.path().join("way");
        symlink("shared", &way).unwrap();
        assert!(refused(&way.join("home")).contains("in the place of"));
    }
}
