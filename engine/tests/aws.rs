//! The seam's conformance suites, on the AWS implementation, against any server that speaks AWS's APIs.
//!
//! ```sh
//! PENSTOCK_TEST_ENDPOINT=http://127.0.0.1:4566 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 \
//!     cargo test -p penstock-engine --test aws
//! ```
//!
//! Without `PENSTOCK_TEST_ENDPOINT` it runs nothing and says so. `.ci/run` starts MiniStack for it. It makes resources
//! with a name of its own, and leaves them to the server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test program")]

use std::{
    collections::BTreeSet,
    future::Future,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, StreamSpecification, StreamViewType,
};
use aws_sdk_sqs::types::QueueAttributeName;
use futures::StreamExt;
use object_store::{ObjectStoreExt, PutPayload, path::Path};
use penstock_engine::cloud::{
    Bucket, Cloud, ErrorKind,
    aws::{AwsCloud, AwsOptions, Needs, Severity},
    conformance,
    resources::{self, Access, BucketSpec, Resources},
    stage::{CopySource, Metadata},
    table::Query,
};

/// What MiniStack, the server of our CI, can't show; where else each is shown.
const NOT_COVERED: &[(&str, &str)] = &[
    (
        "several shards, rollover, split and trimming",
        "a stream there has one shard for ever: shown on the local cloud and in simulation",
    ),
    ("the end of a disabled stream", "it isn't listed there any more: shown on the local cloud"),
    ("one number under many texts as a sort key", "keys are compared as text there: shown on the local cloud"),
    ("expiry in the stream", "expired items leave the table there without a record: shown on the local cloud"),
    ("a rule's own dead letters", "there is no target DLQ there: its template is checked by cfn-lint only"),
    (
        "denied actions, clock skew, expired tokens",
        "policies and signatures are not enforced there: the codes are tested one by one, and the roles against the \
         actions that were recorded",
    ),
];

fn main() -> ExitCode {
    let Ok(endpoint) = std::env::var("PENSTOCK_TEST_ENDPOINT") else {
        println!("not run: the AWS suites need a server: set PENSTOCK_TEST_ENDPOINT, as .ci/run does");
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let failed = runtime.block_on(run(&endpoint));
    for (what, why) in NOT_COVERED {
        println!("not covered here: {what}: {why}");
    }
    println!("{}", if failed == 0 { "all suites passed".to_owned() } else { format!("{failed} suites failed") });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(endpoint: &str) -> usize {
    let name = format!("conformance-{:08x}", rand::random::<u32>());
    let mut resources = conformance::resources();
    resources.buckets.extend([("one".to_owned(), BucketSpec::default()), ("two".to_owned(), BucketSpec::default())]);
    let options = AwsOptions { endpoint_url: Some(endpoint.to_owned()), ..AwsOptions::default() };
    let cloud = AwsCloud::connect(&name, "test", &resources, &options).await.expect("a server at the endpoint");
    // Small objects stand for large ones.
    let cloud = Arc::new(cloud.with_copy_sizes(6 << 20, 5 << 20));
    let account = Arc::new(Account::new(endpoint, &cloud).await);
    let missing = cloud.preflight(&needs(&resources)).await;
    account.make(&resources).await;
    let mut failed = 0;
    let mut suites = Suites { failed: &mut failed };
    suites.run("preflight of an empty account", preflight_names_what_is_missing(missing)).await;
    suites.run("preflight", preflight_passes(Arc::clone(&cloud), needs(&resources))).await;
    suites.run("tables", tables(Arc::clone(&cloud))).await;
    suites.run("change streams", streams(Arc::clone(&cloud))).await;
    suites.run("renewed streams", renewed_streams(Arc::clone(&cloud), Arc::clone(&account))).await;
    suites.run("queues", queues(Arc::clone(&cloud))).await;
    suites.run("event buses", buses(Arc::clone(&cloud))).await;
    suites.run("buckets", buckets(Arc::clone(&cloud))).await;
    suites.run("copies by parts", copies_by_parts(Arc::clone(&cloud))).await;
    suites.run("keys of all kinds", keys_of_all_kinds(cloud)).await;
    failed
}

struct Suites<'a> {
    failed: &'a mut usize,
}

impl Suites<'_> {
    /// Runs a suite. A panic fails it, and not the others.
    async fn run(&mut self, name: &str, suite: impl Future<Output = ()> + Send + 'static) {
        let began = Instant::now();
        let ended = tokio::spawn(suite).await;
        println!("{name}: {} in {:.1} s", if ended.is_ok() { "ok" } else { "FAILED" }, began.elapsed().as_secs_f64());
        *self.failed += usize::from(ended.is_err());
    }
}

