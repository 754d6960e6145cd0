//! The router over a real catalogue: what shows where, and that it changes while it is open.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atelier::catalog::{
    Catalog, Kind, NewResource, NewVersion, Project, ResourceChange, VersionChange,
};
use atelier::error::ErrorKind;
use atelier::path::TreePath;
use atelier::tree::local::LocalTree;
use atelier::tree::namespace::{Namespace, OpenResource, Part, Shelf};
use atelier::tree::{FileType, NewNode, OpenMode, Owner, RenameMode, Tree};
use futures_util::{FutureExt as _, TryStreamExt as _};
use serde_json::json;
use tempfile::TempDir;

/// Longer than the catalogue's answers are used.
const UNTIL_FRESH: Duration = Duration::from_millis(500);

struct Fixture {
    dir: TempDir,
    catalog: Catalog,
    project: Project,
    tree: Namespace,
}

impl Fixture {
    /// A project whose datasets and checkpoints hold one file `root` with the version's root in it.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("catalog.db"), "ann").await.unwrap();
        catalog.create_organization("lab").await.unwrap();
        let at = "lab/lab Team".parse().unwrap();
        let project = catalog.create_project(&at, "cats", "", None).await.unwrap();
        let files = dir.path().join("files");
        fs::create_dir(&files).unwrap();
        let shelf = |kind| {
            Part::Shelf(Shelf::new(catalog.clone(), project.clone(), kind, opener(dir.path())))
        };
        let parts = vec![
            ("checkpoints", shelf(Kind::Checkpoint)),
            ("datasets", shelf(Kind::Dataset)),
            ("files", Part::Tree(Arc::new(LocalTree::open(&files).unwrap()))),
        ];
        let tree = Namespace::new(&project, parts);
        Self { dir, catalog, project, tree }
    }

    async fn publish(&self, kind: Kind, name: &str, root: &str) {
        let new = NewResource {
            kind,
            name: name.to_owned(),
            description: String::new(),
            spec: json!({}),
        };
        let version = NewVersion {
            root: root.to_owned(),
            files: 1,
            bytes: 1,
            spec: json!({}),
            needs: vec![],
        };
        self.catalog.publish_version(&self.project, new, version).await.unwrap();
        tokio::time::sleep(UNTIL_FRESH).await;
    }

    async fn names(&self, dir: &str) -> Vec<String> {
        let entries: Vec<_> = self.tree.list(&path(dir)).try_collect().await.unwrap();
        let mut names: Vec<_> =
            entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
        names.sort();
        names
    }

    async fn read(&self, file: &str) -> Result<String, ErrorKind> {
        let file = self.tree.open(&path(file), OpenMode::READ).await.map_err(|e| e.kind())?;
        let bytes = file.read_at(0, 1000).await.map_err(|e| e.kind())?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn xattr(&self, file: &str, name: &str) -> Result<String, ErrorKind> {
        let value = self.tree.xattr(&path(file), name.as_bytes()).await.map_err(|e| e.kind())?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }
}

