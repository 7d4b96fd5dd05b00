//! What must not be shown of a configuration.
//!
//! Pipelines need no secrets of their own: on AWS a role gives access. But an address may bear one, and a later type of
//! operator may take one, so what looks like a secret by its name or its place is masked wherever configuration is shown.

use serde_json::Value;

/// What stands where a secret was.
const MASK: &str = "********";

/// Words in a name that say that its value is a secret.
const WORDS: [&str; 8] = ["password", "passwd", "secret", "token", "credential", "api_key", "apikey", "private_key"];

/// The same value without its secrets. `name` is the name under which it stands.
pub fn masked(name: &str, value: &Value) -> Value {
    let lower = name.to_lowercase().replace('-', "_");
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), masked(name, value))).collect(),
        Value::Array(list) => list.iter().map(|value| masked(name, value)).collect(),
        Value::Null => Value::Null,
        _ if WORDS.iter().any(|word| lower.contains(word)) => MASK.into(),
        Value::String(text) => masked_address(&lower, text).into(),
        other => other.clone(),
    }
}

/// An address without a user's name and password; of a webhook, whose path is the secret, only the host is left.
fn masked_address(name: &str, text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
        return text.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{MASK}@{host}"),
        None => authority.to_owned(),
    };
    let path = if name.contains("webhook") && path.len() > 1 { format!("/{MASK}") } else { path.to_owned() };
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_by_name_and_by_place() {
        let shown = masked(
            "",
            &json!({
                "db_password": "p1", "apiKey": 5, "nested": [{ "Secret-Key": ["p2"] }],
                "url": "https://user:p3@host/path?x=1", "webhook": "https://hooks.example/T1/p4", "bucket": "input",
            }),
        );
        assert_eq!(
            shown,
            json!({
                "db_password": MASK, "apiKey": MASK, "nested": [{ "Secret-Key": [MASK] }],
                "url": "https://********@host/path?x=1", "webhook": "https://hooks.example/********", "bucket": "input",
            })
        );
    }
}
