//! Failures of requests: what they mean, in words a user can act on, and whether to try again.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::connection::{Connection, Credentials};
use crate::error::{Error, ErrorKind};

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the caller gets if it isn't tried again.
    pub(super) error: Error,
    /// Whether it is worth trying again.
    pub(super) retry: Retry,
}

/// How often a request that failed is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// The answer won't change.
    Never,
    /// The next attempt is signed with the right time.
    Once,
    /// The next attempt is made with fresh credentials.
    Renewed,
    /// It may have been an accident.
    Few,
    /// The server asked for patience.
    UntilDeadline,
}

impl Failure {
    pub(super) fn never(error: Error) -> Self {
        Self { error, retry: Retry::Never }
    }

    pub(super) fn few(error: Error) -> Self {
        Self { error, retry: Retry::Few }
    }
}

/// What a request is about, for the messages.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) connection: &'a Connection,
    pub(super) credentials: &'a Credentials,
    /// The whole key in the bucket; `None` when the request is about the bucket.
    pub(super) key: Option<&'a str>,
    /// The permission that the request needs.
    pub(super) permission: &'static str,
}

impl Subject<'_> {
    /// Names the object and its bucket.
    pub(super) fn name(&self) -> String {
        match self.key {
            Some(key) => format!("object {key} in bucket {}", self.connection.bucket),
            None => format!("bucket {}", self.connection.bucket),
        }
    }

    /// Waits for the answer to a request that was sent. Boxed, since the SDK's futures are large.
    pub(super) fn answer<'b, T, E>(
        &'b self,
        sent: impl Future<Output = Result<T, SdkError<E>>> + Send + 'b,
        stall: Duration,
    ) -> BoxFuture<'b, Result<T, Failure>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        Box::pin(async move {
            match timeout(stall, sent).await {
                Ok(answer) => answer.map_err(|error| self.explain(&error)),
                Err(_) => Err(self.stalled()),
            }
        })
    }

    /// No answer came for the time that a silence may last.
    pub(super) fn stalled(&self) -> Failure {
        let message = format!("{}: {} has gone silent", self.name(), self.connection.service());
        Failure::few(Error::new(ErrorKind::TimedOut, message))
    }

    /// The body ended or broke before all of it was there.
    pub(super) fn broken(&self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
        let message = format!("{}: the answer broke off", self.name());
        Failure::few(Error::new(ErrorKind::Io, message).with_source(cause))
    }

    /// The object isn't the one that was opened.
    pub(super) fn changed(&self) -> Failure {
        let message = format!("{} was replaced since it was opened", self.name());
        Failure::never(Error::new(ErrorKind::StaleHandle, message))
    }

    /// Says what an error of the SDK means.
    pub(super) fn explain<E>(&self, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let Some(response) = error.raw_response() else {
            return self.explain_silence(error);
        };
        let status = response.status().as_u16();
        let code = error.code().unwrap_or_default().to_owned();
        let said = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => format!("status {status}, {code}"),
            _ => format!("status {status}"),
        };
        let mut failure = self.explain_answer(status, &code);
        failure.error = failure.error.with_source(said);
        failure
    }

    /// The server answered: the code says what it means, and the status where there is no code.
    fn explain_answer(&self, status: u16, code: &str) -> Failure {
        if let Some(failure) = self.explain_code(code) {
            return failure;
        }
        let name = self.name();
        match status {
            404 if self.key.is_some() => {
                Failure::never(Error::new(ErrorKind::NotFound, format!("{name} isn't there")))
            }
            404 => self.no_bucket(),
            412 => self.changed(),
            401 | 403 => denied(
                format!("{name}: access is denied"),
                format!("the key needs the permission {}", self.permission),
            ),
            301 | 307 | 400 if matches!(code, "PermanentRedirect" | "TemporaryRedirect") => {
                self.elsewhere()
            }
            301 => self.elsewhere(),
            429 | 503 => Failure {
                error: Error::new(ErrorKind::TimedOut, format!("{name}: the service is busy")),
                retry: Retry::UntilDeadline,
            },
            408 | 500.. => {
                Failure::few(Error::new(ErrorKind::Io, format!("{name}: the service failed")))
            }
            // A HEAD that is refused for its region or its key says no more than this.
            400 => denied(
                format!("{name}: the request is refused"),
                "check region, endpoint and key".to_owned(),
            ),
            _ => Failure::never(Error::new(
                ErrorKind::Io,
                format!("{name}: {} answered what S3 wouldn't", self.connection.service()),
            )),
        }
    }

    fn explain_code(&self, code: &str) -> Option<Failure> {
        let service = self.connection.service();
        let key_id = match self.credentials {
            Credentials::DefaultChain => "of the default chain",
            Credentials::Static { key_id, .. } => key_id,
        };
        Some(match code {
            "NoSuchBucket" => self.no_bucket(),
            "InvalidAccessKeyId" => denied(
                format!("the key id {key_id} isn't known to {service}"),
                "check the key id, and that it belongs to this endpoint".to_owned(),
            ),
            "SignatureDoesNotMatch" => denied(
                format!("the secret isn't that of the key id {key_id}"),
                "set the secret again; then check the region".to_owned(),
            ),
            // The SDK has learned the server's time from the answer.
            "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => Failure {
                retry: Retry::Once,
                ..denied(
                    format!("the clock of this machine and that of {service} differ too much"),
                    "set the clock, for example with `timedatectl set-ntp true`".to_owned(),
                )
            },
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Failure {
                retry: Retry::Renewed,
                ..denied(
                    format!("the credentials for {service} have expired"),
                    "sign in again, for example with `aws sso login`".to_owned(),
                )
            },
            "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
                self.elsewhere()
            }
            "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" => Failure {
                error: Error::new(
                    ErrorKind::TimedOut,
                    format!("{}: the service is busy", self.name()),
                ),
                retry: Retry::UntilDeadline,
            },
            "RequestTimeout" => self.stalled(),
            _ => return None,
        })
    }

    /// No answer came: the credentials, the network or TLS failed before one could.
    fn explain_silence(&self, error: &(dyn StdError + 'static)) -> Failure {
        let chain = chain(error);
        let service = self.connection.service();
        let name = self.name();
        let io = |message: String| Error::new(ErrorKind::Io, message);
        let says = |words: &[&str]| words.iter().any(|word| chain.contains(word));
        let failure = if says(&["credential", "identity"]) {
            denied(
                format!("{name}: no AWS credentials were found"),
                "run `aws configure` or `aws sso login`, or connect with --key-id and --secret-ref"
                    .to_owned(),
            )
        } else if says(&["dns error", "failed to lookup address"]) {
            Failure::few(
                io(format!("{name}: the host of {service} can't be found"))
                    .with_hint("check the endpoint's spelling and this machine's DNS"),
            )
        } else if says(&["Connection refused", "ConnectionRefused"]) {
            Failure::few(
                io(format!("{name}: {service} refuses connections"))
                    .with_hint("check the endpoint's port, and that the service runs"),
            )
        } else if says(&[
            "certificate",
            "invalid peer",
            "TLS",
            "HandshakeFailure",
            "corrupt message",
        ]) {
            Failure::never(io(format!("{name}: no TLS connection to {service}")).with_hint(
                "check http against https, and that this machine trusts the certificate",
            ))
        } else if says(&["timeout", "timed out", "TimedOut"]) {
            Failure::few(
                Error::new(ErrorKind::TimedOut, format!("{name}: {service} doesn't answer"))
                    .with_hint("check the endpoint, and that no firewall is in between"),
            )
        } else {
            Failure::few(io(format!("{name}: the connection to {service} broke")))
        };
        Failure { error: failure.error.with_source(chain), ..failure }
    }

    fn no_bucket(&self) -> Failure {
        let Connection { bucket, .. } = self.connection;
        let message = format!("there is no bucket {bucket} at {}", self.connection.service());
        Failure::never(
            Error::new(ErrorKind::NotFound, message)
                .with_hint("check the bucket's name and the endpoint"),
        )
    }

    fn elsewhere(&self) -> Failure {
        let bucket = &self.connection.bucket;
        denied(
            format!("bucket {bucket} is in another region"),
            "name the bucket's region with --region".to_owned(),
        )
    }
}

