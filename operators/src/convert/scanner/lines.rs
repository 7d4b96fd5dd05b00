//! From chunks of a file to whole lines: which lines a byte range owns, lines that straddle chunks, lines too long to
//! hold.

use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr, memrchr};

/// The mark that some writers put before the first line.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// How much is checked for UTF-8 at once: little enough to be still in the cache when its lines are scanned.
const CHECK_BYTES: usize = 32 << 10;

/// Something to scan.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Whole lines.
    Lines(Lines),
    /// A line that was too long to hold: where it begins, how long it is without its end, and its first bytes.
    LongLine { offset: u64, length: u64, head: Vec<u8> },
}

/// Whole lines; only the last of a file may lack its end.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Bytes,
    offset: u64,
    at: usize,
    checked_to: usize,
    utf8: bool,
}

impl Lines {
    fn new(bytes: Bytes, offset: u64) -> Self {
        Self { bytes, offset, at: 0, checked_to: 0, utf8: true }
    }

    /// The next line without its end, and whether it is known to be UTF-8.
    #[inline]
    pub(crate) fn next_line(&mut self) -> Option<(Range<usize>, bool)> {
        if self.at >= self.bytes.len() {
            return None;
        }
        if self.at >= self.checked_to {
            self.check();
        }
        let begin = self.at;
        let end = memchr(b'\n', &self.bytes[begin..]).map_or(self.bytes.len(), |length| begin + length);
        self.at = end + 1;
        Some((begin..end, self.utf8))
    }

    /// The text of a line without a carriage return at its end or a mark at the file's start, and its place in the file.
    #[inline]
    pub(crate) fn line(&self, range: Range<usize>) -> (&[u8], u64) {
        let mut offset = self.offset + range.start as u64;
        let mut line = &self.bytes[range];
        if offset == 0 && line.starts_with(BOM) {
            line = &line[BOM.len()..];
            offset = BOM.len() as u64;
        }
        (line.strip_suffix(b"\r").unwrap_or(line), offset)
    }

    fn check(&mut self) {
        let least = (self.at + CHECK_BYTES).min(self.bytes.len());
        self.checked_to = memchr(b'\n', &self.bytes[least..]).map_or(self.bytes.len(), |length| least + length + 1);
        self.utf8 = simdutf8::basic::from_utf8(&self.bytes[self.at..self.checked_to]).is_ok();
    }
}

/// Cuts the chunks of a byte range into pieces. A range owns the lines whose first byte lies in it, so the first chunk
/// must begin one byte before a range that isn't a file's first, and chunks go on past its end until [`Self::is_done`].
#[derive(Debug)]
pub(crate) struct LineCutter {
    end: Option<u64>,
    max_line_bytes: usize,
    max_head_bytes: usize,
    /// Where the next chunk begins.
    at: u64,
    /// Whether the end of a line that isn't ours is still to come.
    aligning: bool,
    done: bool,
    /// The start of a line whose end is still to come.
    carry: Vec<u8>,
    long: Option<Long>,
}

/// A line that is too long to carry.
#[derive(Debug)]
struct Long {
    offset: u64,
    /// Its length so far.
    length: u64,
    /// Its first bytes.
    head: Vec<u8>,
    /// Whether it ends in a carriage return so far.
    ends_in_cr: bool,
}

impl LineCutter {
    /// For a whole file (no range), or for the bytes of `range`.
    pub(crate) fn new(range: Option<Range<u64>>, max_line_bytes: usize, max_head_bytes: usize) -> Self {
        let start = range.as_ref().map_or(0, |range| range.start);
        let end = range.map(|range| range.end);
        Self {
            end,
            max_line_bytes,
            max_head_bytes,
            at: start.saturating_sub(1),
            aligning: start > 0,
            done: end.is_some_and(|end| end <= start),
            carry: Vec::new(),
            long: None,
        }
    }

