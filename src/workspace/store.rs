//! The content store that a home's catalogue belongs to.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, StoreIdentity};
use crate::config::{BucketUrl, Config, StoreLocation};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;
use crate::object::local::LocalStore;
use crate::object::s3::{Connection, Credentials, Limits, S3Store};
use crate::object::{ObjectStore, PutMode};

/// The key of the object that says whose store it is.
const MARKER: &str = "store.json";

/// The format of stores that this program writes; it reads all up to it.
const FORMAT: u32 = 1;

/// What a store says of itself, once and for all.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    format: u32,
    /// The only catalogue that knows what is needed in it.
    catalogue: String,
}

/// A store, opened.
pub(super) struct Opened {
    /// The store.
    pub(super) store: Arc<dyn ObjectStore>,
    /// What the addresses of its objects begin with, if it is far away.
    pub(super) remote: Option<String>,
}

/// Opens the store that the catalogue belongs to. One that belongs to none yet belongs from then
/// on to the one that is named, or to the one in its home.
///
/// # Errors
/// `InvalidInput` when another one is named than the catalogue belongs to; `ResourceBusy` when the
/// store belongs to another catalogue; those of the store.
pub(super) async fn open(
    config: &Config,
    catalog: &Catalog,
    limits: Limits,
    metrics: &Arc<Metrics>,
) -> Result<Opened> {
    let named = config.store.clone();
    let identity = if let Some(identity) = catalog.store().await? {
        identity
    } else {
        let location = named.clone().unwrap_or(StoreLocation::Home);
        catalog.choose_store(&location.to_string()).await?
    };
    let remembered: StoreLocation = identity.location.parse()?;
    let location = named.unwrap_or_else(|| remembered.clone());
    let opened = reach(config, &location, limits, metrics).await?;
    if !identity.bound {
        let bound = bind(&opened.store, &location, &identity).await;
        catalog.settle_store(bound.is_ok()).await?;
        bound?;
    } else if location != remembered {
        if !belongs(&opened.store, &identity).await? {
            let home = config.home.display();
            let message = format!("the catalogue in {home} belongs to the store {remembered}");
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{message}, not to {location}"),
            )
            .with_hint("leave --store away, or make another home for that store with --home"));
        }
    } else if opened.remote.is_none() && !belongs(&opened.store, &identity).await? {
        // What is written where a disk isn't mounted would be missing on it.
        let shown = match &location {
            StoreLocation::Home => config.store_dir().display().to_string(),
            other => other.to_string(),
        };
        let message = format!("the store {shown} isn't there: no {MARKER} says whose it is");
        return Err(Error::new(ErrorKind::NotFound, message)
            .with_hint("mount the disk that it is on, or put it back where it was"));
    }
    Ok(opened)
}

async fn reach(
    config: &Config,
    location: &StoreLocation,
    limits: Limits,
    metrics: &Arc<Metrics>,
) -> Result<Opened> {
    let local = |dir: &std::path::Path| -> Result<Opened> {
        Ok(Opened { store: Arc::new(LocalStore::open(dir)?), remote: None })
    };
    match location {
        StoreLocation::Home => local(&config.store_dir()),
        StoreLocation::Directory(dir) => local(dir),
        StoreLocation::Bucket(url) => {
            let BucketUrl { bucket, prefix, endpoint, region, path_style } = url.clone();
            let endpoint = endpoint.or_else(|| config.s3_endpoint.clone());
            let connection = Connection { bucket, prefix, endpoint, region, path_style, key: None };
            let store =
                S3Store::connect(connection, Credentials::DefaultChain, limits, metrics.clone());
            let store = store.await?;
            let remote = Some(store.address());
            Ok(Opened { store: Arc::new(store), remote })
        }
    }
}

/// Tells the store whose it is, unless it knows.
async fn bind(
    store: &Arc<dyn ObjectStore>,
    location: &StoreLocation,
    identity: &StoreIdentity,
) -> Result<()> {
    let made = store.put(MARKER, marker(&identity.name), PutMode::Create).await;
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if belongs(store, identity).await? {
                return Ok(());
            }
            let message = format!("the store {location} belongs to another catalogue");
            Err(Error::new(ErrorKind::ResourceBusy, message)
                .with_hint("name another prefix or directory: one store has one catalogue"))
        }
        Err(error) => Err(error),
    }
}

/// Whether the store says that it belongs to the catalogue.
async fn belongs(store: &Arc<dyn ObjectStore>, identity: &StoreIdentity) -> Result<bool> {
    match store.get(MARKER, 0..u64::MAX, None).await {
        Ok(bytes) => Ok(read(&bytes)?.catalogue == identity.name),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn marker(catalogue: &str) -> Bytes {
    let marker = Marker { format: FORMAT, catalogue: catalogue.to_owned() };
    let mut text = serde_json::json!(marker).to_string();
    text.push('\n');
    text.into()
}

fn read(bytes: &[u8]) -> Result<Marker> {
    let marker: Marker = serde_json::from_slice(bytes).map_err(|error| {
        Error::new(ErrorKind::Damaged, format!("{MARKER} of the store can't be read"))
            .with_source(error)
    })?;
    if marker.format > FORMAT {
        let message =
            format!("the store has format {}, which this program is older than", marker.format);
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("install the newer atelier that wrote it"));
    }
    Ok(marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are a promise: stores of today must be known for ever.
    #[test]
    fn a_marker_is_these_bytes() {
        let bytes = marker("abc");
        assert_eq!(bytes, "{\"format\":1,\"catalogue\":\"abc\"}\n");
        assert_eq!(read(&bytes).unwrap().catalogue, "abc");
    }

    #[test]
    fn what_is_no_marker_is_refused() {
        assert_eq!(read(b"{}").unwrap_err().kind(), ErrorKind::Damaged);
        let later = read(b"{\"format\":2,\"catalogue\":\"x\"}").unwrap_err();
        assert_eq!(later.kind(), ErrorKind::Unsupported);
    }
}
