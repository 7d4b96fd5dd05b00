//! The dataset's columns, in the schema item of the tracking table.
//!
//! One item holds the names in order of first sight, with a version. It only ever grows, on the condition that its
//! version is as read: two workers that find new columns at once both get their own in, one after the other.

use std::sync::Arc;

use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        AttributeValue, CloudError, Item, Table,
        table::{Carried, Condition, Consistency, Key, Write, carry_out},
    },
    time::{Clock, format_time},
};

use crate::{
    convert::{ColumnCatalog, ConvertError},
    model::attribute,
};

/// Refusals in a row after which growing is left to the next attempt.
const MAX_REFUSALS: usize = 20;

/// The catalog of columns in the tracking table.
pub struct SchemaItem {
    table: Arc<dyn Table>,
    clock: Clock,
}

impl SchemaItem {
    /// The catalog in this table.
    pub fn new(table: Arc<dyn Table>, clock: Clock) -> Self {
        Self { table, clock }
    }

    /// The key of the item.
    pub fn key() -> Key {
        Key::new("SCHEMA", "columns")
    }

    async fn read(&self) -> Result<(Vec<String>, u64), ConvertError> {
        let item = self.table.get(&Self::key(), Consistency::Strong).await.map_err(failed)?;
        item.as_ref().map_or(Ok((Vec::new(), 0)), columns_of)
    }
}

#[async_trait]
impl ColumnCatalog for SchemaItem {
    async fn known(&self) -> Result<Vec<String>, ConvertError> {
        Ok(self.read().await?.0)
    }

    async fn grow(&self, new: &[String]) -> Result<Vec<String>, ConvertError> {
        let (mut columns, mut version) = self.read().await?;
        for _ in 0..MAX_REFUSALS {
            let unseen: Vec<&String> = new.iter().filter(|name| !columns.contains(name)).collect();
            if unseen.is_empty() {
                return Ok(columns);
            }
            tracing::info!(columns = ?unseen, version = version + 1, "Dataset grows.");
            columns.extend(unseen.into_iter().cloned());
            let condition = match version {
                0 => Condition::absent(attribute::FILE_KEY),
                seen => Condition::equals_number("version", seen),
            };
            let names = columns.iter().cloned().map(AttributeValue::S).collect();
            let write = Write::update(Self::key(), condition)
                .set_value("columns", AttributeValue::L(names))
                .set_number("version", version + 1)
                .set(attribute::UPDATED_AT, format_time(self.clock.now()));
            let current = match carry_out(&*self.table, &write).await.map_err(failed)? {
                Carried::Applied(_) => return Ok(columns),
                Carried::Refused(current) => current,
            };
            (columns, version) = current.as_ref().map_or(Ok((Vec::new(), 0)), columns_of)?;
        }
        Err(ConvertError::Catalog { message: "the schema item keeps changing".to_owned(), transient: true })
    }
}

fn columns_of(item: &Item) -> Result<(Vec<String>, u64), ConvertError> {
    #[derive(serde::Deserialize)]
    struct Columns {
        columns: Vec<String>,
        version: u64,
    }
    let read: Columns = serde_dynamo::from_item(item.clone()).map_err(|error| ConvertError::Catalog {
        message: format!("the item SCHEMA/columns can't be read: {error}"),
        transient: false,
    })?;
    Ok((read.columns, read.version))
}

fn failed(error: CloudError) -> ConvertError {
    ConvertError::Catalog { message: error.to_string(), transient: error.is_transient() }
}
