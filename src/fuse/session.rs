//! A mounted tree, from mount to unmount.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::mount::MountFlags;
use tokio::runtime;
use tokio::sync::watch;

use super::admission::{Accounts, Admission};
use super::device::{self, Unmount};
use super::dispatch::Fuse;
use super::forget;
use super::frozen::{Opens, Reading};
use super::mounts;
use super::passthrough::Passthrough;
use super::push::Pusher;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::metrics::Metrics;
use crate::tree::{Owner, Tree};
use crate::vfs::Vfs;
use crate::vfs::frozen::Frozen;

/// How far the kernel reads ahead of a sequential reader, in KiB: one largest request.
const READ_AHEAD_KIB: u32 = 1024;

/// How many threads answer at least for versions: each may wait for a disk that reads more than
/// one place at a time.
const FROZEN_THREADS: usize = 8;

/// Who may use a mount, as far as modes and owners of the files allow.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Only who mounted it.
    #[default]
    Owner,
    /// Who mounted it, and root if it is one of the accounts.
    OwnerAndRoot(Arc<Accounts>),
    /// These accounts.
    Members(Arc<Accounts>),
}

impl Access {
    fn admission(&self, has_list: bool) -> Admission {
        match self {
            Self::Owner => Admission::Owner,
            Self::OwnerAndRoot(accounts) | Self::Members(accounts) => {
                Admission::Members { accounts: accounts.clone(), has_list }
            }
        }
    }

    /// Who the kernel and fuser let in.
    fn acl(&self) -> fuser::SessionACL {
        match self {
            Self::Owner => fuser::SessionACL::Owner,
            Self::OwnerAndRoot(_) => fuser::SessionACL::RootAndOwner,
            Self::Members(_) => fuser::SessionACL::All,
        }
    }

    /// Whether the kernel lets in nobody but who mounted it.
    pub(super) fn is_private(&self) -> bool {
        matches!(self, Self::Owner)
    }
}

/// A flag of `mount(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Nothing can be written.
    ReadOnly,
    /// No program can be executed.
    NoExec,
    /// Reading changes no time of last access.
    NoAtime,
    /// Every write is durable before it returns.
    Sync,
    /// Every change of a directory is durable before it returns.
    DirSync,
}

impl Flag {
    /// The word for `-o`.
    pub fn word(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::NoExec => "noexec",
            Self::NoAtime => "noatime",
            Self::Sync => "sync",
            Self::DirSync => "dirsync",
        }
    }

    pub(super) fn kernel_flag(self) -> MountFlags {
        match self {
            Self::ReadOnly => MountFlags::RDONLY,
            Self::NoExec => MountFlags::NOEXEC,
            Self::NoAtime => MountFlags::NOATIME,
            Self::Sync => MountFlags::SYNCHRONOUS,
            Self::DirSync => MountFlags::DIRSYNC,
        }
    }
}

/// How to mount. Set-user-id bits and device nodes never count.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// What is mounted, as `/proc/mounts` shows it: `organization/community/project`.
    pub source: String,
    /// Who may use it.
    pub access: Access,
    /// Further flags.
    pub flags: Vec<Flag>,
}

/// Mounts a tree at a directory; it answers when this returns. The path is one that
/// [`absolute`](mounts::absolute) gave: no link on it is followed any more.
///
/// Work that has to wait runs on the tokio runtime that this is called in. The kernel's requests
/// are counted in `metrics`.
///
/// # Errors
/// `NotPermitted` and `PermissionDenied` when this user may not mount there; `NotFound` without
/// `/dev/fuse`.
pub fn mount(
    tree: Arc<dyn Tree>,
    metrics: Arc<Metrics>,
    mount_point: &Path,
    options: &MountOptions,
) -> Result<Session> {
    let opens = Arc::new(Passthrough::new(metrics.clone()));
    let vfs = Arc::new(Vfs::new(tree));
    let forgettable = vfs.forgettable();
    let fuse = over(vfs, opens, metrics, options.access.admission(true));
    device::allow_large_requests();
    let (device, mount_point) = device::mount(mount_point, options)?;
    serve(fuse, device, mount_point, &options.access, threads(2), |notifier, device| {
        forget::start(device.into(), notifier, forgettable)
    })
}

