//! Writers, readers, collectors and crashes in any order, over the real SQL and the real packs.
//!
//! Whatever happens, every version and everything that a reader holds reads as it was made; and
//! once all have ended, what nobody needs is gone. A step may stop at any request to the store, for
//! ever or until others have gone on; leases lapse and clocks jump meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atelier::catalog::{
    Catalog, Kind, NewResource, NewVersion, Project, Reader, Version as Record, VersionChange,
    Writer,
};
use atelier::chunk::Packs;
use atelier::error::{Error, ErrorKind, Result};
use atelier::object::memory::MemoryStore;
use atelier::object::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use atelier::path::TreePath;
use atelier::snapshot::collect::{Plan, collect};
use atelier::snapshot::scrub::scrub;
use atelier::snapshot::{Capture, Version, record};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use proptest::prelude::*;
use sqlx::{AnyConnection, Connection as _};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// Longer than a case takes: leases lapse when the model says so.
const LEASE: Duration = Duration::from_mins(10);

/// What somebody does next. Those who stopped, who read, and versions are chosen by index.
#[derive(Clone, Debug)]
enum Step {
    /// Makes a version of these contents, and stops at that request to the store.
    Create { name: u8, contents: BTreeSet<u8>, stop: Option<usize> },
    /// Collects, and stops at that request to the store.
    Collect { grace: bool, below: u8, stop: Option<usize> },
    /// Lets somebody who stopped go on.
    Resume(usize),
    /// Ends somebody who stopped, where he is.
    Kill(usize),
    /// Opens the newest version of a dataset.
    Open(u8),
    /// Closes what somebody has open.
    Close(usize),
    /// Deletes a version, or a dataset with its last one.
    Delete(usize),
    /// Nobody was heard of for longer than his lease.
    Lapse,
    /// The database's clock jumps by so many minutes.
    Jump(i8),
    /// Reads the whole store and checks it.
    Verify,
}

/// The files of a version: their names and which contents they have.
type Files = BTreeMap<String, u8>;

struct Model {
    catalog: Catalog,
    project: Project,
    store: Arc<MemoryStore>,
    /// To move clocks and end leases.
    db: AnyConnection,
    expected: BTreeMap<(String, u32), Files>,
    stopped: Vec<Stopped>,
    open: Vec<Open>,
    _dir: tempfile::TempDir,
}

/// Somebody who stopped in the middle of his work.
struct Stopped {
    gate: Arc<Gate>,
    work: JoinHandle<Done>,
    /// Whether he wasn't heard of for too long.
    lapsed: bool,
}

/// What somebody's work came to.
enum Done {
    Created(Result<(Record, Files)>),
    Collected(Result<()>),
}

/// A version that somebody reads.
struct Open {
    reader: Reader,
    version: Version,
    files: Files,
    lapsed: bool,
}

