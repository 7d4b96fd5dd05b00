//! Filters: which changes are of interest, in EventBridge's pattern syntax, as for a Lambda function. No I/O.
//!
//! A change is matched in the shape in which Lambda would see it: `eventName`, `eventSource`, `dynamodb.NewImage` and
//! `dynamodb.OldImage` with typed values, `dynamodb.SequenceNumber`, `SizeBytes` and `ApproximateCreationDateTime`, and
//! `userIdentity` where the table's expiry removed the item. The names of the key attributes aren't known here, so there is
//! no `dynamodb.Keys`: the images hold the same attributes.

use serde_json::{Map, Value, json};

use crate::cloud::{
    change_stream::{Change, ChangeKind},
    pattern::Pattern,
};

/// So many patterns a source may have, as with Lambda.
pub const MAX_PATTERNS: usize = 5;

/// Checked patterns: a change is of interest if one of them takes it, or if there are none.
#[derive(Debug, Clone, Default)]
pub struct Filter(Vec<Pattern>);

impl Filter {
    /// Checks the patterns; the error says which one is wrong, and where.
    pub fn parse(patterns: &[Value]) -> Result<Self, String> {
        if patterns.len() > MAX_PATTERNS {
            return Err(format!(
                "filters: {} patterns are too many: join some with $or, up to {MAX_PATTERNS}",
                patterns.len()
            ));
        }
        let parse = |(n, pattern): (usize, &Value)| {
            Pattern::parse(pattern).map_err(|error| format!("filters: pattern {}: {error}", n + 1))
        };
        Ok(Self(patterns.iter().enumerate().map(parse).collect::<Result<_, _>>()?))
    }

    /// Whether a change is of interest.
    pub fn takes(&self, change: &Change) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let event = event(change);
        self.0.iter().any(|pattern| pattern.matches(&event))
    }
}

fn event(change: &Change) -> Value {
    let mut dynamodb = Map::new();
    for (name, image) in [("NewImage", &change.new), ("OldImage", &change.old)] {
        if let Some(image) = image {
            dynamodb.insert(name.to_owned(), json!(image));
        }
    }
    dynamodb.insert("SequenceNumber".to_owned(), json!(change.sequence));
    dynamodb.insert("SizeBytes".to_owned(), json!(change.size_bytes));
    dynamodb.insert("ApproximateCreationDateTime".to_owned(), json!(change.created_secs));
    let name = match change.kind {
        ChangeKind::Insert => "INSERT",
        ChangeKind::Modify => "MODIFY",
        ChangeKind::Remove => "REMOVE",
    };
    let mut event = json!({"eventName": name, "eventSource": "aws:dynamodb", "dynamodb": dynamodb});
    if change.by_ttl {
        event["userIdentity"] = json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"});
    }
    event
}

#[cfg(test)]
mod tests {
    use serde_dynamo::{AttributeValue, Item};

    use super::*;
    use crate::cloud::{change_stream::SequenceNumber, table::Key};

    fn change(kind: ChangeKind, status: &str, by_ttl: bool) -> Change {
        let mut image = Item::default();
        image.insert("status".into(), AttributeValue::S(status.into()));
        image.insert("rows".into(), AttributeValue::N("12".into()));
        let sequence = SequenceNumber("7".into());
        let new = (kind != ChangeKind::Remove).then(|| image.clone());
        let key = Key::new("p", "s");
        Change { kind, key, old: Some(image), new, sequence, created_secs: 5, size_bytes: 9, by_ttl }
    }

    #[test]
    fn a_change_is_seen_as_lambda_would_see_it() {
        let filter = Filter::parse(&[
            json!({"eventName": ["MODIFY"], "dynamodb": {"NewImage": {"status": {"S": [{"prefix": "pending"}]}}}}),
            json!({"userIdentity": {"principalId": ["dynamodb.amazonaws.com"]}}),
        ])
        .unwrap();
        assert!(filter.takes(&change(ChangeKind::Modify, "pending#3", false)));
        assert!(!filter.takes(&change(ChangeKind::Modify, "failed#3", false)));
        assert!(!filter.takes(&change(ChangeKind::Remove, "pending#3", false)), "there is no new image");
        assert!(filter.takes(&change(ChangeKind::Remove, "x", true)), "the table's expiry removed it");
        assert!(Filter::default().takes(&change(ChangeKind::Insert, "x", false)));
    }

    #[test]
    fn a_wrong_pattern_is_named() {
        let wrong = [json!({"eventName": ["INSERT"]}), json!({"eventName": "INSERT"})];
        let error = Filter::parse(&wrong).unwrap_err();
        assert!(error.contains("filters: pattern 2") && error.contains("eventName"), "{error}");
        assert!(Filter::parse(&vec![json!({"eventName": ["INSERT"]}); 6]).unwrap_err().contains("too many"));
    }
}
