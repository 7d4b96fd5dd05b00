//! The JSON document of a record: what operators that take records of any kind see of it.
//!
//! | record | document |
//! |---|---|
//! | change | `{"operation", "sequence_number", "at", "by_ttl", "keys": {"partition", "sort"}, "old", "new"}` |
//! | message | its body if that is a JSON object, else `{"body": "…"}` |
//! | value | itself if it is an object, else `{"value": …}` |
//!
//! Items are plain JSON, without DynamoDB's type letters: sets are arrays, binary is base64. In the [`text`] a number is
//! as DynamoDB has it, all 38 digits; in the [`value`], one that 64 bits can't hold exactly is a string: better another
//! type than another number.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::DateTime;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_dynamo::{AttributeValue, Item};
use serde_json::{Number, Value, json, value::RawValue};

use crate::{
    cloud::{
        change_stream::{Change, ChangeKind, SequenceNumber},
        queue::Message,
    },
    operator::{Body, OperatorError},
    time::format_time,
};

/// The document as one line of text.
pub fn text(body: &Body) -> Result<String, OperatorError> {
    match body {
        Body::Change(change) => written(serde_json::to_string(&Document::new(change, Numbers::AsWritten))),
        Body::Message(message) => match object_in(message) {
            // Line breaks stand between tokens only: a JSON string holds none.
            Some(object) => Ok(object.get().replace(['\n', '\r'], " ")),
            None => Ok(wrapped(message).to_string()),
        },
        Body::Value(value) if value.is_object() => Ok(value.to_string()),
        Body::Value(value) => Ok(json!({ "value": value }).to_string()),
    }
}

/// The document as a value, for event patterns and events.
pub fn value(body: &Body) -> Result<Value, OperatorError> {
    match body {
        Body::Change(change) => written(serde_json::to_value(Document::new(change, Numbers::In64Bits))),
        Body::Message(message) => match object_in(message) {
            Some(object) => written(serde_json::from_str(object.get())),
            None => Ok(wrapped(message)),
        },
        Body::Value(value) if value.is_object() => Ok(Value::clone(value)),
        Body::Value(value) => Ok(json!({ "value": value })),
    }
}

fn written<T>(result: serde_json::Result<T>) -> Result<T, OperatorError> {
    result.map_err(|error| OperatorError::permanent(format!("a record can't be written as JSON: {error}")))
}

fn object_in(message: &Message) -> Option<&RawValue> {
    serde_json::from_str::<&RawValue>(message.body.trim()).ok().filter(|raw| raw.get().starts_with('{'))
}

fn wrapped(message: &Message) -> Value {
    json!({ "body": message.body })
}

/// The document of a change.
#[derive(Serialize)]
struct Document<'a> {
    operation: ChangeKind,
    sequence_number: &'a SequenceNumber,
    /// To the second. A time that no calendar has is no reason to lose the change.
    at: Option<String>,
    by_ttl: bool,
    keys: Keys<'a>,
    old: Option<PlainItem<'a>>,
    new: Option<PlainItem<'a>>,
}

#[derive(Serialize)]
struct Keys<'a> {
    partition: &'a str,
    sort: &'a str,
}

impl<'a> Document<'a> {
    fn new(change: &'a Change, numbers: Numbers) -> Self {
        Self {
            operation: change.kind,
            sequence_number: &change.sequence,
            at: DateTime::from_timestamp(change.created_secs, 0).map(format_time),
            by_ttl: change.by_ttl,
            keys: Keys { partition: &change.key.partition, sort: &change.key.sort },
            old: change.old.as_ref().map(|item| PlainItem(item, numbers)),
            new: change.new.as_ref().map(|item| PlainItem(item, numbers)),
        }
    }
}

/// How numbers are written.
#[derive(Clone, Copy)]
enum Numbers {
    /// Digit for digit.
    AsWritten,
    /// As a JSON number if 64 bits hold it exactly, else as a string.
    In64Bits,
}

/// An item as plain JSON, its attributes in order of their names.
struct PlainItem<'a>(&'a Item, Numbers);

impl Serialize for PlainItem<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        in_order(self.0.iter(), self.1, serializer)
    }
}

