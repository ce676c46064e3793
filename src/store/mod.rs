//! What the route table knows, on disk (rule R10): loaded at the start, written behind every 10 s and at the stop.
//!
//! The table has everything in memory, so nothing is ever looked up here: records are appended to one file, read once, and
//! all written anew when the file has become twice as long as it need be. `blocks.rs` is that file, `marker.rs` says up to
//! where it counts, `checkpoint.rs` writes both in the right order, `keeper.rs` does so in time, on a thread of its own, and
//! `disk.rs` is all that the store knows of files. `starts.rs` tells records that were put back from a copy.
//!
//! The data directory is locked by whoever opens the store: one process at a time.

mod blocks;
mod checkpoint;
mod disk;
mod error;
mod keeper;
mod marker;
mod starts;
mod stats;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod former_tests;
#[cfg(test)]
mod testing;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;

use crate::auth::keys::KeyRing;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::RouteTable;
use crate::table::kept::Kept;
use checkpoint::{Files, SMALL};
use disk::{Directory, Disk};
use error::Fault;
use marker::Marker;
use starts::Starts;

pub use error::OpenError;
pub use keeper::{INTERVAL, Keeper, Orders, Parts};
pub use stats::{CHECKPOINT_BOUNDS, Stats};

/// The directory of the store in the data directory.
pub const DIRECTORY: &str = "routes";

/// The store of a data directory, before anything is written to it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    disk: Box<dyn Disk>,
    found: Option<Marker>,
    /// What was there could not be read, and was set aside.
    aside: Option<PathBuf>,
    /// The data directory, which has the starts.
    beside: Box<dyn Disk>,
    starts: Starts,
}

/// What the process before this one left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// There was none.
    Nothing,
    /// It stopped in order: its cursors go on in this epoch and generation.
    Stopped {
        /// The upper half of its epochs.
        epoch: u32,
        /// Its generation.
        generation: u32,
    },
    /// It ended some other way, or what it left is set aside, taken away, or not what is there: packets may have been counted
    /// that are forgotten.
    Forgot,
}

