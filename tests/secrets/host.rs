//! A host's identity: its mounts open the keys of buckets, which no user of them can.

use std::fs;
use std::process::{Command, Output};

use atelier::catalog::{CommunityName, Role, Scope};
use atelier::object::{ObjectStore as _, PutMode};
use bytes::Bytes;

use super::home::{Home, done, refused, stderr};
use crate::support::seaweed::{BUCKET, KEY_ID, SECRET, Seaweed};

/// The consumer of a shared connection can't open its key, and a mount that the host runs can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_opens_the_key_of_a_shared_bucket() {
    let server = Seaweed::start().await;
    let bytes = Bytes::from_static(b"meow");
    server.store("").await.put("cat.txt", bytes, PutMode::Overwrite).await.unwrap();
    let home = Home::new().await;
    done(&home.set("S3_SECRET", "buckets", SECRET.as_bytes()));
    let endpoint = server.endpoint();
    let key = ["--key-id", KEY_ID, "--secret-ref", "buckets/S3_SECRET"];
    let connect = ["s3", "connect", "raw", "--bucket", BUCKET, "--endpoint", &endpoint];
    done(&home.run(&[&connect[..], &key].concat()));

    home.catalog.create_community("acme", "fences", "").await.unwrap();
    let fences = CommunityName { organization: "acme".into(), community: "fences".into() };
    let yard = home.catalog.create_project(&fences, "yard", "", None).await.unwrap();
    let on = Scope::Project(yard.name.clone());
    home.catalog.set_role("fay", Role::Developer, &on).await.unwrap();
    done(&home.run(&["publish", "s3/raw", "--to", "fences"]));

    let host_identity = home.dir().join("host/identity.txt");
    let as_fay = |with_host: bool, args: &[&str]| -> Output {
        let mut command = home.command("fay", args);
        command.env("ATELIER_PROJECT", yard.name.to_string());
        if with_host {
            command.env("ATELIER_HOST_IDENTITY", &host_identity);
        }
        command.output().unwrap()
    };
    done(&as_fay(false, &["add", "pets/cats/s3/raw"]));
    let made = as_fay(true, &["identity", "new", "--host"]);
    let recipient = done(&made);
    let before = as_fay(true, &["s3", "test", "raw"]);
    assert_eq!(before.status.code(), Some(128), "{}", stderr(&before));

    let recipient = recipient.trim();
    let add = ["member", "key", "add", "--host", "gpu1", recipient, "--on", "pets/cats"];
    let added = home.run(&add);
    done(&added);
    assert!(stderr(&added).contains("host/gpu1"), "{}", stderr(&added));
    refused(&as_fay(false, &["s3", "test", "raw"]), 128, "no age identity");
    done(&as_fay(true, &["s3", "test", "raw"]));

    let dir = home.dir().join("mounted");
    fs::create_dir(&dir).unwrap();
    let shown = dir.to_str().unwrap();
    done(&as_fay(true, &["mount", shown]));
    let read = fs::read(dir.join("s3/raw/cat.txt"));
    // What she can read of the key is that it is there, in the project of its owner only.
    let secrets = fs::read_dir(dir.join("secrets")).unwrap().count();
    let unmounted = Command::new(env!("CARGO_BIN_EXE_atelier")).args(["unmount", shown]).output();
    done(&unmounted.unwrap());
    assert_eq!((read.unwrap(), secrets), (b"meow".to_vec(), 0));
    refused(&as_fay(true, &["run", "--env", "buckets", "--", "true"]), 128, "no age identity");
}
