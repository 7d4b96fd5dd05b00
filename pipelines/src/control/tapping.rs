//! Records that pass an operator, sent to who wants to see them.

use std::io;

use penstock_engine::{
    cloud::pattern::Pattern,
    runtime::tap::{Passed, Way},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::broadcast::{Receiver, error::RecvError},
};

use super::{
    Hands,
    protocol::{Line, TapRequest, write_line},
};

/// What of a record's passing is shown.
struct Filter {
    wants_input: bool,
    pattern: Option<Pattern>,
    contains: Option<String>,
}

impl Filter {
    /// The line for a record, if it is to be shown.
    fn line(&self, passed: &Passed) -> Option<Value> {
        let way = match &passed.way {
            Way::In if self.wants_input => "in",
            Way::Out(output) if !self.wants_input => output.as_str(),
            _ => return None,
        };
        let record = passed.to_json();
        let is_wanted = self.pattern.as_ref().is_none_or(|pattern| pattern.matches(&record))
            && self.contains.as_ref().is_none_or(|text| record.to_string().contains(text.as_str()));
        is_wanted.then(|| json!({ "way": way, "record": record }))
    }
}

/// Shows records until there were enough, the service stops, or the other side goes away.
pub async fn show(
    hands: &Hands,
    request: &TapRequest,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Line> {
    let opened = open(hands, request);
    let (filter, mut passing) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Line::Failed(format!("{error:#}"))),
    };
    let (mut shown, mut skipped, mut gone) = (0_u64, 0_u64, [0_u8; 1]);
    while request.limit.is_none_or(|limit| shown < limit) {
        let passed = tokio::select! {
            passed = passing.recv() => passed,
            // A command says nothing more: what comes is its end.
            _ = from.read(&mut gone) => break,
        };
        match passed {
            Ok(passed) => {
                if let Some(line) = filter.line(&passed) {
                    write_line(to, &Line::Part(line)).await?;
                    shown += 1;
                }
            }
            Err(RecvError::Lagged(missed)) => {
                skipped += missed;
                write_line(to, &Line::Part(json!({ "skipped": missed }))).await?;
            }
            Err(RecvError::Closed) => break,
        }
    }
    Ok(Line::Done(json!({ "shown": shown, "skipped": skipped })))
}

fn open(hands: &Hands, request: &TapRequest) -> anyhow::Result<(Filter, Receiver<Passed>)> {
    let operators = hands.operators()?;
    let passing = operators.tap(&request.operator).ok_or_else(|| {
        anyhow::anyhow!("operator `{}` doesn't run in this process: it is another service's", request.operator)
    })?;
    let pattern = request.filter.as_ref().map(Pattern::parse).transpose().map_err(anyhow::Error::msg)?;
    let wants_input = request.input || hands.is_sink(&request.operator);
    Ok((Filter { wants_input, pattern, contains: request.contains.clone() }, passing))
}
