//! What a run came to: files, rows, trouble with its reasons, and the Parquet that came out.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use penstock_operators::model::{FileState, ManifestState};

use crate::facts::{Facts, Trouble};

/// Troubles that are listed one by one.
const MAX_TROUBLES: usize = 20;
/// Columns and rows of the sample of a Parquet file, and characters of a cell.
const SAMPLE: (usize, usize, usize) = (8, 3, 24);

/// Writes what a run came to. `s3` is the folder that holds the buckets, if they are on this machine.
pub fn write(out: &mut dyn Write, facts: &Facts, s3: Option<&Path>, took: Duration) -> anyhow::Result<()> {
    writeln!(out)?;
    for (date, of_date) in &facts.dates {
        of_date.tell(date, facts.is_floor, out)?;
    }
    troubles(out, "Files in quarantine", facts.troubled_files.iter().filter(|trouble| trouble.state == "quarantined"))?;
    troubles(out, "Files that failed", facts.troubled_files.iter().filter(|trouble| trouble.state == "failed"))?;
    troubles(out, "Manifests that failed", facts.failed_manifests.iter())?;
    troubles(out, "Manifests whose outputs can't be made visible for now", facts.stuck_manifests.iter())?;
    troubles(out, "Items that can't be read", facts.unreadable.iter())?;
    let seconds = took.as_secs_f64().max(0.001);
    writeln!(
        out,
        "\n{} files, {:.1} MB in {seconds:.1} s: {:.0} files/s, {:.1} MB/s.",
        facts.all_files(),
        facts.bytes() as f64 / 1e6,
        facts.all_files() as f64 / seconds,
        facts.bytes() as f64 / 1e6 / seconds,
    )?;
    let Some(s3) = s3 else {
        for output in &facts.outputs {
            writeln!(out, "Parquet: {output}")?;
        }
        return Ok(());
    };
    if facts.rejected_rows() > 0 {
        writeln!(out, "Rejected lines, with file, line and reason: {}", below(s3, "quarantine", "rejects").display())?;
    }
    parquet(out, facts, s3)
}

/// How many files and manifests failed, or can't be read.
pub fn failures(facts: &Facts) -> u64 {
    let stuck = facts.stuck_manifests.len() as u64;
    let unreadable = facts.unreadable.len() as u64;
    facts.files(FileState::Failed) + facts.manifests(ManifestState::Failed) + stuck + unreadable
}

fn troubles<'a>(out: &mut dyn Write, title: &str, troubles: impl Iterator<Item = &'a Trouble>) -> anyhow::Result<()> {
    let troubles: Vec<&Trouble> = troubles.collect();
    if troubles.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}: {}", troubles.len())?;
    for trouble in troubles.iter().take(MAX_TROUBLES) {
        writeln!(out, "  {}/{}  {}", trouble.date, trouble.key, trouble.reason)?;
    }
    if troubles.len() > MAX_TROUBLES {
        writeln!(out, "  … and {} more: `penstock status --json` lists them all", troubles.len() - MAX_TROUBLES)?;
    }
    Ok(())
}

/// The folder of a bucket whose full name holds `component`, and a path in it.
fn below(s3: &Path, component: &str, path: &str) -> PathBuf {
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().contains(&format!("-{component}-"));
    let found = std::fs::read_dir(s3).ok().and_then(|entries| entries.flatten().find(named).map(|entry| entry.path()));
    found.unwrap_or_else(|| s3.to_owned()).join(path)
}

fn parquet(out: &mut dyn Write, facts: &Facts, s3: &Path) -> anyhow::Result<()> {
    let Some(first) = facts.outputs.first() else {
        writeln!(out, "No Parquet: there was no row.")?;
        return Ok(());
    };
    let paths: Vec<PathBuf> = facts.outputs.iter().map(|uri| s3.join(uri.trim_start_matches("s3://"))).collect();
    let folder = paths[0].parent().unwrap_or(s3);
    writeln!(out, "\nParquet: {} files, {} rows, in {}", paths.len(), facts.rows(), folder.display())?;
    let path = s3.join(first.trim_start_matches("s3://"));
    let file = File::open(&path).with_context(|| format!("{} can't be read", path.display()))?;
    let reader = SerializedFileReader::new(file).with_context(|| format!("{} is no Parquet", path.display()))?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let names: Vec<&str> = schema.columns().iter().map(|column| column.name()).collect();
    let listed: Vec<String> = names.iter().map(|name| cell(name).trim_end().to_owned()).collect();
    writeln!(out, "Schema: {} columns, all strings: {}", names.len(), listed.join(", "))?;
    writeln!(out, "First rows of {}:", path.file_name().unwrap_or_default().to_string_lossy())?;
    let (columns, rows, _) = SAMPLE;
    let shown: Vec<String> = names.iter().take(columns).map(|name| cell(name)).collect();
    writeln!(out, "  {}", shown.join("  "))?;
    for row in reader.get_row_iter(None)?.take(rows) {
        let row = row?;
        let cells = row.get_column_iter().take(columns).map(|(_, field)| match field {
            Field::Null => cell("null"),
            Field::Str(text) => cell(text),
            other => cell(&other.to_string()),
        });
        writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  "))?;
    }
    Ok(())
}

fn cell(text: &str) -> String {
    let width = SAMPLE.2;
    // A tab or a line end would break the table, an escape the terminal.
    let text: String = text.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
    let short: String = if text.chars().count() > width {
        text.chars().take(width - 1).chain(['…']).collect()
    } else {
        text.to_owned()
    };
    format!("{short:<width$}")
}
