//! How a command ends: the exit code, and the lines that say why.

use std::error::Error as _;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use super::table;
use crate::error::{Error, ErrorKind};

/// The code a failed command exits with.
///
/// 2 is a mistake in what was typed, as clap has it; 25, 51 and 128 are those of `sops` for a
/// value that can't be decrypted, a wrong message authentication code and no key; 130 is what a
/// shell has for a program that was interrupted.
pub fn exit_code(kind: ErrorKind) -> ExitCode {
    ExitCode::from(match kind {
        ErrorKind::InvalidInput => 2,
        ErrorKind::DecryptFailed => 25,
        ErrorKind::MacMismatch => 51,
        ErrorKind::NoIdentity => 128,
        ErrorKind::Interrupted => 130,
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::NotPermitted
        | ErrorKind::AlreadyExists
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::StorageFull
        | ErrorKind::ResourceBusy
        | ErrorKind::StaleHandle
        | ErrorKind::TimedOut
        | ErrorKind::CrossesDevices
        | ErrorKind::Unsupported
        | ErrorKind::NameTooLong
        | ErrorKind::FilesystemLoop
        | ErrorKind::TooManyLinks
        | ErrorKind::FileTooLarge
        | ErrorKind::ExecutableFileBusy
        | ErrorKind::NoAttribute
        | ErrorKind::OutOfRange
        | ErrorKind::NoSuchAddress
        | ErrorKind::BadDescriptor
        | ErrorKind::TooManyOpenFiles
        | ErrorKind::WouldBlock
        | ErrorKind::Damaged
        | ErrorKind::Io => 1,
    })
}

/// Says why a command of the user can't be run; the code that tells so, as shells have it
/// (POSIX.1-2024 section 2.8.2).
pub fn not_run(program: &OsStr, error: io::Error) -> ExitCode {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let message = format!("{} can't be run", program.display());
    table::say(report(&Error::io(error, message)).trim_end());
    ExitCode::from(code)
}

/// The lines for standard error: `error:` with what lies behind it, and `hint:` where there is one.
pub fn report(error: &Error) -> String {
    let mut lines = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(lines, ": {cause}");
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        let _ = write!(lines, "\nhint: {hint}");
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_cause_and_remedy() {
        let error = Error::io(std::io::Error::from_raw_os_error(2), "project cats isn't there")
            .with_hint("`atelier project list` shows those that are");
        assert_eq!(
            report(&error),
            "error: project cats isn't there: No such file or directory (os error 2)\n\
             hint: `atelier project list` shows those that are\n"
        );
    }
}
