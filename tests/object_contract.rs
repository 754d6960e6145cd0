//! What every [`ObjectStore`] promises, as one suite that all implementations run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atelier::error::ErrorKind;
use atelier::object::local::LocalStore;
use atelier::object::memory::MemoryStore;
use atelier::object::{Depth, ETag, ListPage, ObjectStore, PutMode};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future};

/// Runs the whole suite against an empty store.
pub(crate) async fn holds(store: Arc<dyn ObjectStore>) {
    what_is_put_is_read_back(&*store).await;
    ranges_end_where_the_object_ends(&*store).await;
    pieces_are_the_bytes_in_order(&*store).await;
    absent_objects_are_not_found(&*store).await;
    an_overwrite_shows_in_bytes_and_etag(&*store).await;
    create_refuses_a_taken_key(&*store).await;
    one_of_many_creators_wins(&store).await;
    readers_see_the_old_bytes_or_the_new(&store).await;
    keys_are_taken_as_they_are(&*store).await;
    a_deleted_object_is_gone(&*store).await;
    listings_are_in_byte_order(&*store).await;
    a_prefix_need_not_end_at_a_slash(&*store).await;
    long_listings_come_in_pages(&*store).await;
}

async fn what_is_put_is_read_back(store: &dyn ObjectStore) {
    for (key, len) in [("whole/empty", 0), ("whole/small", 10), ("whole/large", 5 << 20)] {
        let bytes = pattern(len);
        let before = SystemTime::now();
        let etag = store.put(key, bytes.clone(), PutMode::Overwrite).await.unwrap();
        assert_eq!(read(store, key).await, bytes, "{key}");
        let meta = store.head(key).await.unwrap();
        assert_eq!((meta.key.as_str(), meta.size, &meta.etag), (key, len as u64, &etag));
        // Stores keep whole seconds at times, and their clock may not be ours.
        let age = meta.modified.duration_since(before - Duration::from_mins(1));
        assert!(age.is_ok_and(|age| age < Duration::from_mins(3)), "{key}: {:?}", meta.modified);
    }
}

async fn ranges_end_where_the_object_ends(store: &dyn ObjectStore) {
    let bytes = pattern(1000);
    store.put("ranges/a", bytes.clone(), PutMode::Overwrite).await.unwrap();
    for (start, end) in [(0, 1), (0, 1000), (10, 20), (990, 2000), (999, u64::MAX)] {
        let got = store.get("ranges/a", start..end, None).await.unwrap();
        assert_eq!(got, bytes[start as usize..end.min(1000) as usize], "{start}..{end}");
    }
    for (start, end) in [(1000, 1001), (5000, u64::MAX), (7, 7)] {
        let got = store.get("ranges/a", start..end, None).await.unwrap();
        assert!(got.is_empty(), "{start}..{end}");
    }
}

async fn pieces_are_the_bytes_in_order(store: &dyn ObjectStore) {
    let bytes = pattern(3 << 20);
    let etag = store.put("pieces/a", bytes.clone(), PutMode::Overwrite).await.unwrap();
    for (start, end) in [(0, 3 << 20), (5, 2 << 20), (1 << 20, u64::MAX), (4 << 20, 5 << 20)] {
        let mut got = Vec::new();
        let mut sink = |piece: Bytes| got.extend_from_slice(&piece);
        store.get_into("pieces/a", start..end, Some(&etag), &mut sink).await.unwrap();
        let end = end.min(3 << 20) as usize;
        assert!(got == bytes[end.min(start as usize)..end], "{start}..{end}");
    }
    let mut sink = |_| panic!("there is nothing to bring");
    let error = store.get_into("pieces/b", 0..9, None, &mut sink).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let other = ETag("\"never\"".to_owned());
    let error = store.get_into("pieces/a", 0..9, Some(&other), &mut sink).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleHandle, "{error:?}");
}

