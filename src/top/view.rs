//! The screen: a pure function of the model, the moment and the size of the terminal.
//!
//! From 78 columns on, counters stand in two columns with the latest route moves and the device that is looked up below
//! them. On a narrower terminal all of it is one column. What has no room is left out from the bottom.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::counters::{self, heading};
use super::model::{Latest, Lookup, Model};
use super::text;
use crate::clock::Timestamp;
use crate::status::RouteMove;

/// From here on two columns have room beside each other.
const TWO_COLUMNS: u16 = 78;

/// In a wider column the eye would not find from a name to its numbers.
const WIDEST_COLUMN: u16 = 56;

/// Between two columns.
const GAP: u16 = 2;

/// On a lower terminal the second line of the header and most of an error give way to counters.
const LOW: u16 = 8;

/// On a narrower one the header is short.
const NARROW: usize = 60;

/// Lines of an error; the rest of it is cut.
const NOTICE: usize = 3;

/// Draws everything; `now` is this machine's clock.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Timestamp) {
    let area = frame.area();
    let width = area.width as usize;
    let low = area.height < LOW;
    let mut head = vec![title(model, now, width)];
    if !low {
        head.push(circumstances(model));
    }
    let mut notice: Vec<_> = wrong(model).iter().flat_map(|wrong| wrapped(wrong, width)).map(Line::from).collect();
    notice.truncate(if low { 1 } else { NOTICE });
    let (head_area, rest) = cut_top(area, head.len());
    let (rest, foot_area) = cut_bottom(rest, 1);
    let (body, notice_area) = cut_bottom(rest, notice.len());
    frame.render_widget(Paragraph::new(head), head_area);
    draw_body(frame, body, model, now);
    frame.render_widget(Paragraph::new(notice).red(), notice_area);
    frame.render_widget(Paragraph::new(footer(model)), foot_area);
}

/// Why there is no status, or what the gateway says is wrong with it.
fn wrong(model: &Model) -> Vec<String> {
    match (&model.outage, &model.latest) {
        (Some(outage), _) => vec![outage.error.to_string()],
        (None, Some(latest)) => latest.status.degraded.iter().map(|(part, why)| format!("{part}: {why}")).collect(),
        (None, None) => Vec::new(),
    }
}

fn draw_body(frame: &mut Frame<'_>, body: Rect, model: &Model, now: Timestamp) {
    let width = body.width as usize;
    let lookup = model.lookup.iter().flat_map(|lookup| lookup_lines(lookup, model, now, width)).collect::<Vec<_>>();
    // What was asked for must be seen, whatever else is.
    let (rest, lookup_area) = cut_bottom(body, lookup.len());
    frame.render_widget(Paragraph::new(lookup), lookup_area);
    let Some(latest) = &model.latest else {
        let said = if model.outage.is_some() { "" } else { "waiting for the first answer" };
        return frame.render_widget(Paragraph::new(said), rest);
    };
    // What is known may be true no longer.
    let style = if model.outage.is_some() { Style::new().dim() } else { Style::new() };
    for (lines, area) in known(model, latest, now, rest) {
        frame.render_widget(Paragraph::new(lines).style(style), area);
    }
}

/// What the gateway said last, and where on the screen.
fn known(model: &Model, latest: &Latest, now: Timestamp, area: Rect) -> Vec<(Vec<Line<'static>>, Rect)> {
    let gateway_now = latest.gateway_clock(now);
    let status = &latest.status;
    let two = area.width >= TWO_COLUMNS;
    let column = if two { ((area.width - GAP) / 2).min(WIDEST_COLUMN) } else { area.width };
    let mut left = counters::datagrams(model, status, column as usize, !two);
    let right = counters::others(model, status, gateway_now, column as usize);
    let moves = moves(&status.latest_moves, gateway_now, area.width as usize);
    if !two {
        left.extend(right.into_iter().chain(moves));
        return vec![(left, area)];
    }
    let (above, below) = cut_top(area, left.len().max(right.len()));
    let beside = Rect { x: above.x + column + GAP, width: column, ..above };
    vec![(left, Rect { width: column, ..above }), (right, beside), (moves, below)]
}

