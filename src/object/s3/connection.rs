//! What is known of a bucket: where it is, how it is addressed and by which key it opens.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::crypto::Locked;
use crate::error::{Error, ErrorKind, Result};

/// A bucket, or the part of it below a prefix. Holds no secret, so it can be stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The bucket's name.
    pub bucket: String,
    /// The URL of the service; AWS itself where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region; that of the environment or the profile where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Only keys below this are seen: empty, or ending in `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Whether the bucket is named in the path of a URL instead of its host.
    #[serde(default)]
    pub path_style: bool,
    /// The key it opens with; the AWS default chain where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyReference>,
}

impl Connection {
    /// A bucket at AWS, opened with the default chain.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            endpoint: None,
            region: None,
            prefix: String::new(),
            path_style: false,
            key: None,
        }
    }

    /// Brings prefix and endpoint into their form and checks what can be checked offline.
    ///
    /// # Errors
    /// `InvalidInput` with the rule that is broken.
    pub fn checked(mut self) -> Result<Self> {
        check_bucket(&self.bucket)?;
        self.prefix = self.prefix.trim_start_matches('/').to_owned();
        if !self.prefix.is_empty() && !self.prefix.ends_with('/') {
            self.prefix.push('/');
        }
        if let Some(endpoint) = &mut self.endpoint {
            *endpoint = endpoint.trim_end_matches('/').to_owned();
            if host(endpoint).is_none_or(str::is_empty) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("\"{endpoint}\" isn't the URL of an S3 service"),
                )
                .with_hint("write it as https://host or http://host:port"));
            }
        }
        Ok(self)
    }

    /// Reads what [`to_spec`](Self::to_spec) wrote.
    ///
    /// # Errors
    /// `Damaged` when it is none.
    pub fn from_spec(spec: &serde_json::Value) -> Result<Self> {
        Self::deserialize(spec).map_err(|error| {
            Error::new(ErrorKind::Damaged, "what is kept of an s3 connection can't be read")
                .with_source(error)
        })
    }

    /// What is kept of a connection in the catalogue.
    pub fn to_spec(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|error| {
            Error::new(ErrorKind::Damaged, format!("{self} can't be written")).with_source(error)
        })
    }

    /// Whether the bucket has to be named in the path: it was asked for, the host is no domain
    /// that could have a subdomain, or a dot in the bucket's name would break the certificate.
    pub fn needs_path_style(&self) -> bool {
        let bare = self.endpoint.as_deref().and_then(host).is_some_and(|host| {
            host == "localhost" || host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok()
        });
        self.path_style || bare || self.bucket.contains('.')
    }

    /// Where requests go, for messages.
    pub fn service(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("AWS")
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

fn check_bucket(name: &str) -> Result<()> {
    let fine = (3..=255).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if fine {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("\"{name}\" can't be a bucket's name"))
        .with_hint("a bucket's name has 3 to 255 letters, digits, dots, hyphens and underscores"))
}

/// The host of a URL, without its port.
fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next();
    }
    authority.split(':').next()
}

/// An access key: its id, and where its secret is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReference {
    /// The public half.
    pub id: String,
    /// Where the other half is.
    pub secret: SecretReference,
    /// Where the session token is that a temporary key comes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretReference>,
}

/// A place in an environment file, written `file/KEY`, such as `project/AWS_SECRET_ACCESS_KEY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretReference {
    /// The environment file.
    pub environment: String,
    /// The name in it.
    pub key: String,
}

impl FromStr for SecretReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some((environment, key)) if !environment.is_empty() && !key.is_empty() => {
                Ok(Self { environment: environment.to_owned(), key: key.to_owned() })
            }
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("\"{text}\" names no secret"))
                .with_hint("write it as file/KEY, for example project/AWS_SECRET_ACCESS_KEY")),
        }
    }
}

impl TryFrom<String> for SecretReference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SecretReference> for String {
    fn from(reference: SecretReference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for SecretReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.key)
    }
}

