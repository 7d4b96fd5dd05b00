//! The operators of Penstock's NDJSON-to-Parquet pipeline, and [general] ones.
//!
//! Each reacts to messages or changes and makes its own conditional writes; none calls another. What may be written,
//! by whom and on which condition is the table of [`transitions`].

pub mod admit;
pub mod announce;
pub mod attempt;
pub mod convert;
mod events;
pub mod fold;
pub mod general;
pub mod landing;
pub mod model;
pub mod outbox;
pub mod record;
pub mod settle;
pub mod spans;
pub mod sweep;
pub mod telemetry;
pub mod track;
pub mod transitions;

use penstock_engine::{graph::Registry, queue_source::QueueOptions, streams::ChangeStreamOptions};

/// Every type of operator that a pipeline may name.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry
        .add::<QueueOptions>()
        .add::<ChangeStreamOptions>()
        .add::<landing::LandingOptions>()
        .add::<admit::AdmitOptions>()
        .add::<track::TrackOptions>()
        .add::<track::QuarantineOptions>()
        .add::<fold::FoldOptions>()
        .add::<announce::AnnounceOptions>()
        .add::<announce::AlertOptions>()
        .add::<settle::SettleOptions>()
        .add::<attempt::AttemptOptions>()
        .add::<sweep::SweepOptions>()
        .add::<general::FilterOptions>()
        .add::<general::S3NdjsonOptions>()
        .add::<general::SqsOptions>()
        .add::<general::EventBridgeOptions>()
        .add::<general::LogOptions>()
        .add::<general::DropOptions>();
    registry
}
