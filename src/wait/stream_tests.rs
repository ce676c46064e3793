//! Tests of [`super`]: what is told, to whom, and from where on.

use super::super::testing::{DEVICE, Gateway, OTHER, START};
use super::*;
use crate::table::{TableConfig, Unregistered};
use crate::waiters::Full;
use futures_util::FutureExt;

const THIRD: DeviceId = DeviceId(9);
const OWNER: u64 = 1;

/// What a test sees of an event: its device, position and missed packets; a reset has no missed ones.
type Told = (DeviceId, u64, Option<u64>);

fn gateway() -> (Gateway, Arc<Streams>) {
    gateway_of(&TableConfig { epoch: 9, ..TableConfig::default() }, 10)
}

fn gateway_of(config: &TableConfig, per_device: usize) -> (Gateway, Arc<Streams>) {
    let gateway = Gateway::new(config, per_device);
    let streams = Arc::new(Streams::new(gateway.waits.clone()));
    (gateway, streams)
}

fn named(ids: &[DeviceId]) -> Devices {
    ids.iter().map(|id| (*id, None)).collect()
}

async fn from_now(streams: &Arc<Streams>, ids: &[DeviceId]) -> Following {
    streams.follow(&named(ids), Origin::Devices, OWNER).await.unwrap()
}

fn told(event: &Event) -> Told {
    let waited = event.waited.unwrap();
    let missed = match waited {
        Waited::Packet { missed, .. } => Some(missed),
        _ => None,
    };
    (event.device, waited.cursor().n, missed)
}

/// All events there are now.
fn events(following: &mut Following) -> Vec<Event> {
    std::iter::from_fn(|| following.next().now_or_never().map(|event| event.expect("it goes on"))).collect()
}

fn all_told(following: &mut Following) -> Vec<Told> {
    events(following).iter().map(told).collect()
}

