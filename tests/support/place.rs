//! A project that the built program mounts, and a place for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use atelier::fuse::{self, Unmount, mounts};
use rustix::process::Pid;

use super::home::Home;

/// A home with a project and a place to mount it, which is free again when this goes.
pub(crate) struct Place {
    /// The home.
    pub(crate) home: Home,
    /// The place.
    pub(crate) dir: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::of(Home::with_project())
    }

    /// A place in a home that has a project.
    pub(crate) fn of(home: Home) -> Self {
        let dir = home.path("my project");
        fs::create_dir(&dir).unwrap();
        Self { home, dir }
    }

    pub(crate) fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    pub(crate) fn mount(&self) {
        self.home.ok(["mount", "lab/cats/tabby", self.dir()]);
    }

    pub(crate) fn is_mounted(&self) -> bool {
        mounts::at(&self.dir).unwrap().is_some()
    }

    /// The process that serves the mount.
    pub(crate) fn server(&self) -> Pid {
        let serves = |process: &Path| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"--background"[..]) && words.contains(&self.dir().as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let found = processes.into_iter().find(|process| serves(process)).expect("it runs");
        let number = found.file_name().unwrap().to_str().unwrap().parse().unwrap();
        Pid::from_raw(number).unwrap()
    }

    pub(crate) fn foreground(&self) -> Child {
        let child = self.home.command(["mount", "-f", self.dir()]).spawn().unwrap();
        until("it is mounted", || self.is_mounted());
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while let Ok(Some(mounted)) = mounts::at(&self.dir)
            && fuse::unmount(&mounted, Unmount::Lazily).is_ok()
        {}
    }
}

/// Waits for a condition that comes true soon, or fails the test.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
