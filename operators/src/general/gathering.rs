//! Which records go into which object. Pure.
//!
//! Records of one origin (a shard) keep their order, and an object holds one run of them. It is named by the first: so
//! whoever reads the shard again after a crash begins the same object, finds it there, and goes on after its last record.
//! That makes the objects of a shard a chain in which each record stands once, however often it is read, and however
//! differently two readers would have cut it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use penstock_engine::cloud::change_stream::SequenceNumber;
use sha2::{Digest, Sha256};

/// When an object is closed, whichever comes first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub records: usize,
    pub bytes: u64,
    pub age: Duration,
}

/// Why an object is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Records,
    Bytes,
    Age,
    /// The next record is of another day.
    Date,
    /// The next record comes before the last one: it was offered again.
    Order,
    Stop,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Date => "date",
            Self::Order => "order",
            Self::Stop => "stop",
        }
    }
}

/// Where records come from whose order counts; `None` for all that have none.
pub(super) type Origin = Option<Arc<str>>;

/// A record that waits for its object. `A` is its ack.
#[derive(Debug)]
pub(super) struct Line<A> {
    pub origin: Origin,
    /// Its place in its origin.
    pub sequence: Option<SequenceNumber>,
    /// Its day, `YYYY-MM-DD`.
    pub date: String,
    pub text: String,
    pub ack: A,
}

/// An object in the making.
#[derive(Debug)]
struct Heap<A> {
    /// Its name: the same at each try.
    name: String,
    date: String,
    lines: Vec<Line<A>>,
    bytes: u64,
    /// When its first record came, on a monotonic clock.
    since: Duration,
}

/// All objects in the making.
#[derive(Debug)]
pub(super) struct Gathering<A> {
    limits: Limits,
    heaps: BTreeMap<Origin, Heap<A>>,
    /// Records that an object of another reader holds and that are still to come here.
    elsewhere: BTreeMap<Arc<str>, BTreeSet<SequenceNumber>>,
}

/// What is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub date: String,
    pub name: String,
    pub body: String,
}

/// An object stands where ours belongs and doesn't begin with our first record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign;

impl<A> Gathering<A> {
    pub fn new(limits: Limits) -> Self {
        Self { limits, heaps: BTreeMap::new(), elsewhere: BTreeMap::new() }
    }

    /// Why the object of its origin has to be closed before this record may be added, if it has to.
    pub fn closes(&self, line: &Line<A>) -> Option<Reason> {
        let heap = self.heaps.get(&line.origin)?;
        let before = heap.lines.last().and_then(|last| last.sequence.as_ref());
        if heap.date != line.date {
            Some(Reason::Date)
        } else if before.zip(line.sequence.as_ref()).is_some_and(|(before, now)| now <= before) {
            Some(Reason::Order)
        } else {
            None
        }
    }

    /// Adds a record, or gives it back if an object holds it already. `unordered` names an object of records without
    /// an order.
    pub fn add(&mut self, line: Line<A>, now: Duration, unordered: impl FnOnce() -> String) -> Option<Line<A>> {
        if self.is_elsewhere(&line) {
            return Some(line);
        }
        let heap = self.heaps.entry(line.origin.clone()).or_insert_with(|| Heap {
            name: match (&line.origin, &line.sequence) {
                (Some(origin), Some(sequence)) => name_of(origin, sequence),
                _ => unordered(),
            },
            date: line.date.clone(),
            lines: Vec::new(),
            bytes: 0,
            since: now,
        });
        heap.bytes += line.text.len() as u64 + 1;
        heap.lines.push(line);
        None
    }

    /// Whether an object of another reader holds the record. What that object holds before it is of no more interest.
    fn is_elsewhere(&mut self, line: &Line<A>) -> bool {
        let (Some(origin), Some(sequence)) = (&line.origin, &line.sequence) else { return false };
        let Some(known) = self.elsewhere.get_mut(origin) else { return false };
        let is_known = known.remove(sequence);
        if known.is_empty() || known.last().is_some_and(|last| last < sequence) {
            self.elsewhere.remove(origin);
        }
        is_known
    }

    /// Why the object of an origin is to be closed now, if it is.
    pub fn due(&self, origin: &Origin, now: Duration) -> Option<Reason> {
        let heap = self.heaps.get(origin)?;
        if heap.lines.len() >= self.limits.records {
            Some(Reason::Records)
        } else if heap.bytes >= self.limits.bytes {
            Some(Reason::Bytes)
        } else if now.saturating_sub(heap.since) >= self.limits.age {
            Some(Reason::Age)
        } else {
            None
        }
    }

