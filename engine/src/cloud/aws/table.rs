//! [`Table`] on DynamoDB.
//!
//! A conditional write asks for the old item, so that a refusal tells why. Its outcome is certain only where AWS said so:
//! a try that got no answer, or a fault of the server, may have landed, and what follows it is `Unknown` unless the table
//! shows otherwise.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
    },
    error::{BoxError, SdkError},
    types::{AttributeValue as SdkValue, ReturnValue, ReturnValuesOnConditionCheckFailure as OnFailure},
};

use super::{
    error::{Target, count},
    expression::Expressions,
};
use crate::cloud::{
    AttributeValue, CloudError, ErrorKind, Item, Result, Table, limits,
    resources::{KeyType, TableSpec},
    table::{Action, Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Range, Write},
};

/// A table of DynamoDB.
pub(super) struct AwsTable {
    pub client: Client,
    pub target: Target,
    pub spec: TableSpec,
    pub keys: KeyNames,
}

type SdkItem = HashMap<String, SdkValue>;

pub(super) fn item_of(item: SdkItem) -> Item {
    item.into_iter().map(|(name, value)| (name, AttributeValue::from(value))).collect::<HashMap<_, _>>().into()
}

fn to_sdk(item: Item) -> SdkItem {
    item.into_inner().into_iter().map(|(name, value)| (name, value.into())).collect()
}

#[async_trait]
impl Table for AwsTable {
    fn name(&self) -> &str {
        &self.target.name
    }

    fn keys(&self) -> &KeyNames {
        &self.keys
    }

    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>> {
        const ACTION: &str = "dynamodb:GetItem";
        let key = self.key(&self.target.operation(ACTION), key)?;
        let request = self
            .client
            .get_item()
            .table_name(self.name())
            .set_key(Some(key))
            .consistent_read(consistency == Consistency::Strong);
        Ok(self.target.ask(ACTION, request.send()).await?.item.map(item_of))
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        let action = action_of(write);
        let operation = self.target.operation(action);
        self.check(&operation, write)?;
        let key = self.key(&operation, &write.key)?;
        let mut expressions = Expressions::default();
        let condition = expressions.condition(&write.condition).map_err(|message| invalid(&operation, message))?;
        let tries = Tries::default();
        let doubt = tries.clone();
        macro_rules! send {
            ($request:expr) => {
                $request
                    .table_name(self.name())
                    .condition_expression(condition)
                    .set_expression_attribute_names(expressions.names())
                    .set_expression_attribute_values(expressions.values())
                    .return_values_on_condition_check_failure(OnFailure::AllOld)
                    .customize()
                    .interceptor(tries)
                    .send()
                    .await
            };
        }
        macro_rules! refused {
            ($error:expr, $of:ident) => {
                match $error {
                    SdkError::ServiceError(of) if of.err().is_conditional_check_failed_exception() => {
                        match of.into_err() {
                            $of::ConditionalCheckFailedException(refusal) => Answer::Refused(refusal.item.map(item_of)),
                            other => Answer::Failed(CloudError::new(
                                ErrorKind::Unavailable,
                                operation.clone(),
                                other.to_string(),
                            )),
                        }
                    }
                    error => Answer::Failed(self.target.error(action, error)),
                }
            };
        }
        use aws_sdk_dynamodb::operation::{
            delete_item::DeleteItemError, put_item::PutItemError, update_item::UpdateItemError,
        };
        let answer = match &write.action {
            Action::Put(item) => {
                let mut item = to_sdk(item.clone());
                item.extend(key);
                let now = item_of(item.clone());
                match send!(self.client.put_item().set_item(Some(item))) {
                    Ok(_) => Answer::Applied(Some(now)),
                    Err(error) => refused!(error, PutItemError),
                }
            }
            Action::Update { set, remove } => {
                let update = expressions.update(set, remove);
                let request = self.client.update_item().set_key(Some(key)).set_update_expression(update);
                match send!(request.return_values(ReturnValue::AllNew)) {
                    Ok(answer) => Answer::Applied(answer.attributes.map(item_of)),
                    Err(error) => refused!(error, UpdateItemError),
                }
            }
            Action::Delete => match send!(self.client.delete_item().set_key(Some(key))) {
                Ok(_) => Answer::Applied(None),
                Err(error) => refused!(error, DeleteItemError),
            },
        };
        let outcome = outcome(write, answer, doubt.may_have_landed());
        count(action, outcome.as_ref().err());
        outcome
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        const ACTION: &str = "dynamodb:Query";
        let operation = self.target.operation(ACTION);
        let (hash, range, numeric) = self.index_keys(&operation, query)?;
        limits::check_key_part(&operation, "the partition", &query.partition, limits::PARTITION_KEY_BYTES)?;
        limits::check_range(&operation, &query.range)?;
        if query.index.is_some() && query.consistency == Consistency::Strong {
            return Err(invalid(&operation, "an index read can't be strong"));
        }
        let mut expressions = Expressions::default();
        let partition = AttributeValue::S(query.partition.clone());
        let mut condition = format!("{} = {}", expressions.name(hash), expressions.value(&partition));
        let sort = |text: &str| if numeric { AttributeValue::N(text.into()) } else { AttributeValue::S(text.into()) };
        match &query.range {
            Range::All => {}
            Range::Equals(at) => {
                condition.push_str(&format!(" AND {} = {}", expressions.name(range), expressions.value(&sort(at))));
            }
            Range::Prefix(_) if numeric => return Err(invalid(&operation, "a number has no prefix")),
            // Every key has the empty prefix, and DynamoDB takes no empty value.
            Range::Prefix(prefix) if prefix.is_empty() => {}
            Range::Prefix(prefix) => {
                let (name, value) = (expressions.name(range), expressions.value(&sort(prefix)));
                condition.push_str(&format!(" AND begins_with({name}, {value})"));
            }
            Range::Between(first, last) => {
                let name = expressions.name(range);
                let (first, last) = (expressions.value(&sort(first)), expressions.value(&sort(last)));
                condition.push_str(&format!(" AND {name} BETWEEN {first} AND {last}"));
            }
        }
        let limit = match query.limit {
            Some(0) => return Err(invalid(&operation, "the limit is 0: ask for 1 item or more")),
            limit => limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX)),
        };
        let request = self
            .client
            .query()
            .table_name(self.name())
            .set_index_name(query.index.clone())
            .key_condition_expression(condition)
            .set_expression_attribute_names(expressions.names())
            .set_expression_attribute_values(expressions.values())
            .set_limit(limit)
            .consistent_read(query.consistency == Consistency::Strong)
            .set_exclusive_start_key(query.start.as_ref().map(|token| to_sdk(token.0.clone())));
        let answer = self.target.ask(ACTION, request.send()).await?;
        Ok(Page {
            items: answer.items.unwrap_or_default().into_iter().map(item_of).collect(),
            next: answer.last_evaluated_key.filter(|key| !key.is_empty()).map(|key| PageToken(item_of(key))),
        })
    }
}

