use futures_util::StreamExt;
use tokio::task::JoinHandle;

use super::super::WaitError;
use super::super::testing::{DEVICE, Gateway, MINUTE, OTHER, START};
use super::*;
use crate::table::{Registration, TableConfig};

const OURS: u32 = 5;
const THEIRS: u32 = 6;
const THIRD: DeviceId = DeviceId(9);

/// A gateway with one device of this organisation and one of another.
fn gateway() -> Gateway {
    let gateway = Gateway::new(&TableConfig { epoch: 9, ..TableConfig::default() }, 10);
    register(&gateway, DEVICE, OURS);
    register(&gateway, OTHER, THEIRS);
    gateway
}

fn register(gateway: &Gateway, id: DeviceId, organisation: u32) {
    gateway.table.register(id, Registration { at: START, organisation, record: 1 });
}

fn at(id: DeviceId, cursor: Cursor) -> Devices {
    Devices::from_iter([(id, Some(cursor))])
}

type Answer = Result<ManyWaited, OrganisationError>;

/// A wait of a minute, begun.
async fn begin(gateway: &Gateway, after: Devices) -> JoinHandle<Answer> {
    let waits = gateway.waits.clone();
    let wait = async move { waits.wait_for_organisation(OURS, &after, Instant::now() + MINUTE).await };
    let begun = tokio::spawn(wait);
    yield_now().await;
    begun
}

/// The answer of a wait that must not sleep.
async fn at_once(gateway: &Gateway, after: &Devices) -> Answer {
    let begun = Instant::now();
    let answer = gateway.waits.wait_for_organisation(OURS, after, begun + MINUTE).await;
    assert_eq!(Instant::now(), begun, "{answer:?}");
    answer
}

/// Device, position and missed packets; a reset has no missed ones.
fn brief((id, waited): &(DeviceId, Waited)) -> (DeviceId, u64, Option<u64>) {
    match waited {
        Waited::Packet { missed, .. } => (*id, waited.cursor().n, Some(*missed)),
        Waited::Reset { .. } => (*id, waited.cursor().n, None),
        Waited::TimedOut { .. } => panic!("{id}"),
    }
}

fn packets(answer: Answer) -> Vec<(DeviceId, u64, Option<u64>)> {
    let answer = answer.unwrap();
    assert_eq!((&answer.pending[..], answer.timed_out), (&[][..], answer.packets.is_empty()));
    answer.packets.iter().map(brief).collect()
}

