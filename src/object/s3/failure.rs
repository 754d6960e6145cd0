//! Failures of requests: what they mean, in words a user can act on, and whether to try again.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use self::silence::chain;
use super::connection::{Connection, Credentials};
use crate::error::{Error, ErrorKind};

mod silence;

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the caller gets if it isn't tried again.
    pub(super) error: Error,
    /// Whether it is worth trying again.
    pub(super) retry: Retry,
    /// What has to be put right before the next attempt, which is then made at once.
    pub(super) correction: Option<Correction>,
    /// How many seconds the server asks to wait, if it does.
    pub(super) pause: u32,
}

/// How often a request that failed is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// The answer won't change.
    Never,
    /// It may have been an accident.
    Few,
    /// The service is away, and will be back: until the deadline, if it ever was there.
    WhileAway,
    /// The server asked for patience: until the deadline.
    WhileBusy,
}

/// What can be put right between two attempts, each once in a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Correction {
    /// The connection may have been closed while it was idle: a new one is made.
    Connection,
    /// The connection may have died without a word: a new one is made.
    Silence,
    /// The SDK has learned the server's time from the answer, and signs with it.
    Clock,
    /// The credentials are loaded anew.
    Credentials,
    /// The bucket is in this region.
    Region(Box<str>),
}

impl Failure {
    pub(super) fn new(retry: Retry, error: Error) -> Self {
        Self { error, retry, correction: None, pause: 0 }
    }

    pub(super) fn never(error: Error) -> Self {
        Self::new(Retry::Never, error)
    }

    fn corrected_by(self, correction: Correction) -> Self {
        Self { correction: Some(correction), ..self }
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
    /// What is known of the service by its answers so far.
    pub(super) service: Service,
}

/// What answers tell of a service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Service {
    /// Whether it has ever answered, so that the bucket is there.
    pub(super) reached: bool,
    /// Whether its answers have numbers, as those of most services do and those of gateways don't.
    pub(super) numbers: bool,
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
        Failure::new(Retry::WhileAway, Error::new(ErrorKind::TimedOut, message))
            .corrected_by(Correction::Silence)
    }

    /// The body ended or broke before all of it was there.
    pub(super) fn broken(&self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
        let message = format!("{}: the answer broke off", self.name());
        Failure::new(Retry::Few, Error::new(ErrorKind::Io, message).with_source(cause))
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
        let header = |name| response.headers().get(name);
        let answer = Answer {
            status: response.status().as_u16(),
            code: error.code().unwrap_or_default(),
            region: header("x-amz-bucket-region"),
            retry_after: header("retry-after"),
            foreign: header("x-amz-request-id").or(header("x-amzn-requestid")).is_none()
                && (self.service.numbers && response.status().as_u16() == 404
                    || is_foreign(header("content-type"), response.body().bytes())),
        };
        let said = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => format!("status {}, {code}", answer.status),
            // What can't be read comes with a status of success.
            _ if answer.status < 300 => chain(error),
            _ => format!("status {}", answer.status),
        };
        let mut failure = self.explain_answer(&answer);
        failure.error = failure.error.with_source(said);
        failure
    }

    /// The server answered: the code says what it means, and the status where there is no code.
    fn explain_answer(&self, answer: &Answer<'_>) -> Failure {
        if let Some(failure) = self.explain_code(answer) {
            return failure;
        }
        let name = self.name();
        let service = self.connection.service();
        match answer.status {
            // A gateway says so of a service that it doesn't find, such as one that restarts.
            ..500 if answer.foreign => Failure::new(
                Retry::Few,
                Error::new(ErrorKind::Io, format!("{service} answers, but not as S3 does"))
                    .with_hint("check the endpoint: host, port, and http against https"),
            ),
            404 if self.key.is_some() => {
                Failure::never(Error::new(ErrorKind::NotFound, format!("{name} isn't there")))
            }
            404 => self.no_bucket(),
            412 => self.changed(),
            301 | 307 | 308 => self.elsewhere(answer.region),
            400 if answer.region.is_some() => self.elsewhere(answer.region),
            401 | 403 => denied(
                format!("{name}: access is denied"),
                format!("the key needs the permission {}", self.permission),
            ),
            429 | 503 => self.busy(answer),
            // So gateways say that what is behind them is away.
            502 | 504 => Failure::new(
                Retry::WhileAway,
                Error::new(ErrorKind::Io, format!("{name}: the service is away")),
            ),
            408 | 500.. => self.failed(),
            // An answer that was cut short, or an error in the guise of a success.
            200..300 => self.broken("it isn't what was asked for"),
            // A HEAD that is refused for its region or its key says no more than this.
            400 => denied(
                format!("{name}: the request is refused"),
                "check region, endpoint and key".to_owned(),
            ),
            _ => Failure::never(Error::new(
                ErrorKind::Io,
                format!("{name}: {service} answered what S3 wouldn't"),
            )),
        }
    }

    fn explain_code(&self, answer: &Answer<'_>) -> Option<Failure> {
        let service = self.connection.service();
        let key_id = match self.credentials {
            Credentials::DefaultChain => "of the default chain",
            Credentials::Static { key_id, .. } => key_id,
        };
        Some(match answer.code {
            "NoSuchBucket" => self.no_bucket(),
            "InvalidAccessKeyId" => denied(
                format!("the key id {key_id} isn't known to {service}"),
                "check the key id, and that it belongs to this endpoint".to_owned(),
            ),
            "SignatureDoesNotMatch" => denied(
                format!("the secret isn't that of the key id {key_id}"),
                "set the secret again; then check the region".to_owned(),
            ),
            "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => denied(
                format!("the clock of this machine and that of {service} differ too much"),
                "set the clock, for example with `timedatectl set-ntp true`".to_owned(),
            )
            .corrected_by(Correction::Clock),
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => denied(
                format!("the credentials for {service} have expired"),
                "sign in again, for example with `aws sso login`".to_owned(),
            )
            .corrected_by(Correction::Credentials),
            "InvalidToken" => denied(
                format!("the session token isn't that of the key id {key_id}"),
                "set the session token again, or sign in again".to_owned(),
            ),
            "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "PermanentRedirect"
            | "TemporaryRedirect" => self.elsewhere(answer.region),
            "SlowDown"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests" => self.busy(answer),
            "RequestTimeout" => self.failed(),
            // Some stores tell in the code what AWS tells by the status alone.
            "InternalError" | "ServiceUnavailable" if answer.status < 500 => self.failed(),
            _ => return None,
        })
    }

    fn busy(&self, answer: &Answer<'_>) -> Failure {
        let error =
            Error::new(ErrorKind::TimedOut, format!("{}: the service is busy", self.name()));
        let pause = answer.retry_after.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0);
        Failure { pause, ..Failure::new(Retry::WhileBusy, error) }
    }

    fn failed(&self) -> Failure {
        let message = format!("{}: the service failed", self.name());
        Failure::new(Retry::Few, Error::new(ErrorKind::Io, message))
    }

    fn no_bucket(&self) -> Failure {
        let Connection { bucket, .. } = self.connection;
        let message = format!("there is no bucket {bucket} at {}", self.connection.service());
        // A bucket that was there is no name that isn't.
        let kind = if self.service.reached { ErrorKind::Io } else { ErrorKind::NotFound };
        Failure::never(
            Error::new(kind, message).with_hint("check the bucket's name and the endpoint"),
        )
    }

    fn elsewhere(&self, region: Option<&str>) -> Failure {
        let bucket = &self.connection.bucket;
        match region {
            Some(region) => denied(
                format!("bucket {bucket} is in the region {region}"),
                format!("connect it with --region {region}"),
            )
            .corrected_by(Correction::Region(region.into())),
            None => denied(
                format!("bucket {bucket} is in another region"),
                "name the bucket's region with --region".to_owned(),
            ),
        }
    }
}

