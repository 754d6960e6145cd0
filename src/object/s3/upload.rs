//! Uploads of whole objects, whose answer may get lost.

use std::time::Duration;

use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::connection::Limits;
use super::failure::{Retry, Subject};
use super::retry::Patience;
use super::{ETag, ObjectStore, PutMode, S3Store};
use crate::error::{Error, ErrorKind, Result};

/// An upload may be slower than a download, and is one request: a second more for so many bytes.
const SLOWEST_UPLOAD: u64 = 256 << 10;

impl S3Store {
    /// Writes a whole object, in one request.
    pub(super) async fn upload(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
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
            let sent = self
                .client()
                .put_object()
                .bucket(self.bucket())
                .key(&whole_key)
                .set_if_none_match(create.then(|| "*".to_owned()))
                .body(ByteStream::from(bytes.clone()))
                .send();
            let answer = subject.answer(sent, limits.stall);
            let attempt = async {
                let turn = self.turn().await;
                self.learn(&turn, answer.await)
            };
            match patience.attempt(attempt).await {
                Ok(PutObjectOutput { e_tag: Some(etag), .. }) => return Ok(ETag(etag)),
                Ok(_) => break,
                Err(failure) if create && failure.error.kind() == ErrorKind::StaleHandle => {
                    if !unsure {
                        return Err(taken(subject));
                    }
                    break;
                }
                Err(failure) => {
                    unsure = unsure || failure.retry != Retry::Never;
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
}

fn taken(subject: Subject<'_>) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{} is there already", subject.name()))
}