fn action_of(write: &Write) -> &'static str {
    match write.action {
        Action::Put(_) => "dynamodb:PutItem",
        Action::Update { .. } => "dynamodb:UpdateItem",
        Action::Delete => "dynamodb:DeleteItem",
    }
}

fn invalid(operation: &str, message: impl Into<String>) -> CloudError {
    CloudError::new(ErrorKind::Invalid, operation, message)
}

impl AwsTable {
    fn key(&self, operation: &str, key: &Key) -> Result<SdkItem> {
        limits::check_key(operation, key)?;
        let sort = match self.spec.sort_type {
            KeyType::String => SdkValue::S(key.sort.clone()),
            KeyType::Number if key.sort.parse::<f64>().is_ok_and(f64::is_finite) => SdkValue::N(key.sort.clone()),
            KeyType::Number => return Err(invalid(operation, format!("the sort key `{}` is no number", key.sort))),
        };
        Ok([(self.keys.partition.clone(), SdkValue::S(key.partition.clone())), (self.keys.sort.clone(), sort)].into())
    }

    /// What DynamoDB would refuse, refused before it is asked: so that every endpoint does.
    fn check(&self, operation: &str, write: &Write) -> Result<()> {
        let is_key = |name: &String| [&self.keys.partition, &self.keys.sort].contains(&name);
        match &write.action {
            Action::Put(item) => {
                limits::check_item(operation, item)?;
                item.iter().try_for_each(|(name, value)| self.check_value(operation, name, value))
            }
            Action::Update { set, remove } => {
                if let Some(name) = set.keys().chain(remove).find(|name| is_key(name)) {
                    return Err(invalid(operation, format!("{name} is part of the key: an update can't change it")));
                }
                if let Some(name) = remove.iter().find(|name| set.contains_key(*name)) {
                    return Err(invalid(operation, format!("{name} is both set and removed")));
                }
                let set_item: HashMap<_, _> = set.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                limits::check_item(operation, &set_item.into())?;
                set.iter().try_for_each(|(name, value)| self.check_value(operation, name, value))
            }
            Action::Delete => Ok(()),
        }
    }

