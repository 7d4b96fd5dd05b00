//! The background task that renews all of a process's leases and gives them back.
//!
//! It owns the list of what is held, and looks at a lease when it is due and not before, so that a thousand of them cost
//! what their renewals cost. Renewals run side by side and each has a time limit, so that one slow answer delays no other
//! lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{Core, decide, events, lease::Held};
use crate::cloud::{CloudError, table::Outcome};

/// How often giving back is tried before the lease is left to expire.
const RELEASE_TRIES: u32 = 3;

/// What the task is told.
pub(super) enum Command {
    /// Renew this one from now on.
    Hold { held: Arc<Held>, counter: u64, began: Instant },
    /// A write of its holder showed that it has another owner.
    Lost { held: Arc<Held> },
    /// Give this one back.
    Release { held: Arc<Held>, done: Option<oneshot::Sender<()>> },
    /// Give all back.
    ReleaseAll { done: oneshot::Sender<()> },
}

/// What is known of a held lease besides what its handle sees.
struct Entry {
    held: Arc<Held>,
    counter: u64,
    renew_at: Instant,
    busy: bool,
    /// When to look at it again, as the schedule has it.
    due: Instant,
    /// Why the last renewal failed, for the log.
    failure: Option<String>,
}

impl Entry {
    fn is_due_at(&self) -> Instant {
        let expires = self.held.expires();
        if self.busy { expires } else { self.renew_at.min(expires) }
    }
}

enum Finished {
    Renewal { token: String, renewal: Renewal },
    Release,
}

/// How a renewal ended.
enum Renewal {
    /// The counter stands there, by a write that began then.
    Kept { counter: u64, began: Instant },
    /// The item shows another holder, or none.
    Lost(String),
    /// No telling, or certainly not done: to be tried again.
    Failed(CloudError),
}

/// Starts the task. It ends when the last [`Leases`](super::Leases) and [`Lease`](super::Lease) are gone.
pub(super) fn spawn(core: Arc<Core>) -> mpsc::UnboundedSender<Command> {
    let (sender, commands) = mpsc::unbounded_channel();
    let (held, schedule, running) = (BTreeMap::new(), BTreeSet::new(), FuturesUnordered::new());
    tokio::spawn(Keeper { core, held, schedule, running }.run(commands));
    sender
}

struct Keeper {
    core: Arc<Core>,
    /// By token.
    held: BTreeMap<String, Entry>,
    /// When to look at which lease again.
    schedule: BTreeSet<(Instant, String)>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
}

