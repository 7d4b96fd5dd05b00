//! What any bucket owes: staged outputs, conditional writes and reads, copies.
//!
//! Run [`all`] against two buckets of one cloud, or single cases by name. Each works below a prefix of its own, so the
//! buckets need not be empty; nothing is cleaned up.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, path::Path};

use crate::cloud::{
    Bucket, ErrorKind,
    limits::PART_MIN_BYTES,
    stage::{Completion, CopySource, Metadata, ObjectHead, Part, TOKEN, Upload},
};

/// Runs every case.
pub async fn all(bucket: &Bucket, sibling: &Bucket) {
    output_is_invisible_until_it_is_complete(bucket).await;
    completing_again_is_harmless(bucket).await;
    the_last_complete_wins_and_the_loser_is_told(bucket).await;
    aborted_output_is_lost(bucket).await;
    abort_after_complete_keeps_the_object(bucket).await;
    parts_of_twelve_mebibytes_read_back(bucket).await;
    part_put_again_replaces(bucket).await;
    wrong_parts_are_refused(bucket).await;
    put_create_refuses_the_second(bucket).await;
    reads_hold_to_the_etag(bucket).await;
    ranges_read_what_they_say(bucket).await;
    overwriting_changes_etag_and_metadata(bucket).await;
    what_is_not_there_is_not_found(bucket).await;
    copy_takes_content_and_new_metadata(bucket, sibling).await;
    copy_holds_to_the_etag(bucket, sibling).await;
}

/// A key below a prefix of this call's own.
fn fresh_key(name: &str) -> String {
    format!("conformance/{:016x}/{name}", rand::random::<u64>())
}

fn with_token(token: &str) -> Metadata {
    Metadata::from([(TOKEN.to_owned(), token.to_owned()), ("reason".to_owned(), "conformance".to_owned())])
}

async fn put(bucket: &Bucket, key: &str, content: &'static str) {
    bucket.store.put(&Path::from(key), PutPayload::from_static(content.as_bytes())).await.expect("put");
}

async fn staged(bucket: &Bucket, key: &str, token: &str, content: &'static str) -> (Upload, Part) {
    let upload = bucket.stage.begin(key, &with_token(token)).await.expect("begin");
    let part = bucket.stage.put_part(&upload, 1, Bytes::from_static(content.as_bytes())).await.expect("put_part");
    (upload, part)
}

async fn head(bucket: &Bucket, key: &str) -> ObjectHead {
    bucket.stage.head(key).await.expect("head").unwrap_or_else(|| panic!("`{key}` isn't there"))
}

async fn content(bucket: &Bucket, key: &str) -> Bytes {
    bucket.store.get(&Path::from(key)).await.expect("get").bytes().await.expect("bytes")
}

async fn listed(bucket: &Bucket, key: &str) -> Vec<String> {
    let folder = Path::from(key.rsplit_once('/').expect("a key below a prefix").0);
    let mut keys: Vec<String> = bucket
        .store
        .list(Some(&folder))
        .map_ok(|object| object.location.to_string())
        .try_collect()
        .await
        .expect("list");
    keys.sort();
    keys
}

fn expect_visible(completion: Completion) -> String {
    match completion {
        Completion::Visible { etag } => etag,
        Completion::Lost => panic!("the output is lost, though nobody dropped it"),
    }
}

/// A staged output shows neither to reads nor in listings; then all of it does, with its metadata.
pub async fn output_is_invisible_until_it_is_complete(bucket: &Bucket) {
    let key = fresh_key("a/output");
    let (upload, part) = staged(bucket, &key, "token-1", "rows").await;
    assert_eq!((upload.key.as_str(), upload.token.as_str()), (key.as_str(), "token-1"));
    assert_eq!((part.number, part.size_bytes), (1, 4));
    assert_eq!(bucket.stage.head(&key).await.expect("head"), None, "a staged output shows");
    assert_eq!(listed(bucket, &key).await, Vec::<String>::new(), "a staged output is listed");

    let etag = expect_visible(bucket.stage.complete(&upload, &[part]).await.expect("complete"));
    let found = head(bucket, &key).await;
    assert_eq!((found.size_bytes, &found.etag), (4, &etag));
    assert_eq!(found.metadata, with_token("token-1"), "the metadata isn't what the upload was begun with");
    assert_eq!(content(bucket, &key).await, "rows");
    assert_eq!(listed(bucket, &key).await, [key], "the output isn't listed alone");
}

/// Completing twice gives the same answer.
pub async fn completing_again_is_harmless(bucket: &Bucket) {
    let key = fresh_key("output");
    let (upload, part) = staged(bucket, &key, "token-1", "rows").await;
    let first = bucket.stage.complete(&upload, std::slice::from_ref(&part)).await.expect("complete");
    let second = bucket.stage.complete(&upload, &[part]).await.expect("complete again");
    assert_eq!(first, second);
}

