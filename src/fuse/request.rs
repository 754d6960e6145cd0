//! The numbers in a request, in the words of a tree.

use fuser::{OpenAccMode, OpenFlags, RenameFlags, TimeOrNow};
use rustix::fs::{OFlags, XattrFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::tree::{FileType, OpenMode, RenameMode, SeekTo, SetTime, XattrMode};

/// The `whence` of `lseek(2)` for the next data and the next hole.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// What `open(2)` was asked for.
pub(super) fn open_mode(flags: OpenFlags) -> OpenMode {
    let access = flags.acc_mode();
    let flags = open_flags(flags.0);
    OpenMode {
        read: access != OpenAccMode::O_WRONLY,
        write: access != OpenAccMode::O_RDONLY,
        append: access != OpenAccMode::O_RDONLY && flags.contains(OFlags::APPEND),
        truncate: flags.contains(OFlags::TRUNC),
    }
}

/// Whether a file must be new.
pub(super) fn is_exclusive(flags: i32) -> bool {
    open_flags(flags).contains(OFlags::EXCL)
}

/// The type of a node that `mknod(2)` makes.
pub(super) fn file_type(mode: u32) -> Result<FileType> {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::RegularFile => Ok(FileType::File),
        rustix::fs::FileType::Fifo => Ok(FileType::Fifo),
        rustix::fs::FileType::Socket => Ok(FileType::Socket),
        rustix::fs::FileType::CharacterDevice => Ok(FileType::CharDevice),
        rustix::fs::FileType::BlockDevice => Ok(FileType::BlockDevice),
        _ => Err(invalid(format!("a node of mode {mode:o} can't be made"))),
    }
}

/// What `renameat2(2)` was asked for.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(invalid(format!("rename flags {flags} aren't known")))
    }
}

/// What `setxattr(2)` was asked for.
pub(super) fn xattr_mode(flags: i32) -> XattrMode {
    let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
    if flags.contains(XattrFlags::CREATE) {
        XattrMode::Create
    } else if flags.contains(XattrFlags::REPLACE) {
        XattrMode::Replace
    } else {
        XattrMode::Any
    }
}

/// What `lseek(2)` was asked for; the kernel keeps the position itself.
pub(super) fn seek_to(offset: i64, whence: i32) -> Result<(u64, SeekTo)> {
    let to = match whence {
        SEEK_DATA => SeekTo::Data,
        SEEK_HOLE => SeekTo::Hole,
        _ => return Err(invalid(format!("whence {whence} isn't known"))),
    };
    let offset = u64::try_from(offset).map_err(|_| {
        Error::new(ErrorKind::NoSuchAddress, format!("offset {offset} is before the file"))
    })?;
    Ok((offset, to))
}

/// A time of `utimensat(2)`.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time),
    }
}

fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_say_what_will_be_done() {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::TRUNC;
        let mode = open_mode(OpenFlags(flags.bits().cast_signed()));
        assert_eq!(mode, OpenMode { read: false, write: true, append: true, truncate: true });
        assert_eq!(open_mode(OpenFlags(0)), OpenMode::READ);
    }

    #[test]
    fn a_whiteout_is_refused() {
        assert!(rename_mode(RenameFlags::RENAME_WHITEOUT).is_err());
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE).unwrap(), RenameMode::Exchange);
    }
}
