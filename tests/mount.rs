//! Trees mounted for real, through `/dev/fuse`: what programs see is what POSIX promises.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atelier::fuse::{self, MountOptions, Session};
use atelier::metrics::Metrics;
use atelier::tree::Tree;
use atelier::tree::local::LocalTree;
use atelier::tree::memory::MemoryTree;
use atelier::tree::quota::QuotaTree;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

mod applications;
mod daemon;
mod directories;
mod files;
mod memory;
mod names;
pub(crate) mod passthrough;
mod posix;
mod quota;
mod session;
mod versions;

/// A mounted tree. It is unmounted when this goes, also while a test panics.
struct Mount {
    // In this order: the mount goes first, then what serves it, then the place where it was.
    session: Session,
    metrics: Arc<Metrics>,
    runtime: Option<Runtime>,
    dir: TempDir,
}

impl Mount {
    fn new(tree: impl FnOnce(&Path) -> Arc<dyn Tree>) -> Self {
        Self::with(tree, &MountOptions { source: "o/c/p".into(), ..MountOptions::default() })
    }

    fn with(tree: impl FnOnce(&Path) -> Arc<dyn Tree>, options: &MountOptions) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let runtime = Runtime::new().expect("a runtime");
        let metrics = Arc::new(Metrics::default());
        let session = {
            let _context = runtime.enter();
            let backing = dir.path().join("backing");
            let mount_point = dir.path().join("mount");
            std::fs::create_dir(&backing).expect("a folder");
            std::fs::create_dir(&mount_point).expect("a mount point");
            let mount_point = mount_point.canonicalize().expect("it is there");
            fuse::mount(tree(&backing), metrics.clone(), &mount_point, options)
                .expect("FUSE mounts: it needs /dev/fuse, and root or the package fuse3")
        };
        Self { session, metrics, runtime: Some(runtime), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.session.mount_point().join(name)
    }

    /// The directory behind a local tree.
    fn backing(&self) -> PathBuf {
        self.dir.path().join("backing")
    }

    fn wait(&self) {
        let runtime = self.runtime.as_ref().expect("it runs until it is dropped");
        let ended = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), self.session.wait()).await
        });
        ended.expect("it ends in time").expect("it ends well");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.session.unmount(fuse::Unmount::Lazily);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// Runs a test on a tree in memory, on a local directory and on one that is limited, since all
/// promise the same.
fn on_each_tree(test: impl Fn(&Mount)) {
    test(&Mount::new(|_| Arc::new(MemoryTree::new())));
    test(&Mount::new(|dir| Arc::new(LocalTree::open(dir).expect("a local tree"))));
    test(&limited(1 << 40));
}

/// A local directory whose files may have so many bytes.
fn limited(limit: u64) -> Mount {
    Mount::new(|dir| {
        let local = Arc::new(LocalTree::open(dir).expect("a local tree"));
        let limited = Handle::current().block_on(QuotaTree::over(local, limit));
        Arc::new(limited.expect("an empty directory can be listed"))
    })
}

/// Runs a Python program with arguments; it must succeed.
fn python(program: &str, arguments: &[&Path]) -> String {
    let output = std::process::Command::new("python3")
        .args(["-c", program])
        .args(arguments)
        .output()
        .expect("python3 is there");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the program failed: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
