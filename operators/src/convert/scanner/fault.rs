//! What can be wrong with a line.

use std::fmt;

/// Why a line is no row. Positions are bytes from the line's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    NotUtf8,
    TooLong,
    NotAnObject,
    TooDeep { at: usize },
    LoneSurrogate { at: usize },
    Invalid { at: usize, what: &'static str },
}

impl Fault {
    pub(super) fn invalid<T>(at: usize, what: &'static str) -> Result<T, Self> {
        Err(Self::Invalid { at, what })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::TooLong => f.write_str("line too long"),
            Self::NotAnObject => f.write_str("not a JSON object"),
            Self::TooDeep { at } => write!(f, "nested too deeply at byte {at}"),
            Self::LoneSurrogate { at } => write!(f, "lone surrogate at byte {at}"),
            Self::Invalid { at, what } => write!(f, "invalid JSON at byte {at}: {what}"),
        }
    }
}
