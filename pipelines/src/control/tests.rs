use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use penstock_engine::cloud::local::{LocalCloud, LocalOptions};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{protocol::*, *};
use crate::loader::{Pipeline, load};

struct Bed {
    dir: tempfile::TempDir,
    pipeline: Arc<Pipeline>,
}

impl Bed {
    fn new() -> Self {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ndjson-parquet.yaml");
        let pipeline = load(&file, &|_| None, &penstock_operators::registry()).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), pipeline: Arc::new(pipeline) }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder's cloud, owned by this process, and the socket that it serves.
    fn own(&self, dir: &Path) -> (Arc<LocalCloud>, Control) {
        let naming = self.pipeline.naming.clone();
        let cloud = LocalCloud::open(dir, naming, &self.pipeline.resources, LocalOptions::default()).unwrap();
        let hands =
            Hands::new(Arc::clone(&cloud) as Arc<dyn penstock_engine::cloud::Cloud>, Arc::clone(&self.pipeline), None);
        let control = Control::serve(dir, hands).unwrap();
        (cloud, control)
    }
}

async fn say(dir: &Path, bytes: &[u8]) -> Line {
    let mut stream = UnixStream::connect(dir.join(SOCKET)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn a_command_is_carried_out_by_the_owner() {
    let bed = Bed::new();
    let (_cloud, _control) = bed.own(bed.dir());
    let mode = fs_mode(&bed.dir().join(SOCKET));
    assert_eq!(mode, 0o600, "others could command it");
    let client = Client::connect(bed.dir()).await.unwrap().unwrap();
    let told = client.ask(&Command::Hello {}).await.unwrap();
    assert_eq!((&told["pid"], &told["pipeline"]), (&json!(std::process::id()), &json!("ndjson-parquet")));
    let client = Client::connect(bed.dir()).await.unwrap().unwrap();
    let error = client.ask(&Command::Flush { date: "2026-02-30".to_owned() }).await.unwrap_err();
    assert_eq!(error.to_string(), "`2026-02-30` is no date: write it as YYYY-MM-DD");
}

fn fs_mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_is_no_request_of_this_version_is_refused_with_words() {
    let bed = Bed::new();
    let (_cloud, _control) = bed.own(bed.dir());
    for (sent, words) in [
        (&br#"{"version":2,"command":{"unheard_of":{}}}"#[..], "speaks version 1 of the control protocol, and you 2"),
        (br#"{"version":1,"command":{"unheard_of":{}}}"#, "no such request"),
        (br#"{"version":1,"command":{"hello":{}},"more":1}"#, "no such request"),
        (b"hello", "can't be understood"),
    ] {
        let line = say(bed.dir(), &[sent, b"\n"].concat()).await;
        assert!(matches!(&line, Line::Failed(why) if why.contains(words)), "{line:?}");
    }
}

#[tokio::test]
async fn i9_a_request_without_end_is_refused_at_its_bound() {
    let bed = Bed::new();
    let (_cloud, _control) = bed.own(bed.dir());
    let mut stream = UnixStream::connect(bed.dir().join(SOCKET)).await.unwrap();
    let chunk = vec![b' '; MAX_REQUEST_BYTES as usize + 1];
    stream.write_all(&chunk).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("longer than"), "{answer}");
}

#[tokio::test]
async fn the_socket_of_a_killed_owner_is_no_owner_and_is_replaced() {
    let bed = Bed::new();
    // What kill -9 leaves: a socket that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(bed.dir().join(SOCKET)).unwrap());
    assert!(bed.dir().join(SOCKET).exists());
    assert!(Client::connect(bed.dir()).await.unwrap().is_none());
    let (_cloud, control) = bed.own(bed.dir());
    assert!(Client::connect(bed.dir()).await.unwrap().is_some());
    drop(control);
    assert!(!bed.dir().join(SOCKET).exists(), "an owner that stops takes its socket away");
    assert!(Client::connect(bed.dir()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_folder_may_lie_deep() {
    let bed = Bed::new();
    let deep = bed.dir().join("d".repeat(90)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    let (_cloud, _control) = bed.own(&deep);
    assert!(deep.join(SOCKET).exists());
    assert!(Client::connect(&deep).await.unwrap().is_some());
}

#[tokio::test]
async fn a_line_is_read_whole_or_not_at_all() {
    let mut cut = std::io::Cursor::new(br#"{"done":1}"#);
    let error = read_line::<Line>(&mut cut, 100).await.unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    assert_eq!(read_line::<Line>(&mut std::io::Cursor::new(b""), 100).await.unwrap(), None);
}
