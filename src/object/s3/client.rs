//! The SDK's client: credentials, region, addressing and TLS, without its retries.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    self, BehaviorVersion, HttpClient as _, IdentityCache, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::http_client_fn;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connection::{Connection, Credentials, Limits};
use super::{S3Store, Shared};
use crate::crypto::Hold;

/// Where AWS puts those who name no region.
const DEFAULT_REGION: &str = "us-east-1";

/// How long the default chain may look for credentials: outside of AWS its last resort, the
/// instance's metadata service, only ends by its own timeout of a second.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections are quiet when nothing came by any for this share of the time after which one is
/// taken to be dead.
const QUIET: u32 = 10;

/// The client of a store, which is replaced when its credentials have expired or the bucket is
/// in another region. Its connections stay, unless they turn out to be dead.
pub(super) struct Renewable {
    connections: Arc<Connections>,
    /// Guards a pointer; never held while waiting.
    current: RwLock<Current>,
    /// Held while the client is made anew, so that it is made once however many need that.
    renewing: Mutex<()>,
}

struct Current {
    /// Where the client keeps its key; in front of it, to be let go of first.
    _holds: Vec<Hold>,
    client: Client,
    since: Instant,
    /// The bucket's region, if the server told it.
    region: Option<String>,
}

impl Renewable {
    /// Makes the client. Nothing is sent before the first request.
    pub(super) async fn new(
        connection: &Connection,
        credentials: &Credentials,
        limits: &Limits,
    ) -> Self {
        let connections = Connections::new();
        let http = connections.http();
        let (client, holds) = build(connection, credentials, limits, http, None).await;
        let current = Current { _holds: holds, client, since: Instant::now(), region: None };
        Self { connections, current: RwLock::new(current), renewing: Mutex::default() }
    }

    /// The client now.
    pub(super) fn now(&self) -> Client {
        self.read().client.clone()
    }

    /// Replaces the client that was used `since` then, in `region` if the server told one.
    pub(super) async fn renew(&self, store: &S3Store, since: Instant, region: Option<String>) {
        let Shared { connection, credentials, limits, .. } = &*store.shared;
        let _renewing = self.renewing.lock().await;
        let region = {
            let current = self.read();
            if current.since > since {
                return;
            }
            region.or_else(|| current.region.clone())
        };
        tracing::info!(%connection, ?region, "the credentials or the region are renewed");
        let http = self.connections.http();
        let (client, holds) = build(connection, credentials, limits, http, region.clone()).await;
        let current = Current { _holds: holds, client, since: Instant::now(), region };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// Lets requests go by new connections, see [`Connections::leave`].
    pub(super) fn reconnect(&self, since: Instant) {
        self.connections.leave(since);
    }

    /// The same if they are quiet.
    pub(super) fn reconnect_if_quiet(&self, limits: &Limits) {
        if let Some(heard) = self.quiet_since(limits) {
            self.connections.leave(heard);
        }
    }

    /// When something came last by a connection, if that is so long ago that all may have died.
    pub(super) fn quiet_since(&self, limits: &Limits) -> Option<Instant> {
        let heard = *self.connections.heard.lock().unwrap_or_else(PoisonError::into_inner);
        (heard.elapsed() >= limits.stall / QUIET).then_some(heard)
    }

    /// Notes that something came by a connection.
    pub(super) fn hear(&self) {
        let heard = &self.connections.heard;
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn read(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections with TLS, by way of the proxy that the environment names, if it does. They are kept
/// for as long as the server keeps them, for 90 s without a request at most, and their number
/// isn't limited: see [`pace`](super::pace).
struct Connections {
    /// Guards a pointer; never held while waiting.
    made: RwLock<Made>,
    /// When something came by any of them. Held for one step.
    heard: std::sync::Mutex<Instant>,
}

/// The connections that requests go by now.
struct Made {
    pool: SharedHttpClient,
    since: Instant,
}

impl Made {
    fn anew() -> Self {
        let pool = aws_smithy_http_client::Builder::new().build_with_connector_fn(|settings, _| {
            let mut connector = Connector::builder();
            connector.set_connector_settings(settings.cloned());
            connector
                .proxy_config(ProxyConfig::from_env())
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .build()
        });
        Self { pool, since: Instant::now() }
    }
}

impl Connections {
    fn new() -> Arc<Self> {
        let made = Made::anew();
        Arc::new(Self { heard: std::sync::Mutex::new(made.since), made: RwLock::new(made) })
    }

    /// What sends requests by the connections there are when it does.
    fn http(self: &Arc<Self>) -> SharedHttpClient {
        let this = self.clone();
        http_client_fn(move |settings, components| {
            let pool = this.made.read().unwrap_or_else(PoisonError::into_inner).pool.clone();
            pool.http_connector(settings, components)
        })
    }

    /// Leaves the connections if there were some `since` then, when one of them turned out to be
    /// dead: all that are idle may be, as after a router forgot them, and nothing tells, since the
    /// library can't have TCP probe them. Requests that are on their way stay where they are.
    fn leave(&self, since: Instant) {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if made.since <= since {
            *made = Made::anew();
        }
    }
}

/// Builds a client, and holds the memory in which it keeps a key that we know: that of the default
/// chain is the SDK's own, which wipes it.
///
/// Retries, stalls and deadlines are ours, see [`retry`](super::retry): the SDK's end where the
/// body begins, and ours have to cover it.
async fn build(
    connection: &Connection,
    credentials: &Credentials,
    limits: &Limits,
    http: SharedHttpClient,
    told: Option<String>,
) -> (Client, Vec<Hold>) {
    let mut holds = Vec::new();
    let region = match told {
        Some(told) => Region::new(told),
        None => region(connection).await,
    };
    let provider = match credentials {
        Credentials::DefaultChain => chain(region.clone(), http.clone()).await,
        Credentials::Static { key_id, secret, token } => {
            let token = token.as_ref().map(|token| token.to_string());
            let key = config::Credentials::new(key_id, &**secret, token, None, "connection");
            holds.push(Hold::of(key.secret_access_key()));
            holds.extend(key.session_token().map(Hold::of));
            SharedCredentialsProvider::new(key)
        }
    };
    let mut builder = config::Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(region)
        .credentials_provider(provider)
        .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build())
        .force_path_style(connection.needs_path_style())
        // Other stores than AWS know few checksums. Bytes are guarded by their ETag, length, TLS.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(limits.connect).build());
    if let Some(endpoint) = &connection.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    (Client::from_conf(builder.build()), holds)
}

/// The region that is named somewhere; the metadata service isn't asked, since it may not answer.
async fn region(connection: &Connection) -> Region {
    RegionProviderChain::first_try(connection.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .region()
        .await
        .unwrap_or(Region::from_static(DEFAULT_REGION))
}

async fn chain(region: Region, http: SharedHttpClient) -> SharedCredentialsProvider {
    let provider = ProviderConfig::without_region()
        .with_region(Some(region.clone()))
        .with_http_client(http)
        .with_behavior_version(Some(BehaviorVersion::latest()));
    SharedCredentialsProvider::new(
        DefaultCredentialsChain::builder().region(region).configure(provider).build().await,
    )
}
