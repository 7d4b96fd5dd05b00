//! `penstock convert`: just the conversion, from files to one Parquet file.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use penstock_engine::units;
use penstock_operators::convert::{
    Cast, ColumnCase, Compression, ConvertOptions, FileOutcome, InputFile, Progress, convert_files, look_at,
};
use tokio_util::sync::CancellationToken;

use super::Exit;

/// Convert NDJSON files to one Parquet file in which every column is a string.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Files or patterns, also .gz and .zst; `-` is stdin.
    #[arg(value_name = "FILES", required = true)]
    files: Vec<String>,
    /// The Parquet file to write. Rejected lines go beside it, into `{OUT}.rejects.ndjson`.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// How values become text: as they stood, or as Spark 3.3 printed them (docs/convert.md).
    #[arg(long, value_enum, default_value_t = CastName::Lossless)]
    cast: CastName,
    /// How pages are compressed.
    #[arg(long, value_enum, default_value_t = Codec::Snappy)]
    compression: Codec,
    /// How hard the codec tries: gzip 0 to 9, brotli 0 to 11, zstd 1 to 22.
    #[arg(long, value_name = "LEVEL")]
    compression_level: Option<u32>,
    /// Lower-case the names of columns.
    #[arg(long)]
    lower_case: bool,
    /// A file fails when more than this share of its lines is rejected.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    max_reject_ratio: f64,
    /// Memory for encoding, read-ahead included.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::parse_size)]
    memory_limit: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CastName {
    Lossless,
    Spark,
}

impl From<CastName> for Cast {
    fn from(cast: CastName) -> Self {
        match cast {
            CastName::Lossless => Self::Lossless,
            CastName::Spark => Self::Spark,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Codec {
    None,
    Snappy,
    Zstd,
    Lz4,
    Gzip,
    Brotli,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::Uncompressed,
            Codec::Snappy => Self::Snappy,
            Codec::Zstd => Self::Zstd,
            Codec::Lz4 => Self::Lz4,
            Codec::Gzip => Self::Gzip,
            Codec::Brotli => Self::Brotli,
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let spool = Spool::new(&arguments.output);
    let files = find(&arguments.files, &spool)?;
    let (count, bytes) = (files.len(), files.iter().map(|file| file.size_bytes).sum::<u64>());
    let options = ConvertOptions {
        cast: arguments.cast.into(),
        compression: arguments.compression.into(),
        compression_level: arguments.compression_level,
        column_case: if arguments.lower_case { ColumnCase::Lower } else { ColumnCase::Preserve },
        max_reject_ratio: arguments.max_reject_ratio,
        memory_limit_bytes: arguments.memory_limit,
        ..ConvertOptions::default()
    };
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    let converted = runtime.block_on(async {
        let (progress, cancel, bar) = (Progress::default(), CancellationToken::new(), bar(bytes));
        let converting = convert_files(files, &arguments.output, &options, &progress, &cancel);
        tokio::pin!(converting);
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let converted = loop {
            tokio::select! {
                converted = &mut converting => break converted,
                _ = ticks.tick() => bar.set_position(progress.bytes_read()),
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted.context("SIGINT can't be listened for")?;
                    cancel.cancel();
                }
            }
        };
        bar.finish_and_clear();
        anyhow::Ok(converted?)
    })?;
    let seconds = began.elapsed().as_secs_f64().max(0.001);
    let failed: Vec<_> = converted
        .files
        .iter()
        .filter_map(|file| match file {
            FileOutcome::Failed { file_key, reason, message } => Some((file_key, reason.as_str(), message)),
            FileOutcome::Converted { .. } => None,
        })
        .collect();
    for (file, reason, message) in &failed {
        writeln!(io::stderr(), "penstock: {file} failed ({reason}): {message}")?;
    }
    let corrupt = match converted.corrupt_rows {
        0 => String::new(),
        rows => format!(" ({rows} of them corrupt)"),
    };
    writeln!(
        out,
        "{} rows{corrupt}, {} columns, {} rejected lines from {} files in {seconds:.1} s ({:.1} MB/s): {}",
        converted.rows,
        converted.columns.len(),
        converted.rejected_rows,
        count - failed.len(),
        bytes as f64 / 1e6 / seconds,
        said_of(&arguments.output, !converted.parts.is_empty()),
    )?;
    Ok(if failed.is_empty() { Exit::Ok } else { Exit::Troubled })
}

/// Where the rows are, if there are any.
fn said_of(output: &Path, is_written: bool) -> String {
    let name = output.display();
    if is_written {
        name.to_string()
    } else if output.exists() {
        format!("no row, no output; {name} is still the one of before")
    } else {
        "no row, no output".to_owned()
    }
}

/// The files that are meant.
fn find(patterns: &[String], spool: &Spool) -> anyhow::Result<Vec<InputFile>> {
    let mut paths = Vec::new();
    // Which of the paths each pattern brought: it must have brought a file.
    let mut brought = Vec::new();
    for pattern in patterns {
        if pattern == "-" {
            paths.push(spool.fill(&mut io::stdin().lock())?);
        } else if Path::new(pattern).is_file() {
            // A name with brackets is a name first.
            paths.push(PathBuf::from(pattern));
        } else {
            let matches = glob::glob(pattern).with_context(|| format!("`{pattern}` is no pattern of files"))?;
            let begin = paths.len();
            for path in matches {
                paths.push(path.context("a folder can't be read")?);
            }
            brought.push((pattern, begin..paths.len()));
        }
    }
    let found = look_at(&paths)?;
    if let Some((pattern, _)) = brought.into_iter().find(|(_, paths)| found[paths.clone()].iter().all(Option::is_none))
    {
        bail!("no file matches `{pattern}`");
    }
    Ok(found.into_iter().flatten().collect())
}

fn bar(bytes: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    // A template that can't be read leaves the default bar: only looks are lost.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}") {
        bar.set_style(style);
    }
    bar
}

/// Stdin on disk, beside the output, for as long as the conversion takes: it may have to be read more than once.
struct Spool(PathBuf);

impl Spool {
    fn new(output: &Path) -> Self {
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self(folder.join(format!(".penstock-stdin-{:08x}.ndjson", rand::random::<u32>())))
    }

    fn fill(&self, input: &mut dyn io::Read) -> anyhow::Result<PathBuf> {
        let failed = || format!("stdin can't be kept in {}", self.0.display());
        let mut file = File::create_new(&self.0).with_context(failed)?;
        io::copy(input, &mut file).with_context(failed)?;
        Ok(self.0.clone())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = std::fs::remove_file(&self.0)
        {
            tracing::warn!(file = %self.0.display(), %error, "A file with stdin's content was left behind.");
        }
    }
}