fn denied(message: String, hint: String) -> Failure {
    Failure::never(Error::new(ErrorKind::PermissionDenied, message).with_hint(hint))
}

/// The messages of an error and of what lies behind it, each once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut messages: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        if messages.last().is_none_or(|last| !last.ends_with(&message)) {
            messages.push(message);
        }
        next = error.source();
    }
    messages.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(status: u16, code: &str, key: Option<&str>) -> Failure {
        let connection = Connection::new("cats");
        let credentials = Credentials::DefaultChain;
        let subject = Subject {
            connection: &connection,
            credentials: &credentials,
            key,
            permission: "s3:GetObject",
        };
        subject.explain_answer(status, code)
    }

    #[test]
    fn a_failure_of_the_server_never_looks_like_absence() {
        for status in [429, 500, 501, 502, 503, 504, 599] {
            for code in ["", "InternalError", "SlowDown", "ServiceUnavailable"] {
                let failure = explain(status, code, Some("a"));
                assert_ne!(failure.error.kind(), ErrorKind::NotFound, "{status} {code}");
                assert_ne!(failure.retry, Retry::Never, "{status} {code}");
            }
        }
    }

    #[test]
    fn each_answer_has_its_kind() {
        let kind = |status, code, key| explain(status, code, key).error.kind();
        assert_eq!(kind(404, "NoSuchKey", Some("a")), ErrorKind::NotFound);
        assert_eq!(kind(404, "", Some("a")), ErrorKind::NotFound);
        assert_eq!(kind(403, "AccessDenied", Some("a")), ErrorKind::PermissionDenied);
        assert_eq!(kind(400, "ExpiredToken", Some("a")), ErrorKind::PermissionDenied);
        assert_eq!(kind(301, "PermanentRedirect", None), ErrorKind::PermissionDenied);
        assert_eq!(kind(412, "PreconditionFailed", Some("a")), ErrorKind::StaleHandle);
        assert_eq!(kind(503, "SlowDown", Some("a")), ErrorKind::TimedOut);
        assert_eq!(kind(500, "InternalError", Some("a")), ErrorKind::Io);
    }

    #[test]
    fn an_absent_bucket_is_told_from_an_absent_object() {
        let bucket = explain(404, "NoSuchBucket", Some("a")).error.to_string();
        assert_eq!(bucket, "there is no bucket cats at AWS");
        let object = explain(404, "NoSuchKey", Some("a")).error.to_string();
        assert_eq!(object, "object a in bucket cats isn't there");
    }
}
