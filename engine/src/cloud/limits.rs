//! AWS's limits, checked before every implementation, so that what works on one machine works there.
//!
//! Sources: the quota pages of the DynamoDB, DynamoDB Streams, SQS, EventBridge and S3 guides.

use std::{fmt, time::Duration};

use serde_dynamo::{AttributeValue, Item};

use super::{
    CloudError, ErrorKind, Result,
    event_bus::Event,
    queue::Outgoing,
    table::{Key, Range},
};

/// Bytes of an item, names included.
pub const ITEM_BYTES: usize = 400 * 1024;
/// Bytes of a partition key's value.
pub const PARTITION_KEY_BYTES: usize = 2048;
/// Bytes of a sort key's value.
pub const SORT_KEY_BYTES: usize = 1024;
/// Bytes of a page of a query.
pub const QUERY_PAGE_BYTES: usize = 1024 * 1024;
/// Records of a page of a shard.
pub const RECORDS_PER_PAGE: usize = 1000;
/// Bytes of a page of a shard.
pub const RECORD_PAGE_BYTES: usize = 1024 * 1024;
/// Shards of a page of a stream's description.
pub const SHARDS_PER_PAGE: usize = 100;
/// Seconds that a shard iterator lives.
pub const ITERATOR_SECS: u64 = 15 * 60;
/// Hours that a stream keeps a record.
pub const STREAM_RETENTION_HOURS: i64 = 24;
/// Messages of one send, receive or delete.
pub const QUEUE_BATCH: usize = 10;
/// Bytes of a message, and of one send. (SQS allows 1 MiB since 2025; the old limit is safe everywhere.)
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// Seconds that a message may stay hidden.
pub const VISIBILITY_SECS: u64 = 12 * 60 * 60;
/// Seconds that a message may be delayed.
pub const DELAY_SECS: u64 = 15 * 60;
/// Seconds that a receive may wait.
pub const RECEIVE_WAIT_SECS: u64 = 20;
/// Events of one PutEvents.
pub const EVENTS_PER_PUT: usize = 10;
/// Bytes of one PutEvents. (EventBridge allows 1 MB since 2026; the old limit is safe everywhere.)
pub const EVENT_BYTES: usize = 256 * 1024;
/// Characters of a detail type.
pub const DETAIL_TYPE_CHARS: usize = 128;
/// Characters of an event's source.
pub const EVENT_SOURCE_CHARS: usize = 256;
/// Rules of a bus.
pub const RULES_PER_BUS: usize = 300;
/// Targets of a rule.
pub const TARGETS_PER_RULE: usize = 5;
/// Bytes of an object's key.
pub const OBJECT_KEY_BYTES: usize = 1024;
/// Bytes of a part of a multipart upload that isn't its last.
pub const PART_MIN_BYTES: usize = 5 * 1024 * 1024;
/// Parts of a multipart upload.
pub const PARTS_PER_UPLOAD: u32 = 10_000;

/// Fails if `size` is past `limit`: the message names what, its size, the limit and their unit.
pub fn check(operation: &str, what: impl fmt::Display, size: usize, limit: usize, unit: &str) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(invalid(operation, format!("{what} has {size} {unit}, and the limit is {limit}")))
}

/// Bytes of an item by DynamoDB's rule: names and values, with its overhead for numbers, lists and maps.
pub fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(number) => number_bytes(number),
        AttributeValue::B(bytes) => bytes.len(),
        AttributeValue::Bool(_) | AttributeValue::Null(_) => 1,
        AttributeValue::Ss(set) => set.iter().map(String::len).sum(),
        AttributeValue::Ns(set) => set.iter().map(|number| number_bytes(number)).sum(),
        AttributeValue::Bs(set) => set.iter().map(Vec::len).sum(),
        AttributeValue::L(list) => 3 + list.iter().map(|value| 1 + value_bytes(value)).sum::<usize>(),
        AttributeValue::M(map) => {
            3 + map.iter().map(|(name, value)| 1 + name.len() + value_bytes(value)).sum::<usize>()
        }
    }
}