/// What requests are signed with.
#[derive(Clone)]
pub enum Credentials {
    /// Whatever the AWS tools would use here: environment, profile, SSO, the instance's role.
    DefaultChain,
    /// An access key.
    Static {
        /// The public half.
        key_id: String,
        /// The other half.
        secret: Locked<str>,
        /// The session token that a temporary key comes with.
        token: Option<Locked<str>>,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultChain => f.write_str("DefaultChain"),
            Self::Static { key_id, .. } => write!(f, "Static({key_id}, ***)"),
        }
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a whole read or write, all its attempts included, and longer while its bytes come; a
    /// question about a name or a listing has half of it, for a page.
    pub deadline: Duration,
    /// For a connection to be made, TLS included.
    pub connect: Duration,
    /// For the next byte, once a request is sent.
    pub stall: Duration,
    /// How often a request that fails is sent; one that is throttled, or whose server is away
    /// after it was there, is sent until the deadline.
    pub attempts: u32,
}

impl Default for Limits {
    /// A minute is what a program that reads a file may have to wait before it gets an error; the
    /// others are fractions of it that leave room for a second and a third try.
    fn default() -> Self {
        Self {
            deadline: Duration::from_mins(1),
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(15),
            attempts: 8,
        }
    }
}

impl Limits {
    /// With another deadline, and less patience where it is short.
    pub fn within(deadline: Duration) -> Self {
        let usual = Self::default();
        Self {
            deadline,
            connect: usual.connect.min(deadline / 2),
            stall: usual.stall.min(deadline / 2),
            ..usual
        }
    }

    /// For somebody who waits at a terminal for an answer.
    pub fn interactive() -> Self {
        Self {
            deadline: Duration::from_secs(15),
            connect: Duration::from_secs(4),
            stall: Duration::from_secs(8),
            attempts: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_directory() {
        for prefix in ["data/x", "/data/x", "data/x/", "//data/x/"] {
            let connection = Connection { prefix: prefix.into(), ..Connection::new("bucket") };
            assert_eq!(connection.checked().unwrap().prefix, "data/x/");
        }
        assert_eq!(Connection::new("bucket").checked().unwrap().prefix, "");
    }

    #[test]
    fn a_host_without_subdomains_is_addressed_by_path() {
        let at = |endpoint: &str, bucket: &str| {
            let endpoint = Some(endpoint.to_owned());
            Connection { endpoint, ..Connection::new(bucket) }.checked().unwrap()
        };
        assert!(at("http://localhost:8333", "cats").needs_path_style());
        assert!(at("http://127.0.0.1:8333", "cats").needs_path_style());
        assert!(at("http://[::1]:8333", "cats").needs_path_style());
        assert!(!at("https://s3.example.org/", "cats").needs_path_style());
        assert!(at("https://s3.example.org", "big.cats").needs_path_style());
        assert!(!Connection::new("cats").needs_path_style());
    }

    #[test]
    fn what_can_not_be_a_connection_says_why() {
        let url = Connection { endpoint: Some("s3.example.org".into()), ..Connection::new("cats") };
        assert!(url.checked().unwrap_err().to_string().contains("s3.example.org"));
        assert!(Connection::new("a/b").checked().is_err());
        assert!("AWS_SECRET".parse::<SecretReference>().is_err());
    }

    #[test]
    fn a_connection_is_stored_without_its_secret() {
        let reference = "project/AWS_SECRET_ACCESS_KEY".parse().unwrap();
        let key = Some(KeyReference { id: "AKIA".into(), secret: reference, token: None });
        let connection = Connection { key, ..Connection::new("cats") };
        let spec = connection.to_spec().unwrap();
        assert_eq!(spec["key"]["secret"], "project/AWS_SECRET_ACCESS_KEY");
        assert_eq!(Connection::from_spec(&spec).unwrap(), connection);
        assert!(Connection::from_spec(&serde_json::json!({"bucket": 7})).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = "hunter2".into();
        let text =
            format!("{:?}", Credentials::Static { key_id: "AKIA".into(), secret, token: None });
        assert_eq!(text, "Static(AKIA, ***)");
    }
}
