//! What the documents tell people to type works: each `sh` block of the README and of `docs/` is run, in order, in a
//! folder that is as a fresh clone is.
//!
//! A comment right before a block says what is different about it:
//!
//! - `<!-- not run: WHY -->`: it isn't run.
//! - `<!-- stays up: TEXT -->`: it is left running once it has said that, until the document ends or starts another.
//! - `<!-- says: TEXT -->`: it is run again until it says that; what isn't there at once comes within seconds.
//! - `<!-- exits: CODE -->`: it ends with this code in place of 0.
//!
//! `/their/files` is a folder of files, variables that are exported stay so, and the dashboard may be at another port. Lines
//! that begin with `cargo run --release --` are run as `penstock`; other lines of `cargo` were run before any test is.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use penstock_tests::{PATIENCE, place::pipeline_file, program::Running, wait_for};
use tempfile::TempDir;

use super::{PROGRAM, lines, place};

/// Documents whose blocks are run here. The runbook has a test of its own, which knows more of its troubles.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "docs/tutorial.md",
    "docs/streams.md",
    "docs/table-to-parquet.md",
    "docs/metrics.md",
    "docs/dashboard.md",
    "docs/faq.md",
    "docs/tuning.md",
];

/// A block of commands.
#[derive(Debug, Default)]
struct Block {
    line: usize,
    text: String,
    not_run: Option<String>,
    stays_up: Option<String>,
    says: Option<String>,
    exits: i32,
}

fn repository() -> PathBuf {
    pipeline_file().parent().unwrap().parent().unwrap().to_owned()
}

fn blocks(document: &str) -> Vec<Block> {
    let (mut blocks, mut next, mut inside) = (Vec::new(), Block::default(), false);
    for (index, line) in document.lines().enumerate() {
        if inside && line == "```" {
            inside = false;
            blocks.push(std::mem::take(&mut next));
        } else if inside {
            next.text += line;
            next.text.push('\n');
        } else if line == "```sh" {
            (inside, next.line) = (true, index + 2);
        } else if let Some(said) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
            match said.split_once(": ") {
                Some(("not run", why)) => next.not_run = Some(why.to_owned()),
                Some(("stays up", text)) => next.stays_up = Some(text.to_owned()),
                Some(("says", text)) => next.says = Some(text.to_owned()),
                Some(("exits", code)) => next.exits = code.parse().unwrap(),
                _ => panic!("line {}: nobody understands `{line}`", index + 1),
            }
        } else if !line.is_empty() {
            next = Block::default();
        }
    }
    blocks
}

/// A folder like a fresh clone with the program built, and a shell in it.
struct Clone {
    dir: TempDir,
    exports: String,
    staying: Option<Running>,
    address: Option<String>,
}

