//! The SDK's client: credentials, region, addressing and TLS, without its retries.

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
    self, BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::connection::{Connection, Credentials, Limits};

/// Where AWS puts those who name no region.
const DEFAULT_REGION: &str = "us-east-1";

/// How long the default chain may look for credentials: outside of AWS its last resort, the
/// instance's metadata service, only ends by its own timeout of a second.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds a client. Nothing is sent before the first request.
///
/// Retries, stalls and deadlines are ours, see [`retry`](super::retry): the SDK's end where the
/// body begins, and ours have to cover it.
pub(super) async fn build(
    connection: &Connection,
    credentials: &Credentials,
    limits: &Limits,
) -> Client {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let region = region(connection).await;
    let provider = match credentials {
        Credentials::DefaultChain => chain(region.clone(), http.clone()).await,
        Credentials::Static { key_id, secret } => SharedCredentialsProvider::new(
            config::Credentials::new(key_id, secret.as_str(), None, None, "connection"),
        ),
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
    Client::from_conf(builder.build())
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
