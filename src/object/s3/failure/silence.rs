//! What it means when no answer came: the credentials, the network or TLS failed before one could.

use std::error::Error as StdError;

use super::{Correction, Failure, Retry, Subject, denied};
use crate::error::{Error, ErrorKind};

/// What an error of the SDK says, and what that means.
const CAUSES: &[(&[&str], Cause)] = &[
    (&["no credentials found in chain", "no providers in chain"], Cause::NoCredentials),
    (&["credential", "identity"], Cause::Credentials),
    (&["proxy", "tunnel"], Cause::Proxy),
    (&["dns error", "failed to lookup address"], Cause::Name),
    (&["Connection refused", "ConnectionRefused"], Cause::Refused),
    (&["UnknownIssuer"], Cause::Untrusted),
    (&["CaUsedAsEndEntity"], Cause::Authority),
    (&["Expired", "NotValidYet", "certificate expired"], Cause::Expired),
    (&["NotValidForName", "not valid for name"], Cause::OtherName),
    (&["InvalidContentType", "corrupt message", "InvalidMessage"], Cause::NoTls),
    (&["certificate", "invalid peer", "TLS", "HandshakeFailure", "tls"], Cause::Tls),
    (&["timeout", "timed out", "TimedOut"], Cause::Timeout),
    (&["No route to host", "Network is unreachable"], Cause::Unreachable),
];

#[derive(Clone, Copy)]
enum Cause {
    NoCredentials,
    Credentials,
    Proxy,
    Name,
    Refused,
    Untrusted,
    Authority,
    Expired,
    OtherName,
    NoTls,
    Tls,
    Timeout,
    Unreachable,
}

impl Subject<'_> {
    /// Says what an error of the SDK means that comes without an answer.
    pub(super) fn explain_silence(&self, error: &(dyn StdError + 'static)) -> Failure {
        let chain = chain(error);
        let cause = CAUSES.iter().find(|(words, _)| words.iter().any(|word| chain.contains(word)));
        let failure = match cause {
            Some((_, cause)) => self.explain_cause(*cause),
            None => self.gone().corrected_by(Correction::Connection),
        };
        // The SDK tells of each place where it looked for credentials on a line of its own.
        let first = chain.lines().next().unwrap_or_default().to_owned();
        Failure { error: failure.error.with_source(first), ..failure }
    }

    fn explain_cause(&self, cause: Cause) -> Failure {
        let service = self.connection.service();
        let name = self.name();
        let away = |message: String, hint: &str| {
            Failure::new(Retry::WhileAway, Error::new(ErrorKind::Io, message).with_hint(hint))
        };
        let never = |message: String, hint: &str| {
            Failure::never(Error::new(ErrorKind::Io, message).with_hint(hint))
        };
        match cause {
            Cause::NoCredentials => denied(
                format!("{name}: no AWS credentials were found"),
                "run `aws configure` or `aws sso login`, or connect with --key-id and --secret-ref"
                    .to_owned(),
            ),
            Cause::Credentials => Failure {
                retry: Retry::Few,
                ..denied(
                    format!("{name}: the AWS credentials can't be loaded"),
                    "sign in again, for example with `aws sso login`, or check the AWS profile"
                        .to_owned(),
                )
            },
            Cause::Proxy => away(
                format!("{name}: the proxy doesn't connect to {service}"),
                "check HTTPS_PROXY and HTTP_PROXY, or name the host in NO_PROXY",
            ),
            Cause::Name => away(
                format!("{name}: the host of {service} can't be found"),
                "check the endpoint's spelling and this machine's DNS",
            ),
            Cause::Refused => away(
                format!("{name}: {service} refuses connections"),
                "check the endpoint's port, and that the service runs",
            ),
            Cause::Untrusted => never(
                format!("{name}: no TLS connection to {service}, whose certificate isn't trusted"),
                "add the authority that issued it to this machine's, or name it in SSL_CERT_FILE",
            ),
            Cause::Authority => never(
                format!(
                    "{name}: no TLS connection to {service}, which shows an authority's certificate"
                ),
                "the service needs a certificate of its own, with CA:FALSE in it",
            ),
            Cause::Expired => never(
                format!("{name}: no TLS connection to {service}, whose certificate has expired"),
                "check this machine's clock; else the service needs a new certificate",
            ),
            Cause::OtherName => never(
                format!(
                    "{name}: no TLS connection to {service}, whose certificate is for another host"
                ),
                "check the endpoint; --path-style keeps the bucket out of the host's name",
            ),
            Cause::NoTls => never(
                format!("{name}: no TLS connection to {service}, which doesn't speak TLS there"),
                "check the port, and http against https",
            ),
            Cause::Tls => never(
                format!("{name}: no TLS connection to {service}"),
                "check http against https, and that this machine trusts the certificate",
            ),
            Cause::Timeout => Failure::new(
                Retry::WhileAway,
                Error::new(ErrorKind::TimedOut, format!("{name}: {service} doesn't answer"))
                    .with_hint("check the endpoint, and that no firewall is in between"),
            ),
            Cause::Unreachable => away(
                format!("{name}: there is no way to {service}"),
                "check this machine's network and the endpoint",
            ),
        }
    }

    /// The connection ended before an answer came.
    fn gone(&self) -> Failure {
        let service = self.connection.service();
        let message = format!("{}: the connection to {service} broke", self.name());
        Failure::new(
            Retry::WhileAway,
            Error::new(ErrorKind::Io, message)
                .with_hint("check the endpoint: host, port, and http against https"),
        )
    }
}

