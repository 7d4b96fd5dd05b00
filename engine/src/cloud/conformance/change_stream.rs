//! Soon.
/// Soon.
pub trait StreamControl {}