fn needs(resources: &Resources) -> Needs {
    let streams = resources.tables.iter().filter(|(_, spec)| spec.stream).map(|(name, _)| name.clone());
    let read = [Access::Get, Access::Query, Access::QueryIndex];
    let written = BTreeSet::from_iter(read.into_iter().chain([Access::Put, Access::Update, Access::Delete]));
    let below = |access| ("some/where/".to_owned(), access);
    let places = BTreeSet::from([below(Access::Get), below(Access::Put), below(Access::Stage)]);
    Needs {
        tables: resources.tables.keys().map(|name| (name.clone(), written.clone())).collect(),
        optional: BTreeSet::from([conformance::NUMBERS.to_owned()]),
        streams: streams.collect(),
        queues: resources.queues.keys().cloned().collect(),
        sources: resources.queues.keys().cloned().collect(),
        buses: resources.buses.keys().cloned().collect(),
        buckets: resources.buckets.keys().map(|name| (name.clone(), places.clone())).collect(),
    }
}

async fn preflight_names_what_is_missing(findings: Vec<penstock_engine::cloud::aws::Finding>) {
    for finding in &findings {
        let is_optional = finding.resource.contains(conformance::NUMBERS);
        let severity = if is_optional { Severity::Warning } else { Severity::Error };
        assert_eq!(finding.severity, severity, "work waits for it: {finding}");
    }
    let resources: BTreeSet<&str> =
        findings.iter().filter_map(|finding| finding.resource.rsplit(' ').next()?.split('-').nth(2)).collect();
    assert_eq!(
        resources,
        BTreeSet::from(["bus", "events", "items", "numbers", "one", "two", "work"]),
        "each missing resource is told: {findings:#?}"
    );
    for finding in &findings {
        assert!(finding.message.contains("is not there in account"), "{finding}");
    }
}

/// All that can be tried is allowed, and nothing has changed by it.
async fn preflight_passes(cloud: Arc<AwsCloud>, needs: Needs) {
    assert_eq!(cloud.preflight(&needs).await, []);
    for name in needs.buckets.keys() {
        let listed: Vec<_> = cloud.bucket(name).await.unwrap().store.list(None).collect().await;
        assert!(listed.is_empty(), "the preflight made objects: {listed:?}");
    }
    for name in needs.tables.keys() {
        let page = cloud.table(name).await.unwrap().query(&Query::partition("PREFLIGHT")).await.unwrap();
        assert_eq!(page.items, [], "the preflight made an item in {name}");
    }
}

async fn tables(cloud: Arc<AwsCloud>) {
    conformance::table::run_all(&*cloud.table(conformance::ITEMS).await.unwrap()).await;
    let numbers = cloud.table(conformance::NUMBERS).await.unwrap();
    conformance::table::numeric_sort_keys_order_as_numbers(&*numbers).await;
}

async fn streams(cloud: Arc<AwsCloud>) {
    let (items, stream) =
        (cloud.table(conformance::ITEMS).await.unwrap(), cloud.change_stream(conformance::ITEMS).await.unwrap());
    conformance::change_stream::run_all(&*items, &*stream, None).await;
}

/// A stream that was disabled and enabled again has a new ARN, which is the last of the list.
async fn renewed_streams(cloud: Arc<AwsCloud>, account: Arc<Account>) {
    let stream = cloud.change_stream(conformance::ITEMS).await.unwrap();
    let old = stream.streams().await.unwrap().pop().expect("the table has a stream");
    account.renew_stream(conformance::ITEMS).await;
    let arns = stream.streams().await.unwrap();
    let new = arns.last().expect("the table has a stream");
    assert!(*new != old, "a renewed stream has an ARN of its own");
    assert!(stream.describe(new, Default::default()).await.unwrap().enabled);
    assert!(!stream.describe(&old, Default::default()).await.unwrap().enabled, "the old one takes no changes");
}

