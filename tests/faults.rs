//! What goes wrong between a bucket and a program: the bytes read are right or an error is, in
//! time, and everything works again afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier::error::{Error, ErrorKind};
use atelier::metrics::Metrics;
use atelier::object::s3::{Limits, S3Store};
use atelier::object::{Depth, ObjectStore, PutMode};
use bytes::Bytes;
use futures_util::{TryStreamExt as _, future};

use crate::support::proxy::{Fault, Proxy};
use crate::support::seaweed::{self, Seaweed};

mod mounted;
mod outage;

/// What an object is read in, see `atelier::cache`.
const BLOCK: usize = 16 << 10;

/// A request for an object, and one for a listing, as the SDK writes them.
const GET: &str = "x-id=GetObject";
const LIST: &str = "list-type=2";

/// A server, a proxy before it, and a store by way of the proxy.
struct Faulty {
    server: Seaweed,
    proxy: Proxy,
    store: S3Store,
    metrics: Arc<Metrics>,
}

impl Faulty {
    async fn start() -> Self {
        Self::within(seaweed::limits()).await
    }

    async fn within(limits: Limits) -> Self {
        let server = Seaweed::start().await;
        let proxy = Proxy::start(server.port());
        let metrics = Arc::new(Metrics::default());
        let store = seaweed::counted_store_at(proxy.endpoint(), "", limits, metrics.clone()).await;
        Self { server, proxy, store, metrics }
    }

    /// Puts an object past the proxy.
    async fn put(&self, key: &str, bytes: Bytes) {
        let store = self.server.store("").await;
        store.put(key, bytes, PutMode::Overwrite).await.unwrap();
    }

    /// Reads a range in pieces; what came before it failed, and how it ended.
    async fn pieces(&self, key: &str, range: std::ops::Range<u64>) -> (Vec<u8>, Option<Error>) {
        let mut got = Vec::new();
        let mut sink = |piece: Bytes| got.extend_from_slice(&piece);
        let outcome = self.store.get_into(key, range, None, &mut sink).await;
        (got, outcome.err())
    }
}

