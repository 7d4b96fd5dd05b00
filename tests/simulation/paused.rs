//! Time that only passes when everybody waits, and chance that comes from a seed.

use penstock_engine::simulation::run_seed;

/// Runs a simulation with paused time on one thread. What is drawn by chance is drawn from this seed.
pub fn simulate_seed<T>(seed: u64, simulation: impl Future<Output = T>) -> T {
    run_seed(seed, |_| simulation)
}

/// The same with the seed 1.
pub fn simulate<T>(simulation: impl Future<Output = T>) -> T {
    simulate_seed(1, simulation)
}
