//! `lastroute import`: batches of a file to a gateway, and what came of every line, in the order of the file.

use std::convert::Infallible;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::pin::pin;

use futures_util::stream::{self, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::args::{Format, ImportArgs, OnError, is_standard};
use super::batch::{Batch, Batches, Source};
use super::console::{Console, Done, Progress};
use super::csv::{CsvRecords, HeaderError};
use super::gateway::{Gateway, Lists, Wish};
use super::lines::JsonLines;
use super::names::Names;
use super::{TransferError, shown_path};
use crate::client::Client;
use crate::records::ImportOutcome;

/// Bytes that are read from the file at once.
const READ: usize = 256 << 10;

/// Requests on their way at once: the gateway reads one while it stores the one before.
const AT_ONCE: usize = 2;

/// What came of an import.
#[derive(Debug)]
pub struct Imported {
    /// Devices that are new.
    pub created: u64,
    /// Devices that were registered already, exactly so.
    pub unchanged: u64,
    /// Lines that were not imported, each of which was reported.
    pub failed: u64,
    /// How it ended, if not with the end of the file: the reason, and the command that goes on.
    pub ended: Option<(Ended, String)>,
}

/// Why an import ended before its file did.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// At a bad line, as it was told to.
    #[error("stopped at line {0}, as --on-error stop asks; correct it and go on")]
    BadLine(u64),
    /// The user wanted it.
    #[error("interrupted; go on")]
    Interrupted,
    /// It could not go on.
    #[error("{0}; then go on")]
    Failed(TransferError),
}

impl Imported {
    /// What is missing, and how to get it; `None` if nothing is.
    pub fn shortfall(&self) -> Option<String> {
        match &self.ended {
            Some((ended, command)) => Some(format!("{ended} with: {command}")),
            None if self.failed > 0 => {
                let (lines, them) = if self.failed == 1 { ("line", "it") } else { ("lines", "them") };
                Some(format!(
                    "{} {lines} failed; correct {them} and import the file again: what is registered stays as it is",
                    self.failed
                ))
            }
            None => None,
        }
    }
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "created {}, unchanged {}, failed {}", self.created, self.unchanged, self.failed)
    }
}

/// Imports a file as the flags say, showing `key` to the gateway. Once `stop` completes, what is on its way is finished and
/// no more is sent; if `end` does, too, it is not waited for. Bad lines are reported on standard error.
///
/// # Errors
/// It cannot begin.
pub async fn import(
    arguments: &ImportArgs,
    key: Option<&str>,
    stop: impl Future<Output = ()>,
    end: impl Future<Output = ()>,
) -> Result<Imported, TransferError> {
    let client = Client::new(&arguments.gateway_api, key).map_err(TransferError::Setting)?;
    let form = arguments.form()?;
    let (tell, stopped) = watch::channel(Wish::GoOn);
    let console = Console::new();
    let gateway = Gateway::new(client, console.clone(), stopped.clone());
    let lists = Lists { gateway: gateway.clone(), runtime: Handle::current() };
    let names = Names::new(lists, arguments.organisation.clone(), arguments.board.clone());
    let stop_at_bad = arguments.on_error == OnError::Stop;
    let size = usize::try_from(arguments.batch).unwrap_or(usize::MAX);
    let file = arguments.clone();
    let batches = move || Ok(Batches { source: open(&file, form)?, names, size, stop_at_bad });
    let progress = Progress::new(console.clone(), length(&arguments.file));
    let run =
        Run { gateway, console: console.clone(), progress, stopped, stop_at_bad, done: Tally::at(arguments.from_line) };
    let mut run = pin!(run.all(begin(batches)));
    let tally = tokio::select! {
        biased;
        tally = &mut run => tally,
        () = stop => {
            tell.send_replace(Wish::Finish);
            let told = async {
                console.say("what is on its way is being finished; a second signal ends the import at once");
                std::future::pending::<Infallible>().await
            };
            let end = async {
                // In this order, as the second signal is listened for once that is polled.
                tokio::select! {
                    biased;
                    () = end => {}
                    never = told => match never {},
                }
                tell.send_replace(Wish::End);
                std::future::pending::<Infallible>().await
            };
            tokio::select! {
                biased;
                tally = &mut run => tally,
                never = end => match never {},
            }
        }
    };
    console.clear();
    tally.imported(arguments)
}

/// Makes batches on a thread of its own, one ahead of those that are on their way. It opens the file, too, since that
/// can wait for whoever writes it.
fn begin<F>(open: F) -> mpsc::Receiver<Batch>
where
    F: FnOnce() -> Result<Batches<Input, Lists>, TransferError> + Send + 'static,
{
    let (to, from) = mpsc::channel(1);
    // Not of the runtime, whose end would wait for a read of standard input.
    std::thread::spawn(move || {
        let batches = open().and_then(|mut batches| batches.names.check_defaults().map(|()| batches));
        match batches {
            Ok(batches) => batches.send(&to),
            // Nobody takes it if the import has ended.
            Err(error) => drop(to.blocking_send(Batch { failed: Some(error), ..Batch::default() })),
        }
    });
    from
}

/// What a file is read through.
type Input = Box<dyn BufRead + Send>;

/// How many bytes the file has, if that is known.
fn length(path: &Path) -> Option<u64> {
    let metadata = if is_standard(path) { None } else { path.metadata().ok() };
    metadata.filter(Metadata::is_file).map(|metadata| metadata.len())
}