impl Store {
    /// Opens the store in `data_dir`, and makes it there. With `set_aside`, what cannot be read is renamed to `routes.bad-` and
    /// the time `now`, and the store begins empty; this takes a look at every record.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub fn open(data_dir: &Path, set_aside: bool, now: Timestamp) -> Result<Self, OpenError> {
        let path = data_dir.join(DIRECTORY);
        let open = || {
            let beside = Directory::make(data_dir).map_err(OpenError::of_file(data_dir))?;
            let disk = Directory::make(&path).map_err(OpenError::of_file(&path))?;
            Self::on(&path, Box::new(disk), Box::new(beside))
        };
        if !set_aside {
            return open();
        }
        match open().and_then(|store| store.check().map(|()| store)) {
            Err(error) if error.is_of_content() => {
                let aside = data_dir.join(format!("{DIRECTORY}.bad-{}", now.0 / 1000));
                std::fs::rename(&path, &aside)
                    .and_then(|()| disk::sync(data_dir))
                    .map_err(OpenError::of_file(&aside))?;
                tracing::warn!(%error, aside = %aside.display(), "records set aside");
                Ok(Self { aside: Some(aside), ..open()? })
            }
            other => other,
        }
    }

    fn on(path: &Path, disk: Box<dyn Disk>, beside: Box<dyn Disk>) -> Result<Self, OpenError> {
        let found = Marker::read(&*disk).map_err(|fault| fault.of(path, marker::NAME))?;
        let starts = Starts::read(&*beside).map_err(OpenError::of_file(&path.with_file_name(starts::NAME)))?;
        Ok(Self { path: path.to_owned(), disk, found, aside: None, beside, starts })
    }

    /// What the process before this one left.
    pub fn before(&self) -> Before {
        match self.found.filter(|_| self.aside.is_none()) {
            Some(Marker { clean: true, start, epoch, generation, .. }) if start == self.starts.last => {
                Before::Stopped { epoch, generation }
            }
            None if self.aside.is_none() && self.starts == Starts::default() => Before::Nothing,
            _ => Before::Forgot,
        }
    }

    /// How often it came to [`Before::Forgot`] so far, this time included: [`TableConfig::losses`](crate::table::TableConfig).
    pub fn losses(&self) -> u32 {
        self.starts.losses.wrapping_add(u32::from(self.before() == Before::Forgot))
    }

    /// When the process before this one wrote last; 0 if it never did.
    pub fn last_at(&self) -> Timestamp {
        Timestamp(self.found.map_or(0, |found| found.at))
    }

    /// The floor of rule R5 that held when the process before this one wrote last, in GPS seconds; 0: there was none.
    pub fn floor(&self) -> u32 {
        self.found.map_or(0, |found| found.floor)
    }

    /// Puts every record back into `table`, and returns how many rows were read. The networks must be in `keys`; devices may
    /// be registered meanwhile.
    ///
    /// # Errors
    /// A record cannot be read: nothing may be served.
    pub fn load(&self, table: &RouteTable, keys: &KeyRing) -> Result<u64, OpenError> {
        let ahead = |ids: &[DeviceId]| table.prefetch_all(ids);
        self.load_by(ahead, |id| table.has_record(id), |id, kept| table.restore(keys, id, &kept))
    }

    /// As [`Self::load`]. `ahead` is told of which devices the next rows are. `restore` is told of the present record of a device, after which it is one that `is_restored`: the rows
    /// before that are not looked into.
    fn load_by(
        &self,
        ahead: impl Fn(&[DeviceId]),
        is_restored: impl Fn(DeviceId) -> bool,
        mut restore: impl FnMut(DeviceId, Kept),
    ) -> Result<u64, OpenError> {
        let mut forgotten = HashSet::<DeviceId, RandomState>::default();
        let mut rows = 0;
        self.read(ahead, |id, value| {
            rows += 1;
            match value {
                None => drop(forgotten.insert(id)),
                Some(_) if forgotten.contains(&id) || is_restored(id) => {}
                Some(value) => restore(id, blocks::record(value)?),
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// Reads everything, and keeps nothing.
    fn check(&self) -> Result<(), OpenError> {
        self.read(|_| {}, |_, value| value.map(blocks::record).transpose().map(drop))
    }

    fn read(
        &self,
        ahead: impl Fn(&[DeviceId]),
        each: impl FnMut(DeviceId, Option<&[u8]>) -> Result<(), Fault>,
    ) -> Result<(), OpenError> {
        let Some(marker) = self.found.filter(|marker| marker.file != 0) else { return Ok(()) };
        let name = marker.records();
        let read = || blocks::read_back(&mut *self.disk.read(&name)?, marker.end(), ahead, each);
        read().map_err(|fault| fault.of(&self.path, &name))
    }

    /// Begins to write: from now on the process may end at any time, and counts in `epoch`. `floor`: that of rule R5.
    ///
    /// # Errors
    /// The directory cannot be written to.
    fn go_on(mut self, epoch: u32, floor: u32, now: Timestamp) -> Result<Files, OpenError> {
        let found = self.found.unwrap_or_default();
        let starts = Starts { last: self.starts.last.max(found.start).wrapping_add(1), losses: self.losses() };
        let marker = Marker { epoch, at: now.0, floor, start: starts.last, ..found };
        let beside = self.path.with_file_name(starts::NAME);
        starts.prepare(&mut *self.beside).map_err(OpenError::of_file(&beside))?;
        let files = Files::go_on(self.disk, marker, SMALL).map_err(OpenError::of_file(&self.path))?;
        // Not before: where nothing can be written the orderly stop before stays one.
        Starts::put(&mut *self.beside).map_err(OpenError::of_file(&beside))?;
        Ok(files)
    }
}
