//! What must be right before a pipeline starts on AWS, looked at without changing anything.
//!
//! Each finding names the resource, what is wrong with it and what to do: make it, wait for it, or add the IAM statement
//! that is missing. What would change something is tried where it can't: writes whose condition can't hold, receipts that
//! nobody has, uploads that were never begun. AWS looks at the right to do it first, and refuses the rest if it is given.
//! Receiving and sending messages and putting events can't be tried so: `deploy/README.md` says it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, ProvideCredentials, RuntimeComponents,
        interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::{BoxError, SdkError},
    types::{KeySchemaElement, KeyType, StreamViewType, TableDescription, TableStatus},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    AwsCloud,
    error::{Target, causes},
};
use crate::cloud::{
    Cloud, CloudError, ErrorKind, Item, Result,
    change_stream::{DescribeRequest, IteratorStart},
    queue::Receipt,
    resources::{self, Access, TableSpec},
    stage::Upload,
    table::{Condition, Consistency, Key, Query, Write},
};

/// The resources that a process uses, by their short names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Tables, and what is done with them.
    pub tables: BTreeMap<String, BTreeSet<Access>>,
    /// Tables without which all work goes on: what is wrong with them is a warning.
    pub optional: BTreeSet<String>,
    /// Tables whose change stream is read.
    pub streams: BTreeSet<String>,
    /// Queues that messages are sent to.
    pub queues: BTreeSet<String>,
    /// Queues that messages are received from.
    pub sources: BTreeSet<String>,
    /// Event buses.
    pub buses: BTreeSet<String>,
    /// Buckets, and what is done with the objects below which prefixes.
    pub buckets: BTreeMap<String, BTreeSet<(String, Access)>>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The pipeline runs, but not as declared.
    Warning,
    /// It can't run.
    Error,
}

/// Something that is wrong with an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, e.g. `table ndjson-parquet-leases-dev`.
    pub resource: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: {}", self.resource, self.message)
    }
}

/// What is named where nothing of that name can be: a receipt, an upload.
const PREFLIGHT: &str = "preflight";

/// A clock that is off by more than this is told. AWS refuses requests that are off by 5 minutes (S3: 15).
const SKEW_SECS: i64 = 60;
const SKEW_ERROR_SECS: i64 = 300;

/// Where the credentials and the environment lead: the region and the account.
pub(super) async fn identify(config: &SdkConfig, client: &aws_sdk_sts::Client) -> Result<(String, String)> {
    // A variable that is set to nothing sets none.
    let Some(region) = config.region().map(ToString::to_string).filter(|region| !region.is_empty()) else {
        let message = "no region is set: set AWS_REGION, or `region` in the profile";
        return Err(CloudError::new(ErrorKind::Invalid, "start on AWS", message));
    };
    let denied = |message: String| CloudError::new(ErrorKind::Denied, "start on AWS", message);
    let Some(provider) = config.credentials_provider() else {
        return Err(denied("there is no source of credentials".to_owned()));
    };
    if let Err(error) = provider.provide_credentials().await {
        let causes = causes(&error);
        return Err(denied(format!(
            "no credentials were found in the environment, a profile, the task's or the instance's role: {causes}"
        )));
    }
    let clock = Clock::default();
    let target = Target { noun: "the credentials in region", name: region.clone(), arn: "*".to_owned() };
    let request = client.get_caller_identity().customize().interceptor(clock.clone()).send();
    let identity = target.ask("sts:GetCallerIdentity", request).await?;
    let skew_secs = clock.skew_secs();
    if skew_secs.abs() > SKEW_ERROR_SECS {
        let side = if skew_secs < 0 { "behind" } else { "ahead of" };
        return Err(denied(format!("this machine's clock is {} s {side} AWS's: set it", skew_secs.abs())));
    }
    if skew_secs.abs() > SKEW_SECS {
        tracing::warn!(skew_secs, "This machine's clock is off from AWS's.");
    }
    match identity.account {
        Some(account) => Ok((region, account)),
        None => Err(denied("AWS names no account for the credentials".to_owned())),
    }
}

