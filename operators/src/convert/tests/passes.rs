//! How many passes it takes, and what ends them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::{FutureExt, future};
use object_store::Error;
use object_store::path::Path;

use super::*;
use crate::convert::testing::HookedStore;

/// Eight files, of which file n is gone after the reads that `reads` allows it.
async fn fading(reads: &[(usize, u32)]) -> World {
    let mut world = World::new(&[]).await;
    for file in 0..8 {
        world.add(&format!("{file}.ndjson"), b"{\"a\":1}\n").await;
    }
    let reads_left: HashMap<_, _> = reads.iter().map(|(file, reads)| (format!("{file}.ndjson"), *reads)).collect();
    let reads_left = Mutex::new(reads_left);
    let fade = move |path: &Path| {
        let result = match reads_left.lock().unwrap().get_mut(path.as_ref()) {
            Some(0) => Err(Error::NotFound { path: path.to_string(), source: "faded".into() }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        };
        future::ready(result).boxed()
    };
    world.catalog.grow(&["a".to_owned()]).await.unwrap();
    world.bucket.store = Arc::new(HookedStore::new(world.bucket.store.clone(), fade));
    world
}

#[tokio::test]
async fn files_that_fail_one_by_one_are_checked_alone_in_the_end() {
    // One file fails in each of three passes, the fourth one when it is checked alone.
    let (converted, _) = fading(&[(1, 0), (2, 1), (3, 2), (4, 3)]).await.converted().await;
    assert_eq!(converted.rows, 4);
    // Three passes, five files alone, and the last pass.
    assert_eq!(converted.passes, 3 + 5 + 1);
}

#[tokio::test]
async fn files_that_go_on_failing_end_the_conversion() {
    let world = fading(&[(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]).await;
    let error = world.convert().await.unwrap_err();
    assert!(matches!(error, ConvertError::Unstable { files: 1 }) && error.is_transient());
    world.settle(0).await;
    assert!(world.stage.open.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_file_costs_no_second_look_for_columns() {
    let mut world = World::new(&[]).await;
    // The guess at the first columns ends before the file that has one more.
    for file in 0..20 {
        world.add(&format!("{file:02}.ndjson"), b"{\"a\":1}\n").await;
    }
    world.add("20.ndjson", b"{\"late\":2}\n").await;
    world.add("21.ndjson", b"bad\n").await;
    let (converted, _) = world.converted().await;
    assert_eq!(converted.columns, ["a", "late"]);
    assert_eq!((converted.passes, converted.column_reruns, converted.rows), (2, 1, 21));
}

/// A catalog to which others add at the same time.
struct Busy {
    catalog: MemoryCatalog,
    others: Mutex<Vec<&'static str>>,
}

#[async_trait]
impl ColumnCatalog for Busy {
    async fn known(&self) -> std::result::Result<Vec<String>, ConvertError> {
        self.catalog.known().await
    }

    async fn grow(&self, new: &[String]) -> std::result::Result<Vec<String>, ConvertError> {
        let other = self.others.lock().unwrap().pop();
        self.catalog.grow(&other.map(str::to_owned).into_iter().collect::<Vec<_>>()).await?;
        self.catalog.grow(new).await
    }
}

#[tokio::test]
async fn columns_that_others_add_are_taken_over() {
    let world = World::new(&[("a.ndjson", b"{\"a\":1}\n{\"b\":1}\n")]).await;
    let catalog = Busy { catalog: MemoryCatalog::default(), others: Mutex::new(vec!["other"]) };
    let World { conversion, options, progress, cancel, .. } = &world;
    let converted = convert(conversion, &world.buckets(), &catalog, options, progress, cancel).await.unwrap();
    assert_eq!(converted.columns, ["other", "a", "b"]);
    assert_eq!((converted.passes, converted.column_reruns), (2, 1));
}

/// A catalog that keeps nothing.
struct Deaf;

#[async_trait]
impl ColumnCatalog for Deaf {
    async fn known(&self) -> std::result::Result<Vec<String>, ConvertError> {
        Ok(Vec::new())
    }

    async fn grow(&self, _: &[String]) -> std::result::Result<Vec<String>, ConvertError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_catalog_that_keeps_nothing_is_an_error() {
    let world = World::new(&[("a.ndjson", b"{\"a\":1}\n")]).await;
    let World { conversion, options, progress, cancel, .. } = &world;
    let error = convert(conversion, &world.buckets(), &Deaf, options, progress, cancel).await.unwrap_err();
    assert!(matches!(error, ConvertError::Catalog { transient: false, .. }));
    world.settle(0).await;
    assert!(world.stage.open.lock().unwrap().is_empty());
}

#[tokio::test]
async fn first_sight_is_by_file_and_place() {
    let mut many = b"{\"b\":1}\n".repeat(700_000);
    many.extend_from_slice(b"{\"late\":1}\n");
    let mut world = World::new(&[("a.ndjson", &many), ("b.ndjson", b"{\"early\":1,\"b\":2}\n")]).await;
    world.options.row_group_bytes = 1 << 20;
    let (converted, _) = world.converted().await;
    assert_eq!(converted.columns, ["b", "late", "early"]);
    assert_eq!((converted.passes, converted.column_reruns), (2, 1));
}

#[tokio::test]
async fn first_columns_are_looked_for_in_small_files_too() {
    let mut world = World::new(&[("a.ndjson", b"{\"b\":1}\n"), ("b.ndjson", b"{\"a\":1}\n")]).await;
    world.add("c.ndjson", b"{\"b\":1,\"c\":null}").await;
    let (converted, _) = world.converted().await;
    assert_eq!(converted.columns, ["b", "a", "c"]);
    assert_eq!((converted.passes, converted.column_reruns), (1, 0));
}

#[test]
fn a_conversion_can_run_on_any_thread() {
    fn is_send<T: Send>(_: impl FnOnce(World) -> T) {}
    is_send(|world| async move { world.convert().await.map(|_| ()) });
}
