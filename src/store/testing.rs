//! A directory in memory that can fail at any step, and knows at each what a kill and a loss of power would leave of it; and
//! records to write there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::checkpoint::{Files, Moment, Records, Written};
use super::disk::{Disk, Sink, Source};
use super::marker::Marker;
use super::{OpenError, Store};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::kept::{Kept, Standing};

/// Files of so few bytes are begun anew here, so that it happens often.
const SMALL: u64 = 2048;

/// The files of a directory.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// A directory in memory. Clones are the same directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    lasting_names: BTreeMap<String, usize>,
    steps: u64,
    /// From this step on everything fails, for so many steps.
    failing: Option<(u64, u64)>,
    watch: bool,
    refuse_records: bool,
    refuse_renames: bool,
    images: Vec<Image>,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    lasting: Vec<u8>,
}

impl Memory {
    pub(super) fn of(image: &Image) -> Self {
        let memory = Self::default();
        {
            let mut state = memory.lock();
            for (name, bytes) in image {
                let at = state.files.len();
                state.files.push(Content { bytes: bytes.clone(), lasting: bytes.clone() });
                state.names.insert(name.clone(), at);
            }
            state.lasting_names = state.names.clone();
        }
        memory
    }

    pub(super) fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Lets the steps from `first` on fail, `count` of them.
    pub(super) fn fail(&self, first: u64, count: u64) {
        self.lock().failing = Some((first, count));
    }

    /// Whether no file of records can be made.
    pub(super) fn refuse_records(&self, on: bool) {
        self.lock().refuse_records = on;
    }

    /// Whether no file can be renamed.
    pub(super) fn refuse_renames(&self, on: bool) {
        self.lock().refuse_renames = on;
    }

    /// From now on remembers what each step could leave.
    pub(super) fn watch(&self) {
        self.lock().watch = true;
    }

    /// What the steps so far could have left: of a kill, and of a loss of power, where names and contents that were not made to
    /// last are there or not.
    pub(super) fn images(&self) -> Vec<Image> {
        std::mem::take(&mut self.lock().images)
    }

