//! `atelier gc`: what nobody needs goes, what somebody needs stays.

use std::thread;

use super::*;

#[test]
fn what_was_deleted_is_freed_after_its_grace() {
    let home = home();
    home.ok(["dataset", "create", "kept", "flowers"]);
    fill(&home, 1);
    home.ok(["dataset", "create", "flowers", "flowers"]);
    delete(&home, "flowers");
    let before = files(&home.atelier().join("store")).len();

    let would = home.json(["gc", "--dry-run", "--grace", "0s"]);
    assert!(would["freed_bytes"].as_u64().unwrap() > 3 << 20, "{would}");
    assert_eq!(files(&home.atelier().join("store")).len(), before, "it only tells");
    let waits = home.json(["gc"]);
    assert_eq!(waits["freed_objects"], 0, "{waits}");
    assert_eq!(waits["waiting_objects"], would["freed_objects"]);
    let told = home.run(["gc", "--grace", "0s"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stderr.contains("freed: 3 objects, 3."), "{}", told.stderr);
    assert_eq!(files(&home.atelier().join("store")).len(), before - 3);
    home.ok(["dataset", "verify", "kept"]);
    let shown = home.json(["store", "show"]);
    assert_eq!((&shown["objects"], &shown["unused_objects"]), (&3.into(), &0.into()));
    assert_eq!(home.json(["gc", "--grace", "0s"])["freed_objects"], 0);
}

#[test]
fn the_same_content_can_be_taken_in_after_it_was_collected() {
    let home = home();
    for _ in 0..3 {
        home.ok(["dataset", "create", "flowers", "flowers"]);
        home.ok(["dataset", "verify", "flowers"]);
        delete(&home, "flowers");
        assert_eq!(home.json(["gc", "--grace", "0s"])["freed_objects"], 3);
    }
    assert!(files(&home.atelier().join("store/packs")).is_empty());
}

#[test]
fn checkpoints_that_are_dropped_are_freed() {
    let home = Home::with_project();
    home.ok(["project", "show"]);
    let project = home.json(["project", "show"])["id"].as_str().map(str::to_owned);
    let dir = match project {
        Some(id) => home.atelier().join("projects").join(id).join("files"),
        None => panic!("a project has an id"),
    };
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.ipynb"), r#"{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}"#)
        .unwrap();
    for _ in 0..12 {
        fs::write(dir.join("data"), noise(5000)).unwrap();
        home.ok(["checkpoint", "create", "--notebook", "files/a.ipynb"]);
    }
    let done = home.json(["gc", "--grace", "0s"]);
    assert_eq!(done["freed_objects"], 6, "two of twelve were dropped: {done}");
    home.ok(["store", "verify"]);
}

#[test]
fn what_is_left_of_a_pack_that_is_mostly_dead_is_written_anew() {
    let home = home();
    fs::write(home.path("flowers/red/tulip.bin"), noise(700_000)).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fs::remove_file(home.path("flowers/large.bin")).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["dataset", "create", "copy", "flowers"]);
    home.ok(["dataset", "delete", "flowers@1"]);
    let would = home.json(["gc", "--dry-run", "--grace", "0s"]);
    assert_eq!(would["rewritten_packs"], 1, "{would}");
    let done = home.json(["gc", "--grace", "0s"]);
    assert_eq!(done["rewritten_packs"], 1, "{done}");
    assert!(done["freed_bytes"].as_u64().unwrap() > 3 << 20, "{done}");
    assert!(done["kept_bytes"].as_u64().unwrap() < 1 << 20, "{done}");
    home.ok(["store", "verify"]);
    home.ok(["dataset", "verify", "flowers@2"]);
    home.ok(["dataset", "verify", "copy"]);
    assert_eq!(home.json(["gc", "--grace", "0s"])["rewritten_packs"], 0);
    let again = home.run(["dataset", "create", "flowers", "flowers"]);
    assert!(again.stderr.contains("unchanged: flowers is still version 2"), "{again:?}");
}

