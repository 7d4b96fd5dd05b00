//! What an item says of its lease, and what an observer may conclude from it. No I/O, no clock.

use std::{collections::BTreeMap, time::Duration};

use serde_dynamo::{AttributeValue, Item};
use tokio::time::Instant;

use crate::cloud::{
    CloudError, ErrorKind, Result,
    table::{Condition, Key, KeyNames, Write},
};

/// Who holds it, for people; judged by nobody.
pub const OWNER: &str = "owner";
/// The random token of one acquisition: the fence.
pub const TOKEN: &str = "token";
/// Grows with each renewal: the sign of life.
pub const COUNTER: &str = "counter";
/// The version of the item's layout (F49).
pub const SCHEMA_VERSION: &str = "schema_version";

/// The layout that this code writes.
const PRESENT_SCHEMA: u32 = 1;

/// The attributes that belong to the lease itself; all others under the item are the holder's.
pub const LEASE_ATTRIBUTES: [&str; 4] = [OWNER, TOKEN, COUNTER, SCHEMA_VERSION];

/// A lease that an item shows as held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Who holds it.
    pub owner: String,
    /// The token of their acquisition.
    pub token: String,
    /// How far they have counted.
    pub counter: u64,
}

/// What an observer knows of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// Absent or released: anyone may take it.
    Free,
    /// Held, as far as this observer has seen.
    Held {
        /// Who holds it.
        owner: String,
        /// The token of their acquisition.
        token: String,
    },
    /// Its item can't be read: nobody may take it before a person has repaired or deleted it.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// Its counter has stood still for its length before this observer's eyes: anyone may take it over.
    Dead {
        /// Who held it.
        owner: String,
        /// The token of their acquisition.
        token: String,
    },
}

/// Reads who holds the lease that `item` shows; `None` where it is free.
pub fn holding(key: &Key, item: Option<&Item>) -> Result<Option<Holding>> {
    let Some(item) = item else { return Ok(None) };
    let malformed = |attribute: &str| {
        let text =
            format!("its attribute `{attribute}` can't be read: repair the item, or delete it to free the lease");
        CloudError::new(ErrorKind::Invalid, format!("reading lease {}/{}", key.partition, key.sort), text)
    };
    let token = match item.get(TOKEN) {
        None => return Ok(None),
        Some(AttributeValue::S(token)) => token.clone(),
        Some(_) => return Err(malformed(TOKEN)),
    };
    let owner = match item.get(OWNER) {
        Some(AttributeValue::S(owner)) => owner.clone(),
        _ => return Err(malformed(OWNER)),
    };
    let counter = counter(item).ok_or_else(|| malformed(COUNTER))?;
    Ok(Some(Holding { owner, token, counter }))
}

fn counter(item: &Item) -> Option<u64> {
    match item.get(COUNTER) {
        Some(AttributeValue::N(number)) => number.parse().ok(),
        _ => None,
    }
}

/// The write that takes a lease which was seen as `seen` (`None`: free). It leaves the holder's attributes alone.
pub fn acquisition(key: &Key, seen: Option<&Holding>, before: Option<&Item>, owner: &str, token: &str) -> Write {
    let condition = match seen {
        None => Condition::absent(TOKEN),
        Some(seen) => {
            Condition::equals(TOKEN, seen.token.as_str()).and(Condition::equals_number(COUNTER, seen.counter))
        }
    };
    let counter = before.and_then(counter).unwrap_or(0) + 1;
    Write::update(key.clone(), condition)
        .set(OWNER, owner)
        .set(TOKEN, token)
        .set_number(COUNTER, counter)
        .set_number(SCHEMA_VERSION, PRESENT_SCHEMA)
}

/// What must hold for any write under the lease of this token (I7, F18).
pub fn fence(token: &str) -> Condition {
    Condition::equals(TOKEN, token)
}

/// The write that makes the item of a lease which nobody holds yet, for what its first holder needs to know.
pub fn creation(key: &Key, names: &KeyNames, attributes: BTreeMap<String, AttributeValue>) -> Write {
    let absent = Condition::absent(names.partition.as_str());
    let write = Write::put(key.clone(), Item::default(), absent).set_number(SCHEMA_VERSION, PRESENT_SCHEMA);
    attributes.into_iter().fold(write, |write, (name, value)| write.set_value(name, value))
}

/// The write that renews a lease whose counter stands at `counter`.
///
/// The counter is part of the condition so that a renewal which lands late can never set it back: an observer relies on
/// "same token, same counter" meaning that nothing happened in between.
pub fn renewal(key: &Key, token: &str, counter: u64) -> Write {
    let condition = Condition::equals(TOKEN, token).and(Condition::equals_number(COUNTER, counter));
    Write::update(key.clone(), condition).set_number(COUNTER, counter + 1)
}

/// The write that gives a lease back. An item that holds nothing but the lease goes with it.
pub fn giving_back(key: &Key, token: &str, keep_item: bool) -> Write {
    let condition = Condition::equals(TOKEN, token);
    if keep_item {
        Write::update(key.clone(), condition).remove(OWNER).remove(TOKEN)
    } else {
        Write::delete(key.clone(), condition)
    }
}

/// Whether an item says more than who holds it.
pub fn has_further_attributes(item: &Item, key_attributes: [&str; 2]) -> bool {
    item.keys().any(|name| !LEASE_ATTRIBUTES.contains(&name.as_str()) && !key_attributes.contains(&name.as_str()))
}