    /// Whether all lines of the range have been cut.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Cuts the next chunk; at most two pieces come of it, in order.
    pub(crate) fn push(&mut self, mut chunk: Bytes) -> [Option<Piece>; 2] {
        if self.done {
            return [None, None];
        }
        let mut offset = self.at;
        self.at += chunk.len() as u64;
        if let Some(end) = self.end {
            // The line that holds the range's last byte is the last one.
            let from = (end - 1).saturating_sub(offset) as usize;
            if let Some(length) = chunk.get(from..).and_then(|rest| memchr(b'\n', rest)) {
                chunk.truncate(from + length + 1);
                self.done = true;
            }
        }
        if self.aligning {
            match memchr(b'\n', &chunk) {
                Some(length) => {
                    chunk = chunk.split_off(length + 1);
                    offset += length as u64 + 1;
                    self.aligning = false;
                }
                None => return [None, None],
            }
        }
        let first = match memchr(b'\n', &chunk) {
            _ if self.carry.is_empty() && self.long.is_none() => None,
            Some(length) => {
                let end = chunk.split_to(length + 1);
                self.carry_on(&end[..length], offset);
                offset += end.len() as u64;
                self.end_line(offset - 1)
            }
            None => {
                self.carry_on(&chunk, offset);
                return [None, None];
            }
        };
        let whole = memrchr(b'\n', &chunk).map_or(0, |last| last + 1);
        let lines = chunk.split_to(whole);
        let second = (!lines.is_empty()).then(|| Piece::Lines(Lines::new(lines, offset)));
        self.carry_on(&chunk, offset + whole as u64);
        [first, second]
    }

