//! What only a folder can be asked: crashes at each step, escapes from the root, files touched by hand.

use std::{fs, os::unix::fs::symlink, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutPayload};
use tempfile::TempDir;

use super::*;
use crate::cloud::{
    ErrorKind, Stage,
    conformance::stage as conformance,
    stage::{Completion, ObjectHead, Part, TOKEN, Upload},
};

fn folder() -> (TempDir, FolderBucket) {
    let cloud = tempfile::tempdir().unwrap();
    let bucket = reopen(&cloud);
    (cloud, bucket)
}

/// The bucket as another process would open it.
fn reopen(cloud: &TempDir) -> FolderBucket {
    FolderBucket::at(&cloud.path().join("bucket"), "bucket", Arc::<RecentEtags>::default()).unwrap()
}

fn token(token: &str) -> Metadata {
    Metadata::from([(TOKEN.to_owned(), token.to_owned())])
}

async fn staged(bucket: &FolderBucket, key: &str, content: &'static str) -> (Upload, Vec<Part>) {
    let upload = bucket.begin(key, &token("mine")).await.unwrap();
    let part = bucket.put_part(&upload, 1, Bytes::from_static(content.as_bytes())).await.unwrap();
    (upload, vec![part])
}

async fn head(bucket: &FolderBucket, key: &str) -> crate::cloud::Result<Option<ObjectHead>> {
    Stage::head(bucket, key).await
}