async fn absent_objects_are_not_found(store: &dyn ObjectStore) {
    store.put("absent/there", pattern(3), PutMode::Overwrite).await.unwrap();
    for key in ["absent/other", "absent/there-too", "absent", "nowhere/at/all"] {
        let error = store.get(key, 0..1, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{key}: {error:?}");
        assert!(error.to_string().contains(key), "{error}");
        assert_eq!(store.head(key).await.unwrap_err().kind(), ErrorKind::NotFound, "{key}");
        store.delete(key).await.unwrap();
    }
    assert_eq!(read(store, "absent/there").await, pattern(3));
}

async fn an_overwrite_shows_in_bytes_and_etag(store: &dyn ObjectStore) {
    let old = store.put("etag/a", Bytes::from("old"), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get("etag/a", 0..9, Some(&old)).await.unwrap(), "old");
    let new = store.put("etag/a", Bytes::from("new"), PutMode::Overwrite).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(store.get("etag/a", 0..9, Some(&new)).await.unwrap(), "new");
    for stale in [old, ETag("\"never\"".to_owned())] {
        let error = store.get("etag/a", 0..9, Some(&stale)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StaleHandle, "{error:?}");
    }
}

async fn create_refuses_a_taken_key(store: &dyn ObjectStore) {
    store.put("create/a", Bytes::from("first"), PutMode::Create).await.unwrap();
    let error = store.put("create/a", Bytes::from("second"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    assert_eq!(read(store, "create/a").await, "first");
    store.delete("create/a").await.unwrap();
    store.put("create/a", Bytes::from("third"), PutMode::Create).await.unwrap();
    assert_eq!(read(store, "create/a").await, "third");
}

async fn one_of_many_creators_wins(store: &Arc<dyn ObjectStore>) {
    let attempts = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            store.put("race/a", Bytes::from(format!("writer {writer}")), PutMode::Create).await
        })
    });
    let results = future::join_all(attempts).await;
    let winners: Vec<_> = (0..8).filter(|n| results[*n].as_ref().unwrap().is_ok()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(read(&**store, "race/a").await, format!("writer {}", winners[0]));
}

