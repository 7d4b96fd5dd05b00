//! Records of this crate's shapes, to and from JSON bodies.

use std::sync::Arc;

use penstock_engine::{
    cloud::{
        Item,
        change_stream::{Change, ChangeKind},
    },
    operator::{Body, OperatorError, Record},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::model::{attribute, text};

/// A value as the body of a record.
pub fn to_value(value: &impl Serialize) -> Result<Arc<Value>, OperatorError> {
    serde_json::to_value(value)
        .map(Arc::new)
        .map_err(|error| OperatorError::permanent(format!("a record can't be written as JSON: {error}")))
}

/// A record's JSON body as a value of the shape that the graph's check promised.
pub fn read_value<T: DeserializeOwned>(record: &Record) -> Result<T, OperatorError> {
    let Body::Value(value) = &record.body else {
        return Err(OperatorError::permanent("a record of JSON was expected"));
    };
    T::deserialize(value.as_ref()).map_err(|error| OperatorError::permanent(format!("a record can't be read: {error}")))
}

/// The change in a record.
pub fn read_change(record: &Record) -> Result<&Arc<Change>, OperatorError> {
    match &record.body {
        Body::Change(change) => Ok(change),
        _ => Err(OperatorError::permanent("a change of a table was expected")),
    }
}

/// The item as it is now, if this change is the one by which its status became `status`.
pub fn entered<'a>(change: &'a Change, status: &str) -> Option<&'a Item> {
    let now = |image: &'a Option<Item>| image.as_ref().filter(|item| text(item, attribute::STATUS) == Some(status));
    if change.kind == ChangeKind::Remove || now(&change.old).is_some() { None } else { now(&change.new) }
}
