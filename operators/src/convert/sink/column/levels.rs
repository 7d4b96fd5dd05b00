//! Whole numbers of few bits, as Parquet's hybrid of runs and packed bits: which rows have a value, and which entry of a
//! dictionary each value is.
//!
//! See <https://parquet.apache.org/docs/file-format/data-pages/encodings/>, "Run Length Encoding / Bit-Packing Hybrid".

use arrow::array::BooleanBufferBuilder;
use arrow::buffer::NullBuffer;

/// Bytes of packed validity that a run must save to be worth its header.
const LEAST_RUN_BYTES: usize = 4;

/// Appends `value` in the variable-length form of Parquet's headers.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Which rows of a page have a value.
#[derive(Debug)]
pub(super) struct Validity {
    rows: usize,
    nulls: usize,
    /// Only once there is a null: most pages of most columns have none.
    bits: Option<BooleanBufferBuilder>,
}

impl Validity {
    pub(super) fn new() -> Self {
        Self { rows: 0, nulls: 0, bits: None }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn nulls(&self) -> usize {
        self.nulls
    }

    /// Adds rows; without `nulls` each has a value.
    pub(super) fn add(&mut self, rows: usize, nulls: Option<&NullBuffer>) {
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        match (nulls, &mut self.bits) {
            (None, None) => {}
            (None, Some(bits)) => bits.append_n(rows, true),
            (Some(nulls), bits) => {
                self.nulls += nulls.null_count();
                let valid_before = self.rows;
                bits.get_or_insert_with(|| {
                    let mut bits = BooleanBufferBuilder::new(valid_before + rows);
                    bits.append_n(valid_before, true);
                    bits
                })
                .append_buffer(nulls.inner());
            }
        }
        self.rows += rows;
    }

    /// Begins the next page.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Appends the page's definition levels with their length, and begins the next page.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&[0; 4]);
        match self.bits.take().filter(|_| self.nulls > 0) {
            None => put_run(out, 1, 1, self.rows),
            Some(_) if self.nulls == self.rows => put_run(out, 0, 1, self.rows),
            Some(bits) => put_bits(out, bits.as_slice(), self.rows),
        }
        let length = (out.len() - begin - 4) as u32;
        out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        self.clear();
    }
}

/// A run of `count` times `value`, which is `width` bits wide.
fn put_run(out: &mut Vec<u8>, value: u32, width: u32, count: usize) {
    put_varint(out, (count as u64) << 1);
    out.extend_from_slice(&value.to_le_bytes()[..width.div_ceil(8) as usize]);
}

/// `rows` levels of one bit: Arrow packs them as Parquet does, the lowest bit first, so they need only be cut into runs.
fn put_bits(out: &mut Vec<u8>, bits: &[u8], rows: usize) {
    let bytes = &bits[..rows.div_ceil(8)];
    let whole = rows / 8;
    let (mut packed, mut at) = (0, 0);
    while at < whole {
        let byte = bytes[at];
        let mut end = at + 1;
        if byte == 0 || byte == 0xff {
            while end < whole && bytes[end] == byte {
                end += 1;
            }
            if end - at >= LEAST_RUN_BYTES {
                put_packed(out, &bytes[packed..at]);
                put_run(out, u32::from(byte & 1), 1, (end - at) * 8);
                packed = end;
            }
        }
        at = end;
    }
    put_packed(out, &bytes[packed..]);
}

fn put_packed(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_varint(out, (bytes.len() as u64) << 1 | 1);
        out.extend_from_slice(bytes);
    }
}

/// The bits that numbers up to `max` need.
pub(super) fn width_of(max: u32) -> u32 {
    u32::BITS - max.leading_zeros()
}

