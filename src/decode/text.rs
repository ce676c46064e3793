//! Explanations as text: one line a datagram, or all of it, aligned.

use std::fmt::Write as _;

use super::fields::{HEADER, utc};
use super::part::{Field, Part, count};
use super::verdict::Verdict;
use super::{Datagram, Explained};
use crate::quote::one_line;

/// Bytes in a line of a field; longer ones go on below.
const FIELD_BYTES: usize = 8;
/// A longer field is not shown whole: its payload is, once it is opened.
const LONGEST_FIELD: usize = 4 * FIELD_BYTES;
/// Bytes in a line of a dump.
const DUMP_BYTES: usize = 16;
/// Columns of the longest usual name of a field.
const NAME_WIDTH: usize = 17;

/// Everything about a datagram, in lines. Nothing of it can steer a terminal.
pub fn text(explained: &Explained) -> String {
    let mut out = String::new();
    line(&mut out, 0, &format!("datagram {}, {}", explained.number, heading(&explained.datagram)));
    if let Some(note) = &explained.datagram.note {
        line(&mut out, 2, &format!("note: {note}"));
    }
    for part in &explained.parts {
        write_part(&mut out, 2, part);
    }
    if let Some(verdict) = &explained.verdict {
        write_verdict(&mut out, 2, verdict);
    }
    if let (Some(met), Some(expected)) = (explained.met, &explained.datagram.expected) {
        let met = if met { "as it is" } else { "BUT IT IS NOT" };
        line(&mut out, 2, &format!("expected: {}, {met}", expected.text()));
    }
    out
}

/// The most important of a datagram, in one line. Nothing of it can steer a terminal.
pub fn brief(explained: &Explained) -> String {
    let datagram = &explained.datagram;
    let header = explained.parts.first();
    let field = |name: &str| header.and_then(|part| part.fields.iter().find(|field| field.name == name));
    let value = |name: &str| field(name).map(|field| field.value.to_string().replace('"', "")).unwrap_or_default();
    // The type's number and name stand before its meaning.
    let kind = field("type").map_or("", |field| field.text.split(':').next().unwrap_or_default());
    let verdict = explained.verdict.as_ref();
    let mut out = format!(
        "{:>5} {} {:<4} {:<21} {:>4} {:<16} {:<20} {:>6} ",
        explained.number,
        utc(explained.at),
        datagram.direction.name(),
        datagram.from.map_or_else(|| "-".to_owned(), |from| from.to_string()),
        datagram.bytes.len(),
        value("device_id"),
        kind,
        value("sequence"),
    );
    match verdict {
        Some(verdict) => out.push_str(&summary(verdict)),
        None => out.push_str(explained.parts.first().map_or("", |part| &part.title)),
    }
    // What is wrong with a header is what its verdict says.
    if explained.parts.iter().any(|part| part.title != HEADER && part.is_faulty()) {
        out.push_str(", malformed");
    }
    if explained.met == Some(false) {
        out.push_str(", NOT AS EXPECTED");
    }
    one_line(&out)
}

fn heading(datagram: &Datagram) -> String {
    let mut heading = datagram.origin.clone();
    if let Some(at) = datagram.at {
        let _ = write!(heading, ", {}", utc(at));
    }
    let _ = write!(heading, ", {}", datagram.direction.name());
    if let Some(from) = datagram.from {
        let _ = write!(heading, " from {from}");
    }
    if let Some(to) = datagram.to {
        let _ = write!(heading, " to {to}");
    }
    let _ = write!(heading, ", {}", count(datagram.bytes.len(), "byte"));
    if let Some(sent) = datagram.cut_from {
        let _ = write!(heading, " of {sent}");
    }
    heading
}

fn line(out: &mut String, indent: usize, text: &str) {
    let _ = writeln!(out, "{:indent$}{}", "", one_line(text));
}

fn write_part(out: &mut String, indent: usize, part: &Part) {
    line(out, indent, &part.title);
    let inside = indent + 2;
    write_dump(out, inside, part);
    for field in &part.fields {
        write_field(out, inside, field);
    }
    for note in &part.notes {
        line(out, inside, note);
    }
    for part in &part.parts {
        write_part(out, inside, part);
    }
    for fault in &part.faults {
        line(out, inside, &format!("MALFORMED at byte {}: {}", fault.at, fault.text));
    }
    if let Some(verdict) = &part.verdict {
        write_verdict(out, inside, verdict);
    }
}

fn write_field(out: &mut String, indent: usize, field: &Field) {
    let shown = if field.bytes.len() > LONGEST_FIELD { FIELD_BYTES } else { field.bytes.len() };
    let mut lines = field.bytes[..shown].chunks(FIELD_BYTES);
    let first = hex(lines.next().unwrap_or_default());
    let more = if shown < field.bytes.len() { ".." } else { "  " };
    let name = field.name;
    let text = format!("{:>4}  {first:<23}{more} {name:<NAME_WIDTH$}  {}", field.at, field.text);
    line(out, indent, &text);
    for (index, bytes) in lines.enumerate() {
        line(out, indent, &format!("{:>4}  {}", field.at + (index + 1) * FIELD_BYTES, hex(bytes)));
    }
}

fn write_dump(out: &mut String, indent: usize, part: &Part) {
    for (index, bytes) in part.dump.chunks(DUMP_BYTES).enumerate() {
        let printable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        let text: String = bytes.iter().map(printable).collect();
        line(out, indent, &format!("{:>4}  {:<47}  {text}", part.at + index * DUMP_BYTES, hex(bytes)));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn write_verdict(out: &mut String, indent: usize, verdict: &Verdict) {
    line(out, indent, &format!("verdict: {}", summary(verdict)));
    for why in &verdict.why {
        line(out, indent + 2, why);
    }
}

/// Disposition, rule, time class, route.
fn summary(verdict: &Verdict) -> String {
    let mut words = vec![verdict.disposition.map_or("not decided", |disposition| disposition.label()).to_owned()];
    if !verdict.rule.is_empty() {
        words.push(format!("rule {}", verdict.rule));
    }
    words.extend(verdict.class.map(|class| class.name().to_owned()));
    words.extend(verdict.route.map(|route| format!("route {}", route.name())));
    words.join(", ")
}