    /// The origins that have an object in the making.
    pub fn origins(&self) -> Vec<Origin> {
        self.heaps.keys().cloned().collect()
    }

    /// The object of an origin as it would be written now.
    pub fn object(&self, origin: &Origin) -> Option<Object> {
        let heap = self.heaps.get(origin)?;
        let mut body = String::with_capacity(usize::try_from(heap.bytes).unwrap_or_default());
        for line in &heap.lines {
            body.push_str(&line.text);
            body.push('\n');
        }
        Some(Object { date: heap.date.clone(), name: heap.name.clone(), body })
    }

    /// The object of an origin is durable: the acks of its records.
    pub fn written(&mut self, origin: &Origin) -> Vec<A> {
        let lines = self.heaps.remove(origin).map(|heap| heap.lines).unwrap_or_default();
        lines.into_iter().map(|line| line.ack).collect()
    }

    /// Another reader's object stands under our name, and holds these records: the acks of ours among them. The rest
    /// begins the next object.
    pub fn found(&mut self, origin: &Origin, held: BTreeSet<SequenceNumber>) -> Result<Vec<A>, Foreign> {
        let Some(mut heap) = self.heaps.remove(origin) else { return Ok(Vec::new()) };
        let first = heap.lines.first().and_then(|line| line.sequence.as_ref());
        if !first.is_some_and(|first| held.contains(first)) {
            self.heaps.insert(origin.clone(), heap);
            return Err(Foreign);
        }
        let is_held = |line: &Line<A>| line.sequence.as_ref().is_some_and(|sequence| held.contains(sequence));
        let (ours, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut heap.lines).into_iter().partition(is_held);
        if let Some(origin) = origin {
            let seen: BTreeSet<_> = ours.iter().filter_map(|line| line.sequence.clone()).collect();
            let to_come: BTreeSet<_> = held.difference(&seen).cloned().collect();
            if !to_come.is_empty() {
                self.elsewhere.insert(Arc::clone(origin), to_come);
            }
            if let Some(sequence) = rest.first().and_then(|line| line.sequence.as_ref()) {
                heap.name = name_of(origin, sequence);
                heap.bytes = rest.iter().map(|line| line.text.len() as u64 + 1).sum();
                heap.lines = rest;
                self.heaps.insert(Some(Arc::clone(origin)), heap);
            }
        }
        Ok(ours.into_iter().map(|line| line.ack).collect())
    }
}

