//! What a pass has found out, file by file, and what follows from it: no I/O, no clock.

use std::collections::{BTreeMap, HashMap};

use super::cast::{MAX_FIELDS, too_many_fields};
use super::columns::REST;
use super::note::{RangeOutcome, Reject};
use super::{FailureReason, Inferred};

/// What is known of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub(super) lines: u64,
    pub(super) rows: u64,
    pub(super) rejected: u64,
    pub(super) duplicate_keys: u64,
    /// Rejects that were written.
    pub(super) told: u64,
    /// The line of the first reject, and its reason.
    first_reject: Option<(u64, String)>,
    pub(super) corrupt_rows: u64,
    pub(super) failure: Option<(FailureReason, String)>,
    /// What its records' types have in common so far; taken at its end.
    inferred: Inferred,
    unknown: Vec<String>,
    needs_rest: bool,
    ranges_to_come: usize,
}

/// What is known of all files of a pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) files: BTreeMap<u32, FileFacts>,
    /// The names that are no columns of files that came to their end and didn't fail, each with the first of these files and
    /// its place there; of more than a dataset can have, the first ones. Thousands of files may show the same names.
    unknown: HashMap<String, (u32, usize)>,
    max_columns: usize,
    needs_rest: bool,
    /// What the types of all files have in common that came to their end and didn't fail.
    pub(super) inferred: Inferred,
}

/// Columns that a dataset lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Their names, in order of first sight; `_rest` comes last.
    pub(super) names: Vec<String>,
}

impl Facts {
    /// Nothing is known yet of files with that many ranges each, for a dataset of up to `max_columns`.
    pub(super) fn new(ranges: impl IntoIterator<Item = u32>, max_columns: usize) -> Self {
        let mut facts = Self { max_columns, ..Self::default() };
        for file in ranges {
            facts.files.entry(file).or_default().ranges_to_come += 1;
        }
        facts
    }

    /// Takes in the outcome of a range; a file's ranges come in order. Tells whether the file has come to its end.
    pub(super) fn add(&mut self, range: RangeOutcome, max_reject_ratio: f64) -> bool {
        let file = self.files.entry(range.file).or_default();
        file.lines += range.lines;
        file.rows += range.rows;
        file.rejected += range.rejected;
        file.duplicate_keys += range.duplicate_keys;
        file.corrupt_rows += range.corrupt_rows;
        file.needs_rest |= range.needs_rest;
        file.inferred.merge(range.inferred.unwrap_or_default());
        file.unknown.extend(range.unknown.into_iter().map(|(name, _)| name));
        file.failure = file.failure.take().or(range.failure);
        file.ranges_to_come = file.ranges_to_come.saturating_sub(1);
        if file.ranges_to_come > 0 {
            return false;
        }
        let lines = file.rows + file.rejected;
        if file.failure.is_none() && file.rejected as f64 > max_reject_ratio * lines as f64 {
            let mut message =
                format!("{} of {lines} lines are no rows, more than a share of {max_reject_ratio}", file.rejected);
            // None of its rejects is kept, since none of its lines is used: one must show what is wrong with them.
            if let Some((line, reason)) = &file.first_reject {
                message += &format!("; the first is line {line}: {reason}");
            }
            file.failure = Some((FailureReason::TooManyRejects, message));
        }
        let inferred = std::mem::take(&mut file.inferred);
        if file.failure.is_none() && !self.inferred.merge_within(inferred, MAX_FIELDS) {
            file.failure = Some(too_many_fields());
        }
        let unknown = std::mem::take(&mut file.unknown);
        if file.failure.is_none() {
            self.needs_rest |= file.needs_rest;
            self.add_unknown(range.file, unknown);
        }
        true
    }

    /// Takes in the names of a file that didn't fail.
    fn add_unknown(&mut self, file: u32, names: Vec<String>) {
        for (place, name) in names.into_iter().enumerate() {
            let first = self.unknown.entry(name).or_insert((file, place));
            *first = (*first).min((file, place));
        }
        if self.unknown.len() > 2 * self.max_columns {
            let mut places: Vec<_> = self.unknown.values().copied().collect();
            let (_, last, _) = places.select_nth_unstable(self.max_columns);
            let last = *last;
            self.unknown.retain(|_, place| *place <= last);
        }
    }

