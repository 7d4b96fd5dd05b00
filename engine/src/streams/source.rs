//! The `change_stream` source: a consumer as an operator of a graph.

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    consumer::{Consumer, Delivery, PAGES},
    options::ChangeStreamOptions,
};
use crate::{
    graph::{Access, Build, Built, Role, Use},
    operator::{Body, Context, Kind, MAIN_OUTPUT, OperatorError, Outputs, Source},
};

#[async_trait]
impl Build for ChangeStreamOptions {
    const NAME: &'static str = "change_stream";
    const ABOUT: &'static str = "Reads a table's changes in order, shares its shards with other workers by leases, and \
                                 checkpoints what is durable.";
    const ROLE: Role = Role::Source;

    fn input() -> Option<Kind> {
        None
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Change)]
    }

    fn uses(&self) -> Vec<Use> {
        // The items of a closed shard's children are put.
        let leases = Use::shared("table", &self.leases, &[Access::Get, Access::Query, Access::Put, Access::Update]);
        let mut uses = vec![Use::owned("change_stream", &self.table), leases];
        uses.extend(self.dead_letter.iter().map(|queue| Use::shared("queue", queue, &[])));
        uses
    }

    fn check(&self) -> Result<(), String> {
        Self::check(self)
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let stream = context.cloud.change_stream(&self.table).await?;
        let leases = context.leases(&self.leases, self.lease_length).await?;
        let dead_letter = self.dead_letter.clone();
        let mut builder = Consumer::builder(stream, leases, self).clock(context.clock).common(context.streams);
        if let Some(queue) = dead_letter {
            builder = builder.dead_letter(context.cloud.queue(&queue).await?);
        }
        let consumer = builder.build().map_err(|error| OperatorError::permanent(error.to_string()))?;
        Ok(Built::Source(Box::new(ChangeStreamSource { consumer })))
    }
}

struct ChangeStreamSource {
    consumer: Consumer,
}

#[async_trait]
impl Source for ChangeStreamSource {
    async fn run(&mut self, out: &mut Outputs, stop: CancellationToken) -> Result<(), OperatorError> {
        let (sender, pages) = mpsc::channel(PAGES);
        // Side by side: pressure from downstream holds up neither verdicts nor checkpoints.
        tokio::select! {
            biased;
            () = self.consumer.run(sender, stop) => {}
            () = emit(pages, out) => {}
        }
        Ok(())
    }
}

/// Emits page after page, for as long as the consumer lives.
async fn emit(mut pages: mpsc::Receiver<Vec<Delivery>>, out: &mut Outputs) {
    while let Some(page) = pages.recv().await {
        for delivery in page {
            out.emit_to(MAIN_OUTPUT, Body::Change(delivery.change), delivery.ack).await;
        }
        out.flush().await;
    }
    // The consumer has dropped its end, and says itself when it is done.
    std::future::pending().await
}
