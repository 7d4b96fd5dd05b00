//! Sample files: a day of web events, most of them right, some of them wrong in each way that real ones are.
//!
//! The same seed makes the same files. Every good line has an `id` that no other line has, so that what comes out can be
//! checked row by row against what went in.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// What to make.
#[derive(Debug, Clone)]
pub struct Sample {
    /// How many files.
    pub files: usize,
    /// About how many lines each.
    pub lines: usize,
    /// The date of the keys.
    pub date: String,
    /// Whether some files are wrong.
    pub with_trouble: bool,
    /// What makes one sample differ from another.
    pub seed: u64,
}

/// What was made: what a pipeline owes for it.
#[derive(Debug, Default, Clone)]
pub struct Made {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The ids of all lines that must become rows.
    pub rows: Vec<String>,
    /// How many lines must become rejects.
    pub rejects: usize,
    /// The names of files that must end as failed.
    pub failed: Vec<String>,
    /// The names of files that must end in quarantine.
    pub quarantined: Vec<String>,
}

/// How a file is wrong, or special.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Crlf,
    Gzip,
    Zstd,
    NestedFolder,
    OddName,
    SomeBadLines,
    Empty,
    Binary,
    TruncatedGzip,
    WrongSuffix,
}

impl Kind {
    fn of(number: usize, with_trouble: bool) -> Self {
        match number % 25 {
            3 => Self::Crlf,
            5 => Self::Gzip,
            7 => Self::Zstd,
            9 => Self::NestedFolder,
            11 => Self::OddName,
            13 if with_trouble => Self::SomeBadLines,
            15 if with_trouble && number < 100 => Self::Empty,
            17 if with_trouble && number < 100 => Self::Binary,
            19 if with_trouble && number < 100 => Self::TruncatedGzip,
            21 if with_trouble && number < 100 => Self::WrongSuffix,
            _ => Self::Plain,
        }
    }

    fn name(self, number: usize) -> String {
        match self {
            Self::Gzip | Self::TruncatedGzip => format!("events-{number:05}.ndjson.gz"),
            Self::Zstd => format!("events-{number:05}.ndjson.zst"),
            Self::NestedFolder => format!("eu/west/events-{number:05}.ndjson"),
            Self::OddName => format!("événements {number:05} + 100%.NDJSON"),
            Self::WrongSuffix => format!("events-{number:05}.csv"),
            _ => format!("events-{number:05}.ndjson"),
        }
    }
}

/// Lines that are no JSON objects.
const BAD_LINES: [&str; 4] = ["{\"id\": \"broken\", ", "not json at all", "[1, 2, 3]", "{\"id\": 01}"];

impl Sample {
    /// Makes the files in `folder`, below a folder of their date.
    pub fn write(&self, folder: &Path) -> io::Result<Made> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut made = Made::default();
        for number in 0..self.files {
            let kind = Kind::of(number, self.with_trouble);
            let name = format!("{}/{}", self.date, kind.name(number));
            let bytes = self.content(kind, number, &name, &mut random, &mut made)?;
            let path = folder.join(&name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, &bytes)?;
            made.files += 1;
            made.bytes += bytes.len() as u64;
        }
        Ok(made)
    }

    fn content(
        &self,
        kind: Kind,
        number: usize,
        name: &str,
        random: &mut StdRng,
        made: &mut Made,
    ) -> io::Result<Vec<u8>> {
        let count = self.lines.max(1);
        let lines = random.random_range(count / 2 + 1..=count + count / 2);
        let (mut text, mut ids) = (Vec::new(), Vec::new());
        for line in 0..lines {
            let id = format!("{:08x}-{number:05}-{line:05}", self.seed);
            event(&id, random, &mut text)?;
            text.extend_from_slice(if kind == Kind::Crlf { b"\r\n" } else { b"\n" });
            ids.push(id);
            if kind == Kind::SomeBadLines && line % 5 == 4 {
                writeln!(text, "{}", BAD_LINES.choose(random).unwrap_or(&"bad"))?;
                made.rejects += 1;
            }
        }
        match kind {
            Kind::Empty => return Ok(Vec::new()),
            Kind::Binary => {
                made.failed.push(name.to_owned());
                return Ok((0..4096).map(|_| random.random()).collect());
            }
            Kind::WrongSuffix => {
                made.quarantined.push(name.to_owned());
                return Ok(text);
            }
            Kind::TruncatedGzip => {
                made.failed.push(name.to_owned());
                let packed = gzip(&text)?;
                return Ok(packed[..packed.len() * 2 / 3].to_vec());
            }
            _ => made.rows.append(&mut ids),
        }
        match kind {
            Kind::Crlf => Ok([b"\xef\xbb\xbf".as_slice(), &text].concat()),
            Kind::Gzip => gzip(&text),
            Kind::Zstd => zstd::encode_all(&text[..], 3),
            _ => Ok(text),
        }
    }
}

/// Writes one web event as a line without its end.
fn event(id: &str, random: &mut StdRng, text: &mut Vec<u8>) -> io::Result<()> {
    const TYPES: [&str; 6] = ["page_view", "click", "scroll", "purchase", "login", "logout"];
    const CITIES: [&str; 6] = ["Zürich", "東京", "São Paulo", "Nairobi", "Montréal", "Kraków"];
    const DEVICES: [&str; 3] = ["mobile", "desktop", "tablet"];
    let pick = |random: &mut StdRng, names: &[&'static str]| names.choose(random).copied().unwrap_or_default();
    write!(
        text,
        r#"{{"id":"{id}","timestamp":"2026-02-01T{:02}:{:02}:{:02}Z","event_type":"{}","user_id":"user_{}","#,
        random.random_range(0..24),
        random.random_range(0..60),
        random.random_range(0..60),
        pick(random, &TYPES),
        random.random_range(1..100_000),
    )?;
    write!(
        text,
        r#""city":"{}","device_type":"{}","latitude":{:.4},"page_url":"https:\/\/example.com\/p\/{}","duration_seconds":{},"#,
        pick(random, &CITIES),
        pick(random, &DEVICES),
        random.random_range(-90.0..90.0_f64),
        random.random_range(1..5000),
        random.random_range(0..3600),
    )?;
    match random.random_range(0..4) {
        0 => write!(text, r#""revenue":{}.50,"#, random.random_range(1..500))?,
        1 => write!(text, r#""revenue":0,"#)?,
        2 => write!(text, r#""revenue":null,"#)?,
        _ => {}
    }
    write!(
        text,
        r#""custom_data":{{"variant":"{}","flags":{{"flag_{}":true}}}},"tags":["a","b\u00e9",{}],"bounce":{}}}"#,
        if random.random() { "A" } else { "B" },
        random.random_range(1..9),
        random.random_range(0..10),
        random.random::<bool>(),
    )
}

fn gzip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_files_and_every_good_line_is_json() {
        let sample = Sample { files: 30, lines: 5, date: "2026-02-01".to_owned(), with_trouble: true, seed: 7 };
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = sample.write(a.path()).unwrap();
        assert_eq!(made.rows, sample.write(b.path()).unwrap().rows);
        let name = "2026-02-01/events-00000.ndjson";
        let text = fs::read_to_string(a.path().join(name)).unwrap();
        assert_eq!(text, fs::read_to_string(b.path().join(name)).unwrap());
        for line in text.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).unwrap().is_object(), "{line}");
        }
        assert_eq!((made.files, made.failed.len(), made.quarantined.len()), (30, 2, 1));
    }
}