impl Model {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("catalog.db");
        let catalog = Catalog::open(&file, "ada").await.unwrap();
        catalog.create_organization("lab").await.unwrap();
        let at = "lab/lab Team".parse().unwrap();
        let project = catalog.create_project(&at, "tabby", "", None).await.unwrap();
        let mut db = AnyConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
        // What the model writes need not outlive it.
        sqlx::raw_sql("PRAGMA busy_timeout = 30000; PRAGMA synchronous = OFF")
            .execute(&mut db)
            .await
            .unwrap();
        Self {
            catalog,
            project,
            store: Arc::default(),
            db,
            expected: BTreeMap::new(),
            stopped: Vec::new(),
            open: Vec::new(),
            _dir: dir,
        }
    }

    async fn run(&mut self, step: &Step) {
        match step {
            Step::Create { name, contents, stop } => {
                let gate = Gate::new(&self.store, *stop);
                let writer = self.catalog.begin_writing(LEASE).await.unwrap();
                let work = create(
                    self.catalog.clone(),
                    self.project.clone(),
                    gate.clone(),
                    writer,
                    format!("dataset-{name}"),
                    contents.clone(),
                );
                self.go(gate, spawn_local(work), false).await;
            }
            Step::Collect { grace, below, stop } => {
                let gate = Gate::new(&self.store, *stop);
                let grace = Duration::from_secs(if *grace { 3600 } else { 0 });
                let plan = Plan { grace, lease: LEASE, compact_below: *below };
                let (catalog, packs) = (self.catalog.clone(), packs(gate.clone()));
                let work = async move {
                    Done::Collected(collect(&catalog, &packs, &plan).await.map(|_| ()))
                };
                self.go(gate, spawn_local(work), false).await;
            }
            Step::Resume(index) => {
                if let Some(Stopped { gate, work, lapsed }) = take(&mut self.stopped, *index) {
                    gate.open();
                    self.go(gate, work, lapsed).await;
                }
            }
            Step::Kill(index) => {
                if let Some(Stopped { gate, work, .. }) = take(&mut self.stopped, *index) {
                    work.abort();
                    let _ = work.await;
                    gate.kill();
                }
            }
            Step::Open(name) => self.open(&format!("dataset-{name}")).await,
            Step::Close(index) => {
                if let Some(open) = take(&mut self.open, *index) {
                    open.reader.end().await.unwrap();
                }
            }
            Step::Delete(index) => self.delete(*index).await,
            Step::Lapse => {
                self.sql("UPDATE lease SET expires = 0").await;
                self.lapse();
            }
            Step::Jump(minutes) => {
                // As if all that is noted had been noted so much earlier.
                let by = i64::from(*minutes) * 60_000_000;
                self.sql(&format!("UPDATE lease SET expires = expires - ({by})")).await;
                self.sql(&format!("UPDATE object SET since = since - ({by})")).await;
                if *minutes > 0 {
                    self.lapse();
                }
            }
            Step::Verify => {
                let packs = packs(self.store.clone());
                let scrubbed = scrub(&self.catalog, &packs, Arc::default()).await.unwrap();
                assert!(scrubbed.is_whole(), "{scrubbed:?}");
            }
        }
    }

    /// Waits until somebody is done or stops.
    async fn go(&mut self, gate: Arc<Gate>, work: JoinHandle<Done>, lapsed: bool) {
        while !work.is_finished() {
            if gate.has_stopped() {
                self.stopped.push(Stopped { gate, work, lapsed });
                return;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        match work.await.unwrap() {
            Done::Created(Ok((version, files))) => {
                let resource = self.catalog.records().await.unwrap();
                let made = |(_, record): &&(_, Record)| *record == version;
                let (resource, _) = resource.iter().find(made).unwrap();
                self.expected.insert((resource.name.clone(), version.number), files);
            }
            // Only who wasn't heard of for too long has to do it again.
            Done::Created(Err(error)) => {
                assert!(lapsed && error.kind() == ErrorKind::StaleHandle, "{error:?}");
            }
            Done::Collected(done) => done.unwrap(),
        }
    }

    async fn open(&mut self, name: &str) {
        let shown = self.catalog.resources(&self.project, Kind::Dataset).await.unwrap();
        let Some(found) = shown.into_iter().find(|shown| shown.name == name) else { return };
        let newest = self.catalog.newest_version(&found.resource.id).await.unwrap();
        let Some(newest) = newest else { return };
        let reader = self.catalog.begin_reading(LEASE).await.unwrap();
        let root = reader.hold(&newest).await.unwrap().parse().unwrap();
        let packs = packs(self.store.clone()).for_reader(reader.clone());
        let version = Version::open(packs, root).await.unwrap();
        let files = self.expected[&(name.to_owned(), newest.number)].clone();
        self.open.push(Open { reader, version, files, lapsed: false });
    }

    async fn delete(&mut self, index: usize) {
        let keys: Vec<_> = self.expected.keys().cloned().collect();
        let Some((name, number)) = keys.get(index % keys.len().max(1)) else { return };
        let found = self.catalog.resource(&self.project, Kind::Dataset, name).await.unwrap();
        if keys.iter().filter(|(other, _)| other == name).count() > 1 {
            let change = VersionChange { active: Some(false), ..VersionChange::default() };
            self.catalog.update_version(&found.id, *number, change).await.unwrap();
            self.catalog.delete_version(&found.id, *number).await.unwrap();
        } else {
            self.catalog.activate(&self.project, Kind::Dataset, name, false).await.unwrap();
            let found = self.catalog.resource(&self.project, Kind::Dataset, name).await.unwrap();
            self.catalog.delete_resource(&found).await.unwrap();
        }
        self.expected.remove(&(name.clone(), *number));
    }

    fn lapse(&mut self) {
        self.stopped.iter_mut().for_each(|stopped| stopped.lapsed = true);
        self.open.iter_mut().for_each(|open| open.lapsed = true);
    }

    async fn sql(&mut self, statement: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&mut self.db)
            .await
            .unwrap();
    }

    /// Everything that is there reads as it was made.
    async fn check(&self) {
        let packs = packs(self.store.clone());
        let versions = self.catalog.all_versions().await.unwrap();
        let there: Vec<_> = versions.iter().map(|v| (v.name.clone(), v.number)).collect();
        assert_eq!(there, self.expected.keys().cloned().collect::<Vec<_>>());
        for version in versions {
            let files = &self.expected[&(version.name.clone(), version.number)];
            let root = version.root.parse().unwrap();
            let version = Version::open(packs.clone(), root).await.unwrap();
            assert!(version.verify().await.unwrap().is_whole());
            for (name, content) in files {
                assert!(read(&version, name).await.unwrap() == bytes_of(*content), "{name}");
            }
        }
        for open in &self.open {
            for (name, content) in &open.files {
                match read(&open.version, name).await {
                    Ok(bytes) => assert!(bytes == bytes_of(*content), "{name}"),
                    // Only who wasn't heard of for too long, and he is told so.
                    Err(error) => {
                        assert!(open.lapsed && error.kind() == ErrorKind::StaleHandle, "{error:?}");
                    }
                }
            }
        }
    }

    /// Ends all who are left, and collects: nothing stays that nobody needs.
    async fn finish(mut self) {
        while let Some(Stopped { gate, work, lapsed }) = self.stopped.pop() {
            gate.open();
            self.go(gate, work, lapsed).await;
        }
        for open in std::mem::take(&mut self.open) {
            open.reader.end().await.unwrap();
        }
        self.sql("UPDATE lease SET expires = 0").await;
        self.sql("UPDATE object SET since = 0").await;
        self.collect_twice().await;
        self.check().await;
        let live: BTreeSet<_> = self.catalog.live_objects().await.unwrap().into_iter().collect();
        let keys = self.keys().await;
        let (records, objects): (Vec<_>, Vec<_>) =
            keys.iter().partition(|key| key.starts_with("versions/"));
        assert_eq!(objects.len(), live.len(), "{objects:?}, but live are {live:?}");
        assert_eq!(records.len(), self.expected.len());
        let copies: BTreeSet<String> = self.roots_of(&records).await;
        assert_eq!(copies, self.catalog.roots().await.unwrap().into_iter().collect());

        while !self.expected.is_empty() {
            self.delete(0).await;
        }
        self.collect_twice().await;
        assert_eq!(self.keys().await, [""; 0]);
    }

    async fn collect_twice(&mut self) {
        for _ in 0..2 {
            self.run(&Step::Collect { grace: false, below: 50, stop: None }).await;
        }
    }

    async fn keys(&self) -> Vec<String> {
        let pages: Vec<_> = self.store.list("", Depth::All).try_collect().await.unwrap();
        pages.into_iter().flat_map(|page| page.objects).map(|object| object.key).collect()
    }

    /// The roots that the copies of records name.
    async fn roots_of(&self, records: &[&String]) -> BTreeSet<String> {
        let mut roots = BTreeSet::new();
        for key in records {
            let bytes = self.store.get(key, 0..u64::MAX, None).await.unwrap();
            let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            roots.insert(record["version"]["root"].as_str().unwrap().to_owned());
        }
        roots
    }
}