impl AwsCloud {
    /// Looks at all that is needed; returns what is wrong, worst first.
    pub async fn preflight(&self, needs: &Needs) -> Vec<Finding> {
        let mut findings = Vec::new();
        for name in needs.tables.keys().collect::<BTreeSet<_>>().union(&needs.streams.iter().collect()) {
            let mut of_table = Vec::new();
            self.check_table(name, needs, &mut of_table).await;
            if needs.optional.contains(*name) {
                of_table.iter_mut().for_each(|finding| finding.severity = Severity::Warning);
            }
            findings.extend(of_table);
        }
        for name in needs.queues.union(&needs.sources) {
            self.check_queue(name, needs.sources.contains(name), &mut findings).await;
        }
        for name in &needs.buses {
            let target = self.bus_target(name);
            let checked = async { self.event_bus(name).await?.check().await };
            if let Err(error) = checked.await {
                findings.push(self.failed(&target, &error));
            }
        }
        for (name, places) in &needs.buckets {
            self.check_bucket(name, places, &mut findings).await;
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    async fn check_table(&self, name: &str, needs: &Needs, findings: &mut Vec<Finding>) {
        let target = self.table_target(name);
        let request = self.clients.table.describe_table().table_name(&target.name);
        let described = target.ask("dynamodb:DescribeTable", request.send()).await;
        match (described.map(|answer| answer.table), self.resources.tables.get(name)) {
            (Ok(Some(table)), Some(spec)) => {
                findings.extend(differences(&table, spec).into_iter().map(|message| error(&target, message)));
            }
            (Ok(_), _) => findings.push(error(&target, "it is not declared, or not described".to_owned())),
            (Err(failure), _) => {
                findings.push(self.failed(&target, &failure));
                // Nothing else can be told of a table that isn't there.
                if failure.kind == ErrorKind::NotFound {
                    return;
                }
            }
        }
        for access in needs.tables.get(name).into_iter().flatten() {
            if let Err(failure) = self.try_table(name, *access).await {
                findings.push(self.failed(&target, &failure));
            }
        }
        if needs.streams.contains(name)
            && let Err(failure) = self.try_stream(name).await
        {
            findings.push(self.failed(&target, &failure));
        }
    }

    /// Reads, or writes what can't be written.
    async fn try_table(&self, name: &str, access: Access) -> Result<()> {
        let table = self.table(name).await?;
        // No date and no scope: no operator ever writes there. It is a number too, for tables that sort by one.
        let key = Key::new("PREFLIGHT", "0");
        let never = Condition::equals(&table.keys().partition, "never");
        let write = match access {
            Access::Get => return table.get(&key, Consistency::Eventual).await.map(drop),
            Access::Query => return table.query(&Query::partition(&key.partition).limit(1)).await.map(drop),
            Access::QueryIndex => {
                for index in self.resources.tables.get(name).into_iter().flat_map(|spec| spec.indexes.keys()) {
                    table.query(&Query::index(index, &key.partition).limit(1)).await?;
                }
                return Ok(());
            }
            Access::Put => Write::put(key, Item::default(), never),
            Access::Update => Write::update(key, never).set("preflight", "never"),
            Access::Delete => Write::delete(key, never),
            // Of objects.
            Access::Stage => return Ok(()),
        };
        table.write(&write).await.map(drop)
    }

    async fn try_stream(&self, name: &str) -> Result<()> {
        let stream = self.change_stream(name).await?;
        let Some(arn) = stream.streams().await?.pop() else {
            let operation = self.table_target(name).operation("dynamodb:ListStreams");
            let message = "it has no stream: enable one with new and old images";
            return Err(CloudError::new(ErrorKind::NotFound, operation, message));
        };
        let shards = stream.describe(&arn, DescribeRequest::default()).await?.shards;
        // Of one that is closed what is read may be trimmed in between.
        let Some(shard) = shards.iter().rfind(|shard| shard.end.is_none()) else { return Ok(()) };
        let reading = async {
            let iterator = stream.iterator(&arn, &shard.id, &IteratorStart::Latest).await?;
            stream.records(&iterator, 1).await.map(drop)
        };
        allowed(reading.await)
    }

    async fn check_queue(&self, name: &str, is_source: bool, findings: &mut Vec<Finding>) {
        let target = self.queue_target(name);
        let found = match self.find_queue(name).await {
            Ok(found) => found,
            Err(failure) => return findings.push(self.failed(&target, &failure)),
        };
        if let Some(spec) = self.resources.queues.get(name)
            && spec.visibility != found.visibility
        {
            let (is, declared) = (found.visibility.as_secs(), spec.visibility.as_secs());
            let message = format!("its visibility timeout is {is} s, and the pipeline declares {declared} s");
            findings.push(Finding { severity: Severity::Warning, resource: named(&target), message });
        }
        if let Err(failure) = super::Queue::depth(&*found).await {
            findings.push(self.failed(&target, &failure));
        }
        if is_source {
            let nobodys = Receipt(PREFLIGHT.to_owned());
            let deleted = super::Queue::delete(&*found, std::slice::from_ref(&nobodys)).await;
            let deleted = deleted.and_then(|results| results.into_iter().collect());
            let kept = super::Queue::set_visibility(&*found, &nobodys, found.visibility).await;
            let failures = [allowed(deleted), allowed(kept)].into_iter().filter_map(Result::err);
            findings.extend(failures.map(|failure| self.failed(&target, &failure)));
        }
    }

    async fn check_bucket(&self, name: &str, places: &BTreeSet<(String, Access)>, findings: &mut Vec<Finding>) {
        let target = self.bucket_target(name);
        let asked = self.clients.object.head_bucket().bucket(&target.name).send().await;
        let Err(failure) = asked else {
            for (prefix, access) in places {
                // A key like any other; and a role needs what the finding then says, word by word.
                if let Err(failure) = self.try_bucket(name, &format!("{prefix}*"), *access).await {
                    findings.push(self.failed(&target, &failure));
                }
            }
            return;
        };
        // A bucket of another region answers where it is.
        let elsewhere = match &failure {
            SdkError::ServiceError(of) => of.raw().headers().get("x-amz-bucket-region").map(str::to_owned),
            _ => None,
        };
        if let Some(region) = elsewhere.filter(|region| *region != self.region) {
            let message =
                format!("it is in region {region}, and this process is set to {}: set AWS_REGION", self.region);
            findings.push(error(&target, message));
            return;
        }
        let failure = target.error("s3:ListBucket", failure);
        findings.push(self.failed(&target, &failure));
    }

    /// Reads an object that isn't there, or adds to an upload that was never begun.
    async fn try_bucket(&self, name: &str, key: &str, access: Access) -> Result<()> {
        let stage = self.bucket(name).await?.stage;
        let upload = Upload { key: key.to_owned(), id: PREFLIGHT.to_owned(), token: String::new() };
        match access {
            Access::Get => stage.head(key).await.map(drop),
            Access::Put => allowed(stage.put_part(&upload, 1, Bytes::new()).await.map(drop)),
            Access::Stage => {
                allowed(stage.put_part(&upload, 1, Bytes::new()).await.map(drop))?;
                allowed(stage.abort(&upload).await)
            }
            // Of items.
            Access::Query | Access::QueryIndex | Access::Update | Access::Delete => Ok(()),
        }
    }

    fn failed(&self, target: &Target, failure: &CloudError) -> Finding {
        let message = match failure.kind {
            ErrorKind::NotFound => format!(
                "it is not there in account {}, region {}: deploy the template with Env={}, or choose another --env \
                 or AWS_REGION ({failure})",
                self.naming.account, self.region, self.naming.env
            ),
            _ => failure.to_string(),
        };
        error(target, message)
    }
}

/// What the answer to a request says that can't succeed: refused for anything but a lack of rights, it was allowed.
fn allowed(asked: Result<()>) -> Result<()> {
    asked.or_else(|failure| match failure.kind {
        ErrorKind::Denied | ErrorKind::Unavailable => Err(failure),
        _ => Ok(()),
    })
}

fn named(target: &Target) -> String {
    format!("{} {}", target.noun, target.name)
}

fn error(target: &Target, message: String) -> Finding {
    Finding { severity: Severity::Error, resource: named(target), message }
}

/// Where a table is not as it is declared.
fn differences(table: &TableDescription, spec: &TableSpec) -> Vec<String> {
    let mut found = Vec::new();
    if !matches!(table.table_status, Some(TableStatus::Active | TableStatus::Updating)) {
        let status = table.table_status.as_ref().map_or("unknown", TableStatus::as_str);
        found.push(format!("its status is {status}: wait until it is ACTIVE"));
    }
    let keys = keys_of(table.key_schema());
    let sort_key = if spec.sort_key.is_empty() { NO_KEY } else { &spec.sort_key };
    let declared = format!("{} and {sort_key}", spec.partition_key);
    if keys != declared {
        found.push(format!("its keys are {keys}, and the pipeline declares {declared}"));
    }
    for (name, index) in &spec.indexes {
        let declared = format!("{} and {}", index.hash, index.range);
        match table.global_secondary_indexes().iter().find(|found| found.index_name() == Some(name)) {
            None => found.push(format!("it has no index {name}: add it, by {declared}, with all attributes")),
            Some(index) if keys_of(index.key_schema()) != declared => found.push(format!(
                "its index {name} is by {}, and the pipeline declares {declared}",
                keys_of(index.key_schema())
            )),
            Some(_) => {}
        }
    }
    let stream = table.stream_specification.as_ref();
    let has_images = stream.is_some_and(|stream| {
        stream.stream_enabled && stream.stream_view_type == Some(StreamViewType::NewAndOldImages)
    });
    if spec.stream && !has_images {
        found.push("it has no stream of new and old images: set StreamViewType to NEW_AND_OLD_IMAGES".to_owned());
    }
    let sort_type =
        table.attribute_definitions().iter().find(|definition| definition.attribute_name() == spec.sort_key);
    let wanted = match spec.sort_type {
        resources::KeyType::String => "S",
        resources::KeyType::Number => "N",
    };
    if let Some(is) = sort_type.map(|definition| definition.attribute_type().as_str()).filter(|is| *is != wanted) {
        found.push(format!("its sort key is of type {is}, and the pipeline declares {wanted}"));
    }
    found
}

/// What stands for a key that a table doesn't have.
const NO_KEY: &str = "nothing";

/// `partition and sort`.
fn keys_of(schema: &[KeySchemaElement]) -> String {
    let name = |wanted: KeyType| {
        schema.iter().find(|key| *key.key_type() == wanted).map_or(NO_KEY, |key| key.attribute_name())
    };
    format!("{} and {}", name(KeyType::Hash), name(KeyType::Range))
}

/// Hears how far this machine's clock is from the server's, by the date of its answer.
#[derive(Debug, Clone, Default)]
struct Clock(Arc<AtomicI64>);

impl Clock {
    fn skew_secs(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "Clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) {
            self.0.store(Utc::now().timestamp() - date.timestamp(), Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{AttributeDefinition, ScalarAttributeType, StreamSpecification};

    use super::*;
    use crate::cloud::conformance;

    fn key(name: &str, kind: KeyType) -> KeySchemaElement {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap()
    }

    #[test]
    fn a_table_that_is_not_as_declared_is_told_in_full() {
        let spec = &conformance::resources().tables[conformance::ITEMS];
        let table = TableDescription::builder()
            .table_status(TableStatus::Creating)
            .key_schema(key("pk", KeyType::Hash))
            .key_schema(key("other", KeyType::Range))
            .stream_specification(
                StreamSpecification::builder()
                    .stream_enabled(true)
                    .stream_view_type(StreamViewType::KeysOnly)
                    .build()
                    .unwrap(),
            )
            .attribute_definitions(
                AttributeDefinition::builder()
                    .attribute_name("sk")
                    .attribute_type(ScalarAttributeType::N)
                    .build()
                    .unwrap(),
            )
            .build();
        let found = differences(&table, spec).join("\n");
        for part in [
            "its status is CREATING",
            "its keys are pk and other, and the pipeline declares pk and sk",
            "it has no index color-index: add it, by color and shape",
            "NEW_AND_OLD_IMAGES",
            "its sort key is of type N, and the pipeline declares S",
        ] {
            assert!(found.contains(part), "{part} is missing in:\n{found}");
        }
    }

    #[test]
    fn a_table_without_a_sort_key_is_declared_without_one() {
        let items = &conformance::resources().tables[conformance::ITEMS];
        let spec = TableSpec { sort_key: String::new(), indexes: Default::default(), stream: false, ..items.clone() };
        let active = TableDescription::builder().table_status(TableStatus::Active);
        let table = active.key_schema(key("pk", KeyType::Hash)).build();
        assert_eq!(differences(&table, &spec), Vec::<String>::new());
        assert!(differences(&table, items).join("\n").contains("its keys are pk and nothing"));
    }
}
