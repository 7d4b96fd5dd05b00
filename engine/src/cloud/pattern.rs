//! EventBridge's event patterns: which events a rule takes.
//!
//! A pattern is an object of the event's shape whose leaves are arrays of what may stand there: exact values, or
//! matchers (`prefix`, `suffix`, `anything-but`, `numeric`, `exists`, `wildcard`, `equals-ignore-case`, `cidr`). All its
//! fields must match; of an array in the event one element is enough; `$or` takes one of several patterns.
//! Source: the page "Comparison operators" of the EventBridge guide.

use std::net::IpAddr;

use serde_json::{Map, Number, Value};

/// A checked pattern.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(Fields);

/// Patterns of the fields of an object: all must match.
#[derive(Debug, Clone, PartialEq)]
struct Fields {
    fields: Vec<(String, Node)>,
    /// The alternatives of `$or`, if there are any: one must match.
    any: Vec<Fields>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Object(Fields),
    Leaf(Vec<Matcher>),
}

#[derive(Debug, Clone, PartialEq)]
enum Matcher {
    Exact(Value),
    Exists(bool),
    Prefix(Text),
    Suffix(Text),
    EqualsIgnoreCase(String),
    Wildcard(Vec<String>),
    Numeric(Vec<(Comparison, f64)>),
    Cidr(IpAddr, u32),
    AnythingBut(Vec<Matcher>),
}

#[derive(Debug, Clone, PartialEq)]
struct Text {
    text: String,
    ignore_case: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Pattern {
    /// Checks a pattern; the error names the place in it.
    pub fn parse(pattern: &Value) -> Result<Self, String> {
        match pattern {
            Value::Object(object) if !object.is_empty() => Ok(Self(parse_fields(object, "the pattern")?)),
            _ => Err("a pattern is a JSON object with at least one field".to_owned()),
        }
    }

    /// Whether the pattern takes an event.
    pub fn matches(&self, event: &Value) -> bool {
        self.0.matches(Some(event))
    }
}

fn parse_fields(object: &Map<String, Value>, place: &str) -> Result<Fields, String> {
    let (mut fields, mut any) = (Vec::new(), Vec::new());
    for (name, value) in object {
        let place = format!("{place}.{name}");
        match (name.as_str(), value) {
            ("$or", Value::Array(patterns)) if patterns.len() >= 2 => {
                for pattern in patterns {
                    let Value::Object(pattern) = pattern else {
                        return Err(format!("{place} takes patterns, and `{pattern}` is none"));
                    };
                    any.push(parse_fields(pattern, &place)?);
                }
            }
            ("$or", _) => return Err(format!("{place} takes an array of two patterns or more")),
            (_, Value::Object(object)) if !object.is_empty() => {
                fields.push((name.clone(), Node::Object(parse_fields(object, &place)?)));
            }
            (_, Value::Array(matchers)) if !matchers.is_empty() => {
                let matchers =
                    matchers.iter().map(|matcher| parse_matcher(matcher, &place)).collect::<Result<_, _>>()?;
                fields.push((name.clone(), Node::Leaf(matchers)));
            }
            _ => return Err(format!("{place} is `{value}`: write an array of what matches, or an object of fields")),
        }
    }
    if fields.is_empty() && any.is_empty() {
        return Err(format!("{place} holds an empty pattern"));
    }
    Ok(Fields { fields, any })
}

fn parse_matcher(matcher: &Value, place: &str) -> Result<Matcher, String> {
    let Value::Object(object) = matcher else {
        return match matcher {
            Value::Array(_) => Err(format!("{place} holds an array in an array")),
            exact => Ok(Matcher::Exact(exact.clone())),
        };
    };
    let mut entries = object.iter();
    let (Some((name, value)), None) = (entries.next(), entries.next()) else {
        return Err(format!("{place}: a matcher has one field, and `{matcher}` has {}", object.len()));
    };
    let wrong = || format!("{place}: {name} doesn't take `{value}`");
    match name.as_str() {
        "exists" => value.as_bool().map(Matcher::Exists).ok_or_else(wrong),
        "anything-but" => parse_anything_but(value, place),
        "numeric" => parse_numeric(value).ok_or_else(wrong),
        "cidr" => value.as_str().and_then(parse_cidr).ok_or_else(wrong),
        name if TEXTS.contains(&name) => parse_text(name, value).ok_or_else(wrong),
        _ => Err(format!("{place}: there is no matcher {name}")),
    }
}

/// The matchers of text, which `anything-but` takes too.
const TEXTS: [&str; 4] = ["prefix", "suffix", "equals-ignore-case", "wildcard"];

fn parse_text(name: &str, value: &Value) -> Option<Matcher> {
    let text = || match value {
        Value::String(text) => Some(Text { text: text.clone(), ignore_case: false }),
        Value::Object(object) if object.len() == 1 => {
            let text = object.get("equals-ignore-case")?.as_str()?;
            Some(Text { text: text.to_lowercase(), ignore_case: true })
        }
        _ => None,
    };
    Some(match name {
        "prefix" => Matcher::Prefix(text()?),
        "suffix" => Matcher::Suffix(text()?),
        "equals-ignore-case" => Matcher::EqualsIgnoreCase(value.as_str()?.to_lowercase()),
        "wildcard" => Matcher::Wildcard(parse_wildcard(value.as_str()?)?),
        _ => return None,
    })
}

fn parse_anything_but(value: &Value, place: &str) -> Result<Matcher, String> {
    let wrong = || format!("{place}: anything-but doesn't take `{value}`");
    let alternatives = |value: &Value, of: &dyn Fn(&Value) -> Option<Matcher>| match value {
        Value::Array(values) if values.is_empty() => None,
        Value::Array(values) => values.iter().map(of).collect::<Option<Vec<_>>>(),
        value => Some(vec![of(value)?]),
    };
    let matchers = match value {
        Value::Object(object) => match object.iter().next() {
            Some((name, value)) if object.len() == 1 && TEXTS.contains(&name.as_str()) => {
                alternatives(value, &|value| parse_text(name, value))
            }
            _ => None,
        },
        value => alternatives(value, &|value| {
            (value.is_string() || value.is_number()).then(|| Matcher::Exact(value.clone()))
        }),
    };
    matchers.map(Matcher::AnythingBut).ok_or_else(wrong)
}

fn parse_numeric(value: &Value) -> Option<Matcher> {
    let parts = value.as_array().filter(|parts| !parts.is_empty() && parts.len() % 2 == 0)?;
    let comparisons = parts.chunks(2).map(|pair| {
        let comparison = match pair[0].as_str()? {
            "=" => Comparison::Equal,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        };
        Some((comparison, pair[1].as_f64()?))
    });
    comparisons.collect::<Option<_>>().map(Matcher::Numeric)
}

fn parse_cidr(text: &str) -> Option<Matcher> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Matcher::Cidr(address, bits))
}

