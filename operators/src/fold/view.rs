//! The fold's memory: which files are pending, by date. A view of the table, not a log: it can be lost at any time.
//!
//! Two sources feed it. Changes of the shards that this process reads come in order and at once. Readings of the index
//! come every minute, are stale, and show what other processes read too. An entry leaves by its own change, by a claim,
//! or because a complete later reading lacks it. Pure: times come in, decisions go out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use penstock_engine::cloud::table::Key;

use super::Thresholds;
use crate::model::{Candidate, FileItem, FileState, FlushReason};

/// Files that a view holds at most. What finds no room is in the index, and is read again once others have left.
const MAX_FILES: usize = 500_000;

/// Readings after which a claimed file's tombstone is dropped: no index lags that long.
const TOMBSTONE_READINGS: u64 = 3;

/// A pending file, as the view knows it.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    item: FileItem,
    /// On the fold's own clock: when it came by a change, or how long ago the index says that it became pending.
    since: Duration,
    /// Whether its change came to this process. Otherwise only the index tells of it.
    by_change: bool,
    /// The last reading that showed it.
    reading: u64,
}

/// A set of pending files that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Flush {
    /// Their date.
    pub date: String,
    /// Which threshold they reached.
    pub reason: FlushReason,
    /// The files, oldest first.
    pub files: Vec<FileItem>,
}

/// How much of a date is pending.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Pending {
    /// Files.
    pub files: usize,
    /// Their stored bytes.
    pub bytes: u64,
    /// Age of the oldest, in seconds.
    pub oldest_secs: u64,
}

/// The view.
#[derive(Debug)]
pub struct View {
    /// Files that it may hold.
    room: usize,
    dates: BTreeMap<String, DateView>,
    /// The pending_since of files that were claimed: images that show it are stale.
    tombstones: HashMap<Key, Tombstone>,
    reading: u64,
    /// Whether one reading of the index has been complete since the start.
    has_read: bool,
    /// Whether the last reading of the index was.
    is_whole: bool,
    /// Dates that a person wants flushed, and when that was heeded: what was pending then goes.
    asked: BTreeMap<String, Duration>,
    /// Files in it.
    len: usize,
}

#[derive(Debug, Default)]
struct DateView {
    entries: HashMap<String, Entry>,
    /// Oldest first.
    order: BTreeSet<(Duration, String)>,
    bytes: u64,
}

#[derive(Debug)]
struct Tombstone {
    pending_since: Option<String>,
    reading: u64,
}

impl Default for View {
    fn default() -> Self {
        Self::with_room(MAX_FILES)
    }
}

impl View {
    /// An empty view that holds so many files at most.
    pub fn with_room(files: usize) -> Self {
        Self {
            room: files,
            dates: BTreeMap::new(),
            tombstones: HashMap::new(),
            reading: 0,
            has_read: false,
            is_whole: false,
            asked: BTreeMap::new(),
            len: 0,
        }
    }

    /// Takes the image of a file after a change; `None` when it was deleted.
    pub fn on_change(&mut self, key: &Key, image: Option<FileItem>, now: Duration) {
        match image {
            Some(item) if item.state() == Some(FileState::Pending) => self.put(item, now, true),
            _ => self.remove(key),
        }
    }

    /// Begins a reading of the index.
    pub fn begin_reading(&mut self) {
        self.reading += 1;
        // Counted as readings begin: while the table is throttled none ends, and these must not pile up.
        let reading = self.reading;
        self.tombstones.retain(|_, tombstone| reading <= tombstone.reading + TOMBSTONE_READINGS);
    }

    /// Takes an item that a reading shows as pending for `age`.
    pub fn on_read(&mut self, item: FileItem, age: Duration, now: Duration) {
        let reading = self.reading;
        if let Some(known) = self.dates.get_mut(&item.date_prefix).and_then(|date| date.entries.get_mut(&item.file_key))
        {
            known.reading = reading;
            // A change is never older than what the index shows of the same file.
            if known.by_change || known.item.pending_since == item.pending_since {
                return;
            }
        }
        self.put(item, now.saturating_sub(age), false);
    }

