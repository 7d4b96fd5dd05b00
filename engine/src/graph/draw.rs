//! Drawings of a graph: Mermaid for pages, DOT for Graphviz.
//!
//! Operators stand in their services; the resources that they use stand beside them with dotted lines, so that a reader
//! sees how the cloud joins what channels do not.

use std::collections::{BTreeMap, BTreeSet};

use super::{Graph, Input, Node, Registry, Role};
use crate::{
    cloud::resources::{Resources, TargetSpec},
    operator::MAIN_OUTPUT,
};

/// What a drawing shows around the operators.
pub struct Surroundings<'a> {
    /// The types, which say what resources each operator uses.
    pub registry: &'a Registry,
    /// The declared resources.
    pub resources: &'a Resources,
    /// The services and their operators.
    pub services: &'a BTreeMap<String, Vec<String>>,
}

impl Graph {
    /// A Mermaid flowchart.
    pub fn to_mermaid(&self, around: &Surroundings<'_>) -> String {
        let drawing = Drawing::new(self, around);
        let mut lines = vec!["flowchart LR".to_owned()];
        for (service, nodes) in &drawing.services {
            let indent = if service.is_some() { "    " } else { "  " };
            lines.extend(service.map(|service| format!("  subgraph {service}")));
            for node in nodes {
                let (open, close) = match drawing.role(node) {
                    Role::Source => ("([", "])"),
                    Role::Transform => ("[", "]"),
                    Role::Sink => ("[/", "/]"),
                };
                lines.push(format!("{indent}{}{open}\"{}\"{close}", node.id, label(node, "<br/>")));
            }
            lines.extend(service.map(|_| "  end".to_owned()));
        }
        for resource in &drawing.resources {
            lines.push(format!("  {}[(\"{} {}\")]", resource.id(), resource.kind, resource.name));
        }
        for (input, reader) in drawing.edges() {
            let arrow = if input.output == MAIN_OUTPUT { "-->".to_owned() } else { format!("-- {} -->", input.output) };
            lines.push(format!("  {} {arrow} {}", input.id, reader.id));
        }
        for link in &drawing.links {
            lines.push(format!("  {} {} {}", link.from, if link.directed { "-.->" } else { "-.-" }, link.to));
        }
        lines.join("\n") + "\n"
    }

