//! The crash matrix: a process dies before and after every effect that it has, at each point once, and nothing is lost or
//! doubled.

use std::time::Duration;

use chrono::TimeDelta;
use penstock_tests::simulation::{PREFIX, World, ledger::Lines, witness::Crash};
use serde_json::json;

use super::simulate;

const MINUTE: Duration = Duration::from_secs(60);

/// A little of everything: files of two dates, rejects, a file that fails, a manifest that fails, an object that is
/// quarantined, one that no notification tells of, one that is replaced, and a bus that is down for a while.
async fn world(crash: Option<(&'static str, Crash)>) -> World {
    // What the sweep finds after a quarter of a minute is the business of others here, and its own at the same time.
    let options =
        [("sweep", "every", json!("20s")), ("sweep", "grace", json!("15s")), ("convert", "max_attempts", json!(4))];
    let mut world = World::new(1, None, &options);
    let now = [Duration::ZERO];
    for service in ["engine", "worker"] {
        let crash = crash.as_ref().filter(|(of, _)| *of == service).map(|(_, crash)| crash.clone());
        world.start(service, TimeDelta::zero(), crash).await;
    }
    for number in 0..6 {
        world.land(&format!("{PREFIX}2026-02-01/f{number}.ndjson"), &Lines::Some(5, number % 2), &now);
    }
    world.land(&format!("{PREFIX}2026-02-02/failing.ndjson"), &Lines::Failing, &now);
    world.land(&format!("{PREFIX}2026-02-02/good.ndjson"), &Lines::Some(15, 2), &now);
    world.land(&format!("{PREFIX}2026-02-03/poison.ndjson"), &Lines::Poison, &now);
    world.land(&format!("{PREFIX}2026-02-03/silent.ndjson"), &Lines::Some(3, 0), &[]);
    world.land(&format!("{PREFIX}2026-02-04/replaced.ndjson"), &Lines::Some(3, 0), &now);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.land(&format!("{PREFIX}2026-02-04/replaced.ndjson"), &Lines::Some(4, 0), &now);
    world
}

/// Restarts whatever died, and goes on until all is done.
async fn run(world: &mut World) -> Result<(), String> {
    for _ in 0..24 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        for service in world.bury().await {
            world.start(service, TimeDelta::zero(), None).await;
        }
    }
    world.heal_and_check(30 * MINUTE).await
}

#[test]
fn i1_i2_i4_i7_i8_a_death_before_or_after_any_effect_loses_and_doubles_nothing() {
    let points = simulate(async {
        let mut world = world(None).await;
        run(&mut world).await.unwrap();
        world.shared.points.lock().unwrap().clone()
    });
    for (point, count) in &points {
        println!("{count:4} {point}");
    }
    assert!(points.len() > 30, "{} points", points.len());
}
