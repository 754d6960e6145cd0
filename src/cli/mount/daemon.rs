//! The process in the background, and how it tells that the mount is ready.
//!
//! The program runs itself again, with standard output as a pipe: a word on it means that the mount
//! is ready, its end without that word that it failed. Nothing is forked, so nothing is unsafe.

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::OFlags;
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// What stands on standard output when the mount is ready.
const READY: &[u8] = b"ready\n";

/// Runs this program again and returns when it is ready, or with its exit code.
///
/// The other process writes its errors to our standard error itself.
pub(super) fn start(arguments: &[OsString]) -> Result<ExitCode> {
    let program = std::env::current_exe().context(|| "this program can't be found".to_owned())?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(|| "the process in the background can't be started".to_owned())?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_end(&mut said)
            .context(|| "the process in the background can't be heard".to_owned())?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status =
        child.wait().context(|| "the process in the background can't be waited for".to_owned())?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if code > 0 => Ok(ExitCode::from(code)),
        _ => {
            let message =
                format!("the process in the background ended before it was ready: {status}");
            Err(Error::new(ErrorKind::Io, message))
        }
    }
}

/// Leaves the terminal: what is typed there doesn't reach this process any more.
pub(super) fn leave_session() -> Result<()> {
    rustix::process::setsid()
        .map(drop)
        .context(|| "the process in the background can't leave its terminal".to_owned())
}

/// Logs to standard error, which becomes a file once the mount is ready.
///
/// `$ATELIER_LOG` chooses what is logged, such as `debug` or `atelier::fuse=debug`. Whatever it
/// says, what other packages say is logged from `info` on only: below that the AWS SDK tells the
/// headers of requests, and others what they were given.
pub(super) fn log() -> Result<()> {
    let chosen = std::env::var("ATELIER_LOG").unwrap_or_else(|_| "warn,atelier=info".to_owned());
    let filter = EnvFilter::try_new(&chosen).map_err(|error| {
        let message = format!("$ATELIER_LOG is {chosen}, which isn't a filter");
        Error::new(ErrorKind::InvalidInput, message).with_source(error)
    })?;
    let ansi = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(io::stderr);
    let discreet = filter_fn(|event| may_be_logged(event.target(), *event.level()));
    // There is one already only in a test.
    let _ = tracing_subscriber::registry().with(log.with_filter(discreet)).with(filter).try_init();
    Ok(())
}

/// Whether what comes from `target` may be logged at a level.
fn may_be_logged(target: &str, level: Level) -> bool {
    let is_ours = target.split("::").next() == Some(env!("CARGO_CRATE_NAME"));
    is_ours || level <= Level::INFO
}

/// Tells the waiting process that the mount is ready, and lets go of everything it gave us.
pub(super) fn ready(home: &Path) -> Result<()> {
    let log = open_log(home)?;
    rustix::stdio::dup2_stderr(log).context(|| "standard error can't be moved".to_owned())?;
    std::env::set_current_dir("/").context(|| "/ can't be entered".to_owned())?;
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(READY)
        .and_then(|()| stdout.flush())
        .context(|| "whoever asked for the mount has gone".to_owned())?;
    let nothing = OpenOptions::new().write(true).open("/dev/null");
    nothing
        .and_then(|nothing| Ok(rustix::stdio::dup2_stdout(nothing)?))
        .context(|| "standard output can't be moved".to_owned())
}

fn open_log(home: &Path) -> Result<std::fs::File> {
    let dir = home.join("log");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .context(|| format!("{} can't be made", dir.display()))?;
    let file = dir.join("mount.log");
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&file)
        .context(|| format!("{} can't be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_below_info_is_not_logged() {
        for target in ["aws_smithy_runtime::client", "hyper", "h2::proto", "sqlx", "atelier2"] {
            assert!(may_be_logged(target, Level::INFO), "{target}");
            assert!(!may_be_logged(target, Level::DEBUG), "{target}");
        }
        assert!(may_be_logged("atelier::fuse::answer", Level::TRACE));
        assert!(may_be_logged("atelier", Level::TRACE));
    }
}
