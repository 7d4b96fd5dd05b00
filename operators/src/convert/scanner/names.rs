//! From a key to what becomes of its value, mostly without a look-up: lines of a file tend to have the same keys in the
//! same order, so each key remembers which two followed it last. Whether one of these stands there is told by comparing
//! three words.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::text::plain_end;
use crate::convert::columns::{MAX_NAME_BYTES, REST, column_name, may_be_column};
use crate::convert::options::ColumnCase;

/// What becomes of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// It is a cell of this column.
    Column(usize),
    /// It goes into `_rest`.
    Rest,
    /// Its name is to become a column.
    Unknown,
}

/// A known key, by its position in [`Names`].
pub(super) type Slot = u32;

/// The slot before a line's first key.
pub(super) const LINE_START: Slot = 0;

/// Bytes of a foreseen key that are compared as words.
const WORDS: usize = 3;
const HEAD_BYTES: usize = WORDS * 8;

/// What a line must hold where a key is foreseen, and what followed that key: all that the common case looks at.
#[derive(Debug)]
struct Foreseen {
    /// The first bytes of the key with its quotes and colon, and which of their bits count.
    head: [u64; WORDS],
    mask: [u64; WORDS],
    /// The slots that followed it, the last one first.
    followers: [Slot; 2],
    /// How long it is. Nothing is foreseen of a key of no length.
    length: u32,
}

#[derive(Debug)]
struct Known {
    target: Target,
    /// The last line that has it.
    line: u64,
    /// The key as the line has it, with its quotes and colon.
    written: Box<[u8]>,
    /// What the column would be called, if it is to become one, and whether it is listed as such.
    name: Box<str>,
    listed: bool,
}

/// All keys that have a slot. Bounded: past `max_slots` a key that is no column has none, and goes into `_rest`.
#[derive(Debug)]
pub(super) struct Names {
    /// Of each slot.
    foreseen: Vec<Foreseen>,
    known: Vec<Known>,
    by_key: HashMap<Box<[u8]>, Slot, RandomState>,
    max_slots: usize,
    case: ColumnCase,
    /// How many unknown names may become columns.
    room: usize,
    /// Those that will, in order of first sight, with the offset of their line.
    pub(super) unknown: Vec<(String, u64)>,
    /// Unknown keys of the line that is being scanned: they count only if it turns out to be a row.
    pending: Vec<Slot>,
    /// How many slots there were when the line began.
    before_line: usize,
}

impl Names {
    pub(super) fn new(columns: &[String], room: usize, case: ColumnCase) -> Self {
        // The slot before the first key is never taken for a key.
        let start = Known { target: Target::Rest, line: 0, written: Box::default(), name: "".into(), listed: false };
        let mut names = Self {
            foreseen: vec![Foreseen::of(&start.written)],
            known: vec![start],
            by_key: HashMap::default(),
            max_slots: columns.len() + room + 4096,
            case,
            room,
            unknown: Vec::new(),
            pending: Vec::new(),
            before_line: 0,
        };
        for (column, name) in columns.iter().enumerate() {
            if name != REST {
                names.add(name.as_bytes(), name.as_bytes(), Target::Column(column));
            }
        }
        names
    }

    fn add(&mut self, key: &[u8], spelling: &[u8], target: Target) -> Slot {
        let slot = self.known.len() as Slot;
        let (written, name) = (written(spelling), String::from_utf8_lossy(key).into());
        self.foreseen.push(Foreseen::of(&written));
        self.known.push(Known { target, line: 0, written, name, listed: false });
        self.by_key.insert(key.into(), slot);
        slot
    }

    /// The slot that followed `previous` before, if its key and a colon stand at the start of `rest`, and their length.
    #[inline(always)]
    pub(super) fn predict(&mut self, previous: Slot, rest: &[u8]) -> Option<(Slot, usize)> {
        let [last, other] = self.foreseen[previous as usize].followers;
        if let Some(length) = self.stands_at(last, rest) {
            return Some((last, length));
        }
        let length = self.stands_at(other, rest)?;
        self.foreseen[previous as usize].followers = [other, last];
        Some((other, length))
    }

    /// A follower may have been forgotten, or its slot taken by another key: what stands there decides.
    #[inline(always)]
    fn stands_at(&self, slot: Slot, rest: &[u8]) -> Option<usize> {
        let foreseen = self.foreseen.get(slot as usize)?;
        let length = foreseen.length as usize;
        let Some(head) = rest.first_chunk::<HEAD_BYTES>().filter(|_| length <= HEAD_BYTES) else {
            return self.stands_whole_at(slot, rest);
        };
        let differ = foreseen.differ(head);
        (differ == 0 && length > 0).then_some(length)
    }