    pub(super) fn image(&self) -> Image {
        self.lock().image(true, true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A step: it may fail before it does anything.
    fn step<T>(&self, does: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.lock();
        let step = state.steps;
        state.steps += 1;
        if state.failing.is_some_and(|(first, count)| (first..first + count).contains(&step)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let result = does(&mut state);
        state.remember();
        result
    }
}

impl State {
    fn image(&self, names: bool, contents: bool) -> Image {
        let names = if names { &self.names } else { &self.lasting_names };
        let bytes = |at: usize| if contents { &self.files[at].bytes } else { &self.files[at].lasting };
        names.iter().map(|(name, at)| (name.clone(), bytes(*at).clone())).collect()
    }

    fn remember(&mut self) {
        if self.watch {
            let images = [(true, true), (true, false), (false, true), (false, false)];
            let images = images.map(|(names, contents)| self.image(names, contents));
            self.images.extend(images);
        }
    }
}

impl Disk for Memory {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Source>> {
        let bytes = self.image().remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn create(&mut self, name: &str) -> io::Result<Box<dyn Sink>> {
        let at = self.step(|state| {
            if state.refuse_records && name.starts_with("records") {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let at = state.files.len();
            state.files.push(Content::default());
            state.names.insert(name.to_owned(), at);
            Ok(at)
        })?;
        Ok(Box::new(Open { memory: self.clone(), at }))
    }

    fn append(&mut self, name: &str, length: u64) -> io::Result<Box<dyn Sink>> {
        let at = *self.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let mut file = Open { memory: self.clone(), at };
        file.cut(length)?;
        Ok(Box::new(file))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step(|state| {
            if state.refuse_renames {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let at = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), at);
            Ok(())
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step(|state| state.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step(|state| {
            state.lasting_names = state.names.clone();
            Ok(())
        })
    }
}

impl Source for Cursor<Vec<u8>> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.get_ref().len() as u64)
    }
}

#[derive(Debug)]
struct Open {
    memory: Memory,
    at: usize,
}

impl Write for Open {
    /// In parts, so that it can end in the middle.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.len().min(97);
        self.memory.step(|state| {
            state.files[self.at].bytes.extend(&bytes[..part]);
            Ok(part)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Open {
    fn sync(&mut self) -> io::Result<()> {
        self.memory.step(|state| {
            let content = &mut state.files[self.at];
            content.lasting = content.bytes.clone();
            Ok(())
        })
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.memory.step(|state| {
            state.files[self.at].bytes.truncate(length as usize);
            Ok(())
        })
    }
}

/// All records of a moment, by id; the count of each says which version it is.
pub(super) type Rows = BTreeMap<u64, u64>;

/// Records that change.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    rows: RefCell<Rows>,
    changed: RefCell<BTreeSet<u64>>,
    told: RefCell<BTreeSet<u64>>,
}

impl Fleet {
    pub(super) fn hear(&self, id: u64) {
        *self.rows.borrow_mut().entry(id).or_default() += 1;
        self.changed.borrow_mut().insert(id);
    }

    /// Whoever was told of it is told.
    pub(super) fn forget(&self, id: u64) {
        self.rows.borrow_mut().remove(&id);
        self.changed.borrow_mut().remove(&id);
        if self.told.borrow().contains(&id) {
            self.changed.borrow_mut().insert(id);
        }
    }

    pub(super) fn rows(&self) -> Rows {
        self.rows.borrow().clone()
    }
}

impl Records for Fleet {
    fn tell(&self, all: bool, each: &mut dyn FnMut(DeviceId, Option<Kept>, Standing)) {
        let changed = std::mem::take(&mut *self.changed.borrow_mut());
        let mut ids = changed.clone();
        if all {
            ids.extend(self.rows.borrow().keys());
        }
        for id in ids {
            let told = match self.rows.borrow().contains_key(&id) {
                true => !self.told.borrow_mut().insert(id),
                false => {
                    self.told.borrow_mut().remove(&id);
                    true
                }
            };
            let standing = Standing { changed: changed.contains(&id), told };
            each(DeviceId(id), self.rows.borrow().get(&id).map(|count| kept(*count)), standing);
        }
    }

    fn mark_changed(&self, ids: Vec<DeviceId>) {
        self.changed.borrow_mut().extend(ids.iter().map(|id| id.0));
        self.told.borrow_mut().extend(ids.iter().map(|id| id.0));
    }

    fn mark_untold(&self, ids: Vec<DeviceId>) {
        for DeviceId(id) in ids {
            self.told.borrow_mut().remove(&id);
            if self.rows.borrow().contains_key(&id) {
                self.changed.borrow_mut().insert(id);
            }
        }
    }

    fn mark_all_untold(&self) {
        self.told.borrow_mut().clear();
        *self.changed.borrow_mut() = self.rows.borrow().keys().copied().collect();
    }

    fn generation(&self) -> u32 {
        self.rows.borrow().len() as u32
    }

    fn floor(&self) -> u32 {
        0
    }
}

pub(super) fn kept(count: u64) -> Kept {
    Kept { count, greatest: count as u32, ..Kept::default() }
}

/// The lines that are logged while `does` runs, without their times.
pub(super) fn logged(does: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::with_default(log.finish(), does);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the store on a directory.
pub(super) fn open(memory: &Memory) -> Result<(Store, Rows), OpenError> {
    let store = Store::on(Path::new("routes"), Box::new(memory.clone()), Box::<Memory>::default())?;
    let rows = RefCell::new(Rows::new());
    let is_restored = |id: DeviceId| rows.borrow().contains_key(&id.0);
    store.load_by(
        |_| {},
        is_restored,
        |id, kept| {
            assert_eq!(kept, self::kept(kept.count), "mixed");
            assert_eq!(rows.borrow_mut().insert(id.0, kept.count), None, "once");
        },
    )?;
    Ok((store, rows.into_inner()))
}

/// Begins to write on a directory.
pub(super) fn files(memory: &Memory) -> Files {
    let marker = Marker::read(memory).unwrap().unwrap_or_default();
    Files::go_on(Box::new(memory.clone()), Marker { epoch: 7, ..marker }, SMALL).unwrap()
}

/// One checkpoint.
pub(super) fn write(files: &mut Files, fleet: &Fleet, clean: bool) -> io::Result<Written> {
    files.write(&Moment { records: fleet, at: Timestamp(1), clean, hurried: clean })
}
