//! Waiting for many devices at once: for any of them, or for all. One deadline for all of them.
//!
//! While a wait lasts, a packet costs the same however many devices its waiter has named. To begin and to end a wait costs
//! something for each of them, with pauses in between in which others run. Whoever asks for any of a long list again and
//! again pays that for each packet, and does better to follow the devices, with [`super::stream`].

use std::collections::HashSet;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use crate::id::{Cursor, DeviceId};

use super::{PacketWaits, WaitError, Waited};

/// Devices to wait for, each with the position to wait after, if there is one. In the order in which they were named, each
/// once: its first mention counts.
#[derive(Clone, Debug, Default)]
pub struct Devices(Vec<(DeviceId, Option<Cursor>)>);

/// When a wait for many devices is answered before its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As soon as there is something of at least one device.
    #[default]
    Any,
    /// When there is something of each device.
    All,
}

/// How waiting for many devices ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManyWaited {
    /// What there is, in the order in which the devices were named; never [`Waited::TimedOut`].
    pub packets: Vec<(DeviceId, Waited)>,
    /// The other devices, in the same order.
    pub pending: Vec<DeviceId>,
    /// Whether the deadline came before what the mode asks for.
    pub timed_out: bool,
}

/// Why one of the devices cannot be waited for, and none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {device}: {error}")]
pub struct DeviceError {
    /// The device.
    pub device: DeviceId,
    /// What is wrong with it.
    pub error: WaitError,
}

impl Devices {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The devices in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (DeviceId, Option<Cursor>)> {
        self.0.iter().copied()
    }
}

impl FromIterator<(DeviceId, Option<Cursor>)> for Devices {
    fn from_iter<I: IntoIterator<Item = (DeviceId, Option<Cursor>)>>(devices: I) -> Self {
        let devices = devices.into_iter();
        let mut seen = HashSet::with_capacity(devices.size_hint().0);
        Self(devices.filter(|(id, _)| seen.insert(*id)).collect())
    }
}

/// Devices that are looked at in a row before others run: a few dozen microseconds.
const TURN: usize = 256;

/// One device of a wait for many.
struct Watched {
    id: DeviceId,
    base: Cursor,
    /// What came first, boxed since most have nothing for as long as the wait lasts.
    first: Option<Box<Waited>>,
}

impl PacketWaits {
    /// As [`PacketWaits::wait_for_packet`] for many devices: each is answered by a packet newer than its position or else
    /// newer than the first look at it, which comes at the beginning, and at once if it is behind already or its position is
    /// of a former epoch. What is told of a device is its latest packet at the end. Answers at once if there is no device,
    /// and after the first look at each if the deadline has passed. Ends with an error as soon as a device is deleted of
    /// which there is nothing yet.
    ///
    /// Holds one place among the waiters for each device that has to be waited for, and none on return. Cancel-safe: a
    /// dropped future leaves nothing behind.
    pub async fn wait_for_packets(
        &self,
        devices: &Devices,
        mode: Mode,
        deadline: Instant,
    ) -> Result<ManyWaited, DeviceError> {
        let mut watched = self.watch(devices).await?;
        if !mode.is_satisfied(&watched) && Instant::now() < deadline {
            match timeout_at(deadline, self.collect(&mut watched, mode)).await {
                Ok(collected) => collected?,
                // What was forgotten meanwhile woke nobody.
                Err(_) => self.look_at_the_others(&mut watched).await,
            }
        }
        Ok(self.answer(watched, mode).await)
    }

    /// A first look at each device.
    async fn watch(&self, devices: &Devices) -> Result<Vec<Watched>, DeviceError> {
        let mut watched = Vec::with_capacity(devices.len());
        for (index, (id, after)) in devices.iter().enumerate() {
            pause_before(index).await;
            let (base, first) = match self.begin(id, after).map_err(|error| DeviceError { device: id, error })? {
                Ok(found) => (after.unwrap_or(found.cursor()), Some(Box::new(found))),
                Err(base) => (base, None),
            };
            watched.push(Watched { id, base, first });
        }
        Ok(watched)
    }

