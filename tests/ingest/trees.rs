//! Directories that people have.

use std::process::Command;

use super::*;

/// The program's own source with its history is kept byte for byte, and so is each of the
/// directories in `ATELIER_TREES`, separated by colons: an unpacked source package, a Python
/// environment.
#[test]
fn real_trees_are_kept_byte_for_byte() {
    let place = Place::new();
    let home = &place.home;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(source, "git", &["clone", "--quiet", "--no-local", ".", home.path("0").to_str().unwrap()]);
    let others = std::env::var("ATELIER_TREES").unwrap_or_default();
    let others = others.split(':').filter(|tree| !tree.is_empty()).map(Path::new);
    let trees: Vec<_> = std::iter::once(home.path("0")).chain(others.map(Path::to_owned)).collect();
    for (number, tree) in trees.iter().enumerate() {
        home.ok(["dataset", "create", &format!("tree-{number}"), tree.to_str().unwrap()]);
    }
    place.mount();
    for (number, tree) in trees.iter().enumerate() {
        let dataset = format!("tree-{number}");
        assert_same_shape(&mounted(&place, &dataset), &shown(shape(tree)));
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference"]).arg(tree);
        let status = diff.arg(place.dir.join("datasets").join(dataset)).status();
        assert!(status.unwrap().success(), "{}", tree.display());
    }
    // A program that knows such a tree finds nothing wrong with it.
    let dataset = place.dir.join("datasets/tree-0");
    let git = ["-c", "safe.directory=*", "-C", dataset.to_str().unwrap()];
    run(source, "git", &[&git[..], &["fsck", "--no-dangling", "--no-progress"]].concat());
}
