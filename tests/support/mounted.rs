//! Any tree, mounted by this process; unmounted when it goes, also while a test panics.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atelier::fuse::{self, MountOptions, Session, Unmount};
use atelier::tree::Tree;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A mounted tree.
pub(crate) struct Mounted {
    // In this order: the mount goes first, then what serves it, then the place where it was.
    session: Session,
    runtime: Option<Runtime>,
    _dir: TempDir,
}

impl Mounted {
    /// Mounts what `tree` makes, which may talk to a server right away.
    pub(crate) fn new<T: Tree>(tree: impl Future<Output = T>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let options = MountOptions { source: "o/c/p".into(), ..MountOptions::default() };
        let tree = Arc::new(runtime.block_on(tree));
        let place = dir.path().canonicalize().unwrap();
        let session = {
            let _context = runtime.enter();
            fuse::mount(tree, Arc::default(), &place, &options)
                .expect("FUSE mounts: it needs /dev/fuse, and root or the package fuse3")
        };
        Self { session, runtime: Some(runtime), _dir: dir }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.session.mount_point().to_owned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.session.unmount(Unmount::Lazily);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