    /// For a long key, or near the end of a line.
    #[inline(never)]
    fn stands_whole_at(&self, slot: Slot, rest: &[u8]) -> Option<usize> {
        let written = &self.known[slot as usize].written;
        (!written.is_empty() && rest.starts_with(written)).then_some(written.len())
    }

    /// The slot of a key that was not foreseen; none if it goes into `_rest` without a slot.
    pub(super) fn look_up(&mut self, previous: Slot, key: &[u8], escaped: bool) -> Option<Slot> {
        let slot = match self.by_key.get(key) {
            Some(&slot) => slot,
            None => self.meet(key)?,
        };
        let known = &mut self.known[slot as usize];
        // Another spelling of the same column (`Id` and `id`): expect this one from now on.
        if !escaped && known.written.get(1..known.written.len().saturating_sub(2)) != Some(key) {
            known.written = written(key);
            let foreseen = &mut self.foreseen[slot as usize];
            *foreseen = Foreseen { followers: foreseen.followers, ..Foreseen::of(&known.written) };
        }
        let followers = &mut self.foreseen[previous as usize].followers;
        *followers = [slot, followers[0]];
        Some(slot)
    }

    /// A key that is seen for the first time.
    fn meet(&mut self, key: &[u8]) -> Option<Slot> {
        // Longer keys are not worth remembering; lower case can make a name longer, hence the second look.
        let text = std::str::from_utf8(key).ok()?;
        if key.len() > MAX_NAME_BYTES {
            return None;
        }
        let name = column_name(text, self.case);
        if let Some(&slot) = self.by_key.get(name.as_bytes()) {
            // In `_rest` each spelling keeps its own key.
            if self.known[slot as usize].target != Target::Rest {
                if self.by_key.len() < self.max_slots {
                    self.by_key.insert(key.into(), slot);
                }
                return Some(slot);
            }
        }
        if may_be_column(&name) && self.unknown.len() < self.room && self.by_key.len() < self.max_slots {
            let slot = self.add(name.as_bytes(), key, Target::Unknown);
            self.by_key.insert(key.into(), slot);
            return Some(slot);
        }
        (self.by_key.len() < self.max_slots).then(|| self.add(key, key, Target::Rest))
    }

    /// The line that is being scanned has an unknown key.
    pub(super) fn pend(&mut self, slot: Slot) {
        self.pending.push(slot);
    }

    /// A line begins.
    #[inline]
    pub(super) fn begin_line(&mut self) {
        self.before_line = self.known.len();
    }

    /// The line is no row: the keys that it showed first were never seen.
    pub(super) fn forget_line(&mut self) {
        self.pending.clear();
        if self.known.len() > self.before_line {
            let before_line = self.before_line;
            self.known.truncate(before_line);
            self.foreseen.truncate(before_line);
            self.by_key.retain(|_, slot| (*slot as usize) < before_line);
        }
    }

    /// The line, at `offset`, is a row: its unknown keys are to become columns. Gives whether there were any, and whether
    /// some go into `_rest` instead, since there is no room left.
    pub(super) fn settle_pending(&mut self, offset: u64) -> (bool, bool) {
        let (mut any, mut overflow) = (false, false);
        for slot in std::mem::take(&mut self.pending) {
            any = true;
            let known = &mut self.known[slot as usize];
            if known.listed {
                continue;
            }
            if self.unknown.len() < self.room {
                known.listed = true;
                self.unknown.push((known.name.to_string(), offset));
            } else {
                known.target = Target::Rest;
                overflow = true;
            }
        }
        (any, overflow)
    }

    #[inline]
    pub(super) fn target(&self, slot: Slot) -> Target {
        self.known[slot as usize].target
    }

    /// Notes that `line` has the key, and tells whether it had it already. Lines are numbered from 1 on.
    #[inline]
    pub(super) fn repeats(&mut self, slot: Slot, line: u64) -> bool {
        std::mem::replace(&mut self.known[slot as usize].line, line) == line
    }
}

impl Foreseen {
    fn of(written: &[u8]) -> Self {
        let (mut head, mut mask) = ([0; HEAD_BYTES], [0; HEAD_BYTES]);
        let inline = written.len().min(HEAD_BYTES);
        head[..inline].copy_from_slice(&written[..inline]);
        mask[..inline].fill(0xff);
        Self { head: words(&head), mask: words(&mask), followers: [0, 0], length: written.len() as u32 }
    }

    /// Zero if `head` begins with the key.
    #[inline(always)]
    fn differ(&self, head: &[u8; HEAD_BYTES]) -> u64 {
        let found = words(head);
        (0..WORDS).fold(0, |differ, word| differ | (found[word] ^ self.head[word]) & self.mask[word])
    }
}

