//! Records that pass an operator, for who wants to see them: over the control socket or over HTTP, by the same code.
//!
//! Who looks never holds up an operator: what can't be shown in time is skipped, counted and told.

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
    events::TapEnded,
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

/// A look at what passes an operator. It is counted when it ends, however that is.
pub struct Tapping {
    operator: String,
    filter: Filter,
    passing: Receiver<Passed>,
    limit: Option<u64>,
    shown: u64,
    skipped: u64,
}

impl Tapping {
    /// Looks from now on.
    pub fn open(hands: &Hands, request: &TapRequest) -> anyhow::Result<Self> {
        let operators = hands.operators()?;
        let passing = operators.tap(&request.operator).ok_or_else(|| {
            anyhow::anyhow!("operator `{}` doesn't run in this process: it is another service's", request.operator)
        })?;
        let pattern = request.filter.as_ref().map(Pattern::parse).transpose().map_err(anyhow::Error::msg)?;
        let wants_input = request.input || hands.is_sink(&request.operator);
        let filter = Filter { wants_input, pattern, contains: request.contains.clone() };
        let (operator, limit) = (request.operator.clone(), request.limit);
        Ok(Self { operator, filter, passing, limit, shown: 0, skipped: 0 })
    }

    /// The next part; nothing once there were enough, or the operator has ended.
    pub async fn next(&mut self) -> Option<Line> {
        while self.limit.is_none_or(|limit| self.shown < limit) {
            match self.passing.recv().await {
                Ok(passed) => {
                    if let Some(line) = self.filter.line(&passed) {
                        self.shown += 1;
                        return Some(Line::Part(line));
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    self.skipped += missed;
                    return Some(Line::Part(json!({ "skipped": missed })));
                }
                Err(RecvError::Closed) => break,
            }
        }
        None
    }

    /// The last line.
    pub fn end(&self) -> Line {
        Line::Done(json!({ "shown": self.shown, "skipped": self.skipped }))
    }
}

impl Drop for Tapping {
    fn drop(&mut self) {
        TapEnded { operator: &self.operator, shown: self.shown, skipped: self.skipped }.emit();
    }
}

/// Shows records until there were enough, the service stops, or the other side goes away.
pub async fn show(
    hands: &Hands,
    request: &TapRequest,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Line> {
    let mut tapping = match Tapping::open(hands, request) {
        Ok(tapping) => tapping,
        Err(error) => return Ok(Line::Failed(format!("{error:#}"))),
    };
    let mut gone = [0_u8; 1];
    loop {
        let line = tokio::select! {
            line = tapping.next() => line,
            // A command says nothing more: what comes is its end.
            _ = from.read(&mut gone) => None,
        };
        match line {
            Some(line) => write_line(to, &line).await?,
            None => return Ok(tapping.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use penstock_engine::operator::Body;
    use tokio::sync::broadcast::Sender;

    use super::*;

    fn tapping(passing: Receiver<Passed>, limit: Option<u64>) -> Tapping {
        let filter = Filter { wants_input: true, pattern: None, contains: Some("yes".to_owned()) };
        Tapping { operator: "fold".to_owned(), filter, passing, limit, shown: 0, skipped: 0 }
    }

    fn pass(to: &Sender<Passed>, number: usize, text: &str) {
        let body = Body::Value(Arc::new(json!({ "number": number, "text": text })));
        assert!(to.send(Passed { way: Way::In, body }).is_ok());
    }

    #[tokio::test]
    async fn i10_who_is_slow_is_told_what_was_skipped_and_the_last_line_counts_it() {
        let (sender, passing) = tokio::sync::broadcast::channel(4);
        let mut tapping = tapping(passing, None);
        (0..10).for_each(|number| pass(&sender, number, "yes"));
        assert_eq!(tapping.next().await, Some(Line::Part(json!({ "skipped": 6 }))));
        let record = json!({ "way": "in", "record": { "number": 6, "text": "yes" } });
        assert_eq!(tapping.next().await, Some(Line::Part(record)));
        drop(sender);
        for _ in 7..10 {
            assert!(tapping.next().await.is_some());
        }
        assert_eq!(tapping.next().await, None, "the operator has ended");
        assert_eq!(tapping.end(), Line::Done(json!({ "shown": 4, "skipped": 6 })));
    }

    #[tokio::test]
    async fn what_is_filtered_out_is_not_shown_and_a_limit_ends_it() {
        let (sender, passing) = tokio::sync::broadcast::channel(16);
        let mut tapping = tapping(passing, Some(1));
        pass(&sender, 0, "no");
        pass(&sender, 1, "yes");
        pass(&sender, 2, "yes");
        let record = json!({ "way": "in", "record": { "number": 1, "text": "yes" } });
        assert_eq!(tapping.next().await, Some(Line::Part(record)));
        assert_eq!(tapping.next().await, None);
    }
}
