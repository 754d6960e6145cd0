//! Objects in an S3 bucket.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};

use self::client::Renewable;
use self::download::{Collected, Download, Sink};
use self::failure::{Service, Subject};
use self::hedge::{Budget, Usual};
use self::pace::{Pace, Urgency};
use super::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;

mod call;
mod client;
mod connection;
mod diagnosis;
mod download;
mod failure;
mod hedge;
mod keys;
mod listing;
mod pace;
mod retry;
mod upload;

pub use connection::{Connection, Credentials, KeyReference, Limits, SecretReference};
pub use diagnosis::{Diagnosis, Reading};

/// The part of a bucket below a prefix. Clones share their connections.
///
/// Keys are relative to the prefix.
#[derive(Clone)]
pub struct S3Store {
    shared: Arc<Shared>,
    urgency: Urgency,
    /// The version of each object that is meant; the newest where none is named.
    version: Option<Arc<str>>,
}

struct Shared {
    connection: Connection,
    credentials: Credentials,
    limits: Limits,
    metrics: Arc<Metrics>,
    client: Renewable,
    pace: Arc<Pace>,
    usual: UsualTimes,
    hedges: Budget,
    /// Whether the service has ever answered.
    reached: AtomicBool,
    /// Whether its answers have numbers.
    numbers: AtomicBool,
    /// Whether a call waited in vain until its deadline, and nothing was answered since.
    silent: AtomicBool,
    /// When a failure was last logged. Guards a time.
    told: Mutex<Option<Instant>>,
}

/// How long answers take, by their kind.
struct UsualTimes {
    first_byte: Usual,
    next_bytes: Usual,
    head: Usual,
    list: Usual,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Store({} at {})", self.shared.connection, self.shared.connection.service())
    }
}

