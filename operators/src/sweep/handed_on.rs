//! The verdicts on what the listing of a bucket handed on.

use penstock_engine::ack::{Ack, Verdict};
use tokio::sync::mpsc;

use super::finds::{Finds, Outcome};

/// Objects that were handed on, and their verdicts. These are taken as they come: a listing may be of millions.
pub(super) struct HandedOn {
    sender: mpsc::UnboundedSender<(u64, Verdict)>,
    verdicts: mpsc::UnboundedReceiver<(u64, Verdict)>,
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    emitted: u64,
    failed: u64,
    last_key: String,
}

impl HandedOn {
    pub fn new() -> Self {
        let (sender, verdicts) = mpsc::unbounded_channel();
        Self { sender, verdicts, counted: Counted::default() }
    }

    /// The ack of the next object.
    pub fn next(&mut self, key: String) -> Ack {
        self.counted.emitted += 1;
        self.counted.last_key = key;
        Ack::new(self.counted.emitted, self.sender.clone())
    }

    /// Notes the verdicts that have come.
    pub fn note_answered(&mut self, finds: &mut Finds) {
        while let Ok((_, verdict)) = self.verdicts.try_recv() {
            self.counted.note(verdict, finds);
        }
    }

    /// Waits for all verdicts, and notes them. How many objects failed.
    pub async fn note_all(self, finds: &mut Finds) -> u64 {
        let Self { sender, mut verdicts, mut counted } = self;
        // The channel ends once nobody may send any more.
        drop(sender);
        while let Some((_, verdict)) = verdicts.recv().await {
            counted.note(verdict, finds);
        }
        counted.failed
    }
}

impl Counted {
    fn note(&mut self, verdict: Verdict, finds: &mut Finds) {
        match verdict {
            Verdict::Done => {
                let why = "no item knew it: handed on to track";
                finds.note("object", Outcome::Done, why, &self.last_key);
            }
            Verdict::Retry(error) | Verdict::Dead(error) => {
                self.failed += 1;
                finds.note("object", Outcome::Failed, error, &self.last_key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn i9_verdicts_on_what_a_listing_hands_on_do_not_pile_up() {
        let (mut handed_on, mut finds) = (HandedOn::new(), Finds::default());
        let mut late = None;
        for number in 0..10_000 {
            let ack = handed_on.next(format!("f{number}"));
            match number {
                7 => late = Some(ack),
                8 => ack.settle(Verdict::Dead("it is poison".to_owned())),
                _ => ack.settle(Verdict::Done),
            }
            handed_on.note_answered(&mut finds);
            assert_eq!(handed_on.verdicts.len(), 0, "verdicts wait to be read");
        }
        assert_eq!(finds.count("object", Outcome::Done), 9998);
        // One that is dropped without a verdict has failed.
        drop(late);
        assert_eq!(handed_on.note_all(&mut finds).await, 2);
        assert_eq!(finds.count("object", Outcome::Failed), 2);
    }
}