/// What one observer has seen of the leases that others hold. Bounded: the ones not looked at for longest are forgotten,
/// which can only delay a takeover.
#[derive(Debug)]
pub struct Observations {
    seen: BTreeMap<Key, Seen>,
    capacity: usize,
}

#[derive(Debug)]
struct Seen {
    token: String,
    counter: u64,
    /// When the first read that showed this ended.
    since: Instant,
    looked: Instant,
}

impl Observations {
    /// Room for so many leases.
    pub fn new(capacity: usize) -> Self {
        Self { seen: BTreeMap::new(), capacity }
    }

    /// Judges a lease by a strong read that began and ended at these moments of this host's monotonic clock.
    ///
    /// The counter stood still at least from the end of the first read that showed it to the beginning of this one.
    pub fn judge(
        &mut self,
        key: &Key,
        holding: Option<&Holding>,
        read_began: Instant,
        read_ended: Instant,
        length: Duration,
    ) -> LeaseState {
        let Some(holding) = holding else {
            self.seen.remove(key);
            return LeaseState::Free;
        };
        let (owner, token) = (holding.owner.clone(), holding.token.clone());
        if let Some(seen) = self.seen.get_mut(key)
            && seen.token == holding.token
            && seen.counter == holding.counter
        {
            seen.looked = read_ended;
            return if read_began.saturating_duration_since(seen.since) >= length {
                LeaseState::Dead { owner, token }
            } else {
                LeaseState::Held { owner, token }
            };
        }
        self.make_room(key);
        let seen = Seen { token: token.clone(), counter: holding.counter, since: read_ended, looked: read_ended };
        self.seen.insert(key.clone(), seen);
        LeaseState::Held { owner, token }
    }

    /// Forgets a lease, because it is ours now.
    pub fn forget(&mut self, key: &Key) {
        self.seen.remove(key);
    }

    fn make_room(&mut self, key: &Key) {
        if self.seen.len() < self.capacity || self.seen.contains_key(key) {
            return;
        }
        if let Some(oldest) = self.seen.iter().min_by_key(|(_, seen)| seen.looked).map(|(key, _)| key.clone()) {
            self.seen.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn held(token: &str, counter: u64) -> Holding {
        Holding { owner: "a".into(), token: token.into(), counter }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_dead_only_after_its_length_before_the_observers_own_eyes() {
        let mut observed = Observations::new(10);
        let key = Key::new("flush", "2026-02-01");
        let start = Instant::now();
        let mut look = |token: &str, counter: u64, at_secs: u64| {
            let at = start + Duration::from_secs(at_secs);
            observed.judge(&key, Some(&held(token, counter)), at, at, LENGTH)
        };
        assert!(matches!(look("t", 7, 100), LeaseState::Held { .. }), "however old it is, it is new to this observer");
        assert!(matches!(look("t", 7, 109), LeaseState::Held { .. }));
        assert!(matches!(look("t", 8, 110), LeaseState::Held { .. }), "a renewal starts the wait again");
        assert!(matches!(look("t", 8, 119), LeaseState::Held { .. }));
        assert!(matches!(look("u", 8, 119), LeaseState::Held { .. }), "so does another acquisition");
        assert!(matches!(look("u", 8, 129), LeaseState::Dead { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn observations_are_bounded() {
        let mut observed = Observations::new(3);
        for n in 0..100_u64 {
            let at = Instant::now() + Duration::from_secs(n);
            observed.judge(&Key::new("manifest", n.to_string()), Some(&held("t", 1)), at, at, LENGTH);
        }
        assert_eq!(observed.seen.len(), 3);
        assert!(observed.seen.contains_key(&Key::new("manifest", "99")));
    }

    proptest! {
        /// Lease writes never touch what the holder keeps under the item, and acquisitions read back as written.
        #[test]
        fn lease_writes_leave_other_attributes_alone(checkpoint in "[0-9]{1,40}", counter in 0_u64..1 << 40) {
            let names = KeyNames { partition: "scope".into(), sort: "id".into() };
            let key = Key::new("arn", "shard");
            let mut item = Item::default();
            item.inner_mut().insert("checkpoint".into(), AttributeValue::S(checkpoint.clone()));
            item.inner_mut().insert(COUNTER.into(), AttributeValue::N(counter.to_string()));

            let taken = acquisition(&key, None, Some(&item), "a", "t1");
            prop_assert!(taken.condition.holds(Some(&item)));
            let item = taken.apply(&names, Some(&item)).unwrap();
            prop_assert_eq!(
                holding(&key, Some(&item)).unwrap(),
                Some(Holding { owner: "a".into(), token: "t1".into(), counter: counter + 1 })
            );
            let renewed = renewal(&key, "t1", counter + 1);
            prop_assert!(renewed.condition.holds(Some(&item)));
            let item = renewed.apply(&names, Some(&item)).unwrap();
            prop_assert!(!renewed.condition.holds(Some(&item)), "a renewal that lands late changes nothing");

            let stolen = acquisition(&key, holding(&key, Some(&item)).unwrap().as_ref(), Some(&item), "b", "t2");
            let item = stolen.apply(&names, Some(&item)).unwrap();
            prop_assert!(!renewal(&key, "t1", counter + 2).condition.holds(Some(&item)));
            prop_assert!(!giving_back(&key, "t1", true).condition.holds(Some(&item)));

            let item = giving_back(&key, "t2", true).apply(&names, Some(&item)).unwrap();
            prop_assert_eq!(holding(&key, Some(&item)).unwrap(), None);
            prop_assert_eq!(item.get("checkpoint"), Some(&AttributeValue::S(checkpoint)));
        }
    }
}
