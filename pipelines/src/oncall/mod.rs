//! What the person on call does to a pipeline and asks of it. Each is a function on the seam's traits, so that it is the
//! same on one machine and on AWS; [`control`](crate::control) decides which process carries a write out.
//!
//! - [`find`]: the item that a person means.
//! - [`flush`]: close manifests of a date now.
//! - [`redrive`]: set failed or quarantined files back to pending, send dead letters back.
//! - [`trace`]: the whole story of a file or a manifest.
//! - [`verify`]: whether a day adds up.

pub mod find;
pub mod flush;
mod layout;
pub mod redrive;
pub mod trace;
pub mod verify;

pub use layout::Layout;
