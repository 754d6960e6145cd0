//! The content store as its users see it: in the home, in a bucket, collected and checked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::home::Home;
use crate::support::place::{Place, until};

mod bucket;
mod collected;
mod damage;
mod full;
mod stopped;

/// A home with a project, and a directory of flowers in it.
fn home() -> Home {
    let home = Home::with_project();
    fill(&home, 0);
    home
}

/// Fills `flowers`; most of it is other content each round.
fn fill(home: &Home, round: u8) {
    fs::create_dir_all(home.path("flowers/red")).unwrap();
    fs::write(home.path("flowers/index.csv"), format!("name,round\nrose,{round}\n")).unwrap();
    fs::write(home.path("flowers/red/rose.bin"), noise(100_000)).unwrap();
    fs::write(home.path("flowers/large.bin"), noise(3 << 20)).unwrap();
}

fn noise(len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    getrandom::fill(&mut noise).unwrap();
    noise
}

/// Deletes a dataset, active as it is.
fn delete(home: &Home, name: &str) {
    home.ok(["dataset", "deactivate", name]);
    home.ok(["dataset", "delete", name]);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// Changes a bit of a file in the middle of these bytes.
fn flip(files: &[PathBuf], needle: &[u8]) {
    for file in files {
        let mut bytes = fs::read(file).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at] ^= 1;
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(file, bytes).unwrap();
            return;
        }
    }
    panic!("no file has these bytes");
}

#[test]
fn a_store_may_be_any_directory_and_belongs_to_one_catalogue() {
    let home = Home::empty();
    let store = home.path("elsewhere");
    let url = store.to_str().unwrap();
    home.ok(["init", "--store", url]);
    assert_eq!(fs::read_to_string(store.join("store.json")).unwrap().find("\"format\":1"), Some(1));
    assert_eq!(home.json(["store", "show"])["location"], url);
    // It is remembered, and another one is refused.
    let refused = home.fails(["--store", "/tmp/another-store-of-nobody", "dataset", "list"]);
    assert!(refused.contains(&format!("belongs to the store {url}, not to")), "{refused}");
    fs::remove_dir_all("/tmp/another-store-of-nobody").unwrap();

    let other = Home::empty();
    let refused = other.fails(["init", "--store", url]);
    assert!(refused.contains("belongs to another catalogue"), "{refused}");
    // Nothing was chosen: the home can have another one.
    other.ok(["init"]);
    let wrong = home.run(["--store", "s3:bucket", "dataset", "list"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
}

#[test]
fn verify_names_the_datasets_that_a_flipped_bit_affects_and_they_can_be_mended() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["dataset", "create", "same", "flowers"]);
    fs::create_dir(home.path("other")).unwrap();
    fs::write(home.path("other/note"), noise(2000)).unwrap();
    home.ok(["dataset", "create", "other", "other"]);
    let whole = home.json(["store", "verify"]);
    assert_eq!((&whole["versions"], &whole["unknown_objects"]), (&3.into(), &0.into()));
    assert_eq!(whole["damaged"], serde_json::json!([]));

    let rose = fs::read(home.path("flowers/red/rose.bin")).unwrap();
    flip(&files(&home.atelier().join("store/packs")), &rose[50_000..50_064]);
    let ended = home.run(["store", "verify"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let told = ended.stderr;
    assert!(told.contains("affected: dataset flowers@1 of lab/cats/tabby: red/rose.bin"), "{told}");
    assert!(told.contains("affected: dataset same@1 of lab/cats/tabby: red/rose.bin"), "{told}");
    assert!(!told.contains("large.bin") && !told.contains("other@1"), "{told}");
    let json = home.command(["store", "verify", "--json"]).output().unwrap();
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["damaged"].as_array().unwrap().len(), 1);
    assert_eq!(json["affected"][0]["files"], serde_json::json!(["red/rose.bin"]));

    // Nothing new is built on what is damaged.
    fs::write(home.path("flowers/new.bin"), noise(2000)).unwrap();
    home.ok(["dataset", "create", "again", "flowers"]);
    home.ok(["dataset", "verify", "again"]);
    assert_eq!(home.run(["dataset", "verify", "flowers"]).code, 1);
    for name in ["flowers", "same"] {
        delete(&home, name);
    }
    home.ok(["gc", "--grace", "0s"]);
    home.ok(["store", "verify"]);
}

#[test]
fn a_damaged_pack_is_mended_by_the_files_it_was_made_of() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let rose = fs::read(home.path("flowers/red/rose.bin")).unwrap();
    flip(&files(&home.atelier().join("store/packs")), &rose[50_000..50_064]);
    assert_eq!(home.run(["store", "verify"]).code, 1);
    home.ok(["dataset", "create", "flowers", "flowers"]);
    home.ok(["store", "verify"]);
    assert_eq!(home.json(["dataset", "show", "flowers"])["version"], 1);
}

#[test]
fn verify_finds_what_is_missing_and_a_damaged_root() {
    let home = home();
    home.ok(["dataset", "create", "flowers", "flowers"]);
    let root = home.json(["dataset", "show", "flowers"])["root"].as_str().unwrap().to_owned();
    let file = home.atelier().join("store/meta").join(&root[..2]).join(&root);
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let told = home.run(["store", "verify"]).expect_failure_after("affected: dataset flowers@1");
    assert!(told.contains(&root), "{told}");
    let mut damaged = bytes.clone();
    damaged[10] ^= 4;
    fs::write(&file, damaged).unwrap();
    home.run(["store", "verify"]).expect_failure_after("affected: dataset flowers@1");
    fs::write(&file, bytes).unwrap();
    home.ok(["store", "verify"]);
}

trait ExpectFailureAfter {
    fn expect_failure_after(self, line: &str) -> String;
}

impl ExpectFailureAfter for crate::support::home::Ended {
    /// The standard error of a failure that was preceded by such a line.
    fn expect_failure_after(self, line: &str) -> String {
        assert_eq!(self.code, 1, "{self:?}");
        assert!(self.stderr.contains(line), "{self:?}");
        self.stderr
    }
}

#[test]
fn what_a_mount_has_open_outlives_its_deletion() {
    let place = Place::new();
    fill(&place.home, 0);
    let rose = fs::read(place.home.path("flowers/red/rose.bin")).unwrap();
    place.home.ok(["dataset", "create", "flowers", "flowers"]);
    place.mount();
    let open = fs::File::open(place.dir.join("datasets/flowers/red/rose.bin")).unwrap();
    delete(&place.home, "flowers");
    until("it is gone", || !place.dir.join("datasets/flowers").exists());
    let done = place.home.json(["gc", "--grace", "0s"]);
    assert_eq!(done["freed_objects"], 0, "{done}");
    let mut read = vec![0; rose.len()];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut read, 0).unwrap();
    assert!(read == rose);
    drop(open);
    place.home.ok(["unmount", place.dir()]);
    let done = place.home.json(["gc", "--grace", "0s"]);
    assert!(done["freed_objects"].as_u64() >= Some(3), "{done}");
    assert_eq!(done["kept_objects"], 0, "{done}");
}
