//! Consumers on a fake stream, a fake table of leases and a paused clock. Named for the failures they meet.

mod assignment;
mod bed;
mod local;
mod model;
mod reading;
mod records;
mod shards;
mod simulation;
mod workers;
