//! The counters of a gateway as lines of a column: what became of datagrams, devices, traffic, waiters.

use std::collections::BTreeMap;

use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};

use super::model::Model;
use super::text;
use crate::clock::Timestamp;
use crate::metrics::Disposition;
use crate::status::{Devices, GatewayStatus};

/// Room of a name, that of the longest disposition of a datagram and a space.
const NAME: usize = 16;
/// Room of a rate.
const RATE: usize = 10;
/// Below this width totals are left out.
const WITH_TOTALS: usize = NAME + RATE + 8;
/// Room of the name of a bar, of its share in percent, and of its number.
const BAR_NAME: usize = 6;
const PERCENT: usize = 5;
const PART: usize = 12;

/// What one row counts.
type Counter<'a> = &'a dyn Fn(&GatewayStatus) -> Option<u64>;

/// A heading: a name on the left and something on the right, if that has room.
pub(super) fn heading(width: usize, left: &str, right: &str) -> Line<'static> {
    let room = width.saturating_sub(left.chars().count());
    let right = if right.chars().count() < room { right } else { "" };
    Line::from(format!("{left}{right:>room$}")).bold().underlined()
}

/// What became of datagrams, a row for each disposition the gateway tells, in a lasting order; where there is little room,
/// without those that never were.
pub(super) fn datagrams(model: &Model, status: &GatewayStatus, width: usize, little_room: bool) -> Vec<Line<'static>> {
    let all = |status: &GatewayStatus| status.datagrams.values().try_fold(0_u64, |sum, more| sum.checked_add(*more));
    let rows = labels(&status.datagrams).filter_map(|label| {
        let counter = |status: &GatewayStatus| status.datagrams.get(label).copied();
        let style = match counter(status) {
            _ if label == Disposition::Accepted.label() => Style::new().green().bold(),
            Some(0) if little_room => return None,
            Some(0) => Style::new().dim(),
            _ => Style::new(),
        };
        Some(row(model, status, width, label, &counter).style(style))
    });
    let heading = column_heading(width, "Datagrams");
    std::iter::once(heading).chain(rows).chain([row(model, status, width, "all", &all)]).collect()
}

/// The labels of `counts`: those that are known in their order, then any others of a newer gateway.
pub(super) fn labels(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = &str> {
    let is_known = |label: &str| Disposition::ALL.iter().any(|disposition| disposition.label() == label);
    let known = Disposition::ALL.iter().filter_map(|disposition| counts.get_key_value(disposition.label()));
    known
        .map(|(label, _)| label.as_str())
        .chain(counts.keys().map(String::as_str).filter(move |label| !is_known(label)))
}

/// Devices, traffic and waiters; `now` is the gateway's clock.
pub(super) fn others(model: &Model, status: &GatewayStatus, now: Timestamp, width: usize) -> Vec<Line<'static>> {
    let mut lines = devices(&status.devices, now, width);
    lines.push(column_heading(width, "Traffic"));
    lines.extend(traffic(model, status, width));
    lines.push(sentence(width, [(status.waiters.now, " waiting, "), (status.connections, " connected over HTTP")]));
    lines
}

/// Numbers, each with what it counts, as far as the numbers have room.
fn sentence(width: usize, parts: [(u64, &str); 2]) -> Line<'static> {
    let mut said = String::new();
    for (number, counted) in parts {
        match text::count_within(number, width.saturating_sub(said.len())) {
            number if number.is_empty() => break,
            number => said.extend([&number, counted]),
        }
    }
    Line::from(said)
}

fn devices(devices: &Devices, now: Timestamp, width: usize) -> Vec<Line<'static>> {
    let heard = &devices.heard;
    let counted = format!("heard, counted {} ago", text::since(heard.counted_at.0, now));
    vec![
        heading(width, "Devices", &counted),
        sentence(width, [(devices.total, " known, "), (devices.unregistered, " not registered")]),
        bar(width, "5 min", heard.within_5m, devices.total),
        bar(width, "1 h", heard.within_1h, devices.total),
        bar(width, "24 h", heard.within_24h, devices.total),
    ]
}