/// Bytes that differ everywhere.
fn noise(len: usize) -> Bytes {
    (0..=len as u64 / 8)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(len)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_goes_on_where_it_broke() {
    let faulty = Faulty::start().await;
    let len = 5 * BLOCK + 100;
    let bytes = noise(len);
    faulty.put("a", bytes.clone()).await;
    for at in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, len - 1] {
        for fault in [Fault::Truncate(at), Fault::Reset(at)] {
            faulty.proxy.requests();
            faulty.proxy.fail_those(GET, 1, fault);
            let (got, error) = faulty.pieces("a", 0..len as u64).await;
            assert!(error.is_none() && got == bytes, "{fault:?}: {} bytes, {error:?}", got.len());
            let requests = faulty.proxy.requests();
            assert_eq!(requests.len(), 2, "{requests:?}");
            // A reset may throw away what was on its way.
            if let Fault::Truncate(at) = fault {
                let end = len - 1;
                assert!(requests[1].ends_with(&format!("bytes={at}-{end}")), "{requests:?}");
            }
        }
    }
    // What breaks again and again ends well, too, as long as something comes each time.
    faulty.proxy.fail_those(GET, 20, Fault::Truncate(BLOCK / 4));
    let (got, error) = faulty.pieces("a", 0..len as u64).await;
    assert!(got == bytes[..got.len()], "{error:?}");
    assert!(error.is_none_or(|error| error.kind() == ErrorKind::Io));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_length_is_seen() {
    let faulty = Faulty::start().await;
    let bytes = noise(300_000);
    faulty.put("a", bytes.clone()).await;
    let html =
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>Hi</html>";
    let wrong = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 38\r\n\r\n\
                 <Error><Code>InternalError</Code></Err";
    for fault in [
        Fault::Claim(7),
        Fault::Claim(-7),
        Fault::Cut(1),
        Fault::Chunked,
        Fault::Header("content-range", "bytes 0-99/300000"),
        Fault::Header("content-range", "bytes 1-200000/300000"),
        Fault::Header("content-range", "nonsense"),
        Fault::Header("content-range", ""),
        Fault::Header("content-length", ""),
        Fault::Trickle(100),
        Fault::Pause(1000, Duration::from_millis(300)),
        Fault::Answer(html),
        Fault::Answer(wrong),
    ] {
        for range in [100_000..200_000, 1..300_000] {
            let expected = &bytes[range.start..range.end];
            faulty.proxy.fail_those(GET, 1, fault);
            let (got, error) = faulty.pieces("a", range.start as u64..range.end as u64).await;
            assert!(error.is_none() && got == expected, "{fault:?}: {}, {error:?}", got.len());
            // A server that is always wrong is an error, and what came before it is right.
            faulty.proxy.fail_those(GET, 100, fault);
            let (got, error) = faulty.pieces("a", range.start as u64..range.end as u64).await;
            assert!(got == expected[..got.len()], "{fault:?}");
            let told = error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Io);
            assert!(told || got.len() == expected.len(), "{fault:?}: {}, {error:?}", got.len());
            faulty.proxy.resume();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_between_two_attempts_is_not_mixed() {
    let faulty = Faulty::start().await;
    let (old, new) = (noise(200_000), Bytes::from(vec![7; 200_000]));
    faulty.put("a", old.clone()).await;
    faulty.proxy.fail_those(GET, 1, Fault::Truncate(50_000));
    faulty.proxy.fail_those(GET, 1, Fault::Delay(Duration::from_millis(700)));
    let replace = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        faulty.put("a", new.clone()).await;
    };
    let ((got, error), ()) = future::join(faulty.pieces("a", 0..200_000), replace).await;
    assert!(got == old[..got.len()]);
    assert_eq!(error.unwrap().kind(), ErrorKind::StaleHandle);
    let (got, error) = faulty.pieces("a", 0..200_000).await;
    assert!(error.is_none() && got == new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refusals_slows_down_and_passes() {
    let faulty = Faulty::within(Limits::within(Duration::from_secs(20))).await;
    let bytes = noise(100_000);
    faulty.put("a", bytes.clone()).await;
    let busy = "HTTP/1.1 503 Slow\r\nretry-after: 0\r\ncontent-length: 0\r\n\
                connection: close\r\n\r\n";
    faulty.proxy.fail(30, Fault::Status(503));
    faulty.proxy.fail(30, Fault::Answer(busy));
    faulty.proxy.fail(10, Fault::Status(429));
    let reads = (0..32).map(|_| faulty.store.get("a", 0..100_000, None));
    for got in future::join_all(reads).await {
        assert!(got.unwrap() == bytes);
    }
    assert_eq!(faulty.metrics.throttled.value(), 70);
    assert_eq!(faulty.metrics.hedged.value(), 0);
    assert_eq!(faulty.metrics.failures.value(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_asked_for_again() {
    let faulty = Faulty::within(Limits::default()).await;
    let bytes = noise(300_000);
    faulty.put("a", bytes.clone()).await;
    let usual = async |count| {
        for _ in 0..count {
            faulty.store.get("a", 0..300_000, None).await.unwrap();
            faulty.store.head("a").await.unwrap();
        }
    };
    usual(40).await;
    // By chance, on a busy machine, others may have been late: these two are for sure.
    let before = faulty.metrics.hedged.value();
    for fault in [Fault::Delay(Duration::from_secs(30)), Fault::Stall(100_000)] {
        faulty.proxy.fail_those(GET, 1, fault);
        let start = Instant::now();
        let (got, error) = faulty.pieces("a", 0..300_000).await;
        assert!(error.is_none() && got == bytes, "{fault:?}: {error:?}");
        assert!(start.elapsed() < Limits::default().stall, "{fault:?}");
    }
    faulty.proxy.fail_those("HEAD", 1, Fault::Delay(Duration::from_secs(30)));
    assert_eq!(faulty.store.head("a").await.unwrap().size, 300_000);
    assert!(faulty.metrics.hedged.value() >= before + 3);
    // When all are late there is no use in asking twice: few requests are sent beside others.
    for _ in 0..60 {
        faulty.proxy.fail_those(GET, 1, Fault::Delay(Duration::from_millis(10)));
    }
    let reads = (0..60).map(|_| faulty.store.get("a", 0..300_000, None));
    future::try_join_all(reads).await.unwrap();
    let (requests, hedged) = (faulty.metrics.requests.value(), faulty.metrics.hedged.value());
    assert!(hedged <= 8 + requests / 20, "{hedged} of {requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_damaged_is_asked_for_again() {
    let faulty = Faulty::start().await;
    for name in ["a", "b", "c/d"] {
        faulty.put(&format!("dir/{name}"), noise(10)).await;
    }
    let list = async || -> Result<(Vec<String>, Vec<String>), Error> {
        let pages: Vec<_> = faulty.store.list("dir/", Depth::Children).try_collect().await?;
        let keys = pages.iter().flat_map(|page| page.objects.iter().map(|meta| meta.key.clone()));
        Ok((keys.collect(), pages.iter().flat_map(|page| page.prefixes.clone()).collect()))
    };
    let expected = (vec!["dir/a".to_owned(), "dir/b".to_owned()], vec!["dir/c/".to_owned()]);
    let garbage = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 23\r\n\r\n\
                   <?xml <<<>>&&& nonsense";
    let error = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 49\r\n\r\n\
                 <Error><Code>InternalError</Code></Error>        ";
    for fault in [
        Fault::Answer(garbage),
        Fault::Answer(error),
        Fault::Cut(1),
        Fault::Cut(30),
        Fault::Cut(400),
        Fault::Cut(10_000),
        Fault::Truncate(200),
        Fault::Status(500),
        Fault::Status(502),
    ] {
        faulty.proxy.fail_those(LIST, 2, fault);
        assert_eq!(list().await.unwrap(), expected, "{fault:?}");
        faulty.proxy.fail_those(LIST, 1000, fault);
        let error = list().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{fault:?}: {error:?}");
        faulty.proxy.resume();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for_once_it_was_there() {
    let faulty = Faulty::within(Limits { attempts: 2, ..Limits::default() }).await;
    let bytes = noise(100_000);
    faulty.put("a", bytes.clone()).await;
    faulty.proxy.stop();
    let error = faulty.store.get("a", 0..9, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    faulty.proxy.resume();
    faulty.store.head("a").await.unwrap();
    faulty.proxy.stop();
    let restart = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        faulty.proxy.resume();
    };
    let (got, ()) = future::join(faulty.store.get("a", 0..100_000, None), restart).await;
    assert!(got.unwrap() == bytes);
    // A gateway says the same in its way.
    faulty.proxy.fail(4, Fault::Status(504));
    assert!(faulty.store.get("a", 0..100_000, None).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_an_error_in_time() {
    let faulty = Faulty::start().await;
    let bytes = noise(100_000);
    faulty.put("a", bytes.clone()).await;
    faulty.server.freeze();
    let start = Instant::now();
    let (get, head) =
        future::join(faulty.store.get("a", 0..100_000, None), faulty.store.head("a")).await;
    assert_eq!(get.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(head.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(start.elapsed() < 2 * seaweed::limits().deadline);
    faulty.server.thaw();
    assert!(faulty.store.get("a", 0..100_000, None).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_gone_silent_are_left_at_once() {
    let faulty = Faulty::start().await;
    let bytes = noise(100_000);
    faulty.put("a", bytes.clone()).await;
    faulty.proxy.keep_connections();
    let read = || faulty.store.get("a", 0..100_000, None);
    future::try_join_all((0..32).map(|_| read())).await.unwrap();
    // More than could be tried one after another until the deadline.
    let silent = faulty.proxy.forget_connections();
    assert!(silent >= 16, "{silent}");
    let start = Instant::now();
    assert!(read().await.unwrap() == bytes);
    assert!(start.elapsed() < 2 * seaweed::limits().stall, "{:?}", start.elapsed());
    let start = Instant::now();
    for got in future::join_all((0..32).map(|_| read())).await {
        assert!(got.unwrap() == bytes);
    }
    assert!(start.elapsed() < seaweed::limits().stall, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_died_while_idle_cost_no_stall() {
    let faulty = Faulty::start().await;
    let bytes = noise(100_000);
    faulty.put("a", bytes.clone()).await;
    faulty.proxy.keep_connections();
    let read = || faulty.store.get("a", 0..100_000, None);
    for _ in 0..2 {
        future::try_join_all((0..32).map(|_| read())).await.unwrap();
        faulty.proxy.forget_connections();
        tokio::time::sleep(seaweed::limits().stall / 2).await;
        let start = Instant::now();
        assert!(read().await.unwrap() == bytes);
        assert!(start.elapsed() < seaweed::limits().stall / 2, "{:?}", start.elapsed());
    }
    // Where nothing tells yet how long an answer takes.
    faulty.proxy.forget_connections();
    tokio::time::sleep(seaweed::limits().stall / 2).await;
    let start = Instant::now();
    faulty.store.head("a").await.unwrap();
    assert!(start.elapsed() < seaweed::limits().stall, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_does_not_make_an_object_absent() {
    let faulty = Faulty::start().await;
    let bytes = noise(1000);
    faulty.put("a", bytes.clone()).await;
    let lost = "HTTP/1.1 404 Not Found\r\ncontent-type: text/plain; charset=utf-8\r\n\
                content-length: 19\r\nconnection: close\r\n\r\n404 page not found\n";
    faulty.proxy.fail(1, Fault::Answer(lost));
    assert!(faulty.store.get("a", 0..1000, None).await.unwrap() == bytes);
    // Or without a word; the number is missing that the service gives each answer.
    let bare = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    faulty.proxy.fail(1, Fault::Answer(bare));
    faulty.store.head("a").await.unwrap();
    faulty.proxy.fail(1, Fault::Answer(bare));
    assert!(faulty.store.get("a", 0..1000, None).await.unwrap() == bytes);
    faulty.proxy.fail(100, Fault::Answer(lost));
    let error = faulty.store.get("a", 0..1000, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    faulty.proxy.resume();
    for status in [500, 501, 502, 503, 504, 520] {
        faulty.proxy.fail(1000, Fault::Status(status));
        let error = faulty.store.head("a").await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::NotFound, "{status}");
        faulty.proxy.resume();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_and_a_wrong_region_are_put_right() {
    let faulty = Faulty::start().await;
    faulty.put("a", noise(1000)).await;
    let skewed = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\n\
                  date: Wed, 01 Jan 2031 12:00:00 GMT\r\nconnection: close\r\n\r\n\
                  <Error><Code>RequestTimeTooSkewed</Code><Message>no</Message></Error>";
    faulty.proxy.heads();
    faulty.proxy.fail(1, Fault::Answer(skewed));
    let error = faulty.store.get("a", 0..9, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    let heads = faulty.proxy.heads();
    assert!(heads.len() == 2 && heads[1].contains("x-amz-date: 20310101T"), "{heads:?}");

    let faulty = Faulty::start().await;
    faulty.put("a", noise(1000)).await;
    let moved = "HTTP/1.1 301 Moved\r\ncontent-length: 0\r\nx-amz-bucket-region: eu-west-3\r\n\
                 connection: close\r\n\r\n";
    faulty.proxy.fail(1, Fault::Answer(moved));
    faulty.store.get("a", 0..9, None).await.unwrap();
    let heads = faulty.proxy.heads();
    assert!(heads.len() == 2 && heads[1].contains("/eu-west-3/s3/"), "{heads:?}");
    faulty.proxy.fail(10, Fault::Answer(moved));
    let error = faulty.store.head("a").await.unwrap_err();
    assert_eq!(error.to_string(), "bucket cats is in the region eu-west-3");
    assert_eq!(error.hint(), Some("connect it with --region eu-west-3"));
}