/// An attribute as plain JSON.
struct Plain<'a>(&'a AttributeValue, Numbers);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(attribute, numbers) = *self;
        match attribute {
            AttributeValue::N(text) => PlainNumber(text, numbers).serialize(serializer),
            AttributeValue::S(text) => serializer.serialize_str(text),
            AttributeValue::Bool(truth) => serializer.serialize_bool(*truth),
            AttributeValue::B(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
            AttributeValue::Null(_) => serializer.serialize_none(),
            AttributeValue::M(map) => in_order(map.iter(), numbers, serializer),
            AttributeValue::L(list) => serializer.collect_seq(list.iter().map(|value| Plain(value, numbers))),
            AttributeValue::Ss(set) => serializer.collect_seq(set),
            AttributeValue::Ns(set) => serializer.collect_seq(set.iter().map(|text| PlainNumber(text, numbers))),
            AttributeValue::Bs(set) => serializer.collect_seq(set.iter().map(|bytes| STANDARD.encode(bytes))),
        }
    }
}

fn in_order<'a, S: Serializer>(
    entries: impl Iterator<Item = (&'a String, &'a AttributeValue)>,
    numbers: Numbers,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(name, _)| *name);
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (name, value) in entries {
        map.serialize_entry(name, &Plain(value, numbers))?;
    }
    map.end()
}

/// A number, or its text as a string where it can't stand as one.
struct PlainNumber<'a>(&'a str, Numbers);

impl Serialize for PlainNumber<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_number = self.0.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        match self.1 {
            // DynamoDB's numbers are JSON's; the seam takes any text.
            Numbers::AsWritten => match serde_json::from_str::<&RawValue>(self.0) {
                Ok(raw) if is_number => raw.serialize(serializer),
                Ok(_) | Err(_) => serializer.serialize_str(self.0),
            },
            Numbers::In64Bits => match in_64_bits(self.0) {
                Some(number) => number.serialize(serializer),
                None => serializer.serialize_str(self.0),
            },
        }
    }
}

fn in_64_bits(text: &str) -> Option<Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let number = Number::from_f64(text.parse().ok()?)?;
    let plain = if text.contains('.') { text.trim_end_matches('0') } else { text };
    (number.to_string().trim_end_matches('0') == plain).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cloud::{queue::Receipt, table::Key};

    fn change(new: Item) -> Body {
        Body::Change(Arc::new(Change {
            kind: ChangeKind::Insert,
            key: Key::new("k", "s"),
            old: None,
            new: Some(new),
            sequence: SequenceNumber("17".into()),
            created_secs: 1_770_000_000,
            size_bytes: 1,
            by_ttl: false,
        }))
    }

    fn message(body: &str) -> Body {
        let receipt = Receipt("r".into());
        Body::Message(Arc::new(Message { id: "m".into(), body: body.into(), receipt, receive_count: 1, sent_ms: 0 }))
    }

    #[test]
    fn a_change_is_plain_json_with_its_numbers_digit_for_digit() {
        let digits = "12345678901234567890123456789012345678";
        let new: Item = serde_json::from_value(json!({
            "z": {"N": digits}, "price": {"N": "2.50"}, "n": {"N": "-7"}, "s": {"S": "a\"b\n"}, "t": {"BOOL": true},
            "none": {"NULL": true}, "l": {"L": [{"N": "1"}, {"S": "x"}]}, "m": {"M": {"b": {"N": "1"}, "a": {"S": ""}}},
            "ss": {"SS": ["p"]}, "ns": {"NS": ["3"]},
        }))
        .unwrap();
        assert_eq!(
            text(&change(new.clone())).unwrap(),
            format!(
                r#"{{"operation":"INSERT","sequence_number":"17","at":"2026-02-02T02:40:00.000Z","by_ttl":false,"keys":{{"partition":"k","sort":"s"}},"old":null,"new":{{"l":[1,"x"],"m":{{"a":"","b":1}},"n":-7,"none":null,"ns":[3],"price":2.50,"s":"a\"b\n","ss":["p"],"t":true,"z":{digits}}}}}"#
            )
        );
        let value = value(&change(new)).unwrap();
        assert_eq!(value["new"]["n"], json!(-7));
        assert_eq!((&value["new"]["price"], &value["new"]["z"]), (&json!(2.5), &json!(digits)));
    }

    #[test]
    fn messages_and_values_are_objects_whatever_they_were() {
        assert_eq!(text(&message("{\n \"a\": 1.0}\n")).unwrap(), "{  \"a\": 1.0}");
        assert_eq!(text(&message("[1]")).unwrap(), r#"{"body":"[1]"}"#);
        assert_eq!(text(&message("no JSON\n")).unwrap(), r#"{"body":"no JSON\n"}"#);
        assert_eq!(value(&message("{\"a\": 1}")).unwrap(), json!({"a": 1}));
        assert_eq!(value(&Body::Value(Arc::new(json!(3)))).unwrap(), json!({"value": 3}));
        assert_eq!(text(&Body::Value(Arc::new(json!({"a": "b"})))).unwrap(), r#"{"a":"b"}"#);
    }
}