async fn queues(cloud: Arc<AwsCloud>) {
    let (work, dead) = (cloud.queue(conformance::WORK).await.unwrap(), cloud.queue(conformance::DEAD).await.unwrap());
    conformance::queue::run_all(&*work, &*dead).await;
}

async fn buses(cloud: Arc<AwsCloud>) {
    let (bus, events) =
        (cloud.event_bus(conformance::BUS).await.unwrap(), cloud.queue(conformance::EVENTS).await.unwrap());
    conformance::event_bus::run_all(&*bus, &*events).await;
}

async fn two_buckets(cloud: &AwsCloud) -> (Bucket, Bucket) {
    (cloud.bucket("one").await.unwrap(), cloud.bucket("two").await.unwrap())
}

async fn buckets(cloud: Arc<AwsCloud>) {
    let (one, two) = two_buckets(&cloud).await;
    conformance::stage::all(&one, &two).await;
}

/// An object above the size that S3 copies at once has the same bytes and the new metadata.
async fn copies_by_parts(cloud: Arc<AwsCloud>) {
    let (one, two) = two_buckets(&cloud).await;
    let bytes: Vec<u8> = (0..12_000_007_u32).map(|at| (at % 251) as u8).collect();
    let key = "copies/large é+%.ndjson";
    one.store.put(&Path::parse(key).unwrap(), PutPayload::from(bytes.clone())).await.unwrap();
    let etag = one.stage.head(key).await.unwrap().unwrap().etag;
    let source = CopySource { bucket: one.name.clone(), key: key.to_owned(), etag, version: None };
    let metadata = Metadata::from([("reason".to_owned(), "large".to_owned())]);
    two.stage.copy_from(&source, key, &metadata).await.unwrap();
    let head = two.stage.head(key).await.unwrap().unwrap();
    assert_eq!((head.size_bytes, &head.metadata), (bytes.len() as u64, &metadata));
    let copied = two.store.get(&Path::parse(key).unwrap()).await.unwrap().bytes().await.unwrap();
    assert!(copied == bytes, "a copy by parts has the same bytes");
    let changed = CopySource { etag: "0".repeat(32), ..source };
    let error = two.stage.copy_from(&changed, "copies/changed", &Metadata::new()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}");
}

/// A key is the same key for both ways to a bucket.
async fn keys_of_all_kinds(cloud: Arc<AwsCloud>) {
    let (one, _) = two_buckets(&cloud).await;
    for name in ["a b", "a+b", "100%", "a%20b", "é", "日本", "a&b=c", "a#b?c", "~x", "a:b@c", "(x)*'!"] {
        let key = format!("keys/{name}.ndjson");
        let path = Path::parse(&key).unwrap();
        one.store.put(&path, PutPayload::from_static(b"{}")).await.unwrap();
        let head = one.stage.head(&key).await.unwrap();
        assert_eq!(head.map(|head| head.size_bytes), Some(2), "{key} by its plain name");
        assert_eq!(one.store.get(&path).await.unwrap().bytes().await.unwrap(), "{}", "{key}");
        assert_eq!(path.as_ref(), key);
    }
}

/// An account to make resources in.
struct Account {
    tables: aws_sdk_dynamodb::Client,
    queues: aws_sdk_sqs::Client,
    buses: aws_sdk_eventbridge::Client,
    objects: aws_sdk_s3::Client,
    naming: resources::Naming,
}

