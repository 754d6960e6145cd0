//! Files that the kernel reads by itself, where it may.

use std::fs::{self, File as LocalFile};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use atelier::error::{ErrorKind, Result};
use atelier::path::TreePath;
use atelier::tree::{Attr, Entry, File, OpenMode, PageCache, Tree};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use super::Mount;
use crate::support::root;

/// Larger than the smallest file for which passthrough pays.
const LEN: usize = 3 << 20;

#[test]
fn a_complete_local_file_is_read_without_asking() {
    let (kept, mount) = keeper();
    kept.complete.store(true, Ordering::SeqCst);
    let files: Vec<_> = (0..3).map(|_| LocalFile::open(mount.path("large")).unwrap()).collect();
    for file in &files {
        assert_eq!(read(file), content(LEN));
    }
    assert_eq!(fs::read(mount.path("small")).unwrap(), content(1000));
    let handed_over = mount.metrics.passthrough_opens.value();
    let asked = kept.reads();
    if may_hand_over(&mount) {
        assert_eq!((handed_over, asked), (3, ["small"].map(String::from).to_vec()));
    } else {
        assert_eq!(handed_over, 0);
        assert!(asked.contains(&"large".to_owned()));
    }
}

/// The kernel refuses to open an inode in both ways at once, with `EIO`.
#[test]
fn an_inode_stays_as_it_was_opened_first() {
    let (kept, mount) = keeper();
    let through_us = LocalFile::open(mount.path("large")).unwrap();
    kept.complete.store(true, Ordering::SeqCst);
    let later = LocalFile::open(mount.path("large")).unwrap();
    assert_eq!((read(&later), read(&through_us)), (content(LEN), content(LEN)));
    assert_eq!(mount.metrics.passthrough_opens.value(), 0);
    drop((through_us, later));
    if !may_hand_over(&mount) {
        return root::skip(TAKES);
    }
    // A close is told to us some time after it returned.
    let mut by_kernel = None;
    crate::support::place::until("the kernel reads it by itself", || {
        let file = LocalFile::open(mount.path("large")).unwrap();
        assert_eq!(read(&file), content(LEN));
        // One that is read through us has to be closed before the next.
        by_kernel = (mount.metrics.passthrough_opens.value() > 0).then_some(file);
        by_kernel.is_some()
    });
    kept.complete.store(false, Ordering::SeqCst);
    let before = mount.metrics.passthrough_opens.value();
    let another = LocalFile::open(mount.path("large")).unwrap();
    assert_eq!(mount.metrics.passthrough_opens.value(), before + 1);
    assert_eq!(read(&another), content(LEN));
    drop((by_kernel, another));
    crate::support::place::until("it is read through us again", || {
        let before = mount.metrics.passthrough_opens.value();
        assert_eq!(fs::read(mount.path("large")).unwrap(), content(LEN));
        mount.metrics.passthrough_opens.value() == before
    });
}

/// Opens and closes that meet, while the file becomes complete and incomplete again.
#[test]
fn opens_in_both_ways_never_collide() {
    let (kept, mount) = keeper();
    let content = content(LEN);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (mount, content) = (&mount, &content);
            scope.spawn(move || {
                let mut bytes = [0; 4096];
                for round in 0..300 {
                    let file = LocalFile::open(mount.path("large")).unwrap();
                    let at = (reader * 1000 + round * 7) * 97 % (LEN - bytes.len());
                    file.read_exact_at(&mut bytes, at as u64).unwrap();
                    assert_eq!(bytes[..], content[at..at + bytes.len()]);
                }
            });
        }
        for round in 0..100 {
            kept.complete.store(round % 2 == 0, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(3));
        }
    });
}

#[test]
fn a_map_of_a_file_that_the_kernel_reads_is_right() {
    let (kept, mount) = keeper();
    kept.complete.store(true, Ordering::SeqCst);
    let program = "import mmap, os, sys\n\
        map = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)\n\
        assert map[:] == bytes(n % 251 for n in range(len(map)))\n";
    super::python(program, &[&mount.path("large")]);
}

/// What handing files over takes.
pub(crate) const TAKES: &str = "the kernel hands files over to root only, from Linux 6.9 on";

fn may_hand_over(mount: &Mount) -> bool {
    is_allowed(&mount.backing())
}

/// Whether the kernel lets us hand over files that are there.
pub(crate) fn is_allowed(backing: &Path) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let is_overlay = rustix::fs::statfs(backing).unwrap().f_type == 0x794c_7630;
    rustix::process::geteuid().is_root() && release >= (6, 9) && !is_overlay
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn read(file: &LocalFile) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A mounted tree of files that never change, and the switch that makes them complete.
fn keeper() -> (Arc<Keeper>, Mount) {
    let mut keeper = None;
    let mount = Mount::new(|dir| {
        fs::write(dir.join("large"), content(LEN)).unwrap();
        fs::write(dir.join("small"), content(1000)).unwrap();
        let made = Arc::new(Keeper { dir: dir.to_owned(), ..Keeper::default() });
        keeper = Some(made.clone());
        Arc::new(Kept(made))
    });
    (keeper.unwrap(), mount)
}

#[derive(Default)]
struct Keeper {
    dir: std::path::PathBuf,
    complete: AtomicBool,
    reads: std::sync::Mutex<std::collections::BTreeSet<String>>,
}

impl Keeper {
    /// The names of the files of which something was read through us.
    fn reads(&self) -> Vec<String> {
        self.reads.lock().unwrap().iter().cloned().collect()
    }
}

struct Kept(Arc<Keeper>);

struct KeptFile {
    keeper: Arc<Keeper>,
    name: String,
    file: LocalFile,
    complete: bool,
}

fn attr(len: u64) -> Attr {
    Attr::file(len, SystemTime::UNIX_EPOCH, Duration::from_hours(1))
}

#[async_trait]
impl Tree for Kept {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        if path.is_root() {
            return Ok(Attr::dir(SystemTime::UNIX_EPOCH, Duration::from_hours(1)));
        }
        let found = fs::metadata(self.0.dir.join(path.to_string()));
        found.map(|found| attr(found.len())).map_err(|_| ErrorKind::NotFound.into())
    }

    fn list(&self, _: &TreePath) -> BoxStream<'static, Result<Entry>> {
        stream::empty().boxed()
    }

    async fn open(&self, path: &TreePath, _: OpenMode) -> Result<Arc<dyn File>> {
        let name = path.to_string();
        let file = LocalFile::open(self.0.dir.join(&name)).unwrap();
        let complete = self.0.complete.load(Ordering::SeqCst);
        Ok(Arc::new(KeptFile { keeper: self.0.clone(), name, file, complete }))
    }
}

#[async_trait]
impl File for KeptFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.keeper.reads.lock().unwrap().insert(self.name.clone());
        let mut bytes = vec![0; len];
        let len = self.file.read_at(&mut bytes, offset).unwrap();
        bytes.truncate(len);
        Ok(bytes.into())
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(attr(self.file.metadata().unwrap().len()))
    }

    fn page_cache(&self) -> PageCache {
        PageCache::Keep
    }

    fn local(&self) -> Option<&LocalFile> {
        self.complete.then_some(&self.file)
    }
}
