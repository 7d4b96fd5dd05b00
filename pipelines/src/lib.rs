//! Penstock's command line and the loader of its pipelines.
pub mod loader;
