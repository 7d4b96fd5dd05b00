//! The rows of items: finding, storing and removing one, with its index entries and its change record.

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension};

use super::{
    definition::TableDef,
    log::{Log, NewChange},
    value,
};
use crate::cloud::{
    AttributeValue, CloudError, ErrorKind, Item, Result, limits,
    resources::KeyType,
    table::{Key, KeyNames},
};

/// A stored item.
pub struct Stored {
    pub row: i64,
    pub text: String,
    pub item: Item,
}

impl TableDef {
    /// The text under which a value of the sort key is stored and sorts.
    pub fn sort_text<'a>(&self, operation: &str, sort: &'a str) -> Result<Cow<'a, str>> {
        match self.sort_type {
            KeyType::String => Ok(Cow::Borrowed(sort)),
            KeyType::Number => value::order_text(sort).map(Cow::Owned).map_err(|error| invalid(operation, error)),
        }
    }

    /// A value of the sort key as an attribute.
    pub fn sort_value(&self, operation: &str, sort: &str) -> Result<AttributeValue> {
        match self.sort_type {
            KeyType::String => Ok(AttributeValue::S(sort.to_owned())),
            KeyType::Number => value::canonical(sort).map(AttributeValue::N).map_err(|error| invalid(operation, error)),
        }
    }

    /// The entry of an item in an index: its hash and range, if it has both.
    fn entry<'a>(
        &self,
        operation: &str,
        index_no: usize,
        item: Option<&'a Item>,
    ) -> Result<Option<(Cow<'a, str>, Cow<'a, str>)>> {
        let index = &self.indexes[index_no];
        // Each is checked though the other is missing, as DynamoDB does.
        let text = |name: &str, limit| {
            let attribute = item.and_then(|item| item.get(name));
            attribute.map(|attribute| self.index_text(operation, name, attribute, limit)).transpose()
        };
        let hash = text(&index.hash, limits::PARTITION_KEY_BYTES)?;
        let range = text(&index.range, limits::SORT_KEY_BYTES)?;
        Ok(hash.zip(range))
    }

    fn index_text<'a>(
        &self,
        operation: &str,
        name: &str,
        attribute: &'a AttributeValue,
        limit: usize,
    ) -> Result<Cow<'a, str>> {
        match attribute {
            AttributeValue::N(number) if name == self.keys.sort => self.sort_text(operation, number),
            AttributeValue::S(text) => {
                limits::check_key_part(operation, &format!("the index key {name}"), text, limit)?;
                Ok(Cow::Borrowed(text))
            }
            _ => Err(invalid(operation, format!("the index key {name} must be a string"))),
        }
    }

    fn expiry(&self, item: &Item) -> Option<i64> {
        match item.get(self.ttl.as_ref()?)? {
            AttributeValue::N(secs) => secs.split('.').next()?.parse().ok(),
            _ => None,
        }
    }
}

/// The key of an item, from its key attributes.
pub fn key_of(keys: &KeyNames, item: &Item) -> Result<Key> {
    match (item.get(&keys.partition), item.get(&keys.sort)) {
        (Some(AttributeValue::S(partition)), Some(AttributeValue::S(sort) | AttributeValue::N(sort))) => {
            Ok(Key::new(partition, sort))
        }
        _ => Err(damaged("an item lacks its key")),
    }
}

/// The item under a key, `sort` being the text of its sort key.
pub fn find(connection: &Connection, table: &TableDef, partition: &str, sort: &str) -> Result<Option<Stored>> {
    let row: Option<(i64, String)> = connection
        .prepare_cached("SELECT id, image FROM items WHERE table_id = ?1 AND pk = ?2 AND sk = ?3")?
        .query_row((table.id, partition, sort), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(row, text)| Ok(Stored { row, item: parse(&text)?, text })).transpose()
}

/// An item from its stored text.
pub fn parse(text: &str) -> Result<Item> {
    serde_json::from_str(text).map_err(|error| damaged(&error.to_string()))
}

fn text_of(item: &Item) -> Result<String> {
    serde_json::to_string(item).map_err(|error| damaged(&error.to_string()))
}

