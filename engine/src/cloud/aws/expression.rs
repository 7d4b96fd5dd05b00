//! From the seam's typed conditions and updates to DynamoDB's expressions.
//!
//! Every name and every value goes through a placeholder: attribute names may be reserved words, and nothing that comes
//! from data is ever part of an expression's text.

use std::collections::{BTreeMap, HashMap};

use crate::cloud::{AttributeValue, table::Condition};

/// Expressions of one request, and what their placeholders stand for.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    names: Vec<String>,
    values: Vec<AttributeValue>,
}

impl Expressions {
    /// The condition's expression. An error says what no table can take.
    pub fn condition(&mut self, condition: &Condition) -> Result<String, &'static str> {
        Ok(match condition {
            Condition::Absent(name) => format!("attribute_not_exists({})", self.name(name)),
            Condition::Equals(name, value) => format!("{} = {}", self.name(name), self.value(value)),
            Condition::In(_, values) if values.is_empty() => return Err("a condition compares with no values"),
            Condition::In(name, values) => {
                let name = self.name(name);
                let values: Vec<String> = values.iter().map(|value| self.value(value)).collect();
                format!("{name} IN ({})", values.join(", "))
            }
            Condition::All(all) => self.joined(all, " AND ")?,
            Condition::Any(any) => self.joined(any, " OR ")?,
        })
    }

    fn joined(&mut self, conditions: &[Condition], with: &str) -> Result<String, &'static str> {
        if conditions.is_empty() {
            return Err("a condition is empty: there is no unconditional write");
        }
        let mut texts = Vec::new();
        for condition in conditions {
            texts.push(format!("({})", self.condition(condition)?));
        }
        Ok(texts.join(with))
    }

    /// The update's expression; none if it changes nothing.
    pub fn update(&mut self, set: &BTreeMap<String, AttributeValue>, remove: &[String]) -> Option<String> {
        let mut clauses = Vec::new();
        if !set.is_empty() {
            let set: Vec<String> =
                set.iter().map(|(name, value)| format!("{} = {}", self.name(name), self.value(value))).collect();
            clauses.push(format!("SET {}", set.join(", ")));
        }
        if !remove.is_empty() {
            let remove: Vec<String> = remove.iter().map(|name| self.name(name)).collect();
            clauses.push(format!("REMOVE {}", remove.join(", ")));
        }
        (!clauses.is_empty()).then(|| clauses.join(" "))
    }

    /// The placeholder of an attribute's name: one for all its uses.
    pub fn name(&mut self, name: &str) -> String {
        let at = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        format!("#n{at}")
    }

    /// A placeholder of a value.
    pub fn value(&mut self, value: &AttributeValue) -> String {
        self.values.push(value.clone());
        format!(":v{}", self.values.len() - 1)
    }

    /// What the name placeholders stand for; none if there are none, as DynamoDB refuses an empty map.
    pub fn names(&self) -> Option<HashMap<String, String>> {
        let names = self.names.iter().enumerate().map(|(at, name)| (format!("#n{at}"), name.clone()));
        (!self.names.is_empty()).then(|| names.collect())
    }

    /// What the value placeholders stand for; none if there are none.
    pub fn values<V: From<AttributeValue>>(&self) -> Option<HashMap<String, V>> {
        let values = self.values.iter().enumerate().map(|(at, value)| (format!(":v{at}"), value.clone().into()));
        (!self.values.is_empty()).then(|| values.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_nest_and_share_names() {
        let mut expressions = Expressions::default();
        let condition = Condition::equals("status", "a")
            .and(Condition::Any(vec![Condition::absent("token"), Condition::one_of("status", ["b", "c"])]));
        assert_eq!(
            expressions.condition(&condition).unwrap(),
            "(#n0 = :v0) AND ((attribute_not_exists(#n1)) OR (#n0 IN (:v1, :v2)))"
        );
        assert_eq!(expressions.names().unwrap()["#n1"], "token");
        assert_eq!(expressions.values::<AttributeValue>().unwrap()[":v2"], AttributeValue::S("c".into()));
    }

    #[test]
    fn an_update_sets_and_removes_under_the_condition_s_names() {
        let mut expressions = Expressions::default();
        expressions.condition(&Condition::absent("status")).unwrap();
        let set = BTreeMap::from([("status".to_owned(), AttributeValue::S("x".into()))]);
        let update = expressions.update(&set, &["ttl".to_owned()]);
        assert_eq!(update.as_deref(), Some("SET #n0 = :v0 REMOVE #n1"));
        assert_eq!(expressions.update(&BTreeMap::new(), &[]), None);
    }

    #[test]
    fn i3_an_empty_condition_is_refused() {
        for condition in [Condition::All(vec![]), Condition::Any(vec![]), Condition::In("a".into(), vec![])] {
            assert!(Expressions::default().condition(&condition).is_err(), "{condition:?}");
        }
        assert_eq!(Expressions::default().names(), None);
        assert_eq!(Expressions::default().values::<AttributeValue>(), None);
    }
}
