//! Lines of a file made into requests, on a thread of its own: while one request is on its way, the next one is made.

use std::io::{self, BufRead};

use hyper::body::Bytes;
use tokio::sync::mpsc::Sender;

use super::csv::CsvRecords;
use super::lines::JsonLines;
use super::names::{Directory, Names, Unresolved};
use super::{Entry, TransferError};

/// Bytes of a request after which no device is added: with the longest line it is below what the gateway takes, 16 MiB.
const FULL: usize = 8 << 20;

/// What begins and ends a request.
const BEGIN: &[u8] = br#"{"devices":["#;
const END: &[u8] = b"]}";
const END_AND_STOP: &[u8] = br#"],"stopAtError":true}"#;

/// A file of devices, in either form.
#[derive(Debug)]
pub(super) enum Source<R> {
    Ndjson(JsonLines<R>),
    Csv(Box<CsvRecords<R>>),
}

impl<R: BufRead> Source<R> {
    fn next(&mut self) -> io::Result<Option<Entry>> {
        match self {
            Self::Ndjson(lines) => lines.next(),
            Self::Csv(records) => records.next(),
        }
    }

    const fn bytes(&self) -> u64 {
        match self {
            Self::Ndjson(lines) => lines.bytes(),
            Self::Csv(records) => records.bytes(),
        }
    }

    /// At the end: why that is too early. To go on after the last line is to be done.
    fn beyond(&self) -> Option<TransferError> {
        let (first, lines) = match self {
            Self::Ndjson(lines) => (lines.first(), lines.lines()),
            Self::Csv(records) => (records.first(), records.lines()),
        };
        (first > lines + 1).then_some(TransferError::Beyond { line: first, lines })
    }
}

/// A part of a file, ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The request; empty if there is no device in it.
    pub(super) body: Bytes,
    /// The line of each of its devices.
    pub(super) lines: Vec<u64>,
    /// Lines that cannot be sent, and why.
    pub(super) bad: Vec<(u64, String)>,
    /// Bytes of the file before and up to the end of it.
    pub(super) bytes: (u64, u64),
    /// Why there is nothing after it, unless the file ends or is not to be read further.
    pub(super) failed: Option<TransferError>,
}

/// How a file is made into requests.
#[derive(Debug)]
pub(super) struct Batches<R, D> {
    pub(super) source: Source<R>,
    pub(super) names: Names<D>,
    /// Devices of one request at most.
    pub(super) size: usize,
    /// Whether nothing is registered after a bad line.
    pub(super) stop_at_bad: bool,
}

impl<R: BufRead, D: Directory> Batches<R, D> {
    /// Hands over one batch after the other, until the file ends or nobody takes them.
    pub(super) fn send(mut self, to: &Sender<Batch>) {
        loop {
            let (batch, more) = self.next();
            if to.blocking_send(batch).is_err() || !more {
                break;
            }
        }
    }

    /// The next part of the file, and whether there is more.
    fn next(&mut self) -> (Batch, bool) {
        let begin = self.source.bytes();
        let mut batch = Batch::default();
        let mut body = BEGIN.to_vec();
        let more = loop {
            if batch.lines.len() + batch.bad.len() >= self.size || body.len() >= FULL {
                break true;
            }
            match self.source.next() {
                Ok(None) => {
                    batch.failed = self.source.beyond();
                    break false;
                }
                Ok(Some(entry)) => {
                    let line = entry.line;
                    match self.add(entry, &mut body) {
                        Ok(()) => batch.lines.push(line),
                        Err(Unresolved::Bad(problem)) => {
                            batch.bad.push((line, problem));
                            if self.stop_at_bad {
                                break false;
                            }
                        }
                        Err(Unresolved::Failed(error)) => {
                            batch.failed = Some(error);
                            break false;
                        }
                    }
                }
                Err(error) => {
                    batch.failed = Some(TransferError::Read(error));
                    break false;
                }
            }
        };
        if !batch.lines.is_empty() {
            body.extend_from_slice(if self.stop_at_bad { END_AND_STOP } else { END });
            batch.body = body.into();
        }
        batch.bytes = (begin, self.source.bytes());
        (batch, more)
    }

    /// Adds the device of a line to a request.
    fn add(&mut self, entry: Entry, body: &mut Vec<u8>) -> Result<(), Unresolved> {
        let device = self.names.resolve(entry.draft.map_err(Unresolved::Bad)?)?;
        let len = body.len();
        if len > BEGIN.len() {
            body.push(b',');
        }
        // Writing into memory fails for values without a form in JSON only, of which a device has none.
        serde_json::to_writer(&mut *body, &device).map_err(|error| {
            body.truncate(len);
            Unresolved::Bad(error.to_string())
        })
    }
}