impl S3Store {
    /// Prepares a connection; nothing is sent to the bucket yet.
    ///
    /// # Errors
    /// `InvalidInput` when bucket or endpoint can't be right.
    pub async fn connect(
        connection: Connection,
        credentials: Credentials,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let connection = connection.checked()?;
        let client = Renewable::new(&connection, &credentials, &limits).await;
        let usual = UsualTimes {
            first_byte: Usual::new(),
            next_bytes: Usual::new(),
            head: Usual::new(),
            list: Usual::new(),
        };
        let shared = Shared {
            connection,
            credentials,
            limits,
            metrics,
            client,
            pace: Pace::new(),
            usual,
            hedges: Budget::new(),
            reached: AtomicBool::new(false),
            numbers: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            told: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), urgency: Urgency::Waiting, version: None })
    }

    /// Asks the bucket for one key: whether host, TLS, clock, key, bucket, region and the
    /// permission to list are right.
    ///
    /// # Errors
    /// Names what is wrong, with a hint.
    pub async fn probe(&self) -> Result<()> {
        self.page("", Depth::All, None, Some(1)).await.map(|_| ())
    }

    /// Where this store's objects are.
    pub fn connection(&self) -> &Connection {
        &self.shared.connection
    }

    /// What the address of each object begins with, whoever asks for it by whatever connection.
    pub fn address(&self) -> String {
        let Connection { bucket, prefix, endpoint, .. } = &self.shared.connection;
        let service = endpoint.as_deref().unwrap_or("https://s3.amazonaws.com");
        format!("{service}/{bucket}/{prefix}")
    }

    fn client(&self) -> Client {
        self.shared.client.now()
    }

    fn bucket(&self) -> &str {
        &self.shared.connection.bucket
    }

    fn whole_key(&self, key: &str) -> String {
        format!("{}{key}", self.shared.connection.prefix)
    }

    fn subject<'a>(&'a self, key: Option<&'a str>, permission: &'static str) -> Subject<'a> {
        Subject {
            connection: &self.shared.connection,
            credentials: &self.shared.credentials,
            key,
            permission,
            service: Service {
                reached: self.shared.reached.load(Ordering::Relaxed),
                numbers: self.shared.numbers.load(Ordering::Relaxed),
            },
        }
    }

    /// Reads a range and hands its bytes to `sink` as they come.
    async fn download(
        &self,
        key: &str,
        range: Range<u64>,
        if_match: Option<&ETag>,
        sink: Sink<'_>,
    ) -> Result<()> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:GetObject");
        if range.is_empty() {
            let meta = self.head(key).await?;
            return match if_match {
                Some(etag) if *etag != meta.etag => Err(subject.changed().error),
                _ => Ok(()),
            };
        }
        let download = Download::new(self, subject, range, if_match.cloned());
        download.run(sink).await
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        let mut collected = Collected::default();
        self.download(key, range, if_match, &mut |piece, to_come| collected.add(piece, to_come))
            .await?;
        Ok(collected.bytes())
    }

    async fn get_into(
        &self,
        key: &str,
        range: Range<u64>,
        if_match: Option<&ETag>,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<()> {
        self.download(key, range, if_match, &mut |piece, _| sink(piece)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:GetObject");
        // No object has an empty key, but one may have the key that is the prefix.
        if whole_key.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "an empty key is no object's"));
        }
        let output = self
            .request(subject, Some(&self.shared.usual.head), |client| {
                client
                    .head_object()
                    .bucket(self.bucket())
                    .key(&whole_key)
                    .set_version_id(self.version.as_deref().map(str::to_owned))
                    .send()
            })
            .await?;
        // Where nothing has versions, some services answer with what is there.
        if self.version.is_some() && self.version.as_deref() != output.version_id.as_deref() {
            let message = format!("{} has no such version", subject.name());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let size = length(output.content_length);
        let modified = time(output.last_modified);
        let etag = etag(output.e_tag, size, modified);
        Ok(ObjectMeta { key: key.to_owned(), size, modified, etag })
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.upload(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:DeleteObject");
        let outcome = self
            .request(subject, None, |client| {
                client.delete_object().bucket(self.bucket()).key(&whole_key).send()
            })
            .await;
        match outcome {
            Err(error) if error.kind() == ErrorKind::NotFound && error.hint().is_none() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn at_version(&self, id: &str) -> Option<Arc<dyn ObjectStore>> {
        Some(Arc::new(Self { version: Some(id.into()), ..self.clone() }))
    }

    fn read_ahead(&self) -> Option<Arc<dyn ObjectStore>> {
        Some(Arc::new(Self { urgency: Urgency::Ahead, ..self.clone() }))
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let start = Some((self.clone(), prefix.to_owned(), None));
        Box::pin(stream::try_unfold(start, move |state| async move {
            let Some((store, prefix, token)) = state else {
                return Ok(None);
            };
            let (page, next) = store.page(&prefix, depth, token, None).await?;
            Ok(Some((page, next.map(|token| (store, prefix, Some(token))))))
        }))
    }
}

fn length(bytes: Option<i64>) -> u64 {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

/// A time to the second, since a `HEAD` tells no more, and both shall tell the same.
fn time(time: Option<DateTime>) -> SystemTime {
    let time = time.map(|time| DateTime::from_secs(time.secs()));
    time.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The version of an object; made up of size and time, and weak, where the store names none.
fn etag(etag: Option<String>, size: u64, modified: SystemTime) -> ETag {
    ETag(etag.unwrap_or_else(|| {
        let age = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("W/\"{size}-{}\"", age.as_nanos())
    }))
}

/// Whether a version can be asked for: a weak one identifies no bytes (RFC 9110, section 13.1.1).
fn is_strong(etag: &ETag) -> bool {
    !etag.0.starts_with("W/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_no_one_named_is_weak() {
        let made_up = etag(None, 3, SystemTime::UNIX_EPOCH);
        assert!(!is_strong(&made_up));
        assert!(is_strong(&etag(Some("\"a\"".into()), 3, SystemTime::UNIX_EPOCH)));
    }

    #[tokio::test]
    async fn debug_shows_no_secret() {
        let secret = "hunter2".into();
        let credentials = Credentials::Static { key_id: "AKIA".into(), secret, token: None };
        let store = S3Store::connect(
            Connection::new("cats"),
            credentials,
            Limits::default(),
            Arc::default(),
        );
        assert_eq!(format!("{:?}", store.await.unwrap()), "S3Store(s3://cats/ at AWS)");
    }
}
