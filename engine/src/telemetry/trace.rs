//! The trace of a manifest: one id for everything that any service logs of it.
//!
//! The id is made from the manifest's id, so nobody has to carry it: not the table, not an event, not a queue. Whoever has the
//! name of a manifest has its trace.

use md5::{Digest, Md5};

/// The trace id of whatever goes by this name: 32 hex digits, as W3C's trace context and OpenTelemetry write them.
pub fn trace_id(name: &str) -> String {
    hex(&Md5::digest(name.as_bytes()))
}

/// The id of one step within a trace: 16 hex digits, the same whoever makes it.
pub fn span_id(name: &str, step: &str) -> String {
    hex(&Md5::digest(format!("{name}\n{step}").as_bytes())[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_trace_id_for_ever() {
        // What another release or service makes of the same name must not change.
        assert_eq!(trace_id("batch-0001-20260201-120000-7f3a9c"), "e424a24cc0f208e566d3c174047a31ca");
        assert_eq!(span_id("batch-0001-20260201-120000-7f3a9c", "convert/1").len(), 16);
        assert_ne!(span_id("a", "b"), span_id("a", "c"));
    }
}