async fn readers_see_the_old_bytes_or_the_new(store: &Arc<dyn ObjectStore>) {
    let of = |letter: u8| Bytes::from(vec![letter; 300_000]);
    store.put("swap/a", of(b'a'), PutMode::Overwrite).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for letter in b'b'..=b'k' {
                store.put("swap/a", of(letter), PutMode::Overwrite).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let bytes = read(&**store, "swap/a").await;
        assert!(bytes.len() == 300_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert_eq!(read(&**store, "swap/a").await, of(b'k'));
}

async fn keys_are_taken_as_they_are(store: &dyn ObjectStore) {
    let mut keys = vec![
        "odd/a b",
        "odd/a+b",
        "odd/a%20b",
        "odd/a?b=c&d",
        "odd/a#b",
        "odd/ä/日本",
        "odd/UPPER",
        "odd/upper",
        "odd/.hidden",
        "odd/...",
        "odd/'\"<>",
        "odd/~",
        "odd/=,;:@$!*()",
    ];
    for key in &keys {
        store.put(key, Bytes::from(*key), PutMode::Create).await.unwrap();
    }
    for key in &keys {
        assert_eq!(read(store, key).await, *key);
    }
    keys.sort_unstable();
    assert_eq!(list(store, "odd/", Depth::All).await.0, keys);
}

/// No part of the contract: SeaweedFS takes a backslash for a slash.
async fn a_backslash_is_a_letter(store: &dyn ObjectStore) {
    store.put("letter/a\\b", pattern(1), PutMode::Create).await.unwrap();
    assert_eq!(list(store, "letter/", Depth::All).await.0, ["letter/a\\b"]);
}

/// No part of the contract: SeaweedFS walks directories, so that `a/x` comes before `a-`.
async fn a_slash_sorts_as_a_byte(store: &dyn ObjectStore) {
    let keys = ["slash/a-", "slash/a/x", "slash/a0"];
    for key in keys.iter().rev() {
        store.put(key, pattern(7), PutMode::Overwrite).await.unwrap();
    }
    assert_eq!(list(store, "slash/", Depth::All).await.0, keys);
}

/// No part of the contract: SeaweedFS shows an emptied directory for a while.
async fn an_emptied_prefix_is_gone(store: &dyn ObjectStore) {
    store.put("emptied/deep/a", pattern(5), PutMode::Overwrite).await.unwrap();
    store.delete("emptied/deep/a").await.unwrap();
    assert_eq!(list(store, "emptied/", Depth::Children).await, (vec![], vec![]));
}

async fn a_deleted_object_is_gone(store: &dyn ObjectStore) {
    store.put("gone/deep/a", pattern(5), PutMode::Overwrite).await.unwrap();
    store.delete("gone/deep/a").await.unwrap();
    assert_eq!(store.head("gone/deep/a").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(list(store, "gone/", Depth::All).await, (vec![], vec![]));
    assert!(list(store, "gone/", Depth::Children).await.0.is_empty());
    store.delete("gone/deep/a").await.unwrap();
}

async fn listings_are_in_byte_order(store: &dyn ObjectStore) {
    let keys = ["order/a-", "order/a/x", "order/a/y/z", "order/a0", "order/b", "order/é"];
    for key in keys.iter().rev() {
        store.put(key, pattern(7), PutMode::Overwrite).await.unwrap();
    }
    let mut all = list(store, "order/", Depth::All).await;
    all.0.sort();
    assert_eq!(all, (owned(&keys), vec![]));
    let children = list(store, "order/", Depth::Children).await;
    assert_eq!(children.0, ["order/a-", "order/a0", "order/b", "order/é"]);
    assert_eq!(children.1, ["order/a/"]);
    let below = list(store, "order/a/", Depth::Children).await;
    assert_eq!(below, (owned(&["order/a/x"]), owned(&["order/a/y/"])));
    for page in pages(store, "order/", Depth::All).await {
        for object in page.objects {
            assert_eq!(object, store.head(&object.key).await.unwrap());
        }
    }
}

async fn a_prefix_need_not_end_at_a_slash(store: &dyn ObjectStore) {
    for key in ["prefix/ab", "prefix/abc/d", "prefix/b"] {
        store.put(key, pattern(1), PutMode::Overwrite).await.unwrap();
    }
    let children = list(store, "prefix/ab", Depth::Children).await;
    assert_eq!(children, (owned(&["prefix/ab"]), owned(&["prefix/abc/"])));
    assert_eq!(list(store, "prefix/a", Depth::All).await.0, ["prefix/ab", "prefix/abc/d"]);
    assert_eq!(list(store, "prefi", Depth::Children).await.1, ["prefix/"]);
    for nothing in ["prefix/c", "prefix/ab/", "nothing/at/all/", "prefix/../prefix/", "/"] {
        assert_eq!(list(store, nothing, Depth::All).await, (vec![], vec![]), "{nothing}");
    }
    let top = list(store, "", Depth::Children).await.1;
    assert!(top.contains(&"prefix/".to_owned()) && top.contains(&"order/".to_owned()), "{top:?}");
}

async fn long_listings_come_in_pages(store: &dyn ObjectStore) {
    let keys: Vec<String> = (0..1100).map(|n| format!("many/{n:04}")).collect();
    let puts = keys.iter().map(|key| store.put(key, Bytes::new(), PutMode::Overwrite));
    let _: Vec<_> = futures_util::stream::iter(puts).buffered(16).try_collect().await.unwrap();
    assert_eq!(list(store, "many/", Depth::All).await.0, keys);
    assert_eq!(list(store, "many/", Depth::Children).await.0, keys);
    assert!(pages(store, "many/", Depth::All).await.len() >= 2);
}

async fn read(store: &dyn ObjectStore, key: &str) -> Bytes {
    store.get(key, 0..u64::MAX, None).await.unwrap()
}

async fn pages(store: &dyn ObjectStore, prefix: &str, depth: Depth) -> Vec<ListPage> {
    store.list(prefix, depth).try_collect().await.unwrap()
}

/// The keys and the common prefixes of a listing, each of them listed once.
async fn list(store: &dyn ObjectStore, prefix: &str, depth: Depth) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    for page in pages(store, prefix, depth).await {
        keys.extend(page.objects.into_iter().map(|object| object.key));
        prefixes.extend(page.prefixes);
    }
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    assert_eq!(prefixes.iter().collect::<BTreeSet<_>>().len(), prefixes.len());
    (keys, prefixes)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|n| (n % 251) as u8).collect()
}

mod memory {
    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let store = Arc::new(MemoryStore::new());
        holds(store.clone()).await;
        a_backslash_is_a_letter(&*store).await;
        an_emptied_prefix_is_gone(&*store).await;
        a_slash_sorts_as_a_byte(&*store).await;
    }
}

