//! What is mounted where, as this process sees it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::error::{IoContext as _, Result};

/// The type of our mounts, as `/proc/mounts` and `findmnt -t` have it.
pub const FILE_SYSTEM: &str = "fuse.atelier";

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The number of the mount; no other one of now has it, not even of the same file system.
    pub id: u64,
    /// The device number, `major:minor`; no other mounted file system has it.
    pub device: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its type, such as `ext4`.
    pub file_system: String,
    /// What is mounted: here the project.
    pub source: String,
    /// Whether nothing can be written through it.
    pub is_read_only: bool,
}

impl Mounted {
    /// Whether it is one of ours.
    pub fn is_ours(&self) -> bool {
        self.file_system == FILE_SYSTEM
    }

    /// Whether it serves a directory of the project that `outer` shows.
    fn is_inside(&self, outer: &Mounted) -> bool {
        self.is_ours()
            && outer.is_ours()
            && self.source == outer.source
            && self.mount_point.parent() == Some(&outer.mount_point)
    }
}

/// All mounts, in the order in which they were made.
///
/// It asks none of them, so a dead one does no harm.
pub fn all() -> Result<Vec<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")
        .context(|| "the table of mounts, /proc/self/mountinfo, can't be read".to_owned())?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// What is mounted at exactly this absolute path; of several the one that is seen.
pub fn at(mount_point: &Path) -> Result<Option<Mounted>> {
    Ok(all()?.into_iter().rev().find(|mounted| mounted.mount_point == mount_point))
}

/// The mounts of a project's directories inside its mount at this absolute path.
pub fn inside(mount_point: &Path) -> Result<Vec<Mounted>> {
    let Some(outer) = at(mount_point)?.filter(Mounted::is_ours) else { return Ok(Vec::new()) };
    let mut inside = all()?;
    inside.retain(|one| one.is_inside(&outer));
    Ok(inside)
}

/// Our mount that the one at this absolute path is a part of, if it is.
pub fn around(mount_point: &Path) -> Result<Option<Mounted>> {
    let all = all()?;
    let Some(part) = all.iter().rev().find(|one| one.mount_point == mount_point) else {
        return Ok(None);
    };
    Ok(all.iter().rev().find(|outer| part.is_inside(outer)).cloned())
}

/// Reads a line, see `proc_pid_mountinfo(5)`:
/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let device = fields.nth(1)?;
    let mount_point = fields.nth(1)?;
    let options = fields.next()?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let file_system = rest.next()?;
    let source = rest.next()?;
    Some(Mounted {
        id,
        device: text(device),
        mount_point: PathBuf::from(OsString::from_vec(unescape(mount_point))),
        file_system: text(file_system),
        source: text(&unescape(source)),
        is_read_only: options.split(|byte| *byte == b',').any(|option| option == b"ro"),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Undoes `\040` and the like, by which the kernel writes space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

/// Makes a path absolute without asking what is mounted there: only its directory is resolved.
///
/// # Errors
/// `NotFound` when the directory it is in isn't there.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)
        .context(|| format!("{} can't be made an absolute path", path.display()))?;
    // `a/..` names what `a` links to, so only the system can resolve it. Whether the last name is a
    // link is found by reading it: `lstat` would ask what is mounted there, which may hang.
    let ends_plainly = !path.as_os_str().as_bytes().ends_with(b"..");
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if ends_plainly && path.read_link().is_err() => {
            let parent =
                parent.canonicalize().context(|| format!("{} isn't there", parent.display()))?;
            Ok(parent.join(name))
        }
        _ => path.canonicalize().context(|| format!("{} isn't there", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
            prop_assert!(unescape(&line).len() <= line.len());
        }
    }

    #[test]
    fn a_line_tells_device_place_type_and_source() {
        let line = b"36 35 0:98 / /mnt/my\\040cats rw,nosuid shared:1 - fuse.atelier o/c/p rw";
        let mounted = parse(line).unwrap();
        assert_eq!(mounted.device, "0:98");
        assert_eq!(mounted.mount_point, Path::new("/mnt/my cats"));
        assert_eq!(mounted.source, "o/c/p");
        assert!(mounted.is_ours() && !mounted.is_read_only);
        let line = b"36 35 0:98 / /mnt nosuid,ro,relatime - fuse.atelier o/c/p rw";
        assert!(parse(line).unwrap().is_read_only);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn only_octal_escapes_are_undone() {
        assert_eq!(unescape(b"a\\134b\\x\\04"), b"a\\b\\x\\04");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(at(Path::new("/")).unwrap().is_some());
    }
}
