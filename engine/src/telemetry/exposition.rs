//! The text that Prometheus is given, read back as samples.
//!
//! The text is made by this process, so what can't be read is left out rather than told: no input from outside comes here.

use std::collections::BTreeMap;

/// One line of the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name; of a histogram with `_bucket`, `_sum` or `_count`.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// What tells one series from all others.
pub type SeriesKey = (String, BTreeMap<String, String>);

impl Sample {
    /// What tells its series from all others.
    pub fn key(&self) -> SeriesKey {
        (self.name.clone(), self.labels.clone())
    }
}

/// Reads a text.
pub fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line).collect()
}

/// What each series grew by since `before`. A series that is new, or began anew, grew by all that it shows.
pub fn growth(before: &BTreeMap<SeriesKey, f64>, now: &[Sample]) -> Vec<Sample> {
    let grown = |sample: &Sample| {
        let was = before.get(&sample.key()).copied().unwrap_or_default();
        let value = if sample.value < was { sample.value } else { sample.value - was };
        Sample { value, ..sample.clone() }
    };
    now.iter().map(grown).collect()
}

/// The values of all series, to compare later ones with.
pub fn values(samples: &[Sample]) -> BTreeMap<SeriesKey, f64> {
    samples.iter().map(|sample| (sample.key(), sample.value)).collect()
}

fn parse_line(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads labels up to the closing brace; gives back what follows it.
fn parse_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = parse_quoted(after)?;
        labels.insert(label.to_owned(), value);
        rest = after;
    }
}

/// Reads up to the closing quote, and unescapes.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use metrics::{Key, Label, Level, Metadata, Recorder};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What the recorder writes reads back, whatever stands in a label. (Not backslashes: the recorder takes two of them
        /// for one that was escaped before.)
        #[test]
        fn what_was_recorded_reads_back(values in prop::collection::btree_map("[^\\\\\\p{C}]{0,20}|[\"\n,{}= ]{1,8}", 0_u64..1 << 50, 1..20)) {
            let recorder = PrometheusBuilder::new().build_recorder();
            let metadata = Metadata::new("test", Level::INFO, None);
            for (label, value) in &values {
                let key = Key::from_parts("penstock_test_total", vec![Label::new("what", label.clone())]);
                recorder.register_counter(&key, &metadata).absolute(*value);
            }
            let read: BTreeMap<String, u64> =
                parse(&recorder.handle().render()).into_iter().map(|sample| (sample.labels["what"].clone(), sample.value as u64)).collect();
            prop_assert_eq!(read, values);
        }
    }

    #[test]
    fn histograms_and_plain_lines_read_back() {
        let text = "# HELP a b\n# TYPE a histogram\na_bucket{le=\"0.5\"} 1\na_bucket{x=\"y\",le=\"+Inf\"} 3\na_sum 2.5\n\nb 7\n";
        let read: Vec<(String, f64)> = parse(text).into_iter().map(|sample| (sample.name, sample.value)).collect();
        let wanted = [("a_bucket", 1.0), ("a_bucket", 3.0), ("a_sum", 2.5), ("b", 7.0)];
        assert_eq!(read, wanted.map(|(name, value)| (name.to_owned(), value)));
    }
}
