//! Running a graph: a task per operator instance, bounded channels between them, and an orderly end.
//!
//! A source that fails, and an operator that panics, is counted, named and started anew after a wait; it never ends the
//! service. On stop the sources stop reading and wait for their verdicts; as each one ends its channels close, so the
//! operators behind it drain, stop, and close theirs.

mod events;
pub mod meter;
mod node;
mod source;
pub mod tap;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, broadcast, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use events::OperatorFailed;
use meter::{Meter, Meters};

use crate::{
    graph::{Built, Graph, Node, Registry},
    operator::{Command, Context, OperatorError, Outputs, Readers, Record},
};

/// A graph that runs.
pub struct Service {
    commands: BTreeMap<String, mpsc::Sender<Request>>,
    states: States,
    meters: Meters,
    stop: CancellationToken,
    tasks: TaskTracker,
    abort: CancellationToken,
}

/// A way to a service for those who look at it and command it; it doesn't keep the service going. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: BTreeMap<String, mpsc::WeakSender<Request>>,
    states: States,
    meters: Meters,
}

impl Handle {
    /// How each operator is.
    pub fn states(&self) -> BTreeMap<String, State> {
        self.states.snapshot()
    }

    /// What each operator has done.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Looks at the records that pass an operator, from now on; `None` if it doesn't run here.
    pub fn tap(&self, id: &str) -> Option<broadcast::Receiver<tap::Passed>> {
        self.meters.tap(id)
    }

    /// Gives an operator a command, and waits for its answer.
    pub async fn command(&self, id: &str, command: Command) -> Result<Value, OperatorError> {
        let known = || self.commands.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some(sender) = self.commands.get(id) else {
            return Err(OperatorError::permanent(format!("there is no operator `{id}` here; there are: {}", known())));
        };
        let (answer, answered) = oneshot::channel();
        let stopped = || OperatorError::transient(format!("operator `{id}` has stopped, or takes no commands"));
        let sender = sender.upgrade().ok_or_else(stopped)?;
        sender.send(Request { command, answer }).await.map_err(|_| stopped())?;
        drop(sender);
        answered.await.map_err(|_| stopped())?
    }
}

/// Why a service couldn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The registry has no such type: the graph was checked against another one.
    #[error("operator `{id}` has unknown type `{type_name}`")]
    UnknownType {
        /// The operator.
        id: String,
        /// Its type.
        type_name: String,
    },
    /// An operator couldn't be built.
    #[error("operator `{id}` can't start: {source}")]
    Build {
        /// The operator.
        id: String,
        /// Why.
        source: OperatorError,
    },
}

/// How an operator is.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It works.
    Running,
    /// It failed, and is tried or started anew after a wait.
    Failing {
        /// The last failure.
        error: String,
        /// Since when.
        since: DateTime<Utc>,
        /// How often in a row.
        failures: u32,
    },
    /// It has stopped.
    Stopped,
}

/// The state of each operator, by id.
#[derive(Clone, Default)]
pub struct States(Arc<Mutex<BTreeMap<String, State>>>);

impl States {
    /// All of them.
    pub fn snapshot(&self) -> BTreeMap<String, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, id: &str, state: State) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), state);
    }

    fn working(&self, id: &str) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(states.get(id), Some(State::Running)) {
            states.insert(id.to_owned(), State::Running);
        }
    }

    fn failing(&self, id: &str, error: &str, now: DateTime<Utc>) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, failures) = match states.get(id) {
            Some(State::Failing { since, failures, .. }) => (*since, failures.saturating_add(1)),
            _ => (now, 1),
        };
        states.insert(id.to_owned(), State::Failing { error: error.to_owned(), since, failures });
    }
}

/// A command on its way to an operator, and where its answer goes.
struct Request {
    command: Command,
    answer: oneshot::Sender<Result<Value, OperatorError>>,
}

/// The readers of each operator's outputs, by the operator's id.
type Feeds = BTreeMap<String, BTreeMap<String, Readers>>;

/// The batches that the instances of one operator share.
type SharedInput = Arc<AsyncMutex<mpsc::Receiver<Vec<Record>>>>;

impl Service {
    /// Builds every operator of `graph`, then starts them, the last first: no record is emitted before all its readers
    /// run.
    ///
    /// `context` is a template: each operator gets its own id. Its `stop` is what [`Service::stop`] cancels.
    pub async fn start(graph: &Graph, registry: Arc<Registry>, context: Context) -> Result<Self, StartError> {
        let mut builders = Vec::new();
        for node in &graph.nodes {
            let type_exists = registry.get(&node.type_name).is_some();
            if !type_exists {
                return Err(StartError::UnknownType { id: node.id.clone(), type_name: node.type_name.clone() });
            }
            let builder = Builder {
                registry: Arc::clone(&registry),
                node: node.clone(),
                context: Context { id: node.id.clone(), ..context.clone() },
            };
            builders.push(builder);
        }

        // Which channels each output feeds. A channel ends when its last sender is dropped, so none may be kept here.
        let mut receivers: BTreeMap<String, mpsc::Receiver<Vec<Record>>> = BTreeMap::new();
        let mut inputs = BTreeMap::new();
        let mut feeds: Feeds = Feeds::new();
        for node in graph.nodes.iter().filter(|node| !node.inputs.is_empty()) {
            let (sender, receiver) = mpsc::channel(node.running.buffer_batches.max(1));
            receivers.insert(node.id.clone(), receiver);
            inputs.insert(node.id.clone(), sender.downgrade());
            for input in &node.inputs {
                let ports = feeds.entry(input.id.clone()).or_default();
                ports.entry(input.output.clone()).or_default().push(sender.clone());
            }
        }

        let service = Self {
            commands: BTreeMap::new(),
            states: States::default(),
            meters: Meters::default(),
            stop: context.stop.clone(),
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
        };
        service.spawn_all(builders, receivers, inputs, feeds).await
    }

