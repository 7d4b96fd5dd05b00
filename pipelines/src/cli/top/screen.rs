//! What `top` draws. Pure: a screen's facts go in, cells come out.

use penstock_operators::model::{FileState, ManifestState};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Table},
};

use crate::{facts::Facts, lag::ShardLag};

/// Troubles that fit at the bottom.
const TROUBLES: usize = 6;

/// Dates that are shown: the last ones.
const DATES: usize = 8;

/// All that is drawn.
#[derive(Debug, Default)]
pub struct Screen {
    /// The pipeline.
    pub title: String,
    /// When it was looked at.
    pub at: String,
    /// What hinders looking.
    pub problem: Option<String>,
    /// The operators that run.
    pub operators: Vec<Operator>,
    /// What the table says.
    pub facts: Facts,
    /// Queues: name, waiting, in work.
    pub queues: Vec<(String, u64, u64)>,
    /// Shards that are behind.
    pub lag: Vec<ShardLag>,
}

/// An operator that runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Operator {
    /// Its id.
    pub id: String,
    /// Running, failing or stopped.
    pub state: String,
    /// Its last failure, while it fails.
    pub error: Option<String>,
    /// Records a second that it took.
    pub received: f64,
    /// Records a second that it handed on.
    pub sent: f64,
    /// Share of the time in which it worked.
    pub busy: f64,
    /// Share of the time in which it waited for those behind it.
    pub blocked: f64,
    /// Failures since the start.
    pub errors: u64,
    /// Batches that wait before it, and how many may.
    pub buffer: (usize, usize),
}

/// Draws a screen.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let operators = screen.operators.len() as u16 + 3;
    let dates = screen.facts.dates.len().clamp(1, DATES) as u16 + 3;
    let waits = (screen.queues.len().max(screen.lag.len()) as u16 + 2).min(8);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(if screen.operators.is_empty() { 0 } else { operators }),
        Constraint::Length(dates),
        Constraint::Length(waits),
        Constraint::Min(0),
    ])
    .split(frame.area());
    frame.render_widget(head(screen), areas[0]);
    if !screen.operators.is_empty() {
        frame.render_widget(operators_table(screen), areas[1]);
    }
    frame.render_widget(dates_table(&screen.facts), areas[2]);
    draw_waits(frame, areas[3], screen);
    frame.render_widget(troubles(&screen.facts), areas[4]);
}

fn head(screen: &Screen) -> Paragraph<'_> {
    let mut spans = vec![Span::styled(screen.title.as_str(), bold()), Span::raw("  "), Span::raw(screen.at.as_str())];
    if let Some(problem) = &screen.problem {
        spans.push(Span::styled(format!("  {problem}"), bad()));
    }
    spans.push(Span::raw("  q: quit"));
    Paragraph::new(Line::from(spans))
}

fn operators_table(screen: &Screen) -> Table<'_> {
    let rows = screen.operators.iter().map(|operator| {
        let state = match operator.state.as_str() {
            "running" => Span::raw("running"),
            other => Span::styled(format!("{other} {}", operator.error.as_deref().unwrap_or_default()), bad()),
        };
        let (waiting, room) = operator.buffer;
        let buffer = if room == 0 { String::new() } else { format!("{waiting}/{room}") };
        let share = |share: f64, limit: f64| {
            let style = if share >= limit { bad() } else { Style::new() };
            Cell::from(Span::styled(format!("{:3.0} %", share * 100.0), style))
        };
        Row::new(vec![
            Cell::from(operator.id.as_str()),
            Cell::from(format!("{:9.1}", operator.received)),
            Cell::from(format!("{:9.1}", operator.sent)),
            share(operator.busy, 0.95),
            share(operator.blocked, 0.5),
            Cell::from(buffer),
            Cell::from(operator.errors.to_string()),
            Cell::from(state),
        ])
    });
    let widths = [20, 9, 9, 6, 8, 7, 7].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    Table::new(rows, widths)
        .header(
            Row::new(["operator", "     in/s", "    out/s", "busy", "blocked", "buffer", "errors", "state"])
                .style(bold()),
        )
        .block(Block::bordered().title("Operators"))
}

