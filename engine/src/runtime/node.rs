//! The task of a transform or sink: batches, ticks and commands, one at a time; retries; containment of panics.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Built, Request, SharedInput, Shell, State, panic_message};
use crate::{
    ack::Verdict,
    operator::{BATCH_RECORDS, Operator, OperatorError, Outputs, Record},
};

pub(super) async fn run(
    shell: Shell,
    operator: Box<dyn Operator>,
    input: Option<SharedInput>,
    commands: Option<mpsc::Receiver<Request>>,
    outputs: Outputs,
    stop: CancellationToken,
) {
    let abort = shell.abort.clone();
    let id = shell.id().to_owned();
    let states = shell.states.clone();
    let task = Task { shell, operator, outputs, stop };
    tokio::select! {
        biased;
        () = task.run(input, commands) => {}
        () = abort.cancelled() => tracing::warn!(operator = id, "Operator dropped: the stop took too long."),
    }
    states.set(&id, State::Stopped);
}

struct Task {
    shell: Shell,
    operator: Box<dyn Operator>,
    outputs: Outputs,
    stop: CancellationToken,
}

/// What comes next for an operator.
enum Next {
    Batch(Vec<Record>),
    Tick,
    Command(Request),
    End,
}

impl Task {
    async fn run(mut self, input: Option<SharedInput>, mut commands: Option<mpsc::Receiver<Request>>) {
        let mut ticks = self.operator.tick_interval().map(interval);
        loop {
            let next = next(&self.stop, input.as_ref(), &mut commands, &mut ticks).await;
            let (began, blocked) = (Instant::now(), self.outputs.blocked());
            match next {
                Next::Batch(records) => self.handle(records).await,
                Next::Tick => self.tick().await,
                Next::Command(request) => self.command(request).await,
                Next::End => break,
            }
            self.outputs.flush().await;
            // Without the time in which it waited for those behind it.
            self.shell.meter.busy(began.elapsed().saturating_sub(self.outputs.blocked() - blocked));
        }
        if let Err(error) = contain(self.operator.on_stop()).await {
            self.shell.failed("stop", &error.to_string());
        }
        self.outputs.flush().await;
    }

    /// Handles a batch: what fails is tried again, alone, until it works, is given up, or the service stops.
    async fn handle(&mut self, mut records: Vec<Record>) {
        let count = records.len() as u64;
        metrics::counter!("penstock_component_received_events_total", "component_id" => self.shell.id().to_owned())
            .increment(count);
        self.shell.meter.received(&records);
        let max_attempts = self.shell.builder.node.running.retry.max_attempts.max(1);
        for attempt in 1.. {
            let failures = self.try_batch(&records).await;
            self.outputs.flush().await;
            if failures.is_empty() {
                self.shell.states.working(self.shell.id());
                return settle(records, Verdict::Done);
            }
            let mut again = Vec::new();
            let mut failures = failures.into_iter().peekable();
            for (index, record) in records.into_iter().enumerate() {
                match failures.next_if(|(failed, _)| *failed == index) {
                    None => record.ack.settle(Verdict::Done),
                    Some((_, error)) => {
                        self.shell.failed("record", &error.to_string());
                        if error.transient && attempt < max_attempts && !self.stop.is_cancelled() {
                            again.push(record);
                        } else {
                            record.ack.settle(error.verdict());
                        }
                    }
                }
            }
            if again.is_empty() {
                return;
            }
            records = again;
            tokio::select! {
                biased;
                () = tokio::time::sleep(self.shell.wait_after(attempt)) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// One try of a batch. The failures are in order of their index.
    async fn try_batch(&mut self, records: &[Record]) -> Vec<(usize, OperatorError)> {
        match AssertUnwindSafe(self.operator.on_batch(records, &mut self.outputs)).catch_unwind().await {
            Ok(mut failures) => {
                failures.sort_by_key(|(index, _)| *index);
                failures.dedup_by_key(|(index, _)| *index);
                failures
            }
            Err(panic) => {
                let message = panic_message(&*panic);
                self.rebuild().await;
                // Which record it was can't be told: each is tried again, and effects bear that.
                (0..records.len()).map(|index| (index, OperatorError::transient(message.clone()))).collect()
            }
        }
    }

    async fn tick(&mut self) {
        match AssertUnwindSafe(self.operator.on_tick(&mut self.outputs)).catch_unwind().await {
            Ok(Ok(())) => self.shell.states.working(self.shell.id()),
            Ok(Err(error)) => self.shell.failed("tick", &error.to_string()),
            Err(panic) => {
                self.shell.failed("tick", &panic_message(&*panic));
                self.rebuild().await;
            }
        }
    }

    async fn command(&mut self, request: Request) {
        let answer = contain(self.operator.on_command(&request.command)).await;
        // Whoever asked may have gone away: the command was carried out all the same.
        if request.answer.send(answer).is_err() {
            tracing::debug!(operator = self.shell.id(), "Nobody waits for the answer to a command.");
        }
    }

    /// Replaces an operator whose memory can't be trusted any more.
    async fn rebuild(&mut self) {
        match self.shell.builder.build().await {
            Ok(Built::Operator(operator)) => self.operator = operator,
            Ok(Built::Source(_)) => self.shell.failed("build", "its type builds a source"),
            Err(error) => self.shell.failed("build", &error.to_string()),
        }
    }
}

async fn next(
    stop: &CancellationToken,
    input: Option<&SharedInput>,
    commands: &mut Option<mpsc::Receiver<Request>>,
    ticks: &mut Option<Interval>,
) -> Next {
    let batch = async {
        match input {
            Some(input) => receive(input).await,
            // Without an input it ends when the service stops.
            None => {
                stop.cancelled().await;
                None
            }
        }
    };
    let command = async {
        match commands {
            Some(commands) => match commands.recv().await {
                Some(request) => request,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    };
    let tick = async {
        match ticks {
            Some(ticks) => ticks.tick().await,
            None => std::future::pending().await,
        }
    };
    // Ticks and commands go first: a flood of records must not starve them.
    tokio::select! {
        biased;
        request = command => Next::Command(request),
        _ = tick => Next::Tick,
        batch = batch => batch.map_or(Next::End, Next::Batch),
    }
}

/// Waits for a batch, and takes what else is waiting, up to a full batch.
async fn receive(input: &SharedInput) -> Option<Vec<Record>> {
    let mut input = input.lock().await;
    let mut records = input.recv().await?;
    while records.len() < BATCH_RECORDS {
        match input.try_recv() {
            Ok(more) => records.extend(more),
            Err(_) => break,
        }
    }
    Some(records)
}

async fn contain<T>(call: impl Future<Output = Result<T, OperatorError>>) -> Result<T, OperatorError> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(OperatorError::transient(panic_message(&*panic))),
    }
}

fn settle(records: Vec<Record>, verdict: Verdict) {
    for record in records {
        record.ack.settle(verdict.clone());
    }
}

fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