    async fn spawn_all(
        mut self,
        builders: Vec<Builder>,
        mut receivers: BTreeMap<String, mpsc::Receiver<Vec<Record>>>,
        mut inputs: BTreeMap<String, mpsc::WeakSender<Vec<Record>>>,
        mut feeds: Feeds,
    ) -> Result<Self, StartError> {
        // Build everything before anything runs: a pipeline that can't start whole doesn't start.
        let mut built = Vec::new();
        for builder in builders {
            let instances =
                if receivers.contains_key(&builder.node.id) { builder.node.running.concurrency.max(1) } else { 1 };
            let mut operators = Vec::new();
            for _ in 0..instances {
                operators.push(
                    builder
                        .build()
                        .await
                        .map_err(|source| StartError::Build { id: builder.node.id.clone(), source })?,
                );
            }
            built.push((builder, operators));
        }
        for (builder, operators) in built.into_iter().rev() {
            let id = builder.node.id.clone();
            let input = receivers.remove(&id).map(|receiver| Arc::new(AsyncMutex::new(receiver)));
            let ports = feeds.remove(&id).unwrap_or_default();
            let (command_sender, command_receiver) = mpsc::channel(16);
            self.commands.insert(id.clone(), command_sender);
            let mut commands = Some(command_receiver);
            self.states.set(&id, State::Running);
            let meter = self.meters.add(&id, inputs.remove(&id), operators.len());
            for operator in operators {
                let outputs = Outputs::new(ports.clone()).metered(&id, Arc::clone(&meter));
                let shell = Shell {
                    builder: builder.clone(),
                    states: self.states.clone(),
                    meter: Arc::clone(&meter),
                    abort: self.abort.clone(),
                };
                match operator {
                    Built::Source(source) => {
                        self.tasks.spawn(source::run(shell, source, outputs, self.stop.clone()));
                    }
                    Built::Operator(operator) => {
                        let commands = commands.take();
                        self.tasks.spawn(node::run(
                            shell,
                            operator,
                            input.clone(),
                            commands,
                            outputs,
                            self.stop.clone(),
                        ));
                    }
                }
            }
        }
        self.tasks.close();
        Ok(self)
    }

    /// Gives an operator a command, and waits for its answer.
    pub async fn command(&self, id: &str, command: Command) -> Result<Value, OperatorError> {
        self.handle().command(id, command).await
    }

    /// A way to it for those who look at it and command it.
    pub fn handle(&self) -> Handle {
        let commands = self.commands.iter().map(|(id, sender)| (id.clone(), sender.downgrade())).collect();
        Handle { commands, states: self.states.clone(), meters: self.meters.clone() }
    }

    /// How each operator is.
    pub fn states(&self) -> States {
        self.states.clone()
    }

    /// Stops in order: sources first, then what drains behind them. After `limit` what still runs is dropped; its
    /// records have no verdict and will be offered again. Returns whether everything ended by itself.
    pub async fn stop(self, limit: Duration) -> bool {
        self.stop.cancel();
        drop(self.commands);
        let orderly = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        self.abort.cancel();
        self.tasks.wait().await;
        orderly
    }
}

/// Builds the instances of one operator: at the start, and anew after a panic.
#[derive(Clone)]
struct Builder {
    registry: Arc<Registry>,
    node: Node,
    context: Context,
}

impl Builder {
    async fn build(&self) -> Result<Built, OperatorError> {
        let Some(operator_type) = self.registry.get(&self.node.type_name) else {
            return Err(OperatorError::permanent(format!("unknown type `{}`", self.node.type_name)));
        };
        operator_type.build(&self.node.options, self.context.clone()).await
    }
}

/// What the task of any operator needs around it.
#[derive(Clone)]
struct Shell {
    builder: Builder,
    states: States,
    meter: Arc<Meter>,
    abort: CancellationToken,
}

impl Shell {
    fn id(&self) -> &str {
        &self.builder.node.id
    }

    /// Logs, counts and shows a failure.
    fn failed(&self, what: &'static str, error: &str) {
        OperatorFailed { id: self.id(), stage: what, error }.emit();
        self.meter.failed();
        self.states.failing(self.id(), error, self.builder.context.clock.now());
    }

    /// The wait after the `failures`-th failure in a row: doubling, within bounds.
    fn wait_after(&self, failures: u32) -> Duration {
        let retry = &self.builder.node.running.retry;
        retry.initial_wait.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(retry.max_wait)
    }
}

/// The words of a panic.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}
