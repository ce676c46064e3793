//! `lastroute export`: the devices of a gateway, page after page, into a file that appears whole or not at all.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::TransferError;
use super::args::{ExportArgs, Format};
use super::columns::{algorithms_text, metadata_column, version_text};
use super::console::{Console, Done, Progress};
use super::csv::{MAX_COLUMNS, write_record};
use super::gateway::{Gateway, Wish};
use super::target::{Place, Target};
use crate::client::{Client, ClientError};
use crate::id::DeviceId;
use crate::records::{ExportedDevice, McuId, Metadata, NewDeviceState};

/// Devices of one page, unless they have so much metadata that fewer fit into an answer.
const PAGE: u32 = 1000;

/// The columns of every CSV file; those of the metadata follow.
const COLUMNS: [&str; 8] =
    ["deviceId", "mcuId", "organisation", "board", "soc", "applicationId", "applicationVersion", "algorithms"];

/// Names of metadata that have a column beside those.
pub(super) const MAX_NAMES: usize = MAX_COLUMNS - COLUMNS.len();

/// A line of the file: what another gateway needs to register the same device, for which it makes records of its own.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    device_id: DeviceId,
    mcu_id: McuId,
    organisation: String,
    board: String,
    soc: String,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial_device_state: Option<NewDeviceState>,
}

/// How long an export that is given up waits for the thread that writes to take its file away.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Exports devices as the flags say, showing `key` to the gateway; gives how many. Ends without a file once `stop`
/// completes.
///
/// # Errors
/// The gateway does not answer or refuses, or the file cannot be written. Then there is no file, or the one that was there.
pub async fn export(
    arguments: &ExportArgs,
    key: Option<&str>,
    stop: impl Future<Output = ()>,
) -> Result<u64, TransferError> {
    let client = Client::new(&arguments.gateway_api, key).map_err(TransferError::Setting)?;
    let form = arguments.form()?;
    let path = &arguments.file;
    let place = Place::of(path).map_err(|error| TransferError::Write { path: path.clone(), error })?;
    let mut writer = Writer::start(place.clone(), path.clone(), form);
    let (_never, stopped) = watch::channel(Wish::GoOn);
    let console = Console::new();
    let gateway = Gateway::new(client, console.clone(), stopped);
    let progress = Progress::new(console.clone(), None);
    let exported = tokio::select! {
        biased;
        () = stop => None,
        exported = carry(arguments, &gateway, &mut writer, progress) => Some(exported),
    };
    console.clear();
    match (exported, place) {
        (Some(Ok(count)), _) => Ok(count),
        (Some(Err(error)), Place::File(_)) => {
            writer.give_up().await;
            Err(error)
        }
        (Some(Err(error)), _) => Err(error),
        // It may have been done in this moment.
        (None, Place::File(_)) => writer.give_up().await.ok_or(TransferError::Interrupted),
        (None, _) => Err(TransferError::Cut),
    }
}

/// Brings the devices page after page to the thread that writes, in the order in which they were registered; gives how
/// many. One that is registered meanwhile comes at the end, and none comes twice.
async fn carry(
    arguments: &ExportArgs,
    gateway: &Gateway,
    writer: &mut Writer,
    mut progress: Progress,
) -> Result<u64, TransferError> {
    if !writer.is_open().await {
        return writer.outcome().await;
    }
    let organisation = match &arguments.organisation {
        Some(name) => Some(gateway.organisation(name).await?),
        None => None,
    };
    let (mut after, mut limit, mut done) = (None, PAGE, Done::default());
    loop {
        let page = match gateway.export(organisation, after, limit).await {
            Err(TransferError::Gateway(ClientError::TooLong { .. })) if limit > 1 => {
                limit /= 2;
                continue;
            }
            page => page?,
        };
        after = page.last().map(|last| last.device.id);
        done.devices += page.len() as u64;
        if !writer.take(page).await || after.is_none() {
            return writer.outcome().await;
        }
        progress.show(done);
    }
}

/// A page of devices; the one after the last is empty.
type Page = Vec<ExportedDevice>;

