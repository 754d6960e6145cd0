//! What every tree promises to those who read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atelier::error::ErrorKind;
use atelier::path::TreePath;
use atelier::tree::{Attr, FileType, OpenMode, SeekTo, Tree};

use super::sample::{Expected, Holds, entries};
use super::{contents, failure, list, path};

/// Holds a tree that was filled with the sample to what it promises to readers.
pub(crate) async fn reads(tree: Arc<dyn Tree>, holds: Holds) {
    let expected = entries(holds);
    lists_what_is_there(&*tree, &expected).await;
    tells_the_same_in_a_listing_and_by_itself(&*tree, &expected).await;
    reads_whole_files(&*tree, &expected).await;
    reads_ranges(&*tree, &expected).await;
    finds_data_and_holes(&*tree).await;
    tells_what_is_not_there(&*tree).await;
    tells_files_from_directories(&*tree).await;
    has_no_attribute_nobody_set(&*tree).await;
    if holds.links_and_empty_dirs {
        follows_no_link(&*tree).await;
    }
    reads_concurrently(tree, expected).await;
}

/// Each name comes once, without `.` and `..`.
async fn lists_what_is_there(tree: &dyn Tree, expected: &BTreeMap<Vec<u8>, Expected>) {
    for dir in directories(expected) {
        let mut names: Vec<_> =
            list(tree, &dir).await.unwrap().into_iter().map(|entry| entry.name.to_vec()).collect();
        names.sort();
        let inside: Vec<_> = expected
            .keys()
            .map(path)
            .filter(|path| path.parent().as_ref() == Some(&dir))
            .filter_map(|path| path.name().map(<[u8]>::to_vec))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        assert_eq!(names, inside, "names in {dir:?}");
    }
}

/// `ls -l` and `stat` agree, and so does the open file.
async fn tells_the_same_in_a_listing_and_by_itself(
    tree: &dyn Tree,
    expected: &BTreeMap<Vec<u8>, Expected>,
) {
    assert!(tree.stat(&TreePath::root()).await.unwrap().is_dir());
    for dir in directories(expected) {
        for entry in list(tree, &dir).await.unwrap() {
            let path = dir.join(&entry.name).unwrap();
            let attr = tree.stat(&path).await.unwrap();
            assert_eq!(lasting(&entry.attr), lasting(&attr), "{path:?}");
            let (file_type, size) = match &expected[path.as_bytes()] {
                Expected::Directory => (FileType::Directory, attr.size),
                Expected::File(bytes) => (FileType::File, bytes.len() as u64),
                Expected::Symlink(target) => (FileType::Symlink, target.len() as u64),
            };
            assert_eq!((attr.file_type, attr.size), (file_type, size), "{path:?}");
            assert_eq!(attr.mode & !0o7777, 0, "{path:?}");
            if file_type == FileType::File {
                let file = tree.open(&path, OpenMode::READ).await.unwrap();
                assert_eq!(lasting(&file.stat().await.unwrap()), lasting(&attr), "{path:?}");
            }
        }
    }
}

async fn reads_whole_files(tree: &dyn Tree, expected: &BTreeMap<Vec<u8>, Expected>) {
    for (name, expected) in expected {
        if let Expected::File(bytes) = expected {
            let read = contents(tree, &path(name)).await.unwrap();
            assert!(read == *bytes, "{:?} isn't what was written", path(name));
        }
    }
}

/// A read is short only at the end of the file, and empty past it.
async fn reads_ranges(tree: &dyn Tree, expected: &BTreeMap<Vec<u8>, Expected>) {
    for name in ["sizes/noise-0", "sizes/noise-513", "sizes/noise-3000001", "sizes/text"] {
        let Expected::File(bytes) = &expected[name.as_bytes()] else { unreachable!() };
        let file = tree.open(&path(name), OpenMode::READ).await.unwrap();
        let size = bytes.len();
        for offset in [0, 1, 511, 262_143, 524_288, size.saturating_sub(1), size, size + 1] {
            for len in [0, 1, 512, 131_072, 1_500_000] {
                let read = file.read_at(offset as u64, len).await.unwrap();
                let start = offset.min(size);
                let end = (offset + len).min(size).max(start);
                assert!(read == bytes[start..end], "{name}: {len} bytes at {offset}");
            }
        }
        assert!(file.read_at(1 << 40, 10).await.unwrap().is_empty(), "{name}: far past the end");
    }
}

async fn finds_data_and_holes(tree: &dyn Tree) {
    let file = tree.open(&path("sizes/text"), OpenMode::READ).await.unwrap();
    let size = file.stat().await.unwrap().size;
    assert_eq!(file.seek(17, SeekTo::Data).await.unwrap(), 17);
    assert_eq!(file.seek(17, SeekTo::Hole).await.unwrap(), size);
    assert_eq!(failure(file.seek(size, SeekTo::Data).await), ErrorKind::NoSuchAddress);
    assert_eq!(failure(file.seek(size + 9, SeekTo::Hole).await), ErrorKind::NoSuchAddress);
}