    /// Ends a reading. Entries that only the index told of, and that a complete reading lacks, leave the view.
    pub fn end_reading(&mut self, complete: bool) {
        let reading = self.reading;
        self.is_whole = complete;
        if !complete {
            return;
        }
        self.has_read = true;
        for date in self.dates.values_mut() {
            let gone: Vec<String> = date
                .entries
                .iter()
                .filter(|(_, entry)| !entry.by_change && entry.reading < reading)
                .map(|(file_key, _)| file_key.clone())
                .collect();
            for file_key in gone {
                self.len -= usize::from(date.remove(&file_key));
            }
        }
        self.dates.retain(|_, date| !date.entries.is_empty());
    }

    /// A claim of the file was applied: images that show it pending since then are stale from now on.
    pub fn on_claimed(&mut self, file: &FileItem, pending_since: Option<String>) {
        self.remove(&file.key());
        self.tombstones.insert(file.key(), Tombstone { pending_since, reading: self.reading });
    }

    /// A claim was refused, and showed what is true.
    pub fn on_refused(&mut self, key: &Key, image: Option<FileItem>, now: Duration) {
        self.on_change(key, image, now);
    }

    /// A person wants `date` flushed: what is pending now goes, whatever its age; what comes later waits as ever. A reading
    /// of the index should have ended just before, so that this is what the table holds.
    pub fn ask(&mut self, date: &str, now: Duration) {
        self.asked.entry(date.to_owned()).or_insert(now);
    }

    /// The dates for which nothing is left of what was asked for. They are told once.
    ///
    /// A view that had no room for all that is pending can't say so yet: the next whole reading can.
    pub fn answered(&mut self) -> Vec<String> {
        if !self.is_whole {
            return Vec::new();
        }
        let dates = &self.dates;
        let is_left = |date: &str, asked: Duration| dates.get(date).is_some_and(|view| view.has_before(asked));
        let answered: Vec<String> =
            self.asked.iter().filter(|(date, asked)| !is_left(date, **asked)).map(|(date, _)| date.clone()).collect();
        for date in &answered {
            self.asked.remove(date);
        }
        answered
    }

    /// Whether somebody waits for a flush that a whole reading of the index must complete.
    pub fn wants_reading(&self) -> bool {
        !self.asked.is_empty() && !self.is_whole
    }

    /// What is due by any threshold, or because a person asked. Nothing is due by age before one reading was complete: what the view holds until
    /// then may be the small rest of a large backlog.
    pub fn due(&self, thresholds: &Thresholds, now: Duration) -> Vec<Flush> {
        let flush = |(date, view): (&String, &DateView)| {
            if let Some(asked) = self.asked.get(date).filter(|asked| view.has_before(**asked)) {
                let (files, _) = view.select(thresholds, *asked, true);
                return Some(Flush { date: date.clone(), reason: FlushReason::Manual, files });
            }
            let (files, reason) = view.select(thresholds, now, false);
            let oldest = view.oldest_age(thresholds, now);
            let reason = reason.or_else(|| {
                (self.has_read && oldest.is_some_and(|age| age >= thresholds.max_age)).then_some(FlushReason::Age)
            })?;
            Some(Flush { date: date.clone(), reason, files })
        };
        self.dates.iter().filter_map(flush).filter(|flush| !flush.files.is_empty()).collect()
    }

    /// Everything that is pending on a date, up to what fits one manifest, whatever its age.
    pub fn manual(&self, date: &str, thresholds: &Thresholds, now: Duration) -> Option<Flush> {
        let (files, _) = self.dates.get(date)?.select(thresholds, now, true);
        (!files.is_empty()).then(|| Flush { date: date.to_owned(), reason: FlushReason::Manual, files })
    }

