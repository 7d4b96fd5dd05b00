//! `penstock leases`: who holds what, and what a person may change about it.
//!
//! What would change is shown; nothing changes without `--yes`.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use chrono::Utc;
use clap::{Args, Subcommand};
use penstock_engine::{
    cloud::{Table, change_stream::ShardId},
    streams::{
        ChangeStreamOptions,
        operate::{self, Export, ResetTo, SeenLease, Step, Stepped},
    },
    time::format_time,
};

use super::{
    App, Exit,
    place::PlaceArguments,
    shards::{look, sources},
};
use crate::home::Home;

/// Scopes of leases that are no shards.
const FURTHER_SCOPES: [&str; 3] = ["flush", "manifest", "sweep"];

/// Show leases, free them, begin to read somewhere else, carry checkpoints over.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all leases: shards, flushes, manifests, the sweep, workers.
    List {
        #[command(flatten)]
        about: About,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one lease with all that its holders keep there.
    Show {
        #[command(flatten)]
        about: About,
        /// Its id: a shard, a date, a manifest's key.
        #[arg(value_name = "LEASE")]
        id: String,
    },
    /// Free a lease, whoever holds it. A living holder loses it, and somebody takes it anew.
    Release {
        #[command(flatten)]
        about: About,
        /// Its id: a shard, a date, a manifest's key. Without one: all shards that are held.
        #[arg(value_name = "LEASE")]
        id: Option<String>,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
    /// Read shards from somewhere else. Whoever reads them loses them, and they are taken anew.
    Reset {
        #[command(flatten)]
        about: About,
        /// TRIM_HORIZON (the oldest change kept), LATEST (what comes from now on), or a sequence number to go on behind.
        #[arg(long, value_name = "PLACE")]
        to: ResetTo,
        /// Only this shard. Without it: all.
        #[arg(long, value_name = "SHARD")]
        shard: Option<String>,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
    /// Print the checkpoints of a source, for `import`.
    Export {
        #[command(flatten)]
        about: About,
    },
    /// Make the checkpoints what an export says.
    Import {
        #[command(flatten)]
        about: About,
        /// The export's file, or - for stdin.
        #[arg(value_name = "EXPORT")]
        from: PathBuf,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

/// Which leases.
#[derive(Debug, Args)]
struct About {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// The source whose shards are meant. Needed if the pipeline has several change streams.
    #[arg(long, value_name = "ID")]
    source: Option<String>,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(run_command(app, &arguments.command, out))
}

async fn run_command(app: &App, command: &Command, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match command {
        Command::List { about, json } => {
            let place = open(app, about, false).await?;
            let leases = place.all_leases().await?;
            if *json {
                writeln!(out, "{}", serde_json::to_string_pretty(&leases)?)?;
                return Ok(Exit::Ok);
            }
            for lease in leases {
                let owner = lease.owner.as_deref().unwrap_or("nobody");
                let counter = lease.counter.map(|counter| format!(", counter {counter}")).unwrap_or_default();
                writeln!(out, "{} {}: {owner}{counter}", lease.scope, lease.id)?;
            }
        }
        Command::Show { about, id } => {
            let place = open(app, about, false).await?;
            let leases: Vec<_> = place.all_leases().await?.into_iter().filter(|lease| lease.id == *id).collect();
            if leases.is_empty() {
                return Err(anyhow!("there is no lease {id}: `penstock leases list` shows them"));
            }
            writeln!(out, "{}", serde_json::to_string_pretty(&leases)?)?;
        }
        Command::Release { about, id, yes } => {
            let place = open(app, about, *yes).await?;
            let seen = look(&place.home, &place.options).await?;
            let shard = id.as_ref().map(|id| ShardId(id.clone()));
            if shard.as_ref().is_some_and(|shard| !seen.iter().any(|seen| seen.shard == *shard)) {
                let id = id.as_deref().unwrap_or_default();
                return place.release_further(id, *yes, out).await;
            }
            let steps = operate::plan_release(&seen, shard.as_ref()).map_err(|text| anyhow!(text))?;
            return place.carry_out(&steps, *yes, out).await;
        }
        Command::Reset { about, to, shard, yes } => {
            let place = open(app, about, *yes).await?;
            let seen = look(&place.home, &place.options).await?;
            let shard = shard.as_ref().map(|shard| ShardId(shard.clone()));
            let now_secs = Utc::now().timestamp();
            let steps = operate::plan_reset(&seen, shard.as_ref(), to, now_secs).map_err(|text| anyhow!(text))?;
            return place.carry_out(&steps, *yes, out).await;
        }
        Command::Export { about } => {
            let place = open(app, about, false).await?;
            let seen = look(&place.home, &place.options).await?;
            let export = operate::export(&place.options.table, &seen, format_time(Utc::now()));
            writeln!(out, "{}", serde_json::to_string_pretty(&export)?)?;
        }
        Command::Import { about, from, yes } => {
            let export: Export = serde_json::from_str(&read(from)?)
                .with_context(|| format!("{} is no export of `penstock leases export`", from.display()))?;
            let place = open(app, about, *yes).await?;
            let seen = look(&place.home, &place.options).await?;
            let steps = operate::plan_import(&export, &place.options.table, &seen).map_err(|text| anyhow!(text))?;
            return place.carry_out(&steps, *yes, out).await;
        }
    }
    Ok(Exit::Ok)
}

fn read(from: &Path) -> anyhow::Result<String> {
    if from == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading the export from stdin")?;
        return Ok(text);
    }
    std::fs::read_to_string(from).with_context(|| format!("reading {}", from.display()))
}

/// The leases that a command is about.
struct Place {
    home: Home,
    options: ChangeStreamOptions,
    table: std::sync::Arc<dyn Table>,
}

async fn open(app: &App, about: &About, writes: bool) -> anyhow::Result<Place> {
    let mut pipeline = about.place.load(app, &about.file)?;
    let mut sources = sources(&pipeline, about.source.as_deref())?;
    if sources.len() > 1 {
        let ids: BTreeSet<_> = sources.iter().map(|(id, _)| id.as_str()).collect();
        return Err(anyhow!("name one of its change streams with --source: {}", Vec::from_iter(ids).join(", ")));
    }
    let (_, options) = sources.pop().context("the pipeline has no source of type change_stream")?;
    let home = match writes {
        true => about.place.open(&mut pipeline).await?,
        false => about.place.look(&mut pipeline).await?,
    };
    let table = home.cloud().table(&options.leases).await?;
    Ok(Place { home, options, table })
}

impl Place {
    async fn all_leases(&self) -> anyhow::Result<Vec<SeenLease>> {
        let stream = self.home.cloud().change_stream(&self.options.table).await?;
        let mut scopes = stream.streams().await?;
        scopes.push(format!("consumers/{}", self.options.table));
        scopes.extend(FURTHER_SCOPES.map(str::to_owned));
        let mut leases = Vec::new();
        for scope in scopes {
            leases.extend(operate::leases_of(&*self.table, &scope).await?);
        }
        Ok(leases)
    }

    /// Frees a lease that isn't a shard's.
    async fn release_further(&self, id: &str, yes: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let leases = self.all_leases().await?;
        let found: Vec<_> = leases.iter().filter(|lease| lease.id == id).collect();
        if found.is_empty() {
            return Err(anyhow!("there is no lease {id}: `penstock leases list` shows them"));
        }
        let mut exit = Exit::Ok;
        for lease in found {
            let owner = lease.owner.as_deref().unwrap_or("nobody");
            write!(out, "{} {id}, held by {owner}: free it", lease.scope)?;
            if yes {
                let stepped = operate::free(&*self.table, &lease.scope, id).await?;
                exit = tell(stepped, exit, out)?;
            }
            writeln!(out)?;
        }
        dry(yes, out)?;
        Ok(exit)
    }

    async fn carry_out(&self, steps: &[Step], yes: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
        if steps.is_empty() {
            writeln!(out, "Nothing to do.")?;
            return Ok(Exit::Ok);
        }
        let mut exit = Exit::Ok;
        for step in steps {
            let owner = step.owner.as_ref().map(|owner| format!(", held by {owner}")).unwrap_or_default();
            write!(out, "{}{owner}: {}", step.shard, step.text)?;
            if yes {
                let stepped = operate::carry_out(&*self.table, step).await?;
                exit = tell(stepped, exit, out)?;
            }
            writeln!(out)?;
        }
        dry(yes, out)?;
        Ok(exit)
    }
}

fn tell(stepped: Stepped, exit: Exit, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match stepped {
        Stepped::Done => {
            write!(out, " - done")?;
            Ok(exit)
        }
        Stepped::Busy => {
            write!(out, " - not done: its holder was renewing it again and again; try again")?;
            Ok(Exit::Troubled)
        }
        Stepped::Ended => {
            write!(
                out,
                " - not done: it has been read to its end meanwhile; look at what is left to do, and try again"
            )?;
            Ok(Exit::Troubled)
        }
    }
}

fn dry(yes: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if !yes {
        writeln!(out, "Nothing was changed: --yes does it.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use penstock_engine::{cloud::AttributeValue, leases::Leases};

    use super::*;
    use crate::{cli::Cli, loader::load};

    const PIPELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ndjson-parquet.yaml");

    fn run(dir: &Path, arguments: &[&str]) -> (anyhow::Result<Exit>, String) {
        let app = App { registry: crate::registry().into(), env: Box::new(|_| None), colours: false };
        let dir = dir.display().to_string();
        let all = ["penstock"].into_iter().chain(arguments.iter().copied()).chain(["--local", &dir]);
        let mut out = Vec::new();
        let exit = app.dispatch(&Cli::try_parse_from(all).unwrap(), &mut out);
        (exit, String::from_utf8(out).unwrap())
    }

    /// A folder in which a worker has died that read a shard, and had a checkpoint. Returns the shard and the checkpoint.
    fn after_a_death(dir: &Path) -> (String, String) {
        let app = App { registry: crate::registry().into(), env: Box::new(|_| None), colours: false };
        let pipeline = load(Path::new(PIPELINE), &app.env, &app.registry).unwrap();
        // On one thread, so that nothing goes on when the block is over: nobody gives the lease back.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::open_local(dir, &pipeline).unwrap();
            let (_, options) = sources(&pipeline, None).unwrap().remove(0);
            let shard = look(&home, &options).await.unwrap().remove(0);
            let leases = Leases::new(home.cloud().table("leases").await.unwrap(), "engine-1", Default::default());
            let lease = leases.try_acquire(&shard.arn, &shard.shard.0).await.unwrap().unwrap();
            let checkpoint = shard.first.unwrap().0;
            let set = [("checkpoint", checkpoint.as_str()), ("start", "trim_horizon")];
            let set = set.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
            lease.update(set.into(), Vec::new()).await.unwrap();
            drop(lease);
            (shard.shard.0, checkpoint)
        })
    }

    #[test]
    fn leases_are_shown_freed_reset_and_carried_over_and_nothing_happens_without_yes() {
        let dir = tempfile::tempdir().unwrap();
        let (shard, checkpoint) = after_a_death(dir.path());
        let held = format!("{shard} held by engine-1, checkpoint {checkpoint}");
        let (exit, out) = run(dir.path(), &["shards", PIPELINE]);
        assert!(exit.is_ok() && out.contains(&held), "{out}");
        let (_, out) = run(dir.path(), &["leases", "list", PIPELINE]);
        assert!(out.contains(&format!("{shard}: engine-1, counter 1")), "{out}");
        let (_, out) = run(dir.path(), &["leases", "show", PIPELINE, &shard]);
        assert!(out.contains(&checkpoint), "{out}");
        let (_, export) = run(dir.path(), &["leases", "export", PIPELINE]);

        let (_, out) = run(dir.path(), &["leases", "release", PIPELINE]);
        assert!(out.contains("held by engine-1") && out.contains("Nothing was changed"), "{out}");
        assert!(run(dir.path(), &["shards", PIPELINE]).1.contains(&held), "it was a dry run");
        let (_, out) = run(dir.path(), &["leases", "release", PIPELINE, "--yes"]);
        assert!(out.contains("done"), "{out}");
        assert!(run(dir.path(), &["shards", PIPELINE]).1.contains(&format!("{shard} free, checkpoint {checkpoint}")));

        let reset = ["leases", "reset", PIPELINE, "--to", "trim_horizon", "--shard", &shard, "--yes"];
        assert!(run(dir.path(), &reset).1.contains("from the oldest change kept - done"));
        assert!(run(dir.path(), &["shards", PIPELINE]).1.contains(&format!("{shard} free, no checkpoint")));

        let file = dir.path().join("export.json");
        std::fs::write(&file, export).unwrap();
        let import = ["leases", "import", PIPELINE, file.to_str().unwrap(), "--yes"];
        let (_, out) = run(dir.path(), &import);
        assert!(out.contains(&format!("{shard}: read it behind {checkpoint} - done")), "{out}");
        assert!(run(dir.path(), &import).1.contains("Nothing to do"), "it says so already");
        let error = run(dir.path(), &["leases", "show", PIPELINE, "nowhere"]).0.unwrap_err();
        assert!(error.to_string().contains("leases list"));
    }

    #[test]
    fn a_command_that_writes_says_who_owns_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        after_a_death(dir.path());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _guard = runtime.enter();
        let app = App { registry: crate::registry().into(), env: Box::new(|_| None), colours: false };
        let pipeline = load(Path::new(PIPELINE), &app.env, &app.registry).unwrap();
        let owner = Home::open_local(dir.path(), &pipeline).unwrap();
        let other = std::thread::scope(|scope| {
            scope.spawn(|| run(dir.path(), &["leases", "release", PIPELINE, "--yes"]).0).join().unwrap()
        });
        let error = format!("{:#}", other.unwrap_err());
        assert!(error.contains(&std::process::id().to_string()) && error.contains("owns this folder"), "{error}");
        drop(owner);
    }
}
