//! What a person does to shards: it takes effect whoever reads them, and loses nothing that wasn't asked to be lost.

use std::sync::Arc;

use super::bed::{Bed, done, options, secs};
use crate::{
    cloud::{Table, change_stream::ShardId},
    simulation::sequence,
    streams::{
        operate::{self, ResetTo, SeenShard, Step, Stepped},
        shard_item::Ending,
    },
};

async fn look(bed: &Bed) -> (Arc<dyn Table>, Vec<SeenShard>) {
    let (table, _) = bed.table.host();
    let seen = operate::look(Arc::new(bed.stream.clone()), &*table).await.unwrap();
    (table, seen)
}

async fn carry_out(table: &dyn Table, steps: Vec<Step>) {
    for step in steps {
        assert_eq!(operate::carry_out(table, &step).await.unwrap(), Stepped::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_reset_under_its_reader_is_read_from_there_and_the_reader_cannot_set_it_back() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..20, 5);
    let worker = bed.worker("a", options(), done());
    secs(5).await;
    for (to, again) in [(ResetTo::Sequence(sequence(115)), 5), (ResetTo::TrimHorizon, 20)] {
        bed.log.lock().unwrap().clear();
        let (table, seen) = look(&bed).await;
        assert_eq!((seen[0].state(), seen[0].owner.as_deref()), ("held", Some("a")));
        let steps = operate::plan_reset(&seen, Some(&shard), &to, 0).unwrap();
        assert_eq!(steps[0].owner.as_deref(), Some("a"));
        carry_out(&*table, steps).await;
        secs(15).await;
        assert_eq!(bed.values(), (20 - again..20).collect::<Vec<_>>(), "{to:?}");
        assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(120)));
    }
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn all_shards_can_be_read_once_more_and_latest_passes_over_what_is_there() {
    let bed = Bed::new();
    let parent = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    bed.stream.split(&parent, 2);
    bed.put(10..20, 5);
    let worker = bed.worker("a", options(), done());
    secs(5).await;
    worker.stop().await;

    let (table, seen) = look(&bed).await;
    let alone = operate::plan_reset(&seen, Some(&parent), &ResetTo::TrimHorizon, 0).unwrap_err();
    assert!(alone.contains("has been begun"), "{alone}");
    let everywhere = operate::plan_reset(&seen, None, &ResetTo::Sequence(sequence(1)), 0).unwrap_err();
    assert!(everywhere.contains("--shard"), "{everywhere}");
    let outside = operate::plan_reset(&seen, Some(&bed.stream.open_shards()[0]), &ResetTo::Sequence(sequence(1)), 0);
    assert!(outside.unwrap_err().contains("goes from"));

    bed.log.lock().unwrap().clear();
    carry_out(&*table, operate::plan_reset(&seen, None, &ResetTo::TrimHorizon, 1_770_000_000).unwrap()).await;
    let worker = bed.worker("a", options(), done());
    secs(10).await;
    bed.check_order(0..20);
    worker.stop().await;

    bed.log.lock().unwrap().clear();
    bed.put(20..30, 5);
    let (table, seen) = look(&bed).await;
    carry_out(&*table, operate::plan_reset(&seen, None, &ResetTo::Latest, 0).unwrap()).await;
    let worker = bed.worker("a", options(), done());
    secs(10).await;
    bed.put(30..40, 5);
    secs(10).await;
    let mut values = bed.values();
    values.sort_unstable();
    assert_eq!(values, (30..40).collect::<Vec<_>>());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn checkpoints_are_carried_over_to_another_table_of_leases() {
    let bed = Bed::new();
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), done());
    secs(5).await;
    worker.stop().await;
    let (table, seen) = look(&bed).await;
    let export = operate::export("t", &seen, "now".into());
    let text = serde_json::to_string(&export).unwrap();
    let export: operate::Export = serde_json::from_str(&text).unwrap();
    assert!(operate::plan_import(&export, "t", &seen).unwrap().is_empty(), "it says so already");
    assert!(operate::plan_import(&export, "u", &seen).unwrap_err().contains("of table t"));

    for shard in &seen {
        bed.table.remove(&shard.arn, &shard.shard.0);
    }
    let (_, seen) = look(&bed).await;
    assert_eq!(seen[0].state(), "free");
    carry_out(&*table, operate::plan_import(&export, "t", &seen).unwrap()).await;
    bed.put(10..20, 5);
    let worker = bed.worker("b", options(), done());
    secs(5).await;
    assert_eq!(bed.values(), (0..20).collect::<Vec<_>>(), "nothing twice");
    worker.stop().await;
    bed.stream.enable();
    bed.stream.forget_oldest();
    let (_, seen) = look(&bed).await;
    assert!(operate::plan_import(&export, "t", &seen).unwrap_err().contains("none of its streams"));
}

#[tokio::test(start_paused = true)]
async fn releasing_frees_what_is_held_and_says_why_a_shard_waits() {
    let bed = Bed::new();
    let parent = bed.stream.open_shards().remove(0);
    let child = bed.stream.split(&parent, 1).remove(0);
    let never = Arc::new(|_: &crate::cloud::change_stream::Change, ack: crate::ack::Ack| std::mem::forget(ack));
    bed.put(0..3, 1);
    let (_, seen) = look(&bed).await;
    let find = |seen: &[SeenShard], id: &ShardId| seen.iter().find(|seen| seen.shard == *id).cloned().unwrap();
    assert_eq!(find(&seen, &child).state(), "waiting");
    assert!(find(&seen, &child).reason.unwrap().contains(&parent.0));
    let worker = bed.worker("a", options(), never);
    secs(5).await;
    worker.crash().await;
    let (table, seen) = look(&bed).await;
    let steps = operate::plan_release(&seen, None).unwrap();
    assert_eq!(steps.len(), 1);
    carry_out(&*table, steps).await;
    let worker = bed.worker("b", options(), done());
    secs(10).await;
    bed.check_order(0..3);
    worker.stop().await;
}

/// The checkpoint would have been set back to the one that was looked at, and what came since would have come again; or the end
/// would have been forgotten, and the whole shard read again.
#[tokio::test(start_paused = true)]
async fn i5_releasing_a_shard_that_is_read_on_meanwhile_sets_nothing_back() {
    let bed = Bed::new();
    let shard = bed.stream.open_shards().remove(0);
    bed.put(0..10, 5);
    let worker = bed.worker("a", options(), done());
    secs(5).await;
    let (table, seen) = look(&bed).await;
    let steps = operate::plan_release(&seen, Some(&shard)).unwrap();
    let reset = operate::plan_reset(&seen, Some(&shard), &ResetTo::TrimHorizon, 0).unwrap();
    bed.put(10..20, 5);
    secs(5).await;
    carry_out(&*table, steps.clone()).await;
    assert_eq!(bed.item(&shard).unwrap().checkpoint, Some(sequence(120)));
    secs(20).await;
    assert_eq!(worker.owned(), 1, "it is taken anew");

    let child = bed.stream.split(&shard, 1).remove(0);
    secs(5).await;
    carry_out(&*table, steps).await;
    let ended = bed.item(&shard).unwrap();
    assert_eq!((ended.ended, ended.children), (Some(Ending::Read), vec![child]));
    assert_eq!(operate::carry_out(&*table, &reset[0]).await.unwrap(), Stepped::Ended);
    assert_eq!(bed.item(&shard).unwrap().ended, Some(Ending::Read), "that would have read it twice");
    bed.put(20..30, 5);
    secs(5).await;
    assert_eq!(bed.values(), (0..30).collect::<Vec<_>>(), "nothing twice");
    worker.stop().await;
}
