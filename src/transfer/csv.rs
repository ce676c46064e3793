//! A file of CSV below a header, one record at a time and each within a bound; and how a value is written in one.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader};

use super::columns::Columns;
use super::{Entry, MAX_LINE};

/// Columns of a header at most: far more than a board has metadata.
pub(super) const MAX_COLUMNS: usize = 4096;

/// A record that is not read as it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is longer than {MAX_LINE} bytes, or has more than {MAX_COLUMNS} values; is a quote not closed?")]
struct LongLine;

/// The records of a file below its header. A record that spans lines counts as the one it begins on.
#[derive(Debug)]
pub(super) struct CsvRecords<R> {
    records: Records<R>,
    columns: Columns,
    /// The first line that is looked at, counted from 1.
    first: u64,
}

/// Why a file cannot be read as CSV.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// It cannot be read at all.
    Read(io::Error),
    /// Its header does not fit.
    Header(String),
}

impl<R: BufRead> CsvRecords<R> {
    /// The records of `input` from the line `first` on, counted from 1.
    ///
    /// # Errors
    /// There is no header that names the columns of a device, or it cannot be read.
    pub(super) fn new(input: R, first: u64) -> Result<Self, HeaderError> {
        let mut records = Records::new(input);
        let columns = match records.next().map_err(HeaderError::Read)? {
            Some((_, Ok(names))) => Columns::of(&names).map_err(HeaderError::Header)?,
            Some((_, Err(LongLine))) => return Err(HeaderError::Header(LongLine.to_string())),
            None => {
                return Err(HeaderError::Header("there is none; begin with a line that names the columns".to_owned()));
            }
        };
        Ok(Self { records, columns, first })
    }

    /// Bytes read so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.records.bytes
    }

    /// Lines read so far.
    pub(super) const fn lines(&self) -> u64 {
        self.records.place.lines()
    }

    /// The first line that is looked at.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    /// The next record; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        while let Some((line, record)) = self.records.next()? {
            if line < self.first {
                continue;
            }
            let draft = match record {
                Ok(values) => self.columns.draft(&values),
                Err(long) => Err(long.to_string()),
            };
            return Ok(Some(Entry { line, draft }));
        }
        Ok(None)
    }
}

/// The records of a file, the header among them.
#[derive(Debug)]
struct Records<R> {
    input: R,
    parser: Reader,
    /// Room for the values of one record, one behind the other.
    text: Vec<u8>,
    /// Room for where each of them ends.
    ends: Vec<usize>,
    place: Place,
    bytes: u64,
}

/// Where in a file it is, whether lines end in LF, CR LF or CR.
#[derive(Debug)]
struct Place {
    /// The line that is read next, or is being read, counted from 1.
    line: u64,
    /// The byte before, an LF at the beginning.
    last: u8,
}

impl Place {
    fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let ends = *byte == b'\r' || (*byte == b'\n' && self.last != b'\r');
            self.line += u64::from(ends);
            self.last = *byte;
        }
    }

    /// Lines that are read, one without an end among them.
    const fn lines(&self) -> u64 {
        if matches!(self.last, b'\n' | b'\r') { self.line - 1 } else { self.line }
    }
}

/// The values of a record.
pub(super) struct Values<'a> {
    text: &'a [u8],
    ends: &'a [usize],
}

impl<'a> Values<'a> {
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// The values in order, each as a text if it is one.
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<&'a str>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends).map(|(start, end)| str::from_utf8(self.text.get(start..*end)?).ok())
    }
}

impl<R: BufRead> Records<R> {
    fn new(input: R) -> Self {
        let (text, ends) = (vec![0; MAX_LINE], vec![0; MAX_COLUMNS]);
        Self { input, parser: Reader::new(), text, ends, place: Place { line: 1, last: b'\n' }, bytes: 0 }
    }