impl Clone {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("bin")).unwrap();
        fs::create_dir_all(at("target/release")).unwrap();
        symlink(PROGRAM, at("bin/penstock")).unwrap();
        symlink(PROGRAM, at("target/release/penstock")).unwrap();
        symlink(repository().join("pipelines"), at("pipelines")).unwrap();
        fs::create_dir_all(at("their/files/2026-02-02")).unwrap();
        for name in ["a", "b"] {
            fs::write(at(&format!("their/files/2026-02-02/{name}.ndjson")), lines(name, 20).1).unwrap();
        }
        Self { dir, exports: String::new(), staying: None, address: None }
    }

    fn command(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("{}{text}", self.exports)]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            name.starts_with("PENSTOCK_") || name.starts_with("OTEL_") || name.starts_with("AWS_")
        }) {
            command.env_remove(name);
        }
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("PENSTOCK_LISTEN", "127.0.0.1:0").current_dir(self.dir.path());
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// The text of a block, with what is different here put in.
    fn text(&mut self, block: &Block) -> String {
        let mut text = String::new();
        for line in block.text.lines() {
            let line = match line.strip_prefix("cargo run --release -- ") {
                Some(rest) => format!("penstock {rest}"),
                None if line.starts_with("cargo ") => continue,
                None => line.to_owned(),
            };
            if line.starts_with("export ") {
                self.exports += &line;
                self.exports.push('\n');
            }
            text += &line;
            text.push('\n');
        }
        let theirs = self.dir.path().join("their/files").display().to_string();
        let address = self.address.clone().unwrap_or_else(|| "127.0.0.1:8650".to_owned());
        text.replace("/their/files", &theirs).replace("127.0.0.1:8650", &address)
    }

    fn run(&mut self, name: &str, block: &Block) {
        let told = format!("{name}:{}", block.line);
        let text = self.text(block);
        let logs = self.dir.path().join("logs");
        if let Some(wanted) = &block.stays_up {
            // Whoever reads stops the one before it: it would own the folder.
            self.stop();
            let mut running = Running::start(self.command(&text), &logs);
            wait_for(&format!("`{wanted}` of {told}"), PATIENCE, || {
                let said = running.out() + &running.log();
                assert!(said.contains(wanted) || running.is_running(), "{told} ended:\n{said}");
                said.contains(wanted).then_some(())
            });
            let said = running.out() + &running.log();
            let address = said.split("http://").nth(1).and_then(|rest| rest.split('/').next());
            self.address = address.map(str::to_owned);
            self.staying = Some(running);
            return;
        }
        let began = Instant::now();
        loop {
            let ended = Running::start(self.command(&text), &logs).wait(PATIENCE);
            let shown = format!("{told}:\n{text}{}{}", ended.out, ended.err);
            assert_eq!(ended.code, Some(block.exits), "{shown}");
            let is_said = block.says.as_ref().is_none_or(|wanted| ended.out.contains(wanted));
            if is_said {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "`{:?}` isn't said by {shown}", block.says);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn stop(&mut self) {
        if let Some(running) = self.staying.take() {
            let group = format!("-{}", running.pid());
            assert!(Command::new("kill").args(["-TERM", "--", &group]).status().unwrap().success());
            running.wait(PATIENCE);
        }
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        if let Some(running) = self.staying.take() {
            // Of a test that failed: the shell's children must not outlive it.
            Command::new("kill").args(["-KILL", "--", &format!("-{}", running.pid())]).status().ok();
        }
    }
}

fn run_document(name: &str) {
    let document = fs::read_to_string(repository().join(name)).unwrap();
    let mut clone = Clone::new();
    for block in blocks(&document) {
        match &block.not_run {
            Some(why) => assert!(why.split(' ').count() > 2, "{name}:{}: `{why}` is no reason", block.line),
            None => clone.run(name, &block),
        }
    }
    clone.stop();
}

#[test]
fn every_command_of_the_readme_works() {
    run_document("README.md");
}

#[test]
fn every_command_of_the_tutorial_works() {
    run_document("docs/tutorial.md");
}

#[test]
fn every_command_of_the_other_documents_works() {
    for name in &DOCUMENTS[2..] {
        run_document(name);
    }
}

#[test]
fn no_document_with_commands_is_left_out() {
    let mut found: Vec<String> = vec!["README.md".to_owned()];
    for entry in fs::read_dir(repository().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("docs/{}", path.file_name().unwrap().to_string_lossy());
        let has_commands = |path: &Path| !blocks(&fs::read_to_string(path).unwrap()).is_empty();
        if name.ends_with(".md") && has_commands(&path) {
            found.push(name);
        }
    }
    found.retain(|name| name != "docs/runbook.md" && !DOCUMENTS.contains(&name.as_str()));
    assert_eq!(found, Vec::<String>::new(), "their commands are run by nothing");
}

/// Commands within a sentence or a table are not run, but what they name is there.
#[test]
fn every_command_and_option_that_a_document_names_is_there() {
    let place = place();
    let mut wrong = Vec::new();
    let documents = fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut help = std::collections::BTreeMap::new();
    for path in documents.chain([repository().join("README.md")]).filter(|path| path.extension() == Some("md".as_ref()))
    {
        let document = fs::read_to_string(&path).unwrap();
        for code in document.replace('\n', " ").split('`').skip(1).step_by(2) {
            let Some(words) = code.strip_prefix("penstock ") else { continue };
            let words: Vec<&str> = words.split_whitespace().collect();
            let name = words[0];
            if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
                continue;
            }
            let subcommands = ["config", "deploy", "leases", "new"];
            let of: Vec<&str> = match words.get(1) {
                Some(second) if subcommands.contains(&name) && second.chars().all(|c| c.is_ascii_lowercase()) => {
                    vec![name, *second]
                }
                _ => vec![name],
            };
            let told = help.entry(of.join(" ")).or_insert_with(|| {
                let ended = place.run(&[&of[..], &["--help"]].concat());
                (ended.code == Some(0)).then_some(ended.out)
            });
            let Some(told) = told else {
                wrong.push(format!("{}: there is no `penstock {}`", path.display(), of.join(" ")));
                continue;
            };
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let option = option.split(['=', '|', ',', '…', ']']).next().unwrap();
                if !told.contains(option) {
                    wrong.push(format!("{}: `penstock {}` has no {option}", path.display(), of.join(" ")));
                }
            }
        }
    }
    assert!(help.len() > 10, "the documents name {help:?} only");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
