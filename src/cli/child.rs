//! A command that runs while this program goes on, and gets the signals that this program gets.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, ExitStatus};

use futures_util::FutureExt as _;
use rustix::process::{Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::{outcome, shield};
use crate::error::{IoContext as _, Result};

/// How a command ended.
pub(super) enum Ended {
    /// It ran.
    Exited(ExitStatus),
    /// It couldn't be run; this is the code that says so.
    NotRun(ExitCode),
}

/// The signals that are passed on to the command, unless they were to be ignored from the start, as
/// `nohup` has it: then the command ignores them, too.
pub(super) struct Signals([Option<tokio::signal::unix::Signal>; 4]);

impl Signals {
    /// Takes them from now on, instead of ending by them.
    pub(super) fn listen() -> Result<Self> {
        let ignored = ignored_signals();
        let listen = |kind: SignalKind| {
            if ignored >> (kind.as_raw_value() - 1) & 1 == 1 {
                return Ok(None);
            }
            signal(kind).map(Some).context(|| "signals can't be received".to_owned())
        };
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::quit())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Signal {
        let [interrupt, quit, terminate, hangup] = &mut self.0;
        tokio::select! {
            () = received(interrupt) => Signal::INT,
            () = received(quit) => Signal::QUIT,
            () = received(terminate) => Signal::TERM,
            () = received(hangup) => Signal::HUP,
        }
    }
}

/// Waits for a signal, for ever if it is ignored.
async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The signals that this process ignores, a bit each: `SigIgn` in `proc_pid_status(5)`.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Runs a command to its end.
///
/// # Errors
/// Those of waiting for it.
pub(super) async fn run(mut command: Command, signals: &mut Signals) -> Result<Ended> {
    let mut child = match shield::lowered(|| command.spawn())? {
        Ok(child) => child,
        Err(error) => return Ok(Ended::NotRun(outcome::not_run(command.get_program(), error))),
    };
    let pid = Pid::from_child(&child);
    let mut waiting = spawn_blocking(move || child.wait());
    let status = loop {
        tokio::select! {
            ended = &mut waiting => break ended.map_err(std::io::Error::other),
            signal = signals.next() => {
                if signal == Signal::TERM || !is_in_foreground() {
                    // It may have ended by itself.
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
        }
    };
    // What came before the command ended was its to answer.
    while signals.next().now_or_never().is_some() {}
    let status = status.and_then(|status| status);
    status.map(Ended::Exited).context(|| "the command can't be waited for".to_owned())
}

/// Whether this program is in the foreground of a terminal, which then gives what is typed there
/// to the command, too. See fields 5 and 8 in `proc_pid_stat(5)`; what follows the name in
/// parentheses are fields 3 and on.
fn is_in_foreground() -> bool {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let (group, foreground) = (fields.nth(2), fields.nth(2));
    group.is_some() && group == foreground
}

/// The exit code for how a command ended: its own, or as shells have it for a signal.
pub(super) fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// The exit code for a signal that ended this program's own work.
pub(super) fn code_of_signal(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX))
}
