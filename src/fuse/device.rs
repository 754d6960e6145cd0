//! The kernel's side: opening `/dev/fuse`, mounting and unmounting.
//!
//! fuser could do this, but it loses the errno, doesn't set the subtype as root, and when it ends
//! unmounts whatever is at the mount point by then.
//!
//! Somebody else may own a directory on the way to a mount point, and put a link in its place at any
//! moment. So a path is walked once, without following links, and what is done is done in the
//! directory that was found; what is unmounted has to be what was meant.

use std::ffi::{CString, OsString};
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::mounts::{FILE_SYSTEM, Mounted};
use super::session::MountOptions;
use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// The device through which the kernel asks.
const DEVICE: &str = "/dev/fuse";

/// The set-user-id program that mounts for users.
const FUSERMOUNT: &str = "fusermount3";

/// How many pages a request may have, for all mounts that are made from then on (Linux 6.13).
const PAGES_LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";

/// How many pages our requests have at most.
pub(super) const MAX_PAGES: u32 = 1024;

/// When a mount goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Now, or not at all while it is in use.
    IfIdle,
    /// Its name now, the rest when nobody uses it any more.
    Lazily,
}

/// Mounts at a directory and returns the device by which the kernel asks, and where the mount is:
/// what leads to the directory may have another name by then.
pub(super) fn mount(mount_point: &Path, options: &MountOptions) -> Result<(OwnedFd, PathBuf)> {
    match mount_directly(mount_point, options) {
        // A user may not mount, but fusermount3 may.
        Err(error)
            if matches!(error.kind(), ErrorKind::NotPermitted | ErrorKind::PermissionDenied)
                && !rustix::process::geteuid().is_root() =>
        {
            mount_for_user(mount_point, options)
        }
        other => other,
    }
}

/// Lets requests carry [`MAX_PAGES`], where we may say so; it holds for mounts that are made later.
pub(super) fn allow_large_requests() {
    let allowed = std::fs::read_to_string(PAGES_LIMIT).ok();
    let allowed = allowed.and_then(|allowed| allowed.trim().parse::<u32>().ok());
    if allowed.is_some_and(|allowed| allowed < MAX_PAGES)
        && let Err(error) = std::fs::write(PAGES_LIMIT, MAX_PAGES.to_string())
    {
        tracing::debug!(%error, "requests stay as short as they are");
    }
}

/// Whether each FUSE thread can have a device of its own.
pub(super) fn can_clone() -> bool {
    OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

/// Unmounts what was found in the table of mounts, without asking it, and nothing else that is there
/// by now.
///
/// # Errors
/// `ResourceBusy` while it is in use; `InvalidInput` when it isn't there any more.
pub fn unmount(mounted: &Mounted, how: Unmount) -> Result<()> {
    let mount_point = &mounted.mount_point;
    let failed = || format!("{} can't be unmounted", mount_point.display());
    let place = Place::open(mount_point).context(failed)?;
    // A mount point can be neither renamed nor removed, so that it is the same one afterwards.
    if place.mount().context(failed)? != mounted.id {
        let error = Error::new(ErrorKind::InvalidInput, failed());
        return Err(error.with_source("something else is there by now"));
    }
    let flags = match how {
        Unmount::IfIdle => UnmountFlags::NOFOLLOW,
        Unmount::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    let result = rustix::mount::unmount(place.path(), flags);
    if result == Err(Errno::PERM) {
        return unmount_for_user(&place, mount_point, how);
    }
    result.context(failed)
}

/// A name in a directory that stays the same, whatever becomes of the path that led there.
struct Place {
    directory: OwnedFd,
    name: OsString,
}

impl Place {
    /// Finds the directory that an absolute path leads to, in which its last name is.
    fn open(path: &Path) -> rustix::io::Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL);
        };
        Ok(Self { directory: open_directory(directory)?, name: name.to_owned() })
    }

    /// The directory, as this process and those that it starts can name it.
    fn directory(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string())
    }

    /// The place, as this process can name it.
    fn path(&self) -> PathBuf {
        self.directory().join(&self.name)
    }

    /// What the place is called now.
    fn shown(&self) -> io::Result<PathBuf> {
        Ok(self.directory().read_link()?.join(&self.name))
    }

    /// The number of the mount that is seen there. What is mounted isn't asked, so that it may be
    /// dead: see `fdinfo` in `proc_pid_fdinfo(5)`.
    fn mount(&self) -> io::Result<u64> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty())?;
        let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", top.as_raw_fd()))?;
        let number = told.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        number
            .and_then(|number| number.trim().parse().ok())
            .ok_or(io::ErrorKind::InvalidData.into())
    }
}

