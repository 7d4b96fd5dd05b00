//! What must hold between the parts of a pipeline's file that types can't say: names, references, limits of AWS.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use penstock_engine::{
    cloud::{
        limits::VISIBILITY_SECS,
        resources::{BucketSpec, BusSpec, Naming, QueueSpec, TableSpec, TargetSpec},
    },
    graph::{Declared, Fault, Input, Path, Problem, Role, near::Hint},
    units::format_duration,
};

use super::document::Document;
use crate::config_test::TestSpec;

/// Characters of a bucket's full name.
const BUCKET_NAME_CHARS: usize = 63;
/// Characters of a queue's full name.
const QUEUE_NAME_CHARS: usize = 80;
/// How long SQS keeps a message at least.
const MIN_RETENTION: Duration = Duration::from_secs(60);
/// How long SQS keeps a message at most.
const MAX_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
/// SQS moves a message after at most so many receives.
const MAX_RECEIVES: u32 = 1000;
/// EventBridge takes at most so many targets of a rule.
const MAX_TARGETS: usize = 5;
/// Fargate kills a task at the latest so long after SIGTERM.
const MAX_STOP: Duration = Duration::from_secs(120);

/// All that breaks a rule.
pub fn broken_rules(document: &Document, operators: &[Declared]) -> Vec<Problem> {
    let mut rules = Rules { document, problems: Vec::new() };
    rules.check_names();
    rules.check_shutdown();
    rules.check_resources();
    rules.check_services(operators);
    if operators.is_empty() {
        let message = "the pipeline has no operators: declare some under `sources`, `transforms` and `sinks`";
        rules.wrong(Path::root(), message);
    }
    rules.check_tests(operators);
    rules.check_gathering(operators);
    rules.problems
}

struct Rules<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
}

impl<'a> Rules<'a> {
    fn wrong(&mut self, path: Path, message: impl Into<String>) {
        self.problems.push(Problem::value(path, Fault::Invalid(message.into())));
    }

