//! The data that conversions are measured on: made anew from a seed, line by line, never one block repeated.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A kind of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Set {
    /// Web events: some twenty short values of all kinds a line.
    Flat,
    /// Posts of a social network: objects in objects, lists, text of many scripts.
    Nested,
    /// Events of a forge: few columns, a payload whose shape goes by the event's type, spaces after separators.
    Forge,
    /// 500 columns of short values.
    Wide,
    /// Texts of 2 to 20 KB.
    Long,
    /// Flat events in 20 KB files.
    Small,
    /// Flat events in two large files.
    Huge,
    /// Text full of escapes.
    Escapes,
    /// 200 columns, of which a line has a few.
    Sparse,
    /// Few distinct values in each column.
    Low,
    /// No value twice.
    High,
}

/// A set as files.
pub struct Files {
    pub paths: Vec<PathBuf>,
    pub bytes: u64,
    pub rows: u64,
    /// The columns, in order of first sight.
    pub columns: Vec<String>,
    /// Columns in which every exact engine must agree: plain strings, no null.
    pub texts: Vec<String>,
}

impl Set {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Nested => "nested",
            Self::Forge => "forge",
            Self::Wide => "wide",
            Self::Long => "long",
            Self::Small => "small",
            Self::Huge => "huge",
            Self::Escapes => "escapes",
            Self::Sparse => "sparse",
            Self::Low => "low",
            Self::High => "high",
        }
    }

    /// Writes about `bytes` of it into `folder`, or finds it there.
    pub fn make(self, folder: &Path, bytes: u64, seed: u64) -> io::Result<Files> {
        let folder = folder.join(format!("{}-{bytes}-{seed}", self.name()));
        let file_bytes = match self {
            Self::Small => 20_000,
            Self::Huge => bytes / 2,
            _ => bytes,
        };
        let columns = self.columns();
        let texts = columns.iter().filter(|name| self.is_text(name)).cloned().collect();
        let done = folder.join("rows");
        if let Ok(rows) = fs::read_to_string(&done) {
            let mut paths = Vec::new();
            let mut found = 0;
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "ndjson") {
                    found += path.metadata()?.len();
                    paths.push(path);
                }
            }
            paths.sort();
            let rows = rows.trim().parse().map_err(io::Error::other)?;
            return Ok(Files { paths, bytes: found, rows, columns, texts });
        }
        fs::create_dir_all(&folder)?;
        let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(self as u64 + 1));
        let (mut paths, mut written, mut rows) = (Vec::new(), 0, 0);
        let mut line = String::new();
        while written < bytes {
            let path = folder.join(format!("{:05}.ndjson", paths.len()));
            let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
            let mut in_file = 0;
            while in_file < file_bytes && written + in_file < bytes {
                line.clear();
                self.line(&mut line, &mut random, rows);
                line.push('\n');
                file.write_all(line.as_bytes())?;
                in_file += line.len() as u64;
                rows += 1;
            }
            file.flush()?;
            written += in_file;
            paths.push(path);
        }
        fs::write(&done, rows.to_string())?;
        Ok(Files { paths, bytes: written, rows, columns, texts })
    }

    fn columns(self) -> Vec<String> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        match self {
            Self::Flat | Self::Small | Self::Huge => names(&FLAT),
            Self::Nested => names(&NESTED),
            Self::Forge => names(&["id", "type", "actor", "repo", "payload", "public", "created_at", "org"]),
            Self::Wide => (0..500).map(|column| format!("c{column}")).collect(),
            Self::Long => names(&["id", "title", "body", "raw"]),
            Self::Escapes => names(&["id", "path", "quoted", "text", "inner"]),
            Self::Sparse => (0..200).map(|column| format!("sparse_column_{column}")).collect(),
            Self::Low => (0..16).map(|column| format!("low_{column}")).collect(),
            Self::High => (0..12).map(|column| format!("high_{column}")).collect(),
        }
    }

    fn is_text(self, name: &str) -> bool {
        match self {
            Self::Flat | Self::Small | Self::Huge => {
                ["event_id", "time", "url", "user_agent", "session", "country"].contains(&name)
            }
            Self::Nested => ["created_at", "text", "lang"].contains(&name),
            Self::Forge => ["id", "type", "created_at"].contains(&name),
            Self::Long | Self::Escapes => ["title", "body", "path", "quoted", "text"].contains(&name),
            Self::Low | Self::High => true,
            Self::Wide | Self::Sparse => false,
        }
    }

    fn line(self, out: &mut String, random: &mut Random, row: u64) {
        match self {
            Self::Flat | Self::Small | Self::Huge => flat(out, random, row),
            Self::Nested => nested(out, random, row),
            Self::Forge => forge(out, random, row),
            Self::Wide => wide(out, random),
            Self::Long => long(out, random, row),
            Self::Escapes => escapes(out, random, row),
            Self::Sparse => sparse(out, random, row),
            Self::Low => low(out, random),
            Self::High => high(out, random),
        }
    }
}

