//! The metrics of the whole program, from the catalogues of its crates.

use penstock_engine::telemetry::{self, Metric, Telemetry};

/// The catalogue of each crate.
pub const CATALOGUES: [&[Metric]; 3] = [telemetry::catalogue::METRICS, penstock_operators::telemetry::METRICS, METRICS];

/// The metrics of the program itself.
const METRICS: &[Metric] = &[
    Metric::counter(
        "penstock_control_requests_total",
        &["outcome"],
        "Requests over the control socket: done, failed, not_accepted.",
    ),
    Metric::counter(
        "penstock_tap_records_total",
        &["result"],
        "Records that passed an operator while somebody looked: shown, skipped (they passed too fast).",
    ),
    Metric::counter("penstock_taps_refused_total", &[], "Looks at records over HTTP that were refused."),
];

/// Installs the recorder of this process.
pub fn install() -> anyhow::Result<Telemetry> {
    Telemetry::install(&CATALOGUES).map_err(|error| anyhow::anyhow!("metrics can't be recorded: {error}"))
}

/// The reference of all metrics, as a Markdown table.
pub fn reference() -> String {
    telemetry::reference(&CATALOGUES)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::{Path, PathBuf},
    };

    use penstock_engine::telemetry::MetricKind;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn catalogue() -> BTreeMap<&'static str, Metric> {
        CATALOGUES.iter().flat_map(|metrics| metrics.iter()).map(|metric| (metric.name, *metric)).collect()
    }

    /// The source files of the three crates, without the catalogues themselves.
    fn sources() -> Vec<(PathBuf, String)> {
        let (mut found, mut folders) =
            (Vec::new(), ["engine", "operators", "pipelines"].map(|of| root().join(of).join("src")).to_vec());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "rs") {
                    found.push((path.clone(), fs::read_to_string(path).unwrap()));
                }
            }
        }
        let is_catalogue = |path: &Path| path.ends_with("telemetry.rs") || path.ends_with("telemetry/catalogue.rs");
        found.retain(|(path, _)| !is_catalogue(path));
        found
    }

    /// A metric that code uses.
    struct Used {
        place: String,
        /// `counter`, `gauge` or `histogram`.
        kind: String,
        name: String,
        labels: BTreeSet<String>,
    }

    /// Each use of a metric's macro: its kind, its name and the names of its labels. Not those in documents.
    fn uses(path: &Path, text: &str) -> Vec<Used> {
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let mut used = Vec::new();
        for (macro_name, kind) in
            [("counter!", "counter"), ("count!", "counter"), ("gauge!", "gauge"), ("histogram!", "histogram")]
        {
            for (at, _) in code.match_indices(macro_name) {
                let before = code[..at].chars().next_back();
                let Some(call) = code[at + macro_name.len()..].strip_prefix('(') else { continue };
                let Some(rest) = call.trim_start().strip_prefix('"') else { continue };
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                let (name, rest) = rest.split_once('"').unwrap();
                let mut depth = 1;
                let end = rest.find(|c| {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    depth == 0
                });
                let arguments = &rest[..end.unwrap()];
                let labels = arguments.match_indices("=>").map(|(arrow, _)| {
                    let label = arguments[..arrow].trim_end().trim_end_matches('"');
                    label[label.rfind('"').unwrap() + 1..].to_owned()
                });
                let place = format!("{} {name}", path.display());
                used.push(Used { place, kind: kind.to_owned(), name: name.to_owned(), labels: labels.collect() });
            }
        }
        used
    }

    #[test]
    fn i10_every_metric_in_the_code_is_in_a_catalogue_as_it_is_used() {
        let (catalogue, mut wrong) = (catalogue(), Vec::new());
        let used: Vec<Used> = sources().iter().flat_map(|(path, text)| uses(path, text)).collect();
        assert!(used.len() > 60, "only {} uses were found: has the search gone blind?", used.len());
        for Used { place, kind, name, labels } in used {
            match catalogue.get(name.as_str()) {
                None => wrong.push(format!("{place}: it is in no catalogue")),
                Some(metric) if metric.kind.as_str() != kind => {
                    wrong.push(format!("{place}: the catalogue says {}", metric.kind.as_str()))
                }
                Some(metric) => {
                    let known: BTreeSet<String> = metric.labels.iter().map(|label| (*label).to_owned()).collect();
                    if !labels.is_subset(&known) {
                        wrong.push(format!("{place}: its labels are {labels:?}, the catalogue says {known:?}"));
                    }
                }
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }

    /// The functions of a file that log and count: what happened there must be one event, so that the two can't disagree.
    fn bare_pairs(text: &str) -> Vec<String> {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let is_function =
            |line: &&str| line.split_whitespace().take_while(|word| *word != "=").any(|word| word == "fn");
        let mut pairs = Vec::new();
        for body in code.chunk_by(|_, next| !is_function(next)) {
            let says = |words: &[&str]| body.iter().any(|line| words.iter().any(|word| line.contains(word)));
            let logs =
                says(&["tracing::trace!", "tracing::debug!", "tracing::info!", "tracing::warn!", "tracing::error!"]);
            if logs && says(&["counter!(", "gauge!(", "histogram!(", "count!("]) {
                pairs.push(body[0].trim().to_owned());
            }
        }
        pairs
    }

    #[test]
    fn i10_what_is_logged_and_counted_is_one_event() {
        let is_events = |path: &Path| path.ends_with("events.rs");
        let (mut events, mut wrong) = (0, Vec::new());
        for (path, text) in sources() {
            let pairs = bare_pairs(&text);
            if is_events(&path) {
                events += pairs.len();
            } else {
                wrong.extend(pairs.into_iter().map(|function| format!("{}: {function}", path.display())));
            }
        }
        assert!(events > 60, "only {events} events were found: has the search gone blind?");
        assert_eq!(wrong, Vec::<String>::new(), "make each one struct of the `events` module beside it");
    }

    /// The fields of each line that code logs: what stands before its words.
    fn logged_fields(text: &str) -> Vec<&str> {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let mut fields = Vec::new();
        for call in code.split("tracing::").skip(1) {
            let Some((level, arguments)) = call.split_once("!(") else { continue };
            if ["trace", "debug", "info", "warn", "error"].contains(&level) {
                fields.extend(arguments.split('"').next().unwrap_or_default().split(','));
            }
        }
        fields
    }

    #[test]
    fn i10_no_field_of_a_log_line_takes_the_place_of_its_words() {
        let takes_it = |field: &str| field.trim() == "message" || field.trim().starts_with("message =");
        let sources = sources();
        let fields =
            sources.iter().flat_map(|(path, text)| logged_fields(text).into_iter().map(move |field| (path, field)));
        let wrong: Vec<_> = fields.filter(|(_, field)| takes_it(field)).collect();
        assert_eq!(wrong, Vec::<(&PathBuf, &str)>::new(), "call it `message_id`");
        assert!(logged_fields("tracing::info!(message = id, a, \"x\")").iter().any(|field| takes_it(field)));
    }

    #[test]
    fn every_metric_of_a_catalogue_is_in_the_code() {
        let all: String = sources().into_iter().map(|(_, text)| text).collect();
        let unused: Vec<_> = catalogue().into_keys().filter(|name| !all.contains(&format!("\"{name}\""))).collect();
        assert_eq!(unused, Vec::<&str>::new());
    }

    #[test]
    fn names_are_unique_and_follow_the_convention() {
        let all = CATALOGUES.iter().map(|metrics| metrics.len()).sum::<usize>();
        assert_eq!(catalogue().len(), all, "a name stands in two catalogues");
        let wrong: Vec<_> = catalogue().values().filter_map(Metric::misnamed).collect();
        assert_eq!(wrong, Vec::<String>::new());
        let unhelpful: Vec<_> = catalogue().into_values().filter(|metric| !metric.help.ends_with(['.', '…'])).collect();
        assert!(
            unhelpful.iter().all(|metric| metric.kind == MetricKind::Counter && metric.help.contains(':')),
            "{unhelpful:?}"
        );
    }

    #[test]
    fn the_document_of_metrics_is_that_of_the_code() {
        let document = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
        assert!(
            document.contains(&reference()),
            "docs/metrics.md is stale: put what `penstock metrics` prints into it\n{}",
            reference()
        );
    }
}
