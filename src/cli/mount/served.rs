//! A project's mount, and those of its versions inside it.

use std::path::Path;
use std::sync::Arc;

use futures_util::future;

use crate::error::{ErrorKind, Result};
use crate::fuse::{self, MountOptions, Session, Unmount};
use crate::metrics::Metrics;
use crate::tree::namespace::Namespace;
use crate::vfs::frozen::Frozen;

/// A mounted project. Dropping it unmounts lazily.
pub(super) struct Served {
    // In this order: what lies inside goes first.
    inside: Vec<Session>,
    project: Session,
    /// What isn't mounted by itself since the user may not.
    with_the_rest: Vec<&'static str>,
}

impl Served {
    /// Mounts a project; its versions get sessions of their own, where that is permitted.
    ///
    /// # Errors
    /// Those of [`fuse::mount`].
    pub(super) fn mount(
        namespace: &Arc<Namespace>,
        metrics: &Arc<Metrics>,
        mount_point: &Path,
        options: &MountOptions,
    ) -> Result<Self> {
        let project = fuse::mount(namespace.clone(), metrics.clone(), mount_point, options)?;
        let mut served = Self { inside: Vec::new(), project, with_the_rest: Vec::new() };
        for (name, shelf) in namespace.versions() {
            let frozen = Arc::new(Frozen::new(shelf));
            let place = served.project.mount_point().join(name);
            match fuse::mount_frozen(frozen, metrics.clone(), &place, options) {
                Ok(session) => served.inside.push(session),
                Err(error) if error.kind() == ErrorKind::NotPermitted => {
                    tracing::debug!("{name} can't be mounted by itself: {error:?}");
                    served.with_the_rest.push(name);
                }
                Err(error) => tracing::warn!("{name} is served with the rest: {error:?}"),
            }
        }
        Ok(served)
    }

    /// Tells the log what an ordinary user goes without: mounts inside the mount and, since the
    /// kernel refuses him that as well, passthrough.
    pub(super) fn log_what_is_missing(&self) {
        if !self.with_the_rest.is_empty() {
            let names = self.with_the_rest.join(" and ");
            tracing::info!(
                "{names} are served with the rest, and files through this process: what is \
                 faster takes root"
            );
        }
    }

    /// The session of the project itself.
    pub(super) fn project(&self) -> &Session {
        &self.project
    }

    /// Waits until all of it is unmounted, by whomever, and the last user is gone.
    ///
    /// # Errors
    /// `Io` when a FUSE thread failed.
    pub(super) async fn wait(&self) -> Result<()> {
        let all = self.inside.iter().chain([&self.project]).map(Session::wait);
        future::join_all(all).await.into_iter().collect()
    }

    /// Unmounts all of it.
    ///
    /// # Errors
    /// `ResourceBusy` while it is in use, unless `how` is lazy.
    pub(super) fn unmount(&self, how: Unmount) -> Result<()> {
        if how == Unmount::IfIdle {
            self.inside.iter().try_for_each(|session| session.unmount(how))?;
        }
        // Lazily, what lies inside goes with it.
        self.project.unmount(how)
    }
}