fn opener(dir: &Path) -> OpenResource {
    let dir = dir.to_owned();
    Arc::new(move |_, version| {
        let dir = dir.clone();
        async move {
            let root = version.unwrap().root;
            let content = dir.join("content").join(&root);
            fs::create_dir_all(&content).unwrap();
            fs::write(content.join("root"), &root).unwrap();
            Ok(Arc::new(LocalTree::open(&content)?) as Arc<dyn Tree>)
        }
        .boxed()
    })
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn node() -> NewNode {
    NewNode { mode: 0o644, owner: Owner { uid: 0, gid: 0 } }
}

#[tokio::test]
async fn a_dataset_shows_its_newest_version_and_finds_the_others() {
    let fixture = Fixture::new().await;
    fixture.publish(Kind::Dataset, "flowers", "one").await;
    let first = fixture.tree.stat(&path("datasets/flowers")).await.unwrap();
    assert_eq!(fixture.read("datasets/flowers/root").await, Ok("one".into()));

    fixture.publish(Kind::Dataset, "flowers", "two").await;
    assert_eq!(fixture.read("datasets/flowers/root").await, Ok("two".into()));
    assert_eq!(fixture.read("datasets/flowers@1/root").await, Ok("one".into()));
    assert_eq!(fixture.read("datasets/flowers@2/root").await, Ok("two".into()));
    assert_eq!(fixture.names("datasets").await, ["flowers"], "versions aren't listed");

    let second = fixture.tree.stat(&path("datasets/flowers")).await.unwrap();
    assert_ne!(first.identity, second.identity, "another version is another directory");
    assert!(second.ttl < Duration::from_secs(1));
    for absent in ["flowers@3", "flowers@0", "flowers@01", "flowers@", "flowers@x", "roses@1"] {
        let read = fixture.read(&format!("datasets/{absent}/root")).await;
        assert_eq!(read, Err(ErrorKind::NotFound), "{absent}");
    }
}

#[tokio::test]
async fn what_is_deactivated_disappears_from_an_open_tree() {
    let fixture = Fixture::new().await;
    fixture.publish(Kind::Dataset, "flowers", "one").await;
    fixture.publish(Kind::Dataset, "flowers", "two").await;
    let dataset =
        fixture.catalog.resource(&fixture.project, Kind::Dataset, "flowers").await.unwrap();

    let hide = VersionChange { active: Some(false), spec: None };
    fixture.catalog.update_version(&dataset.id, 2, hide).await.unwrap();
    tokio::time::sleep(UNTIL_FRESH).await;
    assert_eq!(fixture.read("datasets/flowers/root").await, Ok("one".into()));

    let hide = ResourceChange { active: Some(false), ..ResourceChange::default() };
    fixture.catalog.update_resource(&dataset.id, hide).await.unwrap();
    tokio::time::sleep(UNTIL_FRESH).await;
    assert!(fixture.names("datasets").await.is_empty());
    assert_eq!(fixture.read("datasets/flowers/root").await, Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn checkpoints_have_links_to_the_latest_and_to_pinned_ones() {
    let fixture = Fixture::new().await;
    assert!(fixture.names("checkpoints").await.is_empty());
    fixture.publish(Kind::Checkpoint, "0001", "one").await;
    fixture.publish(Kind::Checkpoint, "0002", "two").await;
    let first = fixture.catalog.resource(&fixture.project, Kind::Checkpoint, "0001").await.unwrap();
    fixture.catalog.pin(&fixture.project, &first.id, "good").await.unwrap();
    tokio::time::sleep(UNTIL_FRESH).await;

    assert_eq!(fixture.names("checkpoints").await, ["0001", "0002", "good", "latest"]);
    for (link, target) in [("good", "0001"), ("latest", "0002")] {
        let link = path(&format!("checkpoints/{link}"));
        let attr = fixture.tree.stat(&link).await.unwrap();
        assert_eq!((attr.file_type, attr.size), (FileType::Symlink, 4));
        assert_eq!(fixture.tree.read_link(&link).await.unwrap(), target);
    }
    let through = fixture.read("checkpoints/latest/root").await;
    assert_eq!(through, Err(ErrorKind::NotADirectory), "the kernel follows links, not we");
}

#[tokio::test]
async fn resources_say_what_they_are() {
    let fixture = Fixture::new().await;
    fixture.publish(Kind::Dataset, "flowers", "one").await;
    for file in ["datasets/flowers", "datasets/flowers/root"] {
        assert_eq!(fixture.xattr(file, "user.atelier.kind").await, Ok("dataset".into()));
        assert_eq!(fixture.xattr(file, "user.atelier.version").await, Ok("1".into()));
        assert!(!fixture.xattr(file, "user.atelier.id").await.unwrap().is_empty());
        let nothing = fixture.xattr(file, "user.atelier.nothing").await;
        assert_eq!(nothing, Err(ErrorKind::NoAttribute));
    }
    assert_eq!(fixture.xattr("", "user.atelier.kind").await, Ok("project".into()));
    let names = fixture.tree.xattrs(&path("datasets/flowers")).await.unwrap();
    assert_eq!(names.len(), 3);
}

#[tokio::test]
async fn only_the_files_can_be_written() {
    let fixture = Fixture::new().await;
    fixture.publish(Kind::Dataset, "flowers", "one").await;
    let tree = &fixture.tree;
    let kind = |result: atelier::error::Result<()>| result.map_err(|error| error.kind());

    tree.create(&path("files/new"), node(), OpenMode::READ).await.unwrap();
    assert!(fixture.dir.path().join("files/new").exists());
    for dir in ["new", "datasets/new", "checkpoints/new", "datasets", "datasets/flowers", "files"] {
        let made = tree.create_dir(&path(dir), node()).await.map(|_| ());
        let expected = match dir {
            "files" => ErrorKind::AlreadyExists,
            _ => ErrorKind::ReadOnlyFilesystem,
        };
        assert_eq!(kind(made), Err(expected), "{dir}");
    }
    for dir in ["datasets", "datasets/flowers", "files"] {
        let removed = tree.remove_dir(&path(dir)).await;
        assert_eq!(kind(removed), Err(ErrorKind::ReadOnlyFilesystem), "{dir}");
        let renamed = tree.rename(&path(dir), &path("files/x"), RenameMode::Replace).await;
        assert!(renamed.is_err(), "{dir}");
    }
    let from = path("files/new");
    let moved = tree.rename(&from, &path("datasets/flowers/new"), RenameMode::Replace).await;
    assert_eq!(kind(moved), Err(ErrorKind::CrossesDevices));
}
