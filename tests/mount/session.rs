//! Mounting, unmounting, and requests that take long.

use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use atelier::error::{ErrorKind, Result};
use atelier::fuse::{Access, Flag, MountOptions, Unmount, mounts};
use atelier::path::TreePath;
use atelier::tree::local::LocalTree;
use atelier::tree::memory::MemoryTree;
use atelier::tree::{Attr, Entry, File, OpenMode, Tree};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::watch;

use super::Mount;
use crate::support::root;

#[test]
fn the_table_of_mounts_shows_project_and_type() {
    let mount = Mount::new(|_| Arc::new(MemoryTree::new()));
    let mounted = mounts::at(mount.session.mount_point()).unwrap().unwrap();
    assert_eq!((mounted.source.as_str(), mounted.is_ours()), ("o/c/p", true));
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(mount.path("").to_str().unwrap().trim_end_matches('/')));
    let fields: Vec<_> = line.unwrap().split(' ').collect();
    assert_eq!((fields[0], fields[2]), ("o/c/p", "fuse.atelier"));
    for option in ["rw", "nosuid", "nodev", "default_permissions"] {
        assert!(fields[3].split(',').any(|word| word == option), "{option} in {}", fields[3]);
    }
}

#[test]
fn the_kernel_reads_far_ahead_where_it_may() {
    let mount = Mount::new(|_| Arc::new(MemoryTree::new()));
    let device = mounts::at(mount.session.mount_point()).unwrap().unwrap().device;
    let read_ahead = fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb"));
    if !root::is_here() {
        return;
    }
    match read_ahead {
        Ok(kib) => assert_eq!(kib.trim(), "1024"),
        Err(_) => root::skip("there is no /sys/class/bdi"),
    }
}

#[test]
fn requests_are_large_where_that_may_be_said() {
    let _mount = Mount::new(|_| Arc::new(MemoryTree::new()));
    let limit = fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit");
    if !root::is_here() {
        return;
    }
    match limit {
        Ok(pages) => assert!(pages.trim().parse::<u32>().unwrap() >= 1024, "{pages}"),
        Err(_) => root::skip("the kernel has no such limit before Linux 6.13"),
    }
}

#[test]
fn a_read_only_mount_refuses_to_write() {
    let options = MountOptions {
        source: "o/c/p".into(),
        access: Access::Owner,
        flags: vec![Flag::ReadOnly, Flag::NoExec, Flag::NoAtime],
    };
    let mount = Mount::with(
        |dir| {
            fs::write(dir.join("f"), b"x").unwrap();
            Arc::new(LocalTree::open(dir).unwrap())
        },
        &options,
    );
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    assert_eq!(fs::write(mount.path("f"), b"y").unwrap_err().raw_os_error(), Some(30));
    assert_eq!(fs::read(mount.backing().join("f")).unwrap(), b"x");
}

#[test]
fn a_mount_that_is_in_use_stays_until_it_is_taken_away_lazily() {
    let mount = Mount::new(|_| Arc::new(MemoryTree::new()));
    fs::write(mount.path("f"), b"x").unwrap();
    let mut file = fs::File::open(mount.path("f")).unwrap();
    let refused = mount.session.unmount(Unmount::IfIdle).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
    mount.session.unmount(Unmount::Lazily).unwrap();
    assert!(!mount.session.is_mounted());
    assert!(fs::read_dir(mount.path("")).unwrap().next().is_none());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x");
    drop(file);
    mount.wait();
}

#[test]
fn a_mount_that_is_taken_away_from_outside_ends_well() {
    let mount = Mount::new(|_| Arc::new(MemoryTree::new()));
    let taken = std::process::Command::new("umount").arg(mount.path("")).status().unwrap();
    assert!(taken.success());
    mount.wait();
    mount.session.unmount(Unmount::IfIdle).unwrap();
}

#[test]
fn a_stalled_read_holds_up_nobody_else() {
    let (release, stalled) = watch::channel(false);
    let mount = Mount::new(|_| Arc::new(Stalling(stalled)));
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| fs::read(mount.path("slow")).unwrap())).collect();
        std::thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(fs::read(mount.path("fast")).unwrap(), b"answer");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        release.send_replace(true);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), b"answer");
        }
    });
}

#[test]
fn a_mount_can_be_taken_away_while_a_read_is_stalled() {
    let (release, stalled) = watch::channel(false);
    let mount = Mount::new(|_| Arc::new(Stalling(stalled)));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(mount.path("slow")));
        std::thread::sleep(Duration::from_millis(200));
        let refused = mount.session.unmount(Unmount::IfIdle).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
        mount.session.unmount(Unmount::Lazily).unwrap();
        assert!(!reader.is_finished());
        release.send_replace(true);
        assert_eq!(reader.join().unwrap().unwrap(), b"answer");
    });
    mount.wait();
}

#[test]
fn a_tree_that_panics_answers_an_error_and_lives_on() {
    let (_release, stalled) = watch::channel(true);
    let mount = Mount::new(|_| Arc::new(Stalling(stalled)));
    for name in ["panics", "panics-later"] {
        for _ in 0..20 {
            let error = fs::read(mount.path(name)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{name}");
        }
    }
    assert_eq!(fs::read(mount.path("fast")).unwrap(), b"answer");
}

/// A tree whose file `slow` can't be read before it is told so, and two that panic.
struct Stalling(watch::Receiver<bool>);

const NAMES: [&str; 4] = ["fast", "slow", "panics", "panics-later"];

#[async_trait]
impl Tree for Stalling {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        match path.name() {
            None => Ok(Attr::dir(SystemTime::UNIX_EPOCH, Duration::ZERO)),
            Some(name) if NAMES.iter().any(|known| known.as_bytes() == name) => {
                Ok(Attr::file(6, SystemTime::UNIX_EPOCH, Duration::ZERO))
            }
            Some(_) => Err(ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, _: &TreePath) -> BoxStream<'static, Result<Entry>> {
        stream::empty().boxed()
    }

    async fn open(&self, path: &TreePath, _: OpenMode) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Stalled { name: path.to_string(), ready: self.0.clone() }))
    }
}

struct Stalled {
    name: String,
    ready: watch::Receiver<bool>,
}

#[async_trait]
impl File for Stalled {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        match self.name.as_str() {
            "slow" => drop(self.ready.clone().wait_for(|ready| *ready).await),
            "panics" => panic!("as it is meant to"),
            "panics-later" => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                panic!("as it is meant to");
            }
            _ => {}
        }
        let bytes = Bytes::from_static(b"answer");
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        Ok(bytes.slice(start..bytes.len().min(start + len)))
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(Attr::file(6, SystemTime::UNIX_EPOCH, Duration::ZERO))
    }
}
