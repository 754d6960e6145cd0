//! Which errno each kind of error is for the kernel.

use fuser::Errno;

use crate::error::ErrorKind;

/// The errno of a kind, see `errno(3)`.
///
/// Never `ENOSYS`: the kernel may take that as an answer for ever.
pub(super) fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::PermissionDenied
        | ErrorKind::MacMismatch
        | ErrorKind::DecryptFailed
        | ErrorKind::NoIdentity => Errno::EACCES,
        ErrorKind::NotPermitted => Errno::EPERM,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::InvalidInput => Errno::EINVAL,
        ErrorKind::ReadOnlyFilesystem => Errno::EROFS,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::DirectoryNotEmpty => Errno::ENOTEMPTY,
        ErrorKind::StorageFull => Errno::ENOSPC,
        ErrorKind::ResourceBusy => Errno::EBUSY,
        ErrorKind::StaleHandle => Errno::ESTALE,
        ErrorKind::TimedOut => Errno::ETIMEDOUT,
        ErrorKind::CrossesDevices => Errno::EXDEV,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::NameTooLong => Errno::ENAMETOOLONG,
        ErrorKind::FilesystemLoop => Errno::ELOOP,
        ErrorKind::TooManyLinks => Errno::EMLINK,
        ErrorKind::FileTooLarge => Errno::EFBIG,
        ErrorKind::ExecutableFileBusy => Errno::ETXTBSY,
        ErrorKind::NoAttribute => Errno::ENODATA,
        ErrorKind::OutOfRange => Errno::ERANGE,
        ErrorKind::NoSuchAddress => Errno::ENXIO,
        ErrorKind::BadDescriptor => Errno::EBADF,
        ErrorKind::TooManyOpenFiles => Errno::EMFILE,
        ErrorKind::Interrupted => Errno::EINTR,
        ErrorKind::WouldBlock => Errno::EAGAIN,
        ErrorKind::Damaged | ErrorKind::Io => Errno::EIO,
    }
}