async fn all_keys(bucket: &FolderBucket) -> Vec<String> {
    let mut keys: Vec<_> = bucket.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_folder_is_a_bucket() {
    let cloud = tempfile::tempdir().unwrap();
    let open = |name: &str| FolderBucket::open(&cloud.path().join(name), name).unwrap();
    conformance::all(&open("input"), &open("quarantine")).await;
}

#[tokio::test]
async fn a_crash_at_any_instant_of_complete_can_be_completed_by_another_process() {
    for crash in ["after the sidecar", "after the rename", "after the removal of half the upload"] {
        let (cloud, bucket) = folder();
        let (upload, parts) = staged(&bucket, "out/part", "rows").await;
        let staging = bucket.folder().staging().join(&upload.id);
        let data = staging.join("data");
        let stamp = Stamp::of(&fs::metadata(&data).unwrap());
        let etag = etag::hash_bytes([&b"rows"[..]]);
        let next = sidecar::Described { stamp, etag, metadata: token("mine") };
        sidecar::Sidecar::announce(bucket.folder(), &upload.key, next, None).unwrap();
        if crash != "after the sidecar" {
            fs::create_dir(bucket.root().join("out")).unwrap();
            fs::rename(&data, bucket.root().join("out/part")).unwrap();
        }
        if crash == "after the removal of half the upload" {
            fs::remove_file(staging.join("upload.json")).unwrap();
        }
        let other = reopen(&cloud);
        for _ in 0..2 {
            let completion = other.complete(&upload, &parts).await.unwrap();
            assert!(matches!(completion, Completion::Visible { .. }), "{crash}: {completion:?}");
        }
        let head = head(&other, "out/part").await.unwrap().unwrap();
        assert_eq!((head.size_bytes, head.metadata), (4, token("mine")), "{crash}");
        assert_eq!(fs::read_dir(other.folder().staging()).unwrap().count(), 0, "{crash}: something stays staged");
    }
}

#[tokio::test]
async fn a_crash_before_the_rename_leaves_the_object_before_with_its_metadata() {
    let (cloud, bucket) = folder();
    let (first, parts) = staged(&bucket, "out", "first").await;
    bucket.complete(&first, &parts).await.unwrap();
    let second = bucket.begin("out", &token("other")).await.unwrap();
    let part = bucket.put_part(&second, 1, Bytes::from_static(b"second")).await.unwrap();
    let data = bucket.folder().staging().join(&second.id).join("data");
    let stamp = Stamp::of(&fs::metadata(data).unwrap());
    let present = Stamp::of(&fs::metadata(bucket.root().join("out")).unwrap());
    let next = sidecar::Described { stamp, etag: part.etag.clone(), metadata: token("other") };
    sidecar::Sidecar::announce(bucket.folder(), "out", next, Some(&present)).unwrap();

    let other = reopen(&cloud);
    assert_eq!(head(&other, "out").await.unwrap().unwrap().metadata, token("mine"));
    // Dropped in that state, it never was visible and can't be said to have been.
    other.abort(&second).await.unwrap();
    assert_eq!(other.complete(&second, &[part]).await.unwrap(), Completion::Lost);
    assert!(matches!(other.complete(&first, &parts).await.unwrap(), Completion::Visible { .. }));
}

#[tokio::test]
async fn damaged_staged_bytes_are_lost_not_shown() {
    let (_cloud, bucket) = folder();
    let (upload, parts) = staged(&bucket, "out", "rows").await;
    fs::write(bucket.folder().staging().join(&upload.id).join("data"), "ro\0\0").unwrap();
    assert_eq!(bucket.complete(&upload, &parts).await.unwrap(), Completion::Lost);
    assert_eq!(head(&bucket, "out").await.unwrap(), None);
}

#[tokio::test]
async fn parts_out_of_order_are_refused_with_the_reason() {
    let (_cloud, bucket) = folder();
    let upload = bucket.begin("out", &token("mine")).await.unwrap();
    let put = |number, content: &'static str| {
        let (bucket, upload) = (bucket.clone(), upload.clone());
        async move { bucket.put_part(&upload, number, Bytes::from_static(content.as_bytes())).await }
    };
    let error = put(2, "b").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.to_string().contains("part 2 came before part 1"), "{error}");
    put(1, "aa").await.unwrap();
    put(2, "b").await.unwrap();
    put(1, "cc").await.unwrap();
    assert_eq!(put(1, "ccc").await.unwrap_err().kind, ErrorKind::Invalid);
    put(2, "dddd").await.unwrap();
    assert_eq!(fs::read(bucket.folder().staging().join(&upload.id).join("data")).unwrap(), b"ccdddd");
    assert_eq!(bucket.begin("out", &Metadata::new()).await.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn no_key_leads_out_of_the_folder() {
    let (cloud, bucket) = folder();
    fs::write(cloud.path().join("secret"), "secret").unwrap();
    symlink(cloud.path().join("secret"), bucket.root().join("link")).unwrap();
    symlink(cloud.path(), bucket.root().join("folder-link")).unwrap();
    let long = "x".repeat(300);
    for key in
        ["../secret", "/etc/passwd", "a/../../secret", ".", "a//b", "a/", "", ".penstock/staging/x", "a\0b", &long]
    {
        for result in [head(&bucket, key).await.map(|_| ()), bucket.begin(key, &token("mine")).await.map(|_| ())] {
            let error = result.expect_err(key);
            assert_eq!(error.kind, ErrorKind::Invalid, "{key}: {error}");
        }
    }
    for key in ["link", "folder-link/secret"] {
        let error = bucket.get(&Path::from(key)).await.unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert!(bucket.put(&Path::from(key), PutPayload::from_static(b"x")).await.is_err());
    }
    assert_eq!(fs::read(cloud.path().join("secret")).unwrap(), b"secret");
    assert_eq!(all_keys(&bucket).await, Vec::<String>::new());
    let stranger = Upload { key: "a".to_owned(), id: "../../secret".to_owned(), token: "mine".to_owned() };
    assert_eq!(bucket.abort(&stranger).await.unwrap_err().kind, ErrorKind::Invalid);
    let source = crate::cloud::stage::CopySource {
        bucket: "..".to_owned(),
        key: "secret".to_owned(),
        etag: String::new(),
        version: None,
    };
    assert_eq!(bucket.copy_from(&source, "a", &Metadata::new()).await.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn the_etag_is_of_the_content() {
    let (cloud, bucket) = folder();
    let path = bucket.root().join("landing/a.ndjson");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "{}\n").unwrap();
    let etag = head(&bucket, "landing/a.ndjson").await.unwrap().unwrap().etag;
    assert_eq!(etag.len(), 32);

    // A touch, and another file with the same bytes.
    fs::File::options().append(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(head(&bucket, "landing/a.ndjson").await.unwrap().unwrap().etag, etag);
    fs::write(bucket.root().join("copy"), "{}\n").unwrap();
    fs::rename(bucket.root().join("copy"), &path).unwrap();
    assert_eq!(head(&reopen(&cloud), "landing/a.ndjson").await.unwrap().unwrap().etag, etag);

    // Other bytes of the same size, in place, at once: within one tick of the clock the stamp may stay.
    for content in ["[]\n", "{}\n", "12\n", "{}\n", "34\n", "{}\n"] {
        fs::write(&path, content).unwrap();
        let now = head(&bucket, "landing/a.ndjson").await.unwrap().unwrap().etag;
        assert_eq!(now == etag, content == "{}\n", "{content}");
    }
}

#[tokio::test]
async fn a_plain_read_hashes_nothing_and_a_conditional_one_only_once() {
    let (_cloud, bucket) = folder();
    fs::write(bucket.root().join("a"), "content").unwrap();
    tokio::time::sleep(2 * etag::TICK).await;
    let path = Path::from("a");
    assert_eq!(bucket.get(&path).await.unwrap().meta.e_tag, None);
    let etag = head(&bucket, "a").await.unwrap().unwrap().etag;
    let read = bucket.get(&path).await.unwrap();
    assert_eq!(read.meta.e_tag, Some(etag.clone()), "what is remembered is told");
    assert!(matches!(read.payload, GetResultPayload::File(..)));
    let quoted = GetOptions::default().with_if_match(Some(format!("\"{etag}\"")));
    assert_eq!(bucket.get_opts(&path, quoted).await.unwrap().bytes().await.unwrap(), "content");
}

#[tokio::test]
async fn hidden_things_stay_hidden_and_stale_ones_go() {
    let (cloud, bucket) = folder();
    let (upload, parts) = staged(&bucket, "a/b", "rows").await;
    bucket.complete(&upload, &parts).await.unwrap();
    let (_kept, _) = staged(&bucket, "a/c", "rows").await;
    let mut multipart = bucket.put_multipart(&Path::from("a/d")).await.unwrap();
    multipart.put_part(PutPayload::from_static(b"one ")).await.unwrap();
    assert_eq!(all_keys(&bucket).await, ["a/b"]);
    multipart.put_part(PutPayload::from_static(b"two")).await.unwrap();
    multipart.complete().await.unwrap();
    assert_eq!(bucket.get(&Path::from("a/d")).await.unwrap().bytes().await.unwrap(), "one two");
    assert_eq!(all_keys(&bucket).await, ["a/b", "a/d"]);
    let top = bucket.list_with_delimiter(None).await.unwrap();
    assert_eq!((top.common_prefixes, top.objects.len()), (vec![Path::from("a")], 0));
    let below = bucket.list_with_delimiter(Some(&Path::from("a"))).await.unwrap();
    assert_eq!((below.common_prefixes.len(), below.objects.len()), (0, 2));

    let later = SystemTime::now() + Duration::from_secs(8 * 24 * 3600);
    assert_eq!(bucket.folder().remove_stale(SystemTime::now()).unwrap(), 0);
    assert_eq!(bucket.folder().remove_stale(later).unwrap(), 1);
    assert_eq!(all_keys(&reopen(&cloud)).await, ["a/b", "a/d"]);
}

#[tokio::test]
async fn a_listing_knows_no_file_that_the_watch_would_not_announce() {
    let (_cloud, bucket) = folder();
    for key in ["a/b", "a/.hidden", ".folder/b", "a/b.tmp", "a/b.part", "a/b~"] {
        let path = bucket.root().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    assert_eq!(all_keys(&bucket).await, ["a/b"]);
    assert_eq!(bucket.list_with_delimiter(Some(&Path::from("a"))).await.unwrap().objects.len(), 1);
}

#[tokio::test]
async fn a_key_that_is_the_beginning_of_another_is_refused_with_the_reason() {
    let (_cloud, bucket) = folder();
    let (early, parts) = staged(&bucket, "a", "rows").await;
    bucket.put(&Path::from("a/b"), PutPayload::from_static(b"1")).await.unwrap();
    // What could never be completed isn't begun.
    for key in ["a", "a/b/c", "a/b/c/d"] {
        let error = bucket.begin(key, &token("mine")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().contains("choose another key"), "{error}");
    }
    let error = bucket.complete(&early, &parts).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.to_string().contains("choose another key"), "{error}");
    assert_eq!(head(&bucket, "a").await.unwrap(), None);
}

#[test]
fn stamps_read_back() {
    let stamp = Stamp { inode: 17, mtime_ns: 1_700_000_000_123_456_789, size_bytes: 0 };
    assert_eq!(stamp.to_string().parse(), Ok(stamp));
    assert!("1-2".parse::<Stamp>().is_err());
}

#[test]
fn full_disks_and_closed_folders_are_told_apart() {
    use std::io::{Error, ErrorKind as Io};
    let kind = |io: Io| CloudError::from(failure::failed("write", FilePath::new("/b/key"), Error::from(io)));
    for (io, expected) in [
        (Io::StorageFull, ErrorKind::Unavailable),
        (Io::PermissionDenied, ErrorKind::Denied),
        (Io::ReadOnlyFilesystem, ErrorKind::Denied),
        (Io::NotFound, ErrorKind::NotFound),
    ] {
        let error = kind(io);
        assert_eq!(error.kind, expected);
        assert!(error.to_string().contains("/b/key"), "{error}");
    }
}
