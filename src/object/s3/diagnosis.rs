//! Tries a connection: whether it lists and reads, how fast, and how well versions can be told.

use std::time::Duration;

use aws_sdk_s3::Client;
use serde::Serialize;
use tokio::time::Instant;

use super::{Depth, ObjectMeta, ObjectStore as _, S3Store};
use crate::error::{ErrorKind, Result};

/// So many keys are looked through for an object to read.
const KEYS: i32 = 100;

/// No object has this version.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";

/// What a connection that works was found to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// How long a small listing took, in milliseconds.
    pub list_millis: u64,
    /// What reading showed; nothing where there is no object with bytes to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Reading>,
}

/// What reading an object showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// The object's key.
    pub key: String,
    /// How long the first byte took, in milliseconds.
    pub first_byte_millis: u64,
    /// Whether a part of an object can be read.
    pub ranges: bool,
    /// Whether the server refuses to read another version than the one asked for; where it
    /// doesn't, an open file is one version only if each answer names its version.
    pub if_match: bool,
}

impl S3Store {
    /// Asks the bucket for a few keys, and for a byte of an object.
    ///
    /// # Errors
    /// Names what is wrong with host, TLS, clock, key, bucket, region or permissions, with a hint.
    pub async fn diagnose(&self) -> Result<Diagnosis> {
        // The first request makes the connection, too.
        self.probe().await?;
        let since = Instant::now();
        let (page, _) = self.page("", Depth::All, None, Some(KEYS)).await?;
        let list_millis = millis(since.elapsed());
        let read = match page.objects.into_iter().find(|object| object.size > 1) {
            Some(object) => Some(self.try_to_read(object).await?),
            None => None,
        };
        Ok(Diagnosis { list_millis, read })
    }

    async fn try_to_read(&self, object: ObjectMeta) -> Result<Reading> {
        let ObjectMeta { key, size, etag, .. } = object;
        let since = Instant::now();
        self.get(&key, 0..1, Some(&etag)).await?;
        let first_byte_millis = millis(since.elapsed());
        // A server that knows no ranges sends everything instead.
        let ranges = match self.get(&key, size - 1..size, Some(&etag)).await {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::Io => false,
            Err(error) => return Err(error),
        };
        let if_match = match self.ask_for_no_version(&key).await {
            Ok(()) => false,
            Err(error) if error.kind() == ErrorKind::StaleHandle => true,
            Err(error) => return Err(error),
        };
        Ok(Reading { key, first_byte_millis, ranges, if_match })
    }

    async fn ask_for_no_version(&self, key: &str) -> Result<()> {
        let whole_key = self.whole_key(key);
        let subject = self.subject(Some(&whole_key), "s3:GetObject");
        let send = |client: Client| {
            let request = client.get_object().bucket(self.bucket()).key(&whole_key);
            request.if_match(NO_VERSION).range("bytes=0-0").send()
        };
        self.request(subject, None, send).await.map(|_| ())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
