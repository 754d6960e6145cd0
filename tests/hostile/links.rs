//! Somebody who owns a directory on the way, and puts a link in its place at the right moment.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atelier::fuse::{self, Unmount, mounts};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, UnmountFlags};

use super::NOBODY;
use crate::support::home::Home;
use crate::support::root;

/// How often each command is tried while the link comes and goes.
const ROUNDS: usize = 12;

/// How often at most, until it has both worked and been refused.
const MOST_ROUNDS: usize = 100;

/// A directory of somebody else, in which `way` is now a directory of his, now a link to `precious`.
struct Trap {
    dir: PathBuf,
    _kept: tempfile::TempDir,
}

impl Trap {
    fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let dir = kept.path().canonicalize().unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        for made in ["way", "way/place", "precious", "precious/place"] {
            fs::create_dir(dir.join(made)).unwrap();
        }
        symlink("precious", dir.join("link")).unwrap();
        for his in [".", "way", "way/place"] {
            chown(dir.join(his), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // What nobody may cover or take away.
        let options = Some(c"size=1m,mode=700");
        let place = dir.join("precious/place");
        rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::empty(), options).unwrap();
        fs::write(place.join("kept"), "kept").unwrap();
        Self { dir, _kept: kept }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Changes the two while `work` is done; then `way` is the directory again.
    fn spring(&self, work: impl FnOnce()) {
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let done = AtomicBool::new(false);
        let exchange = || {
            let (way, link) = (self.path("way"), self.path("link"));
            renameat_with(CWD, way, CWD, link, RenameFlags::EXCHANGE).unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0_u64.. {
                    if done.load(Ordering::Acquire) {
                        break;
                    }
                    exchange();
                    // Long enough for a command to get somewhere, and never in step with it.
                    std::thread::sleep(Duration::from_micros(round * 7919 % 9000));
                }
            });
            let _done = Done(&done);
            work();
        });
        if self.path("way").is_symlink() {
            exchange();
        }
    }

    /// Fails if anything was done behind the link.
    #[track_caller]
    fn assert_untouched(&self) {
        let behind: Vec<_> = mounts::all()
            .unwrap()
            .into_iter()
            .filter(|mounted| mounted.mount_point.starts_with(self.path("precious")))
            .map(|mounted| mounted.file_system)
            .collect();
        assert_eq!(behind, ["tmpfs"]);
        let names = |dir: &Path| -> Vec<_> {
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(names(&self.path("precious")), ["place"]);
        assert_eq!(names(&self.path("precious/place")), ["kept"]);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        for mounted in mounts::all().unwrap().iter().rev() {
            if mounted.is_ours() && mounted.mount_point.starts_with(&self.dir) {
                let _ = fuse::unmount(mounted, Unmount::Lazily);
            }
        }
        let _ = rustix::mount::unmount(self.path("precious/place"), UnmountFlags::DETACH);
    }
}

#[test]
fn who_wants_root_to_mount_elsewhere_gets_an_error_or_the_mount_where_it_was_said() {
    if !root::is_here() {
        return;
    }
    let (home, trap) = (Home::with_project(), Trap::new());
    let place = trap.path("way/place");
    let place = place.to_str().unwrap();
    let (mut mounted, mut refused) = (0, 0);
    trap.spring(|| {
        for round in 0..MOST_ROUNDS {
            if round >= ROUNDS && mounted > 0 && refused > 0 {
                break;
            }
            let ended = home.run(["mount", "lab/cats/tabby", place]);
            *(if ended.code == 0 { &mut mounted } else { &mut refused }) += 1;
            trap.assert_untouched();
            // It succeeds only in those moments in which the mount is there.
            let _ = home.run(["unmount", place]);
            trap.assert_untouched();
            for ours in mounts::all().unwrap().iter().filter(|one| one.is_ours()) {
                if ours.mount_point.starts_with(&trap.dir) {
                    let _ = fuse::unmount(ours, Unmount::Lazily);
                }
            }
        }
    });
    // Else the trap didn't spring in time.
    assert!(mounted > 0 && refused > 0, "{mounted} {refused}");
}

#[test]
fn who_wants_root_to_unmount_something_else_finds_it_where_it_was() {
    if !root::is_here() {
        return;
    }
    let (home, trap) = (Home::with_project(), Trap::new());
    let place = trap.path("way/place");
    let place = place.to_str().unwrap();
    home.ok(["mount", "lab/cats/tabby", place]);
    let mounted = mounts::at(Path::new(place)).unwrap().unwrap();
    trap.spring(|| {
        for _ in 0..ROUNDS * 10 {
            // What was found before may be elsewhere by now.
            let _ = fuse::unmount(&mounts::Mounted { id: 0, ..mounted.clone() }, Unmount::Lazily);
            trap.assert_untouched();
        }
    });
    assert!(mounts::at(Path::new(place)).unwrap().is_some(), "it isn't the one that was meant");
    trap.spring(|| {
        while mounts::all().unwrap().iter().any(|one| one.device == mounted.device) {
            let _ = fuse::unmount(&mounted, Unmount::Lazily);
            trap.assert_untouched();
        }
    });
    trap.assert_untouched();
}

#[test]
fn who_wants_root_s_home_elsewhere_is_refused_each_time() {
    if !root::is_here() {
        return;
    }
    let (home, trap) = (Home::with_project(), Trap::new());
    let elsewhere = trap.path("way/home");
    let place = home.path("place");
    fs::create_dir(&place).unwrap();
    trap.spring(|| {
        for _ in 0..ROUNDS {
            for words in [&["init"][..], &["mount", place.to_str().unwrap()]] {
                let words = [&["--home", elsewhere.to_str().unwrap()], words].concat();
                let error = home.fails(words);
                assert!(error.contains("put another home in the place of"), "{error}");
            }
            trap.assert_untouched();
        }
    });
    assert_eq!(fs::read_dir(trap.path("way")).unwrap().count(), 1);
}
