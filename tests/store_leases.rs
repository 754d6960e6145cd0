//! What those who write, read and collect promise each other, over the real SQL.

use std::time::Duration;

use atelier::catalog::{
    Catalog, Kind, NewResource, NewVersion, Project, StoredObject, Version, Writer,
};
use atelier::error::ErrorKind;
use serde_json::json;
use sqlx::Connection as _;

/// Longer than a test.
const LEASE: Duration = Duration::from_mins(10);

/// A catalogue in a folder that is gone when this is dropped, with a project.
struct Fresh {
    catalog: Catalog,
    project: Project,
    dir: tempfile::TempDir,
}

impl Fresh {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("catalog.db"), "ada").await.unwrap();
        catalog.create_organization("lab").await.unwrap();
        let at = "lab/lab Team".parse().unwrap();
        let project = catalog.create_project(&at, "tabby", "", None).await.unwrap();
        Self { catalog, project, dir }
    }

    async fn writer(&self) -> Writer {
        self.catalog.begin_writing(LEASE).await.unwrap()
    }

    /// Makes a version of objects that are new.
    async fn version(&self, name: &str, objects: &[&str]) -> Version {
        let writer = self.writer().await;
        for id in objects {
            assert!(put(&writer, id).await);
        }
        writer.publish(&self.project, dataset(name), made_of(objects)).await.unwrap().1
    }

    async fn delete(&self, name: &str) {
        let catalog = &self.catalog;
        catalog.activate(&self.project, Kind::Dataset, name, false).await.unwrap();
        let found = catalog.resource(&self.project, Kind::Dataset, name).await.unwrap();
        catalog.delete_resource(&found).await.unwrap();
    }

    /// Collects without a grace; returns the names of what was removed.
    async fn collect(&self) -> Vec<String> {
        self.catalog.condemn().await.unwrap();
        let gone = self.catalog.take_removable(Duration::ZERO).await.unwrap();
        self.catalog.removed(&gone).await.unwrap();
        gone.into_iter().map(|object| object.id).collect()
    }

    /// Nobody was heard of for longer than his lease.
    async fn lapse(&self) {
        let url = format!("sqlite://{}", self.dir.path().join("catalog.db").display());
        let mut db = sqlx::AnyConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("UPDATE lease SET expires = 0").execute(&mut db).await.unwrap();
    }

    async fn live(&self) -> Vec<String> {
        let live = self.catalog.live_objects().await.unwrap();
        live.into_iter().map(|object| object.id).collect()
    }
}

fn dataset(name: &str) -> NewResource {
    NewResource {
        kind: Kind::Dataset,
        name: name.to_owned(),
        description: String::new(),
        spec: json!({}),
    }
}

/// A version whose root is the last of its objects.
fn made_of(objects: &[&str]) -> NewVersion {
    NewVersion {
        root: objects.last().unwrap().to_string(),
        files: 1,
        bytes: 1,
        spec: json!({}),
        needs: objects.iter().map(ToString::to_string).collect(),
    }
}

/// Announces an object and says that it arrived; `false` when its name is spent.
async fn put(writer: &Writer, id: &str) -> bool {
    let object = StoredObject { id: id.to_owned(), area: "data".to_owned(), bytes: 10 };
    let fine = writer.announce(&object).await.unwrap();
    if fine {
        writer.arrived(id);
    }
    fine
}

#[tokio::test]
async fn what_a_version_needs_stays_until_it_is_deleted() {
    let fresh = Fresh::new().await;
    fresh.version("one", &["a", "shared", "root1"]).await;
    fresh.version("two", &["shared", "root2"]).await;
    assert_eq!(fresh.collect().await, [""; 0]);
    fresh.delete("one").await;
    assert_eq!(fresh.collect().await, ["a", "root1"]);
    assert_eq!(fresh.live().await, ["root2", "shared"]);
}

#[tokio::test]
async fn what_a_writer_put_or_found_stays_until_he_ends() {
    let fresh = Fresh::new().await;
    fresh.version("one", &["a", "root1"]).await;
    let writer = fresh.writer().await;
    put(&writer, "new").await;
    fresh.delete("one").await;
    assert_eq!(fresh.collect().await, [""; 0], "he may have found it");
    // He did, and builds upon it.
    put(&writer, "root2").await;
    writer.publish(&fresh.project, dataset("two"), made_of(&["a", "new", "root2"])).await.unwrap();
    assert_eq!(fresh.collect().await, ["root1"]);

    let idle = fresh.writer().await;
    put(&idle, "unused").await;
    assert_eq!(fresh.collect().await, [""; 0]);
    idle.end().await.unwrap();
    assert_eq!(fresh.collect().await, ["unused"]);
}

#[tokio::test]
async fn a_writer_who_began_later_keeps_nothing_he_can_not_have_found() {
    let fresh = Fresh::new().await;
    fresh.version("one", &["a", "root1"]).await;
    fresh.delete("one").await;
    fresh.catalog.condemn().await.unwrap();
    let later = fresh.writer().await;
    assert_eq!(later.live_objects().await.unwrap(), []);
    assert_eq!(fresh.collect().await, ["a", "root1"]);
}

