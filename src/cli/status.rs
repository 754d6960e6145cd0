//! `atelier status`: what is mounted, and how it does.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Context, table};
use crate::control::Sockets;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mounts;
use clap::Args;

mod shown;
mod state;

/// Show what is mounted, and what it read, fetched and waited for
///
/// Lists the mounts of this user from this home; with a directory it shows the mount there in
/// detail. It never waits for longer than a second: a mount that doesn't answer by then is frozen,
/// and one whose process died is dead. Then the exit code is 1.
#[derive(Debug, Args)]
pub struct Status {
    /// Where a project is mounted [default: all mounts]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Status {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let mut place = self.dir.as_deref().map(mounts::absolute).transpose()?;
        if let Some(place) = &mut place
            && let Some(project) = mounts::around(place)?
        {
            *place = project.mount_point;
        }
        let table = mounts::all()?;
        let sockets = Sockets::find(&context.config.socket_dirs());
        let mut found = state::all(&sockets, &table).await;
        if let Some(place) = &place {
            found.retain(|mounted| mounted.is_at(place));
        }
        let all_serve = found.iter().all(|mounted| mounted.state.serves());
        match (&place, found.as_slice()) {
            (Some(place), []) => {
                let ours = table.iter().any(|one| one.is_ours() && one.mount_point == *place);
                let shown = place.display();
                return Err(if ours {
                    Error::new(ErrorKind::NotFound, format!("nothing is known of {shown}"))
                        .with_hint("another user mounted it, or from another home: see --home")
                } else {
                    Error::new(ErrorKind::InvalidInput, format!("no project is mounted on {shown}"))
                        .with_hint("`atelier status` lists the mounts of projects")
                });
            }
            (Some(_), [mounted, ..]) if !context.json => table::print(&shown::details(mounted))?,
            (Some(_), [mounted, ..]) => table::show(mounted, true)?,
            (None, all) => table::list(all, context.json)?,
        }
        Ok(if all_serve { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
