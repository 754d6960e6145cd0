//! `atelier s3` against a real server.

use atelier::object::{ObjectStore as _, PutMode};
use bytes::Bytes;

use crate::support::home::Home;
use crate::support::proxy::{Fault, Proxy};
use crate::support::seaweed::{BUCKET, KEY_ID, SECRET, Seaweed};

const CONNECT: &[&str] = &["s3", "connect", "photos", "--bucket", BUCKET, "--region", "us-east-1"];

/// A home whose project knows the secret of the server's key.
fn home_with_secret() -> Home {
    let home = Home::with_project();
    home.run_with(SECRET.as_bytes(), ["secret", "set", "AWS_SECRET_ACCESS_KEY"]).expect_ok();
    home
}

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_connected_shown_and_disconnected() {
    let server = Seaweed::start().await;
    let endpoint = server.endpoint();
    let home = home_with_secret();
    let key = ["--endpoint", &endpoint, "--key-id", KEY_ID];
    let reference = ["--secret-ref", "project/AWS_SECRET_ACCESS_KEY"];
    let args = with(&with(CONNECT, &key), &reference);
    home.ok(with(&args, &["--prefix", "/2024", "--description", "cats on film"]));
    home.ok(["s3", "test", "photos"]);

    let listed = home.json(["s3", "list"]);
    assert_eq!(listed[0]["name"], "photos");
    assert_eq!(listed[0]["prefix"], "2024/");
    assert_eq!(listed[0]["key"]["secret"], "project/AWS_SECRET_ACCESS_KEY");
    assert_eq!(listed[0]["active"], true);
    let shown = home.ok(["s3", "show", "photos"]);
    assert!(shown.contains("s3://cats/2024/") && shown.contains("cats on film"), "{shown}");
    for said in [listed.to_string(), shown] {
        assert!(!said.contains(SECRET));
    }
    let database = std::fs::read(home.atelier().join("catalog.db")).unwrap();
    assert!(!database.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()));

    let said = home.fails(args);
    assert!(said.contains("s3 photos of lab/cats/tabby is there already"), "{said}");
    home.ok(["s3", "deactivate", "photos"]);
    let said = home.fails(["s3", "test", "photos"]);
    assert!(said.contains("hint: `atelier s3 activate photos` shows it"), "{said}");
    home.ok(["s3", "activate", "photos"]);
    home.ok(["s3", "test", "photos"]);
    home.ok(["s3", "disconnect", "photos"]);
    assert_eq!(home.json(["s3", "list"]), serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_chain_is_that_of_who_runs_it() {
    let server = Seaweed::start().await;
    let endpoint = server.endpoint();
    let home = Home::with_project();
    let args = with(CONNECT, &["--endpoint", &endpoint]);
    let said = home.fails(&args);
    assert!(said.contains("no AWS credentials were found"), "{said}");
    assert!(said.contains("hint: run `aws configure`"), "{said}");

    let mut connect = home.command(&args);
    connect.env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET);
    assert!(connect.status().unwrap().success());

    let profile = home.path("profile");
    let text =
        format!("[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n");
    std::fs::write(&profile, text).unwrap();
    let mut tried = home.command(["s3", "test", "photos"]);
    tried.env("AWS_SHARED_CREDENTIALS_FILE", &profile);
    assert!(tried.status().unwrap().success());
    home.fails(["s3", "test", "photos"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_in_one_line_with_a_hint() {
    let server = Seaweed::start().await;
    let endpoint = server.endpoint();
    let home = home_with_secret();
    home.run_with(b"wrong", ["secret", "set", "WRONG"]).expect_ok();
    let key = |id, secret| vec!["--key-id", id, "--secret-ref", secret];
    let fine = || key(KEY_ID, "project/AWS_SECRET_ACCESS_KEY");
    let at = |url, bucket, key: Vec<&'static str>| {
        let args = ["s3", "connect", "x", "--bucket", bucket, "--endpoint", url];
        args.into_iter().map(str::to_owned).chain(key.into_iter().map(str::to_owned)).collect()
    };
    let cases: Vec<(Vec<String>, &str)> = vec![
        (at(&endpoint, "dogs", fine()), "there is no bucket dogs"),
        (at(&endpoint, BUCKET, key("NOBODY", "project/WRONG")), "key id NOBODY isn't known"),
        (at(&endpoint, BUCKET, key(KEY_ID, "project/WRONG")), "the secret isn't that of"),
        (at(&endpoint, BUCKET, key(KEY_ID, "project/NOTHING")), "has no secret NOTHING"),
        (at("http://127.0.0.1:9", BUCKET, fine()), "refuses connections"),
        (at("http://nowhere.invalid", BUCKET, fine()), "can't be found"),
        (at("s3.example.org", BUCKET, fine()), "isn't the URL of an S3 service"),
        (at(&endpoint, "a/b", fine()), "can't be a bucket's name"),
    ];
    for (args, words) in cases {
        let said = home.fails(&args);
        assert!(said.lines().next().unwrap().contains(words), "{words}: {said}");
        assert_eq!(said.lines().filter(|line| line.starts_with("hint: ")).count(), 1, "{said}");
        assert!(!said.contains(SECRET), "{said}");
    }
    assert_eq!(home.json(["s3", "list"]), serde_json::json!([]));
    let untested = with(&["s3", "connect", "x", "--bucket", "dogs", "--no-test"], &fine());
    home.ok(untested);
    let said = home.fails(["s3", "show", "y"]);
    assert!(said.contains("s3 y of lab/cats/tabby"), "{said}");
    assert_eq!(home.run(["s3", "connect", "z", "--bucket", "cats", "--key-id", "A"]).code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_tried_tells_how_it_does() {
    let server = Seaweed::start().await;
    let proxy = Proxy::start(server.port());
    let endpoint = proxy.endpoint();
    let home = home_with_secret();
    let key = ["--key-id", KEY_ID, "--secret-ref", "project/AWS_SECRET_ACCESS_KEY"];
    home.ok(with(&with(CONNECT, &["--endpoint", &endpoint]), &key));
    let tried = home.json(["s3", "test", "photos"]);
    assert_eq!((&tried["works"], tried.get("read")), (&true.into(), None), "{tried}");

    let bytes = Bytes::from(vec![7; 1000]);
    server.store("").await.put("a.jpg", bytes, PutMode::Overwrite).await.unwrap();
    let tried = home.json(["s3", "test", "photos"]);
    assert_eq!(tried["service"], endpoint);
    assert_eq!(tried["read"]["key"], "a.jpg");
    assert_eq!(
        (&tried["read"]["ranges"], &tried["read"]["if_match"]),
        (&true.into(), &true.into())
    );
    assert!(tried["list_millis"].is_number() && tried["read"]["first_byte_millis"].is_number());
    let said = home.run(["s3", "test", "photos"]).stderr;
    assert!(said.contains("photos works: s3://cats/ at http://127.0.0.1"), "{said}");
    assert!(said.contains("the first byte of a.jpg comes after"), "{said}");

    for (answer, words) in [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>",
            "answers, but not as S3 does",
        ),
        (
            "HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-3\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n",
            "bucket cats is in the region eu-west-3",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n\
             <Error><Code>RequestTimeTooSkewed</Code></Error>",
            "the clock of this machine and that of",
        ),
        (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n\
             <Error><Code>ExpiredToken</Code></Error>",
            "have expired",
        ),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "the connection to"),
    ] {
        proxy.fail(1000, Fault::Answer(answer));
        let tried = home.run(["s3", "test", "photos", "--json"]);
        assert_eq!(tried.code, 1, "{tried:?}");
        let told: serde_json::Value = serde_json::from_str(&tried.stdout).unwrap();
        assert_eq!(told["works"], false);
        assert!(told["error"].as_str().unwrap().contains(words), "{words}: {told}");
        assert!(told["hint"].is_string(), "{told}");
        let said = tried.expect_failure();
        assert!(said.contains(words) && said.contains("\nhint: "), "{words}: {said}");
        assert_eq!(said.lines().count(), 2, "{said}");
        proxy.resume();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_key_brings_its_token() {
    let server = Seaweed::start().await;
    let proxy = Proxy::start(server.port());
    let endpoint = proxy.endpoint();
    let home = home_with_secret();
    home.run_with(b"a-session-token", ["secret", "set", "TOKEN"]).expect_ok();
    let key = ["--key-id", KEY_ID, "--secret-ref", "project/AWS_SECRET_ACCESS_KEY"];
    let args = with(&with(CONNECT, &["--endpoint", &endpoint, "--no-test"]), &key);
    home.ok(with(&args, &["--token-ref", "project/TOKEN"]));
    assert_eq!(home.json(["s3", "list"])[0]["key"]["token"], "project/TOKEN");
    // Whatever this server makes of it, the token is sent.
    home.run(["s3", "test", "photos"]);
    let heads = proxy.heads();
    assert!(heads[0].contains("x-amz-security-token: a-session-token"), "{heads:?}");
}

/// The host's name is known to the proxy only.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_the_environment_is_used() {
    let server = Seaweed::start().await;
    let proxy = Proxy::start(server.port());
    let home = home_with_secret();
    let key = ["--key-id", KEY_ID, "--secret-ref", "project/AWS_SECRET_ACCESS_KEY"];
    let elsewhere = ["--endpoint", "http://s3.nowhere.invalid", "--path-style"];
    let args = with(&with(CONNECT, &elsewhere), &key);
    let said = home.fails(&args);
    assert!(said.contains("the host of http://s3.nowhere.invalid can't be found"), "{said}");
    let mut connect = home.command(&args);
    connect.env("HTTP_PROXY", proxy.endpoint());
    assert!(connect.status().unwrap().success());
    assert!(proxy.heads()[0].starts_with("GET http://s3.nowhere.invalid/cats"));
}

/// A helper gives out a key that has expired by the time it is used.
#[tokio::test(flavor = "multi_thread")]
async fn expired_credentials_are_loaded_again_once() {
    let server = Seaweed::start().await;
    let proxy = Proxy::start(server.port());
    let home = Home::with_project();
    let (helper, config) = (home.path("helper"), home.path("config"));
    let answer = |id: &str, secret: &str| {
        let key = serde_json::json!({"Version": 1, "AccessKeyId": id, "SecretAccessKey": secret});
        format!("echo '{key}'")
    };
    let (old, new) = (answer("OLD", "gone"), answer(KEY_ID, SECRET));
    let profile = format!("[default]\ncredential_process = sh {}\n", helper.display());
    std::fs::write(&config, profile).unwrap();
    let expired = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml\r\n\
                   connection: close\r\n\r\n<Error><Code>ExpiredToken</Code></Error>";
    let endpoint = proxy.endpoint();
    for (later, words) in [(&*new, None), ("exit 1", Some("the AWS credentials can't be loaded"))] {
        let script = format!("[ -e used ] && {{ {later}; exit; }}\ntouch used\n{old}\n");
        std::fs::write(&helper, script).unwrap();
        let _ = std::fs::remove_file(home.path("used"));
        proxy.heads();
        proxy.fail(1, Fault::Answer(expired));
        let mut connect = home.command(with(CONNECT, &["--endpoint", &endpoint]));
        let ended = connect.env("AWS_CONFIG_FILE", &config).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        let heads = proxy.heads();
        assert!(heads[0].contains("Credential=OLD/"), "{heads:?}");
        match words {
            None => {
                assert!(ended.status.success(), "{said}");
                assert!(heads[1].contains(&format!("Credential={KEY_ID}/")), "{heads:?}");
                home.ok(["s3", "disconnect", "photos"]);
            }
            Some(words) => {
                assert!(!ended.status.success() && said.contains(words), "{said}");
                assert!(said.contains("hint: sign in again"), "{said}");
            }
        }
    }
}