fn dates_table(facts: &Facts) -> Table<'_> {
    let shown = facts.dates.len().saturating_sub(DATES);
    let rows = facts.dates.iter().skip(shown).map(|(date, of)| {
        let files = |state: FileState| of.files.get(state.as_str()).copied().unwrap_or_default();
        let manifests = |state: ManifestState| of.manifests.get(state.as_str()).copied().unwrap_or_default();
        let troubled =
            |count: u64| Cell::from(Span::styled(format!("{count:>9}"), if count > 0 { bad() } else { Style::new() }));
        let open = [ManifestState::Assembling, ManifestState::Pending, ManifestState::Processing];
        Row::new(vec![
            Cell::from(date.as_str()),
            Cell::from(format!("{:>9}", files(FileState::Pending))),
            Cell::from(format!("{:>10}", files(FileState::Manifested))),
            Cell::from(format!("{:>9}", files(FileState::Completed))),
            troubled(files(FileState::Failed)),
            troubled(files(FileState::Quarantined)),
            Cell::from(format!("{:>9}", open.map(manifests).iter().sum::<u64>())),
            Cell::from(format!("{:>11}", of.rows)),
            Cell::from(format!("{:>8}", of.rejected_rows)),
        ])
    });
    let titles = [
        "date",
        "  pending",
        "manifested",
        "completed",
        "   failed",
        "quarant.",
        "manifests",
        "       rows",
        " rejects",
    ];
    let widths = [10, 9, 10, 9, 9, 9, 9, 11, 8].map(Constraint::Length);
    Table::new(rows, widths).header(Row::new(titles).style(bold())).block(Block::bordered().title(
        match facts.is_floor {
            true => "Files; open manifests: ≥ these, there are more than are counted",
            false => "Files; open manifests",
        },
    ))
}

fn draw_waits(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let halves = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).split(area);
    let queue = |(name, waiting, in_work): &(String, u64, u64)| {
        let style = if name.contains("dlq") && waiting + in_work > 0 { bad() } else { Style::new() };
        Line::styled(format!("{name}: {waiting} waiting, {in_work} in work"), style)
    };
    let queues: Vec<Line<'_>> = screen.queues.iter().map(queue).collect();
    frame.render_widget(Paragraph::new(queues).block(Block::bordered().title("Queues")), halves[0]);
    let lag = |lag: &ShardLag| match &lag.problem {
        Some(problem) => Line::styled(format!("{}: {problem}", lag.shard), bad()),
        None => Line::raw(format!("{}: {} behind, oldest {} s", lag.shard, lag.records, lag.secs)),
    };
    let lags: Vec<Line<'_>> =
        if screen.lag.is_empty() { vec![Line::raw("none")] } else { screen.lag.iter().map(lag).collect() };
    frame.render_widget(Paragraph::new(lags).block(Block::bordered().title("Shards that are behind")), halves[1]);
}

fn troubles(facts: &Facts) -> Paragraph<'_> {
    let all: Vec<_> = facts.failed_manifests.iter().chain(&facts.troubled_files).chain(&facts.unreadable).collect();
    let mut lines: Vec<Line<'_>> = all
        .iter()
        .take(TROUBLES)
        .map(|trouble| Line::raw(format!("{} {}/{}: {}", trouble.state, trouble.date, trouble.key, trouble.reason)))
        .collect();
    if all.len() > TROUBLES {
        lines.push(Line::raw(format!("… and {} more", all.len() - TROUBLES)));
    }
    Paragraph::new(lines).block(Block::bordered().title("Needs a person"))
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn bad() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::facts::{DateFacts, Trouble};

    fn shown(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(width as usize).map(|line| line.concat()).collect::<Vec<_>>().join("\n")
    }

    fn screen() -> Screen {
        let date = DateFacts {
            files: BTreeMap::from([("pending", 7), ("failed", 2)]),
            manifests: BTreeMap::from([("pending", 1), ("processing", 2)]),
            rows: 123_456,
            ..DateFacts::default()
        };
        let trouble = Trouble {
            key: "a.ndjson".to_owned(),
            date: "2026-02-01".to_owned(),
            state: "failed",
            reason: "undecodable: cut short".to_owned(),
        };
        Screen {
            title: "ndjson-parquet (dev)".to_owned(),
            operators: vec![Operator {
                id: "fold".to_owned(),
                state: "failing".to_owned(),
                error: Some("table throttled".to_owned()),
                received: 1234.5,
                sent: 0.0,
                busy: 0.42,
                blocked: 0.0,
                errors: 3,
                buffer: (1, 4),
            }],
            facts: Facts {
                dates: BTreeMap::from([("2026-02-01".to_owned(), date)]),
                troubled_files: vec![trouble],
                ..Facts::default()
            },
            queues: vec![("dlq".to_owned(), 5, 0)],
            ..Screen::default()
        }
    }

    #[test]
    fn everything_that_needs_a_look_is_on_the_screen() {
        let text = shown(&screen(), 120, 30);
        for words in [
            "1234.5",
            "42 %",
            "1/4",
            "failing table throttled",
            "2026-02-01         7",
            "123456",
            "dlq: 5 waiting",
            "failed 2026-02-01/a.ndjson: undecodable: cut short",
        ] {
            assert!(text.contains(words), "`{words}` is missing:\n{text}");
        }
    }

    #[test]
    fn what_is_at_least_so_much_says_so() {
        let mut screen = screen();
        assert!(!shown(&screen, 120, 30).contains('≥'));
        screen.facts.is_floor = true;
        assert!(shown(&screen, 120, 30).contains("≥ these"));
    }

    #[test]
    fn a_small_screen_and_an_empty_pipeline_are_drawn_too() {
        for (width, height) in [(20, 5), (80, 24), (1, 1)] {
            shown(&screen(), width, height);
            shown(&Screen::default(), width, height);
        }
    }
}