/// The name of the object that begins with this record: sorts by time, and is unique to the origin.
fn name_of(origin: &str, sequence: &SequenceNumber) -> String {
    let digest: String = Sha256::digest(origin).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{:0>40}-{digest}", sequence.0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn line(sequence: u64, date: &str) -> Line<u64> {
        Line {
            origin: Some("shard".into()),
            sequence: Some(SequenceNumber(sequence.to_string())),
            date: date.to_owned(),
            text: sequence.to_string(),
            ack: sequence,
        }
    }

    fn never() -> String {
        panic!("records of a shard have an order")
    }

    /// A reader of the shard, with the limits of its own process.
    struct Reader {
        gathering: Gathering<u64>,
        acked: BTreeSet<u64>,
        next: u64,
    }

    impl Reader {
        fn new(records: usize, checkpoint: u64) -> Self {
            let limits = Limits { records, bytes: 1 << 20, age: Duration::from_secs(60) };
            Self { gathering: Gathering::new(limits), acked: BTreeSet::new(), next: checkpoint + 1 }
        }

        /// Takes the next record; writes what is due.
        fn step(&mut self, bucket: &mut HashMap<String, String>) {
            let line = line(self.next, "2026-02-01");
            self.next += 1;
            let origin = line.origin.clone();
            if let Some(known) = self.gathering.add(line, Duration::ZERO, never) {
                self.acked.insert(known.ack);
            } else if self.gathering.due(&origin, Duration::ZERO).is_some() {
                self.write(&origin, bucket);
            }
        }

        fn write(&mut self, origin: &Origin, bucket: &mut HashMap<String, String>) {
            let Some(object) = self.gathering.object(origin) else { return };
            let acks = match bucket.get(&object.name) {
                None => {
                    bucket.insert(object.name, object.body);
                    self.gathering.written(origin)
                }
                Some(there) => {
                    let held = there.lines().map(|line| SequenceNumber(line.to_owned())).collect();
                    self.gathering.found(origin, held).expect("it begins with the same record")
                }
            };
            self.acked.extend(acks);
        }

        fn checkpoint(&self, from: u64) -> u64 {
            (from..).take_while(|at| self.acked.contains(&(at + 1))).last().map_or(from, |at| at + 1)
        }
    }

    proptest! {
        /// I1, I4: readers that die, wake late, and cut differently make a chain in which each record stands once.
        #[test]
        fn each_record_stands_in_one_object(
            steps in prop::collection::vec((0_usize..3, 0_u8..12), 1..200),
            sizes in prop::collection::vec(1_usize..7, 3),
        ) {
            const LAST: u64 = 40;
            let mut bucket = HashMap::new();
            let mut checkpoint = 0;
            let mut readers: Vec<Reader> = sizes.iter().map(|size| Reader::new(*size, 0)).collect();
            for (who, what) in steps {
                let reader = &mut readers[who];
                match what {
                    // It dies, and begins again at the checkpoint; what it held is forgotten.
                    0 => *reader = Reader::new(sizes[who], checkpoint),
                    // Its object is old enough.
                    1 => reader.write(&Some("shard".into()), &mut bucket),
                    _ if reader.next <= LAST => reader.step(&mut bucket),
                    _ => {}
                }
                // Only a holder of the lease moves the checkpoint; here anybody's acks may, which is harder.
                checkpoint = readers[who].checkpoint(checkpoint);
            }
            let mut last = Reader::new(5, checkpoint);
            while last.next <= LAST {
                last.step(&mut bucket);
            }
            for _ in 0..LAST {
                last.write(&Some("shard".into()), &mut bucket);
            }
            let mut records: Vec<u64> = bucket.values().flat_map(|body| body.lines()).map(|at| at.parse().unwrap()).collect();
            records.sort_unstable();
            prop_assert_eq!(records, (1..=LAST).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_object_is_closed_by_count_bytes_age_day_and_order() {
        let limits = Limits { records: 3, bytes: 40, age: Duration::from_secs(5) };
        let mut gathering = Gathering::new(limits);
        let origin: Origin = Some("shard".into());
        assert!(gathering.add(line(1, "2026-02-01"), Duration::from_secs(1), never).is_none());
        assert_eq!(gathering.due(&origin, Duration::from_secs(5)), None);
        assert_eq!(gathering.due(&origin, Duration::from_secs(6)), Some(Reason::Age));
        assert_eq!(gathering.closes(&line(2, "2026-02-02")), Some(Reason::Date));
        assert_eq!(gathering.closes(&line(1, "2026-02-01")), Some(Reason::Order));
        assert_eq!(gathering.closes(&line(2, "2026-02-01")), None);
        let long = Line { text: "x".repeat(40), ..line(2, "2026-02-01") };
        assert!(gathering.add(long, Duration::from_secs(1), never).is_none());
        assert_eq!(gathering.due(&origin, Duration::from_secs(1)), Some(Reason::Bytes));
        assert!(gathering.add(line(3, "2026-02-01"), Duration::from_secs(1), never).is_none());
        assert_eq!(gathering.due(&origin, Duration::from_secs(1)), Some(Reason::Records));
        let object = gathering.object(&origin).unwrap();
        assert_eq!(object.body, format!("1\n{}\n3\n", "x".repeat(40)));
        assert!(object.name.starts_with(&"0".repeat(39)) && object.name[39..].starts_with("1-"), "{}", object.name);
        assert_eq!(gathering.written(&origin), [1, 2, 3]);
        assert_eq!(gathering.object(&origin), None);
    }

    #[test]
    fn an_object_that_begins_otherwise_is_not_adopted() {
        let mut gathering = Gathering::new(Limits { records: 3, bytes: 40, age: Duration::from_secs(5) });
        let origin: Origin = Some("shard".into());
        assert!(gathering.add(line(4, "2026-02-01"), Duration::ZERO, never).is_none());
        let held = [SequenceNumber("3".to_owned())].into();
        assert_eq!(gathering.found(&origin, held), Err(Foreign));
        assert!(gathering.object(&origin).is_some(), "what waits is kept");
    }
}