/// The program, the gateway and whether it answers.
fn title(model: &Model, now: Timestamp, width: usize) -> Line<'static> {
    let state = state(model, now, width < NARROW);
    let version = model.latest.as_ref().map_or(String::new(), |latest| format!(" {}", latest.status.version));
    let name = format!("lastroute{version}  {}", model.address);
    let room = width.saturating_sub(state.content.chars().count() + 1);
    // A piece of the name tells nothing.
    let name = if room < "lastroute".len() { String::new() } else { name };
    Line::from(vec![Span::raw(format!("{:<room$} ", name.chars().take(room).collect::<String>())).bold(), state])
}

fn state(model: &Model, now: Timestamp, short: bool) -> Span<'static> {
    let paused = if model.paused { "paused, " } else { "" };
    match (&model.outage, &model.latest) {
        (Some(outage), _) => {
            let span = text::since(outage.since, now);
            let long = || format!("{paused}no status for {span} since {}", text::time_of_day(outage.since));
            Span::raw(if short { format!("no status {span}") } else { long() }).red().bold()
        }
        (None, Some(latest)) => {
            let answered = if short { "" } else { "answered " };
            let state = Span::raw(format!("{paused}{answered}{} ago", text::since(latest.at, now)));
            if model.paused { state.yellow() } else { state.green() }
        }
        (None, None) => Span::raw(format!("{paused}no status yet")).yellow(),
    }
}

/// How long the gateway runs, what its clock shows, how often it is asked.
fn circumstances(model: &Model) -> Line<'static> {
    let every = format!("asked every {:?}", model.every);
    let Some(Latest { status, .. }) = &model.latest else { return Line::from(every) };
    let up = text::since(status.started_at.0, status.now.0);
    let line = Line::from(format!("up {up}  clock {}  {every}", text::date_and_time(status.now.0)));
    match model.restarts {
        0 => line,
        1 => line + Span::raw("  restarted once").yellow().bold(),
        times => line + Span::raw(format!("  restarted {times} times")).yellow().bold(),
    }
}

fn moves(moves: &[RouteMove], now: Timestamp, width: usize) -> Vec<Line<'static>> {
    let rows = moves.iter().map(|moved| {
        let ago = format!("{} ago", text::since(moved.at.0, now));
        let RouteMove { device_id, from, to, trust, .. } = moved;
        Line::from(format!("{device_id} {ago:>11}  {trust:<7} {from} > {to}"))
    });
    let mut lines = vec![heading(width, "Latest route moves", "")];
    lines.extend(rows);
    if moves.is_empty() {
        lines.push(Line::from("none since the gateway started").dim());
    }
    lines
}

fn lookup_lines(lookup: &Lookup, model: &Model, now: Timestamp, width: usize) -> Vec<Line<'static>> {
    let gateway_now = model.latest.as_ref().map(|latest| latest.gateway_clock(now));
    let (said, style, age) = match &lookup.found {
        None => (vec!["asking".to_owned()], Style::new().dim(), String::new()),
        Some((Ok(found), at)) => (found.lines(gateway_now), Style::new(), text::since(*at, now)),
        Some((Err(error), at)) => (vec![error.to_string()], Style::new().red(), text::since(*at, now)),
    };
    let age = if age.is_empty() { age } else { format!("asked {age} ago") };
    let said = said.iter().flat_map(|line| wrapped(line, width)).map(|line| Line::from(line).style(style));
    std::iter::once(heading(width, &format!("Device {}", lookup.id), &age)).chain(said).collect()
}

fn footer(model: &Model) -> Line<'static> {
    let Some(typed) = &model.typed else {
        let device = match model.lookup {
            Some(_) => "type another id   Esc closes this one",
            None => "type the id of a device to see it",
        };
        return Line::from(format!("q quit   p pause   + - interval   {device}")).dim();
    };
    let hint = match &model.complaint {
        Some(complaint) => Span::raw(complaint.clone()).yellow(),
        None => Span::raw("Enter looks it up, Esc clears").dim(),
    };
    Line::from(vec![Span::raw(format!("device {typed}_   ")).bold(), hint])
}

/// The text in lines of at most `width` characters, broken between words; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The first `height` lines of an area, and the rest.
fn cut_top(area: Rect, height: usize) -> (Rect, Rect) {
    let height = u16::try_from(height).unwrap_or(u16::MAX).min(area.height);
    (Rect { height, ..area }, Rect { y: area.y + height, height: area.height - height, ..area })
}

/// The rest of an area, and its last `height` lines.
fn cut_bottom(area: Rect, height: usize) -> (Rect, Rect) {
    let height = usize::from(area.height).saturating_sub(height);
    cut_top(area, height)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
