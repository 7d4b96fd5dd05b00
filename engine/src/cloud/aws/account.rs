//! Tables, change streams and queues by their full names, for programs without a pipeline that declares them.

use std::sync::Arc;

use aws_sdk_dynamodb::types::{KeyType as Role, ScalarAttributeType, TableDescription};

use super::{AwsOptions, config, error::Target, queue, stream::AwsStream, table::AwsTable};
use crate::cloud::{
    ChangeStream, CloudError, ErrorKind, Queue, Result, Table,
    resources::{KeyType, TableSpec},
    table::KeyNames,
};

const DESCRIBE: &str = "dynamodb:DescribeTable";

/// An AWS account, in which things are found by their full names and are as AWS says that they are. With it the
/// [consumer of change streams](crate::streams) reads any table.
pub struct AwsAccount {
    table: aws_sdk_dynamodb::Client,
    stream: aws_sdk_dynamodbstreams::Client,
    queue: aws_sdk_sqs::Client,
}

impl AwsAccount {
    /// The account of the credentials that the environment gives. Whether they are taken shows at the first request.
    pub async fn connect(options: &AwsOptions) -> Self {
        let config = config::load(options).await;
        Self {
            table: aws_sdk_dynamodb::Client::new(&config),
            stream: aws_sdk_dynamodbstreams::Client::new(&config),
            queue: aws_sdk_sqs::Client::new(&config),
        }
    }

    /// The table of that name, without its indexes.
    ///
    /// # Errors
    ///
    /// When it can't be described, or its keys are not what a [`Table`] takes: a string, and a string or a number.
    pub async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        let (target, spec) = self.describe(name).await?;
        Ok(Arc::new(AwsTable { client: self.table.clone(), target, keys: keys_of(&spec), spec }))
    }

    /// The change streams of the table of that name, which may have no sort key.
    ///
    /// # Errors
    ///
    /// As of [`table`](Self::table).
    pub async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>> {
        let (target, spec) = self.describe(table).await?;
        Ok(Arc::new(AwsStream { client: self.stream.clone(), table: target, keys: keys_of(&spec) }))
    }

    /// The queue of that name.
    ///
    /// # Errors
    ///
    /// When it can't be found.
    pub async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>> {
        let target = Target { noun: "queue", name: name.to_owned(), arn: format!("arn:aws:sqs:*:*:{name}") };
        Ok(Arc::new(queue::find(self.queue.clone(), target).await?))
    }

    async fn describe(&self, name: &str) -> Result<(Target, TableSpec)> {
        let mut target =
            Target { noun: "table", name: name.to_owned(), arn: format!("arn:aws:dynamodb:*:*:table/{name}") };
        let answer = target.ask(DESCRIBE, self.table.describe_table().table_name(name).send()).await?;
        let unusable = |kind, message| CloudError::new(kind, target.operation(DESCRIBE), message);
        let Some(table) = answer.table else {
            return Err(unusable(ErrorKind::Unavailable, "the answer has no description".to_owned()));
        };
        let spec = spec_of(name, &table).map_err(|message| unusable(ErrorKind::Invalid, message))?;
        target.arn = table.table_arn.unwrap_or(target.arn);
        Ok((target, spec))
    }
}

fn keys_of(spec: &TableSpec) -> KeyNames {
    KeyNames { partition: spec.partition_key.clone(), sort: spec.sort_key.clone() }
}

/// What a pipeline would declare of a table; an error says what can't be declared.
fn spec_of(name: &str, table: &TableDescription) -> std::result::Result<TableSpec, String> {
    let key = |role: Role| {
        let key = table.key_schema().iter().find(|key| *key.key_type() == role)?;
        let defined = table.attribute_definitions().iter();
        let kind = defined.clone().find(|defined| defined.attribute_name() == key.attribute_name());
        Some((key.attribute_name().to_owned(), kind.map(|defined| defined.attribute_type().clone())))
    };
    let partition_key = match key(Role::Hash) {
        Some((key, Some(ScalarAttributeType::S))) => key,
        other => return Err(format!("its partition key must be a string, and is {other:?}")),
    };
    let (sort_key, sort_type) = match key(Role::Range) {
        None => (String::new(), KeyType::String),
        Some((key, Some(ScalarAttributeType::S))) => (key, KeyType::String),
        Some((key, Some(ScalarAttributeType::N))) => (key, KeyType::Number),
        other => return Err(format!("its sort key must be a string or a number, and is {other:?}")),
    };
    let stream = table.stream_specification.as_ref().is_some_and(|stream| stream.stream_enabled);
    let (name, indexes) = (Some(name.to_owned()), Default::default());
    Ok(TableSpec { name, partition_key, sort_key, sort_type, indexes, ttl: None, stream })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{AttributeDefinition, KeySchemaElement};

    use super::*;

    fn described(keys: &[(&str, Role, ScalarAttributeType)]) -> TableDescription {
        keys.iter()
            .fold(TableDescription::builder(), |table, (name, role, kind)| {
                let key = KeySchemaElement::builder().attribute_name(*name).key_type(role.clone()).build().unwrap();
                let kind =
                    AttributeDefinition::builder().attribute_name(*name).attribute_type(kind.clone()).build().unwrap();
                table.key_schema(key).attribute_definitions(kind)
            })
            .build()
    }

    #[test]
    fn the_keys_of_any_table_are_read_from_its_description_and_what_cannot_be_read_is_named() {
        let (id, at) = (("id", Role::Hash, ScalarAttributeType::S), ("at", Role::Range, ScalarAttributeType::N));
        let spec = spec_of("orders", &described(&[at.clone(), id.clone()])).unwrap();
        assert_eq!((spec.partition_key.as_str(), spec.sort_key.as_str()), ("id", "at"));
        assert_eq!((spec.sort_type, spec.name.as_deref()), (KeyType::Number, Some("orders")));
        assert_eq!(spec_of("orders", &described(&[id])).unwrap().sort_key, "");
        let wrong = spec_of("orders", &described(&[("id", Role::Hash, ScalarAttributeType::B)])).unwrap_err();
        assert!(wrong.contains("partition key") && wrong.contains("id"), "{wrong}");
        assert!(spec_of("orders", &described(&[at])).unwrap_err().contains("partition key"));
    }
}
