//! `penstock demo`: the whole pipeline on this machine, with a day of sample files.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Args;
use penstock_engine::cloud::local::{Owner, owner_now};

use super::{
    App, Exit,
    progress::Progress,
    run::{StopSignals, control},
    summary,
};
use crate::{
    facts::Facts,
    landing,
    loader::{Pipeline, load_text},
    observation::{self, Listen, Observation},
    sample::{Made, Sample},
    service::Service,
    token::Token,
};

/// The pipeline of the demo: the one that this program comes with.
const PIPELINE: &str = include_str!("../../ndjson-parquet.yaml");

/// A file that says that the demo made this folder, and may empty it.
const MARK: &str = ".penstock-demo";

/// Make a day of sample files, some of them wrong, and run them through the whole pipeline on this machine.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder to work in; emptied first, if an earlier demo made it.
    #[arg(long, value_name = "DIR", default_value = "data/demo")]
    dir: PathBuf,
    /// How many files to make.
    #[arg(long, default_value_t = 300)]
    files: usize,
    /// About how many lines each file has.
    #[arg(long, default_value_t = 500)]
    lines: usize,
    /// Stay up afterwards, with the dashboard, until Ctrl-C. It may act, with a token that is printed.
    #[arg(long)]
    serve: bool,
    /// Where --serve puts the dashboard: an address and a port. Without it that is 127.0.0.1:8650.
    #[arg(long, value_name = "ADDRESS", env = "PENSTOCK_LISTEN")]
    listen: Option<Listen>,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let dir = prepare(&arguments.dir)?;
    // The demo's own pace, unless the environment says otherwise: a person is waiting.
    let pace = |name: &str| match name {
        "PENSTOCK_MAX_FILES" => Some("50".to_owned()),
        "PENSTOCK_MAX_AGE" => Some("10s".to_owned()),
        _ => None,
    };
    let env = |name: &str| (app.env)(name).or_else(|| pace(name));
    let pipeline = load_text(Path::new("ndjson-parquet.yaml"), PIPELINE, &env, &app.registry)?;
    let sample = Sample {
        files: arguments.files,
        lines: arguments.lines,
        date: "2026-02-01".to_owned(),
        with_trouble: true,
        seed: 2026,
    };
    let made = sample.write(&dir.join("sample")).context("the sample files can't be written")?;
    writeln!(out, "Made {} files, {:.1} MB, in {}", made.files, made.bytes as f64 / 1e6, dir.join("sample").display())?;
    out.flush()?;

    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let began = Instant::now();
        let mut signals = StopSignals::listen()?;
        let token = new_token();
        let mut observation = Observation::begin(&pipeline, None, arguments.observe(&token)?).await?;
        let address = observation.address();
        if arguments.serve && address.is_none() {
            bail!("the dashboard has no address: choose one with --listen");
        }
        let service = Service::start(&pipeline, None, &dir, Arc::clone(&app.registry)).await?;
        let _control = control(&pipeline, &service)?;
        observation.running(&pipeline, &app.registry, service.home(), service.handle(), service.worker()).await?;
        let ended = async {
            let facts = tokio::select! {
                facts = convert(&pipeline, &service, &dir, &made) => facts?,
                () = signals.wait() => bail!("it was stopped before its end"),
            };
            summary::write(out, &facts, Some(&dir.join("s3")), began.elapsed())?;
            compare(&facts, &made)?;
            writeln!(
                out,
                "\nEvery good line is a row, every bad line a reject: {} and {}.",
                facts.rows(),
                made.rejects
            )?;
            writeln!(out, "Look around: penstock status pipelines/ndjson-parquet.yaml --local {}", dir.display())?;
            match address {
                Some(address) => {
                    writeln!(out, "Dashboard:   http://{address}/ until Ctrl-C; its actions take the token {token}")?;
                    out.flush()?;
                    signals.wait().await;
                }
                None => writeln!(out, "With --serve it stays up, and shows all this on a dashboard.")?,
            }
            Ok(())
        };
        let ended = ended.await;
        observation.stopping();
        let orderly = service.stop().await;
        observation.end().await;
        ended?;
        if !orderly {
            bail!("the service didn't stop in time");
        }
        Ok(Exit::Ok)
    })
}

impl Arguments {
    fn observe(&self, token: &str) -> anyhow::Result<observation::Options> {
        Ok(observation::Options {
            listen: if self.serve { self.listen } else { Some(Listen::Off) },
            token: Some(Token::new(token)?),
            ..observation::Options::default()
        })
    }
}

/// A token of actions for this run alone.
fn new_token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Lands the samples and waits until nothing is left to do.
async fn convert(pipeline: &Pipeline, service: &Service, dir: &Path, made: &Made) -> anyhow::Result<Facts> {
    let bucket_dir = landing::bucket_dir(dir, pipeline, "input");
    for file in landing::find(&dir.join("sample").display().to_string(), "landing/ndjson/")? {
        landing::land(&file, &bucket_dir)?;
    }
    let progress = Progress::new(made.files as u64);
    let facts = service.until_idle(|facts| progress.show(facts)).await;
    progress.finish();
    facts
}

/// What came out must be what went in.
fn compare(facts: &Facts, made: &Made) -> anyhow::Result<()> {
    if facts.rows() != made.rows.len() as u64 || facts.rejected_rows() != made.rejects as u64 {
        bail!(
            "the samples hold {} good and {} bad lines, but {} rows and {} rejects came out",
            made.rows.len(),
            made.rejects,
            facts.rows(),
            facts.rejected_rows()
        );
    }
    Ok(())
}

/// Makes the folder, or empties one that an earlier demo made. Anybody else's folder is left alone.
fn prepare(dir: &Path) -> anyhow::Result<PathBuf> {
    let is_empty = || fs::read_dir(dir).map(|mut entries| entries.next().is_none());
    if dir.exists() && !dir.join(MARK).exists() && !is_empty()? {
        bail!("{} holds something that no demo made: choose another folder with --dir", dir.display());
    }
    if let Some(Owner { pid, .. }) = owner_now(dir) {
        bail!("process {pid} runs a demo in {}: stop it first, or choose another folder with --dir", dir.display());
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("{} can't be emptied", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
    fs::write(dir.join(MARK), "penstock demo may empty this folder\n")?;
    Ok(dir.to_owned())
}