    /// A Graphviz digraph.
    pub fn to_dot(&self, around: &Surroundings<'_>) -> String {
        let drawing = Drawing::new(self, around);
        let mut dot = String::from("digraph pipeline {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n");
        for (service, nodes) in &drawing.services {
            let indent = if service.is_some() { "    " } else { "  " };
            if let Some(service) = service {
                line(&mut dot, &format!("  subgraph \"cluster_{service}\" {{\n    label=\"{service}\";"));
            }
            for node in nodes {
                let shape = match drawing.role(node) {
                    Role::Source => "ellipse",
                    Role::Transform => "box",
                    Role::Sink => "parallelogram",
                };
                line(&mut dot, &format!("{indent}\"{}\" [label=\"{}\", shape={shape}];", node.id, label(node, "\\n")));
            }
            if service.is_some() {
                line(&mut dot, "  }");
            }
        }
        for resource in &drawing.resources {
            let (id, kind, name) = (resource.id(), resource.kind, &resource.name);
            line(&mut dot, &format!("  \"{id}\" [label=\"{kind} {name}\", shape=cylinder];"));
        }
        for (input, reader) in drawing.edges() {
            let label =
                if input.output == MAIN_OUTPUT { String::new() } else { format!(" [label=\"{}\"]", input.output) };
            line(&mut dot, &format!("  \"{}\" -> \"{}\"{label};", input.id, reader.id));
        }
        for link in &drawing.links {
            let head = if link.directed { "" } else { ", dir=none" };
            line(&mut dot, &format!("  \"{}\" -> \"{}\" [style=dotted{head}];", link.from, link.to));
        }
        dot + "}\n"
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn label(node: &Node, line_break: &str) -> String {
    if node.id == node.type_name { node.id.clone() } else { format!("{}{line_break}{}", node.id, node.type_name) }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Resource {
    kind: &'static str,
    name: String,
}

impl Resource {
    fn new(kind: &'static str, name: &str) -> Self {
        Self { kind, name: name.to_owned() }
    }

    /// Its id in a drawing; operators' ids never begin so.
    fn id(&self) -> String {
        let mut id = format!("{}__", self.kind.to_uppercase());
        for c in self.name.chars() {
            if c.is_ascii_alphanumeric() {
                id.push(c);
            } else {
                id.push('_');
            }
        }
        id
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    from: String,
    to: String,
    directed: bool,
}

struct Drawing<'a> {
    graph: &'a Graph,
    registry: &'a Registry,
    services: Vec<(Option<&'a str>, Vec<&'a Node>)>,
    resources: BTreeSet<Resource>,
    links: BTreeSet<Link>,
}

impl<'a> Drawing<'a> {
    fn new(graph: &'a Graph, around: &Surroundings<'a>) -> Self {
        let served = |ids: &Vec<String>| graph.nodes.iter().filter(|node| ids.contains(&node.id)).collect::<Vec<_>>();
        let mut services: Vec<_> =
            around.services.iter().map(|(name, ids)| (Some(name.as_str()), served(ids))).collect();
        let alone = |node: &&Node| !around.services.values().flatten().any(|id| *id == node.id);
        services.push((None, graph.nodes.iter().filter(alone).collect()));
        services.retain(|(_, nodes)| !nodes.is_empty());
        let mut drawing =
            Self { graph, registry: around.registry, services, resources: BTreeSet::new(), links: BTreeSet::new() };
        drawing.add_uses();
        drawing.add_deliveries(around.resources);
        drawing
    }

    fn role(&self, node: &Node) -> Role {
        self.registry.get(&node.type_name).map_or(Role::Transform, |known| known.role())
    }

    fn edges(&self) -> impl Iterator<Item = (&'a Input, &'a Node)> {
        self.graph.nodes.iter().flat_map(|node| node.inputs.iter().map(move |input| (input, node)))
    }

    /// What operators use. Only a source says in which direction.
    fn add_uses(&mut self) {
        for node in &self.graph.nodes {
            let checked = self.registry.get(&node.type_name).map(|known| known.check(&node.options));
            let Some(Ok((_, uses))) = checked else { continue };
            for used in uses {
                let kind = if used.kind == "change_stream" { "table" } else { used.kind };
                let resource = Resource::new(kind, &used.name);
                let directed = self.role(node) == Role::Source;
                let (from, to) = (resource.id(), node.id.clone());
                let (from, to) = if directed { (from, to) } else { (to, from) };
                self.links.insert(Link { from, to, directed });
                self.resources.insert(resource);
            }
        }
    }

    /// What the cloud itself carries from one resource to another, where a drawn one takes part.
    fn add_deliveries(&mut self, resources: &Resources) {
        let notified = resources.buckets.iter().filter_map(|(name, bucket)| {
            Some((Resource::new("bucket", name), Resource::new("queue", &bucket.notify.as_ref()?.queue)))
        });
        let routed = resources.buses.iter().flat_map(|(name, bus)| {
            let targets = bus.rules.values().flat_map(|rule| &rule.targets);
            targets.filter_map(|target| {
                let to = match target {
                    TargetSpec::Queue(queue) => Resource::new("queue", queue),
                    TargetSpec::Topic(topic) => Resource::new("topic", topic),
                    TargetSpec::File(_) | TargetSpec::Webhook(_) | TargetSpec::Log {} => return None,
                };
                Some((Resource::new("bus", name), to))
            })
        });
        for (from, to) in notified.chain(routed) {
            if self.resources.contains(&from) || self.resources.contains(&to) {
                self.links.insert(Link { from: from.id(), to: to.id(), directed: true });
                self.resources.extend([from, to]);
            }
        }
    }
}
