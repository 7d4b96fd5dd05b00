//! `penstock deploy`: what helps to deploy on AWS.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};

use super::Exit;

/// Help with a deployment on AWS.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a CloudFormation template, as this version needs it.
    Template {
        /// Which stack's.
        stack: Stack,
    },
    /// Print a stack's parameters, for `--parameter-overrides`. The services' `Image`, `VpcId` and `SubnetIds` are yours to add.
    Parameters {
        /// Which stack's.
        stack: Stack,
        /// For a trial or for production.
        #[arg(long, default_value = "dev")]
        env: Env,
    },
    /// Estimate what a month costs, with all that the estimate assumes.
    Estimate(Load),
}

/// A stack of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stack {
    /// Buckets, queues, tables, bus and topic: what must outlive the rest.
    Data,
    /// The two services, with their roles, scaling, logs, alarms and dashboard.
    Services,
}

/// What a deployment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Env {
    /// A trial: small tasks, short retention.
    Dev,
    /// Production.
    Prod,
}

impl Stack {
    fn template(self) -> &'static str {
        match self {
            Self::Data => include_str!("../../../deploy/aws/data.yaml"),
            Self::Services => include_str!("../../../deploy/aws/services.yaml"),
        }
    }

    fn parameters(self, env: Env) -> &'static str {
        match (self, env) {
            (Self::Data, Env::Dev) => include_str!("../../../deploy/aws/data-dev.params"),
            (Self::Data, Env::Prod) => include_str!("../../../deploy/aws/data-prod.params"),
            (Self::Services, Env::Dev) => include_str!("../../../deploy/aws/services-dev.params"),
            (Self::Services, Env::Prod) => include_str!("../../../deploy/aws/services-prod.params"),
        }
    }
}

/// What is to be processed, and how long it is kept.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Files that land in a day.
    #[arg(long)]
    files_per_day: f64,
    /// Megabytes of a file, as stored.
    #[arg(long)]
    mb_per_file: f64,
    /// Files of a manifest.
    #[arg(long, default_value_t = 200.0)]
    files_per_manifest: f64,
    /// How long landed objects are kept.
    #[arg(long, default_value_t = 35.0)]
    input_days: f64,
    /// Size of the Parquet as a share of its input.
    #[arg(long, default_value_t = 0.3)]
    parquet_ratio: f64,
    /// Megabytes a second that one worker task converts.
    #[arg(long, default_value_t = 100.0)]
    worker_mb_per_sec: f64,
}

/// One line of an estimate.
#[derive(Debug, Clone, PartialEq)]
struct Cost {
    what: &'static str,
    usd: f64,
    how: String,
}

/// Prices in USD of us-east-1, on demand, without free tiers, as AWS listed them in 2026.
mod price {
    pub const WRITE_UNITS_M: f64 = 0.625;
    pub const READ_UNITS_M: f64 = 0.125;
    pub const STREAM_READS_M: f64 = 0.2;
    pub const S3_PUT_M: f64 = 5.0;
    pub const S3_GET_M: f64 = 0.4;
    pub const S3_GB_MONTH: f64 = 0.023;
    pub const SQS_M: f64 = 0.4;
    pub const EVENTS_M: f64 = 1.0;
    pub const VCPU_HOUR: f64 = 0.04048;
    pub const GB_HOUR: f64 = 0.004445;
    pub const METRIC_MONTH: f64 = 0.3;
    pub const ALARM_MONTH: f64 = 0.1;
    pub const LOG_GB: f64 = 0.5;
}

const DAYS: f64 = 30.4;
const HOURS: f64 = DAYS * 24.0;