#[tokio::test(start_paused = true)]
async fn a_packet_of_any_device_of_the_organisation_is_an_answer_and_no_other() {
    let gateway = gateway();
    gateway.hear(DEVICE, 1);
    let wait = begin(&gateway, Devices::default()).await;
    assert_eq!(gateway.waiters.waiting(), 1);
    gateway.hear(OTHER, 1);
    gateway.hear(THIRD, 1);
    yield_now().await;
    assert!(!wait.is_finished());
    register(&gateway, THIRD, OURS);
    gateway.hear(THIRD, 2);
    gateway.hear(DEVICE, 2);
    gateway.hear(THIRD, 3);
    assert_eq!(packets(wait.await.unwrap()), [(THIRD, 3, Some(1)), (DEVICE, 2, Some(0))], "each once, all it said");
    assert_eq!(gateway.waiters.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_all_speak_at_once_one_answer_tells_of_1000_in_the_order_in_which_they_spoke() {
    let gateway = gateway();
    let ids = || (100..1200).map(DeviceId);
    ids().for_each(|id| register(&gateway, id, OURS));
    let wait = begin(&gateway, Devices::default()).await;
    ids().for_each(|id| gateway.hear(id, 1));
    let expected: Vec<_> = ids().take(1000).map(|id| (id, 1, Some(0))).collect();
    assert_eq!(packets(wait.await.unwrap()), expected);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_time_is_no_error_and_leaves_nothing() {
    let gateway = gateway();
    let begun = Instant::now();
    let wait = begin(&gateway, Devices::default()).await;
    assert_eq!((packets(wait.await.unwrap()), Instant::now() - begun), (vec![], MINUTE));
    assert_eq!(gateway.waiters.waiting(), 0);
    let wait = begin(&gateway, Devices::default()).await;
    wait.abort();
    assert!(wait.await.unwrap_err().is_cancelled());
    assert_eq!(gateway.waiters.waiting(), 0);
    let passed = gateway.waits.wait_for_organisation(OURS, &Devices::default(), begun).await;
    assert_eq!(packets(passed), []);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_behind_its_position_is_an_answer_at_once() {
    let gateway = gateway();
    let start = gateway.table.cursor(DEVICE);
    gateway.hear(DEVICE, 1);
    gateway.hear(DEVICE, 2);
    assert_eq!(packets(at_once(&gateway, &at(DEVICE, start)).await), [(DEVICE, 2, Some(1))]);
    let former = Cursor { epoch: 1, n: 700 };
    assert_eq!(packets(at_once(&gateway, &at(DEVICE, former)).await), [(DEVICE, 2, None)]);
    let wait = begin(&gateway, at(DEVICE, gateway.table.cursor(DEVICE))).await;
    assert!(!wait.is_finished());
    gateway.hear(DEVICE, 3);
    assert_eq!(packets(wait.await.unwrap()), [(DEVICE, 3, Some(0))]);
}

#[tokio::test(start_paused = true)]
async fn a_position_of_a_device_of_nobody_or_another_organisation_is_refused_by_name() {
    let gateway = gateway();
    for id in [OTHER, THIRD] {
        let refused = OrganisationError::NotOfIt(id);
        assert_eq!(at_once(&gateway, &at(id, gateway.table.cursor(id))).await, Err(refused));
    }
    let present = gateway.table.cursor(DEVICE);
    let ahead = DeviceError { device: DEVICE, error: WaitError::AheadOfPresent { present } };
    let answer = at_once(&gateway, &at(DEVICE, Cursor { n: 1, ..present })).await;
    assert_eq!(answer, Err(ahead.into()));
}

#[tokio::test(start_paused = true)]
async fn there_are_as_many_places_as_for_a_device_and_a_deletion_frees_them() {
    let gateway = Gateway::new(&TableConfig::default(), 1);
    let first = begin(&gateway, Devices::default()).await;
    assert_eq!(at_once(&gateway, &Devices::default()).await, Err(Full::Organisation.into()));
    assert_eq!(gateway.waits.listen(OURS, &Devices::default(), false).await.unwrap_err(), Full::Organisation.into());
    gateway.waiters.dismiss(Subject::Organisation(OURS));
    assert_eq!(first.await.unwrap(), Err(OrganisationError::Deleted));
    assert_eq!(gateway.waiters.waiting(), 0);
}

/// What a stream has to tell now. `None`: packets were lost.
fn told(listening: &mut Listening) -> Vec<Option<(DeviceId, u64, Option<u64>)>> {
    let mut told = Vec::new();
    while let Some(Some(event)) = listening.next().now_or_never() {
        assert_eq!(event.id, EventId { n: event.id.n, ..listening.first_id() });
        told.push(event.said.as_ref().map(brief));
    }
    told
}

async fn listen(gateway: &Gateway, after: &Devices) -> Listening {
    gateway.waits.listen(OURS, after, false).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_every_packet_once_by_itself_or_as_a_missed_one() {
    let gateway = gateway();
    register(&gateway, THIRD, OURS);
    let mut listening = listen(&gateway, &Devices::default()).await;
    assert_eq!((told(&mut listening), gateway.waiters.waiting()), (vec![], 1));
    let mut random = fastrand::Rng::with_seed(11);
    let (mut heard, mut counted) = ([0_u64; 2], [0_u64; 2]);
    for round in 1..=2000 {
        for (index, id) in [DEVICE, THIRD].into_iter().enumerate() {
            if random.bool() {
                heard[index] += 1;
                gateway.hear(id, round);
            }
        }
        gateway.hear(OTHER, round);
        if random.u8(..) < 30 {
            for event in told(&mut listening) {
                let (id, n, missed) = event.unwrap();
                let index = usize::from(id == THIRD);
                counted[index] += 1 + missed.unwrap();
                assert_eq!(n, counted[index], "{round}");
            }
            assert_eq!(counted, heard);
        }
    }
    drop(listening);
    assert_eq!(gateway.waiters.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_is_seen_before_its_wake_up_is_told_once() {
    let gateway = gateway();
    let mut listening = listen(&gateway, &Devices::default()).await;
    let [first, second, third] = [1, 2, 3].map(|sequence| gateway.record(DEVICE, sequence));
    gateway.wake(DEVICE, first);
    assert_eq!(told(&mut listening), [Some((DEVICE, 3, Some(2)))]);
    gateway.wake(DEVICE, second);
    assert_eq!(told(&mut listening), []);
    gateway.wake(DEVICE, third);
    assert_eq!((told(&mut listening), listening.ahead.len()), (vec![], 0), "nothing stays of it");
    gateway.hear(DEVICE, 4);
    assert_eq!(told(&mut listening), [Some((DEVICE, 4, Some(0)))]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_behind_is_told_so_and_goes_on() {
    let gateway = gateway();
    register(&gateway, THIRD, OURS);
    let mut listening = listen(&gateway, &Devices::default()).await;
    gateway.hear(THIRD, 1);
    let kept = KEPT as u16;
    (1..=kept).for_each(|sequence| gateway.hear(DEVICE, sequence));
    gateway.hear(THIRD, 2);
    let expected = [None, Some((DEVICE, KEPT as u64, Some(KEPT as u64 - 2))), Some((THIRD, 2, Some(0)))];
    assert_eq!(told(&mut listening), expected);
    gateway.hear(THIRD, 3);
    assert_eq!(told(&mut listening), [Some((THIRD, 3, Some(0)))]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_what_its_positions_are_behind_unless_it_is_resumed() {
    let gateway = gateway();
    let start = gateway.table.cursor(DEVICE);
    gateway.hear(DEVICE, 1);
    let mut listening = listen(&gateway, &at(DEVICE, start)).await;
    gateway.hear(DEVICE, 2);
    let expected = [Some((DEVICE, 1, Some(0))), Some((DEVICE, 2, Some(0)))];
    assert_eq!(told(&mut listening), expected);
    let mut resumed = gateway.waits.listen(OURS, &at(DEVICE, start), true).await.unwrap();
    gateway.hear(DEVICE, 3);
    assert_eq!(told(&mut resumed), [None, Some((DEVICE, 3, Some(0)))]);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_deleted_or_moved_before_it_is_told_is_passed_over() {
    let gateway = gateway();
    register(&gateway, THIRD, OURS);
    let mut listening = listen(&gateway, &Devices::default()).await;
    gateway.hear(DEVICE, 1);
    gateway.hear(THIRD, 1);
    gateway.delete(DEVICE);
    register(&gateway, THIRD, THEIRS);
    assert_eq!(told(&mut listening), []);
    gateway.hear(THIRD, 2);
    register(&gateway, DEVICE, OURS);
    gateway.hear(DEVICE, 2);
    assert_eq!(told(&mut listening), [Some((DEVICE, 1, Some(0)))], "it counts anew");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_it_is_closed_or_its_organisation_deleted_and_wakes_its_listener_for_that() {
    let gateway = gateway();
    let mut listening = listen(&gateway, &Devices::default()).await;
    gateway.hear(DEVICE, 1);
    listening.close();
    assert_eq!(gateway.waiters.waiting(), 0);
    gateway.hear(DEVICE, 2);
    assert_eq!(listening.next().await.and_then(|event| event.said).as_ref().map(brief), Some((DEVICE, 2, Some(1))));
    assert_eq!(listening.next().await, None);

    let listening = listen(&gateway, &Devices::default()).await;
    let rest = tokio::spawn(listening.collect::<Vec<_>>());
    yield_now().await;
    gateway.hear(DEVICE, 3);
    yield_now().await;
    gateway.waiters.dismiss(Subject::Organisation(OURS));
    assert_eq!(rest.await.unwrap().len(), 1);
}