    fn check_names(&mut self) {
        let Document { pipeline, env, account, .. } = self.document;
        let root = Path::root();
        if pipeline.is_empty() {
            self.problems.push(Problem::key(root.key("pipeline"), Fault::Missing));
        } else if !is_name(pipeline) {
            self.wrong(root.key("pipeline"), not_a_name(pipeline));
        }
        if !is_name(env) {
            self.wrong(root.key("env"), not_a_name(env));
        }
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            self.wrong(
                root.key("account"),
                format!("`{account}` is not the id of an AWS account: write its 12 digits"),
            );
        }
        for service in self.document.services.keys().filter(|service| !is_name(service)) {
            self.problems.push(Problem::key(root.key("services").key(service), Fault::Invalid(not_a_name(service))));
        }
    }

    /// What gathers a stream's changes into objects needs them in the order of their shard: that is what each object is
    /// named by, and found again after a crash.
    fn check_gathering(&mut self, operators: &[Declared]) {
        let find = |id: &str| operators.iter().find(|operator| operator.id == id);
        for gatherer in operators.iter().filter(|operator| operator.type_name.as_deref() == Some("s3_ndjson")) {
            let (mut upstream, mut seen) = (vec![gatherer], BTreeSet::new());
            while let Some(operator) = upstream.pop() {
                if !seen.insert(&operator.id) {
                    continue;
                }
                if operator.running.concurrency > 1 {
                    let message = format!(
                        "instances side by side bring records out of their order, by which `{}` names its objects: write 1",
                        gatherer.id
                    );
                    self.wrong(operator.path().key("running").key("concurrency"), message);
                }
                if operator.type_name.as_deref() == Some("change_stream") && operator.options["order"] != "shard" {
                    let message = format!(
                        "`{}` gathers these changes into objects and needs them in the order of their shard: write \
                         `order: shard`",
                        gatherer.id
                    );
                    self.wrong(operator.path(), message);
                }
                upstream.extend(operator.inputs.iter().filter_map(|input| find(&Input::parse(input).id)));
            }
        }
    }

    /// A test puts records into transforms and looks at what there is.
    fn check_tests(&mut self, operators: &[Declared]) {
        let tests = &self.document.tests;
        self.problems.extend(test_problems(tests, operators));
    }

    fn check_shutdown(&mut self) {
        let limit = self.document.shutdown_limit;
        if limit.is_zero() || limit >= MAX_STOP {
            let message = format!(
                "{} can't be kept: write more than 0s and less than {}, after which ECS kills a task",
                format_duration(limit),
                format_duration(MAX_STOP)
            );
            self.wrong(Path::root().key("shutdown_limit"), message);
        }
    }

    fn check_resources(&mut self) {
        let resources = &self.document.resources;
        for (name, bucket) in &resources.buckets {
            self.check_bucket(name, bucket);
        }
        for (name, queue) in &resources.queues {
            self.check_queue(name, queue);
        }
        for (name, table) in &resources.tables {
            self.check_table(name, table);
        }
        for (name, bus) in &resources.buses {
            self.check_bus(name, bus);
        }
    }

    fn check_resource_name(&mut self, kind: &str, name: &str, full: &str, most: usize) -> Path {
        let path = Path::root().key("resources").key(kind).key(name);
        let chars = full.chars().count();
        if !is_name(name) {
            self.problems.push(Problem::key(path.clone(), Fault::Invalid(not_a_name(name))));
        } else if chars > most {
            let message = format!("its full name `{full}` has {chars} characters: at most {most} are allowed");
            self.problems.push(Problem::key(path.clone(), Fault::Invalid(message)));
        }
        path
    }

    fn naming(&self) -> Naming {
        let Document { pipeline, env, account, .. } = self.document.clone();
        Naming { pipeline, env, account }
    }

    fn check_bucket(&mut self, name: &str, bucket: &BucketSpec) {
        let full = self.naming().bucket(name);
        let path = self.check_resource_name("buckets", name, &full, BUCKET_NAME_CHARS);
        if let Some(notify) = &bucket.notify {
            self.check_queue_is_declared(path.key("notify").key("queue"), &notify.queue);
        }
    }

    fn check_queue(&mut self, name: &str, queue: &QueueSpec) {
        let full = self.naming().name(name);
        let path = self.check_resource_name("queues", name, &full, QUEUE_NAME_CHARS);
        let longest = Duration::from_secs(VISIBILITY_SECS);
        if queue.visibility > longest {
            let message = format!("a message stays hidden for at most {}", format_duration(longest));
            self.wrong(path.key("visibility"), message);
        }
        if !(MIN_RETENTION..=MAX_RETENTION).contains(&queue.retention) {
            let (least, most) = (format_duration(MIN_RETENTION), format_duration(MAX_RETENTION));
            self.wrong(path.key("retention"), format!("a message is kept for {least} to {most}"));
        }
        if let Some(dead_letter) = &queue.dead_letter {
            let path = path.key("dead_letter");
            if dead_letter.queue == name {
                self.wrong(path.key("queue"), "a queue can't be its own dead-letter queue");
            }
            self.check_queue_is_declared(path.key("queue"), &dead_letter.queue);
            if !(1..=MAX_RECEIVES).contains(&dead_letter.max_receives) {
                self.wrong(path.key("max_receives"), format!("write 1 to {MAX_RECEIVES}"));
            }
        }
    }

    fn check_table(&mut self, name: &str, table: &TableSpec) {
        let full = self.naming().table(name, table);
        let path = self.check_resource_name("tables", name, &full, 255);
        let plain = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
        if table.name.as_ref().is_some_and(|name| name.chars().count() < 3 || !name.chars().all(plain)) {
            self.wrong(path.key("name"), "a table's name is 3 to 255 letters, digits, `-`, `_` and `.`");
        }
        if table.sort_key.is_empty() && table.name.is_none() {
            self.wrong(path.key("sort_key"), "a table of this pipeline has a sort key: name it");
        }
        if table.partition_key == table.sort_key {
            self.wrong(path.key("sort_key"), "the sort key is the partition key: name another attribute");
        }
    }

    fn check_bus(&mut self, name: &str, bus: &BusSpec) {
        let full = self.naming().name(name);
        let path = self.check_resource_name("buses", name, &full, 255);
        for (name, rule) in &bus.rules {
            let path = path.key("rules").key(name);
            if rule.pattern.as_object().is_none_or(|pattern| pattern.is_empty()) {
                self.wrong(path.key("pattern"), "expected an event pattern: a map, e.g. `{source: [etl.pipeline]}`");
            }
            if rule.targets.is_empty() || rule.targets.len() > MAX_TARGETS {
                self.wrong(path.key("targets"), format!("a rule has 1 to {MAX_TARGETS} targets"));
            }
            for (index, target) in rule.targets.iter().enumerate() {
                if let TargetSpec::Queue(queue) = target {
                    self.check_queue_is_declared(path.key("targets").index(index).key("queue"), queue);
                }
            }
        }
    }

    fn check_queue_is_declared(&mut self, path: Path, name: &str) {
        let queues = &self.document.resources.queues;
        if !queues.contains_key(name) {
            let hint = Hint::new(name, queues.keys());
            self.problems
                .push(Problem::value(path, Fault::UnknownResource { kind: "queue", name: name.to_owned(), hint }));
        }
    }

    /// Every operator is in exactly one service, and reads only operators of that one.
    fn check_services(&mut self, operators: &[Declared]) {
        let services = &self.document.services;
        if services.is_empty() {
            return;
        }
        let mut service_of: BTreeMap<&str, &str> = BTreeMap::new();
        for (service, ids) in services {
            let path = Path::root().key("services").key(service);
            if ids.is_empty() {
                self.wrong(path.clone(), "the service runs nothing: list its operators");
            }
            for (index, id) in ids.iter().enumerate() {
                if !operators.iter().any(|operator| operator.id == *id) {
                    let hint = Hint::new(id, operators.iter().map(|operator| &operator.id));
                    self.problems.push(Problem::value(path.index(index), Fault::UnknownInput(id.clone(), hint)));
                } else if let Some(first) = service_of.insert(id, service) {
                    let place = if first == service { "twice here".to_owned() } else { format!("in `{first}` too") };
                    self.wrong(path.index(index), format!("`{id}` is listed {place}: an operator is in one service"));
                }
            }
        }
        for operator in operators {
            let Some(service) = service_of.get(operator.id.as_str()) else {
                let message = format!("no service runs `{}`: list it under one of `services`", operator.id);
                self.problems.push(Problem::key(operator.path(), Fault::Invalid(message)));
                continue;
            };
            for (index, text) in operator.inputs.iter().enumerate() {
                let input = Input::parse(text);
                let Some(other) = service_of.get(input.id.as_str()).filter(|other| *other != service) else { continue };
                let message = format!(
                    "`{}` runs in the service `{other}`, `{}` in `{service}`: services are joined by queues and tables, \
                     never by inputs",
                    input.id, operator.id
                );
                self.wrong(operator.path().key("inputs").index(index), message);
            }
        }
    }
}

