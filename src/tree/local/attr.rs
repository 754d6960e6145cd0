//! Attributes of local files, from `statx(2)` and to the calls that change them.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, makedev,
};
use rustix::io::{Errno, Result};

use crate::tree::{Attr, FileType, Identity, Owner, SetAttr, SetTime};

/// How long the kernel may keep what it was told of a file: only the mount changes it, so that is
/// for what is changed behind the mount, and for times that writing through a map changes.
const SETTLED: Duration = Duration::from_secs(10);

/// The same for what just changed, which is likely to change again, and for names that aren't
/// there, which others are likely to be made behind the mount.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// For how long something counts as just changed.
const JUST: Duration = Duration::from_secs(2);

/// The attributes of a name in a directory; a symbolic link isn't followed.
pub(super) fn attr_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Attr> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS).map(|stat| attr_from(&stat))
}

/// The attributes of what a descriptor stands for, `O_PATH` ones included.
pub(super) fn attr_of(fd: BorrowedFd<'_>) -> Result<Attr> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map(|stat| attr_from(&stat))
}

/// A path to what a descriptor stands for, for calls that take no `O_PATH` descriptor.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Applies changes in the order in which none undoes another, and tells the outcome.
///
/// A new length needs the old permissions and touches the times; a new owner clears set-id bits,
/// which a new mode may set again.
pub(super) fn change(
    fd: BorrowedFd<'_>,
    changes: SetAttr,
    truncate: impl FnOnce(u64) -> Result<()>,
) -> Result<Attr> {
    if changes.mode.is_some() && attr_of(fd)?.file_type == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    if let Some(len) = changes.size {
        truncate(len)?;
    }
    if changes.uid.is_some() || changes.gid.is_some() {
        set_owner(fd, changes.uid, changes.gid)?;
    }
    if let Some(mode) = changes.mode {
        set_mode(fd, mode)?;
    }
    if changes.atime.is_some() || changes.mtime.is_some() {
        let times = Timestamps {
            last_access: timespec(changes.atime),
            last_modification: timespec(changes.mtime),
        };
        rustix::fs::utimensat(CWD, proc_path(fd), &times, AtFlags::empty())?;
    }
    attr_of(fd)
}

/// Gives a regular file behind an `O_PATH` descriptor a new length.
pub(super) fn truncate(fd: BorrowedFd<'_>, len: u64) -> Result<()> {
    match attr_of(fd)?.file_type {
        FileType::File => {}
        FileType::Directory => return Err(Errno::ISDIR),
        FileType::Symlink => return Err(Errno::LOOP),
        _ => return Err(Errno::INVAL),
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, proc_path(fd), flags, Mode::empty())?;
    rustix::fs::ftruncate(file, len)
}

pub(super) fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
}

pub(super) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    rustix::fs::chmod(proc_path(fd), Mode::from_raw_mode(mode & 0o7777))
}

fn attr_from(stat: &Statx) -> Attr {
    let mode = u32::from(stat.stx_mode);
    let ctime = time(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
    Attr {
        file_type: file_type(mode),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        mode: mode & 0o7777,
        nlink: stat.stx_nlink,
        owner: Some(Owner { uid: stat.stx_uid, gid: stat.stx_gid }),
        rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        atime: time(stat.stx_atime.tv_sec, stat.stx_atime.tv_nsec),
        mtime: time(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime,
        identity: Some(Identity {
            device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
        }),
        version: None,
        ttl: ttl(ctime),
    }
}

/// How long attributes may be kept that last changed at `ctime`.
fn ttl(ctime: SystemTime) -> Duration {
    // A time that is still to come is another clock's: nothing is known then.
    let settled = SystemTime::now().duration_since(ctime).is_ok_and(|age| age > JUST);
    if settled { SETTLED } else { FRESH }
}

fn file_type(mode: u32) -> FileType {
    use rustix::fs::FileType as Kind;
    match Kind::from_raw_mode(mode) {
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::RegularFile | Kind::Unknown => FileType::File,
    }
}

/// Seconds may be negative; nanoseconds always count forward.
fn time(seconds: i64, nanos: u32) -> SystemTime {
    let nanos = Duration::from_nanos(nanos.into());
    let whole = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - whole + nanos } else { UNIX_EPOCH + whole + nanos }
}

fn timespec(set: Option<SetTime>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match set {
        None => special(UTIME_OMIT),
        Some(SetTime::Now) => special(UTIME_NOW),
        Some(SetTime::At(time)) => spec_of(time),
    }
}

fn spec_of(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timespec {
            tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since.subsec_nanos().into(),
        },
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Timespec { tv_sec: -seconds, tv_nsec: 0 },
                nanos => {
                    Timespec { tv_sec: -seconds - 1, tv_nsec: i64::from(1_000_000_000 - nanos) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_just_changed_is_believed_for_less() {
        let now = SystemTime::now();
        assert_eq!([ttl(now), ttl(now + JUST * 2), ttl(now - JUST * 2)], [FRESH, FRESH, SETTLED]);
    }

    #[test]
    fn times_before_the_epoch_survive_both_ways() {
        for (seconds, nanos) in [(0, 0), (-1, 500_000_000), (-2, 0), (1 << 40, 999_999_999)] {
            let spec = spec_of(time(seconds, nanos));
            assert_eq!((spec.tv_sec, spec.tv_nsec), (seconds, i64::from(nanos)));
        }
    }
}
