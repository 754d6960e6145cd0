//! `atelier dataset` as its users see it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::home::Home;

/// A home with a project, and a directory of flowers in it.
fn home() -> Home {
    let home = Home::with_project();
    fs::create_dir_all(home.path("flowers/red")).unwrap();
    fs::write(home.path("flowers/red/rose.txt"), "a rose\n".repeat(1000)).unwrap();
    fs::write(home.path("flowers/index.csv"), "name,colour\nrose,red\n").unwrap();
    home
}

#[test]
fn a_dataset_is_made_shown_changed_and_deleted() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers", "--description", "What grows"]);
    let shown = home.json(["dataset", "show", "flowers"]);
    assert_eq!((&shown["version"], &shown["files"]), (&1.into(), &2.into()));
    assert_eq!((&shown["bytes"], &shown["creator"]), (&7021.into(), &"ada".into()));
    assert!(shown["stored_bytes"].as_u64().unwrap() < 2000);
    assert_eq!(shown["description"], "What grows");

    fs::write(home.path("flowers/tulip.txt"), "a tulip\n").unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let log = home.json(["dataset", "log", "flowers"]);
    let numbers: Vec<_> = log.as_array().unwrap().iter().map(|line| &line["version"]).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(home.json(["dataset", "show", "flowers@1"])["files"], 2);
    assert_eq!(home.json(["dataset", "list"])[0]["files"], 3);

    home.ok(["dataset", "deactivate", "flowers@2"]);
    assert_eq!(home.json(["dataset", "show", "flowers"])["version"], 1);
    home.ok(["dataset", "activate", "flowers@2"]);
    assert_eq!(home.json(["dataset", "show", "flowers"])["version"], 2);

    let records = home.atelier().join("store/versions");
    assert_eq!(files(&records).len(), 2);
    home.ok(["dataset", "delete", "flowers@1"]);
    assert_eq!(files(&records).len(), 1);
    home.fails(["dataset", "show", "flowers@1"]);
    let busy = home.fails(["dataset", "delete", "flowers"]);
    assert!(busy.contains("atelier dataset deactivate flowers"), "{busy}");
    home.ok(["dataset", "deactivate", "flowers"]);
    home.ok(["dataset", "delete", "flowers"]);
    assert_eq!(files(&records).len(), 0);
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
}

#[test]
fn the_same_again_is_no_new_version() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let objects = objects(&home);
    let again = home.run(["dataset", "create", "flowers", "flowers", "--description", "New words"]);
    assert_eq!(again.code, 0);
    assert!(again.stderr.contains("unchanged: flowers is still version 1"), "{}", again.stderr);
    let shown = home.json(["dataset", "show", "flowers"]);
    assert_eq!((&shown["version"], &shown["description"]), (&1.into(), &"New words".into()));
    assert_eq!(self::objects(&home), objects);
}

#[test]
fn what_can_not_be_a_dataset_is_refused_in_a_line() {
    let home = home();
    fs::create_dir(home.path("empty")).unwrap();
    for (name, source, why) in [
        ("flowers", "nowhere", "nowhere can't be read: No such file or directory"),
        ("flowers", "flowers/index.csv", "is neither a directory nor an archive"),
        ("flowers", "empty", "empty has no files"),
        ("Flowers!", "flowers", "Flowers!"),
        ("fl", "flowers", "fl"),
    ] {
        let error = home.fails(["dataset", "create", name, source]);
        assert!(error.contains(why), "{source}: {error}");
        assert!(error.lines().count() <= 2, "{error}");
    }
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
    let error = home.fails(["dataset", "show", "nothing"]);
    assert!(error.contains("nothing"), "{error}");
    home.fails(["dataset", "verify", "nothing@3"]);
}

#[test]
fn what_is_left_out_is_named_and_strict_refuses_it() {
    let home = home();
    let _socket = std::os::unix::net::UnixListener::bind(home.path("flowers/socket")).unwrap();
    let strict = home.run(["dataset", "create", "flowers", "flowers", "--strict"]);
    assert_eq!(strict.code, 2, "{strict:?}");
    assert!(strict.stderr.contains("socket: it is neither a file"), "{}", strict.stderr);
    home.fails(["dataset", "show", "flowers"]);
    let made = home.run(["dataset", "create", "flowers", "flowers"]);
    assert_eq!(made.code, 0);
    assert!(made.stderr.contains("socket: it is neither a file"), "{}", made.stderr);
    assert_eq!(home.json(["dataset", "show", "flowers"])["files"], 2);
}

#[test]
fn those_who_are_no_developers_make_no_datasets() {
    let home = home();
    home.ok(["member", "add", "bob", "--role", "viewer", "--on", "cats/tabby"]);
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let project = ["--project", "lab/cats/tabby"];
    let as_bob = |args: &[&str]| home.run_as("bob", args.iter().chain(&project));
    assert_eq!(as_bob(&["dataset", "list"]).code, 0);
    let refused = as_bob(&["dataset", "create", "weeds", "flowers"]).expect_failure();
    assert!(refused.contains("developer"), "{refused}");
    as_bob(&["dataset", "verify", "flowers"]).expect_failure();
    as_bob(&["dataset", "delete", "flowers"]).expect_failure();
}

#[test]
fn verify_finds_a_changed_byte_and_names_the_file() {
    let home = home();
    let mut noise = vec![0; 100_000];
    getrandom::fill(&mut noise).unwrap();
    fs::write(home.path("flowers/noise.bin"), &noise).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let whole = home.run(["dataset", "verify", "flowers"]);
    assert_eq!(whole.code, 0);
    assert!(whole.stderr.contains("dataset flowers@1 is whole: 3 files"), "{}", whole.stderr);

    let pack = only_pack(&home);
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.windows(64).position(|window| *window == noise[50_000..50_064]).unwrap();
    bytes[middle] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let ended = home.run(["dataset", "verify", "flowers"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let damaged = ended.stderr;
    assert!(damaged.contains("dataset flowers@1 is damaged"), "{damaged}");
    assert!(damaged.contains("affected: noise.bin"), "{damaged}");
    assert!(!damaged.contains("rose"), "{damaged}");

    fs::remove_file(&pack).unwrap();
    let missing = home.run(["dataset", "verify", "flowers"]).stderr;
    assert!(missing.contains("affected: red/rose.txt"), "{missing}");
    // The files are still here, so the dataset can be mended.
    fs::write(home.path("flowers/new.txt"), "new").unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["dataset", "verify", "flowers@2"]);
}

fn objects(home: &Home) -> usize {
    files(&home.atelier().join("store")).len()
}

fn only_pack(home: &Home) -> std::path::PathBuf {
    let mut packs = files(&home.atelier().join("store/packs"));
    assert_eq!(packs.len(), 1);
    packs.remove(0)
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}
