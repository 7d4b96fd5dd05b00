//! Kills: the program dies at any instruction, and what is true is what its folder says.

use std::time::Duration;

use penstock_tests::{
    conservation::{Owed, check},
    place::Place,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{place, sample};

/// Lands files, kills the program so many times at moments up to `latest_ms` after its start, lets it end, and checks that
/// every line is there once. A run that fails is run again with the seed that it prints.
fn kill_and_check(place: &Place, files: usize, kills: usize, latest_ms: u64) {
    let seed = std::env::var("KILL_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let owed = Owed::from(sample(files, 6, 3).write(&place.path("files")).unwrap());
    let pattern = place.path("files").display().to_string();
    let mut in_mid_work = 0;
    for _ in 0..kills {
        let mut running = place.start_pipeline(&["--land", &pattern, "--until-idle"]);
        std::thread::sleep(Duration::from_millis(random.random_range(100..latest_ms)));
        in_mid_work += usize::from(running.is_running());
        running.kill();
    }
    println!("{in_mid_work} of {kills} kills met a program at work");
    assert!(in_mid_work > kills / 2, "only {in_mid_work} kills met a program at work: make the run longer");
    place.run_until_idle("files").expect_code(3);
    check(place, &owed);
}

#[test]
fn i1_i8_f47_ten_kills_in_the_middle_of_a_thousand_files_lose_and_double_nothing() {
    // An attempt counts when it begins, and a kill is an attempt: ten of them may hit the same manifest. The sweep looks
    // at everything all the time, and must neither double nor disturb.
    let place = place().with("MAX_FILES", 50).with("MAX_ATTEMPTS", 50).with("RETRY_WAIT", "1s");
    let place = place.with("SWEEP_EVERY", "2s").with("SWEEP_GRACE", "1s");
    kill_and_check(&place, 1000, 10, 2500);
}

#[test]
fn i1_kills_before_any_sweep_lose_nothing_either() {
    // The sweep's grace is ten minutes, as shipped: what was under way comes back by itself, or a run until idle would end
    // without it.
    let place = place().with("MAX_FILES", 25).with("MAX_ATTEMPTS", 50);
    kill_and_check(&place, 2000, 12, 1200);
}
