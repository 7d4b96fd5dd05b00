//! [`ChangeStream`] on DynamoDB Streams.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodbstreams::{
    Client,
    types::{
        AttributeValue as SdkValue, OperationType, Record, ShardFilter, ShardFilterType, ShardIteratorType,
        StreamStatus,
    },
};

use super::error::Target;
use crate::cloud::{
    AttributeValue, ChangeStream, CloudError, ErrorKind, Item, Result,
    change_stream::{
        Change, ChangeKind, DescribeRequest, IteratorStart, RecordPage, SequenceNumber, Shard, ShardId, ShardIterator,
        StreamDescription,
    },
    limits,
    table::{Key, KeyNames},
};

/// The change streams of a table of DynamoDB.
pub(super) struct AwsStream {
    pub client: Client,
    /// The table.
    pub table: Target,
    pub keys: KeyNames,
}

impl AwsStream {
    /// The stream of that ARN, to name it.
    fn stream(&self, arn: &str) -> Target {
        Target { noun: "the stream of table", name: self.table.name.clone(), arn: arn.to_owned() }
    }

    fn shard(&self, arn: &str, shard: &ShardId) -> Target {
        Target { noun: "shard", name: format!("{shard} of table {}", self.table.name), arn: arn.to_owned() }
    }
}

#[async_trait]
impl ChangeStream for AwsStream {
    fn table(&self) -> &str {
        &self.table.name
    }

    async fn streams(&self) -> Result<Vec<String>> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let request = self.client.list_streams().table_name(&self.table.name).set_exclusive_start_stream_arn(after);
            let page = self.table.ask("dynamodb:ListStreams", request.send()).await?;
            for stream in page.streams.unwrap_or_default() {
                if let (Some(arn), Some(label)) = (stream.stream_arn, stream.stream_label) {
                    found.push((label, arn));
                }
            }
            after = page.last_evaluated_stream_arn;
            if after.is_none() {
                break;
            }
        }
        // A label is the time at which the stream was enabled.
        found.sort();
        Ok(found.into_iter().map(|(_, arn)| arn).collect())
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        let children = request
            .children_of
            .as_ref()
            .map(|parent| ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(&parent.0).build());
        let asked = self
            .client
            .describe_stream()
            .stream_arn(arn)
            .set_exclusive_start_shard_id(request.after.map(|shard| shard.0))
            .set_shard_filter(children);
        let answer = self.stream(arn).ask("dynamodb:DescribeStream", asked.send()).await?;
        let Some(description) = answer.stream_description else {
            return Err(self.unreadable("dynamodb:DescribeStream", arn, "the answer has no description"));
        };
        let mut shards = Vec::new();
        for shard in description.shards.unwrap_or_default() {
            let range = shard.sequence_number_range;
            // A shard that holds nothing yet may be told without a start.
            let start = range.as_ref().and_then(|range| range.starting_sequence_number.clone());
            let Some(id) = shard.shard_id else {
                return Err(self.unreadable("dynamodb:DescribeStream", arn, "a shard has no id"));
            };
            let shard = Shard {
                id: ShardId(id),
                parent: shard.parent_shard_id.map(ShardId),
                start: SequenceNumber(start.unwrap_or_else(|| "0".to_owned())),
                end: range.and_then(|range| range.ending_sequence_number).map(SequenceNumber),
            };
            // A server may answer the filter with all shards.
            if request.children_of.is_none() || shard.parent == request.children_of {
                shards.push(shard);
            }
        }
        Ok(StreamDescription {
            enabled: matches!(description.stream_status, Some(StreamStatus::Enabled | StreamStatus::Enabling)),
            shards,
            last_evaluated: description.last_evaluated_shard_id.map(ShardId),
        })
    }

    async fn iterator(&self, arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator> {
        let (kind, sequence) = match start {
            IteratorStart::TrimHorizon => (ShardIteratorType::TrimHorizon, None),
            IteratorStart::Latest => (ShardIteratorType::Latest, None),
            IteratorStart::At(sequence) => (ShardIteratorType::AtSequenceNumber, Some(sequence.0.clone())),
            IteratorStart::After(sequence) => (ShardIteratorType::AfterSequenceNumber, Some(sequence.0.clone())),
        };
        let request = self
            .client
            .get_shard_iterator()
            .stream_arn(arn)
            .shard_id(&shard.0)
            .shard_iterator_type(kind)
            .set_sequence_number(sequence);
        let answer = self.shard(arn, shard).ask("dynamodb:GetShardIterator", request.send()).await?;
        answer
            .shard_iterator
            .map(ShardIterator)
            .ok_or_else(|| self.unreadable("dynamodb:GetShardIterator", arn, "the answer has no iterator"))
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        const ACTION: &str = "dynamodb:GetRecords";
        let target = Target {
            noun: "a shard of table",
            name: self.table.name.clone(),
            arn: format!("{}/stream/*", self.table.arn),
        };
        limits::check(&target.operation(ACTION), "the page", limit, limits::RECORDS_PER_PAGE, "records")?;
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let request = self.client.get_records().shard_iterator(&iterator.0).limit(limit);
        let answer = target.ask(ACTION, request.send()).await?;
        let changes: Result<Vec<_>, &str> =
            answer.records.unwrap_or_default().into_iter().map(|record| self.change(record).map(Arc::new)).collect();
        let changes = changes.map_err(|message| self.unreadable(ACTION, &target.arn, message))?;
        Ok(RecordPage { changes, next: answer.next_shard_iterator.map(ShardIterator) })
    }
}

