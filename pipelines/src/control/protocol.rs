//! What goes over the control socket: a request, a line of JSON, and the lines that answer it.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::oncall::redrive;

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// The longest request.
pub const MAX_REQUEST_BYTES: u64 = 256 * 1024;

/// The longest line of an answer.
pub const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The version that its sender speaks.
    pub version: u32,
    /// What to do.
    pub command: Command,
}

/// What a person wants done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Say who you are.
    Hello {},
    /// Ask for a flush of a date.
    Flush {
        /// The date.
        date: String,
    },
    /// Say how the operators of this process are.
    Look {},
    /// Show records as they pass an operator: a part each.
    Tap(TapRequest),
    /// Redrive files or dead letters.
    Redrive(redrive::Request),
}

/// Which records to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapRequest {
    /// The operator.
    pub operator: String,
    /// Those that go in; else, of all but sinks, those that go out.
    #[serde(default)]
    pub input: bool,
    /// At most so many.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Only those that match this event pattern.
    #[serde(default)]
    pub filter: Option<Value>,
    /// Only those whose JSON holds this text.
    #[serde(default)]
    pub contains: Option<String>,
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// One of several things, before the end.
    Part(Value),
    /// The end: it was done, and this came of it.
    Done(Value),
    /// The end: it was not done.
    Failed(String),
}

/// Reads a line of at most `limit` bytes as `T`; `None` when the other side ended without one.
pub async fn read_line<T: for<'de> Deserialize<'de>>(
    from: &mut (impl AsyncBufRead + Unpin),
    limit: u64,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(limit + 1).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    if line.last() != Some(&b'\n') {
        let what = if line.len() as u64 > limit { "is longer than" } else { "was cut short, within" };
        return Err(invalid(format!("the line {what} {limit} bytes")));
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| invalid(format!("the line can't be understood: {error}")))
}

/// Writes a line.
pub async fn write_line(to: &mut (impl AsyncWrite + Unpin), line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    to.write_all(&text).await?;
    to.flush().await
}