/// Two uploads of one key: the object is the last one's; the first, completed again, is lost.
pub async fn the_last_complete_wins_and_the_loser_is_told(bucket: &Bucket) {
    let key = fresh_key("output");
    let (one, one_part) = staged(bucket, &key, "token-1", "first").await;
    let (two, two_part) = staged(bucket, &key, "token-2", "second").await;
    expect_visible(bucket.stage.complete(&one, std::slice::from_ref(&one_part)).await.expect("complete one"));
    expect_visible(bucket.stage.complete(&two, std::slice::from_ref(&two_part)).await.expect("complete two"));
    assert_eq!(content(bucket, &key).await, "second");
    assert_eq!(bucket.stage.complete(&one, &[one_part]).await.expect("complete one again"), Completion::Lost);
    expect_visible(bucket.stage.complete(&two, &[two_part]).await.expect("complete two again"));
}

/// What was dropped can't be completed, and dropping it again is no error.
pub async fn aborted_output_is_lost(bucket: &Bucket) {
    let key = fresh_key("output");
    let (upload, part) = staged(bucket, &key, "token-1", "rows").await;
    bucket.stage.abort(&upload).await.expect("abort");
    bucket.stage.abort(&upload).await.expect("abort again");
    assert_eq!(bucket.stage.complete(&upload, &[part]).await.expect("complete"), Completion::Lost);
    assert_eq!(bucket.stage.head(&key).await.expect("head"), None, "a dropped output shows");
    let refused = bucket.stage.put_part(&upload, 1, Bytes::from_static(b"rows")).await;
    assert_eq!(refused.expect_err("a part of a dropped output").kind, ErrorKind::NotFound);
}

/// Dropping what is complete changes nothing.
pub async fn abort_after_complete_keeps_the_object(bucket: &Bucket) {
    let key = fresh_key("output");
    let (upload, part) = staged(bucket, &key, "token-1", "rows").await;
    bucket.stage.complete(&upload, std::slice::from_ref(&part)).await.expect("complete");
    bucket.stage.abort(&upload).await.expect("abort");
    assert_eq!(content(bucket, &key).await, "rows");
    expect_visible(bucket.stage.complete(&upload, &[part]).await.expect("complete again"));
}

/// Three parts, more than 10 MiB in all, read back as they were put.
pub async fn parts_of_twelve_mebibytes_read_back(bucket: &Bucket) {
    let key = fresh_key("output");
    let upload = bucket.stage.begin(&key, &with_token("token-1")).await.expect("begin");
    let mut expected = Vec::new();
    let mut parts = Vec::new();
    for (number, size) in [(1_u32, PART_MIN_BYTES), (2, PART_MIN_BYTES + 1), (3, 2 * 1024 * 1024 + 7)] {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8 ^ number as u8).collect();
        expected.extend_from_slice(&bytes);
        parts.push(bucket.stage.put_part(&upload, number, bytes.into()).await.expect("put_part"));
    }
    expect_visible(bucket.stage.complete(&upload, &parts).await.expect("complete"));
    assert!(content(bucket, &key).await == expected, "the parts don't read back as they were put");
}

/// The last part may be put again, with other bytes; only the one completed with counts.
pub async fn part_put_again_replaces(bucket: &Bucket) {
    let key = fresh_key("output");
    let (upload, first) = staged(bucket, &key, "token-1", "a longer first try").await;
    let part = bucket.stage.put_part(&upload, 1, Bytes::from_static(b"second")).await.expect("put_part again");
    let refused = bucket.stage.complete(&upload, &[first]).await;
    assert_eq!(refused.expect_err("a part that was replaced").kind, ErrorKind::Invalid);
    expect_visible(bucket.stage.complete(&upload, &[part]).await.expect("complete"));
    assert_eq!(content(bucket, &key).await, "second");
}

/// No parts at all, a part that was never put, and a small part before the last are all refused; the output can still
/// be completed rightly.
pub async fn wrong_parts_are_refused(bucket: &Bucket) {
    let key = fresh_key("output");
    let (upload, part) = staged(bucket, &key, "token-1", "small").await;
    let second = bucket.stage.put_part(&upload, 2, Bytes::from_static(b"last")).await.expect("put_part");
    let never = Part { number: 3, etag: part.etag.clone(), size_bytes: 5 };
    for (wrong, parts) in [
        ("no parts", vec![]),
        ("a part that was never put", vec![part.clone(), never]),
        ("a small part before the last", vec![part.clone(), second]),
    ] {
        let refused = bucket.stage.complete(&upload, &parts).await;
        assert_eq!(refused.expect_err(wrong).kind, ErrorKind::Invalid, "{wrong}");
    }
    expect_visible(bucket.stage.complete(&upload, &[part]).await.expect("complete"));
    assert_eq!(content(bucket, &key).await, "small");
}

