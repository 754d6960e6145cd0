//! Versions of datasets: what differs, what they are called, what they cost, and as plain files.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use atelier::chunk::Packs;
use atelier::error::{ErrorKind, Result};
use atelier::object::memory::MemoryStore;
use atelier::object::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use atelier::path::TreePath;
use atelier::snapshot::diff::{Change, Difference, diff};
use atelier::snapshot::export::export;
use atelier::snapshot::{Capture, Version};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;

use crate::support::home::Home;
use crate::support::place::{Place, until};

/// A store in memory that counts how often metadata is read.
#[derive(Debug, Default)]
struct Counting {
    inner: MemoryStore,
    reads: AtomicUsize,
}

#[async_trait]
impl ObjectStore for Counting {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        if key.starts_with("meta/") {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.get(key, range, if_match).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.inner.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.inner.list(prefix, depth)
    }
}

async fn capture(packs: &Packs, from: &Path, since: Option<Version>) -> Version {
    let mut capture = Capture::new().directory(TreePath::root(), from);
    if let Some(since) = since {
        capture = capture.since(since);
    }
    // Pages are read from the store again, as by another process.
    Version::open(packs.clone(), capture.run(packs).await.unwrap().root).await.unwrap()
}

async fn differences(before: &Version, after: &Version) -> Vec<(String, &'static str)> {
    let found: Vec<Difference> = diff(before, after).try_collect().await.unwrap();
    let what = |change: &Change| match change {
        Change::Added(_) => "added",
        Change::Removed(_) => "removed",
        Change::Changed { .. } => "changed",
        Change::Touched => "touched",
    };
    found.iter().map(|found| (found.path.to_string(), what(&found.change))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_reads_only_the_pages_that_differ() {
    let from = tempfile::tempdir().unwrap();
    let file = |n: u32| from.path().join(format!("{:02}/{n:05}", n % 20));
    for n in 0..6000_u32 {
        fs::create_dir_all(file(n).parent().unwrap()).unwrap();
        fs::write(file(n), format!("{n}").repeat(80)).unwrap();
    }
    let store = Arc::new(Counting::default());
    let packs = Packs::new(store.clone());
    let before = capture(&packs, from.path(), None).await;
    fs::write(file(1234), "changed").unwrap();
    fs::remove_file(file(5001)).unwrap();
    fs::write(from.path().join("07/zzz"), "added").unwrap();
    let after = capture(&packs, from.path(), Some(before.clone())).await;

    store.reads.store(0, Ordering::Relaxed);
    let found = differences(&before, &after).await;
    let reads = store.reads.load(Ordering::Relaxed);
    let changes: Vec<_> = found.iter().filter(|(_, what)| *what != "touched").collect();
    assert_eq!(
        changes,
        [
            &("01/05001".to_owned(), "removed"),
            &("07/zzz".to_owned(), "added"),
            &("14/01234".to_owned(), "changed"),
        ]
    );
    assert!((1..=10).contains(&reads), "{reads} reads");

    store.reads.store(0, Ordering::Relaxed);
    let again = Version::open(packs.clone(), before.id()).await.unwrap();
    let all: Vec<_> = again.entries().try_collect().await.unwrap();
    assert_eq!(all.len(), 6020);
    assert!(store.reads.load(Ordering::Relaxed) > 30, "so it could have been more");
    assert_eq!(differences(&before, &before).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_tells_kinds_modes_and_times_apart() {
    let from = tempfile::tempdir().unwrap();
    let path = |name: &str| from.path().join(name);
    for name in ["same", "mode", "kind", "touched", "gone"] {
        fs::write(path(name), "content").unwrap();
    }
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let before = capture(&packs, from.path(), None).await;
    fs::set_permissions(path("mode"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(path("kind")).unwrap();
    symlink("same", path("kind")).unwrap();
    fs::remove_file(path("gone")).unwrap();
    fs::create_dir(path("new")).unwrap();
    let touched = fs::File::options().write(true).open(path("touched")).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let after = capture(&packs, from.path(), None).await;
    let expected = [
        ("gone", "removed"),
        ("kind", "changed"),
        ("mode", "changed"),
        ("new", "added"),
        ("touched", "touched"),
    ];
    let found = differences(&before, &after).await;
    assert_eq!(found, expected.map(|(name, what)| (name.to_owned(), what)));
    // Backwards, what was added is removed.
    let back = differences(&after, &before).await;
    assert_eq!(back[0], ("gone".to_owned(), "added"));
    assert_eq!(back[3], ("new".to_owned(), "removed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_was_interrupted_goes_on() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    for n in 0..50 {
        fs::write(from.path().join(format!("a/{n}")), format!("{n}").repeat(1000)).unwrap();
    }
    fs::write(from.path().join("a/b/large"), vec![7; 3_000_000]).unwrap();
    fs::set_permissions(from.path().join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let version = capture(&packs, from.path(), None).await;

    // As it is when the power fails in the middle: half of the files, and one that isn't whole.
    let scratch = into.path().join(format!(".atelier-export-{}", version.id()));
    fs::create_dir_all(into.path().join("a")).unwrap();
    fs::create_dir(&scratch).unwrap();
    fs::write(scratch.join(".atelier-1-1"), "the beginning").unwrap();
    for n in 0..25 {
        fs::copy(from.path().join(format!("a/{n}")), into.path().join(format!("a/{n}"))).unwrap();
    }
    fs::write(into.path().join("a/0"), "0".repeat(999) + "1").unwrap();
    let done = export(&version, into.path(), Arc::default()).await.unwrap();
    assert_eq!((done.written, done.unchanged, done.removed), (27, 24, 0));
    assert!(!scratch.exists());
    let again = capture(&packs, into.path(), None).await;
    let found = differences(&version, &again).await;
    assert!(found.is_empty(), "{found:?}");

    let refused = export(&version, into.path(), Arc::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DirectoryNotEmpty);
    fs::create_dir(&scratch).unwrap();
    let lock = fs::File::open(&scratch).unwrap();
    lock.lock().unwrap();
    let busy = export(&version, into.path(), Arc::default()).await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
}

/// A home with two versions of the dataset `flowers`.
fn flowers() -> Home {
    let home = Home::with_project();
    fs::create_dir_all(home.path("flowers/red")).unwrap();
    fs::write(home.path("flowers/red/rose.txt"), "a rose\n".repeat(1000)).unwrap();
    fs::write(home.path("flowers/index.csv"), "name,colour\nrose,red\n").unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fs::write(home.path("flowers/tulip.txt"), "a tulip\n".repeat(300)).unwrap();
    fs::write(home.path("flowers/index.csv"), "name,colour\nrose,red\ntulip,any\n").unwrap();
    fs::set_permissions(home.path("flowers/red/rose.txt"), fs::Permissions::from_mode(0o755))
        .unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home
}

#[test]
fn what_differs_is_listed_with_sizes() {
    let home = flowers();
    let lines = home.ok(["dataset", "diff", "flowers"]);
    assert_eq!(
        lines,
        "~ index.csv  21 B -> 31 B\n\
         + tulip.txt  2.34 KiB\n\
         ~ red/rose.txt  mode 0644 -> 0755\n"
    );
    assert_eq!(home.ok(["dataset", "diff", "flowers@1", "flowers@2"]), lines);
    let back = home.json(["dataset", "diff", "flowers@2", "flowers@1"]);
    assert_eq!(back["removed_entries"][0]["path"], "tulip.txt");
    assert_eq!((&back["removed"]["bytes"], &back["added"]["entries"]), (&2400.into(), &0.into()));
    assert_eq!(back["changed_entries"][0]["bytes_before"], 31);
    let stat = home.json(["dataset", "diff", "--stat", "flowers"]);
    assert_eq!((&stat["changed"], &stat["added"]["entries"]), (&2.into(), &1.into()));
    assert!(stat["added_entries"].is_null());
    assert!(home.ok(["dataset", "diff", "flowers", "flowers"]).is_empty());
    let first = home.fails(["dataset", "diff", "flowers@1"]);
    assert!(first.contains("no version before flowers@1"), "{first}");
}

#[test]
fn a_tag_is_another_name_of_a_version() {
    let home = flowers();
    home.ok(["dataset", "tag", "flowers@1", "v1.0"]);
    home.ok(["dataset", "tag", "flowers", "best"]);
    assert_eq!(home.json(["dataset", "show", "flowers@v1.0"])["version"], 1);
    assert_eq!(home.json(["dataset", "log", "flowers"])[0]["tags"], serde_json::json!(["best"]));
    let taken = home.fails(["dataset", "tag", "flowers@1", "best"]);
    assert!(taken.contains("flowers@2 has the tag best already"), "{taken}");
    assert!(taken.contains("hint: --move takes it to version 1"), "{taken}");
    home.ok(["dataset", "tag", "flowers@1", "best", "--move"]);
    assert_eq!(home.json(["dataset", "show", "flowers@best"])["tags"][1], "v1.0");
    for no_tag in ["7", "-a", "a/b", "v1."] {
        let refused = home.run(["dataset", "tag", "flowers", "--", no_tag]);
        assert_eq!(refused.code, 2, "{no_tag}: {refused:?}");
    }
    home.ok(["dataset", "untag", "flowers", "best"]);
    let absent = home.fails(["dataset", "show", "flowers@best"]);
    assert!(absent.contains("no version or tag best"), "{absent}");
    assert!(absent.contains("atelier dataset log flowers"), "{absent}");
    // A version's names go with it.
    home.ok(["dataset", "delete", "flowers@v1.0"]);
    home.fails(["dataset", "untag", "flowers", "v1.0"]);
}

#[test]
fn a_tag_leads_to_its_version_in_a_live_mount() {
    let place = Place::of(flowers());
    place.mount();
    let (tagged, newest) =
        (place.dir.join("datasets/flowers@kept"), place.dir.join("datasets/flowers/tulip.txt"));
    assert!(newest.exists());
    assert!(!tagged.exists());
    place.home.ok(["dataset", "tag", "flowers@1", "kept"]);
    until("the tag shows", || tagged.join("index.csv").exists());
    assert!(!tagged.join("tulip.txt").exists());
    place.home.ok(["dataset", "tag", "flowers@2", "kept", "--move"]);
    until("the tag has moved", || tagged.join("tulip.txt").exists());
    let listed: Vec<_> = fs::read_dir(place.dir.join("datasets")).unwrap().collect();
    assert_eq!(listed.len(), 1, "a tag is found, not listed");
    place.home.ok(["dataset", "untag", "flowers", "kept"]);
    until("the tag is gone", || !tagged.exists());
    place.home.ok(["dataset", "deactivate", "flowers@2"]);
    until("the version before shows", || !newest.exists());
    assert!(place.dir.join("datasets/flowers/index.csv").exists());
    place.home.ok(["dataset", "activate", "flowers@2"]);
    until("it shows again", || newest.exists());
}

#[test]
fn show_tells_what_a_version_costs_and_who_uses_it() {
    let home = flowers();
    let noise = |len: usize| {
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    };
    fs::create_dir(home.path("noise")).unwrap();
    fs::write(home.path("noise/one"), noise(200_000)).unwrap();
    home.ok(["dataset", "create", "noise", "noise"]);
    let alone = home.json(["dataset", "show", "noise"]);
    let bytes = |shown: &serde_json::Value, name: &str| shown[name].as_u64().unwrap();
    assert!(bytes(&alone, "unique_bytes") >= 200_000);
    assert_eq!(alone["unique_bytes"], alone["needed_bytes"]);
    fs::write(home.path("noise/two"), noise(50_000)).unwrap();
    home.ok(["dataset", "create", "noise", "noise"]);
    let (first, second) =
        (home.json(["dataset", "show", "noise@1"]), home.json(["dataset", "show", "noise@2"]));
    assert!(bytes(&first, "unique_bytes") < 10_000, "{first}");
    assert!((50_000..100_000).contains(&bytes(&second, "unique_bytes")), "{second}");
    assert!(bytes(&second, "needed_bytes") >= 250_000);
    assert_eq!(
        (&second["dedup"]["versions"], &second["dedup"]["bytes"]),
        (&2.into(), &450_000.into())
    );
    let ratio = second["dedup"]["ratio"].as_f64().unwrap();
    assert!((1.6..1.8).contains(&ratio), "{second}");

    home.ok(["member", "add", "ada", "--role", "admin", "--on", "cats"]);
    home.ok(["project", "create", "lab/cats/manx"]);
    home.ok(["publish", "dataset/noise", "--to", "cats"]);
    home.ok(["--project", "lab/cats/manx", "add", "cats/tabby/dataset/noise"]);
    let shown = home.json(["dataset", "show", "noise"]);
    assert_eq!(shown["published"], serde_json::json!(["cats"]));
    assert_eq!(shown["added_to"], serde_json::json!(["lab/cats/manx"]));
    let text = home.ok(["dataset", "show", "noise"]);
    assert!(text.contains("added to:") && text.contains("lab/cats/manx"), "{text}");
    home.ok(["dataset", "deactivate", "noise"]);
    let used = home.fails(["dataset", "delete", "noise"]);
    assert!(used.contains("published in cats, added to lab/cats/manx"), "{used}");
    home.fails(["dataset", "delete", "noise@1"]);
    let foreign = home.fails(["--project", "lab/cats/manx", "dataset", "tag", "noise@1", "mine"]);
    assert!(foreign.contains("belongs to lab/cats/tabby"), "{foreign}");
}

#[test]
fn a_version_that_shows_is_not_deleted() {
    let home = flowers();
    let busy = home.fails(["dataset", "delete", "flowers@2"]);
    assert!(busy.contains("flowers@2 is active: it shows as flowers"), "{busy}");
    home.ok(["dataset", "deactivate", "flowers@2"]);
    home.ok(["dataset", "delete", "flowers@2"]);
    assert_eq!(home.json(["dataset", "show", "flowers"])["version"], 1);
}

#[test]
fn a_project_may_limit_how_many_datasets_are_active() {
    let home = flowers();
    home.ok(["dataset", "create", "weeds", "flowers"]);
    let less = home.fails(["project", "set", "--active-datasets", "1"]);
    assert!(less.contains("2 datasets of lab/cats/tabby are active: flowers, weeds"), "{less}");
    home.ok(["project", "set", "--active-datasets", "2"]);
    assert_eq!(home.json(["project", "show"])["active_datasets"], 2);
    let more = home.fails(["dataset", "create", "trees", "flowers"]);
    assert!(more.contains("tabby may have 2 active datasets, and has flowers, weeds"), "{more}");
    assert!(more.contains("hint: `atelier dataset deactivate NAME`"), "{more}");
    home.ok(["dataset", "create", "weeds", "flowers/red"]);
    home.ok(["dataset", "deactivate", "weeds"]);
    home.ok(["dataset", "create", "trees", "flowers"]);
    home.fails(["dataset", "activate", "weeds"]);
    home.ok(["dataset", "activate", "trees"]);
    home.ok(["project", "set", "--active-datasets", "none"]);
    home.ok(["dataset", "activate", "weeds"]);
    assert!(home.json(["project", "show"])["active_datasets"].is_null());
    assert_eq!(home.run(["project", "set", "--active-datasets", "few"]).code, 2);
}

#[test]
fn an_export_holds_what_the_version_holds() {
    let home = flowers();
    symlink("red/rose.txt", home.path("flowers/best")).unwrap();
    fs::create_dir(home.path("flowers/empty")).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["dataset", "tag", "flowers@1", "first"]);
    let said = home.run(["dataset", "export", "flowers", "out/there"]);
    assert!(said.stderr.contains("flowers@3 is in out/there: 3 files"), "{said:?}");
    let compared =
        home.program("diff", ["-r", "--no-dereference", "flowers", "out/there"]).output();
    let compared = compared.unwrap();
    assert!(compared.status.success(), "{compared:?}");
    for name in ["red/rose.txt", "red", "empty", "best", "index.csv"] {
        let of = |dir: &str| fs::symlink_metadata(home.path(dir).join(name)).unwrap();
        let (one, other) = (of("flowers"), of("out/there"));
        assert_eq!((one.mode(), one.mtime_nsec()), (other.mode(), other.mtime_nsec()), "{name}");
    }
    let refused = home.fails(["dataset", "export", "flowers@first", "out/there"]);
    assert!(refused.contains("out/there isn't empty"), "{refused}");
    fs::create_dir(home.path("empty")).unwrap();
    home.ok(["dataset", "export", "flowers@first", "empty"]);
    assert_eq!(fs::read_dir(home.path("empty")).unwrap().count(), 2);
}
