//! What every tree that can't be written answers to those who try.

use std::sync::Arc;

use atelier::error::ErrorKind::ReadOnlyFilesystem;
use atelier::tree::{FileType, NewNode, OpenMode, RenameMode, SetAttr, Tree, XattrMode};

use super::{READ_WRITE, contents, failure, me, path};

/// Holds a tree that was filled with the sample to refusing every kind of write.
pub(crate) async fn refuses(tree: Arc<dyn Tree>) {
    let before = contents(&*tree, &path("a.txt")).await.unwrap();
    refuses_to_open_for_writing(&*tree).await;
    refuses_new_names(&*tree).await;
    refuses_to_change_names(&*tree).await;
    refuses_to_change_attributes(&*tree).await;
    refuses_writes_to_an_open_file(&*tree).await;
    assert_eq!(contents(&*tree, &path("a.txt")).await.unwrap(), before);
}

async fn refuses_to_open_for_writing(tree: &dyn Tree) {
    let write = OpenMode { write: true, ..OpenMode::default() };
    let append = OpenMode { append: true, ..OpenMode::default() };
    let truncate = OpenMode { truncate: true, ..OpenMode::READ };
    for mode in [write, append, truncate, READ_WRITE] {
        let opened = tree.open(&path("a.txt"), mode).await;
        assert_eq!(failure(opened), ReadOnlyFilesystem, "{mode:?}");
    }
}

async fn refuses_new_names(tree: &dyn Tree) {
    let new = NewNode { mode: 0o644, owner: me() };
    for name in ["new", "a/new"] {
        let path = path(name);
        let created = tree.create(&path, new, READ_WRITE).await;
        assert_eq!(failure(created), ReadOnlyFilesystem);
        assert_eq!(failure(tree.create_dir(&path, new).await), ReadOnlyFilesystem);
        let fifo = tree.create_node(&path, new, FileType::Fifo, 0).await;
        assert_eq!(failure(fifo), ReadOnlyFilesystem);
        assert_eq!(failure(tree.symlink(&path, b"target", new).await), ReadOnlyFilesystem);
        let linked = tree.link(&super::path("a.txt"), &path).await;
        assert_eq!(failure(linked), ReadOnlyFilesystem);
    }
}

async fn refuses_to_change_names(tree: &dyn Tree) {
    let (file, dir, new) = (path("a.txt"), path("a"), path("new"));
    assert_eq!(failure(tree.remove_file(&file).await), ReadOnlyFilesystem);
    assert_eq!(failure(tree.remove_dir(&dir).await), ReadOnlyFilesystem);
    for mode in [RenameMode::Replace, RenameMode::NoReplace] {
        for old in [&file, &dir] {
            assert_eq!(failure(tree.rename(old, &new, mode).await), ReadOnlyFilesystem);
        }
    }
    let other = path("copy.txt");
    let exchanged = tree.rename(&file, &other, RenameMode::Exchange).await;
    assert_eq!(failure(exchanged), ReadOnlyFilesystem);
}

async fn refuses_to_change_attributes(tree: &dyn Tree) {
    for changes in [
        SetAttr { mode: Some(0o600), ..SetAttr::default() },
        SetAttr { size: Some(0), ..SetAttr::default() },
        SetAttr { uid: Some(0), gid: Some(0), ..SetAttr::default() },
    ] {
        let changed = tree.set_attr(&path("a.txt"), changes).await;
        assert_eq!(failure(changed), ReadOnlyFilesystem, "{changes:?}");
    }
    let set = tree.set_xattr(&path("a.txt"), b"user.colour", b"red", XattrMode::Any).await;
    assert_eq!(failure(set), ReadOnlyFilesystem);
    let removed = tree.remove_xattr(&path("a.txt"), b"user.colour").await;
    assert_eq!(failure(removed), ReadOnlyFilesystem);
}

async fn refuses_writes_to_an_open_file(tree: &dyn Tree) {
    let file = tree.open(&path("a.txt"), OpenMode::READ).await.unwrap();
    assert_eq!(failure(file.write_at(0, b"x").await), ReadOnlyFilesystem);
    let cut = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(failure(file.set_attr(cut).await), ReadOnlyFilesystem);
    assert_eq!(failure(file.allocate(0, 10, 0).await), ReadOnlyFilesystem);
    file.flush().await.unwrap();
    file.sync(false).await.unwrap();
}
