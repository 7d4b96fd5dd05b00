//! What a commit, a report, a JSON or a queue may come to between two steps, one by one.

use std::time::Duration;

use chrono::TimeDelta;
use penstock::oncall::redrive::{Outcome, Selection};
use penstock_engine::cloud::{
    Table,
    table::{Condition, Key, Write},
};
use penstock_operators::model::{FileState, ManifestItem, ManifestState};
use penstock_tests::simulation::{
    PREFIX, World,
    ledger::Lines,
    witness::{Crash, TRACKING},
};
use serde_json::json;

use super::simulate;

const SECOND: Duration = Duration::from_secs(1);
const NOW: [Duration; 1] = [Duration::ZERO];

fn crash(point: &str, after: bool) -> Option<Crash> {
    Some(Crash { point: point.to_owned(), after, nth: 1 })
}

/// Two files of one date, one with rejects, and a worker that dies at this point.
async fn world_with(point: &str, after: bool) -> World {
    let options =
        [("convert", "max_attempts", json!(3)), ("sweep", "every", json!("15s")), ("sweep", "grace", json!("20s"))];
    let mut world = World::new(7, None, &options);
    world.start("engine", TimeDelta::zero(), None).await;
    world.start("worker", TimeDelta::zero(), crash(point, after)).await;
    world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(20, 0), &NOW);
    world.land(&format!("{PREFIX}2026-02-01/b.ndjson"), &Lines::Some(10, 2), &NOW);
    world.until_dead("worker").await;
    world
}

fn manifest(world: &World) -> ManifestItem {
    let mut manifests = world.shared.all_manifests();
    assert_eq!(manifests.len(), 1);
    manifests.remove(0)
}

fn states(world: &World) -> Vec<FileState> {
    world.shared.all_files().iter().map(|file| file.state().unwrap()).collect()
}

/// Starts a worker and waits until the manifest is final.
async fn go_on(world: &mut World) -> ManifestItem {
    world.start("worker", TimeDelta::zero(), None).await;
    for _ in 0..200 {
        tokio::time::sleep(SECOND * 5).await;
        let manifest = manifest(world);
        if matches!(manifest.status, ManifestState::Completed | ManifestState::Failed) && manifest.settled_at.is_some()
        {
            return manifest;
        }
    }
    panic!("not final: {:?}", manifest(world));
}

#[test]
fn i1_lost_bytes_of_a_commit_are_staged_again_from_the_same_files() {
    // All of them are lost, or all but the first, which is visible already.
    for point in ["convert: record the commit", "convert: complete an output"] {
        simulate(async {
            let mut world = world_with(point, true).await;
            assert!(world.cloud().memory_bucket("output").lose_staged() > 0);
            let manifest = go_on(&mut world).await;
            assert_eq!(manifest.status, ManifestState::Completed, "{:?}", manifest.error_message);
            assert_eq!(manifest.commit.unwrap().staged_again, 1);
            assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
            assert_eq!(
                world.cloud().memory_bucket("output").staged(),
                0,
                "what was visible already was staged in vain"
            );
        });
    }
}

#[test]
fn i1_lost_bytes_of_files_that_have_changed_since_fail_the_manifest_and_say_what_is_visible() {
    simulate(async {
        let mut world = world_with("convert: complete an output", true).await;
        world.cloud().memory_bucket("output").lose_staged();
        world.cloud().memory_bucket("input").remove(&format!("{PREFIX}2026-02-01/a.ndjson"));
        let manifest = go_on(&mut world).await;
        let error = manifest.error_message.unwrap();
        assert!(error.starts_with("commit_lost: ") && error.contains("a.ndjson: it is gone"), "{error}");
        assert!(error.contains("visible are s3://") && error.contains("-p0.parquet"), "{error}");
        assert_eq!(states(&world), [FileState::Failed; 2]);
    });
}