mod local {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let home = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(&home.path().join("a/store")).unwrap());
        holds(store.clone()).await;
        a_backslash_is_a_letter(&*store).await;
        an_emptied_prefix_is_gone(&*store).await;
        a_slash_sorts_as_a_byte(&*store).await;
    }

    #[tokio::test]
    async fn keys_can_not_lead_outside() {
        let home = tempfile::tempdir().unwrap();
        let store = LocalStore::open(&home.path().join("store")).unwrap();
        fs::write(home.path().join("secret"), "outside").unwrap();
        for key in ["../secret", "a/../../secret", "/secret", "", ".", "a//b", "a/", "a\0b"] {
            let read = store.get(key, 0..9, None).await.unwrap_err();
            let put = store.put(key, Bytes::new(), PutMode::Overwrite).await.unwrap_err();
            let delete = store.delete(key).await.unwrap_err();
            let head = store.head(key).await.unwrap_err();
            for error in [read, put, delete, head] {
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{key:?}: {error:?}");
            }
        }
        assert_eq!(list(&store, "../", Depth::All).await, (vec![], vec![]));
        assert_eq!(list(&store, "..", Depth::All).await, (vec![], vec![]));
        assert_eq!(fs::read(home.path().join("secret")).unwrap(), b"outside");
    }

    #[tokio::test]
    async fn everything_is_the_owners_only() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("store");
        let store = LocalStore::open(&root).unwrap();
        store.put("a/b/c", Bytes::from("x"), PutMode::Create).await.unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(""), mode("a"), mode("a/b"), mode("a/b/c")], [0o700, 0o700, 0o700, 0o600]);
    }

    #[tokio::test]
    async fn what_a_crash_left_unfinished_is_not_listed_and_goes() {
        let home = tempfile::tempdir().unwrap();
        let store = LocalStore::open(home.path()).unwrap();
        store.put("a", Bytes::from("x"), PutMode::Create).await.unwrap();
        let unfinished = home.path().join(".unfinished");
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        for (name, born) in [("left", long_ago), ("fresh", SystemTime::now()), ("held", long_ago)] {
            fs::write(unfinished.join(name), "half").unwrap();
            File::options()
                .write(true)
                .open(unfinished.join(name))
                .unwrap()
                .set_modified(born)
                .unwrap();
        }
        let held = File::open(unfinished.join("held")).unwrap();
        held.lock().unwrap();
        assert_eq!(list(&store, "", Depth::All).await.0, ["a"]);
        assert_eq!(
            store.get(".unfinished/held", 0..4, None).await.unwrap_err().kind(),
            ErrorKind::InvalidInput
        );

        LocalStore::open(home.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&unfinished).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["fresh", "held"]);
    }

    #[tokio::test]
    async fn nothing_unfinished_stays_behind() {
        let home = tempfile::tempdir().unwrap();
        let store = LocalStore::open(home.path()).unwrap();
        store.put("a", Bytes::from("x"), PutMode::Create).await.unwrap();
        store.put("a", Bytes::from("y"), PutMode::Create).await.unwrap_err();
        store.put("a/below", Bytes::from("y"), PutMode::Create).await.unwrap_err();
        store.put("a", Bytes::from("y"), PutMode::Overwrite).await.unwrap();
        assert_eq!(fs::read_dir(home.path().join(".unfinished")).unwrap().count(), 0);
    }
}

mod s3 {
    use super::*;
    use crate::support::seaweed::Seaweed;

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_contract() {
        let server = Seaweed::start().await;
        holds(Arc::new(server.store("").await)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_contract_below_a_prefix() {
        let server = Seaweed::start().await;
        server.store("").await.put("a/beside", Bytes::new(), PutMode::Create).await.unwrap();
        holds(Arc::new(server.store("a/b").await)).await;
    }
}
