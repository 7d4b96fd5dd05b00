//! The defects of the system that this one replaces, each by its number in `docs/defects.md`: what would fail there, and
//! holds here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use penstock_engine::{
    cloud::{
        Cloud, Table,
        table::{Consistency, Key, Write},
    },
    leases::{LeaseOptions, Leases},
    time::Clock,
};
use penstock_operators::{
    fold::{
        protocol::{Assembled, Assembler},
        view::Flush,
        writes,
    },
    model::{FileItem, FileState, FlushReason, ManifestJson, ManifestState, read_item, shard_of},
};
use penstock_tests::simulation::{
    PREFIX, World,
    ledger::Lines,
    witness::{Crash, TRACKING, Vital},
};
use serde_json::json;

use super::simulate;

const SECOND: Duration = Duration::from_secs(1);
const NOW: [Duration; 1] = [Duration::ZERO];

fn key(name: &str) -> String {
    format!("{PREFIX}2026-02-01/{name}")
}

async fn started(options: &[(&str, &str, serde_json::Value)]) -> World {
    let mut world = World::new(3, None, options);
    for service in ["engine", "worker"] {
        world.start(service, TimeDelta::zero(), None).await;
    }
    world
}

/// Waits until the ledger and the queues say that all is done.
async fn until_done(world: &World) {
    until_left(world, |_| false).await;
}

/// The same but for what may be left.
async fn until_left(world: &World, may_be_left: impl Fn(&String) -> bool) {
    for _ in 0..360 {
        tokio::time::sleep(SECOND * 5).await;
        if world.wrong().iter().all(&may_be_left) {
            return;
        }
    }
    panic!("not done: {:?}", world.wrong());
}

fn file(world: &World, name: &str) -> FileItem {
    world.shared.all_files().into_iter().find(|file| file.file_key == name).unwrap()
}

fn pending(name: &str) -> FileItem {
    serde_json::from_value(json!({
        "date_prefix": "2026-02-01", "file_key": name, "status": FileState::Pending.status(shard_of(name)),
        "file_path": format!("s3://b/{name}"), "etag": "e", "pending_since": "2026-02-02T02:40:00.000Z",
    }))
    .unwrap()
}

fn put(item: &FileItem) -> Write {
    let whole = serde_dynamo::to_item(item).unwrap();
    Write::put(item.key(), whole, penstock_engine::cloud::table::Condition::absent("file_key"))
}

/// An assembler of its own process, whose clock stands still.
async fn assembler(world: &World, owner: usize) -> Assembler {
    let cloud = world.cloud();
    let leases = Leases::new(cloud.table("leases").await.unwrap(), format!("p{owner}/fold"), LeaseOptions::default());
    let now = world.now();
    Assembler {
        table: cloud.table(TRACKING).await.unwrap(),
        manifests: cloud.bucket("manifest").await.unwrap(),
        manifests_prefix: "manifests/".to_owned(),
        leases,
        ttl: TimeDelta::days(30),
        clock: Clock::from_fn(move || now),
    }
}

