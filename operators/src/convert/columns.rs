//! Which names are columns: the rules that need no data.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::note::NOTE;
use super::options::ColumnCase;
use super::{ColumnCatalog, ConvertError};

/// The column that holds, as a JSON object, what is no column of its own.
pub const REST: &str = "_rest";

/// The column of the file's full name.
pub(crate) const SOURCE_FILE: &str = "_source_file";
/// The column of the file's etag.
pub(crate) const SOURCE_ETAG: &str = "_source_etag";
/// The column of the manifest's time.
pub(crate) const PROCESSING_TIMESTAMP: &str = "_processing_timestamp";

/// Names that no key can claim: such a key goes into `_rest`.
pub const RESERVED_NAMES: [&str; 5] = [SOURCE_FILE, SOURCE_ETAG, PROCESSING_TIMESTAMP, REST, NOTE];

/// A longer name can't be a column: the catalog is one item of the table.
pub(crate) const MAX_NAME_BYTES: usize = 256;

/// The column's name for a key.
pub(crate) fn column_name(key: &str, case: ColumnCase) -> String {
    match case {
        ColumnCase::Preserve => key.to_owned(),
        ColumnCase::Lower => key.to_lowercase(),
    }
}

/// Whether a column may have this name.
pub(crate) fn may_be_column(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !RESERVED_NAMES.contains(&name)
}

/// How many columns of `columns` count against the limit: `_rest` doesn't.
pub(crate) fn room(columns: &[String], max_columns: usize) -> usize {
    let taken = columns.iter().filter(|name| *name != REST).count();
    max_columns.saturating_sub(taken)
}

/// A catalog that lives as long as its process: for conversions that belong to no dataset.
#[derive(Debug, Default)]
pub struct MemoryCatalog(Mutex<Vec<String>>);

#[async_trait]
impl ColumnCatalog for MemoryCatalog {
    async fn known(&self) -> Result<Vec<String>, ConvertError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn grow(&self, new: &[String]) -> Result<Vec<String>, ConvertError> {
        let mut columns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in new {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        Ok(columns.clone())
    }
}
