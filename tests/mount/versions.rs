//! What the kernel keeps of objects: all of it while they are the same, nothing of it once not.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use atelier::cache::BlockCache;
use atelier::error::Result;
use atelier::object::memory::MemoryStore;
use atelier::object::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use atelier::tree::bucket::BucketTree;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use rustix::io::Errno;

use super::{Mount, python};

const LEN: usize = 3 << 20;

/// A bucket in memory that answers a little late, and a mount of it that believes nothing for
/// longer than `ttl`.
fn bucket(ttl: Duration) -> (Arc<MemoryStore>, Mount) {
    let store = Arc::new(MemoryStore::new());
    let cache = Arc::new(BlockCache::new(64 << 20, Arc::default()));
    let tree = BucketTree::new(Arc::new(Late(store.clone())), cache, "tests", ttl);
    let mount = Mount::new(|_| Arc::new(tree));
    (store, mount)
}

fn put(mount: &Mount, store: &MemoryStore, fill: u8, len: usize) {
    let runtime = mount.runtime.as_ref().unwrap();
    runtime.block_on(store.put("a", vec![fill; len].into(), PutMode::Overwrite)).unwrap();
}

#[test]
fn a_second_reader_asks_for_nothing() {
    let (store, mount) = bucket(Duration::from_millis(100));
    put(&mount, &store, b'a', LEN);
    assert_eq!(fs::read(mount.path("a")).unwrap(), vec![b'a'; LEN]);
    let reads = mount.metrics.kernel_reads.value();
    assert!(reads > 0);
    for _ in 0..3 {
        assert_eq!(fs::read(mount.path("a")).unwrap(), vec![b'a'; LEN]);
        // Attributes are asked for anew and are the same.
        std::thread::sleep(Duration::from_millis(120));
    }
    assert_eq!(mount.metrics.kernel_reads.value(), reads);
}

/// Programs look for names that aren't there all day, such as `__init__.py` or an index.
#[test]
fn a_name_that_is_not_there_is_asked_for_once() {
    let (store, mount) = bucket(Duration::from_millis(500));
    put(&mount, &store, b'a', 1);
    for _ in 0..100 {
        assert!(!mount.path("b").exists());
    }
    let asked = mount.metrics.lookups.value();
    assert!(asked < 10, "{asked} times");
    let runtime = mount.runtime.as_ref().unwrap();
    runtime.block_on(store.put("b", vec![1].into(), PutMode::Overwrite)).unwrap();
    crate::support::place::until("it is there", || mount.path("b").exists());
}

#[test]
fn what_is_opened_anew_shows_no_old_byte() {
    let (store, mount) = bucket(Duration::ZERO);
    for round in 0..20 {
        let fill = if round % 2 == 0 { b'a' } else { b'b' };
        put(&mount, &store, fill, LEN);
        assert_eq!(fs::read(mount.path("a")).unwrap(), vec![fill; LEN], "round {round}");
    }
}

#[test]
fn an_old_version_that_is_open_keeps_its_pages_and_gets_no_new_ones() {
    let (store, mount) = bucket(Duration::ZERO);
    put(&mount, &store, b'a', LEN);
    let old = File::open(mount.path("a")).unwrap();
    let mut byte = [0];
    old.read_exact_at(&mut byte, 0).unwrap();
    let before = old.metadata().unwrap();
    put(&mount, &store, b'b', 2 * LEN);
    // The new version is in the kernel's pages from end to end.
    assert_eq!(fs::read(mount.path("a")).unwrap(), vec![b'b'; 2 * LEN]);
    old.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [b'a']);
    let far = old.read_exact_at(&mut byte, LEN as u64 - 1);
    match far {
        Ok(()) => assert_eq!(byte, [b'a']),
        Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE)),
    }
    let now = old.metadata().unwrap();
    assert_eq!((now.size(), now.ino()), (before.size(), before.ino()));
    assert_ne!(fs::metadata(mount.path("a")).unwrap().ino(), now.ino());
}

/// Readers of a key that changes all the time: each open file holds one fill only.
#[test]
fn no_open_file_mixes_versions_while_its_object_changes() {
    for ttl in [Duration::ZERO, Duration::from_millis(20)] {
        let (store, mount) = bucket(ttl);
        put(&mount, &store, b'a', LEN);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| read_until(&mount, &ended))).collect();
            for round in 0..60 {
                put(&mount, &store, b'a' + round % 3, LEN);
                std::thread::sleep(Duration::from_millis(15));
            }
            ended.store(true, Ordering::SeqCst);
            let whole: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
            assert!(whole > 0, "some files were read to their end");
        });
    }
}

#[test]
fn a_map_of_an_old_version_keeps_its_pages() {
    let (store, mount) = bucket(Duration::ZERO);
    put(&mount, &store, b'a', LEN);
    let ready = mount.dir.path().join("ready");
    let go_on = mount.dir.path().join("go on");
    let program = "import mmap, os, sys, time\n\
        old = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)\n\
        assert old[:4096] == b'a' * 4096\n\
        open(sys.argv[2], 'w').close()\n\
        while not os.path.exists(sys.argv[3]): time.sleep(0.01)\n\
        assert old[:4096] == b'a' * 4096\n\
        new = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)\n\
        assert new[:] == b'b' * len(new)\n";
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| python(program, &[&mount.path("a"), &ready, &go_on]));
        crate::support::place::until("it is mapped", || ready.exists() || reader.is_finished());
        put(&mount, &store, b'b', LEN);
        assert_eq!(fs::read(mount.path("a")).unwrap(), vec![b'b'; LEN]);
        File::create(&go_on).unwrap();
        reader.join().unwrap();
    });
}

/// Opens and reads a file over and over; tells how often it came to the end of it.
fn read_until(mount: &Mount, ended: &AtomicBool) -> usize {
    let (mut whole, mut bytes) = (0, vec![0; 64 << 10]);
    while !ended.load(Ordering::SeqCst) {
        let file = match File::open(mount.path("a")) {
            Ok(file) => file,
            // It was replaced while it was opened, and again while the kernel tried once more.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::STALE) => continue,
            Err(error) => panic!("it can't be opened: {error}"),
        };
        let mut fill = None;
        // From both ends to the middle.
        let pieces = LEN / bytes.len();
        let order = (0..pieces).map(|at| if at % 2 == 0 { at / 2 } else { pieces - 1 - at / 2 });
        let read = order.into_iter().try_for_each(|at| {
            file.read_exact_at(&mut bytes, (at * (64 << 10)) as u64)?;
            let expected = *fill.get_or_insert(bytes[0]);
            assert!(bytes.iter().all(|byte| *byte == expected), "it mixes versions");
            Ok::<_, std::io::Error>(())
        });
        match read {
            Ok(()) => whole += 1,
            Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE)),
        }
    }
    whole
}

/// A store whose answers come late, so that others come between.
#[derive(Debug)]
struct Late(Arc<MemoryStore>);

async fn later() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

#[async_trait]
impl ObjectStore for Late {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        let got = self.0.get(key, range, if_match).await;
        later().await;
        got
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let found = self.0.head(key).await;
        later().await;
        found
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.0.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.0.list(prefix, depth)
    }
}