/// Writes to a text can't fail.
macro_rules! put {
    ($out:expr, $($text:tt)*) => { $out.write_fmt(format_args!($($text)*)).unwrap_or_default() };
}

/// SplitMix64: small, fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, end: u64) -> bool {
        self.below(end) == 0
    }

    /// Small numbers are much more likely than large ones.
    fn skewed(&mut self, end: u64) -> u64 {
        let share = self.below(1 << 20) as f64 / (1 << 20) as f64;
        ((share * share * share) * end as f64) as u64
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn words(&mut self, out: &mut String, count: u64) {
        for word in 0..count {
            if word > 0 {
                out.push(' ');
            }
            out.push_str(self.of(&WORDS));
        }
    }
}

const FLAT: [&str; 20] = [
    "event_id",
    "time",
    "type",
    "user_id",
    "session",
    "url",
    "referrer",
    "user_agent",
    "ip",
    "country",
    "city",
    "status",
    "bytes",
    "duration_ms",
    "method",
    "is_bot",
    "screen",
    "price",
    "currency",
    "campaign",
];

const WORDS: [&str; 48] = [
    "river",
    "stone",
    "amber",
    "quick",
    "lattice",
    "morning",
    "copper",
    "silent",
    "harbour",
    "violet",
    "paper",
    "engine",
    "meadow",
    "cobalt",
    "winter",
    "signal",
    "garden",
    "marble",
    "thunder",
    "orchard",
    "lantern",
    "velvet",
    "canyon",
    "island",
    "ember",
    "willow",
    "glacier",
    "falcon",
    "pepper",
    "anchor",
    "summit",
    "prairie",
    "été",
    "naïve",
    "straße",
    "smörgås",
    "日本語",
    "東京",
    "ありがとう",
    "漢字",
    "привет",
    "мир",
    "γειά",
    "😀",
    "🚀",
    "中文",
    "한국어",
    "ça",
];

const COUNTRIES: [&str; 12] = ["DE", "FR", "US", "JP", "BR", "IN", "GB", "PL", "SE", "NG", "KE", "AU"];
const CITIES: [&str; 14] = [
    "Berlin", "Lyon", "Austin", "Osaka", "Recife", "Pune", "Leeds", "Łódź", "Malmö", "Lagos", "Nairobi", "Perth",
    "Köln", "Zürich",
];

fn time(out: &mut String, random: &mut Random, row: u64) {
    let milliseconds = row * 37 + random.below(37);
    let seconds = milliseconds / 1000;
    put!(
        out,
        "2026-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        1 + seconds / 2_419_200 % 12,
        1 + seconds / 86_400 % 28,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        milliseconds % 1000
    );
}

fn uuid(out: &mut String, random: &mut Random) {
    let (a, b) = (random.next(), random.next());
    put!(
        out,
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        a & 0xffff,
        a >> 16 & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    );
}