/// Appends `values`, each `width` bits wide.
pub(super) fn put_hybrid(out: &mut Vec<u8>, values: &[u32], width: u32) {
    if width == 0 {
        if !values.is_empty() {
            put_run(out, 0, 0, values.len());
        }
        return;
    }
    let (mut packed, mut at) = (0, 0);
    while at < values.len() {
        let value = values[at];
        let run = values[at..].iter().take_while(|other| **other == value).count();
        if run >= 8 {
            put_groups(out, &values[packed..at], width);
            put_run(out, value, width, run);
            at += run;
            packed = at;
        } else {
            // Packed values come in groups of eight, so a run can begin only after a whole group.
            at = (at + 8).min(values.len());
        }
    }
    put_groups(out, &values[packed..], width);
}

/// Groups of eight values; what the last one lacks is zero.
fn put_groups(out: &mut Vec<u8>, values: &[u32], width: u32) {
    if !values.is_empty() {
        let groups = values.len().div_ceil(8);
        put_varint(out, (groups as u64) << 1 | 1);
        let end = out.len() + groups * width as usize;
        pack(out, values, width);
        out.resize(end, 0);
    }
}

/// Appends the lowest `width` bits of each value, the first value in the lowest bits, up to the last whole byte.
pub(super) fn pack(out: &mut Vec<u8>, values: &[u32], width: u32) {
    out.reserve(values.len() * width as usize / 8 + 8);
    let (mut bits, mut filled) = (0_u64, 0);
    for value in values {
        // At most 31 bits are left over from before, so the sum fits.
        bits |= u64::from(*value) << filled;
        filled += width;
        if filled >= 32 {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            filled -= 32;
        }
    }
    out.extend_from_slice(&(bits as u32).to_le_bytes()[..filled.div_ceil(8) as usize]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads what the hybrid holds, by the format's own words.
    fn read(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let (mut header, mut shift) = (0_u64, 0);
            loop {
                let byte = bytes[0];
                bytes = &bytes[1..];
                header |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            if header & 1 == 0 {
                let length = width.div_ceil(8) as usize;
                let value = bytes[..length].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                bytes = &bytes[length..];
                values.extend(std::iter::repeat_n(value, (header >> 1) as usize));
            } else {
                let groups = (header >> 1) as usize;
                let bit = |at: usize| u32::from(bytes[at / 8] >> (at % 8) & 1);
                for value in 0..groups * 8 {
                    values.push((0..width as usize).map(|at| bit(value * width as usize + at) << at).sum());
                }
                bytes = &bytes[groups * width as usize..];
            }
        }
        assert!(bytes.is_empty());
        assert!(values.len() < count + 8);
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            runs in proptest::collection::vec((any::<u32>(), 1_usize..40), 0..40),
            width in 0_u32..32,
        ) {
            let values: Vec<u32> = runs
                .iter()
                .flat_map(|(value, count)| std::iter::repeat_n(value & ((1_u64 << width) - 1) as u32, *count))
                .collect();
            let mut out = Vec::new();
            put_hybrid(&mut out, &values, width);
            prop_assert_eq!(read(&out, width, values.len()), values);
        }

        #[test]
        fn levels_say_which_rows_have_a_value(
            batches in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 1_usize..70), 1..6), 1..5),
        ) {
            let mut validity = Validity::new();
            let mut expected = Vec::new();
            for batch in &batches {
                let valid: Vec<bool> =
                    batch.iter().flat_map(|(valid, count)| std::iter::repeat_n(*valid, *count)).collect();
                let nulls = valid.contains(&false).then(|| NullBuffer::from(valid.clone()));
                validity.add(valid.len(), nulls.as_ref());
                expected.extend(valid.into_iter().map(u32::from));
            }
            prop_assert_eq!(validity.nulls(), expected.iter().filter(|level| **level == 0).count());
            let mut out = Vec::new();
            validity.flush(&mut out);
            prop_assert_eq!(u32::from_le_bytes(out[..4].try_into().unwrap()) as usize, out.len() - 4);
            prop_assert_eq!(read(&out[4..], 1, expected.len()), expected);
            prop_assert_eq!((validity.rows(), validity.nulls()), (0, 0));
        }
    }

    #[test]
    fn widths() {
        assert_eq!([0, 1, 2, 3, 4, 255, 256].map(width_of), [0, 1, 2, 2, 3, 8, 9]);
    }
}
