//! The operators of Penstock's NDJSON-to-Parquet pipeline.
//!
//! Each reacts to messages or changes and makes its own conditional writes; none calls another. What may be written,
//! by whom and on which condition is the table of ARCHITECTURE.md's chapter on state machines.

pub mod model;
