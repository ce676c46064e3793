//! Lists of devices by what was heard of them. The route table knows that, the database does not: a list is made by looking
//! at every registered device, so seldom, and not on the thread of the API.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, future};
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;
use uuid::Uuid;

use super::database::to_number;
use super::device_rows;
use super::listing::{Listing, part, passes};
use super::readers::Reader;
use super::{DeviceFilter, DeviceOrder, DeviceRecord, HeardFilter, HeardOrder, Page, Registry, RegistryError};
use crate::clock::Timestamp;
use crate::table::RouteTable;

/// Least time between the making of two lists of an organisation.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Most time between the making of two lists, while somebody looks.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// How many times longer than the making of a list the pause after it is, times the organisations whose lists are in use:
/// all lists together cost at most 1 % of a core, unless they would get too old by that.
const PAUSE_FACTOR: u32 = 100;

/// A list older than this is not shown: whoever asks waits for a new one.
const MAX_AGE: Duration = Duration::from_secs(15);

/// How often the numbers of a page are found in all.
const MAX_TRIES: usize = 4;

/// A list that is so old is dropped when somebody looks at any other: nobody is looking at it.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The latest list of every organisation that somebody looked at lately.
#[derive(Debug, Default)]
pub(super) struct Lists {
    organisations: Mutex<HashMap<u32, Arc<Kept>>>,
    /// Held while the devices that pass a filter are looked for: one at a time, as it takes a processor.
    looking: Arc<tokio::sync::Mutex<()>>,
    /// Held while the devices are gone through for a list: of one organisation at a time, for the same reason.
    walking: tokio::sync::Mutex<()>,
}

/// The list of an organisation.
#[derive(Debug, Default)]
struct Kept {
    state: Mutex<State>,
    /// Held while a list is made.
    making: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    latest: Option<Made>,
    /// Devices that are in the list and deleted since; also those that were deleted while the next one was made.
    gone: Vec<u32>,
}

/// A list that was made.
#[derive(Clone, Debug)]
struct Made {
    listing: Arc<Listing>,
    /// The time of day at which it holds.
    at: Timestamp,
    begun: Instant,
    /// When the next one is to be made.
    due: Instant,
}

impl Registry {
    /// Devices of an organisation in an order of their records, as far as `heard` lets them through, now. The order by
    /// organisation is that of creation.
    ///
    /// # Errors
    /// As [`Self::devices`].
    pub async fn devices_heard(
        &self,
        organisation: Uuid,
        heard: HeardFilter,
        order: DeviceOrder,
        page: Page,
    ) -> Result<Vec<DeviceRecord>, RegistryError> {
        let filter = DeviceFilter { organisation: Some(organisation), ..DeviceFilter::default() };
        if heard == HeardFilter::default() {
            return self.devices(&filter, order, page).await;
        }
        let Some(number) = self.organisation_number(organisation).await? else { return Ok(Vec::new()) };
        self.whole(|| self.numbers_heard(number, &filter, heard, order, page)).await
    }

    /// The numbers of the devices of a page of [`Self::devices_heard`].
    async fn numbers_heard(
        &self,
        organisation: u32,
        filter: &DeviceFilter,
        heard: HeardFilter,
        order: DeviceOrder,
        page: Page,
    ) -> Result<Vec<i64>, RegistryError> {
        // Goes with the work, which goes on to its end if whoever asked goes away.
        let looking = async { Ok(Arc::clone(&self.heard.looking).lock_owned().await) };
        let looking = self.database.read(looking).await?;
        let reader = self.database.reader().await?;
        let (table, now, filter, runtime) =
            (self.live.table.clone(), self.clock.now(), filter.clone(), Handle::current());
        let numbers = spawn_blocking(move || {
            let _looking = looking;
            let passing = passing(&table, organisation, heard, now);
            runtime.block_on(in_order(reader, passing, &filter, order, page))
        });
        self.database.read(async { numbers.await.map_err(panicked)? }).await
    }

    /// The records of a page whose numbers `find` finds. It finds them again if one of those devices is deleted before its
    /// record is read: a page that is short is the last one to whoever goes through them.
    async fn whole<F>(&self, find: impl Fn() -> F) -> Result<Vec<DeviceRecord>, RegistryError>
    where
        F: Future<Output = Result<Vec<i64>, RegistryError>>,
    {
        for _ in 1..MAX_TRIES {
            let numbers = find().await?;
            let records = self.devices_numbered(&numbers).await?;
            if records.len() == numbers.len() {
                return Ok(records);
            }
        }
        self.devices_numbered(&find().await?).await
    }

