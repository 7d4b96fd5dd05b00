//! Tables: conditional writes decided by the writer, reads beside it.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params_from_iter, types::Value};

use super::{
    Store,
    definition::TableDef,
    items::{self, invalid},
    value,
};
use crate::cloud::{
    AttributeValue, Item, Result, Table, limits,
    resources::KeyType,
    table::{Action, Condition, Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Range, Write},
};

/// A table of the local cloud.
pub(super) struct LocalTable {
    pub store: Arc<Store>,
    pub def: Arc<TableDef>,
}

#[async_trait]
impl Table for LocalTable {
    fn name(&self) -> &str {
        &self.def.name
    }

    fn keys(&self) -> &KeyNames {
        &self.def.keys
    }

    async fn get(&self, key: &Key, _consistency: Consistency) -> Result<Option<Item>> {
        let operation = format!("GetItem of table {}", self.def.name);
        limits::check_key(&operation, key)?;
        let sort = self.def.sort_text(&operation, &key.sort)?.into_owned();
        let (def, partition) = (Arc::clone(&self.def), key.partition.clone());
        self.store
            .db
            .read(operation, move |connection| {
                Ok(items::find(connection, &def, &partition, &sort)?.map(|stored| stored.item))
            })
            .await
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        let (write, sort) = self.prepare(write)?;
        let (def, log) = (Arc::clone(&self.def), Arc::clone(&self.store.log));
        let signals = Arc::clone(&self.store.signals);
        let operation = operation_of(&write, &def);
        let (outcome, _) = self
            .store
            .db
            .write_then(
                operation.clone(),
                move |connection| {
                    let before = items::find(connection, &def, &write.key.partition, &sort)?;
                    let before_item = before.as_ref().map(|stored| &stored.item);
                    if !write.condition.holds(before_item) {
                        return Ok((Outcome::Refused(before.map(|stored| stored.item)), None));
                    }
                    let after = write.apply(&def.keys, before_item);
                    let place = (operation.as_str(), &write.key, sort.as_str());
                    let seq = items::replace(connection, &def, &log, place, before.as_ref(), after.as_ref(), false)?;
                    Ok((Outcome::Applied(after), seq))
                },
                move |(_, seq)| signals.changed(*seq),
            )
            .await?;
        Ok(outcome)
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        let (def, query) = (Arc::clone(&self.def), query.clone());
        self.store
            .db
            .read(format!("Query of table {}", def.name), move |connection| run_query(connection, &def, &query))
            .await
    }
}

fn operation_of(write: &Write, def: &TableDef) -> String {
    let name = match write.action {
        Action::Put(_) => "PutItem",
        Action::Update { .. } => "UpdateItem",
        Action::Delete => "DeleteItem",
    };
    format!("{name} of table {}", def.name)
}

impl LocalTable {
    /// The write as DynamoDB would take it, and the text of its sort key; or why it would not.
    fn prepare(&self, write: &Write) -> Result<(Write, String)> {
        let operation = operation_of(write, &self.def);
        let refused = |message: String| invalid(&operation, message);
        limits::check_key(&operation, &write.key)?;
        let sort = self.def.sort_text(&operation, &write.key.sort)?.into_owned();
        let mut write = write.clone();
        if let AttributeValue::S(sort) | AttributeValue::N(sort) = self.def.sort_value(&operation, &write.key.sort)? {
            write.key.sort = sort;
        }
        normalise_condition(&mut write.condition).map_err(refused)?;
        let keys = &self.def.keys;
        let key_values = [
            (&keys.partition, AttributeValue::S(write.key.partition.clone())),
            (&keys.sort, self.def.sort_value(&operation, &write.key.sort)?),
        ];
        match &mut write.action {
            Action::Put(item) => {
                item.inner_mut().values_mut().try_for_each(value::normalise).map_err(refused)?;
                for (name, value) in key_values {
                    let given = item.inner_mut().entry(name.clone()).or_insert_with(|| value.clone());
                    if *given != value {
                        return Err(refused(format!("the item's {name} is not that of the key")));
                    }
                }
            }
            Action::Update { set, remove } => {
                set.values_mut().try_for_each(value::normalise).map_err(refused)?;
                if let Some(name) = set.keys().chain(&*remove).find(|name| [&keys.partition, &keys.sort].contains(name))
                {
                    return Err(refused(format!("{name} is part of the key: an update can't change it")));
                }
                if let Some(name) = remove.iter().find(|name| set.contains_key(*name)) {
                    return Err(refused(format!("{name} is both set and removed")));
                }
                // Write::apply adds missing key attributes as strings; a number must come typed.
                if self.def.sort_type == KeyType::Number {
                    let [_, (name, value)] = key_values;
                    set.insert(name.clone(), value);
                }
            }
            Action::Delete => {}
        }
        Ok((write, sort))
    }
}

fn normalise_condition(condition: &mut Condition) -> Result<(), String> {
    match condition {
        Condition::Absent(_) => Ok(()),
        Condition::Equals(_, value) => value::normalise(value),
        Condition::In(_, values) if values.is_empty() => Err("a condition compares with no values".to_owned()),
        Condition::In(_, values) => values.iter_mut().try_for_each(value::normalise),
        Condition::All(all) | Condition::Any(all) if all.is_empty() => {
            Err("a condition is empty: there is no unconditional write".to_owned())
        }
        Condition::All(all) | Condition::Any(all) => all.iter_mut().try_for_each(normalise_condition),
    }
}

/// The sort texts from the first (included) to the second (excluded).
type Span = (String, Option<String>);