fn flat(out: &mut String, random: &mut Random, row: u64) {
    out.push_str("{\"event_id\":\"");
    uuid(out, random);
    out.push_str("\",\"time\":\"");
    time(out, random, row);
    let kind = random.of(&["view", "view", "view", "click", "scroll", "purchase", "search"]);
    put!(out, "\",\"type\":\"{kind}\",\"user_id\":{},\"session\":\"{:016x}\"", random.skewed(2_000_000), random.next());
    let section = random.of(&["products", "news", "help", "account", "search"]);
    put!(out, ",\"url\":\"https://www.example.com/{section}/{}", random.skewed(50_000));
    if random.one_in(3) {
        put!(out, "?page={}&sort={}", random.below(40), random.of(&["price", "age", "rank"]));
    }
    out.push_str("\",\"referrer\":");
    if random.one_in(3) {
        out.push_str("null");
    } else {
        put!(out, "\"https://{}.example.org/{}\"", random.of(&["a", "mail", "social", "find"]), random.skewed(3000));
    }
    put!(
        out,
        ",\"user_agent\":\"Mozilla/5.0 ({}) AppleWebKit/537.{} (KHTML, like Gecko) Chrome/{}.0.{}.{} Safari/537.36\"",
        random.of(&[
            "X11; Linux x86_64",
            "Windows NT 10.0; Win64; x64",
            "Macintosh; Intel Mac OS X 10_15_7",
            "Linux; Android 14"
        ]),
        random.below(4) + 33,
        random.skewed(40) + 90,
        random.skewed(60) + 4000,
        random.skewed(12)
    );
    put!(
        out,
        ",\"ip\":\"{}.{}.{}.{}\"",
        random.below(223) + 1,
        random.below(256),
        random.below(256),
        random.below(256)
    );
    put!(out, ",\"country\":\"{}\",\"city\":\"{}\"", random.of(&COUNTRIES), random.of(&CITIES));
    let status = random.of(&["200", "200", "200", "200", "304", "404", "500"]);
    put!(
        out,
        ",\"status\":{status},\"bytes\":{},\"duration_ms\":{}.{}",
        random.below(300_000),
        random.skewed(5000),
        random.below(1000)
    );
    let method = random.of(&["GET", "GET", "GET", "POST"]);
    put!(out, ",\"method\":\"{method}\",\"is_bot\":{}", random.one_in(20));
    put!(out, ",\"screen\":\"{}\"", random.of(&["1920x1080", "1366x768", "390x844", "2560x1440"]));
    if random.one_in(8) {
        put!(
            out,
            ",\"price\":{}.{:02},\"currency\":\"{}\"",
            random.below(900),
            random.below(100),
            random.of(&["EUR", "USD"])
        );
    } else {
        out.push_str(",\"price\":null,\"currency\":null");
    }
    put!(out, ",\"campaign\":{}}}", if random.one_in(5) { "\"summer-26\"" } else { "null" });
}

const NESTED: [&str; 13] = [
    "created_at",
    "id",
    "text",
    "truncated",
    "user",
    "entities",
    "metadata",
    "retweet_count",
    "favorite_count",
    "lang",
    "coordinates",
    "retweeted_status",
    "possibly_sensitive",
];

fn nested(out: &mut String, random: &mut Random, row: u64) {
    post(out, random, row, true);
}

fn post(out: &mut String, random: &mut Random, row: u64, outer: bool) {
    out.push_str("{\"created_at\":\"");
    time(out, random, row);
    put!(out, "\",\"id\":{},\"text\":\"", random.next() >> 4);
    let words = 5 + random.below(25);
    random.words(out, words);
    if random.one_in(3) {
        put!(out, "\\n\\\"{}\\\" http:\\/\\/t.example\\/{:x}", random.of(&WORDS), random.next() >> 32);
    }
    put!(out, "\",\"truncated\":{},\"user\":{{\"id\":{},\"name\":\"", random.one_in(9), random.below(9_000_000));
    random.words(out, 2);
    put!(
        out,
        "\",\"screen_name\":\"{}{}\",\"location\":\"{}\",\"description\":\"",
        random.of(&WORDS),
        random.below(9999),
        random.of(&CITIES)
    );
    let words = random.below(20);
    random.words(out, words);
    put!(
        out,
        "\",\"url\":null,\"protected\":{},\"followers_count\":{},\"friends_count\":{},\"listed_count\":{},\"verified\":{}",
        random.one_in(30),
        random.skewed(1_000_000),
        random.skewed(5000),
        random.skewed(300),
        random.one_in(40)
    );
    for colour in ["background", "link", "sidebar_border", "sidebar_fill", "text"] {
        put!(out, ",\"profile_{colour}_color\":\"{:06X}\"", random.next() & 0xff_ffff);
    }
    put!(
        out,
        ",\"profile_image_url\":\"http:\\/\\/img.example\\/profile_images\\/{}\\/{}_normal.jpeg\",\"default_profile\":{},\"notifications\":false,\"utc_offset\":{}}}",
        random.next() >> 6,
        random.of(&WORDS[..30]),
        random.one_in(3),
        random.below(24) as i64 * 3600 - 43_200
    );
    out.push_str(",\"entities\":{\"hashtags\":[");
    for tag in 0..random.below(4) {
        let begin = random.below(100);
        put!(
            out,
            "{}{{\"text\":\"{}\",\"indices\":[{begin},{}]}}",
            if tag > 0 { "," } else { "" },
            random.of(&WORDS),
            begin + 9
        );
    }
    out.push_str("],\"user_mentions\":[");
    for mention in 0..random.below(3) {
        let id = random.below(9_000_000);
        put!(
            out,
            "{}{{\"screen_name\":\"{}{}\",\"id\":{id},\"id_str\":\"{id}\"}}",
            if mention > 0 { "," } else { "" },
            random.of(&WORDS),
            id % 97
        );
    }
    out.push_str("],\"urls\":[]},\"metadata\":{\"result_type\":\"recent\"}");
    put!(
        out,
        ",\"retweet_count\":{},\"favorite_count\":{},\"lang\":\"{}\",\"coordinates\":",
        random.skewed(3000),
        random.skewed(9000),
        random.of(&["ja", "en", "de", "fr"])
    );
    if random.one_in(4) {
        put!(
            out,
            "{{\"type\":\"Point\",\"coordinates\":[{}.{:06},-{}.{:06}]}}",
            random.below(90),
            random.below(1_000_000),
            random.below(180),
            random.below(1_000_000)
        );
    } else {
        out.push_str("null");
    }
    if outer && random.one_in(2) {
        out.push_str(",\"retweeted_status\":");
        post(out, random, row, false);
    }
    put!(out, ",\"possibly_sensitive\":{}}}", random.one_in(7));
}

