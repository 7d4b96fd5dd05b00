//! Penstock's pipelines: the loader of their YAML, and the command line.
//!
//! - [`loader`]: from a file to a checked plan, or to all that is wrong with it; the JSON Schema for editors.
//! - [`cli`]: the commands of `penstock`.

pub mod cli;
pub mod loader;

use penstock_engine::graph::Registry;

/// The types of operator that a pipeline may name.
pub fn registry() -> Registry {
    Registry::default()
}
