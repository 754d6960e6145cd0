//! `atelier dataset create` from whatever there is: what comes in is what was there, or nothing is.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use atelier::chunk::Packs;
use atelier::object::local::LocalStore;
use atelier::path::TreePath;
use atelier::snapshot::{Version, restore};

use crate::support::directory::{Shape, assert_same_shape, noise, shape, whole_seconds, zoo};
use crate::support::home::Home;
use crate::support::place::Place;

mod again;
mod hostile;
mod objects;
mod tarball;
mod trees;
mod zipped;

/// What a mount shows of a dataset, but for the top.
fn mounted(place: &Place, dataset: &str) -> Shape {
    below_top(shape(&place.dir.join("datasets").join(dataset)))
}

/// How a mount shows a directory that was taken in: as it was, but nothing lends an identity.
fn shown(mut shape: Shape) -> Shape {
    for (mode, ..) in shape.values_mut() {
        *mode &= !0o7000;
    }
    below_top(shape)
}

fn below_top(mut shape: Shape) -> Shape {
    shape.remove(&b""[..]);
    shape
}

/// What the newest version of a dataset holds, but for the top.
fn kept(home: &Home, dataset: &str) -> Shape {
    let root = home.json(["dataset", "show", dataset])["root"].as_str().unwrap().to_owned();
    let into = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = LocalStore::open(&home.atelier().join("store")).unwrap();
        let packs = Packs::new(Arc::new(store));
        let version = Version::open(packs, root.parse().unwrap()).await.unwrap();
        restore(&version, &TreePath::root(), into.path()).await.unwrap();
    });
    below_top(shape(into.path()))
}

/// A directory of some files in a home, named `plain`.
fn plain(home: &Home) {
    fs::create_dir_all(home.path("plain/sub")).unwrap();
    fs::write(home.path("plain/small.txt"), "small").unwrap();
    fs::write(home.path("plain/sub/middle.bin"), noise(40_000, 1)).unwrap();
    fs::write(home.path("plain/sub/large.bin"), noise(2_000_000, 2)).unwrap();
}

/// Nothing was published, and the error was a line and perhaps a hint.
fn assert_refused(home: &Home, said: &str, why: &str) {
    assert!(said.contains(why), "{said}");
    assert!(said.lines().count() <= 2, "{said}");
    assert_eq!(home.json(["dataset", "list"]), serde_json::json!([]));
}

/// Runs a program in a directory, which has to succeed.
fn run(dir: &Path, program: &str, args: &[&str]) {
    let mut command = std::process::Command::new(program);
    let status = command.args(args).current_dir(dir).status();
    assert!(status.unwrap().success(), "{program} {args:?}");
}
