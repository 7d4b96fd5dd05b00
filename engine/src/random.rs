//! Random numbers for tokens and waits. A simulation seeds them for its thread, so that a run can be repeated exactly.

use std::cell::RefCell;

use rand::{Rng, rngs::StdRng};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

fn draw<T>(draw: impl Fn(&mut dyn rand::RngCore) -> T) -> T {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(rng) => draw(rng),
        None => draw(&mut rand::rng()),
    })
}

/// 128 random bits: for a token that nobody else has.
pub fn bits() -> u128 {
    draw(|rng| rng.random())
}

/// A random number from 0 up to, and without, 1: for waits that must not fall into step.
pub fn share() -> f64 {
    draw(|rng| rng.random())
}

/// From now on this thread draws from a seed, or again from the operating system.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn seed_thread(seed: Option<u64>) {
    use rand::SeedableRng;
    SEEDED.set(seed.map(StdRng::seed_from_u64));
}
