//! Writing down what changed: appended to the file of records, or, once that is twice as long as it need be, all records into
//! a new file. A failure takes nothing back that lasted before it.

use std::io;

use super::blocks::{Blocks, End};
use super::disk::Disk;
use super::marker::{self, Marker};
use crate::auth::keys::KeyRing;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::RouteTable;
use crate::table::kept::{Kept, Standing};

/// A file below this many bytes is never begun anew: some 40 000 records.
pub(super) const SMALL: u64 = 4 << 20;

/// What is written down. See [`RouteTable`], which has all of this.
pub(super) trait Records {
    /// Tells of every record that changed since the last call, or of all, and of what was forgotten: the last that is told of
    /// one id holds.
    fn tell(&self, all: bool, each: &mut dyn FnMut(DeviceId, Option<Kept>, Standing));
    /// The next [`Self::tell`] tells of these again.
    fn mark_changed(&self, ids: Vec<DeviceId>);
    /// So it does of these, of which nothing was written ever.
    fn mark_untold(&self, ids: Vec<DeviceId>);
    /// So it does of all: nothing was written ever.
    fn mark_all_untold(&self);
    /// The generation to go on with.
    fn generation(&self) -> u32;
    /// The floor of rule R5.
    fn floor(&self) -> u32;
}

impl Records for (&RouteTable, &KeyRing) {
    fn tell(&self, all: bool, each: &mut dyn FnMut(DeviceId, Option<Kept>, Standing)) {
        self.0.tell(self.1, all, each);
    }

    fn mark_changed(&self, ids: Vec<DeviceId>) {
        self.0.mark_changed(ids);
    }

    fn mark_untold(&self, ids: Vec<DeviceId>) {
        self.0.mark_untold(ids);
    }

    fn mark_all_untold(&self) {
        self.0.mark_all_untold();
    }

    fn generation(&self) -> u32 {
        self.0.next_generation()
    }

    fn floor(&self) -> u32 {
        self.0.floor()
    }
}

/// What is written of, and when.
pub(super) struct Moment<'a> {
    pub(super) records: &'a dyn Records,
    pub(super) at: Timestamp,
    /// Nothing is counted after this.
    pub(super) clean: bool,
    /// The process stops soon: nothing is written anew for the space that it takes.
    pub(super) hurried: bool,
}

/// What one checkpoint wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Records and forgotten devices.
    pub(super) rows: u64,
    /// Bytes of the file of records.
    pub(super) bytes: u64,
}

/// The files, open for writing.
#[derive(Debug)]
pub(super) struct Files {
    disk: Box<dyn Disk>,
    /// What holds after a stop at this moment.
    marker: Marker,
    state: State,
    /// A file of records below this many bytes is never begun anew.
    small: u64,
    /// From this many bytes on the file of records is begun anew.
    long: u64,
    /// The number of the newest file that was begun, in vain or not.
    newest: u64,
    /// There was no space for another file when one was wanted last, and that was said.
    is_cramped: bool,
}

/// Whose rows have to be written again if this checkpoint fails.
#[derive(Debug)]
enum Owed {
    /// All: nothing was kept before, so that nobody need be noted.
    All,
    /// Those of these.
    Some {
        /// Of these there were rows before.
        changed: Vec<DeviceId>,
        /// Of these there were none.
        new: Vec<DeviceId>,
    },
}

impl Owed {
    /// By a checkpoint after the one of which `marker` speaks.
    const fn after(marker: &Marker) -> Self {
        if marker.file == 0 { Self::All } else { Self::Some { changed: Vec::new(), new: Vec::new() } }
    }

    fn note(&mut self, id: DeviceId, standing: Standing) {
        let Self::Some { changed, new } = self else { return };
        match standing {
            Standing { told: false, .. } => new.push(id),
            Standing { changed: true, .. } => changed.push(id),
            Standing { .. } => {}
        }
    }

