//! Which process of which host holds a lease, so that one that has ended is known to have.

use std::fs;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The host and the process numbers that hold there: a boot and a namespace of processes. Empty
/// where the system doesn't tell both: then it could be mistaken for another one.
pub(super) fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        match (boot, fs::read_link("/proc/self/ns/pid")) {
            (Ok(boot), Ok(space)) => format!("{} {}", boot.trim(), space.display()),
            _ => String::new(),
        }
    })
}

/// This process: its number, and when it was started, since numbers are used again.
pub(super) fn this() -> &'static str {
    static THIS: OnceLock<String> = OnceLock::new();
    THIS.get_or_init(|| {
        let number = std::process::id();
        format!("{number} {}", started(number).unwrap_or_default())
    })
}

/// Whether a process of this host has ended.
pub(in crate::catalog) fn has_ended(host: &str, process: &str) -> bool {
    let Some((number, since)) = process.split_once(' ') else { return false };
    let Ok(number) = number.parse() else { return false };
    if host.is_empty() || host != self::host() || since.is_empty() {
        return false;
    }
    match started(number) {
        Some(started) => started != since,
        None => is_absent(number),
    }
}

/// Whether there is no such process, or only what is left of one. Where `/proc` is mounted with
/// `hidepid`, others' processes are there and can't be seen.
fn is_absent(number: u32) -> bool {
    let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { return false };
    let is_zombie = fs::exists(format!("/proc/{number}/stat")).unwrap_or(false);
    is_zombie || test_kill_process(pid) == Err(Errno::SRCH)
}

/// When a process was started, in clock ticks since boot; `None` when there is none or it is a
/// zombie. See `proc_pid_stat(5)`: what follows the name in parentheses are fields 3 and on.
fn started(number: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_to_have_ended() {
        assert!(!has_ended(host(), this()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = format!("{} {}", child.id(), started(child.id()).unwrap());
        assert!(!has_ended(host(), &process));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(host(), &process));
        assert!(!has_ended("another host", &process));
        assert!(!has_ended("", &process), "a host that isn't known is no host");
        assert!(!has_ended(host(), "nonsense"));
        let (number, _) = this().split_once(' ').unwrap();
        assert!(has_ended(host(), &format!("{number} 1")), "a number is used again");
    }
}
