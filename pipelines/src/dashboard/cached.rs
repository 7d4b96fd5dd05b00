//! A value that is dear to read, shared by all who look.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

/// The reading takes at most this share of the time, however dear it is.
const SHARE: u32 = 20;

/// A value with its age. Whoever comes while it is read waits for that reading.
pub struct Cached<T> {
    fresh: Duration,
    last: Mutex<Option<Last<T>>>,
}

struct Last<T> {
    value: Arc<T>,
    read_at: Instant,
    took: Duration,
}

impl<T> Cached<T> {
    /// Read anew after `fresh` at the earliest.
    pub fn new(fresh: Duration) -> Self {
        Self { fresh, last: Mutex::new(None) }
    }

    /// The value, read anew if it is old. A failed reading is told, and not kept.
    pub async fn get<E, F: Future<Output = Result<T, E>>>(&self, read: impl FnOnce() -> F) -> Result<Arc<T>, E> {
        let mut last = self.last.lock().await;
        if let Some(last) = &*last
            && last.read_at.elapsed() < self.fresh.max(last.took * SHARE)
        {
            return Ok(Arc::clone(&last.value));
        }
        let began = Instant::now();
        let value = Arc::new(read().await?);
        *last = Some(Last { value: Arc::clone(&value), read_at: Instant::now(), took: began.elapsed() });
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_dear_reading_is_made_at_most_a_twentieth_of_the_time() {
        let (cached, readings) = (Cached::new(Duration::from_secs(1)), AtomicU32::new(0));
        let read = || async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok::<_, ()>(readings.fetch_add(1, Ordering::Relaxed))
        };
        // Two who come at once cause one reading.
        let (first, second) = tokio::join!(cached.get(read), cached.get(read));
        assert_eq!((*first.unwrap(), *second.unwrap()), (0, 0));
        tokio::time::advance(Duration::from_secs(39)).await;
        assert_eq!(*cached.get(read).await.unwrap(), 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(*cached.get(read).await.unwrap(), 1);
    }
}
