//! Lengths as Parquet's DELTA_BINARY_PACKED: what DELTA_LENGTH_BYTE_ARRAY begins with.

use super::levels::{pack, put_varint, width_of};

const BLOCK: usize = 128;
const MINIBLOCKS: usize = 4;
const MINIBLOCK: usize = BLOCK / MINIBLOCKS;

/// Appends `lengths`, each below 2³¹.
pub(super) fn put_lengths(out: &mut Vec<u8>, lengths: &[u32]) {
    put_varint(out, BLOCK as u64);
    put_varint(out, MINIBLOCKS as u64);
    put_varint(out, lengths.len() as u64);
    let Some((first, rest)) = lengths.split_first() else {
        put_varint(out, 0);
        return;
    };
    put_zigzag(out, i64::from(*first));
    let mut previous = *first;
    let mut deltas = [0_i32; BLOCK];
    for block in rest.chunks(BLOCK) {
        for (delta, length) in deltas.iter_mut().zip(block) {
            *delta = *length as i32 - previous as i32;
            previous = *length;
        }
        let deltas = &deltas[..block.len()];
        let least = deltas.iter().copied().min().unwrap_or(0);
        put_zigzag(out, i64::from(least));
        let mut above = [0_u32; BLOCK];
        for (above, delta) in above.iter_mut().zip(deltas) {
            *above = delta.wrapping_sub(least) as u32;
        }
        // Miniblocks without a value have no body, and zero for a width.
        let mut widths = [0_u32; MINIBLOCKS];
        for (width, values) in widths.iter_mut().zip(above[..block.len()].chunks(MINIBLOCK)) {
            *width = width_of(values.iter().fold(0, |bits, value| bits | value));
            out.push(*width as u8);
        }
        out.resize(out.len() + MINIBLOCKS - block.len().div_ceil(MINIBLOCK), 0);
        for (width, values) in widths.iter().zip(above.chunks(MINIBLOCK)).take(block.len().div_ceil(MINIBLOCK)) {
            pack(out, values, *width);
        }
    }
}

fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63) as u64);
}
