//! Many small files: they share reads and batches, and nobody can tell from what comes out.

use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use penstock_engine::cloud::local::bucket::FolderBucket;

use super::*;

/// A small file, and what comes of it.
struct SmallFile {
    key: String,
    bytes: Vec<u8>,
    /// The ids of its rows.
    ids: Vec<String>,
    /// The line and the offset of its reject.
    reject: Option<(u64, u64)>,
}

fn small_file(number: usize) -> SmallFile {
    let mut text = Vec::new();
    let (mut ids, mut reject, mut line) = (Vec::new(), None, 0);
    if number % 5 == 1 {
        text.extend_from_slice(b"\xef\xbb\xbf");
    }
    for row in 0..number % 7 {
        if row == 2 && number.is_multiple_of(3) {
            line += 1;
            reject = Some((line, text.len() as u64));
            text.extend_from_slice(b"no row\n");
        }
        line += 1;
        let id = format!("{number}-{row}");
        text.extend_from_slice(format!("{{\"id\":\"{id}\"}}\n").as_bytes());
        ids.push(id);
    }
    if number % 2 == 1 {
        // The last line has no end.
        text.truncate(text.len().saturating_sub(usize::from(text.ends_with(b"\n"))));
    }
    let zipped = number.is_multiple_of(11);
    let key = format!("{number:04}.ndjson{}", if zipped { ".gz" } else { "" });
    SmallFile { key, bytes: if zipped { gz(&text) } else { text }, ids, reject }
}

async fn small_files_are_each_their_own(mut world: World) {
    const FILES: usize = 600;
    const MISSING: usize = 300;
    const CHANGED: usize = 302;
    for number in 0..FILES {
        let SmallFile { key, bytes, .. } = small_file(number);
        world.add(&key, &bytes).await;
    }
    world.bucket.store.delete(&Path::from(small_file(MISSING).key)).await.unwrap();
    world.bucket.store.put(&Path::from(small_file(CHANGED).key), "{\"id\":\"other\"}".into()).await.unwrap();
    let (converted, rows) = world.converted().await;
    let (mut expected_rows, mut expected_rejects) = (Vec::new(), Vec::new());
    for (number, file) in world.conversion.files.iter().enumerate() {
        let SmallFile { ids, reject, .. } = small_file(number);
        let failed = match number {
            MISSING => Some(FailureReason::Missing),
            CHANGED => Some(FailureReason::Changed),
            _ => None,
        };
        assert_eq!(reasons(&converted)[number], failed, "{}", file.key);
        if failed.is_none() {
            expected_rows.extend(ids.into_iter().map(|id| (id, file.uri.clone(), file.etag.clone().unwrap())));
            expected_rejects.extend(reject.map(|(line, offset)| (file.uri.clone(), line, offset)));
        }
    }
    let rows: Vec<_> =
        rows.iter().map(|row| (row["id"].clone(), row["_source_file"].clone(), row["_source_etag"].clone())).collect();
    assert_eq!(rows, expected_rows);
    let place = |reject: &serde_json::Value| {
        Some((reject["file"].as_str()?.to_owned(), reject["line"].as_u64()?, reject["offset"].as_u64()?))
    };
    let rejects: Vec<(String, u64, u64)> = world.rejects().await.iter().filter_map(place).collect();
    assert_eq!(rejects, expected_rejects);
    assert_eq!((converted.rejected_rows as usize, converted.passes), (expected_rejects.len(), 2));
}

#[tokio::test]
async fn small_objects_are_each_their_own() {
    small_files_are_each_their_own(World::new(&[]).await).await;
}

/// A column that a failed file showed first is still new in the file after it.
#[tokio::test]
async fn a_file_that_fails_takes_no_column_of_the_next_along() {
    let world = World::new(&[("a.ndjson", b"{\"x\":1}\nno\nno\n"), ("b.ndjson", b"{\"x\":2}\n")]).await;
    world.catalog.grow(&["z".to_owned()]).await.unwrap();
    let (converted, rows) = world.converted().await;
    assert_eq!(reasons(&converted), [Some(FailureReason::TooManyRejects), None]);
    assert_eq!((converted.columns, rows.len()), (vec!["z".to_owned(), "x".to_owned()], 1));
    assert_eq!((converted.passes, converted.column_reruns), (2, 1));
}

/// A folder hands out files, which are read on threads of their own.
#[tokio::test]
async fn small_files_of_this_machine_are_each_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(&[]).await;
    world.bucket.store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    small_files_are_each_their_own(world).await;
}

/// A folder that doesn't remember a file's etag reads the file for it, before it hands it out.
#[tokio::test]
async fn small_files_that_the_store_has_read_are_read_from_their_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FolderBucket::open(folder.path(), "input").unwrap().store;
    let mut world = World::new(&[]).await;
    world.bucket.store = open();
    for (key, line) in [("a.ndjson", "{\"x\":1}\n"), ("b.ndjson", "{\"x\":2}\n")] {
        world.add(key, line.as_bytes()).await;
    }
    world.bucket.store = open();
    let (converted, rows) = world.converted().await;
    assert_eq!((reasons(&converted), rows.len()), (vec![None, None], 2));
}

/// All files of a manifest may have failed before any was read.
#[tokio::test]
async fn no_files_at_all_give_no_output() {
    for cast in [Cast::Lossless, Cast::Spark] {
        let mut world = World::new(&[]).await;
        world.options.cast = cast;
        let converted = world.convert().await.unwrap();
        assert_eq!((converted.files.len(), converted.parts.len(), converted.rows), (0, 0, 0));
    }
}