#[tokio::test(start_paused = true)]
async fn every_packet_that_is_listened_for_is_an_event() {
    let (gateway, streams) = gateway();
    gateway.hear(DEVICE, 1);
    let mut following = from_now(&streams, &[DEVICE, OTHER]).await;
    assert_eq!((all_told(&mut following), gateway.waiters.waiting(), streams.live()), (vec![], 2, 1));
    let first = following.first_id();
    for sequence in 2..5 {
        gateway.hear(DEVICE, sequence);
        gateway.hear(THIRD, sequence);
        let event = following.next().await.unwrap();
        assert_eq!(told(&event), (DEVICE, sequence.into(), Some(0)));
        assert_eq!(event.id, EventId { n: u64::from(sequence) - 1, ..first });
    }
    gateway.hear(OTHER, 1);
    gateway.hear(DEVICE, 5);
    assert_eq!(all_told(&mut following), [(OTHER, 1, Some(0)), (DEVICE, 5, Some(0))], "in the order they spoke");
    drop(following);
    assert_eq!((gateway.waiters.waiting(), streams.live()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_listener_did_not_take_is_told_as_missed() {
    let (gateway, streams) = gateway();
    let mut following = from_now(&streams, &[DEVICE, OTHER]).await;
    for sequence in 1..=50 {
        gateway.hear(DEVICE, sequence);
        gateway.hear(OTHER, sequence);
    }
    assert_eq!(all_told(&mut following), [(DEVICE, 50, Some(49)), (OTHER, 50, Some(49))]);
    // Of two that always have something to tell, one does not keep the other from it.
    for sequence in (51..60).step_by(2) {
        gateway.hear(DEVICE, sequence);
        gateway.hear(OTHER, sequence);
        assert_eq!(following.next().await.unwrap().device, DEVICE);
        gateway.hear(DEVICE, sequence + 1);
        assert_eq!(following.next().await.unwrap().device, OTHER);
        assert_eq!(following.next().await.unwrap().device, DEVICE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_who_takes_its_time_is_not_taken_for_a_busy_gateway() {
    let (gateway, streams) = gateway();
    let mut following = from_now(&streams, &[DEVICE]).await;
    for sequence in 1..4 {
        assert_eq!(all_told(&mut following).len(), usize::from(sequence > 1));
        gateway.hear(DEVICE, sequence);
    }
    assert_eq!(all_told(&mut following), [(DEVICE, 3, Some(0))]);
    assert_eq!((gateway.waiters.woken(), gateway.waiters.latency().count()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_deleted_is_told_once_and_followed_no_more() {
    for unregistered in [Unregistered::Allow, Unregistered::Deny] {
        let (gateway, streams) = gateway_of(&TableConfig { unregistered, ..TableConfig::default() }, 10);
        let both = [DEVICE, OTHER];
        both.iter().for_each(|id| gateway.table.register(*id, START));
        let mut following = from_now(&streams, &both).await;
        assert!(events(&mut following).is_empty());
        gateway.hear(DEVICE, 1);
        gateway.delete(DEVICE);
        gateway.table.register(DEVICE, START);
        gateway.hear(DEVICE, 2);
        let gone = Event { id: EventId { n: 1, ..following.first_id() }, device: DEVICE, waited: None };
        assert_eq!((events(&mut following), gateway.waiters.waiting()), (vec![gone], 1));
        gateway.hear(OTHER, 1);
        gateway.hear(DEVICE, 3);
        assert_eq!(all_told(&mut following), [(OTHER, 1, Some(0))]);

        let origin = Origin::Event(gone.id);
        let mut resumed = streams.follow(&named(&both), origin, OWNER).await.unwrap();
        assert_eq!(all_told(&mut resumed), [(DEVICE, 2, None), (OTHER, 1, Some(0))], "another of its number");

        gateway.delete(OTHER);
        assert_eq!(following.next().await.map(|event| event.waited), Some(None));
        assert_eq!(following.next().await, None, "all of its devices are deleted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_deleted_before_it_has_a_watch_is_told_where_nothing_can_come_of_it() {
    let (gateway, streams) =
        gateway_of(&TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() }, 10);
    let both = [DEVICE, OTHER];
    both.iter().for_each(|id| gateway.table.register(*id, START));
    let mut following = from_now(&streams, &both).await;
    gateway.table.deregister(DEVICE);
    let gone = Event { id: EventId { n: 1, ..following.first_id() }, device: DEVICE, waited: None };
    assert_eq!(events(&mut following), [gone], "found by the first look");
    gateway.waiters.dismiss(DEVICE);
    assert_eq!((events(&mut following), gateway.waiters.waiting()), (vec![], 1), "told once");
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_from_one_packet_to_the_next() {
    let (gateway, streams) = gateway_of(&TableConfig::default(), 1);
    let mut following = from_now(&streams, &[DEVICE]).await;
    let full = DeviceError { device: DEVICE, error: Full::Device.into() };
    for sequence in 1..4 {
        let refused = streams.follow(&named(&[OTHER, DEVICE]), Origin::Devices, OWNER).await;
        assert_eq!((refused.unwrap_err(), gateway.waiters.waiting(), streams.live()), (full, 1, 1));
        gateway.hear(DEVICE, sequence);
        assert_eq!(all_told(&mut following).len(), 1);
    }
    drop(following);
    drop(from_now(&streams, &[OTHER, DEVICE]).await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_at_the_positions_it_is_given() {
    let (gateway, streams) = gateway();
    for sequence in 1..=3 {
        gateway.hear(DEVICE, sequence);
    }
    let present = gateway.table.cursor(DEVICE);
    let (behind, former) = (Some(Cursor { n: 1, ..present }), Some(Cursor { epoch: 1, n: 0 }));
    let devices = [(DEVICE, behind), (OTHER, former), (THIRD, None)].into_iter().collect();
    let mut following = streams.follow(&devices, Origin::Devices, OWNER).await.unwrap();
    assert_eq!(all_told(&mut following), [(DEVICE, 3, Some(1)), (OTHER, 0, None)]);
    gateway.hear(OTHER, 1);
    assert_eq!(all_told(&mut following), [(OTHER, 1, Some(0))]);
    let ahead = [(DEVICE, Some(Cursor { n: 4, ..present }))].into_iter().collect();
    let refused = streams.follow(&ahead, Origin::Devices, OWNER).await.unwrap_err();
    assert_eq!(refused, DeviceError { device: DEVICE, error: WaitError::AheadOfPresent { present } });
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_after_any_event_of_another_that_lives_or_has_ended() {
    let (gateway, streams) = gateway();
    let mut first = from_now(&streams, &[DEVICE, OTHER]).await;
    let mut ids = vec![first.first_id()];
    for sequence in 1..=3 {
        gateway.hear(DEVICE, sequence);
        ids.extend(events(&mut first).iter().map(|event| event.id));
    }
    let mut first = Some(first);
    for lives in [true, false] {
        first = first.filter(|_| lives);
        for (n, id) in ids.iter().enumerate() {
            let mut second = streams.follow(&named(&[THIRD, DEVICE]), Origin::Event(*id), OWNER).await.unwrap();
            let missed = 3_u64.checked_sub(n as u64 + 1);
            let expected: Vec<_> = missed.map(|missed| (DEVICE, 3, Some(missed))).into_iter().collect();
            assert_eq!(all_told(&mut second), expected, "after {n} events");
        }
    }
    // A device that both have goes on where it was, whatever position it comes with.
    gateway.hear(THIRD, 1);
    let behind = Some(Cursor { n: 0, ..gateway.table.cursor(THIRD) });
    let devices = [(DEVICE, Some(Cursor { epoch: 1, n: 1 })), (THIRD, behind)].into_iter().collect();
    let mut second = streams.follow(&devices, Origin::Event(ids[3]), OWNER).await.unwrap();
    assert_eq!(all_told(&mut second), [(THIRD, 1, Some(0))]);
}

#[tokio::test(start_paused = true)]
async fn where_it_is_not_known_what_was_told_every_device_is_reset_and_followed() {
    let (gateway, streams) = gateway();
    let mut first = from_now(&streams, &[DEVICE]).await;
    for sequence in 1..=1026 {
        gateway.hear(DEVICE, sequence);
        assert_eq!(all_told(&mut first).len(), 1);
    }
    let id = first.first_id();
    let known = streams.follow(&named(&[DEVICE]), Origin::Event(EventId { n: 2, ..id }), OWNER).await;
    assert_eq!(all_told(&mut known.unwrap()), [(DEVICE, 1026, Some(1023))]);
    for (origin, owner) in [
        (Origin::Event(EventId { n: 1, ..id }), OWNER),
        (Origin::Event(EventId { n: 1027, ..id }), OWNER),
        (Origin::Event(EventId { n: 1026, ..id }), OWNER + 1),
        (Origin::Event(EventId { stream: id.stream.wrapping_add(1), n: 1026 }), OWNER),
        (Origin::Lost, OWNER),
    ] {
        let mut second = streams.follow(&named(&[DEVICE, OTHER]), origin, owner).await.unwrap();
        let reset = events(&mut second);
        assert_eq!(reset.iter().map(told).collect::<Vec<_>>(), [(DEVICE, 1026, None), (OTHER, 0, None)]);
        let Some(Waited::Reset { snapshot, .. }) = reset[0].waited else { panic!() };
        assert_eq!(snapshot, gateway.table.snapshot(DEVICE));
        // Who goes on before the reset is reset again.
        let third = streams.follow(&named(&[OTHER]), Origin::Event(second.first_id()), owner).await;
        assert_eq!(all_told(&mut third.unwrap()), [(OTHER, 0, None)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_forgotten_is_reset_when_it_speaks_again() {
    let (gateway, streams) = gateway_of(&TableConfig { unregistered_limit: 1, ..TableConfig::default() }, 10);
    gateway.hear(DEVICE, 1);
    let mut following = from_now(&streams, &[DEVICE]).await;
    assert_eq!(all_told(&mut following), []);
    gateway.hear(OTHER, 2);
    assert_eq!(all_told(&mut following), [], "nobody is woken by it");
    gateway.hear(DEVICE, 3);
    assert_eq!(all_told(&mut following), [(DEVICE, 1, None)]);
    gateway.hear(DEVICE, 4);
    assert_eq!(all_told(&mut following), [(DEVICE, 2, Some(0))]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_not_served_is_not_followed_wherever_the_stream_begins() {
    let deny = TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() };
    let (_gateway, streams) = gateway_of(&deny, 10);
    for origin in [Origin::Devices, Origin::Lost] {
        let refused = streams.follow(&named(&[DEVICE]), origin, OWNER).await.unwrap_err();
        assert_eq!(refused, DeviceError { device: DEVICE, error: WaitError::NotRegistered });
    }
}

#[tokio::test(start_paused = true)]
async fn others_run_while_many_devices_begin_to_be_followed_which_can_be_given_up() {
    let (gateway, streams) = gateway();
    let many: Devices = (1..=600).map(|id| (DeviceId(id), None)).collect();
    for turns in 1..=4 {
        let mut given_up = Box::pin(streams.follow(&many, Origin::Devices, OWNER));
        for _ in 0..turns {
            assert!(given_up.as_mut().now_or_never().is_none());
        }
        drop(given_up);
        assert_eq!((gateway.waiters.waiting(), streams.live()), (0, 0), "given up after {turns} turns");
    }
    let mut beginning = Box::pin(streams.follow(&many, Origin::Devices, OWNER));
    let mut waiting = Vec::new();
    let mut following = loop {
        if let Some(following) = beginning.as_mut().now_or_never() {
            break following.unwrap();
        }
        waiting.push(gateway.waiters.waiting());
        gateway.hear(DEVICE, waiting.len() as u16);
    };
    assert_eq!(waiting, [0, 0, 256, 512]);
    assert_eq!((gateway.waiters.waiting(), streams.live()), (600, 1));
    assert_eq!(all_told(&mut following), [(DEVICE, 4, Some(3))], "what was counted in between is not lost");
}

#[tokio::test(start_paused = true)]
async fn a_closed_stream_tells_what_there_is_and_ends() {
    let (gateway, streams) = gateway();
    let mut following = from_now(&streams, &[DEVICE, OTHER]).await;
    assert_eq!(all_told(&mut following), []);
    gateway.hear(DEVICE, 1);
    following.close();
    gateway.hear(DEVICE, 2);
    assert_eq!(following.next().await.map(|event| told(&event)), Some((DEVICE, 2, Some(1))));
    gateway.hear(DEVICE, 3);
    assert_eq!((following.next().await, gateway.waiters.waiting()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_closed_stream_tells_a_packet_that_has_woken_nobody_yet() {
    let (gateway, streams) = gateway();
    let mut following = from_now(&streams, &[DEVICE, OTHER, THIRD]).await;
    assert_eq!(all_told(&mut following), []);
    gateway.hear(THIRD, 1);
    gateway.record(DEVICE, 1);
    following.close();
    gateway.waiters.wake(DEVICE);
    let rest: Vec<_> = following.map(|event| told(&event)).collect().await;
    assert_eq!(rest, [(DEVICE, 1, Some(0)), (THIRD, 1, Some(0))]);
}

#[test]
fn a_followed_device_is_small() {
    let (gateway, _) = gateway();
    let spoke = Arc::new(Mutex::new(Spoke { queue: VecDeque::new(), turns: Vec::new() }));
    let watch = watch(Arc::clone(&gateway.waiters), DEVICE, 0, spoke);
    // Beside it: its box, eight words of the set of watches, its position, and 24 bytes in the queue of the waiters.
    assert!(size_of_val(&watch) <= 200, "{}", size_of_val(&watch));
}