#[test]
fn collecting_in_a_loop_harms_nobody_who_writes() {
    let home = home();
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            for _ in 0..12 {
                home.ok(["gc", "--grace", "0s"]);
            }
        });
        let mut round = 1;
        while !collector.is_finished() {
            let name = format!("flowers-{}", round % 3);
            fs::write(home.path("flowers/red/rose.bin"), noise(60_000)).unwrap();
            home.ok(["dataset", "create", &name, "flowers"]);
            home.ok(["dataset", "verify", &name]);
            if round % 3 == 0 {
                delete(&home, &name);
            }
            round += 1;
        }
    });
    home.ok(["store", "verify"]);
}

/// Whoever rebuilds a catalogue finds what each version is now in `versions/`.
#[test]
fn the_copies_of_records_say_what_the_catalogue_says() {
    let home = home();
    fs::write(home.path("flowers/red/tulip.bin"), noise(700_000)).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fs::remove_file(home.path("flowers/large.bin")).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["dataset", "create", "other", "flowers", "--description", "all that grows"]);
    assert_eq!(copies(&home).len(), 3);
    let before = home.json(["dataset", "show", "flowers@2"])["root"].clone();
    home.ok(["dataset", "deactivate", "flowers@1"]);
    home.ok(["dataset", "delete", "flowers@1"]);
    // One that wasn't written since its writer was killed comes back, as what was changed does.
    for file in files(&home.atelier().join("store/versions")) {
        if fs::read_to_string(&file).unwrap().contains("all that grows") {
            fs::remove_file(file).unwrap();
        }
    }
    home.ok(["dataset", "deactivate", "other"]);
    assert_eq!(home.json(["gc", "--grace", "0s"])["rewritten_packs"], 1);
    let copies = copies(&home);
    assert_eq!(copies.len(), 2);
    for (name, active) in [("flowers@2", true), ("other@1", false)] {
        let shown = home.json(["dataset", "show", name]);
        assert_ne!(shown["root"], before, "it was written anew");
        let copy = copies.iter().find(|copy| {
            name == format!(
                "{}@{}",
                copy["resource"]["name"].as_str().unwrap(),
                copy["version"]["number"]
            )
        });
        let copy = copy.unwrap();
        assert_eq!(copy["version"]["root"], shown["root"]);
        assert_eq!(copy["version"]["files"], shown["files"]);
        assert_eq!(copy["resource"]["owner"], "lab/cats/tabby");
        assert_eq!(copy["resource"]["kind"], "dataset");
        assert_eq!(copy["resource"]["active"], active);
    }
}

fn copies(home: &Home) -> Vec<serde_json::Value> {
    let files = files(&home.atelier().join("store/versions"));
    files.iter().map(|file| serde_json::from_slice(&fs::read(file).unwrap()).unwrap()).collect()
}

/// A version that can't be read, and a pack that can't, keep nobody from freeing the rest.
#[test]
fn what_is_damaged_does_not_stop_a_collection() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    fill(&home, 1);
    home.ok(["dataset", "create", "doomed", "flowers"]);
    let root = home.json(["dataset", "show", "flowers"])["root"].as_str().unwrap().to_owned();
    fs::write(home.atelier().join("store/meta").join(&root[..2]).join(&root), "x").unwrap();
    delete(&home, "doomed");
    assert_eq!(home.json(["gc", "--grace", "0s"])["freed_objects"], 3);
    assert_eq!(home.run(["store", "verify"]).code, 1);
}

/// Nothing is written to where a disk should be that isn't mounted.
#[test]
fn a_store_that_is_not_there_is_named() {
    let home = home();
    let store = home.atelier().join("store");
    fs::rename(&store, home.path("elsewhere")).unwrap();
    for command in [&["dataset", "create", "flowers", "flowers"][..], &["gc"], &["store", "verify"]]
    {
        let told = home.fails(command);
        assert!(told.contains("isn't there: no store.json says whose it is"), "{told}");
    }
    fs::remove_dir_all(&store).unwrap();
    fs::rename(home.path("elsewhere"), &store).unwrap();
    home.ok(["dataset", "create", "flowers", "flowers"]);
}