#[test]
fn defect_01_a_thousand_folds_in_the_same_second_give_a_thousand_manifests() {
    simulate(async {
        let world = World::new(3, None, &[]);
        let table = world.cloud().memory_table(TRACKING).clone();
        let mut ids = BTreeSet::new();
        for number in 0..1000 {
            let item = pending(&format!("f{number}"));
            table.write(&put(&item)).await.unwrap();
            // Each is the first flush of its process, and all clocks show the same millisecond.
            let flush = Flush { date: "2026-02-01".to_owned(), reason: FlushReason::Files, files: vec![item] };
            match assembler(&world, number).await.assemble(&flush, 1).await.unwrap() {
                Assembled::Ended { manifest_id, committed: true, claimed, .. } => {
                    assert_eq!(claimed.len(), 1);
                    assert!(ids.insert(manifest_id));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(world.cloud().memory_bucket("manifest").objects().len(), 1000);
    });
}

#[test]
fn defect_02_a_manifest_lists_exactly_what_was_claimed_for_it() {
    simulate(async {
        let world = World::new(3, None, &[]);
        let table = world.cloud().memory_table(TRACKING).clone();
        let files = ["a", "b", "c"].map(pending);
        for item in &files {
            table.write(&put(item)).await.unwrap();
        }
        let flush = |files: &[FileItem]| Flush {
            date: "2026-02-01".to_owned(),
            reason: FlushReason::Files,
            files: files.to_vec(),
        };
        // Two folds whose views overlap: the second comes too late for b.
        for (owner, files) in [(0, &files[..2]), (1, &files[1..])] {
            assembler(&world, owner).await.assemble(&flush(files), 1).await.unwrap();
        }
        let objects = world.cloud().memory_bucket("manifest").objects();
        let mut listed: Vec<Vec<String>> = objects
            .values()
            .map(|object| serde_json::from_slice::<ManifestJson>(&object.content).unwrap())
            .map(|json| json.files.into_iter().map(|file| file.file_key).collect())
            .collect();
        listed.sort();
        assert_eq!(listed, [vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]]);
    });
}

#[test]
fn defect_03_events_and_messages_that_come_again_give_no_row_twice() {
    simulate(async {
        let mut world = started(&[]).await;
        world.land(&key("a.ndjson"), &Lines::Some(20, 1), &NOW);
        let mut bodies = Vec::new();
        for _ in 0..6000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bodies.extend(world.cloud().memory_queue("manifest-ready").bodies());
            if !bodies.is_empty() {
                break;
            }
        }
        let body = bodies.first().expect("it wasn't announced before it was done");
        for _ in 0..7 {
            world.cloud().memory_queue("manifest-ready").push(body.clone(), SECOND);
            world.cloud().memory_queue("manifest-ready").push(body.clone(), SECOND * 60);
        }
        until_done(&world).await;
        assert_eq!(world.cloud().memory_queue("manifest-ready-dlq").len(), 0);
    });
}

/// A static that holds a time carries it from one run of a test into the next. The pace of DescribeStream was one, so that
/// an engine waited for the clock of another world before it looked for shards.
#[test]
fn a_manifest_is_announced_as_soon_after_a_run_of_minutes_as_before_it() {
    let announced_after = || {
        simulate(async {
            let mut world = started(&[("convert", "look_every", json!("10m"))]).await;
            let landed = tokio::time::Instant::now();
            (0..4).for_each(|number| world.land(&key(&format!("f{number}.ndjson")), &Lines::Some(2, 0), &NOW));
            while !world.cloud().events("etl").contains_key("ManifestReady") {
                assert!(landed.elapsed() < SECOND * 600, "it isn't announced");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let announced_after = landed.elapsed();
            tokio::time::sleep(SECOND * 600).await;
            announced_after
        })
    };
    let first = announced_after();
    assert!(first < SECOND * 5, "{first:?}");
    assert_eq!(announced_after(), first);
}

#[test]
fn defect_04_an_event_that_was_put_and_not_noted_takes_nothing_back() {
    simulate(async {
        let mut world = World::new(3, None, &[]);
        let crash = Crash { point: "announce: put ManifestReady".to_owned(), after: true, nth: 1 };
        world.start("engine", TimeDelta::zero(), Some(crash)).await;
        world.start("worker", TimeDelta::zero(), None).await;
        world.land(&key("a.ndjson"), &Lines::Some(5, 0), &NOW);
        world.until_dead("engine").await;
        tokio::time::sleep(SECOND * 30).await;
        assert_eq!(world.shared.all_manifests()[0].status, ManifestState::Completed, "the worker had its message");
        world.start("engine", TimeDelta::zero(), None).await;
        until_done(&world).await;
        assert_eq!(world.shared.all_manifests().len(), 1);
    });
}

#[test]
fn defect_05_a_late_mark_of_an_event_moves_no_manifest_back() {
    simulate(async {
        let mut world = started(&[("convert", "look_every", json!("3s"))]).await;
        let mut engine = None;
        world.land(&key("a.ndjson"), &Lines::Some(5, 0), &NOW);
        // The engine falls asleep as soon as the event is put, and wakes up when the worker is done.
        for _ in 0..30_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if world.cloud().events("etl").contains_key("ManifestReady") {
                let life = world.processes().iter().find(|process| process.service == "engine").unwrap().life.clone();
                life.set(Vital::Paused);
                engine = Some(life);
                break;
            }
        }
        tokio::time::sleep(SECOND * 60).await;
        let before = world.shared.all_manifests().remove(0);
        assert_eq!(before.status, ManifestState::Completed);
        engine.expect("it wasn't announced before it was done").set(Vital::Alive);
        until_done(&world).await;
        let after = world.shared.all_manifests().remove(0);
        assert_eq!((after.status, after.rows, after.outputs), (before.status, before.rows, before.outputs));
    });
}

#[test]
fn defect_06_a_notification_that_fails_is_kept_and_only_that_one() {
    simulate(async {
        // No sweep comes to help.
        let mut world = started(&[("sweep", "every", json!("10h"))]).await;
        tokio::time::sleep(SECOND * 5).await;
        let queue = world.cloud().memory_queue("file-events").clone();
        queue.push("this is no notification", Duration::ZERO);
        for number in 0..5 {
            world.land(&key(&format!("f{number}.ndjson")), &Lines::Some(2, 0), &NOW);
        }
        until_done(&world).await;
        assert_eq!(world.cloud().memory_queue("dlq").bodies(), ["this is no notification"]);
    });
}

#[test]
fn defect_07_a_file_that_was_set_back_joins_by_itself() {
    simulate(async {
        let mut world = started(&[]).await;
        world.land(&key("a.ndjson"), &Lines::Some(3, 0), &NOW);
        world.cloud().memory_bucket("input").remove(&key("a.ndjson"));
        tokio::time::sleep(SECOND * 120).await;
        let failed = file(&world, "a.ndjson");
        assert_eq!(failed.state(), Some(FileState::Failed));
        // It is put there again, with the same content: a change of an item that is there already.
        let content = world.ledger.landed()[0].content.clone();
        world.cloud().memory_bucket("input").write(&key("a.ndjson"), content, BTreeMap::new());
        let write = Write::update(
            failed.key(),
            penstock_engine::cloud::table::Condition::equals("status", failed.status.as_str()),
        )
        .set("status", FileState::Pending.status(failed.shard_id))
        .set("pending_since", "2026-02-03T00:00:00.000Z")
        .remove("manifest_path")
        .remove("ttl");
        world.cloud().memory_table(TRACKING).write(&write).await.unwrap();
        until_done(&world).await;
        assert_eq!(file(&world, "a.ndjson").state(), Some(FileState::Completed));
    });
}

#[test]
fn defect_08_without_a_bus_every_file_is_converted_all_the_same() {
    simulate(async {
        let mut world = started(&[]).await;
        world.shared.faults.lock().unwrap().bus_is_down = true;
        for number in 0..5 {
            world.land(&key(&format!("f{number}.ndjson")), &Lines::Some(2, 0), &NOW);
        }
        until_left(&world, |wrong| wrong.ends_with("owes an announcement")).await;
        assert!(world.cloud().events("etl").is_empty());
        // Others hear of it late, and of all of it.
        world.shared.faults.lock().unwrap().bus_is_down = false;
        until_done(&world).await;
        assert_eq!(world.cloud().events("etl")["ManifestReady"], world.shared.all_manifests().len() as u64);
    });
}

#[test]
fn defect_09_what_the_stream_never_told_of_is_found_in_the_index() {
    simulate(async {
        let mut world = World::new(3, None, &[]);
        let stream = world.cloud().memory_table(TRACKING).stream().unwrap().clone();
        stream.disable();
        for service in ["engine", "worker"] {
            world.start(service, TimeDelta::zero(), None).await;
        }
        world.land(&key("a.ndjson"), &Lines::Some(3, 0), &NOW);
        tokio::time::sleep(SECOND * 10).await;
        stream.enable();
        until_done(&world).await;
    });
}

#[test]
fn defect_10_a_release_never_takes_a_finished_file_back() {
    simulate(async {
        let mut world = started(&[]).await;
        world.land(&key("a.ndjson"), &Lines::Some(3, 0), &NOW);
        until_done(&world).await;
        let done = file(&world, "a.ndjson");
        let release = writes::release(&done.key(), done.manifest_path.as_deref().unwrap(), world.now());
        let table: Arc<dyn Table> = world.cloud().memory_table(TRACKING).clone();
        let outcome = table.write(&release).await.unwrap();
        assert!(matches!(outcome, penstock_engine::cloud::table::Outcome::Refused(_)));
        let key = Key::new("2026-02-01", "a.ndjson");
        let item = table.get(&key, Consistency::Strong).await.unwrap().unwrap();
        assert_eq!(read_item::<FileItem>("file", &item).unwrap(), done);
    });
}

#[test]
fn defect_11_late_files_of_a_past_date_share_a_manifest() {
    simulate(async {
        let mut world = started(&[("fold", "max_files", json!(100))]).await;
        for number in 0..9 {
            world.land(&format!("{PREFIX}2019-05-04/f{number}.ndjson"), &Lines::Some(2, 0), &NOW);
            tokio::time::sleep(SECOND).await;
        }
        until_done(&world).await;
        let manifests = world.shared.all_manifests();
        assert_eq!(manifests.iter().map(|manifest| manifest.file_count).collect::<Vec<_>>(), [9]);
        assert_eq!(manifests[0].flush_reason, Some(FlushReason::Age));
    });
}

#[test]
fn defect_12_a_failed_manifest_is_failed_everywhere_and_says_the_real_error() {
    simulate(async {
        let mut world = started(&[("convert", "max_attempts", json!(2))]).await;
        world.land(&key("a.ndjson"), &Lines::Poison, &NOW);
        until_done(&world).await;
        let manifest = world.shared.all_manifests().remove(0);
        assert_eq!(manifest.status, ManifestState::Failed);
        assert!(manifest.error_message.unwrap().contains("poisoned"));
        assert!(file(&world, "a.ndjson").error_message.unwrap().contains("poisoned"));
        assert_eq!(world.cloud().events("etl")["ManifestFailed"], 1);
    });
}

#[test]
fn defect_13_manifests_that_wait_for_a_worker_never_fail_of_it() {
    simulate(async {
        // One attempt each, and one worker for sixty manifests.
        let options = [("convert", "max_attempts", json!(1)), ("fold", "max_files", json!(1))];
        let mut world = started(&options).await;
        for number in 0..60 {
            world.land(&key(&format!("f{number}.ndjson")), &Lines::Some(1, 0), &NOW);
        }
        until_done(&world).await;
        assert_eq!(world.shared.all_manifests().len(), 60);
    });
}

#[test]
fn defect_14_one_bad_or_missing_object_fails_alone() {
    simulate(async {
        let mut world = started(&[]).await;
        world.land(&key("bad.ndjson"), &Lines::Failing, &NOW);
        world.land(&key("gone.ndjson"), &Lines::Some(2, 0), &NOW);
        world.land(&key("good.ndjson"), &Lines::Some(2, 0), &NOW);
        world.cloud().memory_bucket("input").remove(&key("gone.ndjson"));
        tokio::time::sleep(SECOND * 180).await;
        let state = |name: &str| file(&world, name).state().unwrap();
        assert_eq!(state("good.ndjson"), FileState::Completed);
        assert_eq!([state("bad.ndjson"), state("gone.ndjson")], [FileState::Failed; 2]);
        assert!(file(&world, "gone.ndjson").error_message.unwrap().starts_with("missing: "));
        assert_eq!(world.cloud().events("etl")["FilesFailed"], 1);
    });
}

/// Anybody may send a notification.
#[test]
fn defect_14_a_file_of_another_bucket_fails_alone() {
    simulate(async {
        let mut world = started(&[]).await;
        for name in ["strange.ndjson", "strange.csv"] {
            let object = json!({ "key": key(name), "size": 9, "eTag": "e", "sequencer": "01" });
            let body = json!({ "Records": [{
                "eventName": "ObjectCreated:Put", "s3": { "bucket": { "name": "somebodys" }, "object": object },
            }]});
            world.cloud().memory_queue("file-events").push(body.to_string(), Duration::ZERO);
        }
        // A release before this one took such a file for its own.
        let taken = FileItem { date_prefix: "2026-02-01".to_owned(), ..pending("taken.ndjson") };
        world.cloud().memory_table(TRACKING).write(&put(&taken)).await.unwrap();
        // And the own object of the same name lands all the same.
        for name in ["strange.ndjson", "good.ndjson"] {
            world.land(&key(name), &Lines::Some(2, 0), &NOW);
        }
        tokio::time::sleep(SECOND * 180).await;
        let reason = |path: &str, state| {
            let all = world.shared.all_files();
            let file = all.iter().find(|file| file.file_path == path).unwrap();
            assert_eq!(file.state(), Some(state), "{file:?}");
            file.error_message.clone().unwrap_or_default()
        };
        for name in ["strange.ndjson", "strange.csv"] {
            let why = reason(&format!("s3://somebodys/{}", key(name)), FileState::Quarantined);
            assert!(why.contains("another bucket: it is in somebodys"), "{why}");
        }
        assert!(reason("s3://b/taken.ndjson", FileState::Failed).starts_with("other_bucket: "));
        for name in ["strange.ndjson", "good.ndjson"] {
            assert_eq!(file(&world, name).state(), Some(FileState::Completed), "{name}");
        }
        assert_eq!(world.cloud().memory_queue("dlq").len(), 0);
        assert!(world.cloud().memory_bucket("quarantine").objects().is_empty(), "nothing of theirs is read");
    });
}

#[test]
fn defect_17_a_quarantined_file_leaves_a_record_and_a_copy_with_the_reason() {
    simulate(async {
        let mut world = started(&[]).await;
        world.land(&key("a.csv"), &Lines::Some(2, 0), &NOW);
        until_done(&world).await;
        let item = file(&world, "a.csv");
        assert_eq!(item.state(), Some(FileState::Quarantined));
        assert!(item.error_message.unwrap().contains("suffix"));
        let copies = world.cloud().memory_bucket("quarantine").objects();
        let copy = &copies[&format!("{}@{}", key("a.csv"), item.etag.unwrap())];
        assert!(copy.metadata["quarantine-reason"].contains("suffix"));
    });
}

#[test]
fn a_settling_that_was_lost_is_found_however_old_the_date_of_its_files() {
    simulate(async {
        // The date is ten years before the sweep's lookback.
        let options = [("sweep", "every", json!("15s")), ("sweep", "grace", json!("20s"))];
        let mut world = World::new(7, None, &options);
        let dies = Some(Crash { point: "settle: settle as completed".to_owned(), after: false, nth: 1 });
        world.start("engine", TimeDelta::zero(), dies).await;
        world.start("worker", TimeDelta::zero(), None).await;
        world.land(&format!("{PREFIX}2016-02-01/a.ndjson"), &Lines::Some(3, 0), &NOW);
        world.until_dead("engine").await;
        // The change that tells of it is lost, too.
        world.cloud().memory_table(TRACKING).stream().unwrap().trim();
        world.heal_and_check(SECOND * 600).await.unwrap();
    });
}

#[test]
fn every_defect_of_the_table_has_its_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("docs/defects.md")).unwrap();
    let mut sources = String::new();
    for folder in ["operators/src", "engine/src", "tests"] {
        read_sources(&root.join(folder), &mut sources);
    }
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit()).collect();
    assert_eq!(rows.len(), 22, "rows of the table");
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[1], (index + 1).to_string());
        let test = cells[4].trim_matches('`');
        if test == "–" {
            assert!(cells[3].len() > 20, "row {} must say why it has no test", index + 1);
            continue;
        }
        assert!(test.starts_with(&format!("defect_{:02}_", index + 1)), "{test}");
        assert!(sources.contains(&format!("fn {test}()")), "there is no test {test}");
    }
    let tests = sources.split("fn defect_").skip(1).filter_map(|rest| rest.split('(').next());
    for test in tests.filter(|test| test.as_bytes()[0].is_ascii_digit()) {
        assert!(table.contains(&format!("`defect_{test}`")), "the table lacks defect_{test}");
    }
}

fn read_sources(folder: &std::path::Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
