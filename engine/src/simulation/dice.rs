//! Chance that can be repeated.

use std::{ops::RangeInclusive, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Dice that fall the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(StdRng);

impl Dice {
    /// Dice of a seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Further dice of their own, so that one part of a scenario may draw more without changing the others.
    pub fn fork(&mut self) -> Self {
        Self::new(self.seed())
    }

    /// A seed for something that takes one.
    pub fn seed(&mut self) -> u64 {
        self.0.random()
    }

    /// Whether something happens that has this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// A number of the range.
    pub fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// One of `count` places.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn place(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }

    /// One of them.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.place(from.len())]
    }

    /// A time between nothing and `most`, in whole milliseconds.
    pub fn time(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.0.random_range(0..=most.as_millis() as u64))
    }
}