/// Makes the next version of a dataset, as `atelier dataset create` does.
async fn create(
    catalog: Catalog,
    project: Project,
    gate: Arc<Gate>,
    writer: Writer,
    name: String,
    contents: BTreeSet<u8>,
) -> Done {
    let packs = packs(gate.clone()).for_writer(writer.clone());
    let made = async {
        let shown = catalog.resources(&project, Kind::Dataset).await?;
        let mut capture = Capture::new();
        if let Some(found) = shown.iter().find(|shown| shown.name == name)
            && let Some(newest) = catalog.versions(&found.resource.id).await?.pop()
            && let Ok(previous) = Version::open(packs.clone(), newest.root.parse()?).await
        {
            capture = capture.since(previous);
        }
        let mut files = Files::new();
        for content in contents {
            let file = format!("file-{content}");
            capture = capture.bytes(TreePath::parse(&file)?, bytes_of(content));
            files.insert(file, content);
        }
        let captured = capture.run(&packs).await?;
        let new = NewResource {
            kind: Kind::Dataset,
            name,
            description: String::new(),
            spec: serde_json::json!({}),
        };
        let version = NewVersion {
            root: captured.root.to_string(),
            files: captured.totals.files,
            bytes: captured.totals.bytes,
            spec: serde_json::json!({}),
            needs: captured.needs.iter().map(ToString::to_string).collect(),
        };
        let (resource, version) = writer.publish(&project, new, version).await?;
        // Who is killed now leaves no copy of the record.
        if !files.values().any(|content| *content == 0) {
            record::keep(&*gate.store, &resource, &version).await?;
        }
        Ok((version, files))
    };
    let made = made.await;
    let _ = writer.end().await;
    Done::Created(made)
}

