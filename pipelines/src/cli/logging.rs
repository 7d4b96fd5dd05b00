//! Logs, always to stderr: for people on a terminal, else one JSON object a line.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::shows_colours;

/// Starts logging by a filter that `valid_filter` has seen.
pub fn start_logging(filter: &str) {
    let filter = EnvFilter::new(filter);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        logs.with_ansi(shows_colours(&io::stderr())).with_target(false).init();
    } else {
        logs.json().flatten_event(true).init();
    }
}

/// Checks a filter.
pub fn valid_filter(filter: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(filter) {
        Ok(_) => Ok(filter.to_owned()),
        Err(error) => {
            Err(format!("{error}: write error, warn, info, debug, trace or a filter like `info,penstock=debug`"))
        }
    }
}
