//! A place for one test: a temporary folder with a local cloud in it, and the shipped pipeline to run there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use penstock::{
    facts::{Facts, TRACKING_TABLE},
    loader::{Pipeline, load},
    observation::METRICS_TABLE,
};
use penstock_engine::cloud::{
    AttributeValue, Cloud, Table,
    local::{LocalCloud, LocalOptions},
    queue::Outgoing,
    table::{Query, Write, query_all},
};
use penstock_operators::model::{
    FileItem, FileState, ManifestItem, ManifestState, SHARDS, STATUS_INDEX, attribute, read_item,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    PATIENCE, death,
    program::{Ended, Running, tail},
    simulation::witness::Crash,
    wait_for,
};

/// The date of the keys that tests make.
pub const DATE: &str = "2026-02-01";

/// Where the pipeline looks for new objects.
pub const INPUT_PREFIX: &str = "landing/ndjson/";

/// The pipeline that the project ships.
pub fn pipeline_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/ndjson-parquet.yaml").canonicalize().unwrap()
}

/// A test's place.
pub struct Place {
    dir: TempDir,
    program: &'static str,
    pipeline: Pipeline,
    variables: BTreeMap<&'static str, String>,
    runtime: Runtime,
}

impl Place {
    /// An empty place for the program at this path. What it logs is shown if the test fails.
    pub fn new(program: &'static str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            program,
            pipeline: load(&pipeline_file(), &|_| None, &penstock::registry()).unwrap(),
            variables: BTreeMap::new(),
            runtime: Runtime::new().unwrap(),
        }
    }

    /// The same with a variable of the pipeline: its name without `PENSTOCK_`.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.variables.insert(name, value.to_string());
        self
    }

    /// A path in the place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder of the local cloud.
    pub fn cloud(&self) -> PathBuf {
        self.path("cloud")
    }

    /// The folder of a bucket.
    pub fn bucket(&self, name: &str) -> PathBuf {
        self.cloud().join("s3").join(self.pipeline.naming.bucket(name))
    }

    /// Writes a file into a folder of the place, ready to be landed. Its name gets the date before it.
    pub fn write(&self, folder: &str, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        put(&self.path(folder).join(DATE).join(name), content.as_ref())
    }

    /// Writes a file straight into the input bucket, as a person does.
    pub fn drop_into_input(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        put(&self.input(name), content.as_ref())
    }

    /// Where an object of the test's date lies in the input bucket.
    pub fn input(&self, name: &str) -> PathBuf {
        self.bucket("input").join(INPUT_PREFIX).join(DATE).join(name)
    }

    /// The program with these arguments. It sees no variable of the tests' own environment that could change it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PENSTOCK_")) {
            command.env_remove(name);
        }
        command.env_remove("AWS_ACCOUNT_ID").current_dir(self.dir.path()).stdin(Stdio::null()).args(arguments);
        command.envs(self.variables.iter().map(|(name, value)| (format!("PENSTOCK_{name}"), value)));
        command
    }

    /// Starts the program.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments), &self.path("logs"))
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).wait(PATIENCE)
    }

    /// Starts `penstock run` on the pipeline, with more arguments.
    pub fn start_pipeline(&self, more: &[&str]) -> Running {
        self.start_on(&["run"], more)
    }

    /// Starts `penstock run` on the pipeline, to die by its own hand at a named point.
    pub fn die_in_pipeline(&self, crash: &Crash, more: &[&str]) -> Running {
        let (file, cloud) = (pipeline_file().display().to_string(), self.cloud().display().to_string());
        let mut command = self.command(&[&["run", &*file, "--local", &*cloud], more].concat());
        command.env(death::VARIABLE, crash.to_string());
        Running::start(command, &self.path("logs"))
    }

    /// Runs the pipeline until nothing is left to do, after landing what a pattern names.
    pub fn run_until_idle(&self, land: &str) -> Ended {
        self.start_pipeline(&["--land", &self.path(land).display().to_string(), "--until-idle"]).wait(PATIENCE)
    }

    /// Runs the pipeline until nothing is left to do.
    pub fn run_until_idle_again(&self) -> Ended {
        self.start_pipeline(&["--until-idle"]).wait(PATIENCE)
    }

    /// Starts another command on the pipeline and its folder.
    pub fn start_command(&self, arguments: &[&str]) -> Running {
        self.start_on(&arguments[..1], &arguments[1..])
    }

    /// Puts a message into a queue, while no service runs.
    pub fn write_message(&self, queue: &str, body: &str) {
        self.runtime.block_on(async {
            let queue = self.owned().queue(queue).await.unwrap();
            queue.send(&[Outgoing::new(body)]).await.unwrap().into_iter().for_each(|sent| sent.unwrap());
        });
    }

    /// Puts an item into the tracking table, as somebody might by hand.
    pub fn write_item(&self, write: &Write) {
        self.runtime.block_on(async {
            self.owned().table(TRACKING_TABLE).await.unwrap().write(write).await.unwrap();
        });
    }

    /// How many messages a queue holds, while no service runs.
    pub fn queue_depth(&self, queue: &str) -> u64 {
        self.runtime.block_on(async { self.owned().queue(queue).await.unwrap().depth().await.unwrap().total() })
    }

    /// The folder's cloud, owned by the test.
    fn owned(&self) -> std::sync::Arc<LocalCloud> {
        let naming = self.pipeline.naming.clone();
        LocalCloud::open(&self.cloud(), naming, &self.pipeline.resources, LocalOptions::default()).unwrap()
    }

    /// Runs another command on the pipeline and its folder, e.g. `status`.
    pub fn run_on(&self, command: &str, more: &[&str]) -> Ended {
        self.start_on(&[command], more).wait(PATIENCE)
    }

    fn start_on(&self, command: &[&str], more: &[&str]) -> Running {
        let (file, cloud) = (pipeline_file().display().to_string(), self.cloud().display().to_string());
        self.start(&[command, &[&file, "--local", &cloud], more].concat())
    }

    /// Starts the pipeline, with more arguments, and waits until it runs.
    pub fn serve(&self, more: &[&str]) -> Running {
        let mut running = self.start_pipeline(more);
        wait_for("start of the service", PATIENCE, || {
            assert!(running.is_running(), "the service ended at its start:\n{}", running.log());
            running.log().contains("Service started.").then_some(())
        });
        running
    }

    /// What the table says, read beside a service that runs or after it.
    pub fn facts(&self) -> Facts {
        self.runtime.block_on(async { Facts::read(&*self.table().await).await.unwrap() })
    }

    /// Waits until the facts are as wanted.
    pub fn wait_for_facts(&self, what: &str, limit: Duration, wanted: impl Fn(&Facts) -> bool) -> Facts {
        wait_for(what, limit, || Some(self.facts()).filter(&wanted))
    }

    /// The items of all files.
    pub fn files(&self) -> Vec<FileItem> {
        let statuses = FileState::ALL.into_iter().flat_map(|state| (0..SHARDS).map(move |shard| state.status(shard)));
        let items = self.items(statuses);
        items.iter().map(|item| read_item("file", item).unwrap()).collect()
    }

    /// The item of a file.
    pub fn file(&self, file_key: &str) -> FileItem {
        let files = self.files();
        let keys: Vec<_> = files.iter().map(|file| file.file_key.clone()).collect();
        let found = files.into_iter().find(|file| file.file_key == file_key);
        found.unwrap_or_else(|| panic!("no file {file_key} among {keys:?}"))
    }

    /// The items of all manifests.
    pub fn manifests(&self) -> Vec<ManifestItem> {
        let items = self.items(ManifestState::ALL.into_iter().map(|state| state.as_str().to_owned()));
        let ours = items.iter().filter(|item| item.contains_key(attribute::SCHEMA_VERSION));
        ours.map(|item| read_item("manifest", item).unwrap()).collect()
    }

    fn items(&self, statuses: impl Iterator<Item = String>) -> Vec<penstock_engine::cloud::Item> {
        self.runtime.block_on(async {
            let table = self.table().await;
            let mut items = Vec::new();
            for status in statuses {
                items.extend(query_all(&*table, Query::index(STATUS_INDEX, status)).await.unwrap());
            }
            items
        })
    }

    /// The roll-ups of a service: what each counter grew by.
    pub fn hourly_rows(&self, service: &str) -> Vec<BTreeMap<String, f64>> {
        self.runtime.block_on(async {
            let (naming, resources) = (self.pipeline.naming.clone(), &self.pipeline.resources);
            let cloud = LocalCloud::open_read_only(&self.cloud(), naming, resources).await.unwrap();
            let table = cloud.table(METRICS_TABLE).await.unwrap();
            let items = query_all(&*table, Query::partition(format!("hourly#{service}"))).await.unwrap();
            let counts = |item: &penstock_engine::cloud::Item| match &item["counts"] {
                AttributeValue::M(counts) => counts.clone(),
                other => panic!("counts are {other:?}"),
            };
            let number = |value: &AttributeValue| match value {
                AttributeValue::N(text) => text.parse().unwrap(),
                other => panic!("a count is {other:?}"),
            };
            items
                .iter()
                .map(|item| counts(item).iter().map(|(name, value)| (name.clone(), number(value))).collect())
                .collect()
        })
    }

    async fn table(&self) -> std::sync::Arc<dyn Table> {
        let (naming, resources) = (self.pipeline.naming.clone(), &self.pipeline.resources);
        let cloud = LocalCloud::open_read_only(&self.cloud(), naming, resources).await.unwrap();
        cloud.table(TRACKING_TABLE).await.unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut logs: Vec<_> =
            fs::read_dir(self.path("logs")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.sort();
        for log in logs {
            let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
            eprintln!("--- {}\n{}", log.file_name().unwrap_or_default().display(), tail(&text));
        }
    }
}

/// All files below a folder, as paths relative to it, without those that a bucket hides.
pub fn visible_files(folder: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name == ".penstock") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn put(path: &Path, content: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    path.to_owned()
}