    /// Waits until `mode` is satisfied. Places are taken by turns: a packet that comes before a device has its place is found
    /// by the look that follows, since it is newer than the first one.
    async fn collect(&self, watched: &mut [Watched], mode: Mode) -> Result<(), DeviceError> {
        let mut waits = FuturesUnordered::new();
        for start in (0..watched.len()).step_by(TURN) {
            pause_before(start).await;
            let missing = (start..watched.len().min(start + TURN)).filter(|index| watched[*index].first.is_none());
            waits.extend(missing.map(|index| self.one_of_many(index, watched[index].id, watched[index].base)));
            if take_ready(&mut waits, watched, mode)? && mode == Mode::Any {
                return Ok(());
            }
        }
        while let Some((index, found)) = waits.next().await {
            take(watched, index, found, mode)?;
            if mode == Mode::Any {
                // Others may have spoken in the same moment.
                take_ready(&mut waits, watched, mode)?;
                break;
            }
        }
        Ok(())
    }

    async fn one_of_many(&self, index: usize, id: DeviceId, base: Cursor) -> (usize, Result<Waited, WaitError>) {
        (index, self.sleep(id, base).await.unwrap_or_else(|ended| Err(ended.into())))
    }

    async fn look_at_the_others(&self, watched: &mut [Watched]) {
        for (index, watched) in watched.iter_mut().filter(|watched| watched.first.is_none()).enumerate() {
            pause_before(index).await;
            watched.first = self.look(watched.id, watched.base).ok().map(Box::new);
        }
    }

    /// Tells of the devices of which there is something; of those more may have come since.
    async fn answer(&self, watched: Vec<Watched>, mode: Mode) -> ManyWaited {
        let (mut packets, mut pending) = (Vec::new(), Vec::new());
        for Watched { id, base, first } in watched {
            let Some(first) = first else {
                pending.push(id);
                continue;
            };
            pause_before(packets.len()).await;
            packets.push((id, self.look(id, base).unwrap_or(*first)));
        }
        let timed_out = match mode {
            Mode::Any => packets.is_empty() && !pending.is_empty(),
            Mode::All => !pending.is_empty(),
        };
        ManyWaited { packets, pending, timed_out }
    }
}

/// Takes what there is without waiting, and tells whether there was something. Who is woken meanwhile is found by the next
/// poll.
fn take_ready<F: Future<Output = (usize, Result<Waited, WaitError>)>>(
    waits: &mut FuturesUnordered<F>,
    watched: &mut [Watched],
    mode: Mode,
) -> Result<bool, DeviceError> {
    let mut taken = false;
    while let Some(Some((index, found))) = waits.next().now_or_never() {
        take(watched, index, found, mode)?;
        taken = true;
    }
    Ok(taken)
}

/// One that is deleted, or without a place, is not missed if the others suffice.
fn take(
    watched: &mut [Watched],
    index: usize,
    found: Result<Waited, WaitError>,
    mode: Mode,
) -> Result<(), DeviceError> {
    match found {
        Ok(found) => watched[index].first = Some(Box::new(found)),
        Err(error) if !mode.is_satisfied(watched) => {
            return Err(DeviceError { device: watched[index].id, error });
        }
        Err(_) => {}
    }
    Ok(())
}

/// Lets others run before each turn but the first.
async fn pause_before(index: usize) {
    if index > 0 && index.is_multiple_of(TURN) {
        yield_now().await;
    }
}