/// The messages of an error and of what lies behind it, each once.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
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
    use std::io;

    use super::*;
    use crate::object::s3::connection::{Connection, Credentials};
    use crate::object::s3::failure::Service;

    fn explain(said: &str) -> Failure {
        let connection = Connection::new("cats");
        let credentials = Credentials::DefaultChain;
        let subject = Subject {
            connection: &connection,
            credentials: &credentials,
            key: None,
            permission: "s3:ListBucket",
            service: Service::default(),
        };
        subject.explain_silence(&io::Error::other(said.to_owned()))
    }

    /// The texts are those of the SDK, of hyper and of rustls.
    #[test]
    fn what_kept_an_answer_away_is_named_with_a_hint() {
        let client = "dispatch failure: io error: client error (Connect)";
        let tls = "TLS handshake failed: invalid peer certificate";
        for (said, words) in [
            (
                format!("{client}: dns error: failed to lookup address information"),
                "can't be found",
            ),
            (format!("{client}: tcp connect error: Connection refused (os error 111)"), "refuses"),
            (format!("{client}: tunnel error: unsuccessful"), "the proxy doesn't connect"),
            (format!("{client}: {tls}: UnknownIssuer"), "isn't trusted"),
            (format!("{client}: {tls}: Other(OtherError(CaUsedAsEndEntity))"), "an authority's"),
            (format!("{client}: {tls}: certificate expired: verification time"), "has expired"),
            (format!("{client}: {tls}: certificate not valid for name \"a\""), "for another host"),
            (
                format!("{client}: received corrupt message of type InvalidContentType"),
                "doesn't speak TLS",
            ),
            ("request has timed out".to_owned(), "doesn't answer"),
            (
                "no credentials found in chain. Attempted:\n  Profile".to_owned(),
                "no AWS credentials",
            ),
            ("an error occurred while loading credentials".to_owned(), "can't be loaded"),
            ("connection closed before message completed".to_owned(), "broke"),
        ] {
            let failure = explain(&said);
            assert!(failure.error.to_string().contains(words), "{said}: {:?}", failure.error);
            assert!(failure.error.hint().is_some(), "{said}");
        }
    }

    #[test]
    fn a_connection_that_was_closed_is_replaced_at_once() {
        let failure = explain("connection closed before message completed");
        assert_eq!(failure.correction, Some(Correction::Connection));
        assert_eq!(failure.retry, Retry::WhileAway);
        assert_eq!(explain("Connection refused").correction, None);
    }
}
