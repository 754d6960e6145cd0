//! Versions of objects, by name, in a bucket that keeps them.

use atelier::error::ErrorKind;
use atelier::object::ObjectStore as _;
use atelier::tree::Tree as _;

use super::{names, open, path, put, tree};
use crate::support::moto::Moto;
use crate::support::seaweed::{self, Seaweed};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_an_object_is_found_by_its_name_only() {
    let server = Moto::start();
    server.keep_versions();
    let store = seaweed::store_at(server.endpoint(), "", seaweed::limits()).await;
    for content in ["first", "the second"] {
        put(&store, "dir/a.txt", content).await;
    }
    put(&store, "dir/icon@2x.png", "an icon").await;
    let versions = server.versions();
    let [new, old, ..] = &versions[..] else { panic!("{versions:?}") };
    let tree = tree(store.clone());
    for _ in 0..2 {
        for (version, content) in [(new, "the second"), (old, "first")] {
            let name = format!("dir/a.txt@{version}");
            let attr = tree.stat(&path(&name)).await.unwrap();
            assert_eq!(attr.size, content.len() as u64, "{name}");
            assert_eq!(open(&tree, &name).await.read_at(0, 100).await.unwrap(), content);
        }
        assert_eq!(names(&tree, "dir").await, ["a.txt", "icon@2x.png"]);
        assert_eq!(open(&tree, "dir/icon@2x.png").await.read_at(0, 9).await.unwrap(), "an icon");
        for nothing in ["dir/icon@3x.png", "dir/a.txt@nothing", &format!("dir/b.txt@{old}")] {
            let error = tree.stat(&path(nothing)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{nothing}");
        }
        store.delete("dir/icon@2x.png").await.unwrap();
        put(&store, "dir/icon@2x.png", "an icon").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_versions_has_none() {
    let server = Seaweed::start().await;
    let store = server.store("").await;
    put(&store, "a", "content").await;
    let tree = tree(store);
    for name in ["a@1", "a@null", "b@1"] {
        let error = tree.stat(&path(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
    }
}
