//! The least and the greatest value of a page or a column chunk.

/// Longer bounds are cut to this many bytes, the greater one rounded up.
const MAX_BOUND_BYTES: usize = 64;

/// The least and greatest of the values seen. Most values are told from both by the eight bytes after what both share: times
/// and addresses all begin alike.
#[derive(Debug, Default, Clone)]
pub(super) struct Bounds {
    values: Option<(Vec<u8>, Vec<u8>)>,
    /// How many bytes both begin with.
    shared: usize,
    /// The eight bytes of each after those.
    least_key: u64,
    greatest_key: u64,
}

/// The first eight bytes of a text as a number that sorts as they do; what a shorter one lacks is zero.
#[inline]
fn key(value: &[u8]) -> u64 {
    match value.first_chunk::<8>() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..value.len()].copy_from_slice(value);
            u64::from_be_bytes(head)
        }
    }
}

impl Bounds {
    /// Takes a value in. Bytes past those that a bound keeps don't tell values apart.
    #[inline]
    pub(super) fn add(&mut self, value: &[u8]) {
        if let Some((least, _)) = &self.values
            && value.get(..self.shared) == least.get(..self.shared)
        {
            let key = key(&value[self.shared..]);
            if key > self.least_key && key < self.greatest_key {
                return;
            }
        }
        // Outside or at the edge of what is known.
        self.look_closer(value);
    }

    fn look_closer(&mut self, value: &[u8]) {
        // One byte more than is kept, so that a bound knows that it was cut.
        let value = &value[..value.len().min(MAX_BOUND_BYTES + 1)];
        let Some((least, greatest)) = &mut self.values else {
            self.values = Some((value.to_vec(), value.to_vec()));
            (self.shared, self.least_key, self.greatest_key) = (value.len(), 0, 0);
            return;
        };
        let bound = if value < least.as_slice() {
            least
        } else if value > greatest.as_slice() {
            greatest
        } else {
            return;
        };
        bound.clear();
        bound.extend_from_slice(value);
        if let Some((least, greatest)) = &self.values {
            self.shared = least.iter().zip(greatest).take_while(|(a, b)| a == b).count();
            (self.least_key, self.greatest_key) = (key(&least[self.shared..]), key(&greatest[self.shared..]));
        }
    }

    /// Takes in what another has seen.
    pub(super) fn merge(&mut self, other: &Self) {
        if let Some((least, greatest)) = &other.values {
            self.add(least);
            self.add(greatest);
        }
    }

    /// The bounds; none if there was no value, or if no short text is greater than all of them.
    pub(super) fn get(&self) -> Option<(Bound, Bound)> {
        let (least, greatest) = self.values.as_ref()?;
        Some((floor(least), ceiling(greatest)?))
    }
}

/// A bound, and whether it is a value itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) value: Vec<u8>,
    pub(super) exact: bool,
}

/// No more than `value`.
fn floor(value: &[u8]) -> Bound {
    if value.len() <= MAX_BOUND_BYTES {
        return Bound { value: value.to_vec(), exact: true };
    }
    Bound { value: whole_characters(value).to_vec(), exact: false }
}

/// No less than any text that begins with `value`'s kept bytes.
fn ceiling(value: &[u8]) -> Option<Bound> {
    if value.len() <= MAX_BOUND_BYTES {
        return Some(Bound { value: value.to_vec(), exact: true });
    }
    let mut kept = std::str::from_utf8(whole_characters(value)).ok()?;
    loop {
        let last = kept.chars().next_back()?;
        kept = &kept[..kept.len() - last.len_utf8()];
        if let Some(next) = next_character(last) {
            let value = [kept.as_bytes(), next.encode_utf8(&mut [0; 4]).as_bytes()].concat();
            return Some(Bound { value, exact: false });
        }
    }
}

/// The next character of the same length.
fn next_character(character: char) -> Option<char> {
    let next = match character {
        '\u{d7ff}' => '\u{e000}',
        character => char::from_u32(u32::from(character) + 1)?,
    };
    (next.len_utf8() == character.len_utf8()).then_some(next)
}

/// As many whole characters of `value` as a bound keeps.
fn whole_characters(value: &[u8]) -> &[u8] {
    let mut end = value.len().min(MAX_BOUND_BYTES);
    while end > 0 && value.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    &value[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[String]) -> (Bound, Bound) {
        let (mut bounds, mut halves) = (Bounds::default(), Bounds::default());
        for (index, value) in values.iter().enumerate() {
            bounds.add(value.as_bytes());
            if index % 7 == 0 {
                halves.merge(&bounds);
            }
        }
        halves.merge(&bounds);
        assert_eq!(halves.get(), bounds.get());
        bounds.get().unwrap()
    }

    proptest! {
        #[test]
        fn every_value_lies_within(values in proptest::collection::vec("[a-c\u{0}\u{7f}é\u{d7ff}\u{10fffe}]{0,70}", 1..40)) {
            let (least, greatest) = of(&values);
            let (min, max) = (values.iter().min().unwrap(), values.iter().max().unwrap());
            prop_assert!(least.value.as_slice() <= min.as_bytes());
            prop_assert!(greatest.value.as_slice() >= max.as_bytes());
            prop_assert!(least.value.len() <= MAX_BOUND_BYTES && greatest.value.len() <= MAX_BOUND_BYTES);
            prop_assert_eq!(least.exact, min.len() <= MAX_BOUND_BYTES);
            prop_assert!(!least.exact || least.value == min.as_bytes());
            prop_assert!(!greatest.exact || greatest.value == max.as_bytes());
        }
    }

    #[test]
    fn bounds_are_cut_between_characters() {
        let long = format!("{}é", "a".repeat(63));
        let (least, greatest) = of(std::slice::from_ref(&long));
        assert_eq!(least, Bound { value: "a".repeat(63).into_bytes(), exact: false });
        assert_eq!(greatest, Bound { value: format!("{}b", "a".repeat(62)).into_bytes(), exact: false });
        let mut highest = Bounds::default();
        highest.add("\u{10ffff}".repeat(17).as_bytes());
        assert_eq!(highest.get(), None);
        assert_eq!(of(&["b".to_owned(), String::new()]).0, Bound { value: Vec::new(), exact: true });
    }
}
