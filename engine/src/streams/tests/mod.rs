//! Consumers on a fake stream, a fake table of leases and a paused clock. Named for the failures they meet.

mod assignment;
mod bed;
mod failures;
mod simulation;
mod workers;
