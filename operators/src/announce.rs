//! `announce` and `alert`: publish ManifestReady, ManifestFailed and FilesFailed when a manifest enters the state that
//! owes them.

use std::marker::PhantomData;

use async_trait::async_trait;
use penstock_engine::{
    graph::{Access, Build, Built, Role, Use},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    model::{MANIFEST_KEY_PREFIX, ManifestItem, ManifestState, attribute, read_item},
    outbox::{Outbox, Owed, owed},
    record::{entered, read_change},
};

/// Options of `announce`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnounceOptions {
    /// The tracking table.
    pub table: String,
    /// The event bus.
    pub bus: String,
}

/// Options of `alert`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertOptions {
    /// The tracking table.
    pub table: String,
    /// The event bus.
    pub bus: String,
}

#[async_trait]
impl Build for AnnounceOptions {
    const NAME: &'static str = "announce";
    const ABOUT: &'static str = "Publishes ManifestReady for each committed manifest.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Change)
    }

    fn uses(&self) -> Vec<Use> {
        uses(&self.table, &self.bus)
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        build::<Announcements>(&self.table, &self.bus, context).await
    }
}

#[async_trait]
impl Build for AlertOptions {
    const NAME: &'static str = "alert";
    const ABOUT: &'static str = "Publishes ManifestFailed and FilesFailed, with the real error.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Change)
    }

    fn uses(&self) -> Vec<Use> {
        uses(&self.table, &self.bus)
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        build::<Alerts>(&self.table, &self.bus, context).await
    }
}

fn uses(table: &str, bus: &str) -> Vec<Use> {
    vec![Use::shared("table", table, &[Access::Get, Access::Update]), Use::shared("bus", bus, &[])]
}

async fn build<W: Watched>(table: &str, bus: &str, context: Context) -> Result<Built, OperatorError> {
    let bus = context.cloud.event_bus(bus).await?;
    bus.check().await?;
    let outbox = Outbox::new(context.cloud.table(table).await?, bus, context.clock);
    Ok(Built::Operator(Box::new(Publisher { outbox, watched: PhantomData::<fn() -> W> })))
}

/// Which states and events an operator looks for.
trait Watched: 'static {
    const OWED: Owed;
    const STATES: &'static [ManifestState];
}

struct Announcements;

impl Watched for Announcements {
    const OWED: Owed = Owed::Announcement;
    const STATES: &'static [ManifestState] = &[ManifestState::Pending];
}

struct Alerts;

impl Watched for Alerts {
    const OWED: Owed = Owed::Alert;
    const STATES: &'static [ManifestState] = &[ManifestState::Failed, ManifestState::Completed];
}

struct Publisher<W> {
    outbox: Outbox,
    watched: PhantomData<fn() -> W>,
}

#[async_trait]
impl<W: Watched> Operator for Publisher<W> {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        let change = read_change(record)?;
        if !change.key.sort.starts_with(MANIFEST_KEY_PREFIX) {
            return Ok(());
        }
        let Some(item) = W::STATES.iter().find_map(|state| entered(change, state.as_str())) else { return Ok(()) };
        if !item.contains_key(attribute::SCHEMA_VERSION) {
            return Ok(());
        }
        let manifest: ManifestItem = read_item("manifest", item)?;
        if owed(&manifest).contains(&W::OWED) {
            self.outbox.publish(&[(manifest, W::OWED)]).await?;
        }
        Ok(())
    }
}
