//! Where a project is mounted right now, for commands that change its files.

use std::path::PathBuf;

use super::Context;
use crate::catalog::Project;
use crate::control::Sockets;
use crate::fuse::mounts;

/// The directory in which a mount of this user from this home shows the project's files; `None`
/// where there is none that answers and can be written to.
///
/// Whoever changes files has to go through it: only then the kernel knows at once, and what the
/// mount counts stays right.
pub(super) async fn files(context: &Context, project: &Project) -> Option<PathBuf> {
    let table = mounts::all().ok()?;
    let answers = Sockets::find(&context.config.socket_dirs()).ask().await;
    let (name, home) = (project.name.to_string(), context.config.home.to_string_lossy());
    answers.into_iter().find_map(|answer| {
        let about = answer.report?.about;
        let mounted = table.iter().find(|mounted| mounted.device == answer.device)?;
        let is_it = about.project == name && about.home == *home && !mounted.is_read_only;
        is_it.then(|| mounted.mount_point.join("files"))
    })
}