/// A share of the devices, as a bar and in numbers. They were counted before the total was, so that there may be more.
fn bar(width: usize, name: &str, part: u64, total: u64) -> Line<'static> {
    let share = (total > 0).then(|| (part as f64 / total as f64).min(1.0));
    let percent = share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", (share * 100.0).floor()));
    let percent = if width < BAR_NAME + PERCENT { String::new() } else { format!("{percent:>PERCENT$}") };
    let room = width.saturating_sub(BAR_NAME + PERCENT).min(PART);
    let numbers = format!("{percent}{:>room$}", text::count_within(part, room.saturating_sub(1)));
    let room = width.saturating_sub(BAR_NAME + numbers.len());
    let filled = (share.unwrap_or(0.0) * room as f64).round() as usize;
    Line::from(vec![
        Span::raw(format!("{name:<BAR_NAME$}")),
        Span::raw("█".repeat(filled)).green(),
        Span::raw("·".repeat(room - filled)).dim(),
        Span::raw(numbers),
    ])
}

fn traffic(model: &Model, status: &GatewayStatus, width: usize) -> impl Iterator<Item = Line<'static>> {
    let accepted = |status: &GatewayStatus| status.entries.get(Disposition::Accepted.label()).copied();
    // Copies are none of them: relays that hear one device bring them all the time.
    let refused = |status: &GatewayStatus| {
        let others = [Disposition::Accepted.label(), Disposition::Duplicate.label()];
        let refused = status.entries.iter().filter(|(label, _)| !others.contains(&label.as_str()));
        refused.map(|(_, count)| *count).try_fold(0_u64, u64::checked_add)
    };
    let plain = |name: &str, counter: Counter<'_>| row(model, status, width, name, counter);
    // What should not rise.
    let alarming = |name: &str, counter: Counter<'_>, risen: bool| {
        let rising = model.rate(counter).is_some_and(|rate| rate > 0.0);
        let line = row(model, status, width, name, counter);
        if rising {
            line.red().bold()
        } else if risen {
            line.yellow()
        } else {
            line
        }
    };
    [
        plain("relayed packets", &accepted),
        plain("relayed, refused", &refused),
        alarming("kernel drops", &|status| Some(status.kernel_drops), model.dropped),
        plain("acks sent", &|status| Some(status.acks_sent)),
        alarming("acks failed", &|status| Some(status.acks_failed), false),
        plain("route moves", &|status| Some(status.route_moves)),
        plain("wake-ups", &|status| Some(status.waiters.woken)),
    ]
    .into_iter()
}

fn column_heading(width: usize, name: &str) -> Line<'static> {
    heading(width, &columns(width, name, |_| "per second".to_owned(), |_| "total".to_owned()), "")
}

fn row(model: &Model, status: &GatewayStatus, width: usize, name: &str, counter: Counter<'_>) -> Line<'static> {
    let rate = |room| text::rate_within(model.rate(counter), room);
    let total = |room| counter(status).map_or_else(|| "-".to_owned(), |total| text::count_within(total, room));
    Line::from(columns(width, name, rate, total))
}

/// A name, a rate and a total side by side, each given its room; without the total where it has none.
fn columns(
    width: usize,
    name: &str,
    rate: impl FnOnce(usize) -> String,
    total: impl FnOnce(usize) -> String,
) -> String {
    let room = width.min(RATE);
    let rate = rate(room);
    if width < WITH_TOTALS {
        let name_room = (width - room).min(NAME);
        return format!("{name:<name_room$.name_room$}{rate:>room$}");
    }
    let room = width - NAME - RATE;
    let total = total(room - 1);
    format!("{name:<NAME$}{rate:>RATE$}{total:>room$}")
}