fn costs(load: &Load) -> Vec<Cost> {
    let files = load.files_per_day * DAYS;
    let gb = files * load.mb_per_file / 1000.0;
    let manifests = files / load.files_per_manifest;
    let millions = |count: f64| count / 1e6;
    // New: the item and its index entry. Claimed, and settled: the item, and one entry out and one in.
    let writes = files * 8.0 + manifests * 12.0;
    // An index reading a minute over what is pending, and a consistent read where a decision needs one.
    let reads = files * 4.0 + HOURS * 60.0 * 20.0;
    // Four reads a second of one shard for each of two tasks while a deployment lasts, else of one.
    let stream_reads = HOURS * 3600.0 * 4.0;
    // By the defaults, one worker on a table of one shard: its lease and the one that shows that it is there are renewed each
    // 3.3 s, leases are listed each 5 s and workers each 2 s; and each change of a file makes a checkpoint due, once a second.
    let renewals = HOURS * 3600.0 * 0.3 * 2.0;
    let checkpoints = (files * 3.0).min(HOURS * 3600.0);
    let listings = HOURS * 3600.0 * (1.0 / 5.0 + 1.0 / 2.0);
    let polls = HOURS * 3600.0 / 20.0 * 2.0;
    let queue = files * 0.4 + manifests * 4.0 + polls;
    let worker_hours = (gb * 1000.0 / load.worker_mb_per_sec / 3600.0).max(HOURS);
    let engine = HOURS * (0.5 * price::VCPU_HOUR + price::GB_HOUR);
    let worker = worker_hours * (2.0 * price::VCPU_HOUR + 4.0 * price::GB_HOUR);
    let input_gb = gb / DAYS * load.input_days;
    let output_gb = gb * load.parquet_ratio;
    let kept_objects = load.files_per_day * load.input_days;
    // Half a unit for each new object, some of them twice; and completed manifests of two days, twelve times an hour.
    let looks = files * 0.6 + HOURS * 12.0 * 2.0 * manifests / DAYS * 0.2;
    let cost = |what, usd, how: String| Cost { what, usd, how };
    vec![
        cost(
            "DynamoDB",
            millions(writes) * price::WRITE_UNITS_M + millions(reads) * price::READ_UNITS_M,
            format!(
                "{:.1} M write units (8 a file, 12 a manifest), {:.1} M read units",
                millions(writes),
                millions(reads)
            ),
        ),
        cost(
            "DynamoDB leases",
            millions(renewals + checkpoints) * price::WRITE_UNITS_M + millions(listings) * price::READ_UNITS_M,
            format!(
                "one engine task, one shard: {:.1} M renewals, {:.1} M checkpoints, {:.1} M listings of a read unit",
                millions(renewals),
                millions(checkpoints),
                millions(listings)
            ),
        ),
        cost(
            "DynamoDB Streams",
            millions(stream_reads) * price::STREAM_READS_M,
            format!("{:.1} M reads: one shard, four times a second", millions(stream_reads)),
        ),
        cost(
            "S3 requests",
            millions(files + manifests * 8.0) * price::S3_PUT_M + millions(files * 3.0) * price::S3_GET_M,
            "a put a file by its producer, 8 a manifest; 3 gets a file".to_owned(),
        ),
        cost(
            "Sweep",
            millions(HOURS * kept_objects / 1000.0) * price::S3_PUT_M + millions(looks) * price::READ_UNITS_M,
            format!(
                "{:.1} M LIST calls: every hour, {:.1} M objects kept, 1000 a call; {:.1} M read units",
                millions(HOURS * kept_objects / 1000.0),
                millions(kept_objects),
                millions(looks)
            ),
        ),
        cost(
            "S3 input",
            input_gb * price::S3_GB_MONTH,
            format!("{input_gb:.0} GB kept for {:.0} days", load.input_days),
        ),
        cost(
            "S3 output",
            output_gb * price::S3_GB_MONTH,
            format!("{output_gb:.0} GB of Parquet come each month and are kept: this much more every month"),
        ),
        cost(
            "SQS",
            millions(queue) * price::SQS_M,
            format!("{:.1} M requests, in batches of up to 10", millions(queue)),
        ),
        cost("EventBridge", millions(manifests * 1.1) * price::EVENTS_M, format!("{manifests:.0} manifests")),
        cost("Fargate engine", engine, "one task of 0.5 vCPU and 1 GB, always".to_owned()),
        cost(
            "Fargate workers",
            worker,
            format!(
                "{worker_hours:.0} hours of a task of 2 vCPU and 4 GB at {:.0} MB/s; at least one, always",
                load.worker_mb_per_sec
            ),
        ),
        cost(
            "CloudWatch",
            60.0 * price::METRIC_MONTH + 9.0 * price::ALARM_MONTH + (1.0 + millions(files) * 0.5) * price::LOG_GB,
            "60 metrics, 9 alarms, half a kilobyte of log a file".to_owned(),
        ),
    ]
}

/// Runs the command.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match &arguments.command {
        Command::Template { stack } => out.write_all(stack.template().as_bytes())?,
        Command::Parameters { stack, env } => out.write_all(stack.parameters(*env).as_bytes())?,
        Command::Estimate(load) => estimate(load, out)?,
    }
    Ok(Exit::Ok)
}

