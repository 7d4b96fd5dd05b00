//! What to do about changes that were trimmed away before they were read (F12, F13, F33). No I/O.

use super::{options::OnTrimmed, shard_item::Gap};
use crate::cloud::change_stream::SequenceNumber;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The records behind our place are older than the stream keeps.
    Trimmed,
    /// The shard is gone, or its whole stream.
    ShardGone,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing was lost that anybody had begun to read: begin at the oldest record again.
    BeginAgain,
    /// Nobody was to read it, and it is gone: there is nothing left to do.
    EndQuietly,
    /// Record the gap, and read on at the oldest record.
    ReadOn(Gap),
    /// Record the gap; there is nothing left to read.
    End(Gap),
    /// Record the gap, and stop until a person decides.
    Stop(Gap),
}

/// Decides by the policy. `last_read` is the last change that was read of the shard, now or before. `owed`: all that the
/// shard ever held is to be read, because it was known before or continues a shard that was.
pub fn on_loss(
    policy: OnTrimmed,
    loss: Loss,
    last_read: Option<&SequenceNumber>,
    owed: bool,
    found_at: String,
) -> Step {
    // A first start owes nothing older than the stream keeps at that moment.
    if last_read.is_none() && !owed {
        return match loss {
            Loss::Trimmed => Step::BeginAgain,
            Loss::ShardGone => Step::EndQuietly,
        };
    }
    let gap = Gap { from: last_read.cloned(), to: None, found_at, policy: policy.text().to_owned() };
    match (policy, loss) {
        (OnTrimmed::Stop, _) => Step::Stop(gap),
        (OnTrimmed::Skip | OnTrimmed::Reconcile, Loss::Trimmed) => Step::ReadOn(gap),
        (OnTrimmed::Skip | OnTrimmed::Reconcile, Loss::ShardGone) => Step::End(gap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lost changes would have gone unnoticed, because reading just goes on.
    #[test]
    fn f12_only_a_policy_that_says_so_passes_over_a_gap() {
        let last = SequenceNumber("41".into());
        let step = |policy, loss| on_loss(policy, loss, Some(&last), true, "now".into());
        assert!(matches!(step(OnTrimmed::default(), Loss::Trimmed), Step::Stop(gap) if gap.from == Some(last.clone())));
        assert!(matches!(step(OnTrimmed::Skip, Loss::Trimmed), Step::ReadOn(gap) if gap.policy == "skip"));
        assert!(matches!(step(OnTrimmed::Reconcile, Loss::Trimmed), Step::ReadOn(_)));
        assert!(matches!(step(OnTrimmed::Skip, Loss::ShardGone), Step::End(_)));
        assert!(matches!(step(OnTrimmed::Stop, Loss::ShardGone), Step::Stop(_)));
    }

    /// A loss would have been overlooked, or an alarm raised for changes that nobody was to read.
    #[test]
    fn f12_f33_a_shard_that_was_never_read_is_a_loss_only_where_it_is_owed() {
        let step = |loss, owed| on_loss(OnTrimmed::Stop, loss, None, owed, "now".into());
        assert_eq!(step(Loss::Trimmed, false), Step::BeginAgain);
        assert_eq!(step(Loss::ShardGone, false), Step::EndQuietly);
        for loss in [Loss::Trimmed, Loss::ShardGone] {
            assert!(matches!(step(loss, true), Step::Stop(gap) if gap.from.is_none()));
        }
    }
}
