//! A pipeline's configuration, as people look at it.

pub mod echo;
mod secrets;

pub use secrets::masked;