    /// They are told of again, unless their rows hold once the marker is put that speaks of them.
    fn give_back(self, records: &dyn Records, failed: &Failed) {
        match (self, failed) {
            (_, Failed::Putting(..)) => {}
            (Self::All, _) => records.mark_all_untold(),
            (Self::Some { changed, new }, _) => {
                records.mark_untold(new);
                records.mark_changed(changed);
            }
        }
    }
}

#[derive(Debug)]
enum State {
    /// What comes next is appended here.
    Open(Blocks),
    /// What comes next goes into a new file, with all records: there is none yet, or nobody knows what the present one holds.
    Anew,
    /// This marker may hold or that of [`Files`]: it is put once more before anything else is written. The rows it speaks of last.
    Unsure(Blocks, Marker),
}

/// Where a checkpoint failed.
enum Failed {
    /// While writing: what was written can be taken back.
    Writing(io::Error),
    /// While making the records last: what their file holds now is not known.
    Syncing(io::Error),
    /// While putting this marker: which of the two holds is not known, so neither of their files may change.
    Putting(io::Error, Marker),
}

impl Failed {
    fn into_error(self) -> io::Error {
        match self {
            Self::Writing(error) | Self::Syncing(error) | Self::Putting(error, _) => error,
        }
    }
}

impl Files {
    /// Goes on with what `marker` says, and marks that the process may end at any time: with the clean flag gone.
    ///
    /// # Errors
    /// The directory cannot be written to. Nothing has changed then.
    pub(super) fn go_on(mut disk: Box<dyn Disk>, marker: Marker, small: u64) -> io::Result<Self> {
        let marker = Marker { clean: false, ..marker };
        let state = match marker.file {
            0 => State::Anew,
            _ => State::Open(Blocks::at(disk.append(&marker.records(), marker.length)?, marker.end())?),
        };
        marker.prepare(&mut *disk)?;
        marker::put(&mut *disk)?;
        let mut files = Self {
            disk,
            marker,
            state,
            small,
            long: small.max(2 * marker.begun),
            newest: marker.file,
            is_cramped: false,
        };
        files.clear();
        Ok(files)
    }

    /// Writes down everything that changed since the last call, and makes it last.
    ///
    /// # Errors
    /// It cannot be written. It is written by the next call then, with what changes until then.
    pub(super) fn write(&mut self, moment: &Moment<'_>) -> io::Result<Written> {
        self.make_sure()?;
        let is_open = matches!(self.state, State::Open(_));
        // At a stop there is no time for all of them.
        if is_open && (moment.hurried || self.marker.length < self.long) {
            return self.append(moment);
        }
        let result = self.begin(moment);
        let Err(error) = &result else {
            self.is_cramped = false;
            return result;
        };
        if !matches!(self.state, State::Open(_)) {
            return result;
        }
        // There is no space for both files, but perhaps for what changed.
        if !std::mem::replace(&mut self.is_cramped, true) {
            tracing::warn!(%error, "no new file of records can be written; going on with the present one, which becomes longer");
        }
        self.long = self.marker.length + self.marker.length / 4;
        self.append(moment)
    }

    /// Puts the marker once more of which it is not known whether it holds.
    fn make_sure(&mut self) -> io::Result<()> {
        let State::Unsure(_, next) = &self.state else { return Ok(()) };
        let next = Marker { clean: false, ..*next };
        next.prepare(&mut *self.disk)?;
        marker::put(&mut *self.disk)?;
        if let State::Unsure(blocks, _) = std::mem::replace(&mut self.state, State::Anew) {
            self.state = State::Open(blocks);
        }
        self.hold(next);
        Ok(())
    }

    /// A marker holds that was put.
    fn hold(&mut self, marker: Marker) {
        let is_new = marker.file != self.marker.file;
        self.marker = marker;
        if is_new {
            self.long = self.small.max(2 * marker.begun);
            self.clear();
        }
    }