#[test]
fn i1_files_of_a_commit_that_was_lost_go_again_only_by_force_and_then_no_row_is_there_twice() {
    simulate(async {
        let mut world = world_with("convert: complete an output", true).await;
        world.cloud().memory_bucket("output").lose_staged();
        let input = world.cloud().memory_bucket("input").clone();
        let landed = input.objects();
        input.remove(&format!("{PREFIX}2026-02-01/a.ndjson"));
        let lost = go_on(&mut world).await;
        // The same content comes again, while readers see a part of it.
        for (key, object) in landed {
            world.put(&key, object.content, &NOW);
        }
        tokio::time::sleep(SECOND * 120).await;
        assert_eq!(states(&world), [FileState::Failed; 2], "rows that readers see were converted again");
        let of_manifest = Selection::Manifest { date: None, id: lost.id().to_owned() };
        let refused = world.redrive(of_manifest.clone(), false).await;
        assert_eq!(refused.len(), 2);
        for step in refused {
            assert_eq!(step.outcome, Outcome::Left);
            let words = ["readers see s3://", "-p0.parquet", "--force"];
            assert!(words.iter().all(|word| step.because.contains(word)), "{}", step.because);
        }
        // A person takes away what readers see, and then insists.
        for key in world.cloud().memory_bucket("output").objects().into_keys() {
            world.cloud().memory_bucket("output").remove(&key);
        }
        let forced = world.redrive(of_manifest, true).await;
        assert!(forced.iter().all(|step| step.outcome == Outcome::Redriven), "{forced:?}");
        tokio::time::sleep(SECOND * 300).await;
        assert_eq!(states(&world), [FileState::Completed; 2]);
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}

#[test]
fn i1_rejects_that_are_lost_before_the_commit_is_completed_are_made_again() {
    simulate(async {
        let mut world = world_with("convert: record the commit", true).await;
        let key = manifest(&world).commit.unwrap().rejects_key.unwrap();
        world.cloud().memory_bucket("quarantine").write(&key, "somebody else's", Default::default());
        let manifest = go_on(&mut world).await;
        assert_eq!(manifest.status, ManifestState::Completed, "{:?}", manifest.error_message);
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}

#[test]
fn i4_a_commit_that_will_never_be_completed_fails_after_some_tries_with_the_real_error() {
    for (what, words) in [("gone", "is gone"), ("changed", "isn't what was recorded")] {
        simulate(async {
            let mut world = world_with("convert: record the commit", true).await;
            let key = manifest(&world).commit.unwrap().report_key;
            let bucket = world.cloud().memory_bucket("manifest").clone();
            match what {
                "gone" => bucket.remove(&key),
                _ => drop(bucket.write(&key, "{}", Default::default())),
            }
            let manifest = go_on(&mut world).await;
            let error = manifest.error_message.unwrap();
            assert!(error.contains("commit_stuck: ") && error.contains(words), "{error}");
            assert!(error.contains("no output is visible"), "{error}");
            assert_eq!(manifest.completions, 2, "tries that were put off");
            assert_eq!(states(&world), [FileState::Failed; 2]);
        });
    }
}

#[test]
fn i8_what_was_converted_while_the_bus_was_down_is_announced_once_it_answers() {
    simulate(async {
        let options = [
            ("convert", "look_every", json!("3s")),
            ("convert", "max_attempts", json!(3)),
            ("sweep", "every", json!("15s")),
            ("sweep", "grace", json!("20s")),
        ];
        let mut world = World::new(7, None, &options);
        world.shared.faults.lock().unwrap().bus_is_down = true;
        world.start("engine", TimeDelta::zero(), None).await;
        world.start("worker", TimeDelta::zero(), None).await;
        for day in 1..=5 {
            world.land(&format!("{PREFIX}2026-02-0{day}/a.ndjson"), &Lines::Some(5, 1), &NOW);
        }
        world.land(&format!("{PREFIX}2026-02-06/poison.ndjson"), &Lines::Poison, &NOW);
        tokio::time::sleep(SECOND * 1200).await;
        let manifests = world.shared.all_manifests();
        let count = |state| manifests.iter().filter(|manifest| manifest.status == state).count();
        assert_eq!(count(ManifestState::Completed), 5, "workers need no bus: {manifests:#?}");
        assert_eq!(count(ManifestState::Failed), 1);
        assert!(manifests.iter().all(|manifest| manifest.announced_at.is_none()), "the bus was down");
        assert_eq!(world.cloud().events("etl").get("ManifestReady"), None);

        world.shared.faults.lock().unwrap().bus_is_down = false;
        tokio::time::sleep(SECOND * 120).await;
        let told = world.cloud().events("etl");
        assert_eq!(told.get("ManifestReady"), Some(&(manifests.len() as u64)), "each is announced: {told:?}");
        assert!(world.shared.all_manifests().iter().all(|manifest| manifest.announced_at.is_some()));
        assert_eq!(world.shared.violations.lock().unwrap().as_slice(), [] as [String; 0]);
    });
}

#[test]
fn i8_an_item_that_nobody_can_read_keeps_no_other_waiting() {
    simulate(async {
        let mut world = World::new(7, None, &[]);
        let key = Key::new("2026-02-01", "unreadable");
        let unreadable = Write::put(key.clone(), Default::default(), Condition::absent("file_key"))
            .set("status", "pending#3")
            .set("size_bytes", "no number");
        world.cloud().memory_table(TRACKING).write(&unreadable).await.unwrap();
        for service in ["engine", "worker"] {
            world.start(service, TimeDelta::zero(), None).await;
        }
        // Too few for any threshold but age, which counts only once the index was read.
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(3, 0), &NOW);
        tokio::time::sleep(SECOND * 300).await;
        let gone = Write::delete(key, Condition::equals("status", "pending#3"));
        world.cloud().memory_table(TRACKING).write(&gone).await.unwrap();
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}

#[test]
fn i2_a_manifests_json_that_was_changed_after_its_commit_is_never_believed() {
    simulate(async {
        let mut world = world_with("convert: begin an attempt", false).await;
        let item = manifest(&world);
        let key = format!("manifests/{}/{}.json", item.date_prefix, item.id());
        let bucket = world.cloud().memory_bucket("manifest").clone();
        let text = String::from_utf8(bucket.objects()[&key].content.to_vec()).unwrap();
        bucket.write(&key, text.replace("b.ndjson", "c.ndjson"), Default::default());
        world.start("worker", TimeDelta::zero(), None).await;
        tokio::time::sleep(SECOND * 300).await;
        let manifest = manifest(&world);
        assert_eq!(manifest.status, ManifestState::Failed);
        assert!(manifest.error_message.unwrap().contains("isn't what was recorded"));
        // The list can't be trusted, but whoever bears the manifest's path has failed with it.
        assert_eq!(states(&world), [FileState::Failed; 2]);
    });
}

#[test]
fn i1_rejects_of_an_attempt_that_died_before_its_commit_are_removed() {
    simulate(async {
        let mut world = world_with("convert: record the commit", false).await;
        let rejects = |world: &World| {
            let objects = world.cloud().memory_bucket("quarantine").objects();
            objects.into_keys().filter(|key| key.starts_with("rejects/")).collect::<Vec<_>>()
        };
        assert_eq!(rejects(&world).len(), 1, "the attempt that died had written its rejects");
        let manifest = go_on(&mut world).await;
        assert_eq!(rejects(&world).len(), 2);
        // Rejects are looked at every twelfth sweep.
        tokio::time::sleep(SECOND * 15 * 14).await;
        assert_eq!(rejects(&world), [manifest.commit.unwrap().rejects_key.unwrap()]);
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}

#[test]
fn i8_restarts_in_mid_work_bring_no_message_nearer_to_the_dead_letters() {
    simulate(async {
        let mut world = World::new(7, None, &[]);
        world.start("engine", TimeDelta::zero(), None).await;
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(1, 0), &NOW);
        // The manifest is announced, and a worker is stopped in mid-conversion, again and again.
        while world.cloud().memory_queue("manifest-ready").is_empty() {
            tokio::time::sleep(SECOND).await;
        }
        for _ in 0..5 {
            world.start("worker", TimeDelta::zero(), None).await;
            while world.shared.all_manifests()[0].status != ManifestState::Processing {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let worker = world.processes().iter().position(|process| process.service == "worker").unwrap();
            world.end(worker, true).await;
        }
        assert_eq!(world.cloud().memory_queue("manifest-ready-dlq").len(), 0);
        assert!(!world.cloud().memory_queue("manifest-ready").is_empty(), "its hint is still there");
        world.heal_and_check(SECOND * 600).await.unwrap();
        assert_eq!(world.cloud().memory_queue("manifest-ready-dlq").len(), 0);
    });
}

#[test]
fn i4_restarts_that_come_sooner_than_a_file_is_due_keep_no_file_waiting() {
    simulate(async {
        let mut world = World::new(7, None, &[]);
        world.start("worker", TimeDelta::zero(), None).await;
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(3, 0), &NOW);
        // Its change is checkpointed by the first engine: to the others only the index tells of it. It is due by age after
        // 20 s, which are 30 s for them; none of them lives that long.
        for _ in 0..6 {
            world.start("engine", TimeDelta::zero(), None).await;
            tokio::time::sleep(SECOND * 12).await;
            let engine = world.processes().iter().position(|process| process.service == "engine").unwrap();
            world.end(engine, true).await;
        }
        assert_eq!(states(&world).len(), 1);
        assert_ne!(states(&world), [FileState::Pending], "each restart made it young again");
    });
}

#[test]
fn one_manifest_that_cannot_be_finished_keeps_no_other_waiting() {
    simulate(async {
        let mut world = World::new(7, None, &[]);
        // Somebody wrote items that no release can read, and one whose JSON is none.
        let table = world.cloud().memory_table(TRACKING).clone();
        for (name, status) in
            [("bad", "assembling"), ("worse", "assembling"), ("bad-pending", "pending"), ("bad-work", "processing")]
        {
            let key = Key::new("2026-02-01", format!("MANIFEST#{name}.json"));
            let mut write = Write::put(key, Default::default(), Condition::absent("file_key"))
                .set("status", status)
                .set_number("schema_version", 1)
                .set("manifest_path", format!("s3://x/manifests/2026-02-01/{name}.json"))
                .set("created_at", "2026-02-01T00:00:00.000Z");
            if name != "worse" {
                write = write.set("attempt", "no number");
            }
            table.write(&write).await.unwrap();
        }
        world.cloud().memory_bucket("manifest").write("manifests/2026-02-01/worse.json", "no JSON", Default::default());
        for service in ["engine", "worker"] {
            world.start(service, TimeDelta::zero(), None).await;
        }
        // One file, which only a flush by age takes, and one that only the sweep finds.
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(3, 0), &NOW);
        world.land(&format!("{PREFIX}2026-02-02/b.ndjson"), &Lines::Some(3, 0), &[]);
        tokio::time::sleep(SECOND * 600).await;
        assert_eq!(states(&world), [FileState::Completed; 2]);
        // And one whose manifest a worker finds only by its own look into the index.
        world.shared.faults.lock().unwrap().bus_is_down = true;
        world.land(&format!("{PREFIX}2026-02-03/c.ndjson"), &Lines::Some(3, 0), &NOW);
        tokio::time::sleep(SECOND * 600).await;
        assert_eq!(states(&world), [FileState::Completed; 3]);
    });
}

#[test]
fn a_request_to_flush_that_cannot_be_read_keeps_no_flush_waiting() {
    simulate(async {
        // No change comes to help: only a tick closes a manifest by age.
        let mut world = World::new(7, None, &[("sweep", "every", json!("1h"))]);
        let request = Key::new("FLUSH", "2026-02-01");
        let request = Write::put(request, Default::default(), Condition::absent("file_key")).set("status", "requested");
        world.cloud().memory_table(TRACKING).write(&request).await.unwrap();
        for service in ["engine", "worker"] {
            world.start(service, TimeDelta::zero(), None).await;
        }
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(3, 0), &NOW);
        tokio::time::sleep(SECOND * 300).await;
        assert_eq!(states(&world), [FileState::Completed]);
    });
}

#[test]
fn the_files_of_a_failed_manifest_whose_json_is_gone_fail_with_it_and_no_day_is_read() {
    simulate(async {
        let mut world = world_with("convert: begin an attempt", false).await;
        let item = manifest(&world);
        let key = format!("manifests/{}/{}.json", item.date_prefix, item.id());
        world.cloud().memory_bucket("manifest").remove(&key);
        let manifest = go_on(&mut world).await;
        assert_eq!(manifest.status, ManifestState::Failed);
        assert!(manifest.error_message.unwrap().contains("is gone"));
        assert_eq!(states(&world), [FileState::Failed; 2]);
        assert_eq!(*world.shared.day_queries.lock().unwrap(), 0);
    });
}