/// Replaces the item under `key` (and `sort`, the text of its sort key) and logs the change.
///
/// All that a write does to the database, but for its condition; an item that stays as it was is not written at all.
pub fn replace(
    connection: &Connection,
    table: &TableDef,
    log: &Log,
    (operation, key, sort): (&str, &Key, &str),
    before: Option<&Stored>,
    after: Option<&Item>,
    by_ttl: bool,
) -> Result<Option<i64>> {
    if before.map(|stored| &stored.item) == after {
        return Ok(None);
    }
    let mut row = before.map(|stored| stored.row);
    let mut new_text = None;
    let mut size_bytes = key.partition.len() + key.sort.len();
    size_bytes += before.map_or(0, |stored| limits::item_bytes(&stored.item));
    if let Some(item) = after {
        size_bytes += limits::check_item(operation, item)?;
        let text = text_of(item)?;
        let expiry = table.expiry(item);
        match row {
            Some(row) => {
                connection
                    .prepare_cached("UPDATE items SET image = ?2, ttl = ?3 WHERE id = ?1")?
                    .execute((row, &text, expiry))?;
            }
            None => {
                connection
                    .prepare_cached("INSERT INTO items (table_id, pk, sk, image, ttl) VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute((table.id, &key.partition, sort, &text, expiry))?;
                row = Some(connection.last_insert_rowid());
            }
        }
        new_text = Some(text);
    } else if let Some(row) = row {
        connection.prepare_cached("DELETE FROM items WHERE id = ?1")?.execute([row])?;
    }
    if let Some(row) = row {
        for index_no in 0..table.indexes.len() {
            // An old item that doesn't fit a newer index has no entry to remove.
            let old = table.entry(operation, index_no, before.map(|stored| &stored.item)).unwrap_or(None);
            let new = table.entry(operation, index_no, after)?;
            if old != new {
                move_entry(connection, table, index_no, (&key.partition, sort, row), old, new)?;
            }
        }
    }
    let change = NewChange {
        partition: &key.partition,
        old: before.map(|stored| stored.text.as_str()),
        new: new_text.as_deref(),
        size_bytes,
        by_ttl,
    };
    if table.stream { log.append(connection, table, &change) } else { Ok(None) }
}

fn move_entry(
    connection: &Connection,
    table: &TableDef,
    index_no: usize,
    (partition, sort, row): (&str, &str, i64),
    old: Option<(Cow<str>, Cow<str>)>,
    new: Option<(Cow<str>, Cow<str>)>,
) -> Result<()> {
    if let Some((hash, range)) = old {
        connection
            .prepare_cached(
                "DELETE FROM index_entries
                 WHERE table_id = ?1 AND index_no = ?2 AND hash = ?3 AND range = ?4 AND pk = ?5 AND sk = ?6",
            )?
            .execute((table.id, index_no, hash, range, partition, sort))?;
    }
    if let Some((hash, range)) = new {
        connection
            .prepare_cached("INSERT INTO index_entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((table.id, index_no, hash, range, partition, sort, row))?;
    }
    Ok(())
}

/// Makes the index entries and the expiry of all items again, after a table's indexes or expiry attribute changed.
pub fn rebuild(connection: &Connection, table: &TableDef) -> Result<()> {
    connection.execute("DELETE FROM index_entries WHERE table_id = ?1", [table.id])?;
    let mut rows = connection.prepare("SELECT id, pk, sk, image FROM items WHERE table_id = ?1")?;
    let mut rows = rows.query([table.id])?;
    let operation = format!("index of table {}", table.name);
    while let Some(row) = rows.next()? {
        let (id, partition, sort): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let item = parse(&row.get::<_, String>(3)?)?;
        connection.prepare_cached("UPDATE items SET ttl = ?2 WHERE id = ?1")?.execute((id, table.expiry(&item)))?;
        for index_no in 0..table.indexes.len() {
            // As on AWS, an item whose attributes don't fit a new index is left out of it.
            let entry = table.entry(&operation, index_no, Some(&item)).unwrap_or(None);
            move_entry(connection, table, index_no, (&partition, &sort, id), None, entry)?;
        }
    }
    Ok(())
}

/// A refusal of a request that can't be right.
pub fn invalid(operation: &str, message: impl Into<String>) -> CloudError {
    CloudError::new(ErrorKind::Invalid, operation, message)
}

fn damaged(message: &str) -> CloudError {
    CloudError::new(
        ErrorKind::Unavailable,
        "read of a stored item",
        format!("the local cloud's file is damaged: {message}"),
    )
}