    /// Takes in a reject of a range whose outcome is still to come; gives the number of its line in the file.
    pub(super) fn add_reject(&mut self, reject: &Reject) -> u64 {
        let file = self.files.entry(reject.file).or_default();
        let line = file.lines + reject.line;
        file.first_reject.get_or_insert_with(|| (line, reject.reason.clone()));
        line
    }

    /// A file that a range of has told nothing, if there is one: its rows can't be known to be all.
    pub(super) fn untold(&self) -> Option<u32> {
        self.files.iter().find(|(_, file)| file.ranges_to_come > 0).map(|(index, _)| *index)
    }

    /// The files that failed.
    pub(super) fn failures(&self) -> impl Iterator<Item = (u32, &(FailureReason, String))> {
        self.files.iter().filter_map(|(index, file)| Some((*index, file.failure.as_ref()?)))
    }

    /// What the files that didn't fail need besides the dataset's columns, of which there may be `room` more.
    pub(super) fn missing(&self, room: usize) -> Missing {
        let mut unknown: Vec<_> = self.unknown.iter().map(|(name, place)| (*place, name)).collect();
        unknown.sort_unstable();
        let mut names: Vec<_> = unknown.iter().take(room).map(|(_, name)| (*name).clone()).collect();
        if self.needs_rest || unknown.len() > room {
            names.push(REST.to_owned());
        }
        Missing { names }
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::Raw;
    use super::*;

    fn range(file: u32, rows: u64, rejected: u64, unknown: &[&str]) -> RangeOutcome {
        RangeOutcome {
            file,
            rows,
            rejected,
            unknown: unknown.iter().map(|name| ((*name).to_owned(), 0)).collect(),
            ..RangeOutcome::default()
        }
    }

    #[test]
    fn the_ratio_is_judged_at_a_files_end() {
        let mut facts = Facts::new([0, 0, 1], 9);
        assert!(!facts.add(range(0, 0, 5, &[]), 0.5));
        assert_eq!(facts.untold(), Some(0));
        assert!(facts.add(range(0, 5, 0, &[]), 0.5));
        assert!(facts.add(range(1, 1, 2, &[]), 0.5));
        assert_eq!(facts.failures().map(|(file, _)| file).collect::<Vec<_>>(), [1]);
        assert_eq!(facts.untold(), None);
    }

    #[test]
    fn a_file_of_too_many_rejects_tells_its_first_by_its_line_in_the_file() {
        let mut facts = Facts::new([0, 0], 9);
        let reject = |line, reason: &str| Reject {
            file: 0,
            line,
            offset: 0,
            length: 1,
            reason: reason.to_owned(),
            raw: Raw::Text("x".to_owned()),
        };
        facts.add(RangeOutcome { lines: 10, ..range(0, 10, 0, &[]) }, 0.5);
        assert_eq!(facts.add_reject(&reject(3, "no JSON")), 13);
        assert_eq!(facts.add_reject(&reject(4, "no UTF-8")), 14);
        facts.add(RangeOutcome { lines: 20, ..range(0, 0, 20, &[]) }, 0.5);
        let (_, (_, message)) = facts.failures().next().unwrap();
        assert_eq!(message, "20 of 30 lines are no rows, more than a share of 0.5; the first is line 13: no JSON");
    }

    #[test]
    fn missing_columns_are_in_order_of_first_sight() {
        let mut facts = Facts::new([0, 1, 2], 9);
        facts.add(range(2, 1, 0, &["c", "a"]), 0.5);
        facts.add(range(0, 1, 0, &["b", "a"]), 0.5);
        facts.add(range(1, 0, 1, &["bad"]), 0.5);
        assert_eq!(facts.missing(9).names, ["b", "a", "c"]);
        assert_eq!(facts.missing(2).names, ["b", "a", REST]);
    }

    #[test]
    fn i9_names_past_the_first_columns_are_not_kept() {
        let mut facts = Facts::new(0..1000, 10);
        for file in (0..1000).rev() {
            let names = [format!("{file} a"), format!("{file} b"), "same".to_owned()];
            facts.add(range(file, 1, 0, &names.each_ref().map(String::as_str)), 0.5);
            assert!(facts.unknown.len() <= 20 + names.len(), "{} names are kept", facts.unknown.len());
        }
        assert_eq!(facts.missing(4).names, ["0 a", "0 b", "same", "1 a", REST]);
    }
}
