//! Everything that is `unsafe` in the conversion, alone: the modules themselves, with their tests.
//!
//! ```sh
//! cd tests/miri
//! # Undefined behaviour, without the checks of debug builds, and with the vectors of newer processors.
//! export MIRIFLAGS=-Zmiri-disable-isolation RUSTFLAGS='-Ctarget-feature=+avx2' PROPTEST_CASES=16
//! cargo +nightly miri test --release
//! # The vectors of another architecture: by Miri again, which needs no such processor.
//! RUSTFLAGS= cargo +nightly miri test --release --target aarch64-unknown-linux-gnu plain
//! cargo check --target aarch64-unknown-linux-gnu
//! ```

#![allow(dead_code, missing_docs)]

#[path = "../../operators/src/convert/scanner/column.rs"]
mod column;
#[path = "../../operators/src/convert/scanner/plain.rs"]
pub mod plain;
