//! A version becomes a directory again.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use atelier::chunk::Packs;
use atelier::error::ErrorKind;
use atelier::object::memory::MemoryStore;
use atelier::path::TreePath;
use atelier::snapshot::diff::diff;
use atelier::snapshot::{Capture, Changes, Depth, Restored, Version, restore, restore_changes};
use futures_util::TryStreamExt as _;

/// The version of a directory.
async fn version_of(dir: &Path) -> Version {
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let captured = Capture::new().directory(TreePath::root(), dir).run(&packs).await.unwrap();
    Version::open(packs, captured.root).await.unwrap()
}

/// Two directories hold the same when their versions are the same, but for the top itself.
async fn assert_same(one: &Path, two: &Path) {
    let top = fs::metadata(one).unwrap();
    fs::set_permissions(two, top.permissions()).unwrap();
    fs::File::open(two).unwrap().set_modified(top.modified().unwrap()).unwrap();
    assert_eq!(version_of(one).await.id(), version_of(two).await.id());
}

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("a/b/empty")).unwrap();
    fs::write(dir.join("a/small"), "small").unwrap();
    fs::write(dir.join("a/b/large"), vec![7; 3_000_000]).unwrap();
    fs::write(dir.join("nothing"), "").unwrap();
    fs::write(dir.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("a/small", dir.join("link")).unwrap();
    symlink("/nowhere", dir.join("a/dangling")).unwrap();
    fs::set_permissions(dir.join("a/b/empty"), fs::Permissions::from_mode(0o500)).unwrap();
}

#[tokio::test]
async fn an_empty_directory_is_filled() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let version = version_of(from.path()).await;
    let target = into.path().join("new");
    let done = restore(&version, &TreePath::root(), &target).await.unwrap();
    assert_eq!(done, Restored { written: 6, unchanged: 0, removed: 0 });
    assert_same(from.path(), &target).await;

    let again = restore(&version, &TreePath::root(), &target).await.unwrap();
    assert_eq!(again, Restored { written: 0, unchanged: 6, removed: 0 });
    assert_same(from.path(), &target).await;
}

/// The paths at which two versions differ.
async fn differences(before: &Version, after: &Version) -> Changes {
    let mut changes = Changes::default();
    let mut differences = diff(before, after);
    while let Some(difference) = differences.try_next().await.unwrap() {
        changes.add(difference.path, Depth::Entry);
    }
    changes
}

#[tokio::test]
async fn of_what_is_known_to_differ_nothing_else_is_touched() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [one.path(), two.path()] {
        fill(dir);
        fs::create_dir(dir.join("same")).unwrap();
        fs::write(dir.join("same/file"), "same").unwrap();
        let file = fs::File::open(dir.join("same/file")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    let dir = two.path();
    fs::rename(dir.join("a/b"), dir.join("moved")).unwrap();
    fs::remove_file(dir.join("a/dangling")).unwrap();
    fs::create_dir_all(dir.join("a/dangling/now/deep")).unwrap();
    fs::write(dir.join("a/dangling/now/deep/file"), "deep").unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    let versions = (version_of(one.path()).await, version_of(dir).await);
    let into = tempfile::tempdir().unwrap();
    let into = into.path();
    restore(&versions.0, &TreePath::root(), into).await.unwrap();
    let kept = fs::metadata(into.join("same/file")).unwrap();
    for (from, to, expected) in
        [(&versions.0, &versions.1, two.path()), (&versions.1, &versions.0, one.path())]
    {
        let changes = differences(from, to).await;
        restore_changes(to, &TreePath::root(), into, changes).await.unwrap();
        assert_same(expected, into).await;
    }
    let after = fs::metadata(into.join("same/file")).unwrap();
    assert_eq!((kept.ctime(), kept.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
}

#[tokio::test]
async fn what_is_there_gives_way() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let version = version_of(from.path()).await;
    // A directory where a file belongs, a file where a directory belongs, links over both, wrong
    // bytes of the right length, and things that nobody asked for.
    let into = into.path();
    fs::create_dir_all(into.join("nothing/below")).unwrap();
    fs::create_dir(into.join("a")).unwrap();
    fs::write(into.join("a/b"), "a file").unwrap();
    fs::write(into.join("a/small"), "SMALL").unwrap();
    fs::write(into.join("link"), "a file").unwrap();
    fs::create_dir(into.join("surplus")).unwrap();
    fs::write(into.join("surplus/file"), "surplus").unwrap();
    symlink("/etc/passwd", into.join("run.sh")).unwrap();
    let done = restore(&version, &TreePath::root(), into).await.unwrap();
    assert_eq!(done, Restored { written: 6, unchanged: 0, removed: 1 });
    assert_same(from.path(), into).await;
}

#[tokio::test]
async fn a_link_to_elsewhere_is_replaced_and_not_followed() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("precious"), "precious").unwrap();
    fill(from.path());
    let version = version_of(from.path()).await;
    symlink(elsewhere.path(), into.path().join("a")).unwrap();
    symlink(elsewhere.path().join("precious"), into.path().join("nothing")).unwrap();
    symlink(elsewhere.path(), into.path().join("surplus")).unwrap();
    restore(&version, &TreePath::root(), into.path()).await.unwrap();
    assert_same(from.path(), into.path()).await;
    assert_eq!(fs::read(elsewhere.path().join("precious")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_open_file_keeps_its_bytes() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("notes"), "as they were").unwrap();
    let version = version_of(from.path()).await;
    fs::write(into.path().join("notes"), "as they are now").unwrap();
    let open = fs::File::open(into.path().join("notes")).unwrap();
    restore(&version, &TreePath::root(), into.path()).await.unwrap();
    assert_eq!(std::io::read_to_string(open).unwrap(), "as they are now");
    assert_eq!(fs::read(into.path().join("notes")).unwrap(), b"as they were");
    assert_eq!(fs::read_dir(into.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_part_of_a_version_is_restored() {
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let version = version_of(from.path()).await;
    let part = TreePath::parse("a/b").unwrap();
    restore(&version, &part, into.path()).await.unwrap();
    assert_same(&from.path().join("a/b"), into.path()).await;
    let large = fs::metadata(into.path().join("large")).unwrap();
    let source = fs::metadata(from.path().join("a/b/large")).unwrap();
    assert_eq!((large.mtime(), large.mtime_nsec()), (source.mtime(), source.mtime_nsec()));

    for (path, kind) in [("a/small", ErrorKind::NotADirectory), ("b", ErrorKind::NotFound)] {
        let part = TreePath::parse(path).unwrap();
        let error = restore(&version, &part, into.path()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}");
    }
    assert!(into.path().join("large").exists());
}