fn estimate(load: &Load, out: &mut dyn Write) -> anyhow::Result<()> {
    let costs = costs(load);
    writeln!(
        out,
        "{:.0} files a day of {} MB: {:.1} GB a day, {:.1} files a second on average\n",
        load.files_per_day,
        load.mb_per_file,
        load.files_per_day * load.mb_per_file / 1000.0,
        load.files_per_day / 86400.0
    )?;
    for Cost { what, usd, how } in &costs {
        writeln!(out, "{what:<18} {usd:>10.2} USD  {how}")?;
    }
    writeln!(out, "{:<18} {:>10.2} USD a month", "all", costs.iter().map(|cost| cost.usd).sum::<f64>())?;
    writeln!(
        out,
        "\nAssumed: us-east-1, list prices of 2026, on demand, no free tier; gateway endpoints for S3 and DynamoDB, so that no\n\
         NAT gateway carries the data; items below 1 KB; one engine task but for deployments; no retries, no rejects, no\n\
         point-in-time recovery, no taxes."
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files_per_day: f64) -> Load {
        Load {
            files_per_day,
            mb_per_file: 3.5,
            files_per_manifest: 200.0,
            input_days: 35.0,
            parquet_ratio: 0.3,
            worker_mb_per_sec: 100.0,
        }
    }

    fn usd(load: &Load, what: &str) -> f64 {
        costs(load).into_iter().find(|cost| cost.what == what).unwrap().usd
    }

    /// The names of a template's parameters, and whether each has a default.
    fn declared(template: &str) -> Vec<(&str, bool)> {
        let begin = template.find("\nParameters:\n").unwrap() + "\nParameters:\n".len();
        let block = &template[begin..];
        // A section begins at the first line that isn't indented.
        let end = block.find("\n\n").unwrap();
        let mut all: Vec<(&str, bool)> = Vec::new();
        for line in block[..end].lines() {
            if line.starts_with("  ") && !line.starts_with("   ") {
                all.push((line.trim().split(':').next().unwrap(), false));
            }
            all.last_mut().unwrap().1 |= line.contains("Default:");
        }
        all
    }

    #[test]
    fn the_parameters_fit_their_template_and_what_lacks_is_what_the_help_says() {
        for stack in [Stack::Data, Stack::Services] {
            let declared = declared(stack.template());
            for env in [Env::Dev, Env::Prod] {
                let given: Vec<&str> =
                    stack.parameters(env).lines().map(|line| line.split_once('=').unwrap().0).collect();
                for name in &given {
                    assert!(declared.iter().any(|(known, _)| known == name), "{stack:?} has no parameter {name}");
                }
                let lacks = declared.iter().filter(|(name, default)| !default && !given.contains(name));
                let lacks: Vec<&str> = lacks.map(|(name, _)| *name).collect();
                let expected: &[&str] = if stack == Stack::Data { &[] } else { &["Image", "VpcId", "SubnetIds"] };
                assert_eq!(lacks, expected, "{stack:?} {env:?}");
            }
        }
    }

    #[test]
    fn what_files_cost_grows_with_them_and_the_rest_stays() {
        let (one, ten) = (load(100_000.0), load(1_000_000.0));
        assert!((usd(&ten, "S3 input") / usd(&one, "S3 input") - 10.0).abs() < 1e-9);
        assert_eq!(usd(&one, "Fargate engine"), usd(&ten, "Fargate engine"));
        assert_eq!(usd(&one, "Fargate workers"), usd(&load(1.0), "Fargate workers"), "one worker is always there");
        // 3.5 M objects are kept, so 3,500 calls an hour at 5 USD a million, and little for reads.
        assert!((12.7..14.0).contains(&usd(&one, "Sweep")), "{}", usd(&one, "Sweep"));
        // 3.04 M files of 8 units and 15,200 manifests of 12, at 0.625 USD a million, and little for reads.
        assert!((15.0..18.0).contains(&usd(&one, "DynamoDB")), "{}", usd(&one, "DynamoDB"));
        // An idle table: 1.58 M renewals and 1.84 M listings; at most 2.63 M checkpoints more.
        let leases = |files_per_day| usd(&load(files_per_day), "DynamoDB leases");
        assert!((leases(0.0) - 1.22).abs() < 0.01, "{}", leases(0.0));
        assert!((leases(1e6) - leases(0.0) - 1.64).abs() < 0.01, "{}", leases(1e6));
    }
}