async fn tells_what_is_not_there(tree: &dyn Tree) {
    for name in ["nothing", "a/nothing", "a/b/c/d/e", "sizes/noise", "many/000.txt.bak", "A"] {
        let path = path(name);
        assert_eq!(failure(tree.stat(&path).await), ErrorKind::NotFound, "stat {name}");
        assert_eq!(failure(list(tree, &path).await), ErrorKind::NotFound, "list {name}");
        let opened = tree.open(&path, OpenMode::READ).await;
        assert_eq!(failure(opened), ErrorKind::NotFound, "open {name}");
    }
}

/// A bucket knows keys, not names on the way, so it may say that nothing is there instead.
async fn tells_files_from_directories(tree: &dyn Tree) {
    let no_directory = [ErrorKind::NotADirectory, ErrorKind::NotFound];
    assert!(no_directory.contains(&failure(list(tree, &path("a.txt")).await)));
    for name in ["a.txt/below", "a/b/c/deep.txt/further/below"] {
        let path = path(name);
        assert!(no_directory.contains(&failure(tree.stat(&path).await)), "stat {name}");
        assert!(no_directory.contains(&failure(list(tree, &path).await)), "list {name}");
        let opened = tree.open(&path, OpenMode::READ).await;
        assert!(no_directory.contains(&failure(opened)), "open {name}");
    }
    for dir in [TreePath::root(), path("a"), path("a/b")] {
        let opened = tree.open(&dir, OpenMode::READ).await;
        assert_eq!(failure(opened), ErrorKind::IsADirectory, "open {dir}");
    }
}

async fn has_no_attribute_nobody_set(tree: &dyn Tree) {
    for name in ["", "a", "a.txt"] {
        let read = tree.xattr(&path(name), b"user.nothing.of.this.name").await;
        assert_eq!(failure(read), ErrorKind::NoAttribute, "{name:?}");
    }
}

/// The kernel resolves links before a path arrives, so one on the way isn't a directory.
async fn follows_no_link(tree: &dyn Tree) {
    for (name, target) in [
        ("link", "a/b/c/deep.txt"),
        ("link-to-dir", "a"),
        ("dangling", "nothing/there"),
        ("outside", "/etc/passwd"),
    ] {
        let link = path(name);
        assert_eq!(tree.stat(&link).await.unwrap().file_type, FileType::Symlink, "{name}");
        assert_eq!(tree.read_link(&link).await.unwrap(), target.as_bytes(), "{name}");
        let opened = tree.open(&link, OpenMode::READ).await;
        assert_eq!(failure(opened), ErrorKind::FilesystemLoop, "open {name}");
        let below = path(format!("{name}/b"));
        assert_eq!(failure(tree.stat(&below).await), ErrorKind::NotADirectory, "{name}/b");
        assert_eq!(failure(list(tree, &link).await), ErrorKind::NotADirectory, "list {name}");
    }
    for name in ["a", "a.txt"] {
        let read = tree.read_link(&path(name)).await;
        assert_eq!(failure(read), ErrorKind::InvalidInput, "{name} is no link");
    }
}

async fn reads_concurrently(tree: Arc<dyn Tree>, expected: BTreeMap<Vec<u8>, Expected>) {
    let expected = Arc::new(expected);
    let readers = (0..8_u64).map(|reader| {
        let (tree, expected) = (Arc::clone(&tree), Arc::clone(&expected));
        tokio::spawn(async move {
            let files = expected.iter().filter_map(|(name, expected)| match expected {
                Expected::File(bytes) => Some((path(name), bytes)),
                _ => None,
            });
            // Each starts elsewhere, and reads in pieces.
            let mut files: Vec<_> = files.collect();
            let turn = usize::try_from(reader).unwrap() * files.len() / 8;
            files.rotate_left(turn);
            for (path, bytes) in files {
                let file = tree.open(&path, OpenMode::READ).await.unwrap();
                let mut read = Vec::new();
                while read.len() < bytes.len() {
                    let piece = file.read_at(read.len() as u64, 100_000).await.unwrap();
                    assert!(!piece.is_empty(), "{path:?} ends early");
                    read.extend_from_slice(&piece);
                }
                assert!(read == *bytes, "{path:?} isn't what was written");
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
}

/// The directories of the sample, the root first.
fn directories(expected: &BTreeMap<Vec<u8>, Expected>) -> Vec<TreePath> {
    let below = expected
        .iter()
        .filter(|(_, expected)| **expected == Expected::Directory)
        .map(|(name, _)| path(name));
    std::iter::once(TreePath::root()).chain(below).collect()
}

/// Attributes without the time of the last read, which our own reading moves, and without how long
/// the answer holds, which depends on its age.
fn lasting(attr: &Attr) -> Attr {
    Attr { atime: attr.mtime, ttl: std::time::Duration::ZERO, ..attr.clone() }
}
