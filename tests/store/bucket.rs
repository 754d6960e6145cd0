//! The store in a bucket: everything works on it as it does in the home.

use super::*;
use crate::support::seaweed::{BUCKET, KEY_ID, SECRET, Seaweed};

/// A home with a project and flowers, whose store is in a bucket.
fn home_at(server: &Seaweed, prefix: &str) -> Home {
    let home = Home::empty()
        .with_variable("AWS_ACCESS_KEY_ID", KEY_ID)
        .with_variable("AWS_SECRET_ACCESS_KEY", SECRET);
    home.ok(["init", "--store", &url(server, prefix)]);
    home.make_project();
    fill(&home, 0);
    home
}

fn url(server: &Seaweed, prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}?endpoint={}&region=us-east-1", server.endpoint())
}

/// The keys of all objects in the store.
async fn keys(server: &Seaweed, prefix: &str) -> Vec<String> {
    use atelier::object::{Depth, ListPage, ObjectStore as _};
    use futures_util::TryStreamExt as _;
    let pages: Vec<ListPage> =
        server.store(prefix).await.list("", Depth::All).try_collect().await.unwrap();
    pages.into_iter().flat_map(|page| page.objects).map(|object| object.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn datasets_in_a_bucket_are_made_mounted_checked_and_collected() {
    let server = Seaweed::start().await;
    let home = home_at(&server, "store one");
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let shown = home.json(["dataset", "show", "flowers"]);
    assert_eq!(shown["files"], 3);
    let stored = keys(&server, "store one").await;
    assert!(stored.iter().any(|key| key.starts_with("packs/")), "{stored:?}");
    assert!(!home.atelier().join("store/packs").exists());

    let place = Place::of(home);
    place.mount();
    for file in ["index.csv", "red/rose.bin", "large.bin"] {
        let read = fs::read(place.dir.join("datasets/flowers").join(file)).unwrap();
        assert!(read == fs::read(place.home.path("flowers").join(file)).unwrap(), "{file}");
    }
    place.home.ok(["unmount", place.dir()]);

    let home = &place.home;
    fill(home, 1);
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["dataset", "delete", "flowers@1"]);
    let done = home.json(["gc", "--grace", "0s"]);
    assert_eq!(done["freed_objects"], 3, "{done}");
    home.ok(["dataset", "verify", "flowers"]);
    let whole = home.json(["store", "verify"]);
    assert_eq!((&whole["objects"], &whole["versions"]), (&3.into(), &1.into()));
}

/// What a mount has read of packs is on disk for the next one, which asks for no bytes again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_read_again_without_the_bucket() {
    let server = Seaweed::start().await;
    let place = Place::of(home_at(&server, "cached"));
    place.home.ok(["dataset", "create", "flowers", "flowers"]);
    let read = || {
        place.mount();
        let read = fs::read(place.dir.join("datasets/flowers/large.bin")).unwrap();
        assert!(read == fs::read(place.home.path("flowers/large.bin")).unwrap());
        let status = place.home.json(["status", place.dir()]);
        place.home.ok(["unmount", place.dir()]);
        status["report"]["metrics"]["s3_fetched_bytes_total"].as_u64().unwrap()
    };
    assert!(read() > 3 << 20);
    assert_eq!(read(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_a_bucket_belongs_to_one_catalogue() {
    let server = Seaweed::start().await;
    let home = home_at(&server, "mine");
    let other = Home::empty()
        .with_variable("AWS_ACCESS_KEY_ID", KEY_ID)
        .with_variable("AWS_SECRET_ACCESS_KEY", SECRET);
    let refused = other.fails(["init", "--store", &url(&server, "mine")]);
    assert!(refused.contains("belongs to another catalogue"), "{refused}");
    let refused = home.fails(["--store", &url(&server, "yours"), "dataset", "list"]);
    assert!(refused.contains("not to s3://cats/yours?"), "{refused}");
    // The same store by another name of its server.
    let same = url(&server, "mine").replace("127.0.0.1", "localhost");
    home.ok(["--store", &same, "dataset", "create", "flowers", "flowers"]);
    home.ok(["store", "verify"]);
    // The service that the environment names is asked where the URL names none.
    let bare = format!("s3://{BUCKET}/mine");
    let mut named = home.command(["--store", &bare, "store", "verify"]);
    named.env("AWS_ENDPOINT_URL", server.endpoint()).env("AWS_REGION", "us-east-1");
    assert!(named.status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_can_not_be_reached_is_named() {
    let server = Seaweed::start().await;
    let home = home_at(&server, "store");
    server.freeze();
    // What the catalogue knows needs no store.
    home.ok(["dataset", "list"]);
    server.thaw();
    let stranger = Home::empty();
    let refused = stranger.fails(["init", "--store", &url(&server, "other")]);
    assert!(refused.contains("no AWS credentials were found"), "{refused}");
    stranger.ok(["init"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_cut_short_in_a_bucket_is_named_and_mended() {
    use atelier::object::{ObjectStore as _, PutMode};
    let server = Seaweed::start().await;
    let home = home_at(&server, "store");
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fs::create_dir(home.path("other")).unwrap();
    fs::write(home.path("other/note"), noise(2000)).unwrap();
    home.ok(["dataset", "create", "other", "other"]);
    let store = server.store("store").await;
    let root = home.json(["dataset", "show", "flowers"])["root"].as_str().unwrap().to_owned();
    for key in keys(&server, "store").await {
        let is_flowers = store.head(&key).await.unwrap().size > 100_000 || key.ends_with(&root);
        if key == "store.json" || key.starts_with("versions/") || !is_flowers {
            continue;
        }
        let bytes = store.get(&key, 0..u64::MAX, None).await.unwrap();
        for cut in [false, true] {
            if cut {
                let half = bytes.slice(..bytes.len() / 2);
                store.put(&key, half, PutMode::Overwrite).await.unwrap();
            } else {
                store.delete(&key).await.unwrap();
            }
            let told =
                home.run(["store", "verify"]).expect_failure_after("affected: dataset flowers@1");
            assert!(told.contains(&format!("{key} is damaged")), "{told}");
            assert!(!told.contains("dataset other"), "{told}");
            home.ok(["dataset", "create", "flowers", "flowers"]);
            home.ok(["store", "verify"]);
        }
    }
}

/// A server that went silent ends a check with an error, and damages nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_a_bucket_that_went_silent_ends() {
    use atelier::catalog::Catalog;
    use atelier::chunk::Packs;
    use atelier::error::ErrorKind;
    use atelier::snapshot::collect::{Plan, collect};
    use atelier::snapshot::scrub::scrub;
    use std::sync::Arc;
    let server = Seaweed::start().await;
    let home = home_at(&server, "store");
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let catalog = Catalog::open(&home.atelier().join("catalog.db"), "ada").await.unwrap();
    let packs = Packs::new(Arc::new(server.store("store").await)).of_catalogue();
    server.freeze();
    let hour = std::time::Duration::from_hours(1);
    let checked = tokio::time::timeout(hour, Box::pin(scrub(&catalog, &packs, Arc::default())));
    let error = checked.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Io), "{error:?}");
    let plan = Plan { grace: hour, lease: hour, compact_below: 50 };
    let collected = tokio::time::timeout(hour, Box::pin(collect(&catalog, &packs, &plan)));
    let error = collected.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Io), "{error:?}");
    server.thaw();
    home.ok(["store", "verify"]);
}

/// What a mount keeps of a damaged pack, in memory and on disk, doesn't outlive its repair.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_in_a_bucket_and_is_mended_is_read() {
    use atelier::object::{ObjectStore as _, PutMode};
    let server = Seaweed::start().await;
    let place = Place::of(home_at(&server, "store"));
    place.home.ok(["dataset", "create", "flowers", "flowers"]);
    let rose = fs::read(place.home.path("flowers/red/rose.bin")).unwrap();
    let store = server.store("store").await;
    let keys = keys(&server, "store").await;
    let pack = keys.iter().find(|key| key.starts_with("packs/")).unwrap();
    let whole = store.get(pack, 0..u64::MAX, None).await.unwrap();
    let mut damaged = whole.to_vec();
    let at = whole.windows(64).position(|window| *window == rose[50_000..50_064]).unwrap();
    damaged[at] ^= 4;
    store.put(pack, damaged.into(), PutMode::Overwrite).await.unwrap();
    let read = || fs::read(place.dir.join("datasets/flowers/red/rose.bin"));
    for _ in 0..2 {
        place.mount();
        assert_eq!(read().unwrap_err().raw_os_error(), Some(5));
        place.home.ok(["unmount", place.dir()]);
    }
    place.mount();
    assert_eq!(read().unwrap_err().raw_os_error(), Some(5));
    assert_eq!(place.home.run(["store", "verify"]).code, 1);
    place.home.ok(["dataset", "create", "flowers", "flowers"]);
    assert!(read().unwrap() == rose);
    place.home.ok(["unmount", place.dir()]);
    place.mount();
    assert!(read().unwrap() == rose);
    place.home.ok(["store", "verify"]);
}
