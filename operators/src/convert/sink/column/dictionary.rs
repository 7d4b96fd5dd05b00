//! The distinct values of a column chunk, in order of first sight.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

/// A dictionary while it grows. Its values stand in one buffer, just as its page will hold them: each after its length.
#[derive(Debug)]
pub(super) struct Dictionary {
    plain: Vec<u8>,
    /// Where each value's length stands in `plain`, and where the next would.
    starts: Vec<u32>,
    /// Open addressing: half of a value's hash and its number plus one; zero where there is none. Seeded anew in each
    /// process, so that nobody can choose values that meet.
    table: Vec<(u32, u32)>,
    hasher: RandomState,
    /// The number that was given last.
    last: u32,
}

impl Dictionary {
    pub(super) fn new() -> Self {
        Self { plain: Vec::new(), starts: vec![0], table: vec![(0, 0); 64], hasher: RandomState::default(), last: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Its values as its page holds them.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.plain.capacity() + self.starts.capacity() * 4 + self.table.len() * 8
    }

    /// Value number `number`.
    #[inline]
    pub(super) fn value(&self, number: u32) -> &[u8] {
        let number = number as usize;
        &self.plain[self.starts[number] as usize + 4..self.starts[number + 1] as usize]
    }

    /// All values.
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|number| self.value(number as u32))
    }

    /// The number of a value, which joins if it is new.
    #[inline]
    pub(super) fn number(&mut self, value: &[u8]) -> u32 {
        // What a whole file or manifest has in common need not be hashed row by row.
        if self.len() > 0 && same(self.value(self.last), value) {
            return self.last;
        }
        self.last = self.find(value);
        self.last
    }

    #[inline]
    fn find(&mut self, value: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(value);
        let hash = hasher.finish();
        let (tag, mask) = ((hash >> 32) as u32, self.table.len() - 1);
        let mut slot = hash as usize & mask;
        loop {
            let (other, number) = self.table[slot];
            if number == 0 {
                return self.join(value, slot, tag);
            }
            if other == tag && same(self.value(number - 1), value) {
                return number - 1;
            }
            slot = (slot + 1) & mask;
        }
    }

    #[cold]
    fn join(&mut self, value: &[u8], slot: usize, tag: u32) -> u32 {
        let number = self.len() as u32;
        self.plain.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.plain.extend_from_slice(value);
        self.starts.push(self.plain.len() as u32);
        self.table[slot] = (tag, number + 1);
        if self.len() * 2 > self.table.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let mask = self.table.len() * 4 - 1;
        let mut table = vec![(0, 0); mask + 1];
        for number in 0..self.len() as u32 {
            let mut hasher = self.hasher.build_hasher();
            hasher.write(self.value(number));
            let hash = hasher.finish();
            let mut slot = hash as usize & mask;
            while table[slot].1 != 0 {
                slot = (slot + 1) & mask;
            }
            table[slot] = ((hash >> 32) as u32, number + 1);
        }
        self.table = table;
    }
}

/// Whether two values are the same: most are short, and a call to compare them would cost more than the comparison.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (a.first_chunk::<8>(), b.first_chunk::<8>(), a.last_chunk::<8>(), b.last_chunk::<8>()) {
        (Some(head_a), Some(head_b), Some(tail_a), Some(tail_b)) if a.len() <= 16 => {
            let differ = |a: &[u8; 8], b: &[u8; 8]| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
            differ(head_a, head_b) | differ(tail_a, tail_b) == 0
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_has_one_number(values in proptest::collection::vec("[ab]{0,20}", 0..600)) {
            let mut dictionary = Dictionary::new();
            let mut numbers = HashMap::new();
            for value in &values {
                let next = numbers.len() as u32;
                let expected = *numbers.entry(value).or_insert(next);
                prop_assert_eq!(dictionary.number(value.as_bytes()), expected);
                prop_assert_eq!(dictionary.value(expected), value.as_bytes());
            }
            prop_assert_eq!(dictionary.len(), numbers.len());
            let plain: Vec<u8> = dictionary
                .values()
                .flat_map(|value| [&(value.len() as u32).to_le_bytes(), value].concat())
                .collect();
            prop_assert_eq!(plain, dictionary.plain());
        }
    }
}