fn packs(store: Arc<impl ObjectStore>) -> Packs {
    Packs::new(store).of_catalogue()
}

async fn read(version: &Version, name: &str) -> Result<Bytes> {
    version.read(&TreePath::parse(name).unwrap(), 0..u64::MAX).await
}

/// Small files, and two large ones that have their first half in common.
fn bytes_of(content: u8) -> Bytes {
    static ALL: LazyLock<Vec<Bytes>> = LazyLock::new(|| (0..8).map(made).collect());
    ALL[usize::from(content)].clone()
}

fn made(content: u8) -> Bytes {
    let noise = |seed: u8, len: usize| {
        let mut bytes = vec![0; len];
        let mut state = u64::from(seed) + 1;
        for byte in &mut bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        bytes
    };
    match content {
        6 | 7 => [noise(6, 400_000), noise(content, 200_000)].concat().into(),
        small => noise(small, 600 + 900 * usize::from(small)).into(),
    }
}

fn take<T>(all: &mut Vec<T>, index: usize) -> Option<T> {
    (!all.is_empty()).then(|| all.swap_remove(index % all.len()))
}

/// A store whose user stops at one of his requests.
#[derive(Debug)]
struct Gate {
    store: Arc<MemoryStore>,
    /// How many requests are left before he stops.
    left: Mutex<Option<usize>>,
    waiting: AtomicUsize,
    opened: Semaphore,
    killed: AtomicBool,
}

impl Gate {
    fn new(store: &Arc<MemoryStore>, left: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            left: Mutex::new(left),
            waiting: AtomicUsize::new(0),
            opened: Semaphore::new(0),
            killed: AtomicBool::new(false),
        })
    }

    fn has_stopped(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn open(&self) {
        *self.left.lock().unwrap() = None;
        self.waiting.store(0, Ordering::SeqCst);
        self.opened.add_permits(1000);
    }

    /// Nothing comes through any more.
    fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.open();
    }

    async fn pass(&self) -> Result<()> {
        let stops = match &mut *self.left.lock().unwrap() {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        if stops {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.opened.acquire().await.unwrap().forget();
        }
        if self.killed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Io, "this process was killed"));
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        self.pass().await?;
        self.store.get(key, range, if_match).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.pass().await?;
        self.store.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.pass().await?;
        self.store.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.pass().await?;
        self.store.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let listed = self.store.list(prefix, depth);
        if self.killed.load(Ordering::SeqCst) {
            let killed = Error::new(ErrorKind::Io, "this process was killed");
            return stream::iter([Err(killed)]).boxed();
        }
        listed
    }
}

fn step() -> impl Strategy<Value = Step> {
    let stop = || prop::option::weighted(0.6, 0..24_usize);
    let contents = prop::collection::btree_set(0..8_u8, 1..5);
    let below = prop::sample::select(vec![0, 50, 99]);
    prop_oneof![
        8 => (0..3_u8, contents, stop())
            .prop_map(|(name, contents, stop)| Step::Create { name, contents, stop }),
        6 => (any::<bool>(), below, stop())
            .prop_map(|(grace, below, stop)| Step::Collect { grace, below, stop }),
        6 => (0..8_usize).prop_map(Step::Resume),
        2 => (0..8_usize).prop_map(Step::Kill),
        3 => (0..3_u8).prop_map(Step::Open),
        2 => (0..8_usize).prop_map(Step::Close),
        5 => (0..8_usize).prop_map(Step::Delete),
        1 => Just(Step::Lapse),
        1 => (-100..100_i8).prop_map(Step::Jump),
        1 => Just(Step::Verify),
    ]
}

proptest! {
    // More with `PROPTEST_CASES`.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_needed_stays_and_what_is_not_goes(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            let mut model = Model::new().await;
            for step in &steps {
                model.run(step).await;
                model.check().await;
            }
            model.finish().await;
        });
    }
}
