//! The `secrets/` directory of a mount.

use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use atelier::catalog::{CommunityName, Kind, Role, Scope};
use atelier::error::ErrorKind;
use atelier::fuse::{self, MountOptions};
use atelier::path::TreePath;
use atelier::secret::identity::Identities;
use atelier::secret::{OpenEnvironment, Value, reveal};
use atelier::tree::secrets::SecretsTree;
use atelier::tree::{
    Entry, FileType, NewNode, OpenMode, Owner, PageCache, RenameMode, SetAttr, Tree,
};
use futures_util::TryStreamExt as _;

use super::home::{Home, done};
use crate::support::program;

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

async fn names(tree: &SecretsTree) -> Vec<String> {
    let entries: Vec<Entry> = tree.list(&TreePath::root()).try_collect().await.unwrap();
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
}

/// An environment with one secret, A, sealed to ada.
fn sealed(home: &Home, value: &str) -> Vec<u8> {
    let ada = Identities::load(&home.key_file("ada")).unwrap();
    let mut environment = OpenEnvironment::create("project").unwrap();
    environment.set("A", Value::new(value.as_bytes().to_vec())).unwrap();
    environment.seal(&[ada.recipient()]).unwrap()
}

async fn put(home: &Home, name: &str, generation: Option<i64>, body: &[u8]) {
    home.catalog.put_environment(&home.project, name, generation, body.to_vec()).await.unwrap();
}

/// Each environment file shows as it is in the catalogue, and soon after it is made.
#[tokio::test]
async fn environment_files_are_served_in_ciphertext() {
    let home = Home::new().await;
    let tree = SecretsTree::new(home.catalog.clone(), home.project.clone());
    assert_eq!(names(&tree).await, Vec::<String>::new());
    assert!(tree.stat(&TreePath::root()).await.unwrap().is_dir());

    let body = sealed(&home, "1");
    put(&home, "project", None, &body).await;
    put(&home, "staging", None, &sealed(&home, "2")).await;
    assert_eq!(names(&tree).await, ["project.env", "staging.env"]);
    let attr = tree.stat(&path("project.env")).await.unwrap();
    assert_eq!((attr.size, attr.mode), (body.len() as u64, 0o644));
    assert!(attr.ttl <= Duration::from_secs(1));
    assert!(attr.mtime > SystemTime::now() - Duration::from_mins(1));
    let file = tree.open(&path("project.env"), OpenMode::READ).await.unwrap();
    assert_eq!(file.page_cache(), PageCache::Never);
    assert_eq!(file.read_at(0, 1 << 20).await.unwrap(), body);
    assert_eq!(file.read_at(10, 5).await.unwrap(), body[10..15]);
    assert!(file.read_at(u64::MAX, 5).await.unwrap().is_empty());
}

/// An open file keeps its content; the next open sees what was set meanwhile.
#[tokio::test]
async fn an_open_file_stays_as_it_was() {
    let home = Home::new().await;
    let tree = SecretsTree::new(home.catalog.clone(), home.project.clone());
    let (first, second) = (sealed(&home, "1"), sealed(&home, "much longer"));
    put(&home, "project", None, &first).await;
    let old = tree.open(&path("project.env"), OpenMode::READ).await.unwrap();
    put(&home, "project", Some(1), &second).await;
    let new = tree.open(&path("project.env"), OpenMode::READ).await.unwrap();
    assert_eq!(old.read_at(0, 1 << 20).await.unwrap(), first);
    assert_eq!(old.stat().await.unwrap().size, first.len() as u64);
    assert_eq!(new.read_at(0, 1 << 20).await.unwrap(), second);
    let ada = Identities::load(&home.key_file("ada")).unwrap();
    assert_eq!(reveal("project", &second, &ada, "A").unwrap().expose(), b"much longer");
}

/// What isn't a whole environment file can't be made, renamed or removed; other names aren't there.
#[tokio::test]
async fn nothing_else_can_be_done() {
    let home = Home::new().await;
    let tree = SecretsTree::new(home.catalog.clone(), home.project.clone());
    put(&home, "project", None, &sealed(&home, "1")).await;
    let kind = |error: atelier::error::Error| error.kind();
    let file = path("project.env");
    let never = Some(ErrorKind::NotPermitted);
    let new = NewNode { mode: 0o600, owner: Owner { uid: 0, gid: 0 } };
    let mode = OpenMode { write: true, ..OpenMode::default() };
    for name in ["new", ".new.env.swp", "4913", "New.env", ".env", "new.env~", "a/b.env"] {
        let created = tree.create(&path(name), new, mode).await.err().map(kind);
        assert_eq!(created, never, "{name}");
    }
    let created = tree.create(&file, new, mode).await.err().map(kind);
    assert_eq!(created, Some(ErrorKind::AlreadyExists));
    for changes in [
        SetAttr { size: Some(0), ..SetAttr::default() },
        SetAttr { mode: Some(0o600), ..SetAttr::default() },
    ] {
        assert_eq!(tree.set_attr(&file, changes).await.err().map(kind), never);
    }
    let other = path("other.env");
    assert_eq!(tree.remove_file(&file).await.err().map(kind), never);
    assert_eq!(tree.rename(&file, &other, RenameMode::Replace).await.err().map(kind), never);
    assert_eq!(tree.link(&file, &other).await.err().map(kind), never);
    assert_eq!(tree.symlink(&other, b"/etc/passwd", new).await.err().map(kind), never);
    assert_eq!(tree.create_dir(&other, new).await.err().map(kind), never);
    let fifo = tree.create_node(&other, new, FileType::Fifo, 0).await.err().map(kind);
    assert_eq!(fifo, never);

    for absent in ["project", "other.env", ".env", "Project.env"] {
        assert_eq!(tree.stat(&path(absent)).await.err().map(kind), Some(ErrorKind::NotFound));
    }
    let below = tree.stat(&path("project.env/x")).await.err().map(kind);
    assert_eq!(below, Some(ErrorKind::NotADirectory));
    let root = tree.open(&TreePath::root(), OpenMode::READ).await.err().map(kind);
    assert_eq!(root, Some(ErrorKind::IsADirectory));
}

