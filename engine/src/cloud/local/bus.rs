//! Event buses: rules matched as an event is put, its queue rows in the same transaction, other targets after it.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use chrono::SecondsFormat;
use serde_json::{Value, json};

use super::{
    Store,
    definition::QueueDef,
    queue::{self, new_uuid},
};
use crate::cloud::{
    CloudError, ErrorKind, EventBus, Result,
    event_bus::Event,
    limits,
    pattern::Pattern,
    queue::Outgoing,
    resources::{Naming, Resources, RuleSpec, TargetSpec},
};

/// A bus with its rules.
#[derive(Debug)]
pub(super) struct BusDef {
    name: String,
    account: String,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    pattern: Pattern,
    targets: Vec<Target>,
}

#[derive(Debug)]
enum Target {
    Queue(i64),
    /// A file that gets a line; a topic's messages are logged too.
    File {
        path: PathBuf,
        topic: Option<String>,
    },
    Log,
}

/// The buses that are declared, with their rules checked. They have no state: what changed is simply so.
pub(super) fn make_buses(
    dir: &Path,
    naming: &Naming,
    resources: &Resources,
    queues: &BTreeMap<String, Arc<QueueDef>>,
) -> Result<BTreeMap<String, Arc<BusDef>>> {
    let mut buses = BTreeMap::new();
    for (short, spec) in &resources.buses {
        let name = naming.name(short);
        limits::check(
            &format!("definition of bus {name}"),
            "the bus",
            spec.rules.len(),
            limits::RULES_PER_BUS,
            "rules",
        )?;
        let rules =
            spec.rules.iter().map(|(rule, spec)| make_rule(dir, &name, rule, spec, queues)).collect::<Result<_>>()?;
        buses.insert(short.clone(), Arc::new(BusDef { name, account: naming.account.clone(), rules }));
    }
    Ok(buses)
}

fn make_rule(
    dir: &Path,
    bus: &str,
    name: &str,
    spec: &RuleSpec,
    queues: &BTreeMap<String, Arc<QueueDef>>,
) -> Result<Rule> {
    let operation = format!("definition of rule {name} of bus {bus}");
    let refused = |message: String| CloudError::new(ErrorKind::Invalid, &*operation, message);
    let pattern = Pattern::parse(&spec.pattern).map_err(refused)?;
    limits::check(&operation, "the rule", spec.targets.len(), limits::TARGETS_PER_RULE, "targets")?;
    let mut targets = Vec::new();
    for target in &spec.targets {
        targets.push(match target {
            TargetSpec::Queue(short) => match queues.get(short) {
                Some(queue) => Target::Queue(queue.id),
                None => return Err(refused(format!("its target queue {short} is not declared"))),
            },
            TargetSpec::Topic(topic) if topic.is_empty() || topic.contains(['/', '\\']) || topic.starts_with('.') => {
                return Err(refused(format!("`{topic}` is no name of a topic")));
            }
            TargetSpec::Topic(topic) => {
                Target::File { path: dir.join("topics").join(format!("{topic}.ndjson")), topic: Some(topic.clone()) }
            }
            TargetSpec::File(path) if !stays_below(path) => {
                return Err(refused(format!(
                    "`{path}` leaves the cloud's folder: write a path below it, without `..`"
                )));
            }
            TargetSpec::File(path) => Target::File { path: dir.join(path), topic: None },
            TargetSpec::Webhook(address) => {
                return Err(refused(format!(
                    "the local cloud doesn't post to webhooks yet ({address}): send to a queue or a file instead"
                )));
            }
            TargetSpec::Log {} => Target::Log,
        });
    }
    Ok(Rule { name: name.to_owned(), pattern, targets })
}

/// Whether a path names a place below wherever it is joined to.
fn stays_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// A bus of the local cloud.
pub(super) struct LocalBus {
    pub store: Arc<Store>,
    pub def: Arc<BusDef>,
}

/// An event on its way to a target outside of the database.
struct Delivery {
    rule: usize,
    target: usize,
    body: Arc<str>,
}