fn hex(out: &mut String, random: &mut Random, digits: usize) {
    for digit in 0..digits.div_ceil(16) {
        let wanted = (digits - digit * 16).min(16);
        put!(out, "{:0wanted$x}", random.next() >> (64 - wanted * 4));
    }
}

fn forge(out: &mut String, random: &mut Random, row: u64) {
    let kind = random.of(&["PushEvent", "PushEvent", "PushEvent", "WatchEvent", "CreateEvent", "IssueCommentEvent"]);
    put!(out, "{{\"id\": \"{}\", \"type\": \"{kind}\", ", 22_000_000_000_u64 + row * 3 + random.below(3));
    let (login, actor) = (random.skewed(2_000_000), random.of(&WORDS[..30]));
    let (owner, repo) = (random.skewed(900_000), random.of(&WORDS[..30]));
    put!(
        out,
        "\"actor\": {{\"id\": {}, \"login\": \"{actor}{login}\", \"gravatar_id\": \"\", \"url\": \"https://api.forge.example/users/{actor}{login}\", \"avatar_url\": \"https://avatars.forge.example/u/{}?\"}}, ",
        login * 7 + 100,
        login * 7 + 100
    );
    let name = format!("{repo}{owner}/{}-{}", random.of(&WORDS[..30]), random.of(&WORDS[..30]));
    put!(
        out,
        "\"repo\": {{\"id\": {}, \"name\": \"{name}\", \"url\": \"https://api.forge.example/repos/{name}\"}}, \"payload\": {{",
        owner * 11 + 5000
    );
    match kind {
        "PushEvent" => {
            let commits = 1 + random.skewed(6);
            put!(
                out,
                "\"push_id\": {}, \"size\": {commits}, \"distinct_size\": {commits}, \"ref\": \"refs/heads/{}\", \"head\": \"",
                10_000_000_000 + random.below(9_000_000_000),
                random.of(&["main", "master", "develop", "release"])
            );
            hex(out, random, 40);
            out.push_str("\", \"before\": \"");
            hex(out, random, 40);
            out.push_str("\", \"commits\": [");
            for commit in 0..commits {
                out.push_str(if commit > 0 { ", {\"sha\": \"" } else { "{\"sha\": \"" });
                let begin = out.len();
                hex(out, random, 40);
                let sha = out[begin..].to_owned();
                put!(
                    out,
                    "\", \"author\": {{\"name\": \"{} {}\", \"email\": \"{actor}{login}@mail.example\"}}, \"message\": \"",
                    random.of(&WORDS),
                    random.of(&WORDS)
                );
                let words = 2 + random.below(14);
                random.words(out, words);
                if random.one_in(4) {
                    put!(out, "\\n\\nSigned-off-by: {actor} <{actor}{login}@mail.example>");
                }
                put!(
                    out,
                    "\", \"distinct\": true, \"url\": \"https://api.forge.example/repos/{name}/commits/{sha}\"}}"
                );
            }
            out.push(']');
        }
        "WatchEvent" => out.push_str("\"action\": \"started\""),
        "CreateEvent" => {
            out.push_str(
                "\"ref\": null, \"ref_type\": \"repository\", \"master_branch\": \"main\", \"description\": \"",
            );
            let words = random.below(12);
            random.words(out, words);
            out.push_str("\", \"pusher_type\": \"user\"");
        }
        _ => {
            let issue = random.skewed(9000);
            put!(
                out,
                "\"action\": \"created\", \"issue\": {{\"url\": \"https://api.forge.example/repos/{name}/issues/{issue}\", \"id\": {}, \"number\": {issue}, \"title\": \"",
                random.below(2_000_000_000)
            );
            let words = 3 + random.below(9);
            random.words(out, words);
            put!(
                out,
                "\", \"labels\": [], \"state\": \"open\", \"locked\": false, \"assignee\": null, \"comments\": {}, \"body\": \"",
                random.skewed(60)
            );
            let words = 10 + random.below(120);
            random.words(out, words);
            put!(out, "\"}}, \"comment\": {{\"id\": {}, \"body\": \"", random.below(2_000_000_000));
            let words = 5 + random.below(60);
            random.words(out, words);
            out.push_str("\"}");
        }
    }
    out.push_str("}, \"public\": true, \"created_at\": \"");
    time(out, random, row);
    out.push('"');
    if random.one_in(4) {
        put!(out, ", \"org\": {{\"id\": {}, \"login\": \"{repo}{owner}\", \"gravatar_id\": \"\"}}", owner * 11 + 77);
    }
    out.push('}');
}

