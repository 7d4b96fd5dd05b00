//! From declared operators to a checked plan, or to all that is wrong with them. Pure.
//!
//! What passes here can be built: every type is known, every input leads to an output of the right kind, nothing feeds
//! itself, every resource is declared, and no two operators rob each other of one queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use petgraph::{
    Direction::Incoming,
    algo::tarjan_scc,
    graph::{DiGraph, NodeIndex},
};
use serde_json::Value;

use super::{
    Graph, Input, Node, OperatorType, Registry, Role, Running, Use, UseMode,
    near::Hint,
    path::Path,
    problem::{Fault, Problem, Severity},
    read::{Spellings, read},
};
use crate::{cloud::resources::Resources, operator::Kind};

/// An operator as a pipeline declares it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The section that it stands in.
    pub section: Role,
    /// Its id.
    pub id: String,
    /// Its type, if it says one.
    pub type_name: Option<String>,
    /// What it reads: `id` or `id.output`.
    pub inputs: Vec<String>,
    /// How the runtime runs it.
    pub running: Running,
    /// Its own options, a map.
    pub options: Value,
    /// Other ways to read leaves of the options, by their path within these.
    pub spellings: Spellings,
}

impl Declared {
    /// Where it stands in the pipeline.
    pub fn path(&self) -> Path {
        Path::root().key(self.section.section()).key(&self.id)
    }
}

/// A pipeline that can run, and what somebody should look at all the same.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The checked graph.
    pub graph: Graph,
    /// Warnings.
    pub warnings: Vec<Problem>,
}

/// The fields that each operator has besides its own options.
pub(crate) const COMMON_FIELDS: [&str; 3] = ["type", "inputs", "running"];

/// Checks declared operators. The error holds every problem that was found, warnings too.
pub fn check(declared: &[Declared], resources: &Resources, registry: &Registry) -> Result<Plan, Vec<Problem>> {
    let mut checker = Checker { declared, resources, registry, by_id: HashMap::new(), problems: Vec::new() };
    checker.check_ids();
    let mut owners = BTreeMap::new();
    let mut nodes = Vec::new();
    for node in declared {
        let known = checker.check_type(node);
        let inputs = checker.check_inputs(node, known);
        checker.check_running(node);
        let options = known.and_then(|known| checker.check_options(node, known, &mut owners));
        nodes.push(Node {
            id: node.id.clone(),
            type_name: node.type_name.clone().unwrap_or_default(),
            inputs,
            options: options.unwrap_or_default(),
            running: node.running.clone(),
        });
    }
    checker.check_outputs_are_read(&nodes);
    let order = checker.check_cycles(&nodes);
    let Checker { problems, .. } = checker;
    if problems.iter().any(|problem| problem.severity() == Severity::Error) {
        return Err(problems);
    }
    let nodes = order.into_iter().map(|index| nodes[index].clone()).collect();
    Ok(Plan { graph: Graph { nodes }, warnings: problems })
}

