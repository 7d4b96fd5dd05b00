//! What a file costs, in requests of the cloud, stays within its bound. The figures of a larger run stand in
//! ARCHITECTURE.md; `cargo bench -p penstock-tests --bench cost` makes them.

use penstock_tests::cost;

#[test]
fn a_file_costs_three_writes_a_manifest_one_event_and_hardly_any_reads() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cost = runtime.block_on(cost::run(1200, 200)).unwrap();
    let told = format!("{cost:#?}");
    assert_eq!(cost.counts.file_writes, 3 * cost.files, "writes of files' items: {told}");
    // Seven a manifest, and one of the schema.
    assert!(cost.counts.other_writes <= 7 * cost.manifests + 2, "writes of manifests: {told}");
    assert!(cost.reads_per_file() <= 0.1, "reads of the tracking table: {told}");
    let entries: Vec<(&str, u64)> = cost.counts.events.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(entries, [("ManifestReady", cost.manifests)], "{told}");
}