fn wide(out: &mut String, random: &mut Random) {
    for column in 0..500 {
        put!(out, "{}\"c{column}\":", if column == 0 { "{" } else { "," });
        match column % 5 {
            0 => put!(out, "{}", random.skewed(1_000_000)),
            1 => put!(out, "\"{}\"", random.of(&WORDS)),
            2 => put!(out, "{}.{}", random.below(1000), random.below(100)),
            3 => out.push_str(random.of(&["true", "false", "null"])),
            _ => put!(out, "\"{:x}\"", random.next() >> 40),
        }
    }
    out.push('}');
}

fn long(out: &mut String, random: &mut Random, row: u64) {
    put!(out, "{{\"id\":{row},\"title\":\"");
    random.words(out, 6);
    out.push_str("\",\"body\":\"");
    let words = 300 + random.below(2700);
    random.words(out, words);
    out.push_str("\",\"raw\":\"");
    for _ in 0..random.below(300) {
        put!(out, "{:016x}", random.next());
    }
    out.push_str("\"}");
}

fn escapes(out: &mut String, random: &mut Random, row: u64) {
    put!(out, "{{\"id\":{row},\"path\":\"");
    for _ in 0..4 {
        put!(out, "C:\\\\{}\\\\", random.of(&WORDS));
    }
    put!(out, "\",\"quoted\":\"\\\"{}\\\" \\/ \\\"{}\\\"\",\"text\":\"", random.of(&WORDS), random.below(1000));
    for _ in 0..6 {
        put!(
            out,
            "\\u{:04x}\\t\\ud83d\\ude{:02x}\\n{}",
            0x3040 + random.below(90),
            random.below(64),
            random.of(&WORDS)
        );
    }
    put!(out, "\",\"inner\":{{\"json\":\"{{\\\"a\\\":{}}}\"}}}}", random.below(100_000));
}

fn sparse(out: &mut String, random: &mut Random, row: u64) {
    // The first row has all columns, so that their order is settled.
    let mut column = 0;
    let mut separator = '{';
    while column < 200 {
        put!(out, "{separator}\"sparse_column_{column}\":");
        separator = ',';
        match random.below(3) {
            0 => put!(out, "{}", random.below(100_000)),
            1 => put!(out, "\"{}\"", random.of(&WORDS)),
            _ => out.push_str("null"),
        }
        column += if row == 0 { 1 } else { 1 + random.below(60) };
    }
    out.push('}');
}

fn low(out: &mut String, random: &mut Random) {
    for column in 0..16_u64 {
        let value = random.below(2 + column * 4);
        put!(
            out,
            "{}\"low_{column}\":\"{} {value}\"",
            if column == 0 { "{" } else { "," },
            WORDS[(value % 32) as usize]
        );
    }
    out.push('}');
}

fn high(out: &mut String, random: &mut Random) {
    for column in 0..12 {
        put!(out, "{}\"high_{column}\":\"", if column == 0 { "{" } else { "," });
        if column % 2 == 0 {
            uuid(out, random);
        } else {
            put!(out, "{}", random.next());
        }
        out.push('"');
    }
    out.push('}');
}