    /// Devices of an organisation in an order by what was heard of them, as far as `heard` lets them through: as it was a
    /// moment ago, at most 15 s. A device that was registered since is listed as one that was never heard.
    ///
    /// # Errors
    /// As [`Self::devices`].
    pub async fn devices_by_heard(
        &self,
        organisation: Uuid,
        heard: HeardFilter,
        order: HeardOrder,
        page: Page,
    ) -> Result<Vec<DeviceRecord>, RegistryError> {
        let Some(number) = self.organisation_number(organisation).await? else { return Ok(Vec::new()) };
        self.whole(|| self.numbers_by_heard(number, organisation, heard, order, page)).await
    }

    /// The numbers of the devices of a page of [`Self::devices_by_heard`].
    async fn numbers_by_heard(
        &self,
        number: u32,
        organisation: Uuid,
        heard: HeardFilter,
        order: HeardOrder,
        page: Page,
    ) -> Result<Vec<i64>, RegistryError> {
        let kept = self.heard.of(number);
        let (Made { listing, at, .. }, gone) = self.latest(number, &kept).await?;
        let newer = self.newer(organisation, listing.greatest()).await?;
        // A device that was heard just before the list was made is one heard just now.
        let numbers = spawn_blocking(move || listing.page(order, &newer, &gone, |last| passes(heard, at, last), page));
        Ok(numbers.await.map_err(panicked)?)
    }

    /// The list of an organisation, and which of its devices are gone since. Has the next one made if that is due, and waits
    /// for it only if there is none that may still be shown.
    async fn latest(&self, organisation: u32, kept: &Arc<Kept>) -> Result<(Made, HashSet<u32>), RegistryError> {
        loop {
            if let Some((made, gone)) = kept.present() {
                if made.due <= Instant::now()
                    && let Ok(making) = Arc::clone(&kept.making).try_lock_owned()
                {
                    tokio::spawn(self.clone().make(organisation, Arc::clone(kept), making));
                }
                return Ok((made, gone));
            }
            let making = Arc::clone(&kept.making).lock_owned().await;
            // Somebody else may have made it meanwhile.
            if kept.present().is_none() {
                tokio::spawn(self.clone().make(organisation, Arc::clone(kept), making)).await.map_err(panicked)??;
            }
        }
    }

    /// Makes the list of an organisation.
    async fn make(self, organisation: u32, kept: Arc<Kept>, _making: OwnedMutexGuard<()>) -> Result<(), RegistryError> {
        let _walking = self.heard.walking.lock().await;
        // Within a change: the table knows all devices that are there, and none that is not.
        let mut change = self.database.begin().await?;
        let greatest: Option<i64> = sqlx::query_scalar("SELECT MAX(n) FROM device").fetch_one(&mut *change).await?;
        let known_gone = kept.lock().gone.len();
        drop(change);
        let greatest = to_number(greatest.unwrap_or(0))?;
        let (table, before) = (self.live.table.clone(), kept.lock().latest.as_ref().map(|made| made.listing.clone()));
        let (begun, at) = (Instant::now(), self.clock.now());
        let listing = spawn_blocking(move || {
            let listing = Listing::make(&table, organisation, greatest);
            if let Some(before) = before {
                listing.sort_as(&before);
            }
            listing
        });
        let listing = Arc::new(listing.await.map_err(panicked)?);
        let ended = Instant::now();
        let due = ended + pause(ended - begun, self.heard.in_use());
        let mut state = kept.lock();
        state.latest = Some(Made { listing, at, begun, due });
        state.gone.drain(..known_gone);
        Ok(())
    }

    /// The numbers of the devices of an organisation above `greatest`.
    async fn newer(&self, organisation: Uuid, greatest: u32) -> Result<Vec<u32>, RegistryError> {
        // The sum keeps the engine from reading all devices of the organisation.
        let query = "SELECT n FROM device WHERE n > $1 AND organisation + 0 = \
                     (SELECT n FROM organisation WHERE id = $2) ORDER BY n";
        let query = sqlx::query_scalar(query).bind(i64::from(greatest)).bind(organisation);
        let mut reader = self.database.reader().await?;
        let numbers: Vec<i64> = self.database.read(query.fetch_all(&mut reader)).await?;
        Ok(numbers.into_iter().map(to_number).collect::<Result<_, _>>()?)
    }
}

impl Lists {
    /// Takes a deleted device out of the list of its organisation. To be called when the table does not know it any more,
    /// and within the change.
    pub(super) fn forget(&self, organisation: u32, record: u32) {
        let mut organisations = self.lock();
        organisations.retain(|_, kept| kept.is_used());
        if let Some(kept) = organisations.get(&organisation) {
            kept.lock().gone.push(record);
        }
    }