impl Account {
    async fn new(endpoint: &str, cloud: &AwsCloud) -> Self {
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest()).endpoint_url(endpoint).load().await;
        let objects = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        Self {
            tables: aws_sdk_dynamodb::Client::new(&config),
            queues: aws_sdk_sqs::Client::new(&config),
            buses: aws_sdk_eventbridge::Client::new(&config),
            objects: aws_sdk_s3::Client::from_conf(objects),
            naming: cloud.naming().clone(),
        }
    }

    async fn make(&self, resources: &Resources) {
        for (name, spec) in &resources.tables {
            self.make_table(&self.naming.name(name), spec).await;
        }
        // Those with dead letters come after the queues that they name.
        let mut queues: Vec<_> = resources.queues.iter().collect();
        queues.sort_by_key(|(_, spec)| spec.dead_letter.is_some());
        for (name, spec) in queues {
            self.make_queue(&self.naming.name(name), spec).await;
        }
        for (name, spec) in &resources.buses {
            self.make_bus(&self.naming.name(name), spec).await;
        }
        for name in resources.buckets.keys() {
            self.objects.create_bucket().bucket(self.naming.bucket(name)).send().await.unwrap();
        }
    }

    async fn make_table(&self, name: &str, spec: &resources::TableSpec) {
        let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
        let attribute = |name: &str, kind| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap()
        };
        let sort_type = match spec.sort_type {
            resources::KeyType::String => ScalarAttributeType::S,
            resources::KeyType::Number => ScalarAttributeType::N,
        };
        let mut request = self
            .tables
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .key_schema(key(&spec.partition_key, KeyType::Hash))
            .key_schema(key(&spec.sort_key, KeyType::Range))
            .attribute_definitions(attribute(&spec.partition_key, ScalarAttributeType::S))
            .attribute_definitions(attribute(&spec.sort_key, sort_type));
        for (index, spec) in &spec.indexes {
            let projection = Projection::builder().projection_type(ProjectionType::All).build();
            let index = GlobalSecondaryIndex::builder()
                .index_name(index)
                .key_schema(key(&spec.hash, KeyType::Hash))
                .key_schema(key(&spec.range, KeyType::Range))
                .projection(projection);
            request = request
                .attribute_definitions(attribute(&spec.hash, ScalarAttributeType::S))
                .attribute_definitions(attribute(&spec.range, ScalarAttributeType::S))
                .global_secondary_indexes(index.build().unwrap());
        }
        request.set_stream_specification(spec.stream.then(stream_of_images)).send().await.unwrap();
    }

    async fn make_queue(&self, name: &str, spec: &resources::QueueSpec) {
        let mut request = self
            .queues
            .create_queue()
            .queue_name(name)
            .attributes(QueueAttributeName::VisibilityTimeout, spec.visibility.as_secs().to_string());
        if let Some(dead) = &spec.dead_letter {
            let arn = self.queue_arn(&self.naming.name(&dead.queue)).await;
            let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":{}}}"#, dead.max_receives);
            request = request.attributes(QueueAttributeName::RedrivePolicy, policy);
        }
        request.send().await.unwrap();
    }

    async fn queue_arn(&self, name: &str) -> String {
        let url = self.queues.get_queue_url().queue_name(name).send().await.unwrap().queue_url.unwrap();
        let request = self.queues.get_queue_attributes().queue_url(url);
        let found = request.attribute_names(QueueAttributeName::QueueArn).send().await.unwrap();
        found.attributes().unwrap()[&QueueAttributeName::QueueArn].clone()
    }

    async fn make_bus(&self, name: &str, spec: &resources::BusSpec) {
        self.buses.create_event_bus().name(name).send().await.unwrap();
        for (rule, spec) in &spec.rules {
            let request = self.buses.put_rule().event_bus_name(name).name(rule);
            request.event_pattern(spec.pattern.to_string()).send().await.unwrap();
            for target in &spec.targets {
                let resources::TargetSpec::Queue(queue) = target else { continue };
                let arn = self.queue_arn(&self.naming.name(queue)).await;
                let target = aws_sdk_eventbridge::types::Target::builder().id("queue").arn(arn).build().unwrap();
                let request = self.buses.put_targets().event_bus_name(name).rule(rule).targets(target);
                request.send().await.unwrap();
            }
        }
    }

    async fn renew_stream(&self, table: &str) {
        let table = self.naming.name(table);
        self.set_stream(&table, StreamSpecification::builder().stream_enabled(false).build().unwrap()).await;
        self.set_stream(&table, stream_of_images()).await;
    }

    async fn set_stream(&self, table: &str, stream: StreamSpecification) {
        self.tables.update_table().table_name(table).stream_specification(stream).send().await.unwrap();
        // The table is UPDATING for a while on AWS.
        loop {
            let found = self.tables.describe_table().table_name(table).send().await.unwrap().table.unwrap();
            if found.table_status() == Some(&aws_sdk_dynamodb::types::TableStatus::Active) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn stream_of_images() -> StreamSpecification {
    StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewAndOldImages)
        .build()
        .unwrap()
}
