//! How people and programs are told what is wrong with a file.
//!
//! ```text
//! pipeline.yaml:12:5: transforms.fold.max_flies: unknown field, did you mean `max_files`?
//!    12 |     max_flies: 10
//!       |     ^^^^^^^^^
//! ```

use std::{fmt, path::PathBuf};

use penstock_engine::graph::Severity;
use serde::Serialize;

use super::tree::Place;

/// All that is wrong with a pipeline's file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct LoadErrors {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, in the order of the file. Warnings too.
    pub reports: Vec<Report>,
}

impl LoadErrors {
    /// All reports as people read them, with colours if they can be shown.
    pub fn render(&self, colours: bool) -> String {
        let file = self.file.display().to_string();
        self.reports.iter().map(|report| report.render(&file, colours)).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `error` or `warning`.
    #[serde(serialize_with = "severity_word")]
    pub severity: Severity,
    /// A stable word for what is wrong.
    pub code: &'static str,
    /// The line, from 1, if it is about one.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// The path in the YAML; empty for the whole file.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// The line and a mark under what the report is about.
    #[serde(skip)]
    pub excerpt: Option<Excerpt>,
}

/// A line of the file, and what to mark in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Excerpt {
    /// The line, or the part of a long one around the mark.
    pub text: String,
    /// Characters before the mark.
    pub before: usize,
    /// Characters marked.
    pub marked: usize,
}

/// Characters of a line that are shown around a mark.
const SHOWN: usize = 100;

impl Excerpt {
    /// The excerpt of a place, if it lies in the text.
    pub fn new(text: &str, place: Place) -> Option<Self> {
        let line: Vec<char> = text.lines().nth(place.line.checked_sub(1)?)?.chars().collect();
        let at = place.column.saturating_sub(1).min(line.len());
        let marked = place.width.min(line.len().saturating_sub(at)).clamp(1, SHOWN);
        let from = if line.len() > SHOWN { at.saturating_sub(SHOWN / 2) } else { 0 };
        let shown: String = line[from..].iter().take(2 * SHOWN).map(|c| if *c == '\t' { ' ' } else { *c }).collect();
        Some(Self { text: printable(&shown), before: at - from, marked })
    }
}

impl Report {
    /// A report without a place: about the whole file.
    pub fn whole_file(code: &'static str, message: String) -> Self {
        let severity = Severity::Error;
        Self { severity, code, line: None, column: None, path: String::new(), message, excerpt: None }
    }

    /// The report as people read it, with colours if they can be shown.
    pub fn render(&self, file: &str, colours: bool) -> String {
        let paint = |colour: &str, text: &str| {
            if colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let colour = if self.severity == Severity::Error { "1;31" } else { "1;33" };
        let mut place = printable(file);
        if let (Some(line), Some(column)) = (self.line, self.column) {
            place.push_str(&format!(":{line}:{column}"));
        }
        let severity = match self.severity {
            Severity::Error => String::new(),
            Severity::Warning => paint(colour, "warning: "),
        };
        let path = if self.path.is_empty() { String::new() } else { paint(colour, &printable(&self.path)) + ": " };
        let mut text = format!("{}: {severity}{path}{}\n", paint("1", &place), printable(&self.message));
        if let (Some(excerpt), Some(line)) = (&self.excerpt, self.line) {
            let mark = format!("{}{}", " ".repeat(excerpt.before), paint(colour, &"^".repeat(excerpt.marked)));
            text.push_str(&format!("{line:>5} | {}\n      | {mark}\n", excerpt.text));
        }
        text
    }
}

/// The text without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn severity_word<S: serde::Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    })
}
