//! A state that many wait for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A state that requests wait for, e.g. that a host is up. Those who wait are woken in the order in which they came:
/// tokio's `watch` wakes them in one that is drawn by chance, which no seed can repeat.
#[derive(Debug)]
pub struct Switch<T> {
    state: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Switch<T> {
    /// A switch in this state.
    pub fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// How it is.
    pub fn get(&self) -> T {
        *self.state()
    }

    /// Changes it, and wakes all that wait.
    pub fn set(&self, state: T) {
        *self.state() = state;
        self.changed.notify_waiters();
    }

    /// Waits until it is in a state that will do, and returns that.
    pub async fn wait_for(&self, will_do: impl Fn(T) -> bool) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = self.get();
            if will_do(now) {
                return now;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_woken_in_the_order_in_which_they_came() {
        let (switch, order) = (Arc::new(Switch::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut waiting = tokio::task::JoinSet::new();
        for n in 0..50 {
            let (switch, order) = (Arc::clone(&switch), Arc::clone(&order));
            waiting.spawn(async move {
                switch.wait_for(|on| on).await;
                order.lock().unwrap().push(n);
            });
        }
        tokio::task::yield_now().await;
        switch.set(true);
        waiting.join_all().await;
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }
}