/// The thread that writes: no signal has to wait for a pipe that nobody reads.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    pages: Option<mpsc::Sender<Page>>,
    open: oneshot::Receiver<()>,
    /// Until it is heard.
    ended: Option<oneshot::Receiver<Result<u64, TransferError>>>,
}

impl Writer {
    /// Not of the runtime, whose end would wait for it.
    fn start(place: Place, path: PathBuf, form: Format) -> Self {
        let (pages, from) = mpsc::channel(1);
        let ((tell_open, open), (tell_end, ended)) = (oneshot::channel(), oneshot::channel());
        let name = path.clone();
        std::thread::spawn(move || {
            // Nobody listens if the export was given up.
            let _ = tell_end.send(write(&place, &name, form, from, tell_open));
        });
        Self { path, pages: Some(pages), open, ended: Some(ended) }
    }

    /// Whether the file is open, once that is known.
    async fn is_open(&mut self) -> bool {
        (&mut self.open).await.is_ok()
    }

    /// Has a page written; false if no more can be written.
    async fn take(&self, page: Page) -> bool {
        match &self.pages {
            Some(pages) => pages.send(page).await.is_ok(),
            None => false,
        }
    }

    /// How many devices were written, once that is all or failed.
    async fn outcome(&mut self) -> Result<u64, TransferError> {
        let ended = match &mut self.ended {
            Some(ended) => ended.await.ok(),
            None => None,
        };
        self.ended = None;
        let broken = || io::Error::other("the thread that writes has ended");
        ended.unwrap_or_else(|| Err(TransferError::Write { path: self.path.clone(), error: broken() }))
    }

    /// Ends without a file; gives how many devices were written if it was all done already.
    async fn give_up(mut self) -> Option<u64> {
        drop(self.pages.take());
        timeout(GIVE_UP, self.ended?).await.ok()?.ok()?.ok()
    }
}

/// Writes pages until the empty one, after which the file appears; gives how many devices they had.
fn write(
    place: &Place,
    path: &Path,
    form: Format,
    mut pages: mpsc::Receiver<Page>,
    open: oneshot::Sender<()>,
) -> Result<u64, TransferError> {
    let wrong = |error| TransferError::Write { path: path.to_owned(), error };
    let mut target = Target::open(place).map_err(wrong)?;
    let mut spool = match form {
        Format::Ndjson => None,
        Format::Csv => Some(Spool::open(place).map_err(wrong)?),
    };
    // Nobody listens if the export was given up.
    let _ = open.send(());
    let mut count = 0;
    loop {
        // Without another page the export was given up.
        let page = pages.blocking_recv().ok_or(TransferError::Interrupted)?;
        if page.is_empty() {
            break;
        }
        count += page.len() as u64;
        for line in page.into_iter().map(Line::from) {
            match &mut spool {
                None => write_json(&mut target, &line).map_err(wrong)?,
                Some(spool) => spool.add(&line).map_err(wrong)?,
            }
        }
        if spool.as_ref().is_some_and(|spool| spool.names.len() > MAX_NAMES) {
            return Err(TransferError::Columns);
        }
    }
    if let Some(spool) = spool {
        spool.write_csv(&mut target).map_err(wrong)?;
    }
    target.finish().map_err(wrong)?;
    Ok(count)
}

