//! Where the content of datasets and checkpoints is kept.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// Where the content store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// `store` in the home, wherever that is.
    Home,
    /// A directory of this machine, or one that several machines mount.
    Directory(PathBuf),
    /// The part of an S3 bucket below a prefix.
    Bucket(BucketUrl),
}

/// `s3://bucket/prefix?endpoint=URL&region=NAME&path-style=true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    /// The bucket's name.
    pub bucket: String,
    /// What the keys begin with.
    pub prefix: String,
    /// The URL of the service; that of the environment, or AWS itself, where there is none.
    pub endpoint: Option<String>,
    /// The region; that of the environment or the profile where there is none.
    pub region: Option<String>,
    /// Whether the bucket is named in the path of a URL instead of its host.
    pub path_style: bool,
}

/// How a store in the home is written.
const HOME: &str = "home";

impl FromStr for StoreLocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` isn't a store: {what}"))
                .with_hint(
                    "write s3://bucket/prefix, with ?endpoint=URL&region=NAME behind it where it \
                     isn't at AWS, or the absolute path of a directory",
                )
        };
        if text == HOME {
            return Ok(Self::Home);
        }
        if let Some(url) = text.strip_prefix("s3://") {
            return BucketUrl::parse(url).map(Self::Bucket).map_err(wrong);
        }
        let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
        if !path.is_absolute() {
            return Err(wrong("it is neither a bucket nor an absolute path"));
        }
        Ok(Self::Directory(path.components().collect()))
    }
}

impl FromStr for BucketUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let url = text.strip_prefix("s3://").ok_or("it doesn't begin with s3://");
        url.and_then(Self::parse).map_err(|what| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` isn't a bucket: {what}"))
                .with_hint(
                    "write s3://bucket/prefix, with ?endpoint=URL&region=NAME behind it where it \
                     isn't at AWS",
                )
        })
    }
}

impl BucketUrl {
    fn parse(url: &str) -> Result<Self, &'static str> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return Err("it names no bucket");
        }
        let mut parsed = Self {
            bucket: bucket.to_owned(),
            prefix: decoded(prefix.trim_matches('/'))?,
            endpoint: None,
            region: None,
            path_style: false,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or("a part of it has no value")?;
            let value = decoded(value)?;
            match name {
                "endpoint" => parsed.endpoint = Some(value),
                "region" => parsed.region = Some(value),
                "path-style" => {
                    parsed.path_style = value.parse().map_err(|_| "path-style is true or false")?;
                }
                _ => return Err("it takes endpoint, region and path-style"),
            }
        }
        Ok(parsed)
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str(HOME),
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", encoded(&self.prefix))?;
        }
        let path_style = self.path_style.then(|| "true".to_owned());
        let parts = [
            ("endpoint", self.endpoint.clone()),
            ("region", self.region.clone()),
            ("path-style", path_style),
        ];
        let mut between = '?';
        for (name, value) in parts {
            if let Some(value) = value {
                write!(f, "{between}{name}={}", encoded(&value))?;
                between = '&';
            }
        }
        Ok(())
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(match byte {
            b'%' => digit()
                .zip(digit())
                .and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
                .ok_or("a % isn't followed by two digits")?,
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| "it isn't UTF-8")
}

/// Encodes what means something in a URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'%' | b'?' | b'&' | b'#' | b' ' | 0x80.. => {
                let digit = |value| char::from(b"0123456789ABCDEF"[usize::from(value)]);
                encoded.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
            }
            plain => encoded.push(char::from(plain)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_written_as_it_is_read() {
        for (text, shown) in [
            ("home", "home"),
            ("/data/store/", "/data/store"),
            ("file:///data/store", "/data/store"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            (
                "s3://bucket/a%20b?region=eu&endpoint=http://127.0.0.1:83&path-style=true",
                "s3://bucket/a%20b?endpoint=http://127.0.0.1:83&region=eu&path-style=true",
            ),
        ] {
            let location: StoreLocation = text.parse().unwrap();
            assert_eq!(location.to_string(), shown);
            assert_eq!(shown.parse::<StoreLocation>().unwrap(), location);
        }
    }

    #[test]
    fn what_is_no_location_says_why() {
        for (text, why) in [
            ("s3://", "no bucket"),
            ("s3://bucket?colour=red", "endpoint, region"),
            ("s3://bucket?region", "no value"),
            ("s3://bucket/%4", "two digits"),
            ("s3://bucket?path-style=maybe", "true or false"),
            ("relative/path", "absolute path"),
            ("gs://bucket", "absolute path"),
        ] {
            let error = text.parse::<StoreLocation>().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
