//! The second pipeline: a table's changes become rows, each change exactly once, through kills.

use std::{path::PathBuf, sync::Arc};

use penstock::loader::{Pipeline, load};
use penstock_engine::cloud::{
    Cloud, Item, Table,
    local::{LocalCloud, LocalOptions},
    table::{Condition, Key, Outcome, Write},
};
use penstock_tests::{
    PATIENCE,
    parquet_rows::{Cells, read_rows},
    place::{Place, pipeline_file, visible_files},
    wait_for,
};
use serde_json::{Value, json};

use super::place;

fn file() -> PathBuf {
    pipeline_file().with_file_name("table-to-parquet.yaml")
}

fn loaded() -> Pipeline {
    load(&file(), &|_| None, &penstock::registry()).unwrap()
}

fn item(attributes: Value) -> Item {
    serde_json::from_value(attributes).unwrap()
}

async fn write(table: &dyn Table, write: Write) {
    assert!(matches!(table.write(&write).await.unwrap(), Outcome::Applied(_)));
}

/// Makes `orders` orders, pays each, and removes every third. Returns the number of changes.
async fn make_changes(cloud: &Arc<LocalCloud>, name: &str, orders: usize) -> usize {
    let table = cloud.table("source").await.unwrap();
    let mut changes = 0;
    for number in 0..orders {
        let key = Key::new(format!("{name}-{number}"), "2026-02-01T00:00:00Z");
        let new =
            item(json!({"status": {"S": "open"}, "price": {"N": "12345678901234567890.25"}, "tags": {"SS": ["a"]}}));
        write(&*table, Write::put(key.clone(), new, Condition::absent("id"))).await;
        write(&*table, Write::update(key.clone(), Condition::equals("status", "open")).set("status", "paid")).await;
        changes += 2;
        if number % 3 == 0 {
            write(&*table, Write::delete(key, Condition::equals("status", "paid"))).await;
            changes += 1;
        }
    }
    changes
}

/// Makes the changes in the place's cloud, which nobody else may own meanwhile.
fn changes_in(place: &Place, name: &str, orders: usize) -> usize {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pipeline = loaded();
        let cloud =
            LocalCloud::open(&place.cloud(), pipeline.naming, &pipeline.resources, LocalOptions::default()).unwrap();
        make_changes(&cloud, name, orders).await
    })
}

fn folder(place: &Place, bucket: &str) -> PathBuf {
    place.cloud().join("s3").join(loaded().naming.bucket(bucket))
}

fn rows(place: &Place) -> Vec<Cells> {
    let output = folder(place, "output");
    visible_files(&output).iter().flat_map(|name| read_rows(&output.join(name))).collect()
}

fn start(place: &Place, more: &[&str]) -> penstock_tests::program::Running {
    let (file, cloud) = (file().display().to_string(), place.cloud().display().to_string());
    place.start(&[&["run", &file, "--local", &cloud], more].concat())
}

#[test]
fn each_change_of_a_table_is_a_row_with_its_images() {
    let place = place();
    let changes = changes_in(&place, "order", 9);
    start(&place, &["--until-idle"]).wait(PATIENCE).expect_code(0);
    let rows = rows(&place);
    assert_eq!(rows.len(), changes);
    let of = |operation: &str| rows.iter().filter(|row| row["operation"] == operation).collect::<Vec<_>>();
    assert_eq!((of("INSERT").len(), of("MODIFY").len(), of("REMOVE").len()), (9, 9, 3));
    let inserted = of("INSERT")[0];
    assert_eq!(inserted.get("old"), None);
    assert!(inserted["new"].contains("\"price\":12345678901234567890.25"), "digit for digit: {}", inserted["new"]);
    let removed = of("REMOVE")[0];
    let old: Value = serde_json::from_str(&removed["old"]).unwrap();
    assert_eq!((&old["status"], removed.get("new")), (&json!("paid"), None));
    assert!(removed["at"].starts_with("20") && !removed["sequence_number"].is_empty(), "{removed:?}");
}

#[test]
fn i1_i4_each_change_is_one_row_through_kills() {
    let place =
        place().with("GATHER_RECORDS", 7).with("GATHER_AGE", "100ms").with("MAX_AGE", "1s").with("MAX_FILES", 20);
    let mut changes = changes_in(&place, "first", 150);
    for kill in 1..=3 {
        let running = start(&place, &[]);
        // It dies with objects written, and with records of which nobody knows yet whether their object is there.
        let input = folder(&place, "input");
        let before = visible_files(&input).len();
        wait_for("more objects", PATIENCE, || (visible_files(&input).len() > before + 2).then_some(()));
        running.kill();
        changes += changes_in(&place, &format!("after-kill-{kill}"), 20 * kill);
    }
    start(&place, &["--until-idle"]).wait(PATIENCE).expect_code(0);
    let mut numbers: Vec<String> = rows(&place).iter().map(|row| row["sequence_number"].clone()).collect();
    assert_eq!(numbers.len(), changes);
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), changes, "a change stands in two rows");
}

#[test]
fn the_shipped_pipelines_pass_their_own_tests() {
    for file in [pipeline_file(), file()] {
        let ended = place().run(&["test", &file.display().to_string()]).expect_code(0);
        assert!(ended.out.contains(" passed, 0 failed") && !ended.out.contains("0 passed"), "{}", ended.out);
    }
}