/// Mounts at a directory without anybody's help, which takes root.
pub(super) fn mount_directly(
    mount_point: &Path,
    options: &MountOptions,
) -> Result<(OwnedFd, PathBuf)> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| {
        Error::io(error, format!("{DEVICE} can't be opened")).with_hint(
            "load the module with `modprobe fuse`; a container needs \
             `--device /dev/fuse --cap-add SYS_ADMIN`",
        )
    })?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if !options.access.is_private() {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| ErrorKind::InvalidInput)?;
    let flags = options
        .flags
        .iter()
        .fold(MountFlags::NOSUID | MountFlags::NODEV, |all, flag| all | flag.kernel_flag());
    let refused = || format!("{} can't be mounted on", mount_point.display());
    let place = open_directory(mount_point).context(refused)?;
    let shown = Path::new("/proc/self/fd").join(place.as_raw_fd().to_string());
    rustix::mount::mount(options.source.as_str(), &shown, FILE_SYSTEM, flags, &*data)
        .context(refused)?;
    let mounted_at = shown.read_link().context(refused)?;
    Ok((device.into(), mounted_at))
}

/// Opens a directory whose path is resolved already: where a link is on the way now, somebody would
/// have it elsewhere.
fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Some containers forbid it.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(CWD, path, flags, Mode::empty()),
        other => other,
    }
}

/// Lets fusermount3 mount; it sends the device through a socket, see `fusermount3(1)`.
fn mount_for_user(mount_point: &Path, options: &MountOptions) -> Result<(OwnedFd, PathBuf)> {
    let refused = || format!("{} can't be mounted on", mount_point.display());
    let place = Place::open(mount_point).context(refused)?;
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut words =
        vec![format!("fsname={source}"), "subtype=atelier".into(), "default_permissions".into()];
    words.extend(["nosuid".into(), "nodev".into()]);
    words.extend(options.flags.iter().map(|flag| flag.word().to_owned()));
    if !options.access.is_private() {
        words.push("allow_other".into());
    }
    // The child inherits its end, so that one isn't closed on exec.
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::empty(),
        None,
    )
    .context(|| "a socket for fusermount3 can't be made".to_owned())?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)
        .context(|| "a socket for fusermount3 can't be made".to_owned())?;
    let child = Command::new(FUSERMOUNT)
        .args(["-o", &words.join(","), "--"])
        .arg(&place.name)
        .current_dir(place.directory())
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_fusermount)?;
    drop(theirs);
    let device = receive(&ours);
    let output = child.wait_with_output().map_err(no_fusermount)?;
    let device = device.ok_or_else(|| {
        let complaint = complaint(&output);
        let error = Error::new(
            ErrorKind::PermissionDenied,
            format!("{} can't be mounted on: {complaint}", mount_point.display()),
        );
        if complaint.contains("user_allow_other") {
            error.with_hint("the administrator may set user_allow_other in /etc/fuse.conf")
        } else {
            error
        }
    })?;
    Ok((device, place.shown().context(refused)?))
}

fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut devices) => devices.next(),
        _ => None,
    })
}

fn unmount_for_user(place: &Place, mount_point: &Path, how: Unmount) -> Result<()> {
    let mut command = Command::new(FUSERMOUNT);
    command.arg("-u");
    if how == Unmount::Lazily {
        command.arg("-z");
    }
    command.arg("--").arg(&place.name).current_dir(place.directory());
    let output = command.output().map_err(no_fusermount)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = complaint(&output);
    let kind = if complaint.contains("busy") {
        ErrorKind::ResourceBusy
    } else {
        ErrorKind::PermissionDenied
    };
    Err(Error::new(kind, format!("{} can't be unmounted: {complaint}", mount_point.display())))
}

/// What fusermount3 said, without its name before it.
fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().last().unwrap_or("it didn't say why").trim();
    line.strip_prefix("fusermount3: ").unwrap_or(line).to_owned()
}

fn no_fusermount(error: io::Error) -> Error {
    Error::io(error, "fusermount3, which mounts for users, can't be run")
        .with_hint("install the package fuse3 (`apt install fuse3`, `dnf install fuse3`)")
}

/// Lets the kernel read further ahead than the 128 KiB it allows by itself, where we may say so.
pub(super) fn read_ahead(device: &str, kib: u32) {
    let file = Path::new("/sys/class/bdi").join(device).join("read_ahead_kb");
    if let Err(error) = std::fs::write(&file, kib.to_string().as_bytes()) {
        let file = file.as_os_str().as_bytes().escape_ascii().to_string();
        tracing::debug!(file, %error, "the read-ahead stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_on_the_way_to_a_mount_point_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("precious/place")).unwrap();
        std::os::unix::fs::symlink("precious", dir.join("his")).unwrap();
        assert!(open_directory(&dir.join("precious/place")).is_ok());
        assert_eq!(open_directory(&dir.join("his/place")).unwrap_err(), Errno::LOOP);
        std::os::unix::fs::symlink("precious/place", dir.join("last")).unwrap();
        assert!(open_directory(&dir.join("last")).is_err());
    }
}
