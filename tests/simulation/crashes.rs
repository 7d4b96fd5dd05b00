//! The crash matrix: a process dies before and after every effect that it has, at each point once, and nothing is lost or
//! doubled. And the same with sleep for death: who wakes up finds that another has gone on in its place.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use penstock_tests::simulation::{
    PREFIX, World,
    ledger::Lines,
    witness::{Crash, Vital},
};
use serde_json::json;

use super::simulate_seed;

const MINUTE: Duration = Duration::from_secs(60);

/// What tokens and waits are drawn from: `PENSTOCK_SEED`, else always the same.
fn seed() -> u64 {
    std::env::var("PENSTOCK_SEED").map_or(1, |seed| seed.parse().expect("PENSTOCK_SEED is a number"))
}

/// A little of everything: files of two dates, rejects, a file that fails, a manifest that fails, an object that is
/// quarantined, one that no notification tells of, one that is replaced, and a bus that is down for a while.
async fn world(crash: Option<(&'static str, Crash)>, sleep: Option<Duration>) -> World {
    // What the sweep finds after a quarter of a minute is the business of others here, and its own at the same time.
    let options =
        [("sweep", "every", json!("20s")), ("sweep", "grace", json!("15s")), ("convert", "max_attempts", json!(4))];
    let mut world = World::new(seed(), None, &options);
    let now = [Duration::ZERO];
    for service in ["engine", "worker"] {
        let crash = crash.as_ref().filter(|(of, _)| *of == service).map(|(_, crash)| crash.clone());
        match (crash, sleep) {
            (Some(crash), Some(sleep)) => world.start_to_sleep(service, crash, sleep).await,
            (crash, _) => world.start(service, TimeDelta::zero(), crash).await,
        }
    }
    for number in 0..6 {
        world.land(&format!("{PREFIX}2026-02-01/f{number}.ndjson"), &Lines::Some(5, number % 2), &now);
    }
    world.land(&format!("{PREFIX}2026-02-02/failing.ndjson"), &Lines::Failing, &now);
    world.land(&format!("{PREFIX}2026-02-02/good.ndjson"), &Lines::Some(15, 2), &now);
    world.land(&format!("{PREFIX}2026-02-05/poison.ndjson"), &Lines::Poison, &now);
    world.land(&format!("{PREFIX}2026-02-03/silent.ndjson"), &Lines::Some(3, 0), &[]);
    world.land(&format!("{PREFIX}2026-02-04/replaced.ndjson"), &Lines::Some(3, 0), &now);
    world.land(&format!("{PREFIX}2026-02-04/wrong.csv"), &Lines::Some(3, 0), &now);
    // The bus is down when the first manifest is announced, and the breaker before it opens.
    world.shared.faults.lock().unwrap().bus_is_down = true;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.land(&format!("{PREFIX}2026-02-04/replaced.ndjson"), &Lines::Some(4, 0), &now);
    world
}

/// Two minutes in which whatever dies is started again.
async fn restart_the_dead(world: &mut World) {
    for round in 0..24 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        if round == 3 {
            world.shared.faults.lock().unwrap().bus_is_down = false;
        }
        for service in world.bury().await {
            world.start(service, TimeDelta::zero(), None).await;
        }
    }
}

/// The same, and on until all is done.
async fn run(world: &mut World) -> Result<(), String> {
    restart_the_dead(world).await;
    world.heal_and_check(30 * MINUTE).await
}

/// Every point between two effects that an undisturbed run passes, and how often.
fn points() -> BTreeMap<String, u64> {
    let points = simulate_seed(seed(), async {
        let mut world = world(None, None).await;
        restart_the_dead(&mut world).await;
        world.shared.points.lock().unwrap().clone()
    });
    // Each role is among them, with its effects.
    for role in ["track", "quarantine", "fold", "announce", "convert", "settle", "alert", "sweep", "queue"] {
        assert!(points.keys().any(|point| point.starts_with(role)), "{role} had no effect: {points:?}");
    }
    points
}

/// The service whose process passes a point.
fn service_of(point: &str) -> &'static str {
    if point.starts_with("convert:") || point.contains("manifest-ready") { "worker" } else { "engine" }
}

/// Dies at every point, before or after its effect, the first and the last time that it is passed.
fn die_everywhere(after: bool) {
    let points = points();
    let (mut died, mut planned, mut missed) = (0, 0, Vec::new());
    for (point, count) in &points {
        let mut times = vec![1, *count];
        times.dedup();
        for nth in times {
            planned += 1;
            let crash = Crash { point: point.clone(), after, nth };
            let result = simulate_seed(seed(), async {
                let mut world = world(Some((service_of(point), crash.clone())), None).await;
                let result = run(&mut world).await;
                (result, world.deaths())
            });
            let (result, deaths) = result;
            if deaths > 0 {
                died += 1
            } else {
                missed.push(format!("{point}, time {nth}"))
            }
            if let Err(wrong) = result {
                panic!("died {} `{point}`, time {nth}: {wrong}", if after { "after" } else { "before" });
            }
        }
    }
    // How often a point is passed depends a little on what else goes on: the last time may not come.
    println!("{died} deaths of {planned}, at {} points", points.len());
    assert!(died * 10 > planned * 7, "only {died} of {planned} crashes took place; not these: {missed:#?}");
}

/// Two minutes in which another process comes for who fell asleep, and goes on beside it once it has woken up. Whether
/// anybody slept.
async fn relieve_the_sleeping(world: &mut World) -> bool {
    let mut has_slept = false;
    for round in 0..24 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        if round == 3 {
            world.shared.faults.lock().unwrap().bus_is_down = false;
        }
        let asleep = world.processes().iter().find(|process| process.life.vital() == Vital::Paused);
        if let Some(service) = asleep.map(|process| process.service).filter(|_| !has_slept) {
            has_slept = true;
            world.start(service, TimeDelta::zero(), None).await;
        }
    }
    has_slept
}

/// Falls asleep at every point, before or after its effect, for longer than any lease; and wakes up as a zombie.
fn sleep_everywhere(after: bool) {
    let (points, mut slept) = (points(), 0);
    for point in points.keys() {
        let crash = Crash { point: point.clone(), after, nth: 1 };
        let (result, has_slept) = simulate_seed(seed(), async {
            let mut world = world(Some((service_of(point), crash)), Some(Duration::from_secs(45))).await;
            let has_slept = relieve_the_sleeping(&mut world).await;
            (world.heal_and_check(30 * MINUTE).await, has_slept)
        });
        slept += usize::from(has_slept);
        if let Err(wrong) = result {
            panic!("slept {} `{point}`: {wrong}", if after { "after" } else { "before" });
        }
    }
    println!("{slept} zombies at {} points", points.len());
    assert!(slept * 10 > points.len() * 9, "only {slept} of {} fell asleep", points.len());
}

#[test]
fn i1_i2_i4_i7_i8_a_zombie_that_slept_before_any_effect_loses_and_doubles_nothing() {
    sleep_everywhere(false);
}

#[test]
fn i1_i2_i4_i7_i8_a_zombie_that_slept_after_any_effect_loses_and_doubles_nothing() {
    sleep_everywhere(true);
}

#[test]
fn i1_i2_i4_i7_i8_a_death_before_any_effect_loses_and_doubles_nothing() {
    die_everywhere(false);
}

#[test]
fn i1_i2_i4_i7_i8_a_death_after_any_effect_loses_and_doubles_nothing() {
    die_everywhere(true);
}