#[async_trait]
impl EventBus for LocalBus {
    fn name(&self) -> &str {
        &self.def.name
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, events: &[Event]) -> Result<Vec<Result<String>>> {
        let operation = format!("PutEvents on bus {}", self.def.name);
        limits::check_put_events(&operation, events)?;
        self.store.db.check_writable(&operation)?;
        let (mut messages, mut others) = (Vec::new(), Vec::new());
        let answers = events
            .iter()
            .map(|event| {
                limits::check_event(&operation, event)?;
                let id = new_uuid();
                self.route(&self.envelope(event, &id), &mut messages, &mut others);
                Ok(id)
            })
            .collect();
        if !messages.is_empty() {
            self.enqueue(&operation, messages).await?;
        }
        if !others.is_empty() {
            let def = Arc::clone(&self.def);
            let delivered = tokio::task::spawn_blocking(move || deliver(&def, &others));
            delivered.await.map_err(|error| CloudError::new(ErrorKind::Unavailable, operation, error.to_string()))?;
        }
        Ok(answers)
    }
}

impl LocalBus {
    /// The event as EventBridge hands it on.
    fn envelope(&self, event: &Event, id: &str) -> Value {
        json!({
            "version": "0",
            "id": id,
            "detail-type": event.detail_type,
            "source": event.source,
            "account": self.def.account,
            "time": event.time.to_rfc3339_opts(SecondsFormat::Secs, true),
            "region": "local",
            "resources": [],
            "detail": event.detail,
        })
    }

    fn route(&self, envelope: &Value, messages: &mut Vec<(i64, Outgoing)>, others: &mut Vec<Delivery>) {
        let body: Arc<str> = envelope.to_string().into();
        for (rule_no, rule) in self.def.rules.iter().enumerate().filter(|(_, rule)| rule.pattern.matches(envelope)) {
            for (target_no, target) in rule.targets.iter().enumerate() {
                match target {
                    Target::Queue(queue_id) => messages.push((*queue_id, Outgoing::new(&*body))),
                    _ => others.push(Delivery { rule: rule_no, target: target_no, body: Arc::clone(&body) }),
                }
            }
        }
    }

    async fn enqueue(&self, operation: &str, messages: Vec<(i64, Outgoing)>) -> Result<()> {
        let (now_ms, signals) = (self.store.now_ms(), Arc::clone(&self.store.signals));
        let put = move |connection: &rusqlite::Connection| {
            let mut queues = Vec::new();
            for (queue_id, message) in messages {
                queue::insert(connection, queue_id, &message, now_ms)?;
                queues.push(queue_id);
            }
            Ok(queues)
        };
        let wake = move |queues: &Vec<i64>| queues.iter().for_each(|queue_id| signals.wake(*queue_id));
        self.store.db.write_then(operation, put, wake).await?;
        Ok(())
    }
}

/// Hands events to the targets outside of the database. One that fails is told and dropped, as EventBridge drops what a
/// target without a dead-letter queue doesn't take: the event itself was accepted.
fn deliver(def: &BusDef, deliveries: &[Delivery]) {
    for Delivery { rule, target, body } in deliveries {
        let rule = &def.rules[*rule];
        match &rule.targets[*target] {
            Target::Queue(_) => {}
            Target::Log => tracing::info!(bus = def.name, rule = rule.name, event = %body, "An event."),
            Target::File { path, topic } => {
                if let Some(topic) = topic {
                    tracing::info!(bus = def.name, rule = rule.name, topic, %body, "A message on a topic.");
                }
                if let Err(error) = append_line(path, body) {
                    let (bus, rule, path) = (&def.name, &rule.name, path.display());
                    tracing::error!(bus, rule, %path, %error, "An event could not be written; it is dropped.");
                }
            }
        }
    }
}

fn append_line(path: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // One write of the whole line: lines of several writers don't mix.
    std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_in_the_clouds_folder() {
        for (path, stays) in [
            ("events.ndjson", true),
            ("a/b", true),
            ("../x", false),
            ("a/../../x", false),
            ("/etc/x", false),
            ("", false),
        ] {
            assert_eq!(stays_below(path), stays, "{path}");
        }
    }
}