    fn of(&self, organisation: u32) -> Arc<Kept> {
        let mut organisations = self.lock();
        organisations.retain(|_, kept| kept.is_used());
        Arc::clone(organisations.entry(organisation).or_default())
    }

    /// How many organisations' lists somebody looked at lately.
    fn in_use(&self) -> u32 {
        u32::try_from(self.lock().len()).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Kept>>> {
        self.organisations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list, if it may be shown, and what is gone of it.
    fn present(&self) -> Option<(Made, HashSet<u32>)> {
        let state = self.lock();
        let made = state.latest.clone().filter(|made| made.begun.elapsed() < MAX_AGE)?;
        Some((made, state.gone.iter().copied().collect()))
    }

    /// Whether somebody is at it, or may be soon.
    fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || self.lock().latest.as_ref().is_some_and(|made| made.begun.elapsed() < FORGOTTEN)
    }
}

/// The time that passes after a list is made before the next one of its organisation is, with so many in use.
fn pause(took: Duration, in_use: u32) -> Duration {
    took.saturating_mul(PAUSE_FACTOR).saturating_mul(in_use).clamp(MIN_PAUSE, MAX_PAUSE)
}

/// The numbers of the devices of an organisation that pass, in no order.
fn passing(table: &RouteTable, organisation: u32, filter: HeardFilter, now: Timestamp) -> Vec<u32> {
    let mut passing = Vec::new();
    table.heard(
        |device| device.organisation == organisation && device.record > 0,
        |device| {
            if passes(filter, now, device.last_packet_at) {
                passing.push(device.registration.record);
            }
        },
    );
    passing
}

/// A part of the devices in `passing`, which are of those that `filter` lets through, in an order of their records.
async fn in_order(
    mut reader: Reader,
    mut passing: Vec<u32>,
    filter: &DeviceFilter,
    order: DeviceOrder,
    page: Page,
) -> Result<Vec<i64>, sqlx::Error> {
    // Not so by creation: that is the time that the records have, which falls where the clock was set back.
    if order == DeviceOrder::OrganisationId {
        passing.sort_unstable();
        let all = passing.into_iter();
        return Ok(if page.descending { part(all.rev(), page) } else { part(all, page) });
    }
    let offset = usize::try_from(page.offset).unwrap_or(usize::MAX);
    // Not a step further than to the last of them.
    let wanted = passing.len().saturating_sub(offset).min(page.limit as usize);
    let passing: HashSet<i64> = passing.into_iter().map(i64::from).collect();
    let mut query = device_rows::numbers(filter, order, page.descending);
    let all = query.build_query_scalar().fetch(&mut reader);
    all.try_filter(|n| future::ready(passing.contains(n))).skip(offset).take(wanted).try_collect().await
}

/// For a task that ended early, which only a panic makes it do; that has been reported.
fn panicked(_: JoinError) -> sqlx::Error {
    sqlx::Error::WorkerCrashed
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::Configured;
    use super::super::testing::{ALL, BARE, Site, hear, live};
    use super::*;
    use crate::clock::Clock;
    use crate::id::DeviceId;
    use crate::table::Registration;

    fn made(ago: Duration) -> Kept {
        let begun = Instant::now() - ago;
        let latest = Some(Made { listing: Arc::default(), at: Timestamp(0), begun, due: begun });
        Kept { state: Mutex::new(State { latest, gone: vec![7] }), making: Arc::default() }
    }

    #[test]
    fn the_pause_is_a_hundred_times_the_making_of_all_lists_in_use_but_from_1_to_10_seconds() {
        for (took, expected) in [(0, 1000), (10, 1000), (11, 1100), (100, 10_000), (5000, 10_000)] {
            assert_eq!(pause(Duration::from_millis(took), 1), Duration::from_millis(expected));
        }
        assert_eq!(pause(Duration::from_millis(10), 7), Duration::from_secs(7));
        assert_eq!(pause(Duration::MAX, u32::MAX), MAX_PAUSE);
    }

    /// Makes a device of the organisation acme, and gives both record ids.
    async fn device(site: &Site, number: u64) -> [Uuid; 2] {
        let registry = &site.registry;
        let owner = match registry.organisation_named("acme").await.unwrap() {
            Some(owner) => owner,
            None => site.organisation("acme").await,
        };
        let board = site.board(&owner, &number.to_string(), false).await;
        site.device(&board, DeviceId(number), BARE).await;
        let record = number.try_into().unwrap();
        site.live.table.register(DeviceId(number), Registration { at: Timestamp(1), organisation: 1, record });
        [owner.id, registry.device_with_id(DeviceId(number)).await.unwrap().unwrap().device.id]
    }

    const SILENT: HeardFilter = HeardFilter { silent_for_ms: Some(1000), heard_within_ms: None };

    #[tokio::test]
    async fn a_page_is_found_again_when_a_device_is_deleted_meanwhile() {
        let site = Site::new().await;
        let ids = [device(&site, 1).await[1], device(&site, 2).await[1], device(&site, 3).await[1]];
        let tries = AtomicUsize::new(0);
        let numbers = async || match tries.fetch_add(1, Ordering::Relaxed) {
            0 => {
                site.registry.delete_device(ids[0]).await.unwrap();
                Ok(vec![1, 2])
            }
            _ => Ok(vec![2, 3]),
        };
        let found = site.registry.whole(numbers).await.unwrap();
        assert_eq!(found.iter().map(|found| found.device.id).collect::<Vec<_>>(), ids[1..]);
        let missing = site.registry.whole(async || Ok(vec![1, 2])).await.unwrap();
        assert_eq!(missing.len(), 1, "at some time it is done");
    }

    #[test]
    fn work_that_nobody_waits_for_any_more_still_keeps_others_from_beginning() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            let site = Site::new().await;
            device(&site, 1).await;
            let (free, wait) = std::sync::mpsc::channel::<()>();
            let other_work = spawn_blocking(move || wait.recv());
            let (filter, order) = (DeviceFilter::default(), DeviceOrder::DeviceId);
            tokio::select! {
                biased;
                _ = site.registry.numbers_heard(1, &filter, SILENT, order, ALL) => panic!("its work cannot begin"),
                () = future::ready(()) => {}
            }
            assert!(site.registry.heard.looking.try_lock().is_err());
            free.send(()).unwrap();
            other_work.await.unwrap().unwrap();
            assert_eq!(site.registry.numbers_heard(1, &filter, SILENT, order, ALL).await.unwrap(), [1]);
        });
    }

    #[tokio::test]
    async fn the_filters_of_a_list_go_by_the_time_at_which_it_was_made() {
        let site = Site::new().await;
        let [owner, _] = device(&site, 1).await;
        hear(&site.live, DeviceId(1), site.registry.clock.now());
        let ago = Duration::from_secs(10).as_millis() as u64;
        let later = Registry { clock: Clock::with_offset_seconds(12), ..site.registry.clone() };
        for (filter, expected) in [
            (HeardFilter { heard_within_ms: Some(ago), silent_for_ms: None }, 1),
            (HeardFilter { silent_for_ms: Some(ago), heard_within_ms: None }, 0),
        ] {
            for registry in [&site.registry, &later] {
                let found = registry.devices_by_heard(owner, filter, HeardOrder::LastRouteTime, ALL).await.unwrap();
                assert_eq!(found.len(), expected, "{filter:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_order_of_creation_is_the_same_with_a_filter_also_where_the_clock_was_set_back() {
        let site = Site::new().await;
        device(&site, 1).await;
        let site = site.restart(live(1, Configured::default()), -3600).await;
        let [owner, _] = device(&site, 2).await;
        let numbers = |records: Vec<DeviceRecord>| -> Vec<u64> {
            records.into_iter().map(|record| record.device.device_id.0).collect()
        };
        let filter = DeviceFilter { organisation: Some(owner), ..DeviceFilter::default() };
        let all = site.registry.devices(&filter, DeviceOrder::CreatedAt, ALL).await.unwrap();
        let heard = site.registry.devices_heard(owner, SILENT, DeviceOrder::CreatedAt, ALL).await.unwrap();
        assert_eq!((numbers(all), numbers(heard)), (vec![2, 1], vec![2, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_shown_for_15_seconds_and_kept_for_a_minute_or_while_somebody_is_at_it() {
        // For the clock to have been there so long ago.
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(Kept::default().present().is_none());
        assert_eq!(made(MAX_AGE - MIN_PAUSE).present().unwrap().1, HashSet::from([7]));
        assert!(made(MAX_AGE).present().is_none());
        let (young, old) = (Arc::new(made(MAX_AGE)), Arc::new(made(FORGOTTEN)));
        assert!(young.is_used() && !old.is_used());
        let at_it = Arc::clone(&old);
        assert!(old.is_used());
        drop(at_it);
        let lists = Lists { organisations: Mutex::new(HashMap::from([(1, old), (2, young)])), ..Lists::default() };
        lists.forget(2, 9);
        assert_eq!(lists.lock().keys().collect::<Vec<_>>(), [&2]);
        assert_eq!(lists.of(2).lock().gone, [7, 9]);
    }
}