impl AwsStream {
    fn change(&self, record: Record) -> Result<Change, &'static str> {
        let kind = match record.event_name {
            Some(OperationType::Insert) => ChangeKind::Insert,
            Some(OperationType::Modify) => ChangeKind::Modify,
            Some(OperationType::Remove) => ChangeKind::Remove,
            _ => return Err("a record has an unknown event name"),
        };
        let body = record.dynamodb.ok_or("a record has no content")?;
        let keys = body.keys.as_ref().ok_or("a record has no keys")?;
        let text = |name: &str| match keys.get(name) {
            // A table without a sort key.
            None if name.is_empty() => Ok(String::new()),
            Some(SdkValue::S(text) | SdkValue::N(text)) => Ok(text.clone()),
            _ => Err("a record lacks a key attribute"),
        };
        let by_ttl = record.user_identity.is_some_and(|user| {
            user.r#type.as_deref() == Some("Service") && user.principal_id.as_deref() == Some("dynamodb.amazonaws.com")
        });
        let old = body.old_image.filter(|image| !image.is_empty()).map(item_of);
        let new = body.new_image.filter(|image| !image.is_empty()).map(item_of);
        // Not every server tells the size; it only bounds what is held in memory.
        let images = || old.iter().chain(&new).map(limits::item_bytes).sum::<usize>() as u64;
        let size_bytes = body.size_bytes.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        Ok(Change {
            kind,
            key: Key::new(text(&self.keys.partition)?, text(&self.keys.sort)?),
            size_bytes: size_bytes.unwrap_or_else(images),
            old,
            new,
            sequence: SequenceNumber(body.sequence_number.ok_or("a record has no sequence number")?),
            created_secs: body.approximate_creation_date_time.ok_or("a record has no time")?.secs(),
            by_ttl,
        })
    }

    /// An answer that is not as the API's reference says.
    fn unreadable(&self, action: &str, arn: &str, message: &str) -> CloudError {
        CloudError::new(ErrorKind::Unavailable, self.stream(arn).operation(action), message)
    }
}

fn item_of(image: std::collections::HashMap<String, SdkValue>) -> Item {
    image
        .into_iter()
        .map(|(name, value)| (name, AttributeValue::from(value)))
        .collect::<std::collections::HashMap<_, _>>()
        .into()
}