/// Who may not use secrets can't write them, and nobody writes those of another project.
#[tokio::test]
async fn a_file_is_written_by_developers_of_its_project() {
    let home = Home::new().await;
    put(&home, "project", None, &sealed(&home, "1")).await;
    let on = Scope::Project(home.project.name.clone());
    home.catalog.set_role("vic", Role::Viewer, &on).await.unwrap();
    let tree = SecretsTree::new(home.catalog.as_user("vic"), home.project.clone());
    let (new, write) = (
        NewNode { mode: 0o600, owner: Owner { uid: 0, gid: 0 } },
        OpenMode { write: true, truncate: true, ..OpenMode::default() },
    );
    let kind = |error: atelier::error::Error| error.kind();
    let denied = Some(ErrorKind::PermissionDenied);
    assert_eq!(tree.open(&path("project.env"), write).await.err().map(kind), denied);
    assert_eq!(tree.create(&path("new.env"), new, write).await.err().map(kind), denied);

    let secret = home.catalog.resource(&home.project, Kind::Secret, "project").await.unwrap();
    home.catalog.publish(&secret, "pets").await.unwrap();
    let at = CommunityName { organization: "acme".into(), community: "pets".into() };
    let dogs = home.catalog.create_project(&at, "dogs", "", None).await.unwrap();
    home.catalog.add(&dogs, &secret.reference()).await.unwrap();
    let tree = SecretsTree::new(home.catalog.clone(), dogs);
    let foreign = tree.open(&path("project.env"), write).await.err().map(kind);
    assert_eq!(foreign, Some(ErrorKind::NotPermitted));
}

/// A Viewer sees the names and can't read.
#[tokio::test]
async fn a_viewer_sees_names_only() {
    let home = Home::new().await;
    put(&home, "project", None, &sealed(&home, "1")).await;
    let on = Scope::Project(home.project.name.clone());
    home.catalog.set_role("vic", Role::Viewer, &on).await.unwrap();
    let tree = SecretsTree::new(home.catalog.as_user("vic"), home.project.clone());
    assert_eq!(names(&tree).await, ["project.env"]);
    assert_eq!(tree.stat(&path("project.env")).await.unwrap().mode, 0);
    let opened = tree.open(&path("project.env"), OpenMode::READ).await.err();
    assert_eq!(opened.map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
}

/// On a mount the real `sops` decrypts with the member's key, and a secret that is set elsewhere is
/// there within a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sops_works_on_the_mount() {
    let home = Home::new().await;
    put(&home, "project", None, &sealed(&home, "first")).await;
    let mount_point = home.dir().join("mount");
    fs::create_dir(&mount_point).unwrap();
    let mount_point = mount_point.canonicalize().unwrap();
    let tree = SecretsTree::new(home.catalog.clone(), home.project.clone());
    let options = MountOptions { source: home.project.name.to_string(), ..MountOptions::default() };
    let session = fuse::mount(Arc::new(tree), Arc::default(), &mount_point, &options).unwrap();
    let file = mount_point.join("project.env");
    let sops = |args: &[&str]| -> Output {
        Command::new(program::find("sops"))
            .args(args)
            .env("SOPS_AGE_KEY_FILE", home.key_file("ada"))
            .env("SOPS_DISABLE_VERSION_CHECK", "1")
            .output()
            .unwrap()
    };
    let shown = file.to_str().unwrap();
    assert_eq!(done(&sops(&["exec-env", shown, "printenv A"])), "first\n");
    assert_eq!(done(&sops(&["decrypt", "--extract", "[\"A\"]", shown])), "first");

    done(&home.set("A", "project", b"second"));
    done(&home.set("B", "staging", b"new file"));
    let since = Instant::now();
    while !fs::read(&file).is_ok_and(|text| home.opens_to(&text, "A", "second"))
        || !mount_point.join("staging.env").exists()
    {
        assert!(since.elapsed() < Duration::from_secs(1), "it shows too late");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(done(&sops(&["exec-env", shown, "printenv A"])), "second\n");
    session.unmount(fuse::Unmount::Lazily).unwrap();
}