/// Create-if-absent: one of two wins, and what it wrote stays.
pub async fn put_create_refuses_the_second(bucket: &Bucket) {
    let path = Path::from(fresh_key("manifest.json"));
    let create = |content: &'static str| {
        bucket.store.put_opts(&path, PutPayload::from_static(content.as_bytes()), PutMode::Create.into())
    };
    let (one, two) = futures::join!(create("first"), create("second"));
    let winner = match (&one, &two) {
        (Ok(_), Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => "first",
        (Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }), Ok(_)) => "second",
        _ => panic!("not one winner and one refusal: {one:?}, {two:?}"),
    };
    assert_eq!(content(bucket, path.as_ref()).await, winner);
    let third = create("third").await;
    assert!(third.is_err(), "a third create was taken: {third:?}");
    assert_eq!(content(bucket, path.as_ref()).await, winner);
}

/// A read with If-Match gets the version that it names, or none.
pub async fn reads_hold_to_the_etag(bucket: &Bucket) {
    let key = fresh_key("input");
    put(bucket, &key, "version 1").await;
    let etag = head(bucket, &key).await.etag;
    let if_match = |etag: &str| GetOptions::default().with_if_match(Some(etag.to_owned()));
    let read = bucket.store.get_opts(&Path::from(key.as_str()), if_match(&etag)).await.expect("get");
    assert_eq!(read.bytes().await.expect("bytes"), "version 1");

    put(bucket, &key, "version 2").await;
    let refused = bucket.store.get_opts(&Path::from(key.as_str()), if_match(&etag)).await;
    assert!(
        matches!(refused, Err(object_store::Error::Precondition { .. })),
        "a changed object was read under its old etag: {refused:?}"
    );
}

/// Ranges, also past the end and from the end.
pub async fn ranges_read_what_they_say(bucket: &Bucket) {
    let key = fresh_key("input");
    put(bucket, &key, "0123456789").await;
    for (range, expected) in [
        (GetRange::Bounded(2..5), "234"),
        (GetRange::Bounded(7..99), "789"),
        (GetRange::Offset(8), "89"),
        (GetRange::Suffix(3), "789"),
    ] {
        let options = GetOptions::default().with_range(Some(range.clone()));
        let read = bucket.store.get_opts(&Path::from(key.as_str()), options).await.expect("get");
        assert_eq!(read.bytes().await.expect("bytes"), expected, "{range}");
    }
}

/// A plain put replaces the metadata too.
pub async fn overwriting_changes_etag_and_metadata(bucket: &Bucket) {
    let key = fresh_key("output");
    let (upload, part) = staged(bucket, &key, "token-1", "rows").await;
    let etag = expect_visible(bucket.stage.complete(&upload, &[part]).await.expect("complete"));
    put(bucket, &key, "other rows").await;
    let found = head(bucket, &key).await;
    assert_ne!(found.etag, etag);
    assert_eq!(found.metadata, Metadata::new(), "an overwritten object shows the metadata of the one before");
}

/// Absent objects: HEAD says so, reads fail, deletes don't.
pub async fn what_is_not_there_is_not_found(bucket: &Bucket) {
    let path = Path::from(fresh_key("nothing"));
    assert_eq!(bucket.stage.head(path.as_ref()).await.expect("head"), None);
    assert!(matches!(bucket.store.get(&path).await, Err(object_store::Error::NotFound { .. })));
    bucket.store.delete(&path).await.expect("delete of what isn't there");
    put(bucket, path.as_ref(), "something").await;
    bucket.store.delete(&path).await.expect("delete");
    assert_eq!(bucket.stage.head(path.as_ref()).await.expect("head"), None, "a deleted object shows");
}

async fn source(bucket: &Bucket, key: &str) -> CopySource {
    let etag = head(bucket, key).await.etag;
    CopySource { bucket: bucket.name.clone(), key: key.to_owned(), etag, version: None }
}

/// A copy, from another bucket and within one, has the content and the metadata given; again makes no difference.
pub async fn copy_takes_content_and_new_metadata(bucket: &Bucket, sibling: &Bucket) {
    let key = fresh_key("input");
    put(bucket, &key, "lines").await;
    let source = source(bucket, &key).await;
    for target in [sibling, bucket] {
        let copy = fresh_key("quarantine/input@etag");
        for _ in 0..2 {
            target.stage.copy_from(&source, &copy, &with_token("token-1")).await.expect("copy_from");
            assert_eq!(content(target, &copy).await, "lines");
            assert_eq!(head(target, &copy).await.metadata, with_token("token-1"));
        }
    }
}

/// A copy of what has changed, or is gone, is refused.
pub async fn copy_holds_to_the_etag(bucket: &Bucket, sibling: &Bucket) {
    let key = fresh_key("input");
    put(bucket, &key, "lines").await;
    let source = source(bucket, &key).await;
    put(bucket, &key, "other lines").await;
    let copy = fresh_key("copy");
    let refused = sibling.stage.copy_from(&source, &copy, &Metadata::new()).await;
    assert_eq!(refused.expect_err("a copy of a changed object").kind, ErrorKind::PreconditionFailed);
    bucket.store.delete(&Path::from(key)).await.expect("delete");
    let refused = sibling.stage.copy_from(&source, &copy, &Metadata::new()).await;
    assert_eq!(refused.expect_err("a copy of nothing").kind, ErrorKind::NotFound);
    assert_eq!(sibling.stage.head(&copy).await.expect("head"), None, "a refused copy left something");
}