    /// The file has ended: its last line, if that had no end.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        self.done = true;
        self.end_line(self.at)
    }

    /// Adds `bytes` at `offset` to the line whose end is still to come.
    fn carry_on(&mut self, bytes: &[u8], offset: u64) {
        let begin = offset - self.carry.len() as u64;
        // A carriage return doesn't count, nor does a mark at the file's start.
        let uncounted = 1 + if begin == 0 { BOM.len() } else { 0 };
        if let Some(long) = &mut self.long {
            long.length += bytes.len() as u64;
            long.ends_in_cr = bytes.last().map_or(long.ends_in_cr, |last| *last == b'\r');
        } else if self.carry.len() + bytes.len() > self.max_line_bytes + uncounted {
            let length = (self.carry.len() + bytes.len()) as u64;
            let max_head_bytes = self.max_head_bytes + if begin == 0 { BOM.len() } else { 0 };
            let mut head = std::mem::take(&mut self.carry);
            head.extend_from_slice(&bytes[..bytes.len().min(max_head_bytes)]);
            head.truncate(max_head_bytes);
            head.shrink_to_fit();
            self.long = Some(Long { offset: begin, length, head, ends_in_cr: bytes.ends_with(b"\r") });
        } else {
            self.carry.extend_from_slice(bytes);
        }
    }

    /// The line that was carried and ends before `offset`.
    fn end_line(&mut self, offset: u64) -> Option<Piece> {
        if let Some(Long { mut offset, mut length, mut head, ends_in_cr }) = self.long.take() {
            if offset == 0 && head.starts_with(BOM) {
                head.drain(..BOM.len());
                offset = BOM.len() as u64;
                length -= offset;
            }
            head.truncate(self.max_head_bytes);
            return Some(Piece::LongLine { offset, length: length - u64::from(ends_in_cr), head });
        }
        if self.carry.is_empty() {
            return None;
        }
        let line = Bytes::from(std::mem::take(&mut self.carry));
        let begin = offset - line.len() as u64;
        Some(Piece::Lines(Lines::new(line, begin)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines that a range owns, by their place, when the file comes in chunks of `chunk` bytes.
    fn cut(file: &[u8], range: Option<Range<u64>>, chunk: usize, max_line_bytes: usize) -> Vec<(u64, Vec<u8>)> {
        let mut cutter = LineCutter::new(range, max_line_bytes, 3);
        let mut pieces = Vec::new();
        for bytes in file[cutter.at as usize..].chunks(chunk) {
            pieces.extend(cutter.push(Bytes::copy_from_slice(bytes)).into_iter().flatten());
        }
        if !cutter.is_done() {
            pieces.extend(cutter.finish());
        }
        let mut lines = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Lines(mut piece) => {
                    while let Some((range, _)) = piece.next_line() {
                        let (line, offset) = piece.line(range);
                        lines.push((offset, line.to_vec()));
                    }
                }
                Piece::LongLine { offset, length, head } => {
                    assert_eq!(head, file[offset as usize..][..head.len()]);
                    lines.push((offset, file[offset as usize..][..length as usize].to_vec()));
                }
            }
        }
        lines
    }

    proptest! {
        #[test]
        fn every_line_is_owned_once(
            file in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'\n')], 0..60),
            cuts in proptest::collection::btree_set(1_u64..60, 0..5),
            chunk in 1_usize..9,
            max_line_bytes in 1_usize..8,
        ) {
            let whole = cut(&file, None, file.len().max(1), 100);
            let mut offset = 0;
            for (begin, line) in &whole {
                prop_assert_eq!(*begin, offset);
                offset += line.len() as u64 + 1;
            }
            let size = file.len() as u64;
            prop_assert!(offset == size || offset == size + 1);
            let bounds: Vec<_> = std::iter::once(0).chain(cuts.into_iter().filter(|cut| *cut < size)).chain([size]).collect();
            let parts: Vec<_> = bounds
                .windows(2)
                .flat_map(|bounds| cut(&file, Some(bounds[0]..bounds[1]), chunk, max_line_bytes))
                .collect();
            prop_assert_eq!(parts, whole);
        }
    }

    #[test]
    fn marks_and_carriage_returns_are_no_text() {
        let lines = cut(b"\xef\xbb\xbfa\r\nb\r\n\xef\xbb\xbf", None, 2, 100);
        assert_eq!(lines, [(3, b"a".to_vec()), (6, b"b".to_vec()), (9, b"\xef\xbb\xbf".to_vec())]);
    }

    #[test]
    fn what_counts_of_a_long_line_does_not_depend_on_chunks() {
        for chunk in 1..20 {
            let lines = |file: &[u8]| cut(file, None, chunk, 8);
            let text = |offset, text: &[u8]| vec![(offset, text.to_vec())];
            assert_eq!(lines(b"\xef\xbb\xbf12345678\r\n"), text(3, b"12345678"));
            assert_eq!(lines(b"\xef\xbb\xbf123456789012\r\n"), text(3, b"123456789012"));
            assert_eq!(lines(b"1234567890123\r\n"), text(0, b"1234567890123"));
            assert_eq!(lines(b"1234567890123"), text(0, b"1234567890123"));
            let mut cutter = LineCutter::new(None, 8, 3);
            let file = b"\xef\xbb\xbf12345678\r\n";
            let mut pieces = file.chunks(chunk).flat_map(|bytes| cutter.push(Bytes::from_static(bytes))).flatten();
            assert!(pieces.all(|piece| matches!(piece, Piece::Lines(_))), "no longer than allowed, chunks of {chunk}");
        }
    }

    #[test]
    fn a_long_line_is_not_held() {
        let mut cutter = LineCutter::new(None, 10, 4);
        for _ in 0..1000 {
            assert!(cutter.push(Bytes::from_static(b"aaaaaaaa")).iter().all(Option::is_none));
            assert!(cutter.carry.capacity() < 64);
        }
        let [Some(Piece::LongLine { offset: 0, length: 8001, .. }), Some(Piece::Lines(_))] =
            cutter.push(Bytes::from_static(b"a\nb\nc"))
        else {
            panic!("the long line should end");
        };
    }
}
