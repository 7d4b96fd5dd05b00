//! `penstock top`: a pipeline that runs, live on a screen.
//!
//! Every second it looks: at the service's operators over the control socket, at the table, the queues and the readers'
//! lag beside it. What it sees becomes a [`screen::Screen`], and that is drawn; only this module does I/O.

mod screen;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use penstock_engine::units::parse_duration;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde::Deserialize;
use tokio::sync::mpsc;

use self::screen::{Operator, Screen};
use super::{App, Exit, place::PlaceArguments};
use crate::{
    control::{Client, protocol::Command},
    facts::{COUNTED_ITEMS, Facts, TRACKING_TABLE, queue_depths},
    lag,
    loader::Pipeline,
};

/// How often a key is looked for.
const KEY_WAIT: Duration = Duration::from_millis(200);

/// Show a pipeline that runs, live: operators with their rates, dates, queues, lag and trouble. `q` ends it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// How often to look.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    every: Duration,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, _out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    if !std::io::stdout().is_terminal() {
        bail!("top needs a terminal; `penstock status --watch` writes to anything");
    }
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    // The first look before the screen is taken: what is wrong is told in plain text.
    let mut looker = Looker::default();
    let first = runtime.block_on(looker.look(&arguments.place, &mut pipeline))?;
    let mut terminal = ratatui::init();
    let ended = runtime.block_on(async {
        let mut keys = keys();
        let mut screen = first;
        loop {
            terminal.draw(|frame| screen::draw(frame, &screen)).context("the screen can't be drawn")?;
            let wait = tokio::time::sleep(arguments.every);
            tokio::select! {
                key = keys.recv() => match key {
                    Some(Key::Quit) | None => return anyhow::Ok(()),
                    Some(Key::Redraw) => continue,
                },
                () = wait => {}
            }
            match looker.look(&arguments.place, &mut pipeline).await {
                Ok(seen) => screen = seen,
                Err(error) => screen.problem = Some(format!("{error:#}")),
            }
        }
    });
    ratatui::restore();
    ended.map(|()| Exit::Ok)
}

/// What a person did.
enum Key {
    Quit,
    Redraw,
}

/// Reads the keyboard in a thread of its own, until nobody listens.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let key = match event::poll(KEY_WAIT) {
                Ok(true) => match event::read() {
                    Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                        let is_ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                        let is_quit = is_ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
                        is_quit.then_some(Key::Quit)
                    }
                    Ok(Event::Resize(..)) => Some(Key::Redraw),
                    Ok(_) => None,
                    Err(_) => Some(Key::Quit),
                },
                Ok(false) => None,
                Err(_) => Some(Key::Quit),
            };
            if key.is_some_and(|key| sender.blocking_send(key).is_err()) {
                return;
            }
        }
    });
    receiver
}

/// Looks, and remembers the look before: rates are between two looks.
#[derive(Default)]
struct Looker {
    before: Option<(Instant, BTreeMap<String, Measured>)>,
}

/// An operator, as the control socket tells it.
#[derive(Debug, Clone, Deserialize)]
struct Seen {
    id: String,
    state: State,
    measured: Measured,
}

#[derive(Debug, Clone, Deserialize)]
struct State {
    state: String,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Measured {
    received: u64,
    sent: u64,
    errors: u64,
    buffer_batches: usize,
    buffer_capacity_batches: usize,
    busy_seconds: f64,
    blocked_seconds: f64,
    instances: usize,
}

impl Looker {
    async fn look(&mut self, place: &PlaceArguments, pipeline: &mut Pipeline) -> anyhow::Result<Screen> {
        let (seen, problem) = match place.local_dir() {
            Some(dir) => match Client::connect(dir).await? {
                Some(client) => (serde_json::from_value(client.ask(&Command::Look {}).await?)?, None),
                None => (Vec::new(), Some(format!("no service runs on {}", dir.display()))),
            },
            None => (Vec::new(), None),
        };
        let home = place.look(pipeline).await?;
        let cloud = home.cloud();
        let mut screen = Screen {
            title: format!("{} ({})", pipeline.name, pipeline.env),
            at: penstock_engine::time::format_time(chrono::Utc::now()),
            operators: self.rates(seen, pipeline),
            problem,
            ..Screen::default()
        };
        screen.facts = Facts::read_at_most(&*cloud.table(TRACKING_TABLE).await?, COUNTED_ITEMS).await?;
        let depths = queue_depths(&**cloud, pipeline.resources.queues.keys()).await?;
        screen.queues = depths.into_iter().map(|(name, of)| (name, of.visible, of.in_flight)).collect();
        screen.lag = lag::read(&pipeline.graph, &**cloud).await?;
        Ok(screen)
    }

    /// Rates and shares since the look before, in the order of the pipeline's file.
    fn rates(&mut self, seen: Vec<Seen>, pipeline: &Pipeline) -> Vec<Operator> {
        let now = Instant::now();
        let before = self.before.take();
        let rate = |seen: &Seen| {
            let of = &seen.measured;
            let last = before.as_ref().and_then(|(at, all)| Some((now - *at, all.get(&seen.id)?)));
            let per_second = |now: u64, then: u64, secs: f64| now.saturating_sub(then) as f64 / secs;
            let (received, sent, busy, blocked) = match last {
                Some((time, last)) if !time.is_zero() => {
                    let (secs, share) = (time.as_secs_f64(), time.as_secs_f64() * of.instances.max(1) as f64);
                    (
                        per_second(of.received, last.received, secs),
                        per_second(of.sent, last.sent, secs),
                        ((of.busy_seconds - last.busy_seconds) / share).clamp(0.0, 1.0),
                        ((of.blocked_seconds - last.blocked_seconds) / share).clamp(0.0, 1.0),
                    )
                }
                _ => (0.0, 0.0, 0.0, 0.0),
            };
            Operator {
                id: seen.id.clone(),
                state: seen.state.state.clone(),
                error: seen.state.error.clone(),
                received,
                sent,
                busy,
                blocked,
                errors: of.errors,
                buffer: (of.buffer_batches, of.buffer_capacity_batches),
            }
        };
        let place = |id: &str| pipeline.graph.nodes.iter().position(|node| node.id == id);
        let mut operators: Vec<Operator> = seen.iter().map(rate).collect();
        operators.sort_by_key(|operator| place(&operator.id));
        self.before = Some((now, seen.into_iter().map(|seen| (seen.id, seen.measured)).collect()));
        operators
    }
}
