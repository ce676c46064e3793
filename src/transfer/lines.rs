//! A file of JSON lines, one at a time and each within a bound.

use std::io::{self, BufRead};

use super::draft::Draft;
use super::{Entry, MAX_LINE};

/// The byte order mark that some programs begin a file of UTF-8 with.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a file that say something: empty ones are counted and skipped.
#[derive(Debug)]
pub(super) struct JsonLines<R> {
    input: R,
    /// The line read last, as far as it fits.
    line: Vec<u8>,
    /// Lines read.
    read: u64,
    /// Bytes read.
    bytes: u64,
    /// The first line that is looked at, counted from 1.
    first: u64,
}

impl<R: BufRead> JsonLines<R> {
    /// The lines of `input` from the line `first` on, counted from 1.
    pub(super) const fn new(input: R, first: u64) -> Self {
        Self { input, line: Vec::new(), read: 0, bytes: 0, first }
    }

    /// Bytes read so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lines read so far.
    pub(super) const fn lines(&self) -> u64 {
        self.read
    }

    /// The first line that is looked at.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    /// The next line that says something; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        while let Some(whole) = self.read_line()? {
            if self.read < self.first {
                continue;
            }
            let line = self.read;
            if !whole {
                return Ok(Some(Entry { line, draft: Err(too_long()) }));
            }
            let text = self.line.strip_prefix(MARK).filter(|_| line == 1).unwrap_or(&self.line).trim_ascii();
            if !text.is_empty() {
                return Ok(Some(Entry { line, draft: Draft::of_json(text) }));
            }
        }
        Ok(None)
    }

    /// Reads a line into `self.line`, and says whether it is there as a whole; `None` at the end.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        let (mut whole, mut begun) = (true, false);
        loop {
            let buffer = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            whole &= self.line.len() + part.len() <= MAX_LINE;
            if whole {
                self.line.extend_from_slice(part);
            }
            begun |= !buffer.is_empty();
            let (at_end, used) = (buffer.is_empty(), part.len() + usize::from(end.is_some()));
            self.input.consume(used);
            self.bytes += used as u64;
            if end.is_some() || at_end {
                self.read += u64::from(begun);
                return Ok(begun.then_some(whole));
            }
        }
    }
}

fn too_long() -> String {
    format!("it is longer than {MAX_LINE} bytes; is a line end missing?")
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// The lines of a text by number, with what is wrong with the bad ones.
    fn lines(text: &str, first: u64) -> Vec<(u64, Option<String>)> {
        // A small buffer, so that lines lie across its ends.
        let mut lines = JsonLines::new(BufReader::with_capacity(5, text.as_bytes()), first);
        let mut found = Vec::new();
        while let Some(entry) = lines.next().unwrap() {
            found.push((entry.line, entry.draft.err()));
        }
        assert_eq!(lines.bytes(), text.len() as u64);
        found
    }

    const GOOD: &str = r#"{"mcuId":"00"}"#;

    #[test]
    fn lines_are_counted_whatever_ends_them_and_empty_ones_say_nothing() {
        assert_eq!(lines(&format!("\u{feff}{GOOD}\r\n\n \t\r\n{GOOD}"), 1), [(1, None), (4, None)]);
        assert_eq!(lines(&format!("{GOOD}\n{GOOD}\n\n"), 1), [(1, None), (2, None)]);
        assert_eq!(lines("", 1), []);
        assert_eq!(lines(&format!("bad\n{GOOD}\n{GOOD}\n"), 3), [(3, None)], "others are not looked at");
    }

    #[test]
    fn a_bad_line_has_its_number_and_ends_nothing() {
        let found = lines(&format!("{GOOD}\n{{\n\u{feff}{GOOD}\n{GOOD}\n"), 1);
        assert_eq!(
            found.iter().map(|(line, bad)| (*line, bad.is_some())).collect::<Vec<_>>(),
            [(1, false), (2, true), (3, true), (4, false)]
        );
    }

    #[test]
    fn a_line_beyond_the_bound_is_bad_and_not_kept() {
        let long = " ".repeat(MAX_LINE + 1);
        let fits = format!("{GOOD}{}", " ".repeat(MAX_LINE - GOOD.len()));
        let found = lines(&format!("{long}\n{fits}\n{long}"), 1);
        assert_eq!(found, [(1, Some(too_long())), (2, None), (3, Some(too_long()))]);
    }
}
