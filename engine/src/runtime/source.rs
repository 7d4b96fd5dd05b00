//! The task of a source: runs it, and runs it again when it fails.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{Built, Shell, State, panic_message};
use crate::operator::{Outputs, Source};

pub(super) async fn run(shell: Shell, source: Box<dyn Source>, mut outputs: Outputs, stop: CancellationToken) {
    let abort = shell.abort.clone();
    tokio::select! {
        biased;
        () = keep_running(&shell, source, &mut outputs, stop) => {}
        () = abort.cancelled() => tracing::warn!(operator = shell.id(), "Source dropped: the stop took too long."),
    }
    shell.states.set(shell.id(), State::Stopped);
}

async fn keep_running(shell: &Shell, mut source: Box<dyn Source>, outputs: &mut Outputs, stop: CancellationToken) {
    let mut failures = 0;
    loop {
        shell.states.working(shell.id());
        let started = tokio::time::Instant::now();
        let error = match AssertUnwindSafe(source.run(outputs, stop.clone())).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_message(&*panic),
        };
        // One that ran well for a while begins to count anew.
        failures = if started.elapsed() > shell.builder.node.running.retry.max_wait { 1 } else { failures + 1 };
        shell.failed("source", &error);
        if stop.is_cancelled() {
            return;
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(shell.wait_after(failures)) => {}
            () = stop.cancelled() => return,
        }
        match shell.builder.build().await {
            Ok(Built::Source(again)) => source = again,
            Ok(Built::Operator(_)) => shell.failed("build", "its type builds no source"),
            Err(error) => shell.failed("build", &error.to_string()),
        }
    }
}
