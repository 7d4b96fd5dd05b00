//! What being watched costs: the same work with and without metrics, pages and somebody who looks at them.
//!
//! `cargo bench -p penstock-tests --bench overhead -- --pairs 7`. Each run is a process of its own, because a recorder stays
//! for a process's life. Runs take turns, so that what else the machine does meets both alike; the ratio of the two of a pair
//! is what counts, and the median of the ratios is told. Watched means: a recorder, the roll-up, the history, and a
//! person and a Prometheus who ask for the overview, the charts and `/metrics` every second: more often than either does.
//!
//! Then it fills a recorder with 1,000 shards and times scrapes of it over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use penstock::{
    landing,
    loader::load,
    observation::{Listen, Observation, Options},
    service::Service,
    telemetry,
};
use penstock_engine::{
    http,
    monitor::{About, Monitor},
    time::Clock,
};
use penstock_operators::model::FileState;
use penstock_tests::place::{DATE, INPUT_PREFIX, pipeline_file};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Compares work that is watched with work that isn't.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many files.
    #[arg(long, default_value_t = 3000)]
    files: usize,
    /// About how many bytes each.
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    /// How many pairs of runs.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// One run, in this process: prints its seconds.
    #[arg(long, hide = true)]
    one: Option<String>,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(kind) = &arguments.one {
        let seconds = run(&arguments, kind == "watched")?;
        println!("{seconds}");
        return Ok(());
    }
    let mut ratios = Vec::new();
    for pair in 0..arguments.pairs {
        // Who goes first takes turns too.
        let order = if pair % 2 == 0 { ["alone", "watched"] } else { ["watched", "alone"] };
        let mut seconds = order.map(|kind| one(&arguments, kind));
        if pair % 2 == 1 {
            seconds.reverse();
        }
        let [alone, watched] = seconds;
        println!("alone {alone:.2} s, watched {watched:.2} s: {:+.1} %", (watched / alone - 1.0) * 100.0);
        ratios.push(watched / alone);
    }
    println!("watched over alone, median of {} pairs: {:+.1} %", ratios.len(), (median(ratios) - 1.0) * 100.0);
    let scrapes = tokio::runtime::Runtime::new()?.block_on(scrapes(1000))?;
    println!("scrape of 1,000 shards, over HTTP: median {:.1} ms", median(scrapes) * 1e3);
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A run in a process of its own.
fn one(arguments: &Arguments, kind: &str) -> f64 {
    let (files, bytes) = (arguments.files.to_string(), arguments.bytes.to_string());
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--one", kind, "--files", &files, "--bytes", &bytes]).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    assert!(output.status.success(), "a run failed");
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn run(arguments: &Arguments, watched: bool) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    make_files(&dir.path().join("files"), arguments)?;
    let registry = Arc::new(penstock::registry());
    let pipeline = load(&pipeline_file(), &|_| None, &registry)?;
    let files = landing::find(&dir.path().join("files").display().to_string(), INPUT_PREFIX)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut observation = None;
        if watched {
            let listen = Some(Listen::At("127.0.0.1:0".parse()?));
            let options = Options { listen, ..Options::default() };
            observation = Some(Observation::begin(&pipeline, None, options).await?);
        }
        let service = Service::start(&pipeline, None, &dir.path().join("cloud"), Arc::clone(&registry)).await?;
        let looking = CancellationToken::new();
        if let Some(observation) = &mut observation {
            let address = observation.address().expect("it listens");
            observation.running(&pipeline, &registry, service.home(), service.handle(), service.worker()).await?;
            tokio::spawn(look(address, looking.clone()));
        }
        let bucket = landing::bucket_dir(&dir.path().join("cloud"), &pipeline, "input");
        let began = Instant::now();
        tokio::task::spawn_blocking(move || files.iter().try_for_each(|file| landing::land(file, &bucket))).await??;
        let facts = service.until_idle(|_| {}).await?;
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!(facts.files(FileState::Completed), arguments.files as u64, "not every file was completed");
        looking.cancel();
        service.stop().await;
        if let Some(observation) = observation {
            observation.end().await;
        }
        Ok(seconds)
    })
}

/// A person and a Prometheus.
async fn look(address: SocketAddr, stop: CancellationToken) {
    while !stop.is_cancelled() {
        for path in ["/api/overview.json", "/api/history.json", "/metrics"] {
            get(address, path).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Asks, and tells how many bytes came.
async fn get(address: SocketAddr, path: &str) -> usize {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer));
    answer.len()
}

/// The seconds of scrapes of a process that reads so many shards.
async fn scrapes(shards: usize) -> anyhow::Result<Vec<f64>> {
    let about = About {
        version: "0",
        pipeline: "bench".to_owned(),
        env: "test".to_owned(),
        service: "all".to_owned(),
        digest: String::new(),
        started_at: String::new(),
    };
    let monitor = Monitor::new(about, telemetry::install()?, Clock::system());
    let (listener, address) = http::listen("127.0.0.1:0".parse()?).await?;
    let stop = CancellationToken::new();
    tokio::spawn(http::serve(listener, http::bounded(http::routes(monitor), address), stop.clone()));
    let mut seconds = Vec::new();
    for round in 0..51 {
        let began = Instant::now();
        // What a process with so many shards sets before it renders.
        for shard in 0..shards {
            let labels =
                [("table", "sqs-file-tracking".to_owned()), ("shard", format!("shardId-{shard:020}-{shard:08x}"))];
            metrics::gauge!("penstock_stream_shard_lag_seconds", &labels).set(f64::from(round));
        }
        let bytes = get(address, "/metrics").await;
        assert!(bytes > 50 * shards, "{bytes} bytes are no {shards} shards");
        seconds.push(began.elapsed().as_secs_f64());
    }
    stop.cancel();
    Ok(seconds)
}

fn make_files(folder: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let folder = folder.join(DATE);
    fs::create_dir_all(&folder)?;
    for number in 0..arguments.files {
        let mut text = Vec::with_capacity(arguments.bytes + 200);
        while text.len() < arguments.bytes {
            let line = text.len();
            writeln!(
                text,
                r#"{{"id":"{number}-{line}","timestamp":"{DATE}T12:00:00Z","city":"Zürich","tags":["a","b"]}}"#
            )?;
        }
        fs::write(folder.join(format!("events-{number:06}.ndjson")), text)?;
    }
    Ok(())
}