    /// An index's key attributes are non-empty strings; numbers are numbers.
    fn check_value(&self, operation: &str, name: &str, value: &AttributeValue) -> Result<()> {
        if let AttributeValue::N(text) = value
            && !text.parse::<f64>().is_ok_and(f64::is_finite)
        {
            return Err(invalid(operation, format!("{name}: `{text}` is no number")));
        }
        for (index, spec) in &self.spec.indexes {
            let limit = match name {
                _ if name == spec.hash => limits::PARTITION_KEY_BYTES,
                _ if name == spec.range => limits::SORT_KEY_BYTES,
                _ => continue,
            };
            let AttributeValue::S(text) = value else {
                return Err(invalid(operation, format!("{name} is a key of index {index} and must be a string")));
            };
            limits::check_key_part(operation, &format!("{name}, a key of index {index},"), text, limit)?;
        }
        Ok(())
    }

    /// The hash and range keys that a query is about, and whether the range is a number.
    fn index_keys<'a>(&'a self, operation: &str, query: &Query) -> Result<(&'a str, &'a str, bool)> {
        let (hash, range) = match &query.index {
            None => (&self.keys.partition, &self.keys.sort),
            Some(name) => {
                let index = self.spec.indexes.get(name);
                let index = index.ok_or_else(|| invalid(operation, format!("there is no index {name}")))?;
                (&index.hash, &index.range)
            }
        };
        Ok((hash, range, self.spec.sort_type == KeyType::Number && *range == self.keys.sort))
    }
}

/// What DynamoDB said to a write.
enum Answer {
    Applied(Option<Item>),
    Refused(Option<Item>),
    Failed(CloudError),
}

/// What that means, given that an earlier try of the same request may have landed.
///
/// A refusal that shows the write is left as a refusal: the caller sees the old item, and that it is its own.
fn outcome(write: &Write, answer: Answer, may_have_landed: bool) -> Result<Outcome> {
    match answer {
        Answer::Applied(item) => Ok(Outcome::Applied(item)),
        // Our own try may have been applied, and then overwritten by somebody else.
        Answer::Refused(item) if may_have_landed && !write.is_shown_by(item.as_ref()) => {
            let message = "it was refused, after a try that had no answer and may have been applied";
            Ok(Outcome::Unknown(CloudError::new(ErrorKind::Unavailable, action_of(write), message)))
        }
        Answer::Refused(item) => Ok(Outcome::Refused(item)),
        Answer::Failed(error) if may_have_landed => Ok(Outcome::Unknown(error)),
        Answer::Failed(error) => Err(error),
    }
}

/// Remembers whether any try of a request may have landed without our hearing of it.
#[derive(Debug, Clone, Default)]
struct Tries(Arc<Doubt>);

#[derive(Debug, Default)]
struct Doubt {
    is_sent: AtomicBool,
    may_have_landed: AtomicBool,
}

impl Tries {
    fn may_have_landed(&self) -> bool {
        self.0.may_have_landed.load(Ordering::Acquire)
    }
}

impl Intercept for Tries {
    fn name(&self) -> &'static str {
        "Tries"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // A request that is never sent (no credentials, no endpoint) can't land.
        self.0.is_sent.store(true, Ordering::Release);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let sent = self.0.is_sent.swap(false, Ordering::AcqRel);
        let failed = context.output_or_error().is_none_or(|answer| answer.is_err());
        // An answer of the 400s says that nothing was done; anything else says nothing.
        let told = context.response().is_some_and(|response| (400..500).contains(&response.status().as_u16()));
        if sent && failed && !told {
            self.0.may_have_landed.store(true, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::table::Condition;

    fn write() -> Write {
        Write::update(Key::new("p", "s"), Condition::equals("status", "a")).set("status", "b").set("token", "mine")
    }

    fn item(pairs: &[(&str, &str)]) -> Item {
        pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), AttributeValue::S((*v).to_owned())))
            .collect::<HashMap<_, _>>()
            .into()
    }

    fn failed() -> CloudError {
        CloudError::new(ErrorKind::Throttled, "UpdateItem", "slow down")
    }

    #[test]
    fn a_refusal_is_certain_only_if_no_earlier_try_may_have_landed() {
        let other = || Answer::Refused(Some(item(&[("status", "c"), ("token", "other")])));
        assert!(matches!(outcome(&write(), other(), false), Ok(Outcome::Refused(Some(_)))));
        assert!(matches!(outcome(&write(), other(), true), Ok(Outcome::Unknown(_))));
        let mine = Answer::Refused(Some(item(&[("status", "b"), ("token", "mine")])));
        assert!(matches!(outcome(&write(), mine, true), Ok(Outcome::Refused(Some(_)))));
    }

    #[test]
    fn a_failure_is_an_error_only_if_nothing_can_have_landed() {
        assert!(outcome(&write(), Answer::Failed(failed()), false).is_err());
        assert!(matches!(outcome(&write(), Answer::Failed(failed()), true), Ok(Outcome::Unknown(_))));
    }
}
