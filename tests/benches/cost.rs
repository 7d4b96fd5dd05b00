//! What a file costs in requests: `cargo bench -p penstock-tests --bench cost -- --files 10000`.
//!
//! Counted at the seam, in a run of the whole pipeline on the local cloud. The figures stand in ARCHITECTURE.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use clap::Parser;
use penstock_tests::cost;

/// Counts the requests of a run.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many files.
    #[arg(long, default_value_t = 10_000)]
    files: usize,
    /// Files of a manifest.
    #[arg(long, default_value_t = 200)]
    max_files: usize,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let cost = runtime.block_on(cost::run(arguments.files, arguments.max_files))?;
    println!("{} files in {} manifests, {:.1} s", cost.files, cost.manifests, cost.took.as_secs_f64());
    println!(
        "writes of the tracking table: {:.3} a file ({:.3} of files' items)",
        cost.writes_per_file(),
        cost.per_file(cost.counts.file_writes)
    );
    println!("reads of the tracking table:  {:.3} a file", cost.reads_per_file());
    println!("requests for leases:          {:.3} a file", cost.per_file(cost.counts.lease_requests));
    for (detail_type, entries) in &cost.counts.events {
        println!("{detail_type}: {entries} entries in {} calls", cost.counts.event_calls);
    }
    for ((transition, outcome), count) in &cost.counts.transitions {
        println!("  {transition}, {outcome}: {count} ({:.4} a file)", cost.per_file(*count));
    }
    for (name, count) in &cost.counts.others {
        println!("  {name}: {count} ({:.4} a file)", cost.per_file(*count));
    }
    Ok(())
}
