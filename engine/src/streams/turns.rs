//! Turns: which change of an item may be handed on. No I/O, no clock.
//!
//! Of one item at most one change is without a verdict at any time. The next has to wait until it is done or in the dead
//! letters. So nothing that happens to a change (a retry, a slow operator, several handlers side by side) can bring the
//! changes of one item out of order, and changes of different items never wait for each other.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::cloud::table::Key;

/// Stands for an item. Two items that share one wait for each other, which costs time and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ItemHash(u64);

impl ItemHash {
    /// What stands for the item with this key.
    pub fn of(key: &Key) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The items of which a change is out, each with those that wait behind it.
#[derive(Debug, Default)]
pub struct Turns(HashMap<ItemHash, VecDeque<u64>>);

impl Turns {
    /// Puts a change behind the earlier ones of its item. Returns whether its turn has come already.
    pub fn queue(&mut self, item: ItemHash, id: u64) -> bool {
        match self.0.entry(item) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                true
            }
            Entry::Occupied(mut taken) => {
                taken.get_mut().push_back(id);
                false
            }
        }
    }

    /// The change whose turn it was is done. Returns the one whose turn it is now.
    pub fn pass(&mut self, item: ItemHash) -> Option<u64> {
        let Entry::Occupied(mut taken) = self.0.entry(item) else { return None };
        let next = taken.get_mut().pop_front();
        if next.is_none() {
            taken.remove();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes in, and in whatever order it is done: each change has its turn once, one at a time for an item,
        /// and in the order of the item's changes.
        #[test]
        fn the_changes_of_an_item_have_their_turns_one_after_another(
            keys in prop::collection::vec(0_u64..6, 1..80), choices in prop::collection::vec(any::<usize>(), 300)
        ) {
            let mut turns = Turns::default();
            let mut out: BTreeMap<u64, u64> = BTreeMap::new();
            let mut seen: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            let mut coming = keys.iter().copied().enumerate().peekable();
            let (mut left, mut choices) = (keys.len(), choices.into_iter());
            while left > 0 {
                let choice = choices.next().unwrap_or(1);
                match coming.next_if(|_| choice % 2 == 0 || out.is_empty()) {
                    Some((id, key)) => {
                        if turns.queue(ItemHash(key), id as u64) {
                            prop_assert!(out.insert(key, id as u64).is_none(), "two changes of an item are out");
                            seen.entry(key).or_default().push(id as u64);
                        } else {
                            prop_assert!(out.contains_key(&key), "it waits for nobody");
                        }
                    }
                    None => {
                        let key = *out.keys().nth(choice % out.len()).unwrap();
                        out.remove(&key);
                        left -= 1;
                        if let Some(next) = turns.pass(ItemHash(key)) {
                            out.insert(key, next);
                            seen.entry(key).or_default().push(next);
                        }
                    }
                }
            }
            prop_assert!(turns.0.is_empty(), "what is done is forgotten");
            for (key, ids) in seen {
                let expected: Vec<u64> = (0..keys.len()).filter(|id| keys[*id] == key).map(|id| id as u64).collect();
                prop_assert_eq!(ids, expected);
            }
        }
    }

    #[test]
    fn both_parts_of_a_key_tell_items_apart() {
        let items = [("a", "b"), ("a", "c"), ("ab", ""), ("", "ab"), ("b", "a")];
        let hashes: BTreeSet<u64> = items.iter().map(|(p, s)| ItemHash::of(&Key::new(*p, *s)).0).collect();
        assert_eq!(hashes.len(), items.len());
    }
}