fn write_json(to: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

impl From<ExportedDevice> for Line {
    fn from(ExportedDevice { device, board, soc, organisation }: ExportedDevice) -> Self {
        Self {
            device_id: device.device_id,
            mcu_id: device.mcu_id,
            organisation,
            board,
            soc,
            metadata: device.metadata,
            initial_device_state: device.initial_device_state,
        }
    }
}

impl Line {
    /// Its values in the order of the columns.
    fn values(&self, names: &BTreeSet<String>) -> Vec<String> {
        let state = self.initial_device_state.as_ref();
        let application = state.and_then(|state| state.application_id);
        let version = state.and_then(|state| state.application_version.as_ref());
        let algorithms = state.and_then(|state| state.algorithms.as_deref());
        let fixed = [
            self.device_id.to_string(),
            self.mcu_id.to_string(),
            self.organisation.clone(),
            self.board.clone(),
            self.soc.clone(),
            application.map(|id| id.to_string()).unwrap_or_default(),
            version.map(version_text).unwrap_or_default(),
            algorithms.map(algorithms_text).unwrap_or_default(),
        ];
        let metadata = names.iter().map(|name| self.metadata.get(name).cloned().unwrap_or_default());
        fixed.into_iter().chain(metadata).collect()
    }
}

/// The lines of a CSV file, kept on the disk until all its columns are known.
#[derive(Debug)]
struct Spool {
    lines: BufWriter<File>,
    names: BTreeSet<String>,
}

impl Spool {
    /// Beside the file that it becomes, where there is room for that, and without a name.
    fn open(place: &Place) -> io::Result<Self> {
        let file = place.folder().map_or_else(tempfile::tempfile, tempfile::tempfile_in);
        Ok(Self { lines: BufWriter::new(file?), names: BTreeSet::new() })
    }

    fn add(&mut self, line: &Line) -> io::Result<()> {
        for name in line.metadata.keys() {
            if !self.names.contains(name) {
                self.names.insert(name.clone());
            }
        }
        write_json(&mut self.lines, line)
    }

    fn write_csv(self, to: &mut impl Write) -> io::Result<()> {
        let columns = self.names.iter().map(|name| metadata_column(name));
        let columns: Vec<String> = COLUMNS.map(str::to_owned).into_iter().chain(columns).collect();
        let mut record = Vec::new();
        write_record(&mut record, columns.iter().map(String::as_str));
        to.write_all(&record)?;
        let mut lines = self.lines.into_inner().map_err(io::IntoInnerError::into_error)?;
        lines.rewind()?;
        for line in BufReader::new(lines).split(b'\n') {
            let line: Line = serde_json::from_slice(&line?)?;
            record.clear();
            write_record(&mut record, line.values(&self.names).iter().map(String::as_str));
            to.write_all(&record)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::csv::CsvRecords;
    use super::super::draft::Draft;
    use super::*;

    fn line(json: &str) -> Line {
        serde_json::from_str(json).unwrap()
    }

    const FULL: &str = r#"{"deviceId":"d291d4d66bf0a955","mcuId":"00aa","organisation":"plant","board":"a, \"b\"",
        "soc":"nRF9151","metadata":{"serial":"7","site":"x\ny"},"initialDeviceState":{"applicationId":5,
        "applicationVersion":{"major":1,"minor":4,"revision":2,"buildNum":1700},"algorithms":[{"id":1,"version":3}]}}"#;
    const SPACED: &str = r#"{"deviceId":"0000000000000002","mcuId":"00ac","organisation":" plant ","board":" b\t",
        "soc":" x ","metadata":{" site ":" hall ","site":"1"}}"#;
    const BARE: &str = r#"{"deviceId":"0000000000000001","mcuId":"00ab","organisation":"plant","board":"b","soc":"x",
        "metadata":{"other":"1"}}"#;

    #[test]
    fn a_csv_file_has_a_column_for_every_name_and_says_the_same_as_the_lines() {
        let mut spool = Spool::open(&Place::Standard).unwrap();
        [FULL, BARE, SPACED].into_iter().try_for_each(|json| spool.add(&line(json))).unwrap();
        let mut text = Vec::new();
        spool.write_csv(&mut text).unwrap();
        let header = "deviceId,mcuId,organisation,board,soc,applicationId,applicationVersion,algorithms,metadata. site ,\
                      metadata.other,metadata.serial,metadata.site\n";
        assert!(text.starts_with(header.as_bytes()), "{}", String::from_utf8_lossy(&text));
        let mut records = CsvRecords::new(&text[..], 1).unwrap();
        for json in [FULL, BARE, SPACED] {
            let read = records.next().unwrap().unwrap().draft.unwrap();
            assert_eq!(read, Draft::of_json(json.as_bytes()).unwrap());
        }
        assert!(records.next().unwrap().is_none());
    }
}
