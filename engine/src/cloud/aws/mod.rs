//! The cloud on AWS: DynamoDB and its streams, SQS, EventBridge and S3, by the AWS SDK.
//!
//! Resources are made by the templates in `deploy/aws`, never by this program: here they are only found, by the names
//! that [`Naming`] gives them, and a [preflight](AwsCloud::preflight) compares them with what the pipeline declares.
//! URLs and ARNs are read back from AWS, not built.

mod account;
mod config;
mod error;
mod event_bus;
mod events;
mod expression;
mod objects;
mod preflight;
mod queue;
mod stage;
mod stream;
mod table;
mod verified;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use aws_config::SdkConfig;
use tokio::sync::Mutex;

pub use self::{
    account::AwsAccount,
    config::AwsOptions,
    preflight::{Finding, Needs, Severity},
};
use self::{error::Target, event_bus::AwsBus, queue::AwsQueue, stage::AwsStage, stream::AwsStream, table::AwsTable};
use super::{
    Bucket, ChangeStream, Cloud, CloudError, ErrorKind, EventBus, Queue, Result, Table,
    resources::{Naming, Resources, TableSpec},
    table::KeyNames,
};

/// Objects larger than this are copied by parts; S3 copies up to 5 GB at once.
const COPY_WHOLE_BYTES: u64 = 5_000_000_000;
/// The size of a part of a copy.
const COPY_PART_BYTES: u64 = 512 * 1024 * 1024;

/// The resources of a pipeline in an AWS account.
pub struct AwsCloud {
    config: SdkConfig,
    naming: Naming,
    resources: Resources,
    region: String,
    clients: Clients,
    copy_bytes: (u64, u64),
    /// What was looked up once: handles are asked for any number of times.
    queues: Mutex<BTreeMap<String, Arc<AwsQueue>>>,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

struct Clients {
    table: aws_sdk_dynamodb::Client,
    stream: aws_sdk_dynamodbstreams::Client,
    queue: aws_sdk_sqs::Client,
    bus: aws_sdk_eventbridge::Client,
    object: aws_sdk_s3::Client,
    identity: aws_sdk_sts::Client,
}

impl AwsCloud {
    /// Connects to the account that the credentials are of, and names `pipeline`'s resources in `env` there.
    ///
    /// Fails, and says what to do, if there are no credentials, no region, or if they are not taken.
    pub async fn connect(pipeline: &str, env: &str, resources: &Resources, options: &AwsOptions) -> Result<Self> {
        let config = config::load(options).await;
        let clients = Clients {
            table: aws_sdk_dynamodb::Client::new(&config),
            stream: aws_sdk_dynamodbstreams::Client::new(&config),
            queue: aws_sdk_sqs::Client::new(&config),
            bus: aws_sdk_eventbridge::Client::new(&config),
            object: object_client(&config),
            identity: aws_sdk_sts::Client::new(&config),
        };
        let (region, account) = preflight::identify(&config, &clients.identity).await?;
        Ok(Self {
            naming: Naming { pipeline: pipeline.to_owned(), env: env.to_owned(), account },
            resources: resources.clone(),
            region,
            clients,
            config,
            copy_bytes: (COPY_WHOLE_BYTES, COPY_PART_BYTES),
            queues: Mutex::default(),
            buckets: Mutex::default(),
        })
    }

    /// How the resources are named: the account is that of the credentials.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// The resources, as the pipeline declares them.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Copies objects of more than `whole_bytes` by parts of `part_bytes`: for tests, whose objects are small.
    pub fn with_copy_sizes(mut self, whole_bytes: u64, part_bytes: u64) -> Self {
        self.copy_bytes = (whole_bytes, part_bytes);
        self
    }