/// The literal parts between the stars of a wildcard, in which `\*` and `\\` stand for themselves.
fn parse_wildcard(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    let mut after_star = false;
    while let Some(c) = chars.next() {
        let literal = match c {
            '*' if after_star => return None,
            '*' => {
                parts.push(String::new());
                after_star = true;
                continue;
            }
            '\\' => chars.next().filter(|c| matches!(c, '*' | '\\'))?,
            c => c,
        };
        after_star = false;
        parts.last_mut()?.push(literal);
    }
    Some(parts)
}

impl Fields {
    fn matches(&self, value: Option<&Value>) -> bool {
        match value {
            // All fields of one and the same element must match.
            Some(Value::Array(elements)) if !elements.is_empty() => elements.iter().any(|e| self.matches(Some(e))),
            value => {
                let object = value.and_then(Value::as_object);
                let field = |name: &str| object.and_then(|object| object.get(name));
                self.fields.iter().all(|(name, node)| node.matches(field(name)))
                    && (self.any.is_empty() || self.any.iter().any(|fields| fields.matches(value)))
            }
        }
    }
}

impl Node {
    fn matches(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Object(fields) => fields.matches(value),
            Self::Leaf(matchers) => {
                let mut leaves = Vec::new();
                if let Some(value) = value {
                    collect_leaves(value, &mut leaves);
                }
                matchers.iter().any(|matcher| match matcher {
                    Matcher::Exists(wanted) => leaves.is_empty() != *wanted,
                    matcher => leaves.iter().any(|leaf| matcher.matches(leaf)),
                })
            }
        }
    }
}

/// The scalars that stand at a field: itself, or the elements of an array. An object is no leaf.
fn collect_leaves<'a>(value: &'a Value, leaves: &mut Vec<&'a Value>) {
    match value {
        Value::Array(elements) => elements.iter().for_each(|element| collect_leaves(element, leaves)),
        Value::Object(_) => {}
        scalar => leaves.push(scalar),
    }
}

impl Matcher {
    fn matches(&self, leaf: &Value) -> bool {
        let text = leaf.as_str();
        match self {
            // Numbers compare by their text here, as the guide says: 300 is not 300.0. For values there is `numeric`.
            Self::Exact(exact) => exact == leaf,
            Self::Exists(wanted) => *wanted,
            Self::Prefix(prefix) => text.is_some_and(|text| prefix.fold(text).starts_with(&prefix.text)),
            Self::Suffix(suffix) => text.is_some_and(|text| suffix.fold(text).ends_with(&suffix.text)),
            Self::EqualsIgnoreCase(lower) => text.is_some_and(|text| text.to_lowercase() == *lower),
            Self::Wildcard(parts) => text.is_some_and(|text| matches_wildcard(parts, text)),
            Self::Numeric(comparisons) => leaf
                .as_number()
                .and_then(Number::as_f64)
                .is_some_and(|number| comparisons.iter().all(|(comparison, with)| comparison.holds(number, *with))),
            Self::Cidr(network, bits) => {
                text.and_then(|text| text.parse().ok()).is_some_and(|address| contains(*network, *bits, address))
            }
            Self::AnythingBut(matchers) => !matchers.iter().any(|matcher| matcher.matches(leaf)),
        }
    }
}

impl Text {
    fn fold(&self, text: &str) -> String {
        if self.ignore_case { text.to_lowercase() } else { text.to_owned() }
    }
}

impl Comparison {
    fn holds(self, number: f64, with: f64) -> bool {
        match self {
            Self::Equal => number == with,
            Self::Less => number < with,
            Self::LessOrEqual => number <= with,
            Self::Greater => number > with,
            Self::GreaterOrEqual => number >= with,
        }
    }
}

/// The first part stands at the start, the last at the end, those between in their order: taking each at its earliest
/// place leaves the most room for the rest.
fn matches_wildcard(parts: &[String], text: &str) -> bool {
    let [first, middle @ .., last] = parts else { return parts.first().is_some_and(|only| only == text) };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
    for part in middle {
        match rest.find(part.as_str()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u32| bits == 0 || (a ^ b) >> (width - bits) == 0;
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => same(network.to_bits().into(), address.to_bits().into(), 32),
        (IpAddr::V6(network), IpAddr::V6(address)) => same(network.to_bits(), address.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