/// A byte for each two significant digits, and one more.
fn number_bytes(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits = mantissa.trim_start_matches(['-', '+', '0', '.']);
    let digits =
        if mantissa.contains('.') { digits.trim_end_matches(['0', '.']) } else { digits.trim_end_matches('0') };
    let significant = digits.bytes().filter(u8::is_ascii_digit).count();
    significant.div_ceil(2) + 1 + usize::from(mantissa.starts_with('-'))
}

/// Checks an item's size; returns it.
pub fn check_item(operation: &str, item: &Item) -> Result<usize> {
    let size = item_bytes(item);
    check(operation, "the item", size, ITEM_BYTES, "bytes")?;
    Ok(size)
}

/// Checks a primary key: neither part empty nor too long.
pub fn check_key(operation: &str, key: &Key) -> Result<()> {
    check_key_part(operation, "the partition key", &key.partition, PARTITION_KEY_BYTES)?;
    check_key_part(operation, "the sort key", &key.sort, SORT_KEY_BYTES)
}

/// Checks one value of a key, or of an index's key: not empty, not too long.
pub fn check_key_part(operation: &str, what: &str, value: &str, limit: usize) -> Result<()> {
    if value.is_empty() {
        return Err(invalid(operation, format!("{what} is empty")));
    }
    check(operation, what, value.len(), limit, "bytes")
}

/// Checks the range of sort keys that a query asks for: a bound is a key, so none is empty; and they are in order. Every
/// key has the empty prefix.
pub fn check_range(operation: &str, range: &Range) -> Result<()> {
    let bound = |what: &str, key: &str| check_key_part(operation, what, key, SORT_KEY_BYTES);
    match range {
        Range::All | Range::Prefix(_) => Ok(()),
        Range::Equals(key) => bound("the sort key", key),
        Range::Between(first, last) => {
            bound("the first sort key", first)?;
            bound("the last sort key", last)?;
            // Keys that are numbers have another order: the table itself knows it.
            let is_number = |key: &str| key.parse::<f64>().is_ok();
            if first > last && !(is_number(first) && is_number(last)) {
                return Err(invalid(operation, format!("the first sort key, {first}, comes after the last, {last}")));
            }
            Ok(())
        }
    }
}

/// Checks the number of entries of a queue's batch.
pub fn check_batch(operation: &str, entries: usize) -> Result<()> {
    check(operation, "the batch", entries, QUEUE_BATCH, "entries")
}

/// Checks a whole send: its number of messages and their size together.
pub fn check_send(operation: &str, messages: &[Outgoing]) -> Result<()> {
    check_batch(operation, messages.len())?;
    let size = messages.iter().map(|message| message.body.len()).sum();
    check(operation, "the send", size, MESSAGE_BYTES, "bytes")
}

/// Checks one message of a send: its characters and its delay.
pub fn check_message(operation: &str, message: &Outgoing) -> Result<()> {
    if message.body.is_empty() {
        return Err(invalid(operation, "the message is empty".to_owned()));
    }
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if let Some(wrong) = message.body.chars().find(|c| !allowed(*c)) {
        return Err(invalid(operation, format!("the message holds the character {wrong:?}, which no queue takes")));
    }
    check_duration(operation, "the delay", message.delay, DELAY_SECS)
}

/// Checks a visibility timeout.
pub fn check_visibility(operation: &str, timeout: Duration) -> Result<()> {
    check_duration(operation, "the visibility timeout", timeout, VISIBILITY_SECS)
}

/// Checks the wait of a receive.
pub fn check_receive(operation: &str, max: usize, wait: Duration) -> Result<()> {
    if max == 0 {
        return Err(invalid(operation, "asks for no messages".to_owned()));
    }
    check_batch(operation, max)?;
    check_duration(operation, "the wait", wait, RECEIVE_WAIT_SECS)
}

fn check_duration(operation: &str, what: &str, duration: Duration, limit_secs: u64) -> Result<()> {
    if duration <= Duration::from_secs(limit_secs) {
        return Ok(());
    }
    Err(invalid(operation, format!("{what} is {} s, and the limit is {limit_secs} s", duration.as_secs_f64())))
}

/// Bytes of an event by EventBridge's rule: its source, detail type and detail, and 14 for its time.
pub fn event_bytes(event: &Event) -> usize {
    14 + event.source.len() + event.detail_type.len() + event.detail.to_string().len()
}

