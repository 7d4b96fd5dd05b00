//! What a sweep found: each find with what was done about it, or why it was left.

use std::collections::BTreeMap;

use super::events::{FindsTold, Found};

/// What became of a find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was finished, for this reason.
    Done,
    /// It was left to others, for this reason.
    Left,
    /// It couldn't be finished; the next sweep tries again.
    Failed,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Left => "left",
            Self::Failed => "failed",
        }
    }
}

/// Reasons that are told apart. Those of failures name what failed, and everything may.
const REASONS: usize = 200;

/// The finds of one sweep: counted by kind, outcome and reason, each with an example. So its size is bounded, however much
/// was left behind.
#[derive(Debug, Default)]
pub struct Finds(BTreeMap<(&'static str, Outcome, String), (u64, String)>);

impl Finds {
    /// Notes a find: what kind of thing, what became of it and why, and which one it is.
    pub fn note(&mut self, what: &'static str, outcome: Outcome, why: impl Into<String>, key: &str) {
        let mut why = why.into();
        Found { what, outcome, why: &why, key }.emit();
        if self.0.len() >= REASONS && !self.0.contains_key(&(what, outcome, why.clone())) {
            why = "other reasons: there are too many to tell them apart".to_owned();
        }
        self.0.entry((what, outcome, why)).or_insert_with(|| (0, key.to_owned())).0 += 1;
    }

    /// Takes the result of finishing a find.
    pub fn note_result<T, E: ToString>(
        &mut self,
        what: &'static str,
        why: &str,
        key: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(done) => {
                self.note(what, Outcome::Done, why, key);
                Some(done)
            }
            Err(error) => {
                self.note(what, Outcome::Failed, error.to_string(), key);
                None
            }
        }
    }

    /// How many finds of a kind ended so.
    pub fn count(&self, what: &str, outcome: Outcome) -> u64 {
        self.0.iter().filter(|((kind, ended, _), _)| *kind == what && *ended == outcome).map(|(_, (n, _))| n).sum()
    }

    /// Why finds of a kind ended so.
    pub fn reasons(&self, what: &str, outcome: Outcome) -> Vec<&str> {
        let of_kind = self.0.keys().filter(|(kind, ended, _)| *kind == what && *ended == outcome);
        of_kind.map(|(.., why)| why.as_str()).collect()
    }

    /// One log line for each kind, outcome and reason.
    pub fn emit(&self) {
        for ((what, outcome, why), (count, example)) in &self.0 {
            FindsTold { what, outcome: *outcome, why, count: *count, example }.emit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_are_counted_by_reason_and_bounded() {
        let mut finds = Finds::default();
        for number in 0..1000 {
            finds.note("claim", Outcome::Left, "its manifest is pending", &number.to_string());
        }
        finds.note("claim", Outcome::Done, "its manifest is abandoned", "x");
        assert_eq!((finds.count("claim", Outcome::Left), finds.count("claim", Outcome::Done)), (1000, 1));
        assert_eq!(finds.reasons("claim", Outcome::Left), ["its manifest is pending"]);
        assert_eq!(finds.0.len(), 2);
        for number in 0..1000 {
            finds.note("object", Outcome::Failed, format!("HEAD of {number} failed"), "x");
        }
        assert_eq!(finds.count("object", Outcome::Failed), 1000);
        assert!(finds.0.len() <= REASONS + 1, "i9: {} reasons are kept", finds.0.len());
    }
}
