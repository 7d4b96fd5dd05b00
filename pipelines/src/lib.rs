//! Penstock's pipelines: the loader of their YAML, and the command line.
//!
//! - [`loader`]: from a file to a checked plan, or to all that is wrong with it; the JSON Schema for editors.
//! - [`home`]: where a pipeline lives; [`service`]: a pipeline that runs; [`landing`]: getting files into it; [`facts`], [`lag`]: how it stands.
//! - [`dashboard`]: what a person sees of it; [`observation`]: what watches over a service; [`telemetry`]: the metrics of the whole program.
//! - [`sample`]: files to try it with, right and wrong.
//! - [`cli`]: the commands of `penstock`.

pub mod cli;
pub mod dashboard;
pub mod facts;
pub mod home;
pub mod lag;
pub mod landing;
pub mod loader;
pub mod observation;
pub mod sample;
pub mod service;
pub mod telemetry;

pub use penstock_operators::registry;