    /// How much is pending, by date.
    pub fn pending(&self, now: Duration) -> BTreeMap<String, Pending> {
        let pending = |view: &DateView| Pending {
            files: view.entries.len(),
            bytes: view.bytes,
            oldest_secs: view.order.first().map_or(0, |(since, _)| now.saturating_sub(*since).as_secs()),
        };
        self.dates.iter().map(|(date, view)| (date.clone(), pending(view))).collect()
    }

    /// Whether it has no room for more.
    pub fn is_full(&self) -> bool {
        self.len >= self.room
    }

    /// Files in the view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dates.is_empty()
    }

    fn put(&mut self, item: FileItem, since: Duration, by_change: bool) {
        let key = item.key();
        if let Some(tombstone) = self.tombstones.get(&key) {
            if tombstone.pending_since == item.pending_since {
                return;
            }
            self.tombstones.remove(&key);
        }
        self.remove(&key);
        if self.is_full() {
            metrics::counter!("penstock_fold_view_full_total").increment(1);
            return;
        }
        let date = self.dates.entry(item.date_prefix.clone()).or_default();
        date.insert(Entry { item, since, by_change, reading: self.reading });
        self.len += 1;
    }

    fn remove(&mut self, key: &Key) {
        if let Some(date) = self.dates.get_mut(&key.partition) {
            self.len -= usize::from(date.remove(&key.sort));
            if date.entries.is_empty() {
                self.dates.remove(&key.partition);
            }
        }
    }
}

impl DateView {
    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.item.size_bytes;
        self.order.insert((entry.since, entry.item.file_key.clone()));
        self.entries.insert(entry.item.file_key.clone(), entry);
    }

    /// Whether it was there.
    fn remove(&mut self, file_key: &str) -> bool {
        let Some(entry) = self.entries.remove(file_key) else { return false };
        self.bytes -= entry.item.size_bytes;
        self.order.remove(&(entry.since, entry.item.file_key));
        true
    }

    /// Oldest first, the entries that are ours to judge. One that only the index tells of may be another process's, who
    /// will flush it sooner than we: it counts once it has been left lying for longer than the grace.
    fn ours<'a>(&'a self, thresholds: &'a Thresholds, now: Duration, all: bool) -> impl Iterator<Item = &'a Entry> {
        self.order.iter().filter_map(|(_, file_key)| self.entries.get(file_key)).filter(move |entry| {
            let is_asked = all && entry.since <= now;
            is_asked || (!all && entry.by_change) || entry.since + thresholds.grace <= now
        })
    }

    /// What fits one manifest, and the threshold that it reached, if any.
    fn select(&self, thresholds: &Thresholds, now: Duration, all: bool) -> (Vec<FileItem>, Option<FlushReason>) {
        let (mut files, mut bytes, mut candidate_bytes) = (Vec::new(), 0_u64, 0_usize);
        for entry in self.ours(thresholds, now, all) {
            let next_bytes = bytes + entry.item.size_bytes;
            if !files.is_empty() && next_bytes > thresholds.max_bytes {
                return (files, Some(FlushReason::Bytes));
            }
            let next_candidate_bytes = candidate_bytes + candidate_size(&entry.item);
            if !files.is_empty() && next_candidate_bytes > thresholds.max_candidate_bytes {
                return (files, Some(FlushReason::ItemSize));
            }
            files.push(entry.item.clone());
            (bytes, candidate_bytes) = (next_bytes, next_candidate_bytes);
            if files.len() >= thresholds.max_files {
                return (files, Some(FlushReason::Files));
            }
        }
        let reason = (bytes >= thresholds.max_bytes).then_some(FlushReason::Bytes);
        (files, reason)
    }

    /// Whether a file was pending at that time already.
    fn has_before(&self, time: Duration) -> bool {
        self.order.first().is_some_and(|(since, _)| *since <= time)
    }

    /// The greatest age of an entry; the grace of one that only the index tells of doesn't count.
    fn oldest_age(&self, thresholds: &Thresholds, now: Duration) -> Option<Duration> {
        let oldest = |by_change: bool, grace: Duration| {
            let entries = self.order.iter().filter_map(|(_, file_key)| self.entries.get(file_key));
            let mut entries = entries.filter(|entry| entry.by_change == by_change);
            entries.next().and_then(|entry| now.saturating_sub(entry.since).checked_sub(grace))
        };
        oldest(true, Duration::ZERO).max(oldest(false, thresholds.grace))
    }
}

