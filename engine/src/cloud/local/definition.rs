//! The tables and queues of a pipeline as the local cloud holds them, and their rows in the database.
//!
//! Making them again is harmless. A table keeps its keys for ever; its indexes, its expiry attribute and its stream may
//! change, and so may everything about a queue.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

use super::{folder_watch::SqliteLedger, items, log};
use crate::cloud::{
    CloudError, ErrorKind, Result,
    resources::{KeyType, Naming, QueueSpec, Resources, TableSpec},
    table::KeyNames,
};

/// The layout of the database that this code reads and writes.
const VERSION: i64 = 1;

/// A table.
#[derive(Debug)]
pub struct TableDef {
    pub id: i64,
    pub name: String,
    pub keys: KeyNames,
    pub sort_type: KeyType,
    pub indexes: Vec<IndexDef>,
    pub ttl: Option<String>,
    pub stream: bool,
}

/// A secondary index; its number is its place in the table's list.
#[derive(Debug)]
pub struct IndexDef {
    pub name: String,
    pub hash: String,
    pub range: String,
}

/// A queue.
#[derive(Debug)]
pub struct QueueDef {
    pub id: i64,
    pub name: String,
    pub spec: QueueSpec,
    pub dead_letter: Option<DeadLetter>,
}

/// Where a queue's messages go that were received too often.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter {
    pub queue_id: i64,
    pub max_receives: u32,
}

/// Makes the database's own tables.
pub fn make_schema(connection: &Connection) -> Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    check_version(version)?;
    connection.execute_batch(include_str!("schema.sql"))?;
    connection.execute_batch(SqliteLedger::SCHEMA)?;
    Ok(connection.pragma_update(None, "user_version", VERSION)?)
}

fn check_version(version: i64) -> Result<()> {
    if version == 0 || version == VERSION {
        return Ok(());
    }
    Err(CloudError::new(
        ErrorKind::Invalid,
        "open of the local cloud",
        format!(
            "its file has layout {version}, this program reads {VERSION}: use the program that made it, or a new folder"
        ),
    ))
}

/// Makes or brings up to date all tables, and returns them by short name.
pub fn make_tables(
    connection: &Connection,
    naming: &Naming,
    resources: &Resources,
    log: &log::Log,
) -> Result<BTreeMap<String, TableDef>> {
    let mut tables = BTreeMap::new();
    for (short, spec) in &resources.tables {
        let name = naming.table(short, spec);
        if spec.sort_key.is_empty() {
            return Err(CloudError::new(
                ErrorKind::Invalid,
                format!("definition of table {name}"),
                "on one machine a table has a sort key: name it in sort_key".to_owned(),
            ));
        }
        let (keys, layout) = (keys_text(spec), layout_text(spec));
        let known = connection
            .query_row("SELECT id, keys, layout FROM tables WHERE name = ?1", [&name], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
            })
            .optional()?;
        let (id, changed) = match known {
            Some((_, known, _)) if known != keys => {
                return Err(CloudError::new(
                    ErrorKind::Invalid,
                    format!("definition of table {name}"),
                    format!(
                        "it has the keys {known} and is declared with {keys}: a table's keys can't change; name it anew"
                    ),
                ));
            }
            Some((id, _, known)) => (id, known != layout),
            None => {
                connection
                    .execute("INSERT INTO tables (name, keys, layout) VALUES (?1, ?2, ?3)", (&name, &keys, &layout))?;
                (connection.last_insert_rowid(), false)
            }
        };
        let table = table_def(id, name, spec);
        if changed {
            connection.execute("UPDATE tables SET layout = ?2 WHERE id = ?1", (id, &layout))?;
            items::rebuild(connection, &table)?;
        }
        match (spec.stream, log.is_enabled(connection, id)?) {
            (true, false) => log.enable(connection, &table)?,
            (false, true) => log.disable(connection, id)?,
            _ => {}
        }
        tables.insert(short.clone(), table);
    }
    Ok(tables)
}

/// Finds all tables without making any.
pub fn find_tables(
    connection: &Connection,
    naming: &Naming,
    resources: &Resources,
) -> Result<BTreeMap<String, TableDef>> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    check_version(version)?;
    let mut tables = BTreeMap::new();
    for (short, spec) in &resources.tables {
        let name = naming.table(short, spec);
        let id = find(connection, "table", "SELECT id FROM tables WHERE name = ?1", &name)?;
        tables.insert(short.clone(), table_def(id, name, spec));
    }
    Ok(tables)
}

/// Makes all queues and returns them by short name.
pub fn make_queues(
    connection: &Connection,
    naming: &Naming,
    resources: &Resources,
) -> Result<BTreeMap<String, QueueDef>> {
    for short in resources.queues.keys() {
        connection.execute("INSERT OR IGNORE INTO queues (name) VALUES (?1)", [naming.name(short)])?;
    }
    find_queues(connection, naming, resources)
}

/// Finds all queues without making any.
pub fn find_queues(
    connection: &Connection,
    naming: &Naming,
    resources: &Resources,
) -> Result<BTreeMap<String, QueueDef>> {
    let id = |name: &str| find(connection, "queue", "SELECT id FROM queues WHERE name = ?1", name);
    let mut queues = BTreeMap::new();
    for (short, spec) in &resources.queues {
        let name = naming.name(short);
        let refused =
            |message: String| CloudError::new(ErrorKind::Invalid, format!("definition of queue {name}"), message);
        let dead_letter = match &spec.dead_letter {
            None => None,
            Some(dead) if dead.queue == *short => return Err(refused("it is its own dead-letter queue".to_owned())),
            Some(dead) if !resources.queues.contains_key(&dead.queue) => {
                return Err(refused(format!("its dead-letter queue {} is not declared", dead.queue)));
            }
            Some(dead) if dead.max_receives == 0 => {
                return Err(refused("max_receives is 0: write 1 or more".to_owned()));
            }
            Some(dead) => {
                Some(DeadLetter { queue_id: id(&naming.name(&dead.queue))?, max_receives: dead.max_receives })
            }
        };
        queues.insert(short.clone(), QueueDef { id: id(&name)?, name, spec: spec.clone(), dead_letter });
    }
    Ok(queues)
}

fn find(connection: &Connection, kind: &str, sql: &str, name: &str) -> Result<i64> {
    connection.query_row(sql, [name], |row| row.get(0)).optional()?.ok_or_else(|| {
        CloudError::new(
            ErrorKind::NotFound,
            format!("open of {kind} {name}"),
            "the local cloud doesn't have it yet: start the pipeline here once",
        )
    })
}

fn table_def(id: i64, name: String, spec: &TableSpec) -> TableDef {
    TableDef {
        id,
        name,
        keys: KeyNames { partition: spec.partition_key.clone(), sort: spec.sort_key.clone() },
        sort_type: spec.sort_type,
        indexes: spec
            .indexes
            .iter()
            .map(|(name, index)| IndexDef { name: name.clone(), hash: index.hash.clone(), range: index.range.clone() })
            .collect(),
        ttl: spec.ttl.clone(),
        stream: spec.stream,
    }
}

fn keys_text(spec: &TableSpec) -> String {
    json!({ "partition": spec.partition_key, "sort": spec.sort_key, "sort_type": spec.sort_type }).to_string()
}

fn layout_text(spec: &TableSpec) -> String {
    json!({ "indexes": spec.indexes, "ttl": spec.ttl }).to_string()
}