fn run_query(connection: &Connection, def: &TableDef, query: &Query) -> Result<Page> {
    let operation = format!("Query of table {}", def.name);
    let refused = |message: &str| invalid(&operation, message);
    limits::check_key_part(&operation, "the partition", &query.partition, limits::PARTITION_KEY_BYTES)?;
    limits::check_range(&operation, &query.range)?;
    if query.limit == Some(0) {
        return Err(refused("the limit is 0: ask for 1 item or more"));
    }
    let index_no = match &query.index {
        None => None,
        Some(name) => {
            let no = def.indexes.iter().position(|index| index.name == *name);
            Some(no.ok_or_else(|| refused(&format!("there is no index {name}")))?)
        }
    };
    if index_no.is_some() && query.consistency == Consistency::Strong {
        return Err(refused("an index read can't be strong"));
    }
    let range_name = index_no.map_or(&def.keys.sort, |no| &def.indexes[no].range);
    let numeric = def.sort_type == KeyType::Number && *range_name == def.keys.sort;
    let (low, high) = span(&query.range, numeric).map_err(|error| refused(&error))?;
    let start = query.start.as_ref().map(|token| place_after(&operation, def, index_no, token)).transpose()?;
    let mut parameters: Vec<Value> = vec![def.id.into(), query.partition.clone().into()];
    let mut sql = match index_no {
        None => {
            let low = start.map_or(low, |(_, _, sort)| sort);
            parameters.push(low.into());
            "SELECT image FROM items WHERE table_id = ?1 AND pk = ?2 AND sk >= ?3".to_owned()
        }
        Some(no) => {
            let (low, partition, sort) = start.unwrap_or((low, String::new(), String::new()));
            parameters.extend([
                low.into(),
                Value::from(i64::try_from(no).unwrap_or(i64::MAX)),
                partition.into(),
                sort.into(),
            ]);
            "SELECT items.image FROM index_entries AS entry CROSS JOIN items ON items.id = entry.item_id
             WHERE entry.table_id = ?1 AND entry.hash = ?2 AND entry.index_no = ?4
             AND (entry.range, entry.pk, entry.sk) >= (?3, ?5, ?6)"
                .to_owned()
        }
    };
    if let Some(high) = high {
        parameters.push(high.into());
        sql.push_str(&format!(
            " AND {} < ?{}",
            if index_no.is_some() { "entry.range" } else { "sk" },
            parameters.len()
        ));
    }
    sql.push_str(match index_no {
        None => " ORDER BY sk",
        Some(_) => " ORDER BY entry.range, entry.pk, entry.sk",
    });
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(parameters))?;
    let mut page = Page::default();
    let mut size_bytes = 0;
    while let Some(row) = rows.next()? {
        let item = items::parse(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?;
        size_bytes += limits::item_bytes(&item);
        if size_bytes > limits::QUERY_PAGE_BYTES && !page.items.is_empty() {
            page.next = page.items.last().map(|last| token_of(def, index_no, last));
            break;
        }
        page.items.push(item);
        if Some(page.items.len()) == query.limit {
            page.next = page.items.last().map(|last| token_of(def, index_no, last));
            break;
        }
    }
    Ok(page)
}

fn span(range: &Range, numeric: bool) -> Result<Span, String> {
    let text = |sort: &str| if numeric { value::order_text(sort) } else { Ok(sort.to_owned()) };
    Ok(match range {
        Range::All => (String::new(), None),
        Range::Equals(sort) => (text(sort)?, Some(just_after(&text(sort)?))),
        Range::Between(first, last) => (text(first)?, Some(just_after(&text(last)?))),
        Range::Prefix(_) if numeric => return Err("a number has no prefix".to_owned()),
        Range::Prefix(prefix) => (prefix.clone(), after_prefix(prefix)),
    })
}

/// The text that comes next after this one.
fn just_after(text: &str) -> String {
    format!("{text}\0")
}

/// The first text after all those with this prefix; none if there is no such text.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The characters between U+D7FF and U+E000 don't exist.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Where a page ended: the keys of its last item.
fn token_of(def: &TableDef, index_no: Option<usize>, last: &Item) -> PageToken {
    let index = index_no.map(|no| &def.indexes[no]);
    let names =
        [&def.keys.partition, &def.keys.sort].into_iter().chain(index.into_iter().flat_map(|i| [&i.hash, &i.range]));
    PageToken(
        names
            .filter_map(|name| Some((name.clone(), last.get(name)?.clone())))
            .collect::<std::collections::HashMap<_, _>>()
            .into(),
    )
}

/// The range, partition and sort texts just after a page's end.
fn place_after(
    operation: &str,
    def: &TableDef,
    index_no: Option<usize>,
    token: &PageToken,
) -> Result<(String, String, String)> {
    let text = |name: &String| match token.0.get(name) {
        Some(AttributeValue::N(number)) if *name == def.keys.sort => Ok(def.sort_text(operation, number)?.into_owned()),
        Some(AttributeValue::S(text)) => Ok(text.clone()),
        _ => Err(invalid(operation, format!("the page token lacks {name}: it is not of this query"))),
    };
    let range = index_no.map_or(Ok(String::new()), |no| text(&def.indexes[no].range))?;
    Ok((range, text(&def.keys.partition)?, just_after(&text(&def.keys.sort)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_prefix_span_holds_exactly_the_texts_with_the_prefix(
            prefix in "[a-c\u{d7ff}\u{10ffff}]{0,3}",
            text in "[a-c\u{d7ff}\u{e000}\u{10ffff}]{0,5}",
        ) {
            let (low, high) = span(&Range::Prefix(prefix.clone()), false).unwrap();
            let inside = text >= low && high.is_none_or(|high| text < high);
            prop_assert_eq!(inside, text.starts_with(&prefix));
        }
    }
}