/// The file, of which the header is read if it has one.
fn open(arguments: &ImportArgs, form: Format) -> Result<Source<Input>, TransferError> {
    let path = &arguments.file;
    let unreadable = |error| TransferError::Open { path: path.clone(), error };
    let input: Input = if is_standard(path) {
        Box::new(BufReader::with_capacity(READ, io::stdin()))
    } else {
        Box::new(BufReader::with_capacity(READ, File::open(path).map_err(unreadable)?))
    };
    match form {
        Format::Ndjson => Ok(Source::Ndjson(JsonLines::new(input, arguments.from_line))),
        Format::Csv => {
            let records = CsvRecords::new(input, arguments.from_line).map_err(|error| match error {
                HeaderError::Read(error) => unreadable(error),
                HeaderError::Header(problem) => {
                    TransferError::Header { path: shown_path(path, "standard input"), problem }
                }
            });
            Ok(Source::Csv(Box::new(records?)))
        }
    }
}

/// An import that is under way.
struct Run {
    gateway: Gateway,
    console: Console,
    progress: Progress,
    stopped: watch::Receiver<Wish>,
    stop_at_bad: bool,
    done: Tally,
}

/// What was done so far.
#[derive(Debug)]
struct Tally {
    created: u64,
    unchanged: u64,
    failed: u64,
    /// Every line before this one is done.
    next_line: u64,
    ended: Option<Ended>,
}

impl Run {
    async fn all(mut self, batches: mpsc::Receiver<Batch>) -> Tally {
        let gateway = self.gateway.clone();
        let at_once = if self.stop_at_bad { 1 } else { AT_ONCE };
        let answers = until(self.stopped.clone(), batches).map(|batch| send(&gateway, batch)).buffered(at_once);
        let mut answers = pin!(answers);
        while self.done.ended.is_none() {
            let Some((batch, outcome)) = answers.next().await else { break };
            self.answered(batch, outcome);
        }
        if self.done.ended.is_none() && *self.stopped.borrow() >= Wish::Finish {
            self.done.ended = Some(Ended::Interrupted);
        }
        self.done
    }

    fn answered(&mut self, batch: Batch, outcome: Result<ImportOutcome, TransferError>) {
        self.show(batch.bytes.0);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.done.ended = Some(Ended::Failed(error));
                return;
            }
        };
        let refused = outcome.failed.into_iter().map(|failure| {
            let line = batch.lines.get(failure.index).copied().unwrap_or_default();
            (line, failure.message)
        });
        let mut bad: Vec<_> = batch.bad.into_iter().chain(refused).collect();
        bad.sort_unstable_by_key(|(line, _)| *line);
        if self.stop_at_bad {
            // The gateway may have stopped before the bad line at the end.
            bad.truncate(1);
        }
        for (line, problem) in &bad {
            self.console.say(&format!("line {line}: {}", super::quoted(problem)));
        }
        self.done.add(outcome.created, outcome.unchanged, &bad, batch.lines.last().copied());
        self.show(batch.bytes.1);
        self.done.ended = match bad.first() {
            Some((line, _)) if self.stop_at_bad => Some(Ended::BadLine(*line)),
            _ => batch.failed.map(Ended::Failed),
        };
    }

    fn show(&mut self, bytes: u64) {
        let Tally { created, unchanged, failed, .. } = self.done;
        self.progress.show(Done { devices: created + unchanged, failed, bytes });
    }
}

/// The batches that come before the wish to stop does.
fn until(stopped: watch::Receiver<Wish>, batches: mpsc::Receiver<Batch>) -> impl Stream<Item = Batch> {
    stream::unfold((stopped, batches), async |(mut stopped, mut batches)| {
        let batch = tokio::select! {
            biased;
            _ = stopped.wait_for(|wish| *wish >= Wish::Finish) => None,
            batch = batches.recv() => batch,
        };
        Some((batch?, (stopped, batches)))
    })
}

/// A batch, and what came of it.
async fn send(gateway: &Gateway, mut batch: Batch) -> (Batch, Result<ImportOutcome, TransferError>) {
    let body = std::mem::take(&mut batch.body);
    let outcome = if body.is_empty() { Ok(ImportOutcome::default()) } else { gateway.import(body).await };
    (batch, outcome)
}

impl Tally {
    /// Nothing was done, and the lines before this one need not be.
    const fn at(line: u64) -> Self {
        Self { created: 0, unchanged: 0, failed: 0, next_line: line, ended: None }
    }

    fn add(&mut self, created: u64, unchanged: u64, bad: &[(u64, String)], last_sent: Option<u64>) {
        self.created += created;
        self.unchanged += unchanged;
        self.failed += bad.len() as u64;
        let last = bad.last().map(|(line, _)| *line).max(last_sent);
        self.next_line = last.map_or(self.next_line, |last| last + 1);
    }

    fn imported(self, arguments: &ImportArgs) -> Result<Imported, TransferError> {
        let Self { created, unchanged, failed, next_line, ended } = self;
        let ended = match ended {
            Some(Ended::Failed(error)) if error.is_of_command() => return Err(error),
            Some(Ended::Failed(TransferError::Interrupted)) => Some((Ended::Interrupted, arguments.from(next_line))),
            Some(Ended::BadLine(line)) => Some((Ended::BadLine(line), arguments.from(line))),
            other => other.map(|ended| (ended, arguments.from(next_line))),
        };
        Ok(Imported { created, unchanged, failed, ended })
    }
}