struct Checker<'a> {
    declared: &'a [Declared],
    resources: &'a Resources,
    registry: &'a Registry,
    /// The first operator of each id.
    by_id: HashMap<&'a str, usize>,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    fn check_ids(&mut self) {
        for (index, node) in self.declared.iter().enumerate() {
            // An id stands in `id.output`, in metrics' labels and in drawings.
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if !node.id.starts_with(|c: char| c.is_ascii_lowercase()) || !node.id.chars().all(plain) {
                let message = "an id is lower-case letters, digits and `_`, and begins with a letter".to_owned();
                self.problems.push(Problem::key(node.path(), Fault::Invalid(message)));
            }
            match self.by_id.get(node.id.as_str()) {
                None => {
                    self.by_id.insert(&node.id, index);
                }
                Some(first) => {
                    let first = self.declared[*first].path();
                    self.problems.push(Problem::key(node.path(), Fault::DuplicateId { id: node.id.clone(), first }));
                }
            }
        }
    }

    fn check_type(&mut self, node: &Declared) -> Option<&'a dyn OperatorType> {
        let path = node.path().key("type");
        let Some(name) = &node.type_name else {
            self.problems.push(Problem::key(path, Fault::Missing));
            return None;
        };
        let Some(known) = self.registry.get(name) else {
            let hint = Hint::new(name, self.registry.types().map(|known| known.name()));
            self.problems.push(Problem::value(path, Fault::UnknownType(name.clone(), hint)));
            return None;
        };
        let role = known.role();
        if role != node.section {
            let fault = Fault::WrongSection { type_name: name.clone(), role, section: node.section };
            self.problems.push(Problem::key(node.path(), fault));
        }
        Some(known)
    }

    /// The inputs that lead somewhere.
    fn check_inputs(&mut self, node: &Declared, known: Option<&dyn OperatorType>) -> Vec<Input> {
        let path = node.path().key("inputs");
        let takes = known.and_then(OperatorType::input);
        if let Some(known) = known {
            if takes.is_none() && !node.inputs.is_empty() {
                let fault = Fault::UnwantedInputs { type_name: known.name().to_owned() };
                self.problems.push(Problem::key(path, fault));
                return Vec::new();
            }
            if takes.is_some() && node.inputs.is_empty() {
                let example = self.declared.iter().find(|other| other.id != node.id);
                let example = example.map_or("id", |other| &other.id).to_owned();
                self.problems.push(Problem::key(path, Fault::NoInputs { role: known.role(), example }));
                return Vec::new();
            }
        }
        let mut inputs: Vec<Input> = Vec::new();
        for (index, text) in node.inputs.iter().enumerate() {
            let input = Input::parse(text);
            let mut fault = None;
            if inputs.contains(&input) {
                fault = Some(Fault::RepeatedInput(text.clone()));
            } else if let Some(from) = self.by_id.get(input.id.as_str()) {
                let from = self.declared[*from].type_name.as_deref().and_then(|name| self.registry.get(name));
                if let Some(from) = from {
                    let outputs = from.outputs();
                    fault = match (known, takes) {
                        _ if !outputs.iter().any(|(name, _)| *name == input.output) => {
                            let hint = Hint::new(&input.output, outputs.iter().map(|(name, _)| *name));
                            Some(Fault::UnknownOutput(input.id.clone(), input.output.clone(), hint))
                        }
                        (Some(known), Some(takes)) if takes != Kind::Any => {
                            let gives =
                                self.gives(&input, &mut BTreeSet::new()).into_iter().find(|gives| *gives != takes);
                            gives.map(|gives| Fault::KindMismatch {
                                type_name: known.name().to_owned(),
                                takes,
                                input: text.clone(),
                                gives,
                            })
                        }
                        _ => None,
                    };
                }
            } else {
                let others: BTreeSet<&str> = self.by_id.keys().copied().filter(|id| *id != node.id).collect();
                let hint = Hint::new(&input.id, others);
                fault = Some(Fault::UnknownInput(input.id.clone(), hint));
            }
            match fault {
                None => inputs.push(input),
                Some(fault) => self.problems.push(Problem::value(path.index(index), fault)),
            }
        }
        inputs
    }

    /// The kinds of record that an output gives. One that hands on what it takes gives what its own inputs give; what
    /// leads nowhere, or in a circle, gives nothing, and is told elsewhere.
    fn gives(&self, output: &Input, seen: &mut BTreeSet<String>) -> Vec<Kind> {
        let Some(node) = self.by_id.get(output.id.as_str()).map(|index| &self.declared[*index]) else {
            return Vec::new();
        };
        let known = node.type_name.as_deref().and_then(|name| self.registry.get(name));
        let outputs = known.map(OperatorType::outputs).unwrap_or_default();
        match outputs.iter().find(|(name, _)| *name == output.output) {
            Some((_, Kind::Any)) if seen.insert(output.id.clone()) => {
                node.inputs.iter().flat_map(|text| self.gives(&Input::parse(text), seen)).collect()
            }
            Some((_, Kind::Any)) | None => Vec::new(),
            Some((_, kind)) => vec![*kind],
        }
    }

    fn check_running(&mut self, node: &Declared) {
        let path = node.path().key("running");
        let running = &node.running;
        let mut wrong = |path: Path, message: &str| {
            self.problems.push(Problem::value(path, Fault::Invalid(message.to_owned())));
        };
        if running.concurrency == 0 {
            wrong(path.key("concurrency"), "at least 1 instance must run");
        }
        if running.buffer_batches == 0 {
            wrong(path.key("buffer_batches"), "at least 1 batch must have room");
        }
        if running.retry.max_attempts == 0 {
            wrong(path.key("retry").key("max_attempts"), "the first try counts: write at least 1");
        }
        if running.retry.initial_wait > running.retry.max_wait {
            wrong(path.key("retry").key("initial_wait"), "the first wait is longer than `max_wait`");
        }
    }

    /// The options with defaults filled in. Also checks the resources that they name.
    fn check_options(
        &mut self,
        node: &'a Declared,
        known: &dyn OperatorType,
        owners: &mut BTreeMap<(&'static str, String), &'a str>,
    ) -> Option<Value> {
        let (read, problems) = read(&node.options, &node.spellings, &COMMON_FIELDS, |options| known.check(options));
        let sound = problems.is_empty();
        self.problems.extend(problems.into_iter().map(|problem| problem.under(&node.path())));
        // What a default names says nothing about a value that was wrong.
        let (options, uses) = read.filter(|_| sound)?;
        for used in uses {
            let path = node.path().join(&place_of(&node.options, &used.name));
            if let Some(fault) = self.missing_resource(&used) {
                self.problems.push(Problem::value(path, fault));
            } else if used.mode == UseMode::Owned {
                let Use { kind, name, .. } = used;
                match owners.get(&(kind, name.clone())) {
                    Some(owner) if *owner != node.id => {
                        let fault = Fault::TwoOwners { kind, name, owner: (*owner).to_owned() };
                        self.problems.push(Problem::value(path, fault));
                    }
                    _ => {
                        owners.insert((kind, name), &node.id);
                    }
                }
            }
        }
        Some(options)
    }

    fn missing_resource(&self, used: &Use) -> Option<Fault> {
        let Resources { buckets, queues, tables, buses } = self.resources;
        let (kind, names): (_, Vec<&String>) = match used.kind {
            "bucket" => ("bucket", buckets.keys().collect()),
            "queue" => ("queue", queues.keys().collect()),
            "table" | "change_stream" => ("table", tables.keys().collect()),
            "bus" => ("bus", buses.keys().collect()),
            other => (other, Vec::new()),
        };
        if !names.contains(&&used.name) {
            let hint = Hint::new(&used.name, names);
            return Some(Fault::UnknownResource { kind, name: used.name.clone(), hint });
        }
        let streams = tables.get(&used.name).is_some_and(|table| table.stream);
        (used.kind == "change_stream" && !streams).then(|| Fault::NoStream(used.name.clone()))
    }

    fn check_outputs_are_read(&mut self, nodes: &[Node]) {
        // What a node with a wrong input meant to read is not known: then no output can be called unread.
        if self
            .problems
            .iter()
            .any(|problem| matches!(problem.fault, Fault::UnknownInput(..) | Fault::UnknownOutput(..)))
        {
            return;
        }
        for node in self.declared {
            let Some(known) = node.type_name.as_deref().and_then(|name| self.registry.get(name)) else { continue };
            for (output, _) in known.outputs() {
                let mut inputs = nodes.iter().flat_map(|node| &node.inputs);
                let named =
                    |text: &String| Input::parse(text) == Input { id: node.id.clone(), output: output.to_owned() };
                if !inputs.any(|input| input.id == node.id && input.output == output)
                    && !self.declared.iter().flat_map(|other| &other.inputs).any(named)
                {
                    self.problems.push(Problem::key(node.path(), Fault::UnreadOutput(output.to_owned())));
                }
            }
        }
    }

    /// An order in which each node comes after its inputs. It lacks the nodes of loops.
    fn check_cycles(&mut self, nodes: &[Node]) -> Vec<usize> {
        let mut graph = DiGraph::<usize, ()>::new();
        let places: Vec<NodeIndex> = (0..nodes.len()).map(|index| graph.add_node(index)).collect();
        for (index, node) in nodes.iter().enumerate() {
            for input in &node.inputs {
                if let Some(from) = self.by_id.get(input.id.as_str()) {
                    graph.update_edge(places[*from], places[index], ());
                }
            }
        }
        let mut loops: Vec<Vec<usize>> = tarjan_scc(&graph)
            .into_iter()
            .filter(|part| part.len() > 1 || part.iter().any(|place| graph.contains_edge(*place, *place)))
            .map(|part| part.into_iter().map(|place| graph[place]).collect())
            .collect();
        loops.sort_by_key(|part| part.iter().min().copied());
        for part in loops {
            self.name_loop(nodes, &part);
        }
        in_order(&graph)
    }

    /// Follows inputs back from the first node of a strongly connected part until a node comes again.
    fn name_loop(&mut self, nodes: &[Node], part: &[usize]) {
        let Some(mut at) = part.iter().min().copied() else { return };
        let mut seen: Vec<usize> = Vec::new();
        while !seen.contains(&at) {
            seen.push(at);
            let within = |input: &Input| self.by_id.get(input.id.as_str()).copied().filter(|from| part.contains(from));
            let Some(from) = nodes[at].inputs.iter().find_map(within) else { return };
            at = from;
        }
        let begin = seen.iter().position(|index| *index == at).unwrap_or_default();
        let mut names: Vec<String> = seen[begin..].iter().rev().map(|index| nodes[*index].id.clone()).collect();
        // Told from the node that the file declares first.
        let first = seen[begin..].iter().min().map(|index| nodes[*index].id.clone());
        let turn = names.iter().position(|name| Some(name) == first.as_ref()).unwrap_or_default();
        names.rotate_left(turn);
        names.extend(first);
        let reader = &self.declared[self.by_id[names[0].as_str()]];
        let giver = &names[names.len() - 2];
        let index = reader.inputs.iter().position(|text| Input::parse(text).id == *giver).unwrap_or_default();
        self.problems.push(Problem::value(reader.path().key("inputs").index(index), Fault::Cycle(names)));
    }
}

/// Nodes after all that they read, and else in the order of the file: a plan reads as it was written.
fn in_order(graph: &DiGraph<usize, ()>) -> Vec<usize> {
    let mut waits: Vec<usize> =
        graph.node_indices().map(|place| graph.neighbors_directed(place, Incoming).count()).collect();
    let mut ready: BTreeSet<NodeIndex> = graph.node_indices().filter(|place| waits[place.index()] == 0).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(place) = ready.pop_first() {
        order.push(graph[place]);
        for reader in graph.neighbors(place) {
            waits[reader.index()] -= 1;
            if waits[reader.index()] == 0 {
                ready.insert(reader);
            }
        }
    }
    order
}

/// Where in some options a name stands; the root if it is a default.
fn place_of(options: &Value, name: &str) -> Path {
    fn search(value: &Value, name: &str, at: &Path) -> Option<Path> {
        match value {
            Value::String(text) if text == name => Some(at.clone()),
            Value::Object(map) => map.iter().find_map(|(key, value)| search(value, name, &at.key(key))),
            Value::Array(list) => list.iter().enumerate().find_map(|(i, value)| search(value, name, &at.index(i))),
            _ => None,
        }
    }
    search(options, name, &Path::root()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
