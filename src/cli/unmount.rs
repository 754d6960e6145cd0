//! `atelier unmount`: takes a mounted project away.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Context;
use super::mount::{is_dead, shell_word};
use crate::control::Sockets;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mounts::{self, Mounted};
use crate::fuse::{self, Unmount as How};

/// How long what serves a mount is waited for once that is gone.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How many of the processes that use a mount are named.
const NAMED: usize = 5;

/// Unmount a project
#[derive(Debug, Args)]
pub struct Unmount {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Take it away although it is in use; its users keep what they have open
    #[arg(long, short = 'z')]
    lazy: bool,
}

impl Unmount {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let place = mounts::absolute(&self.dir)?;
        let shown = place.display();
        let Some(mounted) = mounts::at(&place)?.filter(Mounted::is_ours) else {
            let message = format!("no project is mounted on {shown}");
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("`findmnt -t fuse.atelier` lists the mounts of projects"));
        };
        if let Some(project) = mounts::around(&place)? {
            let outer = project.mount_point.display();
            let message = format!("{shown} is a part of the project mounted on {outer}");
            let word = shell_word(&project.mount_point);
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint(format!("`atelier unmount {word}` takes all of it away")));
        }
        let how = if self.lazy { How::Lazily } else { How::IfIdle };
        let sockets = Sockets::find(&context.config.socket_dirs()).of(&mounted.device);
        unmount(&mounted, how).map_err(|error| match error.kind() {
            ErrorKind::ResourceBusy => busy(&place),
            _ => error,
        })?;
        // What follows, such as `gc`, is to find nothing held any more.
        if how == How::IfIdle {
            sockets.until_gone(END_WITHIN).await;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Unmounts a project with what is mounted inside it.
fn unmount(mounted: &Mounted, how: How) -> Result<()> {
    let place = &mounted.mount_point;
    if how == How::IfIdle {
        let inside = mounts::inside(place)?;
        // All of it or nothing, as far as that can be known before.
        if !inside.is_empty() && !users(place).is_empty() {
            return Err(ErrorKind::ResourceBusy.into());
        }
        for part in inside {
            match fuse::unmount(&part, how) {
                // Nobody answers any more, not even what is inside: all of it goes at once.
                Err(_) if is_dead(place) => return fuse::unmount(mounted, How::Lazily),
                other => other?,
            }
        }
    }
    fuse::unmount(mounted, how)
}

fn busy(place: &Path) -> Error {
    let users = users(place);
    let mut message = format!("{} is in use", place.display());
    if !users.is_empty() {
        let named = users.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        message = format!("{message} by {named}");
    }
    if users.len() > NAMED {
        message = format!("{message} and {} more", users.len() - NAMED);
    }
    Error::new(ErrorKind::ResourceBusy, message).with_hint(format!(
        "end what uses it, or take it away under its users with `atelier unmount --lazy {}`",
        shell_word(place)
    ))
}

/// The processes that have something open below a directory, or stand there, as far as we may see.
///
/// Only `/proc` is read, so a mount that hangs isn't asked.
fn users(place: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let number = entry.file_name().to_str()?.parse::<u32>().ok()?;
        // We may have inherited what our shell has open.
        (number != std::process::id()).then(|| (number, entry.path()))
    });
    let mut users: Vec<_> = processes.filter(|(_, process)| uses(process, place)).collect();
    users.sort_unstable();
    users
        .into_iter()
        .map(|(number, process)| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            format!("{} ({number})", name.trim())
        })
        .collect()
}

fn uses(process: &Path, place: &Path) -> bool {
    let leads_there = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(place));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    ["cwd", "root", "exe"].iter().any(|link| leads_there(process.join(link)))
        || open.map(|entry| entry.path()).any(leads_there)
        || maps(process, place)
}

/// Whether a process has mapped a file below a directory, see `proc_pid_maps(5)`.
fn maps(process: &Path, place: &Path) -> bool {
    let Ok(maps) = fs::read(process.join("maps")) else { return false };
    let mut below = place.as_os_str().as_bytes().to_vec();
    below.push(b'/');
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line.iter().position(|byte| *byte == b'/').map(|start| &line[start..]);
        path.is_some_and(|path| path.starts_with(&below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().canonicalize().unwrap();
        assert!(users(&place).is_empty());
        let file = fs::File::create(place.join("f")).unwrap();
        assert!(users(&place).is_empty(), "this process doesn't count");
        let mut user = std::process::Command::new("sleep").arg("60").stdin(file).spawn();
        let user = user.as_mut().unwrap();
        let said = busy(&place).to_string();
        user.kill().unwrap();
        user.wait().unwrap();
        assert!(said.ends_with(&format!("is in use by sleep ({})", user.id())), "{said}");
    }
}
