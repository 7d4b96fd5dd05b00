//! Asked in process.