/// Checks a whole PutEvents: its number of events and their size together.
pub fn check_put_events(operation: &str, events: &[Event]) -> Result<()> {
    check(operation, "the put", events.len(), EVENTS_PER_PUT, "events")?;
    check(operation, "the put", events.iter().map(event_bytes).sum(), EVENT_BYTES, "bytes")
}

/// Checks one event of a PutEvents: it fails alone, inside an answer that says success.
pub fn check_event(operation: &str, event: &Event) -> Result<()> {
    if event.source.is_empty() || event.detail_type.is_empty() {
        return Err(invalid(operation, "the event has no source or no detail type".to_owned()));
    }
    check(operation, "the source", event.source.chars().count(), EVENT_SOURCE_CHARS, "characters")?;
    check(operation, "the detail type", event.detail_type.chars().count(), DETAIL_TYPE_CHARS, "characters")?;
    if !event.detail.is_object() {
        return Err(invalid(operation, "the event's detail is no JSON object".to_owned()));
    }
    Ok(())
}

fn invalid(operation: &str, message: String) -> CloudError {
    CloudError::new(ErrorKind::Invalid, operation, message)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use chrono::Utc;
    use serde_json::json;

    use super::*;

    fn item(name: &str, value: AttributeValue) -> Item {
        Item::from(HashMap::from([(name.to_owned(), value)]))
    }

    #[test]
    fn items_are_measured_by_the_rule_of_the_guide() {
        let n = |text: &str| item_bytes(&item("n", AttributeValue::N(text.into()))) - 1;
        assert_eq!(
            [n("0"), n("1"), n("12"), n("123"), n("1200"), n("-12"), n("0.0012"), n("1.50")],
            [1, 2, 2, 3, 2, 3, 2, 2]
        );
        assert_eq!(item_bytes(&item("name", AttributeValue::S("é".into()))), 6);
        let list = AttributeValue::L(vec![AttributeValue::Bool(true), AttributeValue::S("ab".into())]);
        assert_eq!(item_bytes(&item("l", list)), 1 + 3 + 2 + 3);
        let map = AttributeValue::M(HashMap::from([("k".to_owned(), AttributeValue::Null(true))]));
        assert_eq!(item_bytes(&item("m", map)), 1 + 3 + 3);
    }

    #[test]
    fn a_refusal_names_what_its_size_and_the_limit() {
        let error = check_item("PutItem", &item("a", AttributeValue::S("x".repeat(ITEM_BYTES)))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert_eq!(error.message, "the item has 409601 bytes, and the limit is 409600");
        assert!(check_key("GetItem", &Key::new("p", "s".repeat(SORT_KEY_BYTES))).is_ok());
        assert!(check_key("GetItem", &Key::new("p", "s".repeat(SORT_KEY_BYTES + 1))).is_err());
        assert!(check_key("GetItem", &Key::new("", "s")).is_err());
    }

    #[test]
    fn messages_and_events_have_their_limits() {
        let messages = |count, bytes: usize| vec![Outgoing::new("x".repeat(bytes)); count];
        assert!(check_send("send", &messages(10, 100)).is_ok());
        assert!(check_send("send", &messages(11, 1)).is_err());
        assert!(check_send("send", &messages(2, MESSAGE_BYTES / 2 + 1)).is_err());
        assert!(check_message("send", &Outgoing::new("")).is_err());
        assert!(check_message("send", &Outgoing::new("a\u{1}")).is_err());
        let late = Outgoing { body: "a".into(), delay: Duration::from_secs(901) };
        assert_eq!(check_message("send", &late).unwrap_err().message, "the delay is 901 s, and the limit is 900 s");
        let event = |detail_type: &str, detail| Event {
            source: "etl".into(),
            detail_type: detail_type.into(),
            detail,
            time: Utc::now(),
        };
        assert!(check_event("put", &event("Ready", json!({}))).is_ok());
        assert!(check_event("put", &event(&"x".repeat(129), json!({}))).is_err());
        assert!(check_event("put", &event("Ready", json!([]))).is_err());
        assert_eq!(event_bytes(&event("Ready", json!({"a": 1}))), 14 + 3 + 5 + 7);
    }
}
