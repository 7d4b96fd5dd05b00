//! Plain objects of S3 through `object_store`, with the SDK's credentials: one chain for all requests.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::{
    Client,
    config::{ProvideCredentials, SharedCredentialsProvider},
};
use object_store::{
    BackoffConfig, ClientOptions, CredentialProvider, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AwsCredential, Checksum},
};

use super::{error::Target, verified::VerifiedStore};
use crate::cloud::{CloudError, Result};

/// A bucket for plain reads, writes and listings; `client` is the SDK's.
pub(super) fn open(config: &SdkConfig, client: &Client, bucket: &Target) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(5),
                base: 2.0,
            },
            max_retries: 8,
            retry_timeout: Duration::from_secs(120),
        })
        // The timeout is for a whole answer: a read of 64 MiB over a slow line must fit.
        .with_client_options(
            ClientOptions::new()
                .with_connect_timeout(Duration::from_secs(3))
                .with_timeout(Duration::from_secs(120))
                .with_pool_idle_timeout(Duration::from_secs(50))
                .with_pool_max_idle_per_host(64),
        );
    if let Some(region) = config.region() {
        builder = builder.with_region(region.as_ref());
    }
    if let Some(url) = config.endpoint_url() {
        builder = builder.with_endpoint(url).with_allow_http(url.starts_with("http:"));
    }
    if let Some(provider) = config.credentials_provider() {
        builder = builder.with_credentials(Arc::new(Chain(provider)));
    }
    let inner = Arc::new(builder.build().map_err(CloudError::from)?);
    Ok(Arc::new(VerifiedStore { inner, client: client.clone(), bucket: bucket.clone() }))
}

/// The SDK's chain, which keeps what it found and renews it before it expires.
#[derive(Debug)]
struct Chain(SharedCredentialsProvider);

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.0.provide_credentials().await;
        let found = found
            .map_err(|error| object_store::Error::Unauthenticated { path: String::new(), source: Box::new(error) })?;
        Ok(Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        }))
    }
}
