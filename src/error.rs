//! The one error type: what went wrong, said once, in words a user can act on.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is, in the words of [`std::io::ErrorKind`].
///
/// The set is closed on purpose: the errno that a mount answers and the exit code of the program
/// are chosen by exhaustive matches, so a new kind doesn't compile until both have decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such thing, or none that this user may know of.
    NotFound,
    /// The user's role, a mode bit or the remote side forbids it.
    PermissionDenied,
    /// The operation is never allowed on this object, whoever asks.
    NotPermitted,
    /// A thing of that name is there already.
    AlreadyExists,
    /// The request makes no sense; the message carries the rule.
    InvalidInput,
    /// The place can't be written to.
    ReadOnlyFilesystem,
    /// A directory was needed.
    NotADirectory,
    /// A directory was the wrong thing.
    IsADirectory,
    /// The directory still has entries.
    DirectoryNotEmpty,
    /// The disk, or the project's quota, has no room left.
    StorageFull,
    /// The thing is in use; the message says by whom.
    ResourceBusy,
    /// The object changed since it was opened, or a compare-and-set lost its race.
    StaleHandle,
    /// A deadline passed.
    TimedOut,
    /// A rename or link from one tree to another.
    CrossesDevices,
    /// This tree doesn't do that.
    Unsupported,
    /// A name or path is too long.
    NameTooLong,
    /// Too many symbolic links on the way.
    FilesystemLoop,
    /// The file has as many names as it may.
    TooManyLinks,
    /// The file would become larger than the file system allows.
    FileTooLarge,
    /// A running program can't be written.
    ExecutableFileBusy,
    /// The extended attribute isn't there.
    NoAttribute,
    /// The answer doesn't fit what the caller offered.
    OutOfRange,
    /// The position lies past the end, or the device isn't there.
    NoSuchAddress,
    /// The handle isn't open for that.
    BadDescriptor,
    /// This process has no file descriptor left.
    TooManyOpenFiles,
    /// A signal came first.
    Interrupted,
    /// Trying again later may work.
    WouldBlock,
    /// Stored bytes aren't what they were: a hash, length or format doesn't match.
    Damaged,
    /// The message authentication code of an environment file doesn't match.
    MacMismatch,
    /// An encrypted value can't be opened with this key.
    DecryptFailed,
    /// None of the user's identities opens the file.
    NoIdentity,
    /// The remote side, or a device, failed.
    Io,
}

/// An error: its kind, a message that names the object, and what lies behind it.
///
/// Messages are lower case without a full stop. The source is attached, never formatted into the
/// message.
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    lasts: Duration,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error with a message that names the object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, lasts: Duration::ZERO, source: None }
    }

    /// Makes an error of an [`io::Error`], whose errno decides the kind.
    pub fn io(source: io::Error, message: impl Into<String>) -> Self {
        Self::new(kind_of(&source), message).with_source(source)
    }

    /// Attaches what lies behind the error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Attaches what the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says that the answer `NotFound` may be believed for so long.
    #[must_use]
    pub fn lasting(mut self, ttl: Duration) -> Self {
        self.lasts = ttl;
        self
    }

    /// How long the answer may be believed; zero unless it was said.
    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    /// The kind, which decides errno and exit code.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the user can do about it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind, format!("{kind:?}"))
    }
}

/// Names the object an [`io::Error`] is about.
pub trait IoContext<T> {
    /// Turns the error into an [`Error`] with this message; the message is made only on failure.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::io(error.into(), message()))
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    use rustix::io::Errno;
    let Some(errno) = error.raw_os_error().map(Errno::from_raw_os_error) else {
        return kind_without_errno(error.kind());
    };
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::ACCESS => ErrorKind::PermissionDenied,
        Errno::PERM => ErrorKind::NotPermitted,
        Errno::EXIST => ErrorKind::AlreadyExists,
        Errno::INVAL => ErrorKind::InvalidInput,
        Errno::ROFS => ErrorKind::ReadOnlyFilesystem,
        Errno::NOTDIR => ErrorKind::NotADirectory,
        Errno::ISDIR => ErrorKind::IsADirectory,
        Errno::NOTEMPTY => ErrorKind::DirectoryNotEmpty,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::StorageFull,
        Errno::BUSY => ErrorKind::ResourceBusy,
        Errno::STALE => ErrorKind::StaleHandle,
        Errno::TIMEDOUT => ErrorKind::TimedOut,
        Errno::XDEV => ErrorKind::CrossesDevices,
        Errno::OPNOTSUPP | Errno::NOSYS => ErrorKind::Unsupported,
        Errno::NAMETOOLONG => ErrorKind::NameTooLong,
        Errno::LOOP => ErrorKind::FilesystemLoop,
        Errno::MLINK => ErrorKind::TooManyLinks,
        Errno::FBIG => ErrorKind::FileTooLarge,
        Errno::TXTBSY => ErrorKind::ExecutableFileBusy,
        Errno::NODATA => ErrorKind::NoAttribute,
        Errno::RANGE | Errno::OVERFLOW => ErrorKind::OutOfRange,
        Errno::NXIO | Errno::NODEV => ErrorKind::NoSuchAddress,
        Errno::BADF => ErrorKind::BadDescriptor,
        Errno::MFILE | Errno::NFILE => ErrorKind::TooManyOpenFiles,
        Errno::INTR => ErrorKind::Interrupted,
        Errno::AGAIN => ErrorKind::WouldBlock,
        _ => ErrorKind::Io,
    }
}

fn kind_without_errno(kind: io::ErrorKind) -> ErrorKind {
    match kind {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
        io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => ErrorKind::Damaged,
        io::ErrorKind::Interrupted => ErrorKind::Interrupted,
        io::ErrorKind::StorageFull => ErrorKind::StorageFull,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_decides_the_kind() {
        let error = Error::io(io::Error::from_raw_os_error(39), "directory x isn't empty");
        assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty);
    }

    #[test]
    fn display_is_the_message_alone_and_debug_tells_the_sources() {
        let error = Error::io(io::Error::from_raw_os_error(2), "dataset flowers isn't there");
        assert_eq!(error.to_string(), "dataset flowers isn't there");
        assert!(format!("{error:?}").contains("No such file"));
    }
}
