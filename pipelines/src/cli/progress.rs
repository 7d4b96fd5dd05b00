//! Progress on a terminal: bars while a pipeline works, and nothing where nobody looks.

use std::{io::IsTerminal, time::Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use penstock_operators::model::{FileState, ManifestState};

use crate::facts::Facts;

/// Bars for files, manifests and rows.
pub struct Progress {
    files: ProgressBar,
    manifests: ProgressBar,
    rows: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Bars towards `expected` files; hidden if stderr is no terminal.
    pub fn new(expected: u64) -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        let add = |template: &str, length: u64| {
            let bar = bars.add(ProgressBar::new(length));
            // A template that can't be read leaves the default bar: only looks are lost.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        };
        Self {
            files: add("files     {bar:40} {pos}/{len} final  {msg}", expected),
            manifests: add("manifests {bar:40} {pos}/{len} done", 0),
            rows: add("rows      {pos}  {msg}", 0),
            started: Instant::now(),
        }
    }

    /// Shows how it stands.
    pub fn show(&self, facts: &Facts) {
        let last = [FileState::Completed, FileState::Failed, FileState::Quarantined].map(|state| facts.files(state));
        self.files.set_length(self.files.length().unwrap_or_default().max(facts.all_files()));
        self.files.set_position(last.iter().sum());
        self.files.set_message(format!("{} landed", facts.all_files()));
        let done = facts.manifests(ManifestState::Completed) + facts.manifests(ManifestState::Failed);
        let all: u64 = ManifestState::ALL.map(|state| facts.manifests(state)).iter().sum();
        self.manifests.set_length(all);
        self.manifests.set_position(done);
        self.rows.set_position(facts.rows());
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        self.rows.set_message(format!("{:.1} MB/s", facts.bytes() as f64 / 1e6 / seconds));
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        for bar in [&self.files, &self.manifests, &self.rows] {
            bar.finish_and_clear();
        }
    }
}