    /// The next record with the line that it begins on; `None` at the end.
    fn next(&mut self) -> io::Result<Option<(u64, Result<Values<'_>, LongLine>)>> {
        self.skip_empty_lines()?;
        let begins = self.place.line;
        let (mut text, mut ends, mut whole) = (0, 0, true);
        loop {
            let input = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                input => input?,
            };
            let (room, ends_room) = (&mut self.text[text..], &mut self.ends[ends..]);
            let (result, used, more_text, more_ends) = self.parser.read_record(input, room, ends_room);
            self.place.pass(&input[..used]);
            self.input.consume(used);
            self.bytes += used as u64;
            (text, ends) = (text + more_text, ends + more_ends);
            match result {
                ReadRecordResult::InputEmpty => {}
                // What has no room is read to its end, and thrown away.
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => (text, ends, whole) = (0, 0, false),
                ReadRecordResult::Record => {
                    let values = Values { text: &self.text[..text], ends: &self.ends[..ends] };
                    return Ok(Some((begins, if whole { Ok(values) } else { Err(LongLine) })));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// The parser skips them, too, but does not tell how many.
    fn skip_empty_lines(&mut self) -> io::Result<()> {
        loop {
            let input = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                input => input?,
            };
            let used = input.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            let all = used == input.len();
            self.place.pass(&input[..used]);
            self.bytes += used as u64;
            let at_end = input.is_empty();
            self.input.consume(used);
            if at_end || !all {
                return Ok(());
            }
        }
    }
}

/// Adds `values` to `to` as a line of CSV.
pub(super) fn write_record<'a>(to: &mut Vec<u8>, values: impl IntoIterator<Item = &'a str>) {
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            to.push(b',');
        }
        if value.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
            to.push(b'"');
            to.extend_from_slice(value.replace('"', "\"\"").as_bytes());
            to.push(b'"');
        } else {
            to.extend_from_slice(value.as_bytes());
        }
    }
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::super::draft::Draft;
    use super::*;

    fn opened(text: &str, first: u64) -> Result<CsvRecords<BufReader<&[u8]>>, HeaderError> {
        // A small buffer, so that values lie across its ends.
        CsvRecords::new(BufReader::with_capacity(5, text.as_bytes()), first)
    }

    /// The records of a text by line, with their metadata `a`, or with what is wrong with them.
    fn records(text: &str, first: u64) -> Vec<(u64, Result<String, String>)> {
        let mut records = opened(text, first).unwrap();
        let mut found = Vec::new();
        while let Some(entry) = records.next().unwrap() {
            let of = |draft: Draft| draft.metadata.get("a").cloned().unwrap_or_default();
            found.push((entry.line, entry.draft.map(of)));
        }
        assert_eq!(records.bytes(), text.len() as u64);
        found
    }

    fn ok(line: u64, value: &str) -> (u64, Result<String, String>) {
        (line, Ok(value.to_owned()))
    }

    #[test]
    fn records_have_the_line_they_begin_on_whatever_is_quoted_and_ends_lines() {
        let text = "\u{feff}mcuId,metadata.a\r\n\r\n00,plain\n\n\n00,\"a \"\"b\"\", c\"\r\n00,\"two\nlines\"\n00,last";
        let expected = [ok(3, "plain"), ok(6, "a \"b\", c"), ok(7, "two\nlines"), ok(9, "last")];
        assert_eq!(records(text, 1), expected);
        assert_eq!(records(text, 7), expected[2..], "those before are skipped");
        assert_eq!(records("mcuId,metadata.a\n", 1), []);
    }

    #[test]
    fn lines_that_end_in_a_carriage_return_alone_are_counted() {
        assert_eq!(records("mcuId,metadata.a\r00,1\r\r00,2\r", 1), [ok(2, "1"), ok(4, "2")]);
        assert_eq!(records("mcuId,metadata.a\r00,1\r\r00,2\r", 3), [ok(4, "2")]);
        for (text, lines) in [("mcuId\r00\r01", 3), ("mcuId\r\n00\r\n", 2), ("mcuId\n\n00\n\n", 4), ("mcuId", 1)] {
            let mut records = opened(text, 1).unwrap();
            while records.next().unwrap().is_some() {}
            assert_eq!(records.lines(), lines, "{text:?}");
        }
    }

    #[test]
    fn a_bad_record_has_its_line_and_ends_nothing() {
        let found = records("mcuId,metadata.a\n00,1\n00\n00,1,2\nxx,3\n00,4\n", 1);
        assert_eq!(found[0], ok(2, "1"));
        assert_eq!(found[1], (3, Err("it has 1 values below a header of 2 columns".to_owned())));
        assert_eq!(found[2], (4, Err("it has 3 values below a header of 2 columns".to_owned())));
        assert!(matches!(&found[3], (5, Err(error)) if error.starts_with("mcuId: an MCU id is")), "{found:?}");
        assert_eq!(found[4..], [ok(6, "4")]);
    }

    #[test]
    fn a_record_beyond_the_bounds_is_bad_and_not_kept() {
        let long = "x".repeat(MAX_LINE);
        let commas = ",".repeat(MAX_COLUMNS);
        let text = format!("mcuId,metadata.a\n00,\"{long}\n{long}\"\n00,1\n{commas}\n00,\"2\n");
        let long = || Err(LongLine.to_string());
        assert_eq!(records(&text, 1), [(2, long()), ok(4, "1"), (5, long()), ok(6, "2\n")]);
    }

    #[test]
    fn without_a_header_nothing_is_read() {
        for (text, expected) in [
            ("", "there is none; begin with a line that names the columns"),
            ("\n\n", "there is none; begin with a line that names the columns"),
            ("d291d4d66bf0a955,00\n", "there is no column \"d291d4d66bf0a955\"; there are deviceId, mcuId, "),
            ("mcuId,metadata.\n", "there is no column \"metadata.\"; "),
            ("mcuId,soc,soc\n", "the column \"soc\" stands there twice"),
            ("deviceId,soc\n", "it has no column mcuId"),
        ] {
            let Err(HeaderError::Header(error)) = opened(text, 1) else { panic!("{text}") };
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut text = b"mcuId,metadata.a\n".to_vec();
        for value in ["plain", " with spaces ", "a,b", "\"", "a\r\nb", "\u{e4}"] {
            write_record(&mut text, ["00", value]);
        }
        let found = records(std::str::from_utf8(&text).unwrap(), 1);
        let values: Vec<_> = found.into_iter().map(|(_, value)| value.unwrap()).collect();
        assert_eq!(values, ["plain", " with spaces ", "a,b", "\"", "a\r\nb", "\u{e4}"]);
    }
}