impl Keeper {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut open = true;
        let mut counted = None;
        while open || !self.running.is_empty() {
            let wake = self.schedule.first().map(|(due, _)| *due);
            tokio::select! {
                biased;
                command = commands.recv(), if open => match command {
                    Some(command) => self.on_command(command),
                    None => open = false,
                },
                Some(finished) = self.running.next() => self.on_finished(finished),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            self.look_at_due();
            if counted.replace(self.held.len()) != Some(self.held.len()) {
                let owner = self.core.owner.clone();
                metrics::gauge!("penstock_leases_held", "owner" => owner).set(self.held.len() as f64);
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Hold { held, counter, began } => {
                let renew_at = began + self.core.options.renew_every();
                let token = held.token.clone();
                let entry = Entry { held, counter, renew_at, busy: false, due: renew_at, failure: None };
                self.held.insert(token.clone(), entry);
                self.reschedule(&token);
            }
            Command::Lost { held } => self.lose(&held.token, "another owner was found there by a write"),
            Command::Release { held, done } => self.release(held, done),
            Command::ReleaseAll { done } => {
                let held: Vec<_> = self.held.values().map(|entry| Arc::clone(&entry.held)).collect();
                let releases: Vec<_> = held.into_iter().map(|held| self.releasing(held)).collect();
                let all = async move {
                    futures::future::join_all(releases).await;
                    answer(Some(done));
                    Finished::Release
                };
                self.running.push(all.boxed());
            }
        }
    }

    fn release(&mut self, held: Arc<Held>, done: Option<oneshot::Sender<()>>) {
        let releasing = self.releasing(held);
        let release = async move {
            releasing.await;
            answer(done);
            Finished::Release
        };
        self.running.push(release.boxed());
    }

    fn releasing(&mut self, held: Arc<Held>) -> impl Future<Output = ()> + Send + use<> {
        self.forget(&held.token);
        held.lost.cancel();
        give_back(Arc::clone(&self.core), held)
    }

    fn on_finished(&mut self, finished: Finished) {
        let Finished::Renewal { token, renewal } = finished else { return };
        // Given back or expired in the meantime: an expired lease is never renewed.
        let Some(entry) = self.held.get_mut(&token) else { return };
        entry.busy = false;
        let options = self.core.options;
        match renewal {
            Renewal::Kept { counter, began } => {
                entry.counter = counter;
                entry.renew_at = began + options.renew_every();
                entry.failure = None;
                entry.held.extend(options.expiry(began));
            }
            Renewal::Lost(reason) => return self.lose(&token, &reason),
            Renewal::Failed(error) => {
                entry.renew_at = Instant::now() + options.renew_every() / 4;
                events::RenewalFailed { key: &entry.held.key, error: &error }.emit();
                entry.failure = Some(error.to_string());
            }
        }
        self.reschedule(&token);
    }

    fn lose(&mut self, token: &str, reason: &str) {
        if let Some(entry) = self.forget(token) {
            entry.held.lost.cancel();
            events::LeaseLost { key: &entry.held.key, owner: &self.core.owner, reason }.emit();
        }
    }

    fn forget(&mut self, token: &str) -> Option<Entry> {
        let entry = self.held.remove(token)?;
        self.schedule.remove(&(entry.due, token.to_owned()));
        Some(entry)
    }

    fn reschedule(&mut self, token: &str) {
        if let Some(entry) = self.held.get_mut(token) {
            self.schedule.remove(&(entry.due, token.to_owned()));
            entry.due = entry.is_due_at();
            self.schedule.insert((entry.due, token.to_owned()));
        }
    }

    /// Loses what has expired or shows no life, and renews what is to be renewed. Each that stays is due later than now.
    fn look_at_due(&mut self) {
        let now = Instant::now();
        while self.schedule.first().is_some_and(|(due, _)| *due <= now)
            && let Some((_, token)) = self.schedule.pop_first()
        {
            let Some(entry) = self.held.get_mut(&token) else { continue };
            let silence = self.core.options.silence();
            if now >= entry.held.expires() {
                let failure = entry.failure.take();
                let reason = failure.unwrap_or_else(|| "the process was stopped or starved".to_owned());
                self.lose(&token, &format!("not renewed in time: {reason}"));
            } else if entry.held.life().is_some_and(|life| now.duration_since(life) >= silence) {
                self.lose(&token, "the work that it was taken for shows no life");
            } else {
                entry.busy = true;
                let (core, held, counter) = (Arc::clone(&self.core), Arc::clone(&entry.held), entry.counter);
                let renewal = async move {
                    let renewal = renew(&core, &held, counter).await;
                    Finished::Renewal { token: held.token.clone(), renewal }
                };
                self.running.push(renewal.boxed());
                self.reschedule(&token);
            }
        }
    }
}

/// Renews once. A write that was refused, or whose outcome is unknown, is judged by what the item shows.
async fn renew(core: &Core, held: &Held, mut counter: u64) -> Renewal {
    for _ in 0..3 {
        let began = Instant::now();
        let (shown, unsure) = match core.write(&decide::renewal(&held.key, &held.token, counter)).await {
            Ok(Outcome::Applied(_)) => return Renewal::Kept { counter: counter + 1, began },
            Ok(Outcome::Refused(item)) => (item, None),
            Ok(Outcome::Unknown(error)) => match core.read(&held.key).await {
                Ok(item) => (item, Some(error)),
                Err(_) => return Renewal::Failed(error),
            },
            Err(error) => return Renewal::Failed(error),
        };
        match (decide::holding(&held.key, shown.as_ref()), unsure) {
            (Ok(Some(now)), Some(_)) if now.token == held.token && now.counter == counter + 1 => {
                return Renewal::Kept { counter: now.counter, began };
            }
            // It may still land, which the next try will find.
            (Ok(Some(now)), Some(error)) if now.token == held.token => return Renewal::Failed(error),
            // An earlier try has landed after all: go on from there.
            (Ok(Some(now)), None) if now.token == held.token => counter = now.counter,
            (Ok(Some(now)), _) => return Renewal::Lost(format!("{} has taken it over", now.owner)),
            (Ok(None), _) => return Renewal::Lost("it was released or deleted by somebody else".to_owned()),
            (Err(error), _) => return Renewal::Failed(error),
        }
    }
    let text = "its counter moves without us: another process uses the same token";
    Renewal::Lost(text.to_owned())
}

async fn give_back(core: Arc<Core>, held: Arc<Held>) {
    let write = decide::giving_back(&held.key, &held.token, held.keeps_item());
    for attempt in 1..=RELEASE_TRIES {
        match core.write(&write).await {
            Ok(Outcome::Applied(_)) => return events::LeaseReleased { key: &held.key }.emit(),
            // Somebody took it over, or an earlier try landed: either way it isn't ours.
            Ok(Outcome::Refused(_)) => return,
            Ok(Outcome::Unknown(error)) | Err(error) if attempt == RELEASE_TRIES => {
                return events::ReleaseFailed { key: &held.key, error: &error, length: core.options.length }.emit();
            }
            Ok(Outcome::Unknown(_)) | Err(_) => sleep(Duration::from_millis(50) * attempt).await,
        }
    }
}

fn answer(done: Option<oneshot::Sender<()>>) {
    if done.is_some_and(|done| done.send(()).is_err()) {
        tracing::trace!("Nobody waits for this lease any more.");
    }
}
