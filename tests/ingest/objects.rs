//! Objects of a bucket.

use atelier::object::{ObjectStore, PutMode};

use super::*;
use crate::support::proxy::{Fault, Proxy};
use crate::support::seaweed::{BUCKET, KEY_ID, SECRET, Seaweed};

/// A home that may read the bucket.
fn home() -> Home {
    let home = Home::empty()
        .with_variable("AWS_ACCESS_KEY_ID", KEY_ID)
        .with_variable("AWS_SECRET_ACCESS_KEY", SECRET);
    home.ok(["init"]);
    home.make_project();
    home
}

async fn put(store: &impl ObjectStore, key: &str, bytes: Vec<u8>) {
    store.put(key, bytes.into(), PutMode::Overwrite).await.unwrap();
}

/// How many requests read objects since the last call.
fn gets(proxy: &Proxy) -> usize {
    let requests = proxy.requests();
    requests.iter().filter(|head| head.starts_with("GET") && !head.contains("list-type=2")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_become_the_paths_that_a_mount_of_the_bucket_has() {
    let server = Seaweed::start().await;
    let store = server.store("zoo").await;
    for (key, len) in [
        ("plain.txt", 10),
        ("a", 20),
        ("a/b", 30),
        ("a-", 40),
        ("deep/er/small", 600),
        ("deep/er/middle", 400_000),
        ("large", 9_000_000),
        ("empty", 0),
    ] {
        put(&store, key, noise(len, 1)).await;
    }
    put(&server.store("").await, "beside", noise(10, 1)).await;
    let home = home();
    let endpoint = server.endpoint();
    let url = format!("s3://{BUCKET}/zoo?endpoint={endpoint}&region=us-east-1");
    home.ok(["dataset", "create", "by-url", &url]);
    let connect = ["s3", "connect", "zoo", "--bucket", BUCKET, "--region", "us-east-1"];
    home.ok([&connect[..], &["--endpoint", &endpoint]].concat());
    home.ok(["dataset", "create", "by-name", "s3/zoo/zoo"]);
    let place = Place::of(home);
    place.mount();
    let found = mounted(&place, "by-url");
    let by_name = mounted(&place, "by-name");
    assert_same_shape(&by_name, &found);
    let live = below_top(shape(&place.dir.join("s3/zoo/zoo")));
    let content = |shape: &Shape| -> Vec<_> {
        shape.iter().map(|(path, (_, _, _, content))| (path.clone(), content.clone())).collect()
    };
    assert_eq!(content(&found), content(&live));
    for (path, (mode, seconds, ..)) in &live {
        let (found_mode, found_seconds, ..) = &found[path];
        assert_eq!(found_mode & 0o170_000, mode & 0o170_000);
        let is_file = mode & 0o170_000 == 0o100_000;
        assert!(!is_file || found_seconds == seconds, "{}", path.escape_ascii());
    }
    place.home.ok(["s3", "deactivate", "zoo"]);
    let said = place.home.fails(["dataset", "create", "by-name", "s3/zoo"]);
    assert!(said.contains("is inactive"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_as_they_were_are_not_fetched_again() {
    let server = Seaweed::start().await;
    let proxy = Proxy::start(server.port());
    let store = server.store("many").await;
    for number in 0..40 {
        put(&store, &format!("{number:02}"), noise(2000, number)).await;
    }
    let home = home();
    let url = format!("s3://{BUCKET}/many?endpoint={}&region=us-east-1", proxy.endpoint());
    home.ok(["dataset", "create", "many", &url]);
    assert_eq!(gets(&proxy), 40);
    let again = home.run(["dataset", "create", "many", &url]);
    assert!(again.stderr.contains("unchanged"), "{again:?}");
    assert_eq!(gets(&proxy), 0);

    put(&store, "07", noise(2000, 99)).await;
    put(&store, "new", noise(3000, 98)).await;
    home.ok(["dataset", "create", "many", &url]);
    assert_eq!(gets(&proxy), 2);
    assert_eq!(home.json(["dataset", "show", "many"])["files"], 41);
    home.ok(["dataset", "verify", "many"]);
    // Whoever doubts may have all of them read.
    home.ok(["dataset", "create", "many", &url, "--rescan"]);
    assert_eq!(gets(&proxy), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_none_is_refused_in_a_line() {
    let server = Seaweed::start().await;
    put(&server.store("some").await, "a", noise(2000, 1)).await;
    let home = home();
    let url = |endpoint: &str, prefix: &str| {
        format!("s3://{BUCKET}/{prefix}?endpoint={endpoint}&region=us-east-1")
    };
    let said = home.fails(["dataset", "create", "some", &url(&server.endpoint(), "none")]);
    assert_refused(&home, &said, "has no files");
    let said = home.fails(["dataset", "create", "some", "s3://cats?colour=red"]);
    assert_refused(&home, &said, "isn't a bucket");
    let said = home.fails(["dataset", "create", "some", "s3/nowhere/at/all"]);
    assert_refused(&home, &said, "nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_can_not_be_read_is_named() {
    let server = Seaweed::start().await;
    let proxy = Proxy::start(server.port());
    for key in ["fine", "forbidden", "gone"] {
        put(&server.store("some").await, key, noise(2000, 1)).await;
    }
    let home = home();
    let url = format!("s3://{BUCKET}/some?endpoint={}&region=us-east-1", proxy.endpoint());
    proxy.fail_those("GET /cats/some/forbidden", 1, Fault::Status(403));
    let gone = "HTTP/1.1 404 Not Found\r\nx-amz-request-id: 7\r\ncontent-type: application/xml\r\n\
                content-length: 37\r\nconnection: close\r\n\r\n\
                <Error><Code>NoSuchKey</Code></Error>";
    proxy.fail_those("GET /cats/some/gone", 1, Fault::Answer(gone));
    let ended = home.run(["dataset", "create", "some", &url]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("\ngone: it was removed before it was read"), "{ended:?}");
    assert!(ended.stderr.contains("forbidden: "), "{ended:?}");
    assert!(ended.stderr.contains("left out: 2"), "{ended:?}");
    assert_eq!(home.json(["dataset", "show", "some"])["files"], 1);
}
