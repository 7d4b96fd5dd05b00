//! The overview: the graph with what flows through it, the queues, the counts, and whether it is ready.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chrono::Utc;
use penstock_engine::{
    graph::{Node, Registry},
    health::Readiness,
    monitor::About,
    runtime::{State as OperatorState, meter::Measured},
    time::format_time,
};
use serde::Serialize;

use super::{Answer, Dashboard, Shared};
use crate::facts::{Facts, Trouble};

/// What stands above every page.
#[derive(Debug, Serialize)]
pub struct Process {
    about: About,
    /// When it was made; rates are differences of two views.
    now_ms: i64,
    now: String,
    readiness: Readiness,
    actions_allowed: bool,
}

/// The overview.
#[derive(Debug, Serialize)]
pub struct View {
    #[serde(flatten)]
    process: Process,
    operators: Vec<Operator>,
    queues: Vec<QueueView>,
    totals: Totals,
    dates: Vec<DateView>,
    /// Items that can't be read, as many as are shown of `totals.unreadable`.
    unreadable: Vec<Trouble>,
}

/// An operator of the graph.
#[derive(Debug, Serialize)]
struct Operator {
    id: String,
    type_name: String,
    about: &'static str,
    role: &'static str,
    inputs: Vec<Edge>,
    /// Resources, as `queue file-events`.
    uses: Vec<String>,
    /// How it is; nothing if another process runs it.
    state: Option<OperatorState>,
    measured: Option<Measured>,
}

#[derive(Debug, Serialize)]
struct Edge {
    from: String,
    output: String,
}

#[derive(Debug, Serialize)]
struct QueueView {
    name: String,
    is_dead_letter: bool,
    visible: u64,
    in_flight: u64,
    delayed: u64,
}

#[derive(Debug, Serialize)]
struct Totals {
    /// Whether all items were counted; else these are lower bounds.
    complete: bool,
    files: BTreeMap<String, u64>,
    manifests: BTreeMap<String, u64>,
    rows: u64,
    rejected_rows: u64,
    corrupt_rows: u64,
    bytes: u64,
    unsettled_manifests: u64,
    unreadable: usize,
}

#[derive(Debug, Serialize)]
struct DateView {
    date: String,
    files: BTreeMap<&'static str, u64>,
    manifests: BTreeMap<&'static str, u64>,
    rows: u64,
    rejected_rows: u64,
    oldest_pending: Option<String>,
}

/// At most so many dates are shown, the newest first.
const DATES: usize = 31;
/// At most so many items that can't be read are shown.
const UNREADABLE: usize = 10;

/// What this process is and how it is. Reads nothing.
pub async fn process(State(dashboard): State<Shared>) -> Json<Process> {
    Json(dashboard.process())
}

impl Dashboard {
    fn process(&self) -> Process {
        let now = Utc::now();
        Process {
            about: self.monitor.about().clone(),
            now_ms: now.timestamp_millis(),
            now: format_time(now),
            readiness: self.monitor.readiness(),
            actions_allowed: self.token.is_some(),
        }
    }
}

pub async fn get(State(dashboard): State<Shared>) -> Answer<View> {
    let (counts, queues) = (dashboard.counts().await?, dashboard.queues().await?);
    let service = dashboard.monitor.service();
    let (states, measured) = match &service {
        Some(service) => (service.states(), service.meters().snapshot()),
        None => Default::default(),
    };
    let resources = &dashboard.pipeline.resources;
    let dead: Vec<&String> =
        resources.queues.values().filter_map(|queue| Some(&queue.dead_letter.as_ref()?.queue)).collect();
    Ok(Json(View {
        process: dashboard.process(),
        operators: operators(&dashboard.pipeline.graph.nodes, &dashboard.registry, &states, &measured),
        queues: queues
            .iter()
            .map(|(name, depth)| QueueView {
                name: name.clone(),
                is_dead_letter: dead.contains(&name),
                visible: depth.visible,
                in_flight: depth.in_flight,
                delayed: depth.delayed,
            })
            .collect(),
        totals: totals(&counts),
        dates: dates(&counts),
        unreadable: counts.unreadable.iter().take(UNREADABLE).cloned().collect(),
    }))
}

fn operators(
    nodes: &[Node],
    registry: &Registry,
    states: &BTreeMap<String, OperatorState>,
    measured: &BTreeMap<String, Measured>,
) -> Vec<Operator> {
    let operator = |node: &Node| {
        let of_type = registry.get(&node.type_name);
        let uses = of_type.and_then(|of_type| of_type.check(&node.options).ok()).map(|(_, uses)| uses);
        Operator {
            id: node.id.clone(),
            type_name: node.type_name.clone(),
            about: of_type.map_or("", |of_type| of_type.about()),
            role: of_type.map_or("transform", |of_type| of_type.role().noun()),
            inputs: node
                .inputs
                .iter()
                .map(|input| Edge { from: input.id.clone(), output: input.output.clone() })
                .collect(),
            uses: uses.into_iter().flatten().map(|of| format!("{} {}", of.kind.replace('_', " "), of.name)).collect(),
            state: states.get(&node.id).cloned(),
            measured: measured.get(&node.id).cloned(),
        }
    };
    nodes.iter().map(operator).collect()
}

fn totals(facts: &Facts) -> Totals {
    let (mut files, mut manifests) = (BTreeMap::new(), BTreeMap::new());
    for date in facts.dates.values() {
        for (state, count) in &date.files {
            *files.entry((*state).to_owned()).or_default() += count;
        }
        for (state, count) in &date.manifests {
            *manifests.entry((*state).to_owned()).or_default() += count;
        }
    }
    Totals {
        complete: !facts.is_floor,
        files,
        manifests,
        rows: facts.rows(),
        rejected_rows: facts.rejected_rows(),
        corrupt_rows: facts.corrupt_rows(),
        bytes: facts.bytes(),
        unsettled_manifests: facts.unsettled_manifests,
        unreadable: facts.unreadable.len(),
    }
}

fn dates(facts: &Facts) -> Vec<DateView> {
    let view = |(date, of): (&String, &crate::facts::DateFacts)| DateView {
        date: date.clone(),
        files: of.files.clone(),
        manifests: of.manifests.clone(),
        rows: of.rows,
        rejected_rows: of.rejected_rows,
        oldest_pending: of.oldest_pending.clone(),
    };
    facts.dates.iter().rev().take(DATES).map(view).collect()
}