/// What is wrong with tests of these operators.
pub(super) fn test_problems(tests: &[TestSpec], operators: &[Declared]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, test) in tests.iter().enumerate() {
        let path = Path::root().key("tests").index(index);
        if test.expect.is_empty() && test.fail.is_empty() {
            let message = "it expects nothing, so it can't fail: add `expect` or `fail`".to_owned();
            problems.push(Problem::value(path.clone(), Fault::Invalid(message)));
        }
        let ids = |of: fn(&Declared) -> bool| operators.iter().filter(move |node| of(node)).map(|node| &node.id);
        for id in test.send.keys() {
            if !ids(|node| node.section != Role::Source).any(|known| known == id) {
                let hint = Hint::new(id, ids(|node| node.section != Role::Source));
                problems.push(Problem::key(path.key("send").key(id), Fault::UnknownInput(id.clone(), hint)));
            }
        }
        let looked_at = test.expect.keys().map(|name| ("expect", name));
        for (section, name) in looked_at.chain(test.fail.keys().map(|name| ("fail", name))) {
            let id = Input::parse(name).id;
            if !ids(|_| true).any(|known| *known == id) {
                let hint = Hint::new(&id, ids(|_| true));
                problems.push(Problem::key(path.key(section).key(name), Fault::UnknownInput(id, hint)));
            }
        }
    }
    problems
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain) && !name.ends_with('-')
}

fn not_a_name(name: &str) -> String {
    format!("`{name}` can't be part of a resource's name: write lower-case letters, digits and `-`, a letter first")
}
