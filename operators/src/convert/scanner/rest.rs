//! What a line holds beyond its columns, gathered into one JSON object.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;

use super::names::Slot;

/// The overflow of one line: keys and values as they stand in it. Of a key that occurs again the last one counts.
#[derive(Debug, Default)]
pub(super) struct Rest {
    entries: Vec<Entry>,
    by_slot: HashMap<Slot, usize, RandomState>,
    by_key: HashMap<Box<[u8]>, usize, RandomState>,
}

#[derive(Debug)]
struct Entry {
    quoted_key: Range<usize>,
    value: Range<usize>,
    superseded: bool,
}

impl Rest {
    pub(super) fn clear(&mut self) {
        if !self.entries.is_empty() {
            self.entries.clear();
            self.by_slot.clear();
            self.by_key.clear();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a value, and tells whether its key occurred before. A key without a slot is told by its text.
    pub(super) fn add(
        &mut self,
        slot: Option<Slot>,
        key: &[u8],
        quoted_key: Range<usize>,
        value: Range<usize>,
    ) -> bool {
        let entry = self.entries.len();
        self.entries.push(Entry { quoted_key, value, superseded: false });
        let before = match slot {
            Some(slot) => self.by_slot.insert(slot, entry),
            None => self.by_key.insert(key.into(), entry),
        };
        if let Some(before) = before {
            self.entries[before].superseded = true;
        }
        before.is_some()
    }

    /// Appends the object to `out`.
    pub(super) fn write(&self, line: &[u8], out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, entry) in self.entries.iter().filter(|entry| !entry.superseded).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&line[entry.quoted_key.clone()]);
            out.push(b':');
            out.extend_from_slice(&line[entry.value.clone()]);
        }
        out.push(b'}');
    }
}