    fn append(&mut self, moment: &Moment<'_>) -> io::Result<Written> {
        let State::Open(mut blocks) = std::mem::replace(&mut self.state, State::Anew) else {
            return self.begin(moment);
        };
        let (before, mut owed) = (self.marker.end(), Owed::after(&self.marker));
        let result = rows(&mut blocks, moment, false, &mut owed).and_then(|(end, rows)| {
            if rows > 0 || moment.clean {
                self.marker = lasting(&mut *self.disk, &mut blocks, at_end(self.marker, end, moment))?;
            }
            Ok(Written { rows, bytes: end.length - before.length })
        });
        let failed = match result {
            Ok(written) => {
                self.state = State::Open(blocks);
                return Ok(written);
            }
            Err(failed) => failed,
        };
        owed.give_back(moment.records, &failed);
        self.state = match failed {
            Failed::Putting(_, next) => State::Unsure(blocks, next),
            Failed::Writing(_) if blocks.cut(before).is_ok() => State::Open(blocks),
            Failed::Writing(_) | Failed::Syncing(_) => State::Anew,
        };
        Err(failed.into_error())
    }

    /// Writes all records into a new file.
    fn begin(&mut self, moment: &Moment<'_>) -> io::Result<Written> {
        self.newest += 1;
        let (file, name) = (self.newest, marker::records(self.newest));
        let mut owed = Owed::after(&self.marker);
        let opened = self.disk.create(&name).and_then(|file| Blocks::at(file, End::default()));
        let mut blocks = match opened {
            Ok(blocks) => blocks,
            Err(error) => {
                // What cannot be removed now is removed later.
                let _ = self.disk.remove(&name);
                return Err(error);
            }
        };
        let result = rows(&mut blocks, moment, true, &mut owed).and_then(|(end, rows)| {
            // The name of the new file, before the marker speaks of it.
            self.disk.sync().map_err(Failed::Writing)?;
            let next = Marker { file, begun: end.length, ..at_end(self.marker, end, moment) };
            Ok((lasting(&mut *self.disk, &mut blocks, next)?, Written { rows, bytes: end.length }))
        });
        match result {
            Ok((marker, written)) => {
                self.state = State::Open(blocks);
                self.hold(marker);
                Ok(written)
            }
            Err(failed) => {
                owed.give_back(moment.records, &failed);
                match failed {
                    Failed::Putting(_, next) => self.state = State::Unsure(blocks, next),
                    // The space it takes is wanted. What cannot be removed now is removed later.
                    Failed::Writing(_) | Failed::Syncing(_) => drop(self.disk.remove(&name)),
                }
                Err(failed.into_error())
            }
        }
    }

    /// Removes what no marker speaks of. What cannot be removed is removed another time.
    fn clear(&mut self) {
        for name in self.disk.names().unwrap_or_default() {
            if marker::number(&name).is_some_and(|number| number != self.marker.file) {
                let _ = self.disk.remove(&name);
            }
        }
    }
}

/// Writes what changed, or all; where the file ends then, and how many rows that are.
fn rows(blocks: &mut Blocks, moment: &Moment<'_>, all: bool, owed: &mut Owed) -> Result<(End, u64), Failed> {
    let mut result = Ok(());
    moment.records.tell(all, &mut |id, kept, standing| {
        owed.note(id, standing);
        if result.is_ok() {
            result = blocks.write(id, kept.as_ref());
        }
    });
    result.and_then(|()| blocks.end_rows()).map_err(Failed::Writing)
}

/// Makes the rows last, and then the marker `next` that speaks of them, and returns that.
fn lasting(disk: &mut dyn Disk, blocks: &mut Blocks, next: Marker) -> Result<Marker, Failed> {
    blocks.sync().map_err(Failed::Syncing)?;
    next.prepare(disk).map_err(Failed::Writing)?;
    marker::put(disk).map_err(|error| Failed::Putting(error, next))?;
    Ok(next)
}

fn at_end(marker: Marker, end: End, moment: &Moment<'_>) -> Marker {
    Marker {
        length: end.length,
        checksum: end.checksum,
        clean: moment.clean,
        generation: moment.records.generation(),
        at: moment.at.0,
        floor: moment.records.floor(),
        ..marker
    }
}
