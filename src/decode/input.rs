//! Where datagrams come from: arguments and files. What a file is shows in its first bytes. Nothing is held but the item
//! at hand, and of JSON the whole file, up to a limit.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use super::args::{DecodeArgs, Port};
use super::{Datagram, DecodeError, Item, capture, hex_text, vectors};
use crate::quote::one_line;
use crate::wire::frame::Layout;

/// What is done with each item.
pub(super) type Sink<'a> = dyn FnMut(Item) -> Result<(), DecodeError> + 'a;

/// The longest line of hex: the largest UDP payload with separators and `0x`, twice over. More is not held.
const LONGEST_LINE: u64 = 1 << 20;

/// Files of test vectors are read whole: the published ones have less than 1 MiB.
const LONGEST_JSON: u64 = 64 << 20;

/// Enough to tell what a file is, and to hold the front of every capture whole.
const HEAD: u64 = 32;

/// Reads everything that `arguments` name, in order: hex first, then files.
pub(super) fn read(
    arguments: &DecodeArgs,
    stdin: impl Read + Send + 'static,
    warnings: &mut Vec<String>,
    sink: &mut Sink<'_>,
) -> Result<(), DecodeError> {
    hex(&arguments.hex, sink)?;
    let mut stdin = Some(stdin);
    for path in &arguments.file {
        if path == Path::new("-") {
            let Some(stdin) = stdin.take() else {
                return Err(DecodeError::input("--file -", "standard input is named twice", "name it once"));
            };
            file("standard input", stdin, arguments.port(), warnings, sink)?;
        } else {
            let name = one_line(&path.display().to_string());
            let opened = File::open(path).map_err(|source| DecodeError::Open { name: name.clone(), source })?;
            file(&name, opened, arguments.port(), warnings, sink)?;
        }
    }
    Ok(())
}

/// One datagram an argument, or one in all where no argument is as long as a frame: a datagram without quotes.
fn hex(arguments: &[String], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let mut datagrams = Vec::with_capacity(arguments.len());
    for (index, text) in arguments.iter().enumerate() {
        let origin = format!("argument {}", index + 1);
        let remedy = "give one datagram in quotes, or name a file with --file";
        let bytes = hex_text::bytes(text).map_err(|problem| DecodeError::input(&origin, problem, remedy))?;
        datagrams.push(Datagram::new(origin, bytes));
    }
    let is_piece = |datagram: &Datagram| datagram.bytes.len() < Layout::Unversioned.min_len();
    if datagrams.len() > 1 && datagrams.iter().all(is_piece) {
        let origin = format!("arguments 1 to {}", datagrams.len());
        let bytes = datagrams.iter().flat_map(|piece| piece.bytes.iter().copied()).collect();
        datagrams = vec![Datagram::new(origin, bytes)];
    }
    datagrams.into_iter().try_for_each(|datagram| sink(Item::Datagram(Box::new(datagram))))
}

fn file(
    name: &str,
    mut source: impl Read + Send + 'static,
    port: Port,
    warnings: &mut Vec<String>,
    sink: &mut Sink<'_>,
) -> Result<(), DecodeError> {
    let unreadable = |source| DecodeError::Read { place: name.to_owned(), source };
    let mut head = Vec::new();
    // A directory opens, and shows here what it is.
    let not_open = |source| DecodeError::Open { name: name.to_owned(), source };
    source.by_ref().take(HEAD).read_to_end(&mut head).map_err(not_open)?;
    let kind = Kind::of(&head);
    let whole = Cursor::new(head).chain(source);
    match kind {
        Kind::Empty => Err(DecodeError::input(name, "the file is empty", "name one that holds datagrams")),
        Kind::Compressed => {
            Err(DecodeError::input(name, "the file is compressed", "unpack it first, for example with zcat"))
        }
        Kind::Binary => Err(DecodeError::input(
            name,
            "neither a capture nor text",
            "give a pcap or pcapng file, test vectors in JSON, or hex, one datagram a line",
        )),
        Kind::Capture => capture::read(name, whole, port, warnings, sink),
        Kind::Json => {
            let mut text = Vec::new();
            whole.take(LONGEST_JSON + 1).read_to_end(&mut text).map_err(unreadable)?;
            if text.len() as u64 > LONGEST_JSON {
                let problem = format!("more than {} MiB of JSON", LONGEST_JSON >> 20);
                return Err(DecodeError::input(name, problem, "give fewer vectors, or hex, one datagram a line"));
            }
            vectors::read(name, &text, sink)
        }
        Kind::Lines => lines(name, BufReader::new(whole), sink),
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Empty,
    Capture,
    Json,
    Lines,
    Compressed,
    Binary,
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        if capture::is_capture(head) {
            return Self::Capture;
        }
        if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || head.starts_with(b"BZh") {
            return Self::Compressed;
        }
        match head.trim_ascii_start().first() {
            None if head.is_empty() => Self::Empty,
            Some(b'{') => Self::Json,
            _ if head.iter().any(|byte| *byte < b' ' && !byte.is_ascii_whitespace()) => Self::Binary,
            _ => Self::Lines,
        }
    }
}

/// One datagram a line; empty lines and those that begin with `#` are passed over.
fn lines(name: &str, mut source: impl BufRead, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let remedy = "write one datagram a line in hex; a # begins a remark";
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let place = format!("{name}:{number}");
        let read = source.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        if read.map_err(|source| DecodeError::Read { place: place.clone(), source })? == 0 {
            break;
        }
        if line.len() as u64 == LONGEST_LINE {
            return Err(DecodeError::input(place, "a line of more than 1 MiB", remedy));
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let bytes = hex_text::bytes(text).map_err(|problem| DecodeError::input(&place, problem, remedy))?;
        sink(Item::Datagram(Box::new(Datagram::new(place, bytes))))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_a_file_is() {
        for (head, kind) in [
            (&b""[..], Kind::Empty),
            (&[0xd4, 0xc3, 0xb2, 0xa1], Kind::Capture),
            (&[0x0a, 0x0d, 0x0d, 0x0a], Kind::Capture),
            (b" \n{\"runs\"", Kind::Json),
            (b"7f 00 17", Kind::Lines),
            (b"# remark", Kind::Lines),
            (&[0x1f, 0x8b, 8], Kind::Compressed),
            (&[0x7f, b'E', b'L', b'F', 2, 1], Kind::Binary),
        ] {
            assert_eq!(Kind::of(head), kind, "{head:?}");
        }
    }
}
