//! A story in words.

use std::io::{self, Write};

use super::{Attempt, FileStory, ManifestStory, Next, Object, Step, Story};
use crate::words::plural;

/// Failed members of a manifest that are listed one by one.
const MEMBERS: usize = 20;

/// Writes a story for people.
pub fn tell(out: &mut dyn Write, story: &Story) -> io::Result<()> {
    for (index, file) in story.files.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        tell_file(out, file)?;
    }
    if let Some(manifest) = &story.manifest {
        tell_manifest(out, manifest, "")?;
        tell_next(out, &manifest.next)?;
    }
    for (queue, messages) in &story.dead_letters {
        writeln!(out, "\nDead letters in {queue}: {messages}. One of them may be about this:")?;
        writeln!(out, "  penstock redrive FILE --dlq {queue}   shows them")?;
    }
    Ok(())
}

fn tell_file(out: &mut dyn Write, story: &FileStory) -> io::Result<()> {
    let item = &story.item;
    let state = item.state().map_or(item.status.as_str(), |state| state.as_str());
    writeln!(out, "{}/{}  {state}", item.date_prefix, item.file_key)?;
    writeln!(out, "  object      {} ({} bytes, etag {})", item.file_path, item.size_bytes, or_none(&item.etag))?;
    match &story.object {
        Object::There { last_modified } => writeln!(out, "              there, written {}", time(last_modified))?,
        Object::Replaced { etag, last_modified } => {
            writeln!(out, "              replaced {} by etag {etag}", time(last_modified))?;
        }
        Object::Gone => writeln!(out, "              gone")?,
        Object::Elsewhere => writeln!(out, "              in another bucket than the pipeline's input")?,
    }
    match &item.sequencer {
        Some(sequencer) => writeln!(out, "  notified    by sequencer {sequencer}")?,
        None => writeln!(out, "  notified    by a listing: the sweep found it")?,
    }
    writeln!(out, "  tracked     {}", item.created_at)?;
    if let Some(since) = &item.pending_since {
        writeln!(out, "  pending     since {since}")?;
    }
    if let Some(copy) = &story.quarantined_as {
        writeln!(out, "  quarantined as {copy}")?;
    }
    if let Some(reason) = &item.error_message {
        writeln!(out, "  reason      {reason}")?;
    }
    tell_history(out, &story.history, "  ")?;
    if let Some(manifest) = &story.manifest {
        tell_manifest(out, manifest, "  ")?;
    } else if let Some(path) = &item.manifest_path {
        writeln!(out, "  manifest    {path}, which is not in the table")?;
    }
    for (token, result) in &story.results {
        match &result.failure {
            None => {
                writeln!(out, "  in attempt {token}: {} rows, {} rejected lines", result.rows, result.rejected_rows)?
            }
            Some(failure) => {
                let message = result.message.as_deref().unwrap_or_default();
                writeln!(out, "  in attempt {token}: failed, {failure}: {message}")?;
            }
        }
    }
    if !story.rejects.is_empty() {
        let all = item.rejected_rows.unwrap_or_default();
        writeln!(out, "  rejected lines ({} of {all}):", story.rejects.len())?;
        for reject in &story.rejects {
            writeln!(out, "    line {}: {}", reject["line"], reject["reason"].as_str().unwrap_or_default())?;
        }
    }
    tell_next(out, &story.next)
}

fn tell_manifest(out: &mut dyn Write, story: &ManifestStory, indent: &str) -> io::Result<()> {
    let item = &story.item;
    writeln!(out, "{indent}manifest {}  {}", item.id(), item.status)?;
    let reason = item.flush_reason.map_or("an unknown reason", |reason| reason.as_str());
    writeln!(out, "{indent}  made        {}, closed by {reason}", item.created_at)?;
    match story.listed {
        Some(files) => writeln!(out, "{indent}  JSON        {} lists {}", item.manifest_path, plural(files, "file"))?,
        None => writeln!(out, "{indent}  JSON        {} is not there", item.manifest_path)?,
    }
    match &item.announced_at {
        Some(at) => writeln!(out, "{indent}  announced   {at}")?,
        None => writeln!(out, "{indent}  announced   not yet")?,
    }
    for attempt in &story.attempts {
        tell_attempt(out, attempt, indent)?;
    }
    if item.attempt as usize > story.attempts.len() {
        writeln!(out, "{indent}  attempts    {} begun, {} left a report", item.attempt, story.attempts.len())?;
    }
    if let Some(holder) = &story.holder {
        writeln!(out, "{indent}  worked on   by {holder}")?;
    }
    for (uri, bytes) in &story.outputs {
        match bytes {
            Some(bytes) => writeln!(out, "{indent}  output      {uri} ({bytes} bytes)")?,
            None => writeln!(out, "{indent}  output      {uri} IS NOT THERE")?,
        }
    }
    if let (Some(rows), Some(rejects)) = (item.rows, item.rejected_rows) {
        let (corrupt, failed) = (corrupt(item.corrupt_rows.unwrap_or_default()), item.failed_files.unwrap_or_default());
        writeln!(out, "{indent}  result      {rows} rows{corrupt}, {rejects} rejected lines, {failed} failed files")?;
    }
    if let Some(error) = &item.error_message {
        writeln!(out, "{indent}  error       {error}")?;
    }
    if let Some(at) = &item.alerted_at {
        writeln!(out, "{indent}  alerted     {at}")?;
    }
    if let Some(at) = &item.settled_at {
        writeln!(out, "{indent}  settled     {at}")?;
    }
    tell_history(out, &story.history, indent)?;
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (_, state) in &story.members {
        *counts.entry(state.as_str()).or_default() += 1;
    }
    if !counts.is_empty() {
        let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
        writeln!(out, "{indent}  its files   {}", counts.join(", "))?;
        for (file_key, state) in story.members.iter().filter(|(_, state)| state == "failed").take(MEMBERS) {
            writeln!(out, "{indent}    {state} {}/{file_key}", item.date_prefix)?;
        }
    }
    Ok(())
}

fn tell_attempt(out: &mut dyn Write, attempt: &Attempt, indent: &str) -> io::Result<()> {
    let report = &attempt.report;
    let won = if attempt.won { "; it counts" } else { "; it doesn't count" };
    writeln!(
        out,
        "{indent}  attempt {}   {} to {}: {} rows{}, {} rejected lines, {} passes{won}",
        report.attempt,
        report.started_at,
        report.ended_at,
        report.rows,
        corrupt(report.corrupt_rows),
        report.rejected_rows,
        report.passes
    )
}

/// How many of some rows are corrupt, if any are.
fn corrupt(rows: u64) -> String {
    if rows == 0 { String::new() } else { format!(" ({rows} of them corrupt)") }
}

fn tell_history(out: &mut dyn Write, history: &[Step], indent: &str) -> io::Result<()> {
    for step in history {
        let status = step.status.as_deref().unwrap_or("gone");
        writeln!(out, "{indent}  {}  {} {status}: {}", time(&step.at), step.kind, step.changed.join(", "))?;
    }
    Ok(())
}

fn tell_next(out: &mut dyn Write, next: &Next) -> io::Result<()> {
    let late = if next.is_late { " LATE:" } else { "" };
    writeln!(out, "  next       {late} {}", next.step)?;
    writeln!(out, "              {}", next.because)
}

fn time(at: &chrono::DateTime<chrono::Utc>) -> String {
    penstock_engine::time::format_time(*at)
}

fn or_none(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("none")
}