/// Bytes of a candidate in the manifest's item, at most.
fn candidate_size(item: &FileItem) -> usize {
    let text = |value: &Option<String>| value.as_ref().map_or(0, String::len);
    item.file_key.len() + text(&item.etag) + text(&item.pending_since) + 64
}

impl From<&FileItem> for Candidate {
    fn from(item: &FileItem) -> Self {
        Self { file_key: item.file_key.clone(), etag: item.etag.clone(), pending_since: item.pending_since.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn thresholds() -> Thresholds {
        Thresholds { max_files: 3, max_bytes: 100, max_age: 10 * SECOND, grace: 60 * SECOND, max_candidate_bytes: 1000 }
    }

    fn file(key: &str, size_bytes: u64, pending_since: &str) -> FileItem {
        FileItem {
            date_prefix: "2026-02-01".to_owned(),
            file_key: key.to_owned(),
            status: FileState::Pending.status(1),
            file_path: format!("s3://b/{key}"),
            size_bytes,
            etag: Some("e".to_owned()),
            sequencer: None,
            version_id: None,
            shard_id: 1,
            created_at: String::new(),
            pending_since: Some(pending_since.to_owned()),
            updated_at: None,
            claimed_at: None,
            manifest_path: None,
            rows: None,
            rejected_rows: None,
            error_message: None,
        }
    }

    fn seen(view: &mut View, key: &str, size_bytes: u64, now: Duration) {
        let item = file(key, size_bytes, "t0");
        view.on_change(&item.key(), Some(item), now);
    }

    fn reasons(view: &View, now: Duration) -> Vec<(FlushReason, usize)> {
        view.due(&thresholds(), now).into_iter().map(|flush| (flush.reason, flush.files.len())).collect()
    }

    #[test]
    fn each_threshold_flushes_with_its_reason() {
        let mut view = View::default();
        view.begin_reading();
        view.end_reading(true);
        seen(&mut view, "a", 40, SECOND);
        assert_eq!(reasons(&view, 2 * SECOND), []);
        assert_eq!(reasons(&view, 11 * SECOND), [(FlushReason::Age, 1)]);
        seen(&mut view, "b", 50, 2 * SECOND);
        seen(&mut view, "c", 20, 3 * SECOND);
        assert_eq!(reasons(&view, 4 * SECOND), [(FlushReason::Bytes, 2)]);
        seen(&mut view, "b", 1, 2 * SECOND);
        assert_eq!(reasons(&view, 4 * SECOND), [(FlushReason::Files, 3)]);
    }

    #[test]
    fn a_file_above_max_bytes_is_a_manifest_by_itself() {
        let mut view = View::default();
        seen(&mut view, "big", 1000, SECOND);
        assert_eq!(reasons(&view, SECOND), [(FlushReason::Bytes, 1)]);
        seen(&mut view, "small", 1, 2 * SECOND);
        assert_eq!(reasons(&view, 2 * SECOND), [(FlushReason::Bytes, 1)]);
    }

    #[test]
    fn the_list_of_candidates_never_outgrows_its_item() {
        let mut view = View::default();
        for key in ["a", "b"] {
            seen(&mut view, &key.repeat(600), 1, SECOND);
        }
        assert_eq!(reasons(&view, SECOND), [(FlushReason::ItemSize, 1)]);
    }

    #[test]
    fn nothing_is_flushed_by_age_before_the_first_reading() {
        let mut view = View::default();
        seen(&mut view, "a", 1, Duration::ZERO);
        assert_eq!(reasons(&view, 100 * SECOND), []);
        view.begin_reading();
        view.end_reading(false);
        assert_eq!(reasons(&view, 100 * SECOND), [], "an incomplete reading counts for nothing");
        view.begin_reading();
        view.end_reading(true);
        assert_eq!(reasons(&view, 100 * SECOND), [(FlushReason::Age, 1)]);
    }

    #[test]
    fn a_tombstone_hides_only_images_of_the_claimed_pending_since_and_only_for_three_readings() {
        let mut view = View::default();
        seen(&mut view, "a", 1, SECOND);
        view.on_claimed(&file("a", 1, "t0"), Some("t0".to_owned()));
        for _ in 0..TOMBSTONE_READINGS {
            view.begin_reading();
            view.on_read(file("a", 1, "t0"), SECOND, 2 * SECOND);
            assert!(view.is_empty(), "a stale image came back");
            view.end_reading(true);
        }
        view.begin_reading();
        view.on_read(file("a", 1, "t0"), SECOND, 2 * SECOND);
        assert_eq!(view.len(), 1, "the tombstone outlived its readings");
        view.on_claimed(&file("a", 1, "t0"), Some("t0".to_owned()));
        view.on_read(file("a", 1, "t1"), SECOND, 2 * SECOND);
        assert_eq!(view.len(), 1, "a file that a person set back to pending must join");
    }

    #[test]
    fn what_only_the_index_tells_of_is_left_to_others_for_a_while() {
        let mut view = View::default();
        view.begin_reading();
        for key in ["a", "b", "c"] {
            view.on_read(file(key, 1, "t0"), SECOND, 100 * SECOND);
        }
        view.end_reading(true);
        assert_eq!(reasons(&view, 100 * SECOND), []);
        assert_eq!(reasons(&view, 160 * SECOND), [(FlushReason::Files, 3)]);
        assert_eq!(view.manual("2026-02-01", &thresholds(), 100 * SECOND).unwrap().files.len(), 3);
        view.begin_reading();
        view.end_reading(true);
        assert!(view.is_empty(), "a complete reading that lacks them removes them");
    }

    #[test]
    fn the_only_process_leaves_nothing_to_others() {
        let alone = Thresholds { grace: Duration::ZERO, ..thresholds() };
        let mut view = View::default();
        view.begin_reading();
        view.on_read(file("a", 1, "t0"), 9 * SECOND, 100 * SECOND);
        view.end_reading(true);
        let due = |view: &View, now| view.due(&alone, now).into_iter().map(|flush| flush.reason).collect::<Vec<_>>();
        assert_eq!(due(&view, 100 * SECOND), []);
        assert_eq!(due(&view, 101 * SECOND), [FlushReason::Age], "it was pending before the start, and is due now");
        view.ask("2026-02-01", 101 * SECOND);
        view.on_read(file("later", 1, "t1"), Duration::ZERO, 102 * SECOND);
        let asked = view.due(&alone, 103 * SECOND);
        assert_eq!((asked[0].reason, asked[0].files.len()), (FlushReason::Manual, 1), "what came later waits as ever");
    }

    #[test]
    fn a_flush_by_hand_takes_what_was_pending_when_it_was_asked_for_and_nothing_later() {
        let mut view = View::default();
        view.begin_reading();
        view.on_read(file("others", 1, "t0"), SECOND, 5 * SECOND);
        view.end_reading(true);
        seen(&mut view, "mine", 1, 5 * SECOND);
        view.ask("2026-02-01", 6 * SECOND);
        seen(&mut view, "later", 1, 7 * SECOND);
        assert!(view.answered().is_empty(), "it is answered before anything was done");
        let due = view.due(&thresholds(), 8 * SECOND);
        let keys: Vec<&str> = due[0].files.iter().map(|file| file.file_key.as_str()).collect();
        assert_eq!((due.len(), due[0].reason, keys), (1, FlushReason::Manual, vec!["others", "mine"]));
        for file in &due[0].files {
            view.on_claimed(file, file.pending_since.clone());
        }
        assert_eq!(reasons(&view, 8 * SECOND), [], "what came later waits as ever");
        assert_eq!(view.answered(), ["2026-02-01"]);
        assert!(view.answered().is_empty(), "an answer is given once");
    }

    #[test]
    fn i9_what_a_full_view_has_no_room_for_is_read_again_once_others_have_left() {
        let mut view = View::with_room(3);
        let keys = ["a", "b", "c", "d", "e"];
        let read = |view: &mut View, keys: &[&str]| {
            view.begin_reading();
            keys.iter().for_each(|key| view.on_read(file(key, 1, "t0"), 100 * SECOND, 200 * SECOND));
            view.end_reading(!view.is_full());
        };
        read(&mut view, &keys);
        seen(&mut view, "f", 1, 200 * SECOND);
        assert_eq!(view.len(), 3);
        assert_eq!(reasons(&view, 200 * SECOND), [(FlushReason::Files, 3)], "a full view goes on");
        for file in view.due(&thresholds(), 200 * SECOND).remove(0).files {
            view.on_claimed(&file, file.pending_since.clone());
        }
        read(&mut view, &["d", "e"]);
        assert_eq!((view.len(), view.is_full()), (2, false), "the others come by the next reading");
    }

    #[test]
    fn a_flush_by_hand_is_not_answered_by_a_view_that_had_no_room_for_all() {
        let mut view = View::default();
        view.begin_reading();
        view.end_reading(false);
        view.ask("2026-02-01", SECOND);
        assert!(view.answered().is_empty() && view.wants_reading());
        view.begin_reading();
        view.on_read(file("left", 1, "t0"), 10 * SECOND, 11 * SECOND);
        view.end_reading(true);
        assert!(view.answered().is_empty(), "a file that was pending then is left");
        assert_eq!(reasons(&view, 11 * SECOND), [(FlushReason::Manual, 1)]);
        let left = file("left", 1, "t0");
        view.on_claimed(&left, left.pending_since.clone());
        assert_eq!(view.answered(), ["2026-02-01"]);
    }

    proptest! {
        /// Whatever changes, readings and claims come, totals agree with entries, and a claimed file is never offered
        /// again with the same pending_since while its tombstone stands.
        #[test]
        fn i2_totals_agree_and_claimed_files_are_not_offered(steps in prop::collection::vec((0_u8..6, 0_u8..4, 0_u64..60), 1..60)) {
            let mut view = View::default();
            let mut claimed: BTreeMap<String, u64> = BTreeMap::new();
            for (at, (step, key, size)) in steps.into_iter().enumerate() {
                let (now, key) = (SECOND * at as u32, format!("f{key}"));
                let item = file(&key, size, "t0");
                match step {
                    0 => view.on_change(&item.key(), Some(item), now),
                    1 => view.on_change(&item.key(), None, now),
                    2 => view.on_read(item, SECOND, now),
                    3 => { view.begin_reading(); }
                    4 => view.end_reading(size % 2 == 0),
                    _ => {
                        claimed.insert(key.clone(), view.reading);
                        view.on_claimed(&item, item.pending_since.clone());
                    }
                }
                prop_assert_eq!(view.len(), view.dates.values().map(|date| date.entries.len()).sum::<usize>());
                for (date, view) in &view.dates {
                    prop_assert_eq!(view.entries.len(), view.order.len(), "{}", date);
                    prop_assert_eq!(view.bytes, view.entries.values().map(|entry| entry.item.size_bytes).sum::<u64>());
                }
                for flush in view.due(&thresholds(), now) {
                    for file in flush.files {
                        let fresh = claimed.get(&file.file_key).is_some_and(|reading| view.reading < reading + TOMBSTONE_READINGS);
                        prop_assert!(!fresh, "{} was claimed and is offered again", file.file_key);
                    }
                }
            }
        }
    }
}
