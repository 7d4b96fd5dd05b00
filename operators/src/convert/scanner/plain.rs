//! Where a string stops being plain text: at its closing quote, at a backslash, or at a control character, which JSON
//! doesn't allow there.
//!
//! Most strings are short, so the first blocks are looked at in line, with what every processor of the architecture has
//! (SSE2, NEON; elsewhere eight bytes of a word). What is longer goes on with the widest vectors that this processor has.
//! All kernels give the same answer; see the tests here and the fuzz target `text`.

#![allow(unsafe_code, reason = "vector loads; on web events the scan is a third slower without them")]

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// A way to find the end: from a position on, the first byte that is no plain text; else the end of the line.
pub type Kernel = fn(&[u8], usize) -> usize;

/// From `at`, the first byte that is no plain text of a string: a quote, a backslash or a control character; else the end.
#[inline(always)]
pub(super) fn plain_end(line: &[u8], at: usize) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut at = at;
        for _ in 0..2 {
            let Some(block) = line.get(at..).and_then(|rest| rest.first_chunk::<16>()) else {
                return by_words(line, at);
            };
            if let Some(found) = block::first_special(block) {
                return at + found;
            }
            at += 16;
        }
        long(line, at)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    by_words(line, at)
}

/// The same for a text that has gone on for a while.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(never)]
fn long(line: &[u8], at: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: this processor has AVX2, as the line before says.
        return unsafe { avx2::plain_end(line, at) };
    }
    by_blocks(line, at)
}

/// Sixteen bytes at a time.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn by_blocks(line: &[u8], mut at: usize) -> usize {
    while let Some(block) = line.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        if let Some(found) = block::first_special(block) {
            return at + found;
        }
        at += 16;
    }
    by_words(line, at)
}

/// Eight bytes at a time, then one.
fn by_words(line: &[u8], mut at: usize) -> usize {
    // A byte's high bit is set in `hits` if it is one of the three. A borrow may set bits above a true hit, never below
    // one, so the lowest is right.
    while let Some(chunk) = line.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let hits = (quote.wrapping_sub(ONES) & !quote
            | backslash.wrapping_sub(ONES) & !backslash
            | word.wrapping_sub(ONES * 0x20) & !word)
            & HIGHS;
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = line.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// Every kernel that this processor has, by name: for tests, fuzz targets and benchmarks.
pub fn kernels() -> Vec<(&'static str, Kernel)> {
    let mut kernels: Vec<(&'static str, Kernel)> =
        vec![("words", by_words as Kernel), ("in line", |line, at| plain_end(line, at))];
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    kernels.push(("blocks", by_blocks));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: only listed where this processor has AVX2.
        kernels.push(("avx2", |line, at| unsafe { avx2::plain_end(line, at) }));
    }
    kernels
}

#[cfg(target_arch = "x86_64")]
mod block {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };

    /// The first byte of `block` that is no plain text.
    #[inline(always)]
    pub(super) fn first_special(block: &[u8; 16]) -> Option<usize> {
        // SAFETY: every x86-64 processor has SSE2; the load reads exactly the 16 bytes of the array, and needs no alignment.
        let hits = unsafe {
            let bytes = _mm_loadu_si128(block.as_ptr().cast::<__m128i>());
            let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
            let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
        };
        (hits != 0).then(|| hits.trailing_zeros() as usize)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set1_epi8,
    };

    /// Thirty-two bytes at a time.
    #[target_feature(enable = "avx2")]
    pub(super) fn plain_end(line: &[u8], mut at: usize) -> usize {
        let (quotes, backslashes) = (_mm256_set1_epi8(b'"' as i8), _mm256_set1_epi8(b'\\' as i8));
        let controls = _mm256_set1_epi8(0x1f);
        while let Some(block) = line.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
            // SAFETY: a load of exactly the 32 bytes of the array; it needs no alignment.
            let bytes = unsafe { _mm256_loadu_si256(block.as_ptr().cast::<__m256i>()) };
            let quote = _mm256_cmpeq_epi8(bytes, quotes);
            let backslash = _mm256_cmpeq_epi8(bytes, backslashes);
            let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, controls), bytes);
            let hits = _mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(quote, backslash), control));
            if hits != 0 {
                return at + hits.trailing_zeros() as usize;
            }
            at += 32;
        }
        super::by_words(line, at)
    }
}

#[cfg(target_arch = "aarch64")]
mod block {
    use std::arch::aarch64::{
        vceqq_u8, vcleq_u8, vdupq_n_u8, vget_lane_u64, vld1q_u8, vorrq_u8, vreinterpret_u64_u8, vreinterpretq_u16_u8,
        vshrn_n_u16,
    };

    /// The first byte of `block` that is no plain text.
    #[inline(always)]
    pub(super) fn first_special(block: &[u8; 16]) -> Option<usize> {
        // SAFETY: every aarch64 processor that Rust builds for has NEON; the load reads exactly the 16 bytes of the array.
        let hits = unsafe {
            let bytes = vld1q_u8(block.as_ptr());
            let quote = vceqq_u8(bytes, vdupq_n_u8(b'"'));
            let backslash = vceqq_u8(bytes, vdupq_n_u8(b'\\'));
            let control = vcleq_u8(bytes, vdupq_n_u8(0x1f));
            let hits = vorrq_u8(vorrq_u8(quote, backslash), control);
            // Half a byte of the result for each byte of the block: NEON has no mask of single bits.
            vget_lane_u64::<0>(vreinterpret_u64_u8(vshrn_n_u16::<4>(vreinterpretq_u16_u8(hits))))
        };
        (hits != 0).then(|| (hits.trailing_zeros() / 4) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What every kernel must give, one byte after the other.
    fn expected(line: &[u8], at: usize) -> usize {
        (at..line.len()).find(|at| matches!(line[*at], b'"' | b'\\' | 0..0x20)).unwrap_or(line.len().max(at))
    }

    #[test]
    fn every_position_of_a_special_byte_is_found() {
        // Miri takes its time.
        let step = if cfg!(miri) { 11 } else { 1 };
        for (name, kernel) in kernels() {
            for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
                for length in (0..100).step_by(step) {
                    for at in 0..length {
                        let mut line = vec![b'!'; length];
                        line[at] = special;
                        assert_eq!(kernel(&line, 0), at, "{name}");
                    }
                    let mut plain = vec![0xff; length];
                    plain.push(b' ');
                    assert_eq!(kernel(&plain, 0), plain.len(), "{name}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn kernels_agree(line in proptest::collection::vec(any::<u8>(), 0..200), begin in 0_usize..100) {
            let begin = begin.min(line.len());
            for (name, kernel) in kernels() {
                let mut at = begin;
                while at < line.len() {
                    prop_assert_eq!(kernel(&line, at), expected(&line, at), "{} at {}", name, at);
                    at = expected(&line, at) + 1;
                }
            }
        }
    }
}
