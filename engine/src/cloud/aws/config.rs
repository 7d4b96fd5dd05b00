//! How this program talks to AWS: the one place for region, endpoint, retries, timeouts, connections and user agent.
//!
//! Credentials come from the SDK's default chain and from nowhere else: variables, profile files, web identity, the ECS
//! task's role, the EC2 instance's role.

use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::{Builder, tls};

/// How to reach AWS. What is left out comes from the environment, as for any AWS tool.
#[derive(Debug, Clone, Default)]
pub struct AwsOptions {
    /// The region; else `AWS_REGION`, a profile's, or the instance's.
    pub region: Option<String>,
    /// Another server than AWS's, for tests; else `AWS_ENDPOINT_URL`.
    pub endpoint_url: Option<String>,
}

/// Tries of one request, the first included. Throttles and faults of the server are tried again within it.
const MAX_ATTEMPTS: u32 = 5;
/// The first wait between tries; it doubles, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(3);
/// Until the first byte of an answer. A long poll of a queue answers after 20 s.
const READ: Duration = Duration::from_secs(30);
/// One try, a part's upload over a slow line included.
const ATTEMPT: Duration = Duration::from_secs(120);
/// All tries together: past this the caller's own policy decides.
const OPERATION: Duration = Duration::from_secs(300);
/// Idle connections kept for each endpoint; more may be in use.
const IDLE_CONNECTIONS: usize = 64;
/// How long an idle connection is kept: below the 60 s after which load balancers drop it unsaid.
const IDLE: Duration = Duration::from_secs(50);

/// The configuration that all clients share, and with it their connections and their memory of throttles.
pub(super) async fn load(options: &AwsOptions) -> SdkConfig {
    // Adaptive: a client that was throttled slows its own requests down before they leave.
    let retries = RetryConfig::adaptive()
        .with_max_attempts(MAX_ATTEMPTS)
        .with_initial_backoff(FIRST_WAIT)
        .with_max_backoff(LONGEST_WAIT);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .read_timeout(READ)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(OPERATION)
        .build();
    let connections = Builder::new()
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(retries)
        .timeout_config(timeouts)
        .http_client(connections);
    // The name can't be wrong: it is made of letters.
    if let Ok(name) = AppName::new("penstock") {
        loader = loader.app_name(name);
    }
    if let Some(region) = &options.region {
        loader = loader.region(aws_config::Region::new(region.clone()));
    }
    if let Some(url) = &options.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    loader.load().await
}