#[inline(always)]
fn words(bytes: &[u8; HEAD_BYTES]) -> [u64; WORDS] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|word| u64::from_le_bytes(words[word]))
}

/// A key as a line without escapes and needless space has it. One that needs escapes has no such form: it is looked up
/// each time.
fn written(text: &[u8]) -> Box<[u8]> {
    if plain_end(text, 0) < text.len() { Box::default() } else { [b"\"", text, b"\":"].concat().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(columns: &[&str], room: usize, case: ColumnCase) -> Names {
        Names::new(&columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), room, case)
    }

    #[test]
    fn what_followed_is_foreseen() {
        let mut names = names(&["a", "b"], 0, ColumnCase::Preserve);
        assert_eq!(names.predict(LINE_START, br#""a":1"#), None);
        let a = names.look_up(LINE_START, b"a", false).unwrap();
        let b = names.look_up(a, b"b", false).unwrap();
        assert_eq!(names.predict(LINE_START, br#""a":1"#), Some((a, 4)));
        assert_eq!(names.predict(a, br#""b":1"#), Some((b, 4)));
        assert_eq!(names.target(b), Target::Column(1));
    }

    #[test]
    fn a_key_is_foreseen_whatever_its_length() {
        for length in 0..60 {
            let (key, longer) = ("k".repeat(length), "k".repeat(length + 1));
            let mut names = names(&[&key, &longer], 0, ColumnCase::Preserve);
            let slot = names.look_up(LINE_START, key.as_bytes(), false).unwrap();
            for rest in ["", "1", "1,\"another\":\"value that goes on\"}"] {
                let line = format!("\"{key}\":{rest}");
                assert_eq!(names.predict(LINE_START, line.as_bytes()), Some((slot, length + 3)), "{line}");
                for other in [format!("\"{longer}\":{rest}"), format!("\"{key}\" :{rest}"), format!("\"{key}")] {
                    assert_eq!(names.predict(LINE_START, other.as_bytes()), None, "{other}");
                }
            }
        }
    }

    #[test]
    fn unknown_names_become_columns_while_there_is_room() {
        let mut names = names(&["a"], 1, ColumnCase::Preserve);
        let slot = |names: &mut Names, key: &[u8]| names.look_up(LINE_START, key, false);
        let (x, y) = (slot(&mut names, b"x").unwrap(), slot(&mut names, b"y").unwrap());
        assert_eq!((names.target(x), names.target(y)), (Target::Unknown, Target::Unknown));
        names.pend(y);
        assert_eq!(names.settle_pending(7), (true, false));
        names.pend(x);
        names.pend(y);
        assert_eq!(names.settle_pending(8), (true, true));
        assert_eq!(names.unknown, [("y".to_owned(), 7)]);
        assert_eq!(names.target(x), Target::Rest);
        let z = slot(&mut names, b"z").unwrap();
        let reserved = slot(&mut names, b"_source_file").unwrap();
        assert_eq!((names.target(z), names.target(reserved)), (Target::Rest, Target::Rest));
        assert_eq!(slot(&mut names, &[b'k'; 300]), None);
    }

    #[test]
    fn the_keys_of_a_reject_were_never_seen() {
        let mut names = names(&["a"], 1, ColumnCase::Preserve);
        names.begin_line();
        let x = names.look_up(LINE_START, b"x", false).unwrap();
        names.pend(x);
        names.forget_line();
        assert_eq!(names.predict(LINE_START, br#""x":1"#), None);
        assert_eq!(names.settle_pending(0), (false, false));
        let y = names.look_up(LINE_START, b"y", false).unwrap();
        assert_eq!((x, names.predict(LINE_START, br#""y":1"#)), (y, Some((y, 4))));
    }

    #[test]
    fn lower_case_merges_spellings() {
        let mut names = names(&["id"], 9, ColumnCase::Lower);
        let slot = names.look_up(LINE_START, b"ID", false).unwrap();
        assert_eq!(names.target(slot), Target::Column(0));
        assert_eq!(names.predict(LINE_START, br#""ID":1"#), Some((slot, 5)));
        assert_eq!(names.look_up(LINE_START, b"id", false), Some(slot));
        let new = names.look_up(LINE_START, b"New", false).unwrap();
        assert_eq!(names.look_up(LINE_START, b"nEW", false), Some(new));
        names.pend(new);
        assert_eq!(names.settle_pending(0), (true, false));
        assert_eq!(names.unknown, [("new".to_owned(), 0)]);
    }
}
