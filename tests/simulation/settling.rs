//! A settling that dies half way, and is never told of.

use std::time::Duration;

use chrono::TimeDelta;
use penstock_tests::simulation::{
    PREFIX, World,
    ledger::Lines,
    witness::{Crash, TRACKING},
};

use super::simulate;

#[test]
fn defect_20_settling_goes_by_the_manifests_list_and_a_lost_one_is_found() {
    simulate(async {
        let mut world = World::new(3, None, &[]);
        let crash = Crash { point: "settle: settle as completed".to_owned(), after: true, nth: 1 };
        world.start("engine", TimeDelta::zero(), Some(crash)).await;
        world.start("worker", TimeDelta::zero(), None).await;
        for number in 0..4 {
            world.land(&format!("{PREFIX}2026-02-01/f{number}.ndjson"), &Lines::Some(2, 0), &[Duration::ZERO]);
        }
        world.until_dead("engine").await;
        world.cloud().memory_table(TRACKING).stream().unwrap().trim();
        world.start("engine", TimeDelta::zero(), None).await;
        world.heal_and_check(Duration::from_secs(600)).await.unwrap();
        // No step reads a day: every query is of the index.
        assert_eq!(*world.shared.day_queries.lock().unwrap(), 0);
    });
}
