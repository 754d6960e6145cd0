//! What holds after a crash: a version is there as a whole or not at all.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use atelier::chunk::Packs;
use atelier::error::{Error, ErrorKind, Result};
use atelier::object::memory::MemoryStore;
use atelier::object::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use atelier::path::TreePath;
use atelier::snapshot::{Capture, Captured, Version};
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::support::home::Home;

/// `kill -9` at any moment of `dataset create` leaves the old version, and the next run succeeds.
#[test]
fn a_killed_ingest_leaves_nothing_half_done() {
    let home = Home::with_project();
    let source = home.path("data");
    fill(&source, 0);
    home.ok(["dataset", "create", "data", "data"]);
    let mut newest = 1;
    for round in 1..=12 {
        fill(&source, round);
        // The first rounds learn how long a run takes; the later ones die somewhere in it.
        let started = Instant::now();
        let mut child = home
            .command(["dataset", "create", "data", "data"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        thread::sleep(Duration::from_millis(7 * u64::from(round)));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let shown = home.json(["dataset", "show", "data"])["version"].as_u64().unwrap();
        assert!(shown == newest || shown == newest + 1, "{shown} after {:?}", started.elapsed());
        newest = shown;
        home.ok(["dataset", "verify", "data"]);
    }
    let made = home.run(["dataset", "create", "data", "data"]);
    assert_eq!(made.code, 0, "{made:?}");
    home.ok(["dataset", "verify", "data"]);

    // What the killed ones left unfinished goes once nobody can be writing it any more.
    let unfinished = home.atelier().join("store/.unfinished");
    for entry in fs::read_dir(&unfinished).unwrap() {
        let file = fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
    }
    home.ok(["dataset", "list"]);
    assert_eq!(fs::read_dir(&unfinished).unwrap().count(), 0);
}

/// Whichever write is the one that fails, the old version stays whole and the next try succeeds.
#[tokio::test]
async fn a_store_that_is_full_loses_nothing() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path(), 0);
    let store = Arc::new(Full { inner: MemoryStore::new(), room: AtomicUsize::new(usize::MAX) });
    let packs = Packs::new(store.clone());
    let old = capture(&packs, from.path(), None).await.unwrap();
    let old = Version::open(packs.clone(), old.root).await.unwrap();
    fill(from.path(), 1);
    for room in 0.. {
        store.room.store(room, Ordering::Relaxed);
        let tried = capture(&packs, from.path(), Some(old.clone())).await;
        store.room.store(usize::MAX, Ordering::Relaxed);
        assert!(old.verify().await.unwrap().is_whole());
        match tried {
            Err(error) => assert_eq!(error.kind(), ErrorKind::StorageFull, "{error:?}"),
            Ok(made) => {
                assert!(room >= 3, "packs, pages and the root are written");
                let made = Version::open(packs.clone(), made.root).await.unwrap();
                assert!(made.verify().await.unwrap().is_whole());
                break;
            }
        }
    }
}

/// A capture whose caller goes away stops, and doesn't write a root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_nobody_waits_for_stops() {
    let from = tempfile::tempdir().unwrap();
    for n in 0..2000 {
        fs::write(from.path().join(format!("{n}")), vec![1; 5000]).unwrap();
    }
    let store = Arc::new(MemoryStore::new());
    let packs = Packs::new(store.clone());
    let run = Capture::new().directory(TreePath::root(), from.path());
    let given_up = tokio::time::timeout(Duration::from_millis(1), run.run(&packs)).await;
    assert!(given_up.is_err());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let meta =
        futures_util::TryStreamExt::try_collect::<Vec<ListPage>>(store.list("meta/", Depth::All));
    assert!(meta.await.unwrap().iter().all(|page| page.objects.is_empty()));
}

async fn capture(packs: &Packs, from: &Path, previous: Option<Version>) -> Result<Captured> {
    let capture = Capture::new().directory(TreePath::root(), from);
    match previous {
        Some(previous) => capture.since(previous).run(packs).await,
        None => capture.run(packs).await,
    }
}

/// Fills a directory; most of it is other content each round.
fn fill(dir: &Path, round: u8) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    for n in 0..60_u8 {
        fs::write(dir.join(format!("sub/{n}.txt")), format!("{n} {round}\n").repeat(400)).unwrap();
    }
    let mut noise = vec![0; 1 << 20];
    getrandom::fill(&mut noise).unwrap();
    fs::write(dir.join("large"), noise.repeat(6)).unwrap();
    fs::write(dir.join("same"), "the same\n".repeat(1000)).unwrap();
}

/// A store with room for so many objects more.
#[derive(Debug)]
struct Full {
    inner: MemoryStore,
    room: AtomicUsize,
}

#[async_trait]
impl ObjectStore for Full {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        self.inner.get(key, range, if_match).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        let left = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(Error::new(ErrorKind::StorageFull, format!("there is no room for {key}")));
        }
        self.inner.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.inner.list(prefix, depth)
    }
}