/// What an answer that is no success tells.
#[derive(Default)]
struct Answer<'a> {
    status: u16,
    code: &'a str,
    region: Option<&'a str>,
    retry_after: Option<&'a str>,
    foreign: bool,
}

/// Whether an answer is that of a web server or a gateway: S3 speaks XML, if it says anything.
fn is_foreign(content_type: Option<&str>, body: Option<&[u8]>) -> bool {
    let kind = content_type.unwrap_or_default();
    let text = kind.starts_with("text/") && !kind.contains("xml");
    text && body.is_none_or(|body| !body.trim_ascii_start().starts_with(b"<?xml"))
}

fn denied(message: String, hint: String) -> Failure {
    Failure::never(Error::new(ErrorKind::PermissionDenied, message).with_hint(hint))
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
            service: Service::default(),
        };
        subject.explain_answer(&Answer { status, code, ..Answer::default() })
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
    fn a_gateway_does_not_say_what_is_absent() {
        let web = |kind, body: &'static str| is_foreign(Some(kind), Some(body.as_bytes()));
        assert!(web("text/html", "<html>404</html>"));
        assert!(web("text/plain; charset=utf-8", "404 page not found"));
        assert!(is_foreign(Some("text/html"), None));
        assert!(!web("application/xml", "<Error/>"));
        assert!(!web("text/xml", "<Error/>"));
        assert!(!web("text/plain", "<?xml version=\"1.0\"?><Error/>"));
        assert!(!is_foreign(None, None));
        assert!(!is_foreign(Some("application/octet-stream"), None));
    }

    #[test]
    fn a_bucket_that_was_there_is_not_absent() {
        let connection = Connection::new("cats");
        let credentials = Credentials::DefaultChain;
        for (reached, kind) in [(false, ErrorKind::NotFound), (true, ErrorKind::Io)] {
            let service = Service { reached, ..Service::default() };
            let subject = Subject {
                connection: &connection,
                credentials: &credentials,
                key: Some("a"),
                permission: "s3:GetObject",
                service,
            };
            let code = Answer { status: 404, code: "NoSuchBucket", ..Answer::default() };
            assert_eq!(subject.explain_answer(&code).error.kind(), kind);
        }
    }

    #[test]
    fn the_region_is_named() {
        let connection = Connection::new("cats");
        let credentials = Credentials::DefaultChain;
        let subject = Subject {
            connection: &connection,
            credentials: &credentials,
            key: None,
            permission: "s3:ListBucket",
            service: Service::default(),
        };
        let region = Some("eu-central-1");
        let failure = subject.explain_answer(&Answer { status: 301, region, ..Answer::default() });
        assert_eq!(failure.error.to_string(), "bucket cats is in the region eu-central-1");
        assert_eq!(failure.correction, Some(Correction::Region("eu-central-1".into())));
    }

    #[test]
    fn an_absent_bucket_is_told_from_an_absent_object() {
        let bucket = explain(404, "NoSuchBucket", Some("a")).error.to_string();
        assert_eq!(bucket, "there is no bucket cats at AWS");
        let object = explain(404, "NoSuchKey", Some("a")).error.to_string();
        assert_eq!(object, "object a in bucket cats isn't there");
    }
}