impl Mode {
    fn is_satisfied(self, watched: &[Watched]) -> bool {
        let mut answered = watched.iter().map(|watched| watched.first.is_some());
        match self {
            Self::Any => answered.any(|answered| answered),
            Self::All => answered.all(|answered| answered),
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::super::testing::{DEVICE, Gateway, MINUTE, OTHER, START};
    use super::*;
    use crate::table::{RouteTable, TableConfig, Unregistered};
    use crate::waiters::{Ended, Full, Waiters, WaitersConfig};
    use std::sync::Arc;
    use tokio::task::JoinHandle;

    const THIRD: DeviceId = DeviceId(9);

    fn gateway() -> Gateway {
        Gateway::new(&TableConfig { epoch: 9, ..TableConfig::default() }, 10)
    }

    fn named(ids: &[DeviceId]) -> Devices {
        ids.iter().map(|id| (*id, None)).collect()
    }

    /// A wait of a minute, begun.
    async fn begin(gateway: &Gateway, devices: Devices, mode: Mode) -> JoinHandle<Result<ManyWaited, DeviceError>> {
        let waits = gateway.waits.clone();
        let wait = async move { waits.wait_for_packets(&devices, mode, Instant::now() + MINUTE).await };
        let begun = tokio::spawn(wait);
        yield_now().await;
        begun
    }

    /// The answer of a wait that must not sleep.
    async fn at_once(gateway: &Gateway, devices: Devices, mode: Mode) -> Result<ManyWaited, DeviceError> {
        let begun = Instant::now();
        let answer = gateway.waits.wait_for_packets(&devices, mode, begun + MINUTE).await;
        assert_eq!(Instant::now(), begun, "{answer:?}");
        answer
    }

    /// Device, position and missed packets of each answer; a reset has no missed ones.
    fn packets(answer: &ManyWaited) -> Vec<(DeviceId, u64, Option<u64>)> {
        let of_one = |(id, waited): &(DeviceId, Waited)| match waited {
            Waited::Packet { missed, .. } => (*id, waited.cursor().n, Some(*missed)),
            Waited::Reset { .. } => (*id, waited.cursor().n, None),
            Waited::TimedOut { .. } => panic!("{answer:?}"),
        };
        answer.packets.iter().map(of_one).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn any_is_answered_by_the_first_device_and_tells_of_all_that_spoke_in_that_moment() {
        let gateway = gateway();
        let wait = begin(&gateway, named(&[DEVICE, OTHER, THIRD]), Mode::Any).await;
        assert_eq!(gateway.waiters.waiting(), 3);
        gateway.hear(THIRD, 1);
        gateway.hear(DEVICE, 1);
        gateway.hear(DEVICE, 2);
        let answer = wait.await.unwrap().unwrap();
        assert_eq!(packets(&answer), [(DEVICE, 2, Some(1)), (THIRD, 1, Some(0))], "in the order of the request");
        assert_eq!((answer.pending, answer.timed_out), (vec![OTHER], false));
        assert_eq!(gateway.waiters.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_is_answered_when_each_device_has_spoken_with_the_latest_of_each() {
        let gateway = gateway();
        let wait = begin(&gateway, named(&[DEVICE, OTHER]), Mode::All).await;
        gateway.hear(OTHER, 1);
        yield_now().await;
        assert!(!wait.is_finished());
        gateway.hear(OTHER, 2);
        gateway.hear(DEVICE, 1);
        let answer = wait.await.unwrap().unwrap();
        assert_eq!(packets(&answer), [(DEVICE, 1, Some(0)), (OTHER, 2, Some(1))]);
        assert_eq!((answer.pending, answer.timed_out), (vec![], false));
        assert_eq!(gateway.waiters.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_there_is_what_came_and_what_is_pending() {
        let gateway = gateway();
        for mode in [Mode::Any, Mode::All] {
            let begun = Instant::now();
            let wait = begin(&gateway, named(&[DEVICE, OTHER]), mode).await;
            let answer = wait.await.unwrap().unwrap();
            let nothing = ManyWaited { packets: vec![], pending: vec![DEVICE, OTHER], timed_out: true };
            assert_eq!((answer, Instant::now() - begun), (nothing, MINUTE));
        }
        let begun = Instant::now();
        let wait = begin(&gateway, named(&[DEVICE, OTHER]), Mode::All).await;
        gateway.hear(OTHER, 1);
        let answer = wait.await.unwrap().unwrap();
        assert_eq!(packets(&answer), [(OTHER, 1, Some(0))]);
        assert_eq!((answer.pending, answer.timed_out), (vec![DEVICE], true));
        assert_eq!(Instant::now() - begun, MINUTE);
        assert_eq!(gateway.waiters.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn any_looks_only_at_those_that_were_woken_and_at_the_deadline_at_all() {
        let gateway = Gateway::new(&TableConfig { unregistered_limit: 1, ..TableConfig::default() }, 10);
        for (speaks, expected, pending) in [(OTHER, OTHER, DEVICE), (THIRD, DEVICE, OTHER)] {
            let sequence = |more: u64| (gateway.table.cursor(DEVICE).n + more) as u16;
            gateway.hear(DEVICE, sequence(1));
            let wait = begin(&gateway, named(&[DEVICE, OTHER]), Mode::Any).await;
            gateway.hear(speaks, sequence(2));
            assert_eq!(gateway.table.snapshot(DEVICE), None, "it made room, which wakes nobody");
            let answer = wait.await.unwrap().unwrap();
            assert_eq!((answer.packets[0].0, answer.packets.len(), answer.pending), (expected, 1, vec![pending]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_has_passed_needs_no_place_and_gives_what_the_first_look_found() {
        let gateway = Gateway::new(&TableConfig::default(), 1);
        gateway.hear(DEVICE, 1);
        let taken = begin(&gateway, named(&[DEVICE, OTHER]), Mode::All).await;
        let start = Cursor { n: 0, ..gateway.table.cursor(DEVICE) };
        for mode in [Mode::Any, Mode::All] {
            let poll = async |devices| gateway.waits.wait_for_packets(&devices, mode, Instant::now()).await.unwrap();
            let nothing = poll(named(&[DEVICE, OTHER])).await;
            assert_eq!((packets(&nothing), nothing.timed_out), (vec![], true));
            let one = poll([(DEVICE, Some(start)), (OTHER, None)].into_iter().collect()).await;
            assert_eq!((packets(&one), one.pending), (vec![(DEVICE, 1, Some(0))], vec![OTHER]));
        }
        taken.abort();
    }

    /// More than three turns.
    fn long_list() -> (Gateway, Devices) {
        let table = Arc::new(RouteTable::new(&TableConfig::default()));
        let waiters = Arc::new(Waiters::new(&WaitersConfig { per_device: 1, total: LONG }));
        let waits = PacketWaits::new(Arc::clone(&table), Arc::clone(&waiters));
        (Gateway { table, waiters, waits }, (0..LONG as u64).map(|id| (DeviceId(id), None)).collect())
    }

    const LONG: usize = 3 * TURN + 1;

    #[tokio::test(start_paused = true)]
    async fn a_long_list_lets_others_run_and_loses_no_packet_that_comes_meanwhile() {
        let (gateway, devices) = long_list();
        let last = DeviceId(LONG as u64 - 1);
        for mode in [Mode::Any, Mode::All] {
            let wait = begin(&gateway, devices.clone(), mode).await;
            let mut turns = 1;
            while gateway.waiters.waiting() == 0 {
                yield_now().await;
                turns += 1;
            }
            assert_eq!((turns, gateway.waiters.waiting()), (4, TURN), "each has been looked at, a turn has places");
            gateway.hear(last, gateway.table.cursor(last).n as u16 + 1);
            for waiting in [2 * TURN, 3 * TURN] {
                yield_now().await;
                assert_eq!(gateway.waiters.waiting(), waiting);
            }
            if mode == Mode::All {
                yield_now().await;
                assert_eq!(gateway.waiters.waiting(), LONG - 1, "the last one has spoken");
                gateway.hear(DEVICE, gateway.table.cursor(DEVICE).n as u16 + 1);
            }
            let answer = wait.await.unwrap().unwrap();
            assert_eq!(answer.packets.last().unwrap().0, last);
            assert_eq!((answer.timed_out, gateway.waiters.waiting()), (mode == Mode::All, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_list_that_is_dropped_between_two_turns_leaves_nothing() {
        let (gateway, devices) = long_list();
        let wait = begin(&gateway, devices, Mode::Any).await;
        while gateway.waiters.waiting() == 0 {
            assert!(!wait.is_finished());
            yield_now().await;
        }
        wait.abort();
        assert!(wait.await.unwrap_err().is_cancelled());
        assert_eq!(gateway.waiters.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_without_a_place_is_not_missed_where_another_has_spoken() {
        let (gateway, devices) = long_list();
        let full = gateway.begin(DeviceId(TURN as u64), None).await;
        let wait = begin(&gateway, devices, Mode::Any).await;
        while gateway.waiters.waiting() == 1 {
            assert!(!wait.is_finished());
            yield_now().await;
        }
        // Of the first turn; it is found in the second one, together with the lack of a place.
        gateway.hear(DeviceId(0), 1);
        assert_eq!(wait.await.unwrap().unwrap().packets.len(), 1);
        full.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_behind_or_reset_is_an_answer_and_needs_no_place() {
        let gateway = Gateway::new(&TableConfig { epoch: 9, ..TableConfig::default() }, 1);
        gateway.hear(DEVICE, 1);
        let start = Cursor { n: 0, ..gateway.table.cursor(DEVICE) };
        let former = Cursor { epoch: 1, n: 0 };
        let taken = begin(&gateway, named(&[DEVICE, OTHER, THIRD]), Mode::Any).await;
        assert_eq!(gateway.waiters.waiting(), 3);
        for (devices, expected, pending) in [
            (vec![(DEVICE, Some(start)), (OTHER, None)], vec![(DEVICE, 1, Some(0))], vec![OTHER]),
            (vec![(THIRD, None), (OTHER, Some(former))], vec![(OTHER, 0, None)], vec![THIRD]),
        ] {
            let devices: Devices = devices.into_iter().collect();
            let answer = at_once(&gateway, devices.clone(), Mode::Any).await.unwrap();
            assert_eq!((packets(&answer), answer.pending), (expected.clone(), pending.clone()));
            let full = at_once(&gateway, devices, Mode::All).await.unwrap_err();
            assert_eq!((full.device, full.error), (pending[0], Full::Device.into()));
            assert_eq!(gateway.waiters.waiting(), 3, "whoever is refused leaves nothing");
        }
        taken.abort();
        let all: Devices = [(DEVICE, Some(start)), (OTHER, Some(former))].into_iter().collect();
        assert_eq!(packets(&at_once(&gateway, all, Mode::All).await.unwrap()).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_with_one_device_is_told_with_its_name() {
        let deny = TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() };
        let gateway = Gateway::new(&deny, 10);
        gateway.table.register(DEVICE, START);
        let unknown = at_once(&gateway, named(&[DEVICE, OTHER]), Mode::Any).await.unwrap_err();
        assert_eq!(unknown, DeviceError { device: OTHER, error: WaitError::NotRegistered });
        let present = gateway.table.cursor(DEVICE);
        let ahead = [(DEVICE, Some(Cursor { n: 5, ..present }))].into_iter().collect();
        let ahead = at_once(&gateway, ahead, Mode::Any).await.unwrap_err();
        assert_eq!(ahead, DeviceError { device: DEVICE, error: WaitError::AheadOfPresent { present } });
        assert!(ahead.to_string().starts_with("device 0000000000000007: the cursor lies ahead of "), "{ahead}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_named_twice_counts_once_and_none_is_answered_at_once() {
        let gateway = gateway();
        gateway.hear(DEVICE, 1);
        let start = Cursor { n: 0, ..gateway.table.cursor(DEVICE) };
        let twice: Devices = [(OTHER, None), (DEVICE, None), (DEVICE, Some(start))].into_iter().collect();
        assert_eq!((twice.len(), twice.iter().last()), (2, Some((DEVICE, None))));
        let wait = begin(&gateway, twice, Mode::All).await;
        assert_eq!(gateway.waiters.waiting(), 2);
        wait.abort();
        for mode in [Mode::Any, Mode::All] {
            let nothing = ManyWaited { packets: vec![], pending: vec![], timed_out: false };
            assert_eq!(at_once(&gateway, Devices::default(), mode).await, Ok(nothing));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_for_many_leaves_nothing_and_its_places_are_free() {
        let gateway = Gateway::new(&TableConfig::default(), 1);
        for _ in 0..2 {
            let wait = begin(&gateway, named(&[DEVICE, OTHER]), Mode::All).await;
            gateway.hear(DEVICE, gateway.table.cursor(DEVICE).n as u16 + 1);
            yield_now().await;
            assert_eq!(gateway.waiters.waiting(), 1, "who has spoken needs no place");
            wait.abort();
            assert!(wait.await.unwrap_err().is_cancelled());
            assert_eq!(gateway.waiters.waiting(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_spoke_and_was_forgotten_before_the_answer_is_an_answer() {
        let gateway = Gateway::new(&TableConfig { unregistered_limit: 1, ..TableConfig::default() }, 10);
        let wait = begin(&gateway, named(&[DEVICE, OTHER]), Mode::All).await;
        gateway.hear(DEVICE, 1);
        yield_now().await;
        gateway.hear(OTHER, 2);
        assert_eq!(gateway.table.snapshot(DEVICE), None, "it made room");
        let answer = wait.await.unwrap().unwrap();
        assert_eq!((answer.packets.len(), answer.pending, answer.timed_out), (2, vec![], false));
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_many_that_is_deleted_ends_the_wait_by_name_unless_it_has_spoken() {
        let gateway = gateway();
        let both = [DEVICE, OTHER];
        for mode in [Mode::Any, Mode::All] {
            both.iter().for_each(|id| gateway.table.register(*id, START));
            let begun = Instant::now();
            let wait = begin(&gateway, named(&both), mode).await;
            gateway.delete(OTHER);
            let expected = DeviceError { device: OTHER, error: Ended::Dismissed.into() };
            assert_eq!(wait.await.unwrap(), Err(expected));
            assert_eq!((Instant::now(), gateway.waiters.waiting()), (begun, 0));
        }
        gateway.table.register(OTHER, START);
        let wait = begin(&gateway, named(&both), Mode::All).await;
        gateway.hear(OTHER, 1);
        yield_now().await;
        gateway.delete(OTHER);
        yield_now().await;
        assert!(!wait.is_finished());
        gateway.hear(DEVICE, 1);
        let answer = wait.await.unwrap().unwrap();
        assert_eq!(packets(&answer), [(DEVICE, 1, Some(0)), (OTHER, 1, Some(0))], "what it said stays said");
    }

    #[test]
    fn a_wait_for_many_is_small_for_each_device_and_can_be_sent_to_another_thread() {
        fn sendable<T: Send>(value: T) -> T {
            value
        }
        let gateway = gateway();
        let devices = named(&[DEVICE]);
        let many = sendable(gateway.waits.wait_for_packets(&devices, Mode::All, Instant::now()));
        let one = gateway.waits.one_of_many(0, DEVICE, gateway.table.cursor(DEVICE));
        // Beside them: six words of the set of waits, and 24 bytes in the queue of the waiters.
        let each = size_of_val(&one) + size_of::<Watched>();
        assert!(each <= 320, "{each}");
        assert!(size_of_val(&many) <= 1024, "{}", size_of_val(&many));
    }
}
