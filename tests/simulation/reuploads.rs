//! A new version of an object comes while the one before it is in each of its states.

use std::time::Duration;

use chrono::TimeDelta;
use penstock_operators::model::{FileState, ManifestState};
use penstock_tests::simulation::{PREFIX, World, ledger::Lines, witness::Crash};

use super::simulate;

const SECOND: Duration = Duration::from_secs(1);
const NOW: [Duration; 1] = [Duration::ZERO];

async fn until(world: &World, what: &str, is_so: impl Fn(&World) -> bool) {
    for _ in 0..600 {
        if is_so(world) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute: {what}");
}

/// Lands a version, waits until its file is in such a state with its manifest in such a one, and lands another version. Who
/// dies at `crash` leaves it there. How many files and how many rows there are in the end.
async fn replaced(
    name: &str,
    first: Lines,
    (file, manifest): (FileState, Option<ManifestState>),
    crash: Option<(&'static str, &str)>,
) -> (usize, usize) {
    let mut world = World::new(7, None, &[]);
    let key = format!("{PREFIX}2026-02-01/{name}");
    let dies = |service: &str| {
        let point = crash.filter(|(of, _)| *of == service)?.1.to_owned();
        Some(Crash { point, after: true, nth: 1 })
    };
    world.start("engine", TimeDelta::zero(), dies("engine")).await;
    // Without a worker a manifest stays where it is.
    if manifest != Some(ManifestState::Pending) {
        world.start("worker", TimeDelta::zero(), dies("worker")).await;
    }
    world.land(&key, &first, &NOW);
    if let Some((service, _)) = crash {
        world.until_dead(service).await;
    }
    until(&world, &format!("a file that is {file}, of a manifest that is {manifest:?}"), |world| {
        let manifests = world.shared.all_manifests();
        world.shared.all_files().iter().any(|item| item.state() == Some(file))
            && manifests.first().map(|manifest| manifest.status) == manifest
    })
    .await;
    world.land(&key, &Lines::Some(3, 1), &NOW);
    if let Some((service, _)) = crash {
        world.start(service, TimeDelta::zero(), None).await;
    }
    tokio::time::sleep(SECOND * 5).await;
    world.heal_and_check(SECOND * 1200).await.unwrap_or_else(|wrong| panic!("{file} and {manifest:?}: {wrong}"));
    let completed = world.shared.all_manifests().into_iter().filter_map(|manifest| manifest.rows);
    (world.shared.all_files().len(), completed.sum::<u64>() as usize)
}

#[test]
fn i1_a_version_that_comes_while_the_one_before_is_in_any_of_its_states_is_converted_once() {
    use FileState::{Completed, Failed, Manifested, Pending, Quarantined};
    use ManifestState::{Assembling, Processing};
    let good = || Lines::Some(2, 0);
    simulate(async {
        // What was never claimed is replaced in its place.
        assert_eq!(replaced("a.ndjson", good(), (Pending, None), None).await, (1, 3));
    });
    // What was claimed once keeps its item, and the other has one of its own. The bytes that were to be converted are gone,
    // so the version before fails; unless it was there already.
    for (state, crash, rows) in [
        ((Manifested, Some(Assembling)), Some(("engine", "fold: claim")), 3),
        ((Manifested, Some(ManifestState::Pending)), None, 3),
        ((Manifested, Some(Processing)), Some(("worker", "convert: begin an attempt")), 3),
        ((Manifested, Some(Processing)), Some(("worker", "convert: record the commit")), 5),
        ((Completed, Some(ManifestState::Completed)), None, 5),
    ] {
        simulate(async { assert_eq!(replaced("a.ndjson", good(), state, crash).await, (2, rows), "{state:?}") });
    }
    simulate(async {
        let failed = (Failed, Some(ManifestState::Completed));
        assert_eq!(replaced("a.ndjson", Lines::Failing, failed, None).await, (2, 3));
    });
    simulate(async {
        assert_eq!(replaced("a.csv", good(), (Quarantined, None), None).await, (2, 0));
    });
}
