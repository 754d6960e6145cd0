//! A bit that is another one, anywhere in the store: found, named, never read, and mended.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::io::Errno;

use super::*;

/// A dataset of files that are stored in all the ways there are, in several pages.
fn make(home: &Home) -> Vec<String> {
    let dir = home.path("zoo");
    fs::create_dir_all(dir.join("many")).unwrap();
    fs::write(dir.join("inline"), "a few words").unwrap();
    fs::write(dir.join("frame"), noise(40_000)).unwrap();
    fs::write(dir.join("text"), "one,two,three\n".repeat(4000)).unwrap();
    fs::write(dir.join("runs"), noise(900_000)).unwrap();
    fs::write(dir.join("table"), "one,two,three\n".repeat(90_000)).unwrap();
    let mut files: Vec<_> = ["inline", "frame", "text", "runs", "table"].map(str::to_owned).into();
    for number in 0..700 {
        let name = format!("many/{number:03}-{}", "a long name ".repeat(12));
        fs::write(dir.join(&name), format!("number {number}")).unwrap();
        files.push(name);
    }
    home.ok(["dataset", "create", "zoo", "zoo"]);
    files
}

/// What came of reading all files through a mount.
struct Seen {
    /// Files that can't be read.
    failed: BTreeSet<String>,
    log: String,
}

/// Reads all files through a mount of its own; each is as it was or can't be read.
fn seen(place: &Place, files: &[String]) -> Seen {
    let log = place.home.atelier().join("log/mount.log");
    let before = fs::read_to_string(&log).map_or(0, |log| log.len());
    place.mount();
    let mut failed = BTreeSet::new();
    for file in files {
        match fs::read(place.dir.join("datasets/zoo").join(file)) {
            Ok(bytes) => {
                let made = fs::read(place.home.path("zoo").join(file)).unwrap();
                assert!(bytes == made, "{file} has wrong bytes");
            }
            Err(error) => {
                assert_eq!(Errno::from_io_error(&error), Some(Errno::IO), "{file}: {error}");
                failed.insert(file.clone());
            }
        }
    }
    place.home.ok(["unmount", place.dir()]);
    Seen { failed, log: fs::read_to_string(&log).unwrap()[before..].to_owned() }
}

/// `PROPTEST_CASES` says how many bits, 10 unless it does.
#[test]
fn a_bit_that_changed_is_found_named_never_read_and_mended() {
    let place = Place::new();
    let home = &place.home;
    let files = make(home);
    let store = home.atelier().join("store");
    let objects = || -> Vec<_> {
        ["packs", "meta"].iter().flat_map(|area| super::files(&store.join(area))).collect()
    };
    assert_eq!(objects().len(), 3, "a pack of data, one of pages, and a root");
    assert!(seen(&place, &files).failed.is_empty());
    let cases = std::env::var("PROPTEST_CASES").map_or(10, |cases| cases.parse().unwrap());
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    // Anywhere, or in what ends a pack.
    let anywhere = any::<prop::sample::Index>().prop_map(Ok);
    let place_of = prop_oneof![anywhere, (1..3000_usize).prop_map(Err)];
    let strategy = (0..3_usize, place_of, 0..8_u8);
    TestRunner::new(config)
        .run(&strategy, |(object, at, bit)| {
            let file = objects().swap_remove(object);
            let mut bytes = fs::read(&file).unwrap();
            let at = match at {
                Ok(anywhere) => anywhere.index(bytes.len()),
                Err(behind) => bytes.len() - behind.min(bytes.len()),
            };
            bytes[at] ^= 1 << bit;
            fs::write(&file, &bytes).unwrap();
            is_found_and_mended(&place, &files, &file);
            Ok(())
        })
        .unwrap();
}

fn is_found_and_mended(place: &Place, files: &[String], object: &Path) {
    let home = &place.home;
    let id = object.file_name().unwrap().to_str().unwrap();
    let is_data = object.starts_with(home.atelier().join("store/packs"));
    let Seen { failed, log } = seen(place, files);
    if is_data {
        for file in &failed {
            let named = log.lines().any(|line| line.contains(&format!("{file} of dataset zoo")));
            assert!(named, "{file} isn't named in the log:\n{log}");
        }
    }

    let verified = home.run(["store", "verify"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.stderr.contains(id), "{verified:?}");
    let json = home.command(["store", "verify", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let affected: BTreeSet<_> = json["affected"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|version| version["files"].as_array().unwrap())
        .map(|file| file.as_str().unwrap().to_owned())
        .collect();
    if is_data {
        assert_eq!(affected, failed);
    } else if !failed.is_empty() {
        assert!(!affected.is_empty(), "{json}");
    }
    let one = home.run(["dataset", "verify", "zoo"]);
    assert_eq!(one.code, 1, "{one:?}");

    home.ok(["dataset", "create", "zoo", "zoo"]);
    home.ok(["store", "verify"]);
    home.ok(["dataset", "verify", "zoo"]);
    assert_eq!(home.json(["dataset", "show", "zoo"])["version"], 1);
    assert!(seen(place, files).failed.is_empty());
}

/// What is mended is read at once by a mount that has found it damaged.
#[test]
fn a_mount_reads_what_was_mended_under_it() {
    let place = Place::new();
    let home = &place.home;
    make(home);
    place.mount();
    for name in ["frame", "runs"] {
        let made = fs::read(home.path("zoo").join(name)).unwrap();
        flip(&files(&home.atelier().join("store/packs")), &made[20_000..20_064]);
        let path = place.dir.join("datasets/zoo").join(name);
        let error = fs::read(&path).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::IO), "{error}");
        // Whichever of both looks at it, it isn't used any more.
        let verify = if name == "runs" {
            ["store", "verify"].as_slice()
        } else {
            &["dataset", "verify", "zoo"]
        };
        assert_eq!(home.run(verify).code, 1);
        home.ok(["dataset", "create", "zoo", "zoo"]);
        assert!(fs::read(&path).unwrap() == made, "{name}");
    }
}

/// What was put back is trusted again once it was looked at.
#[test]
fn what_is_put_back_is_built_upon_again() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let pack = files(&home.atelier().join("store/packs")).swap_remove(0);
    let whole = fs::read(&pack).unwrap();
    fs::write(&pack, &whole[..1000]).unwrap();
    assert_eq!(home.run(["store", "verify"]).code, 1);
    fs::write(&pack, whole).unwrap();
    home.ok(["store", "verify"]);
    let made = home.json(["dataset", "create", "same", "flowers"]);
    assert!(made["stored_bytes"].as_u64().unwrap() < 2000, "{made}");
}