/// Mounts the versions on a shelf at a directory, which may lie in another mount; nothing in it
/// can be written, and what is read of a version is asked for once.
///
/// Where only its owner can enter, the kernel doesn't ask before it opens a file. Where others may
/// enter it has to be asked, since what each may do is decided then.
///
/// # Errors
/// Those of [`mount`]; `NotPermitted` for an ordinary user, for whom fusermount3 mounts nothing
/// inside a mount.
pub fn mount_frozen(
    frozen: Arc<Frozen>,
    metrics: Arc<Metrics>,
    mount_point: &Path,
    options: &MountOptions,
) -> Result<Session> {
    let opens = if options.access.is_private() { Opens::Unasked } else { Opens::Asked };
    let (noted, pusher) = Pusher::new(frozen.clone(), metrics.clone());
    let fuse = over(frozen, Reading { opens, noted }, metrics, options.access.admission(false));
    let runtime = fuse.runtime.clone();
    let mut options = options.clone();
    options.flags.push(Flag::ReadOnly);
    let (device, mount_point) = device::mount_directly(mount_point, &options)?;
    let push = |notifier, _| pusher.start(notifier, runtime);
    serve(fuse, device, mount_point, &options.access, threads(FROZEN_THREADS), push)
}

fn over<V, P>(vfs: Arc<V>, opens: P, metrics: Arc<Metrics>, admission: Admission) -> Fuse<V, P> {
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    let runtime = runtime::Handle::current();
    Fuse { vfs, metrics, opens, runtime, owner, admission }
}

fn serve<V, P>(
    fuse: Fuse<V, P>,
    device: OwnedFd,
    mount_point: PathBuf,
    access: &Access,
    config: fuser::Config,
    notify: impl FnOnce(fuser::Notifier, OwnedFd) -> io::Result<()>,
) -> Result<Session>
where
    Fuse<V, P>: fuser::Filesystem,
{
    // From here on the mount is taken away again when something fails.
    let mounted = mounts::at(&mount_point)?.map(|mounted| mounted.device).unwrap_or_default();
    let (ended, ending) = watch::channel(None);
    let session = Session { mount_point, device: mounted, ending };
    let metrics = fuse.metrics.clone();
    let same = device.try_clone();
    let started = fuser::Session::from_fd(fuse, device, access.acl(), config).and_then(|fuser| {
        notify(fuser.notifier(), same?)?;
        thread::Builder::new().name("fuse".into()).spawn(move || {
            let result = fuser.run();
            let (answered, refused) = (metrics.answered.value(), metrics.refused.value());
            tracing::info!(answered, refused, "the session ended");
            ended.send_replace(Some(result.map_err(Arc::new)));
        })
    });
    started.context(|| format!("{} can't be served", session.mount_point.display()))?;
    device::read_ahead(&session.device, READ_AHEAD_KIB);
    Ok(session)
}

/// A mounted tree. Dropping it unmounts lazily.
pub struct Session {
    mount_point: PathBuf,
    /// The mount's device number, which tells it from others at the same place.
    device: String,
    ending: watch::Receiver<Option<std::result::Result<(), Arc<io::Error>>>>,
}

impl Session {
    /// Where it is mounted, as an absolute path.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The mount's device number, `major:minor`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Waits until it is unmounted, by whomever, and the last user is gone.
    ///
    /// # Errors
    /// `Io` when a FUSE thread failed.
    pub async fn wait(&self) -> Result<()> {
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some).await;
        match ended.as_deref() {
            // A thread that takes a request while the kernel lets go of the mount is told this
            // instead of `ENODEV`.
            Ok(Some(Err(error))) if was_aborted(error) && !self.is_mounted() => Ok(()),
            Ok(Some(Err(error))) => {
                let message = format!("the mount at {} broke", self.mount_point.display());
                Err(Error::new(ErrorKind::Io, message).with_source(Arc::clone(error)))
            }
            _ => Ok(()),
        }
    }

    /// Whether it is at its mount point still, perhaps below another mount.
    pub fn is_mounted(&self) -> bool {
        self.mounted().is_ok_and(|mounted| mounted.is_some())
    }

    /// What the table of mounts says of it.
    fn mounted(&self) -> Result<Option<mounts::Mounted>> {
        let is_ours = |mounted: &mounts::Mounted| {
            mounted.device == self.device && mounted.mount_point == self.mount_point
        };
        Ok(mounts::all()?.into_iter().find(is_ours))
    }

    /// Unmounts it; one that isn't mounted any more is no error.
    ///
    /// # Errors
    /// `ResourceBusy` while it is in use, unless `how` is lazy.
    pub fn unmount(&self, how: Unmount) -> Result<()> {
        match self.mounted()? {
            Some(mounted) => device::unmount(&mounted, how),
            None => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.ending.borrow().is_none()
            && let Err(error) = self.unmount(Unmount::Lazily)
        {
            tracing::warn!(?error, "the mount was left behind");
        }
    }
}

fn threads(least: usize) -> fuser::Config {
    let mut config = fuser::Config::default();
    // More than eight only contend for the device.
    let threads = thread::available_parallelism().map_or(least, usize::from);
    config.n_threads = Some(threads.clamp(least, 8));
    config.clone_fd = device::can_clone();
    config
}

fn was_aborted(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::CONNABORTED)
}