    /// A resource's ARN, for messages only.
    fn arn(&self, service: &str, resource: &str) -> String {
        let partition = match &self.region {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        match service {
            "s3" => format!("arn:{partition}:s3:::{resource}"),
            _ => format!("arn:{partition}:{service}:{}:{}:{resource}", self.region, self.naming.account),
        }
    }

    fn table_target(&self, short: &str) -> Target {
        let named = self.resources.tables.get(short).map(|spec| self.naming.table(short, spec));
        let name = named.unwrap_or_else(|| self.naming.name(short));
        Target { noun: "table", arn: self.arn("dynamodb", &format!("table/{name}")), name }
    }

    fn queue_target(&self, short: &str) -> Target {
        let name = self.naming.name(short);
        Target { noun: "queue", arn: self.arn("sqs", &name), name }
    }

    fn bus_target(&self, short: &str) -> Target {
        let name = self.naming.name(short);
        Target { noun: "event bus", arn: self.arn("events", &format!("event-bus/{name}")), name }
    }

    fn bucket_target(&self, short: &str) -> Target {
        let name = self.naming.bucket(short);
        Target { noun: "bucket", arn: self.arn("s3", &name), name }
    }

    fn table_spec(&self, name: &str) -> Result<(&TableSpec, KeyNames)> {
        let spec = declared("table", &self.resources.tables, name)?;
        Ok((spec, KeyNames { partition: spec.partition_key.clone(), sort: spec.sort_key.clone() }))
    }

    async fn find_queue(&self, name: &str) -> Result<Arc<AwsQueue>> {
        declared("queue", &self.resources.queues, name)?;
        let mut queues = self.queues.lock().await;
        if let Some(queue) = queues.get(name) {
            return Ok(Arc::clone(queue));
        }
        let queue = Arc::new(queue::find(self.clients.queue.clone(), self.queue_target(name)).await?);
        queues.insert(name.to_owned(), Arc::clone(&queue));
        Ok(queue)
    }
}

/// The text of an object, of so many bytes at most: for what is read before it is known which pipeline it is about.
pub async fn read_text(bucket: &str, key: &str, limit_bytes: u64, options: &AwsOptions) -> Result<String> {
    let config = config::load(options).await;
    let client = object_client(&config);
    let target =
        Target { noun: "object", name: format!("s3://{bucket}/{key}"), arn: format!("arn:aws:s3:::{bucket}/{key}") };
    let operation = "s3:GetObject";
    let answer = target.ask(operation, client.get_object().bucket(bucket).key(key).send()).await?;
    let fail = |kind, message: String| CloudError::new(kind, target.operation(operation), message);
    let size_bytes = answer.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or(u64::MAX);
    if size_bytes > limit_bytes {
        return Err(fail(ErrorKind::Invalid, format!("it has more than {limit_bytes} bytes")));
    }
    // The SDK compares it with the checksum that S3 keeps.
    let body = answer.body.collect().await.map_err(|error| fail(ErrorKind::Unavailable, error.to_string()))?;
    String::from_utf8(body.to_vec()).map_err(|error| fail(ErrorKind::Invalid, format!("it is not UTF-8: {error}")))
}

fn object_client(config: &SdkConfig) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(config)
        // Test servers have no name for each bucket.
        .force_path_style(config.endpoint_url().is_some())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

#[async_trait]
impl Cloud for AwsCloud {
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        let (spec, keys) = self.table_spec(name)?;
        let (client, target) = (self.clients.table.clone(), self.table_target(name));
        Ok(Arc::new(AwsTable { client, target, spec: spec.clone(), keys }))
    }

    async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>> {
        let (_, keys) = self.table_spec(table)?;
        Ok(Arc::new(AwsStream { client: self.clients.stream.clone(), table: self.table_target(table), keys }))
    }

    async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>> {
        Ok(self.find_queue(name).await?)
    }

    async fn event_bus(&self, name: &str) -> Result<Arc<dyn EventBus>> {
        declared("bus", &self.resources.buses, name)?;
        Ok(Arc::new(AwsBus { client: self.clients.bus.clone(), target: self.bus_target(name) }))
    }

    async fn bucket(&self, name: &str) -> Result<Bucket> {
        declared("bucket", &self.resources.buckets, name)?;
        let mut buckets = self.buckets.lock().await;
        if let Some(bucket) = buckets.get(name) {
            return Ok(bucket.clone());
        }
        let target = self.bucket_target(name);
        let (copy_whole_bytes, copy_part_bytes) = self.copy_bytes;
        let bucket = Bucket {
            name: target.name.clone(),
            store: objects::open(&self.config, &self.clients.object, &target)?,
            stage: Arc::new(AwsStage {
                client: self.clients.object.clone(),
                bucket: target,
                copy_whole_bytes,
                copy_part_bytes,
            }),
        };
        buckets.insert(name.to_owned(), bucket.clone());
        Ok(bucket)
    }
}

fn declared<'a, T>(kind: &str, all: &'a BTreeMap<String, T>, name: &str) -> Result<&'a T> {
    all.get(name).ok_or_else(|| {
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        let message = format!("it is not declared; declared are: {}", names.join(", "));
        CloudError::new(ErrorKind::NotFound, format!("use of {kind} {name}"), message)
    })
}
