//! Penstock's pipelines: the loader of their YAML, and the command line.
//!
//! - [`loader`]: from a file to a checked plan, or to all that is wrong with it; the JSON Schema for editors.
//! - [`home`]: where a pipeline lives; [`service`]: a pipeline that runs; [`landing`]: getting files into it; [`facts`], [`lag`]: how it stands.
//! - [`config_test`]: tests of a pipeline's YAML.
//! - [`adopt`]: taking over the previous system's table.
//! - [`dashboard`]: what a person sees of it; [`observation`]: what watches over a service; [`telemetry`]: the metrics of the whole program.
//! - [`sample`]: files to try it with, right and wrong.
//! - [`token`]: who may do more than look at a process over HTTP.
//! - [`oncall`]: what the person on call does and asks; [`control`]: which process does it.
//! - [`mod@reference`]: the references in `docs/`, made from the types.
//! - [`cli`]: the commands of `penstock`.

pub mod adopt;
mod allocator;
pub mod cli;
pub mod config;
pub mod config_test;
pub mod control;
pub mod dashboard;
pub mod facts;
pub mod home;
pub mod lag;
pub mod landing;
pub mod loader;
pub mod observation;
pub mod oncall;
pub mod reference;
pub mod sample;
pub mod service;
pub mod telemetry;
pub mod token;
pub mod words;

pub use penstock_operators::registry;