#[tokio::test]
async fn a_name_that_was_collected_is_never_used_again() {
    let fresh = Fresh::new().await;
    fresh.version("one", &["a", "root1"]).await;
    fresh.delete("one").await;
    fresh.catalog.condemn().await.unwrap();
    let doomed = fresh.catalog.take_removable(Duration::ZERO).await.unwrap();
    let writer = fresh.writer().await;
    assert!(!put(&writer, "a").await, "it is being removed");
    fresh.catalog.removed(&doomed).await.unwrap();
    assert!(!put(&writer, "a").await, "it was removed");
}

#[tokio::test]
async fn a_condemned_object_comes_back_to_who_needs_it() {
    let fresh = Fresh::new().await;
    fresh.version("one", &["a", "root1"]).await;
    fresh.delete("one").await;
    fresh.catalog.condemn().await.unwrap();
    let writer = fresh.writer().await;
    assert!(put(&writer, "a").await);
    put(&writer, "root2").await;
    writer.publish(&fresh.project, dataset("two"), made_of(&["a", "root2"])).await.unwrap();
    assert_eq!(fresh.collect().await, ["root1"]);
    assert_eq!(fresh.live().await, ["a", "root2"]);
}

#[tokio::test]
async fn a_writer_who_slept_for_too_long_is_told_so() {
    let fresh = Fresh::new().await;
    fresh.version("one", &["a", "root1"]).await;
    let sleeper = fresh.writer().await;
    put(&sleeper, "root2").await;
    fresh.lapse().await;
    fresh.delete("one").await;
    assert_eq!(fresh.collect().await, ["a", "root1", "root2"]);
    let late = sleeper.publish(&fresh.project, dataset("two"), made_of(&["a", "root2"])).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::StaleHandle);
    assert!(fresh.catalog.all_versions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_writer_publishes_once_however_often_he_is_asked() {
    let fresh = Fresh::new().await;
    let writer = fresh.writer().await;
    put(&writer, "root").await;
    let publish = || writer.publish(&fresh.project, dataset("one"), made_of(&["root"]));
    let (resource, version) = publish().await.unwrap();
    assert_eq!(publish().await.unwrap().1, version);
    assert_eq!(fresh.catalog.versions(&resource.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_open_stays_readable_when_it_is_deleted() {
    let fresh = Fresh::new().await;
    let version = fresh.version("one", &["a", "root1"]).await;
    let reader = fresh.catalog.begin_reading(LEASE).await.unwrap();
    assert_eq!(reader.hold(&version).await.unwrap(), "root1");
    fresh.delete("one").await;
    assert_eq!(fresh.collect().await, [""; 0]);
    assert!(!reader.has_lost("a").await.unwrap());
    reader.end().await.unwrap();
    assert_eq!(fresh.collect().await, ["a", "root1"]);
    let gone = fresh.catalog.begin_reading(LEASE).await.unwrap().hold(&version).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_reader_whose_lease_lapsed_learns_what_he_lost() {
    let fresh = Fresh::new().await;
    let kept = fresh.version("kept", &["b", "root2"]).await;
    let version = fresh.version("one", &["a", "root1"]).await;
    let reader = fresh.catalog.begin_reading(LEASE).await.unwrap();
    reader.hold(&version).await.unwrap();
    fresh.lapse().await;
    let fine = fresh.catalog.begin_reading(Duration::from_secs(2)).await.unwrap();
    fine.hold(&kept).await.unwrap();
    fresh.delete("one").await;
    assert_eq!(fresh.collect().await, ["a", "root1"]);
    assert!(reader.has_lost("a").await.unwrap());
    tokio::time::sleep(Duration::from_secs(4)).await;
    fresh.delete("kept").await;
    assert_eq!(fresh.collect().await, [""; 0], "its lease is renewed");
    assert!(!fine.has_lost("b").await.unwrap());
}

#[tokio::test]
async fn nothing_is_condemned_while_a_version_does_not_say_what_it_needs() {
    let fresh = Fresh::new().await;
    let writer = fresh.writer().await;
    put(&writer, "a").await;
    put(&writer, "root").await;
    let silent = NewVersion { needs: Vec::new(), ..made_of(&["root"]) };
    writer.publish(&fresh.project, dataset("one"), silent).await.unwrap();
    assert_eq!(fresh.catalog.condemn().await.unwrap_err().kind(), ErrorKind::ResourceBusy);
    assert_eq!(fresh.catalog.unknown_roots().await.unwrap(), ["root"]);
    let object = |id: &str| StoredObject { id: id.into(), area: "data".into(), bytes: 1 };
    fresh.catalog.adopt("root", &[object("root"), object("a"), object("old")]).await.unwrap();
    assert_eq!(fresh.collect().await, [""; 0]);
    assert_eq!(fresh.live().await, ["a", "old", "root"]);
}
