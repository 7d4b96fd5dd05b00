//! Kills: the program dies at any instruction, and what is true is what its folder says.

use std::time::Duration;

use penstock_tests::conservation::{Owed, check};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{place, sample};

const FILES: usize = 1000;
const KILLS: usize = 10;

#[test]
fn i1_i8_f47_ten_kills_in_the_middle_of_a_thousand_files_lose_and_double_nothing() {
    // A run that fails is run again by its seed.
    let seed = std::env::var("KILL_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // An attempt counts when it begins, and a kill is an attempt: ten of them may hit the same manifest.
    let place = place().with("MAX_FILES", 50).with("MAX_ATTEMPTS", 50);
    let place = place.with("SWEEP_EVERY", "2s").with("SWEEP_GRACE", "1s").with("RETRY_WAIT", "1s");
    let owed = Owed::from(sample(FILES, 6, 3).write(&place.path("files")).unwrap());
    let pattern = place.path("files").display().to_string();
    let mut in_mid_work = 0;
    for _ in 0..KILLS {
        let mut running = place.start_pipeline(&["--land", &pattern, "--until-idle"]);
        std::thread::sleep(Duration::from_millis(random.random_range(100..2500)));
        in_mid_work += usize::from(running.is_running());
        running.kill();
    }
    assert!(in_mid_work > KILLS / 2, "only {in_mid_work} kills met a program at work: make the run longer");
    place.run_until_idle("files").expect_code(3);
    check(&place, &owed);
}
