//! Objects of the input bucket that no item knows of: a notification was lost.
//!
//! A listing is the dearest thing that a sweep does, and the least often needed. So it is made more seldom than a sweep,
//! last in it, and for half the time between two of them; then it goes on at the next one. Each object that it shows is
//! looked for in the table, which costs half a read unit, and only one that isn't known is asked of the bucket and handed
//! on. That may be a stale reading: a version that has had an item is known for as long as the listing looks back.

use std::pin::pin;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{
    StreamExt,
    future::ready,
    stream::{BoxStream, Fuse},
};
use object_store::{ObjectMeta, path::Path};
use penstock_engine::{
    cloud::CloudError,
    operator::{Body, MAIN_OUTPUT, OperatorError, Outputs},
};
use tokio::time::Instant;

use super::{
    Sweep,
    events::ObjectsListed,
    finds::{Finds, Outcome},
    handed_on::HandedOn,
};
use crate::{fold::protocol::unquoted, model::ObjectEvent, record::to_value};

/// Objects that are looked up at once.
const LOOKUPS: usize = 32;

/// One listing of the input prefix, from sweep to sweep.
pub(super) struct Round {
    objects: Fuse<BoxStream<'static, object_store::Result<ObjectMeta>>>,
    /// Only objects that were last written from here on,
    from: DateTime<Utc>,
    /// and before there, are looked at.
    until: DateTime<Utc>,
    /// Objects that couldn't be looked up or handed on.
    failed: u64,
}

/// What became of an object that was listed.
enum Looked {
    /// An item knows it.
    Known,
    /// It was gone by then.
    Gone,
    /// None knows it.
    Missed(ObjectEvent),
}

impl Sweep {
    /// Lists the input bucket where that is due, or goes on with it, and hands on what no item knows.
    pub(super) async fn land_missed(
        &mut self,
        round: &mut Option<Round>,
        out: &mut Outputs,
        finds: &mut Finds,
    ) -> Result<(), OperatorError> {
        let is_due = self.listed_at.is_none_or(|at| at.elapsed() >= self.options.list_every);
        if round.is_none() && is_due {
            self.listed_at = Some(Instant::now());
            *round = Some(self.begin());
        }
        let Some(mut listing) = round.take() else { return Ok(()) };
        listing.failed += self.go_on(&mut listing, out, finds).await?;
        if !listing.objects.is_done() {
            *round = Some(listing);
        } else if listing.failed == 0 {
            // Where something failed the next listing looks again: the mark moves only over what was all handed on.
            self.mark = Some(listing.until);
        }
        Ok(())
    }

    fn begin(&self) -> Round {
        let now = self.clock.now();
        let oldest = now - TimeDelta::from_std(self.options.lookback).unwrap_or(TimeDelta::MAX);
        let prefix = Path::from(self.options.input_prefix.trim_end_matches('/'));
        Round {
            objects: self.input.store.list(Some(&prefix)).fuse(),
            from: self.mark.map_or(oldest, |mark| (mark - self.grace()).max(oldest)),
            until: now - self.grace(),
            failed: 0,
        }
    }

    /// One part of a listing. How many objects couldn't be looked up or handed on: they keep no other from landing.
    async fn go_on(&self, listing: &mut Round, out: &mut Outputs, finds: &mut Finds) -> Result<u64, OperatorError> {
        let Round { objects, from, until, .. } = listing;
        let window = *from..*until;
        let is_asked = |object: &ObjectMeta| window.contains(&object.last_modified);
        let looked_up = objects
            .take_until(tokio::time::sleep(self.options.every / 2))
            .filter(|listed| ready(listed.as_ref().map_or(true, is_asked)))
            .map(|listed| self.look_up(listed))
            .buffer_unordered(LOOKUPS);
        let mut looked_up = pin!(looked_up);
        let (mut handed_on, mut listed) = (HandedOn::new(), ObjectsListed::default());
        while let Some(looked) = looked_up.next().await {
            match looked {
                Ok(Looked::Known) => listed.known += 1,
                Ok(Looked::Gone) => listed.gone += 1,
                Ok(Looked::Missed(event)) => {
                    listed.missed += 1;
                    out.emit_to(MAIN_OUTPUT, Body::Value(to_value(&event)?), handed_on.next(event.key)).await;
                }
                Err((key, error)) => {
                    listed.failed += 1;
                    finds.note("object", Outcome::Failed, error.to_string(), &key);
                }
            }
            handed_on.note_answered(finds);
        }
        out.flush().await;
        let failed = listed.failed + handed_on.note_all(finds).await;
        listed.emit();
        Ok(failed)
    }

    async fn look_up(&self, listed: object_store::Result<ObjectMeta>) -> Result<Looked, (String, OperatorError)> {
        let listed = listed.map_err(|error| (self.options.input_prefix.clone(), CloudError::from(error).into()))?;
        let key = listed.location.to_string();
        self.look_for(listed).await.map_err(|error| (key, error))
    }

    async fn look_for(&self, listed: ObjectMeta) -> Result<Looked, OperatorError> {
        let mut event = ObjectEvent {
            bucket: self.input.name.clone(),
            key: listed.location.to_string(),
            size_bytes: listed.size,
            etag: listed.e_tag.as_deref().map(unquoted),
            sequencer: None,
            version_id: None,
            event_ms: listed.last_modified.timestamp_millis(),
            reason: None,
        };
        if event.etag.is_some() && self.tracker.knows(&event).await? {
            return Ok(Looked::Known);
        }
        // A listing is of its own moment, tells of no versions, and where a bucket is a folder of no etags either.
        let Some(head) = self.input.stage.head(&event.key).await? else { return Ok(Looked::Gone) };
        let was_asked = event.etag.as_ref() == Some(&head.etag);
        event.size_bytes = head.size_bytes;
        event.etag = Some(head.etag);
        event.version_id = head.version;
        event.event_ms = head.last_modified.timestamp_millis();
        let is_known = !was_asked && self.tracker.knows(&event).await?;
        Ok(if is_known { Looked::Known } else { Looked::Missed(event) })
    }
}
