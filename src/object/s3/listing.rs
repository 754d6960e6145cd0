//! Listings: pages of keys, decoded and cut to what was asked for.

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::{EncodingType, Object};

use super::{Depth, ListPage, ObjectMeta, S3Store, etag, keys, length, time};
use crate::error::{Error, ErrorKind, Result};

impl S3Store {
    /// One page of a listing, and where the next begins.
    pub(super) async fn page(
        &self,
        prefix: &str,
        depth: Depth,
        token: Option<String>,
        most: Option<i32>,
    ) -> Result<(ListPage, Option<String>)> {
        let subject = self.subject(None, "s3:ListBucket");
        let output = self
            .request(subject, Some(&self.shared.usual.list), |client| {
                client
                    .list_objects_v2()
                    .bucket(self.bucket())
                    .prefix(self.whole_key(prefix))
                    .set_delimiter((depth == Depth::Children).then(|| "/".to_owned()))
                    // XML can't carry every character that a key may have.
                    .encoding_type(EncodingType::Url)
                    .set_max_keys(most)
                    .set_continuation_token(token.clone())
                    .customize()
                    .interceptor(WholeDocument)
                    .send()
            })
            .await?;
        let encoded = output.encoding_type == Some(EncodingType::Url);
        let below = &self.shared.connection.prefix;
        let next = output.next_continuation_token.filter(|_| output.is_truncated == Some(true));
        if output.is_truncated == Some(true) && next.is_none() {
            let message = format!("a listing of {} doesn't tell where it goes on", subject.name());
            return Err(Error::new(ErrorKind::Io, message)
                .with_hint("the service has to know version 2 of ListObjects"));
        }
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
        Ok((page, next))
    }
}

/// Refuses a listing that was cut short: the SDK takes the end of the bytes for the end of the
/// document, and what is missing would look absent.
#[derive(Debug)]
struct WholeDocument;

impl Intercept for WholeDocument {
    fn name(&self) -> &'static str {
        "WholeDocument"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let whole = response.body().bytes().is_none_or(ends_as_listing);
        if whole || !response.status().is_success() {
            return Ok(());
        }
        Err("the listing is cut short".into())
    }
}

fn ends_as_listing(document: &[u8]) -> bool {
    document.trim_ascii_end().ends_with(b"ListBucketResult>")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_is_cut_short_is_seen() {
        assert!(ends_as_listing(b"<ListBucketResult><Key>a</Key></ListBucketResult>\n"));
        assert!(!ends_as_listing(b"<ListBucketResult><Key>a</Key>"));
        assert!(!ends_as_listing(b""));
    }
}
