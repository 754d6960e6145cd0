//! `atelier dataset warm`: what a loader will ask for, brought near before it does.

use std::fs;
use std::process::Command;

use super::fill;
use crate::support::home::Home;
use crate::support::place::Place;
use crate::support::seaweed::{BUCKET, KEY_ID, SECRET, Seaweed};

const FILES: usize = 60;

fn home() -> Home {
    let home = Home::with_project();
    fill(&home, FILES);
    home.ok(["dataset", "create", "photos", "photos"]);
    home
}

fn bytes(warmed: &serde_json::Value, name: &str) -> u64 {
    warmed[name].as_u64().unwrap()
}

#[test]
fn all_of_a_dataset_is_brought_once() {
    let home = home();
    let len = bytes(&home.json(["dataset", "show", "photos"]), "bytes");
    let first = home.json(["dataset", "warm", "photos"]);
    assert_eq!((&first["files"], &first["complete"]), (&FILES.into(), &true.into()));
    assert_eq!(bytes(&first, "bytes_there") + bytes(&first, "bytes_brought"), len);
    let again = home.run(["dataset", "warm", "photos@1"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stderr.contains("60 files are in memory: 0 B brought"), "{}", again.stderr);
}

#[test]
fn files_are_named_by_path_by_list_or_by_the_seed_of_a_shuffle() {
    let home = home();
    let named = home.json(["dataset", "warm", "photos", "3/", "./7/0042.jpg"]);
    assert_eq!(named["files"], 7);
    let list = home.path("list");
    let mut find = Command::new("find");
    let found = find.args([".", "-type", "f"]).current_dir(home.path("photos")).output();
    fs::write(&list, found.unwrap().stdout).unwrap();
    let listed = home.json(["dataset", "warm", "photos", "--order", list.to_str().unwrap()]);
    assert_eq!(listed["files"], FILES);
    let shuffled = home.json(["dataset", "warm", "photos", "--shuffle-seed", "7"]);
    assert_eq!(shuffled["files"], FILES);
    let both = home.run(["dataset", "warm", "photos", "--shuffle-seed", "7", "3"]);
    assert_eq!(both.code, 2, "{both:?}");
}

#[test]
fn a_path_that_is_not_there_is_one_error_before_anything_is_read() {
    let home = home();
    for words in [&["3", "4/none.jpg"][..], &["--order", "list"]] {
        fs::write(home.path("list"), "3/0018.jpg\n4/none.jpg\n").unwrap();
        let refused = home.fails([&["dataset", "warm", "photos"], words].concat());
        assert!(refused.starts_with("error: 4/none.jpg isn't there\n"), "{refused}");
    }
    let outside = home.run(["dataset", "warm", "photos", "../secrets"]);
    assert_eq!(outside.code, 2, "{outside:?}");
}

#[test]
fn no_more_is_brought_than_there_may_be() {
    let home = home();
    let part = home.run(["dataset", "warm", "photos", "--most", "1MiB", "--json"]);
    assert_eq!(part.code, 0, "{part:?}");
    assert!(part.stderr.contains("there is no room for more"), "{}", part.stderr);
    let part: serde_json::Value = serde_json::from_str(&part.stdout).unwrap();
    assert_eq!(part["complete"], false);
    assert!(bytes(&part, "bytes_there") + bytes(&part, "bytes_brought") <= 1 << 20, "{part}");
}

/// A home whose store is in a bucket, with a dataset of photos.
fn home_at(server: &Seaweed) -> Home {
    let home = Home::empty()
        .with_variable("AWS_ACCESS_KEY_ID", KEY_ID)
        .with_variable("AWS_SECRET_ACCESS_KEY", SECRET);
    let endpoint = server.endpoint();
    let url = format!("s3://{BUCKET}/store?endpoint={endpoint}&region=us-east-1");
    home.ok(["init", "--store", &url]);
    home.make_project();
    fill(&home, FILES);
    home.ok(["dataset", "create", "photos", "photos"]);
    home
}

/// Reads all photos in order through a mount; the requests that it sent, and the bytes that came.
fn read_all(place: &Place) -> (u64, u64) {
    place.mount();
    let dir = place.dir.join("datasets/photos");
    let original = place.home.path("photos");
    let same = Command::new("diff").arg("-r").args([original, dir]).output().unwrap();
    assert!(same.status.success(), "{same:?}");
    let status = place.home.json(["status", place.dir()]);
    place.home.ok(["unmount", place.dir()]);
    let metric = |name: &str| status["report"]["metrics"][name].as_u64().unwrap();
    (metric("s3_requests_total"), metric("s3_fetched_bytes_total"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_warmed_of_a_bucket_is_read_from_the_disk() {
    let server = Seaweed::start().await;
    let place = Place::of(home_at(&server));
    let len = bytes(&place.home.json(["dataset", "show", "photos"]), "bytes");
    let first = place.home.json(["dataset", "warm", "photos", "--shuffle-seed", "1"]);
    assert_eq!((bytes(&first, "bytes_there"), first["complete"].as_bool()), (0, Some(true)));
    assert!(bytes(&first, "bytes_brought") >= len, "{first}");
    let again = place.home.json(["dataset", "warm", "photos"]);
    assert_eq!(bytes(&again, "bytes_brought"), 0, "{again}");
    assert_eq!(read_all(&place).1, 0);

    place.home.ok(["cache", "clear"]);
    let nowhere = place.home.fails(["dataset", "warm", "photos", "--cache-size", "0"]);
    assert!(nowhere.contains("--cache-size"), "{nowhere}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_of_a_bucket_share_a_request() {
    let server = Seaweed::start().await;
    let place = Place::of(home_at(&server));
    let (requests, bytes) = read_all(&place);
    // The root, a page and a pack, the length of each, and what a pack is read ahead by.
    assert!(requests <= 16, "{requests} requests for {FILES} files");
    let len = place.home.json(["dataset", "show", "photos"])["bytes"].as_u64().unwrap();
    assert!(bytes < len + len / 10, "{bytes} bytes for {len}");
}
