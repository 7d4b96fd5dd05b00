//! Dead letters: messages go back to the queue that they came from.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use penstock_engine::cloud::{
    Cloud, Queue,
    queue::{Message, Outgoing},
    resources::TargetSpec,
};

use super::{Outcome, Step};
use crate::loader::Pipeline;

/// The most messages that one call sends back.
const MAX_LETTERS: usize = 1000;

/// Where a dead letter goes: its text tells. Pure.
///
/// A queue of dead letters may serve several queues and a change stream. A change isn't a message of any queue: what it
/// told of stands in the table, where the readings of the index and the sweep find it.
fn destination<'a>(body: &str, sources: &'a [(String, Sort)]) -> Result<&'a str, String> {
    let json: serde_json::Value = serde_json::from_str(body)
        .map_err(|error| format!("its text is no JSON ({error}): no operator can read it"))?;
    let sort = if json.get("sequence").is_some() && json.get("images_cut").is_some() {
        return Err("a change of the table: what it told of is found there by the sweep; delete it once that is done"
            .to_owned());
    } else if json.get("detail-type").is_some() {
        Sort::Event
    } else {
        Sort::Notification
    };
    let mut fitting = sources.iter().filter(|(_, of)| *of == sort);
    match (fitting.next(), fitting.next()) {
        (Some((queue, _)), None) => Ok(queue),
        (None, _) => Err("no queue whose dead letters these are takes such messages".to_owned()),
        (Some(_), Some(_)) => Err("more than one queue could have sent it".to_owned()),
    }
}

/// What a queue's messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Events of the bus.
    Event,
    /// Notifications of new objects, and anything else.
    Notification,
}

/// The queues whose dead letters go to `dead`, and what they carry.
fn sources_of(pipeline: &Pipeline, dead: &str) -> Vec<(String, Sort)> {
    let from_bus = |queue: &str| {
        let rules = pipeline.resources.buses.values().flat_map(|bus| bus.rules.values());
        rules.flat_map(|rule| &rule.targets).any(|target| matches!(target, TargetSpec::Queue(name) if name == queue))
    };
    let queues = pipeline.resources.queues.iter();
    let of = queues.filter(|(_, spec)| spec.dead_letter.as_ref().is_some_and(|letter| letter.queue == dead));
    of.map(|(name, _)| (name.clone(), if from_bus(name) { Sort::Event } else { Sort::Notification })).collect()
}

pub(super) async fn letters(
    cloud: &dyn Cloud,
    pipeline: &Pipeline,
    queue: &str,
    act: bool,
) -> anyhow::Result<Vec<Step>> {
    let known = dead_letter_queues(pipeline);
    if !known.contains(queue) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        bail!("`{queue}` holds no dead letters; these do: {}", known.join(", "));
    }
    let mut letters = Letters {
        dead: cloud.queue(queue).await?,
        cloud,
        queue,
        sources: sources_of(pipeline, queue),
        steps: Vec::new(),
        held: BTreeMap::new(),
    };
    let ended = letters.read(act).await;
    // Whatever came in the way: what is still there shows again at once.
    letters.show_again().await;
    match ended {
        // Nothing was done that has to be told.
        Err(error) if letters.steps.is_empty() => return Err(error),
        Err(error) => letters.steps.push(Step::left(format!("what else is in {queue}"), "", format!("{error:#}"))),
        Ok(()) => {}
    }
    Ok(letters.steps)
}

/// Dead letters as they are read.
struct Letters<'a> {
    cloud: &'a dyn Cloud,
    queue: &'a str,
    dead: Arc<dyn Queue>,
    sources: Vec<(String, Sort)>,
    steps: Vec<Step>,
    /// Those that stay, with the place of their step.
    held: BTreeMap<String, (Message, usize)>,
}

impl Letters<'_> {
    async fn read(&mut self, act: bool) -> anyhow::Result<()> {
        while self.steps.len() < MAX_LETTERS {
            let messages = self.dead.receive(10, Duration::ZERO).await?;
            // What comes again was shown already.
            let fresh = messages.into_iter().filter(|message| !self.held.contains_key(&message.id));
            let fresh: Vec<Message> = fresh.collect();
            if fresh.is_empty() {
                break;
            }
            for message in fresh {
                let (outcome, because) = match destination(&message.body, &self.sources) {
                    Err(because) => (Outcome::Left, because),
                    Ok(target) if act => match self.send(&message, target).await {
                        Ok(()) => (Outcome::Redriven, format!("sent to {target}")),
                        Err(error) => (Outcome::Left, format!("{error:#}")),
                    },
                    Ok(target) => (Outcome::Would, format!("would go to {target}")),
                };
                let what = format!("message {}", message.id);
                self.steps.push(Step { what, reason: excerpt(&message.body), outcome, because });
                if outcome != Outcome::Redriven {
                    self.held.insert(message.id.clone(), (message, self.steps.len() - 1));
                }
            }
        }
        Ok(())
    }

    /// Sent first: a crash between the two makes a duplicate, which every operator bears.
    async fn send(&self, message: &Message, target: &str) -> anyhow::Result<()> {
        let sent = self.cloud.queue(target).await?.send(&[Outgoing::new(message.body.clone())]).await?;
        sent.into_iter().collect::<Result<Vec<()>, _>>()?;
        let also_here = || format!("it was sent to {target}, and is still here: sent twice it does no harm");
        let deleted = self.dead.delete(std::slice::from_ref(&message.receipt)).await.with_context(also_here)?;
        deleted.into_iter().collect::<Result<Vec<()>, _>>().with_context(also_here)?;
        let (message_id, from) = (&message.id, self.queue);
        tracing::info!(message_id, from, to = target, "Dead letter redriven by hand.");
        Ok(())
    }

    async fn show_again(&mut self) {
        for (message, step) in self.held.values() {
            if let Err(error) = self.dead.set_visibility(&message.receipt, Duration::ZERO).await {
                let because = &mut self.steps[*step].because;
                because.push_str(&format!("; it stays hidden until its visibility ends: {error}"));
            }
        }
    }
}

/// The queues that hold dead letters: of other queues, or of change streams.
pub fn dead_letter_queues(pipeline: &Pipeline) -> BTreeSet<String> {
    let of_queues = pipeline.resources.queues.values();
    let of_queues = of_queues.filter_map(|queue| Some(queue.dead_letter.as_ref()?.queue.clone()));
    let of_nodes = pipeline.graph.nodes.iter();
    let of_nodes = of_nodes.filter_map(|node| Some(node.options.get("dead_letter")?.as_str()?.to_owned()));
    of_queues.chain(of_nodes).collect()
}

fn excerpt(body: &str) -> String {
    let shown: String = body.chars().take(200).collect();
    if shown.len() < body.len() { format!("{shown}…") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_goes_where_such_messages_are_read() {
        let sources = [("events".to_owned(), Sort::Notification), ("ready".to_owned(), Sort::Event)];
        assert_eq!(destination(r#"{"Records":[]}"#, &sources), Ok("events"));
        assert_eq!(destination(r#"{"detail-type":"ManifestReady"}"#, &sources), Ok("ready"));
        assert!(destination(r#"{"sequence":"1","images_cut":[]}"#, &sources).unwrap_err().contains("sweep"));
        assert!(destination("{", &sources).unwrap_err().contains("no JSON"));
        assert!(destination(r#"{"detail-type":"x"}"#, &sources[..1]).is_err());
    }
}
