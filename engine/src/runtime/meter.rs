//! What each operator has done, how busy it is, and who waits for whom: for pages, for `/ready`, for metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::mpsc, time::Instant};

use crate::operator::Record;

/// What the instances of one operator count together. Written by its tasks a few times a batch, read by whoever looks.
#[derive(Debug, Default)]
pub struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
    errors: AtomicU64,
    busy_micros: AtomicU64,
    blocked_micros: AtomicU64,
}

impl Meter {
    pub(crate) fn received(&self, records: usize) {
        self.received.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, records: usize) {
        self.sent.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn busy(&self, time: Duration) {
        self.busy_micros.fetch_add(micros(time), Ordering::Relaxed);
    }

    pub(crate) fn blocked(&self, time: Duration) {
        self.blocked_micros.fetch_add(micros(time), Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An operator, as seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Records that it took.
    pub received: u64,
    /// Records that it handed on.
    pub sent: u64,
    /// Failures.
    pub errors: u64,
    /// Batches that wait before it; a source has none.
    pub buffer_batches: usize,
    /// Batches that may wait.
    pub buffer_capacity_batches: usize,
    /// How long its instances have worked, in seconds.
    pub busy_seconds: f64,
    /// How long they have waited for those behind it, in seconds.
    pub blocked_seconds: f64,
    /// How many instances it has.
    pub instances: usize,
}

/// The meters of a graph that runs. Cheap to clone.
#[derive(Clone, Default)]
pub struct Meters {
    operators: Arc<Mutex<BTreeMap<String, Entry>>>,
    last: Arc<Mutex<Option<Look>>>,
}

/// When somebody looked last, and what there was.
type Look = (Instant, BTreeMap<String, Measured>);

struct Entry {
    meter: Arc<Meter>,
    /// Doesn't keep the channel open.
    input: Option<mpsc::WeakSender<Vec<Record>>>,
    instances: usize,
}

impl Meters {
    /// Adds an operator.
    pub(crate) fn add(&self, id: &str, input: Option<mpsc::WeakSender<Vec<Record>>>, instances: usize) -> Arc<Meter> {
        let meter = Arc::<Meter>::default();
        let entry = Entry { meter: Arc::clone(&meter), input, instances };
        self.operators.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), entry);
        meter
    }

    /// All operators, by id.
    pub fn snapshot(&self) -> BTreeMap<String, Measured> {
        let operators = self.operators.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let measured = |entry: &Entry| {
            let input = entry.input.as_ref().and_then(mpsc::WeakSender::upgrade);
            let capacity = input.as_ref().map_or(0, mpsc::Sender::max_capacity);
            Measured {
                received: load(&entry.meter.received),
                sent: load(&entry.meter.sent),
                errors: load(&entry.meter.errors),
                buffer_batches: capacity - input.as_ref().map_or(0, mpsc::Sender::capacity),
                buffer_capacity_batches: capacity,
                busy_seconds: load(&entry.meter.busy_micros) as f64 / 1e6,
                blocked_seconds: load(&entry.meter.blocked_micros) as f64 / 1e6,
                instances: entry.instances,
            }
        };
        operators.iter().map(|(id, entry)| (id.clone(), measured(entry))).collect()
    }

    /// Sets the gauges of all operators: their buffers, and the shares of the time since the last call.
    pub fn publish(&self) {
        let (now, measured) = (Instant::now(), self.snapshot());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, operator) in &measured {
            let gauge = |name: &'static str, value: f64| metrics::gauge!(name, "component_id" => id.clone()).set(value);
            gauge("penstock_component_buffer_batches", operator.buffer_batches as f64);
            gauge("penstock_component_buffer_capacity_batches", operator.buffer_capacity_batches as f64);
            let Some((then, before)) = last.as_ref().and_then(|(at, all)| Some((at, all.get(id)?))) else { continue };
            let time = (now - *then).as_secs_f64() * operator.instances as f64;
            if time > 0.0 {
                let share = |now: f64, before: f64| ((now - before) / time).clamp(0.0, 1.0);
                gauge("penstock_component_utilization", share(operator.busy_seconds, before.busy_seconds));
                gauge("penstock_component_blocked", share(operator.blocked_seconds, before.blocked_seconds));
            }
        }
        *last = Some((now, measured));
    }
}
