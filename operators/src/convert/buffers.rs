//! Large buffers that are used again. Fresh memory costs: the system clears each page of it and maps it where it is first
//! touched, which is a good part of the time of copying something there.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// What is kept for later use, at most.
const KEPT_BYTES: usize = 32 << 20;

/// Smaller ones are not worth keeping apart.
const LEAST_BYTES: usize = 64 << 10;

/// Sizes are rounded up, so that one serves for another: to a power of two, and above this to a multiple of [`STEP_BYTES`].
const LARGE_BYTES: usize = 4 << 20;
const STEP_BYTES: usize = 1 << 20;

/// The buffers of a plan that runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferPool {
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl BufferPool {
    /// A buffer of at least `length` bytes, which hold anything.
    pub(crate) fn take(&self, length: usize) -> Buffer {
        let size = if length > LARGE_BYTES {
            length.next_multiple_of(STEP_BYTES)
        } else {
            length.max(LEAST_BYTES).next_power_of_two()
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that came back last is the likeliest to be in a cache.
        let found = kept.iter().rposition(|bytes| bytes.len() == size).map(|at| kept.remove(at));
        drop(kept);
        Buffer { bytes: found.unwrap_or_else(|| vec![0; size]), pool: self.clone() }
    }

    fn put(&self, bytes: Vec<u8>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().map(Vec::len).sum::<usize>() + bytes.len() <= KEPT_BYTES {
            kept.push(bytes);
        }
    }
}

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: BufferPool,
}

impl Buffer {
    /// Its first `length` bytes. It goes back when nobody holds a piece of them any more.
    pub(crate) fn into_bytes(self, length: usize) -> Bytes {
        Bytes::from_owner(self).slice(..length)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_holds_it() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(100_000);
        buffer[..3].copy_from_slice(b"abc");
        let address = buffer.as_ptr();
        let bytes = buffer.into_bytes(3);
        let piece = bytes.slice(1..2);
        assert_eq!(bytes.as_ref(), b"abc");
        drop(bytes);
        assert_ne!(pool.take(100_000).as_ptr(), address);
        assert_eq!(piece.as_ref(), b"b");
        drop(piece);
        assert_eq!(pool.take(131_072).as_ptr(), address);
    }

    #[test]
    fn a_buffer_is_never_smaller_than_was_asked_for() {
        let pool = BufferPool::default();
        drop(pool.take(LEAST_BYTES));
        drop(pool.take(LARGE_BYTES + 1));
        for length in [LEAST_BYTES + 1, LARGE_BYTES, LARGE_BYTES + STEP_BYTES + 1] {
            assert!(pool.take(length).len() >= length);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = BufferPool::default();
        let held: Vec<_> = (0..20).map(|_| pool.take(4 << 20)).collect();
        drop(held);
        let kept = pool.kept.lock().unwrap();
        assert_eq!(kept.iter().map(Vec::len).sum::<usize>(), KEPT_BYTES);
    }
}
