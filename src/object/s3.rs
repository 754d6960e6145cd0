//! Objects in an S3 bucket.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{EncodingType, Object};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use tokio::time::timeout;

use self::failure::{Failure, Retry, Subject};
use self::retry::Patience;
use super::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;

mod client;
mod connection;
mod failure;
mod keys;
mod retry;

pub use connection::{Connection, Credentials, KeyReference, Limits, SecretReference};

/// An upload may be slower than a download, and is one request: a second more for so many bytes.
const SLOWEST_UPLOAD: u64 = 256 << 10;

/// The part of a bucket below a prefix. Clones share their connections.
///
/// Keys are relative to the prefix.
#[derive(Clone)]
pub struct S3Store {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    credentials: Credentials,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// Replaced when its credentials have expired.
    client: RwLock<Client>,
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
        let client = RwLock::new(client::build(&connection, &credentials, &limits).await);
        Ok(Self { shared: Arc::new(Shared { connection, credentials, limits, metrics, client }) })
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

    fn client(&self) -> Client {
        self.shared.client.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        }
    }

    /// Sends what `send` makes of the current client until there is an answer.
    async fn request<T, E, Sent>(
        &self,
        subject: Subject<'_>,
        send: impl Fn(Client) -> Sent + Send + Sync,
    ) -> Result<T>
    where
        T: Send,
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
        Sent: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        // The kernel asks twice for a name that it knew: together they keep to the deadline.
        let limits = self.shared.limits;
        let limits = &Limits { deadline: limits.deadline / 2, ..limits };
        let mut patience = Patience::new(limits, subject.name());
        loop {
            self.shared.metrics.requests.add(1);
            let answer = subject.answer(send(self.client()), limits.stall);
            match patience.attempt(answer).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.recover(&mut patience, failure).await?,
            }
        }
    }

    /// Prepares the next attempt; expired credentials are loaded anew.
    async fn recover(&self, patience: &mut Patience<'_>, failure: Failure) -> Result<()> {
        let renew = failure.retry == Retry::Renewed;
        patience.pause_after(failure).await?;
        if renew {
            self.renew().await;
        }
        Ok(())
    }

    /// Replaces the client by one that loads its credentials again.
    async fn renew(&self) {
        let Shared { connection, credentials, limits, client, .. } = &*self.shared;
        if matches!(credentials, Credentials::DefaultChain) {
            let fresh = client::build(connection, credentials, limits).await;
            *client.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }

    /// One page of a listing, and where the next begins.
    async fn page(
        &self,
        prefix: &str,
        depth: Depth,
        token: Option<String>,
        most: Option<i32>,
    ) -> Result<(ListPage, Option<String>)> {
        let subject = self.subject(None, "s3:ListBucket");
        let output = self
            .request(subject, |client| {
                client
                    .list_objects_v2()
                    .bucket(self.bucket())
                    .prefix(self.whole_key(prefix))
                    .set_delimiter((depth == Depth::Children).then(|| "/".to_owned()))
                    // XML can't carry every character that a key may have.
                    .encoding_type(EncodingType::Url)
                    .set_max_keys(most)
                    .set_continuation_token(token.clone())
                    .send()
            })
            .await?;
        let encoded = output.encoding_type == Some(EncodingType::Url);
        let below = &self.shared.connection.prefix;
        let next = output.is_truncated.unwrap_or(false).then_some(output.next_continuation_token);
        let objects = output.contents.into_iter().flatten();
        let prefixes = output.common_prefixes.into_iter().flatten();
        // SeaweedFS reads `a//` as `a/`, and would answer more than was asked for.
        let asked = |key: &String| key.starts_with(prefix);
        let page = ListPage {
            objects: objects
                .filter_map(|object| meta(object, below, encoded))
                .filter(|meta| asked(&meta.key))
                .collect(),
            prefixes: prefixes
                .filter_map(|common| relative(&common.prefix?, below, encoded))
                .filter(asked)
                .collect(),
        };
        Ok((page, next.flatten()))
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:GetObject");
        if range.is_empty() {
            let meta = self.head(key).await?;
            return match if_match {
                Some(etag) if *etag != meta.etag => Err(subject.changed().error),
                _ => Ok(Bytes::new()),
            };
        }
        let limits = &self.shared.limits;
        let mut patience = Patience::new(limits, subject.name());
        let mut download = Download { range, pin: if_match.cloned(), got: BytesMut::new() };
        loop {
            self.shared.metrics.requests.add(1);
            let attempt = download.attempt(self.client(), subject, limits.stall);
            match patience.attempt(attempt).await {
                Ok(()) => return Ok(download.got.freeze()),
                Err(failure) => self.recover(&mut patience, failure).await?,
            }
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:GetObject");
        let output = self
            .request(subject, |client| {
                client.head_object().bucket(self.bucket()).key(&whole_key).send()
            })
            .await?;
        let size = length(output.content_length);
        let modified = time(output.last_modified);
        Ok(ObjectMeta {
            key: key.to_owned(),
            size,
            modified,
            etag: etag(output.e_tag, size, modified),
        })
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:PutObject");
        let upload = Duration::from_secs(bytes.len() as u64 / SLOWEST_UPLOAD);
        let usual = self.shared.limits;
        let limits =
            Limits { deadline: usual.deadline + upload, stall: usual.stall + upload, ..usual };
        let create = mode == PutMode::Create;
        let mut patience = Patience::new(&limits, subject.name());
        // Whether an earlier attempt may have arrived although no answer came.
        let mut unsure = false;
        loop {
            self.shared.metrics.requests.add(1);
            let sent = self
                .client()
                .put_object()
                .bucket(self.bucket())
                .key(&whole_key)
                .set_if_none_match(create.then(|| "*".to_owned()))
                .body(ByteStream::from(bytes.clone()))
                .send();
            match patience.attempt(subject.answer(sent, limits.stall)).await {
                Ok(PutObjectOutput { e_tag: Some(etag), .. }) => return Ok(ETag(etag)),
                Ok(_) => break,
                Err(failure) if create && failure.error.kind() == ErrorKind::StaleHandle => {
                    if !unsure {
                        return Err(taken(subject));
                    }
                    break;
                }
                Err(failure) => {
                    unsure = unsure || failure.retry == Retry::Few;
                    self.recover(&mut patience, failure).await?;
                }
            }
        }
        // Somebody made it: we, if what is there is ours.
        let found = self.head(key).await?;
        if create && self.get(key, 0..found.size.max(1), Some(&found.etag)).await? != bytes {
            return Err(taken(subject));
        }
        Ok(found.etag)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:DeleteObject");
        let outcome = self
            .request(subject, |client| {
                client.delete_object().bucket(self.bucket()).key(&whole_key).send()
            })
            .await;
        match outcome {
            Err(error) if error.kind() == ErrorKind::NotFound && error.hint().is_none() => Ok(()),
            other => other.map(|_| ()),
        }
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

fn taken(subject: Subject<'_>) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{} is there already", subject.name()))
}

/// A range on its way in, which goes on where a broken attempt ended.
struct Download {
    range: Range<u64>,
    /// The version that is read: the one asked for, or that of the first answer.
    pin: Option<ETag>,
    got: BytesMut,
}

impl Download {
    async fn attempt(
        &mut self,
        client: Client,
        subject: Subject<'_>,
        stall: Duration,
    ) -> Result<(), Failure> {
        let from = self.range.start + self.got.len() as u64;
        let request = client
            .get_object()
            .bucket(&subject.connection.bucket)
            .set_key(subject.key.map(str::to_owned))
            .range(range_header(from, self.range.end))
            .set_if_match(self.pin.as_ref().filter(|etag| is_strong(etag)).map(|e| e.0.clone()));
        let sent = async {
            match request.send().await {
                // There is nothing so far behind the end (RFC 9110, section 15.5.17).
                Err(error) if status(&error) == Some(416) => Ok(None),
                other => other.map(Some),
            }
        };
        let Some(mut output) = subject.answer(sent, stall).await? else { return Ok(()) };
        if let Some(etag) = output.e_tag.take().map(ETag) {
            match &self.pin {
                Some(pin) if is_strong(pin) && *pin != etag => return Err(subject.changed()),
                Some(_) => {}
                None => self.pin = Some(etag),
            }
        }
        let expected = self.expected(&output, from, subject)?;
        self.read_body(output.body, expected, subject, stall).await
    }

    /// How many bytes the body must have.
    fn expected(
        &self,
        output: &GetObjectOutput,
        from: u64,
        subject: Subject<'_>,
    ) -> Result<u64, Failure> {
        let total = match output.content_range.as_deref() {
            Some(text) => match content_range(text) {
                Some((start, total)) if start == from => total,
                _ => return Err(subject.broken(format!("it holds the range {text}"))),
            },
            // A server that knows no ranges sends everything, which is as good at the start.
            None if from == 0 => length(output.content_length),
            None => return Err(subject.broken("the server knows no ranges")),
        };
        Ok(self.range.end.min(total).saturating_sub(from))
    }

    async fn read_body(
        &mut self,
        mut body: ByteStream,
        expected: u64,
        subject: Subject<'_>,
        stall: Duration,
    ) -> Result<(), Failure> {
        let mut missing = usize::try_from(expected).unwrap_or(usize::MAX);
        self.got.reserve(missing);
        while missing > 0 {
            let chunk = match timeout(stall, body.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Err(subject.broken(error)),
                Ok(None) => return Err(subject.broken(format!("{missing} bytes are missing"))),
                Err(_) => return Err(subject.stalled()),
            };
            let wanted = chunk.len().min(missing);
            self.got.extend_from_slice(&chunk[..wanted]);
            missing -= wanted;
        }
        Ok(())
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The bytes from `from` to before `end`; without an end where servers couldn't parse it.
fn range_header(from: u64, end: u64) -> String {
    if i64::try_from(end).is_ok() {
        format!("bytes={from}-{}", end - 1)
    } else {
        format!("bytes={from}-")
    }
}

/// The first byte and the object's length from `bytes 0-99/1234`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()?))
}

fn meta(object: Object, below: &str, encoded: bool) -> Option<ObjectMeta> {
    let key = relative(&object.key?, below, encoded)?;
    let size = length(object.size);
    let modified = time(object.last_modified);
    Some(ObjectMeta { key, size, modified, etag: etag(object.e_tag, size, modified) })
}

/// A listed key without the connection's prefix.
fn relative(listed: &str, below: &str, encoded: bool) -> Option<String> {
    let key = if encoded { keys::decode(listed) } else { Some(listed.to_owned()) };
    let found = key.as_deref().and_then(|key| key.strip_prefix(below)).map(str::to_owned);
    if found.is_none() {
        tracing::warn!(key = listed, "a key that is no UTF-8 is left out");
    }
    found
}

fn length(bytes: Option<i64>) -> u64 {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

fn time(time: Option<DateTime>) -> SystemTime {
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
    fn a_content_range_is_read() {
        assert_eq!(content_range("bytes 5-9/20"), Some((5, 20)));
        assert_eq!(content_range("bytes 0-0/1"), Some((0, 1)));
        assert_eq!(content_range("bytes */20"), None);
        assert_eq!(content_range("items 0-1/2"), None);
    }

    #[test]
    fn a_version_that_no_one_named_is_weak() {
        let made_up = etag(None, 3, SystemTime::UNIX_EPOCH);
        assert!(!is_strong(&made_up));
        assert!(is_strong(&etag(Some("\"a\"".into()), 3, SystemTime::UNIX_EPOCH)));
    }

    #[tokio::test]
    async fn debug_shows_no_secret() {
        let secret = zeroize::Zeroizing::new("hunter2".to_owned());
        let credentials = Credentials::Static { key_id: "AKIA".into(), secret };
        let store = S3Store::connect(
            Connection::new("cats"),
            credentials,
            Limits::default(),
            Arc::default(),
        );
        assert_eq!(format!("{:?}", store.await.unwrap()), "S3Store(s3://cats/ at AWS)");
    }
}
