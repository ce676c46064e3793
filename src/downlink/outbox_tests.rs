use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::downlink::intent::DataPhase;
use crate::downlink::testing::{
    BT, DEVICE, LISTENING, NOW, RELAY, call, events, intent, later, outbox, response, route, take, through_relay,
    towards, way,
};

const OTHER: DeviceId = DeviceId(43);

fn add(outbox: &Outbox, intents: impl IntoIterator<Item = Intent>) {
    for intent in intents {
        outbox.add(DEVICE, intent).unwrap();
    }
}

fn from_device(limit: usize) -> Option<DataPhase> {
    Some(DataPhase::From { limit })
}

#[test]
fn what_waits_leaves_once_in_the_order_of_acceptance() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    add(&outbox, [1, 3, 4, 2].map(intent));
    outbox.add(OTHER, intent(5)).unwrap();
    assert_eq!((outbox.waiting(), outbox.waiting_for(DEVICE)), (5, 4));
    assert_eq!(take(&outbox, NOW, Level::Device), [1, 2, 3, 4]);
    assert!(take(&outbox, NOW, Level::Device).is_empty());
    assert_eq!((outbox.waiting(), outbox.waiting_for(OTHER)), (1, 1));
    let sent =
        |message| Event::Sent { device: DEVICE, message, at: NOW, way: way(Level::Device), listening: LISTENING };
    assert_eq!(events(&mut receiver), [1, 2, 3, 4].map(sent));
}

#[test]
fn one_that_stays_holds_back_what_is_behind_it_and_others_do_not() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    add(&outbox, (1..=5).map(intent));
    add(&outbox, [Intent { expires_at: Some(NOW), ..intent(0) }]);
    let why = Dropped::TooLong { len: 600, limit: 548 };
    let mut asked = Vec::new();
    let is_left = outbox.take_due(DEVICE, LISTENING, NOW, |intent, _| {
        asked.push(intent.message);
        match intent.message {
            1 => Decision::Drop(why),
            3 => Decision::Stay,
            _ => Decision::Send(way(Level::Network)),
        }
    });
    assert_eq!((asked, is_left), (vec![1, 2, 3], true));
    assert_eq!(events(&mut receiver)[0], Event::Dropped { device: DEVICE, message: 1, at: NOW, why });
    assert!(!outbox.take_due(DEVICE, LISTENING, NOW, |_, _| Decision::Send(way(Level::Network))));
    assert_eq!(outbox.expire(NOW), [(DEVICE, 0)]);
    assert_eq!(outbox.waiting(), 0);
}

#[test]
fn what_has_expired_is_not_sent_and_told_once_on_time() {
    let (outbox, _receiver) = outbox(OutboxConfig::default());
    assert_eq!(outbox.next_expiry(), None);
    add(&outbox, [1, 2].map(intent));
    add(&outbox, [Intent { expires_at: Some(later(5)), ..intent(3) }]);
    outbox.add(OTHER, Intent { expires_at: Some(later(7)), ..intent(4) }).unwrap();
    assert_eq!(outbox.next_expiry(), Some(later(5)));
    assert_eq!(outbox.expire(later(4)), []);
    assert!(!outbox.take_due(OTHER, LISTENING, later(7), |_, _| panic!("expired")));
    let mut expired = outbox.expire(later(7));
    expired.sort_unstable();
    assert_eq!(expired, [(DEVICE, 3), (OTHER, 4)]);
    assert_eq!((outbox.expire(later(8)), outbox.next_expiry()), (vec![], Some(later(60_000))));
    assert_eq!(take(&outbox, later(59_999), Level::Network), [1, 2]);
    assert_eq!(outbox.next_expiry(), None);
}

#[test]
fn what_is_taken_back_or_belongs_to_a_deleted_device_is_not_sent() {
    let (outbox, _receiver) = outbox(OutboxConfig::default());
    add(&outbox, (1..=3).map(intent));
    outbox.add(OTHER, intent(4)).unwrap();
    assert!(outbox.withdraw(DEVICE, 2) && !outbox.withdraw(DEVICE, 2) && !outbox.withdraw(DEVICE, 4));
    outbox.sent(DEVICE, &call(9, None), NOW, way(Level::Network), LISTENING);
    outbox.sent(OTHER, &call(9, None), NOW, way(Level::Network), LISTENING);
    outbox.forget(DEVICE);
    assert_eq!((outbox.waiting(), outbox.waiting_for(OTHER), outbox.calls()), (1, 1, 1));
    assert!(take(&outbox, NOW, Level::Network).is_empty());
    assert_eq!(outbox.answer(DEVICE, Level::Network, &response(9), NOW, route()), Heard::Late);
    assert_eq!(outbox.answer(OTHER, Level::Network, &response(9), NOW, route()), Heard::Taken);
    assert_eq!(outbox.expire(later(60_000)), [(OTHER, 4)]);
}

#[test]
fn a_call_is_answered_once_at_its_level_or_above() {
    for (sent, answered, expected) in [
        (Level::Network, Level::Network, Heard::Taken),
        (Level::Network, Level::Device, Heard::Taken),
        (Level::Device, Level::Device, Heard::Taken),
        (Level::Device, Level::Network, Heard::Refused(Refused::Forged)),
    ] {
        let (outbox, mut receiver) = outbox(OutboxConfig::default());
        add(&outbox, [call(1, None)]);
        assert_eq!(take(&outbox, NOW, sent), [1]);
        events(&mut receiver);
        assert_eq!(outbox.answer(DEVICE, answered, &response(1), later(5), route()), expected);
        let is_taken = expected == Heard::Taken;
        assert_eq!(outbox.calls(), usize::from(!is_taken), "what is forged changes nothing");
        let answer = Answer {
            request_id: 1,
            command_id: 9,
            return_code: -22,
            body: (*b"body").into(),
            level: answered,
            at: later(5),
            route: route(),
        };
        let event = Event::Answered { device: DEVICE, message: 1, answer: answer.clone(), data: None };
        assert_eq!(events(&mut receiver), if is_taken { vec![event] } else { vec![] });
        if is_taken {
            assert_eq!(outbox.answer(DEVICE, answered, &response(1), later(5), route()), Heard::Late);
            assert_eq!(events(&mut receiver), [Event::LateAnswer { device: DEVICE, answer }]);
        }
    }
}

#[test]
fn answers_that_are_cut_or_to_another_command_change_nothing() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    outbox.sent(DEVICE, &call(1, None), NOW, way(Level::Network), LISTENING);
    events(&mut receiver);
    let whole = response(1);
    for len in 0..8 {
        let heard = outbox.answer(DEVICE, Level::Device, &whole[..len], NOW, route());
        assert_eq!(heard, Heard::Refused(Refused::Truncated));
    }
    let mut other = whole;
    other[4] = 8;
    let heard = outbox.answer(DEVICE, Level::Device, &other, NOW, route());
    assert_eq!(heard, Heard::Refused(Refused::Forged));
    assert_eq!((events(&mut receiver), outbox.calls()), (vec![], 1));
}

fn until_answered(message: i64, data: Option<DataPhase>) -> Intent {
    Intent { retry: Retry::UntilAnswered, ..call(message, data) }
}

#[test]
fn what_is_sent_until_it_is_answered_is_sent_again_after_10_s_and_no_more_after_the_answer() {
    let (outbox, _receiver) = outbox(OutboxConfig::default());
    add(&outbox, [until_answered(1, None), until_answered(2, None), intent(3)]);
    assert_eq!(take(&outbox, NOW, Level::Network), [1, 2, 3]);
    let is_left = outbox.take_due(DEVICE, LISTENING, later(9_999), |_, _| panic!("sent a moment ago"));
    assert!(is_left, "the next packet must look for it");
    add(&outbox, [intent(4)]);
    assert_eq!(take(&outbox, later(9_999), Level::Network), [4], "they hold nothing back");
    assert_eq!(outbox.answer(DEVICE, Level::Network, &response(1), later(9_999), route()), Heard::Taken);
    assert!(take(&outbox, later(9_999), Level::Network).is_empty(), "the answer to one sends no other again");
    assert_eq!(take(&outbox, later(10_000), Level::Network), [2]);
    assert_eq!(outbox.calls(), 1);
    assert_eq!(outbox.answer(DEVICE, Level::Network, &response(2), later(10_001), route()), Heard::Taken);
    assert!(take(&outbox, later(30_000), Level::Network).is_empty());
    assert_eq!((outbox.waiting(), outbox.next_expiry()), (0, None));
}

#[test]
fn a_call_is_not_sent_again_while_its_data_moves() {
    let (outbox, _receiver) = outbox(OutboxConfig::default());
    add(&outbox, [until_answered(1, towards(60)), until_answered(2, from_device(60))]);
    assert_eq!(take(&outbox, NOW, Level::Network), [1, 2]);
    let mut ready = Vec::new();
    DataAck { request_id: 1, offsets: vec![] }.encode(&mut ready);
    assert_eq!(outbox.data_ack(DEVICE, &ready, 28, later(6_000)).unwrap().payloads.len(), 1);
    let mut piece = Vec::new();
    Data { request_id: 2, offset: 0, data: b"abcd" }.encode(&mut piece);
    assert_eq!(outbox.data(DEVICE, Level::Network, &piece, later(8_000)), Heard::Taken);
    assert!(take(&outbox, later(15_999), Level::Network).is_empty());
    assert_eq!(take(&outbox, later(17_999), Level::Network), [1]);
    assert_eq!(take(&outbox, later(18_000), Level::Network), [2]);
    assert_eq!(outbox.received(DEVICE, 2).as_deref(), Some(&b""[..]), "from the beginning");
}

#[test]
fn what_is_due_is_told_whether_anything_else_is() {
    let (outbox, _receiver) = outbox(OutboxConfig::default());
    let are_only = |at| {
        let mut are_only = Vec::new();
        outbox.take_due(DEVICE, LISTENING, at, |intent, is_only| {
            are_only.push((intent.message, is_only));
            Decision::Send(way(Level::Network))
        });
        are_only
    };
    add(&outbox, [until_answered(1, None), Intent { expires_at: Some(NOW), ..intent(2) }]);
    assert_eq!(are_only(NOW), [(1, true)]);
    add(&outbox, [intent(3)]);
    assert_eq!(are_only(later(5)), [(3, true)]);
    add(&outbox, [intent(4)]);
    assert_eq!(are_only(later(10_000)), [(1, false), (4, false)]);
}

#[test]
fn what_an_earlier_process_sent_may_be_answered_and_waits_on_where_it_is_sent_again() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    outbox.resume(DEVICE, call(1, towards(30)), Level::Device, NOW).unwrap();
    outbox.resume(DEVICE, until_answered(2, None), Level::Network, NOW).unwrap();
    assert_eq!((outbox.waiting(), outbox.calls()), (1, 2));
    assert!(!outbox.withdraw(DEVICE, 2), "it was sent");
    assert!(take(&outbox, later(9_999), Level::Network).is_empty());
    let answer = |level, request_id| outbox.answer(DEVICE, level, &response(request_id), later(9_999), route());
    assert_eq!(answer(Level::Network, 1), Heard::Refused(Refused::Forged), "it was sent at device level");
    assert_eq!(outbox.data_ack(DEVICE, &[1, 0, 0, 0], 28, NOW), Err(Refused::Unknown), "nobody knows how far it was");
    assert_eq!((answer(Level::Device, 1), answer(Level::Network, 2)), (Heard::Taken, Heard::Taken));
    assert!(matches!(
        events(&mut receiver)[..],
        [Event::Answered { message: 1, data: None, .. }, Event::Answered { message: 2, data: None, .. }]
    ));
    assert!(take(&outbox, later(10_000), Level::Network).is_empty());
    assert_eq!((outbox.waiting(), outbox.calls()), (0, 0));
}

#[test]
fn the_answer_to_a_call_that_waits_to_be_sent_again_counts_however_late_it_is() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    let lasting = Intent { expires_at: None, ..until_answered(1, None) };
    outbox.resume(DEVICE, lasting, Level::Device, NOW).unwrap();
    outbox.expire(later(600_000));
    assert_eq!((outbox.calls(), outbox.waiting()), (0, 1));
    let mut other = response(1);
    other[4] = 8;
    let answer = |level, payload: &[u8]| outbox.answer(DEVICE, level, payload, later(600_000), route());
    assert_eq!(answer(Level::Device, &other), Heard::Refused(Refused::Forged));
    assert_eq!(answer(Level::Network, &response(1)), Heard::Refused(Refused::Forged));
    assert_eq!(answer(Level::Device, &response(1)), Heard::Taken);
    assert!(matches!(events(&mut receiver)[..], [Event::Answered { message: 1, .. }]));
    assert!(take(&outbox, later(600_000), Level::Device).is_empty(), "not on the packet of its own answer");
}

#[test]
fn nobody_can_answer_what_was_never_sent() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    add(&outbox, [call(1, None), until_answered(2, None)]);
    for request_id in [1, 2] {
        let heard = outbox.answer(DEVICE, Level::Device, &response(request_id), NOW, route());
        assert_eq!(heard, Heard::Refused(Refused::Forged));
    }
    assert_eq!(events(&mut receiver), []);
    assert_eq!(take(&outbox, NOW, Level::Network), [1, 2]);
    assert!(!outbox.withdraw(DEVICE, 2), "it was sent, and waits to be sent again");
}

#[test]
fn data_of_a_device_is_kept_for_its_answer() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    outbox.sent(DEVICE, &call(1, from_device(8)), NOW, way(Level::Device), LISTENING);
    let data = |level, request_id: u32, offset: u32, bytes: &[u8]| {
        let mut payload = Vec::new();
        Data { request_id, offset, data: bytes }.encode(&mut payload);
        outbox.data(DEVICE, level, &payload, NOW)
    };
    assert_eq!(data(Level::Device, 1, 4, b"efgh"), Heard::Taken);
    assert_eq!(data(Level::Network, 1, 0, b"abcd"), Heard::Refused(Refused::Forged));
    assert_eq!(data(Level::Device, 2, 0, b"abcd"), Heard::Refused(Refused::Unknown));
    assert_eq!(data(Level::Device, 1, 5, b"efgh"), Heard::Refused(Refused::NoRoom));
    assert_eq!(outbox.data(DEVICE, Level::Device, &[1; 7], NOW), Heard::Refused(Refused::Truncated));
    assert_eq!(outbox.received(DEVICE, 1).as_deref(), Some(&b"\0\0\0\0efgh"[..]));
    assert_eq!((outbox.received(DEVICE, 2), outbox.received(OTHER, 1)), (None, None));
    events(&mut receiver);
    outbox.answer(DEVICE, Level::Device, &response(1), NOW, route());
    let [Event::Answered { data, .. }] = &events(&mut receiver)[..] else { panic!("one event") };
    assert_eq!(data.as_deref(), Some(&b"\0\0\0\0efgh"[..]));
}

#[test]
fn data_for_a_device_goes_as_it_asks_at_the_level_of_the_call_until_it_answers() {
    for level in [Level::Network, Level::Device] {
        let (outbox, _receiver) = outbox(OutboxConfig::default());
        add(&outbox, [call(1, towards(30))]);
        take(&outbox, NOW, level);
        let ack = |offsets: &[u32]| {
            let mut payload = Vec::new();
            DataAck { request_id: 1, offsets: offsets.to_vec() }.encode(&mut payload);
            outbox.data_ack(DEVICE, &payload, 28, NOW)
        };
        let lengths = |pieces: &Pieces| pieces.payloads.iter().map(Vec::len).collect::<Vec<_>>();
        let first = ack(&[]).unwrap();
        assert_eq!((first.sealing, lengths(&first)), (level.into(), vec![28]));
        assert_eq!(lengths(&ack(&[0]).unwrap()), [18]);
        assert_eq!(outbox.data_ack(DEVICE, &[1, 0, 0, 0, 9], 28, NOW), Err(Refused::Truncated));
        assert_eq!(outbox.data_ack(OTHER, &[1, 0, 0, 0], 28, NOW), Err(Refused::Unknown));
        outbox.answer(DEVICE, level, &response(1), NOW, route());
        assert_eq!(ack(&[20]), Err(Refused::Unknown));
    }
}

#[test]
fn no_more_waits_than_there_is_room_for() {
    let config = OutboxConfig { per_device: 2, total: 3, data: 100, ..OutboxConfig::default() };
    let (outbox, _receiver) = outbox(config);
    add(&outbox, [call(1, towards(60)), intent(2)]);
    assert_eq!(outbox.add(DEVICE, intent(3)), Err(Full::Device));
    assert_eq!(outbox.add(OTHER, call(3, towards(41))), Err(Full::Data));
    assert_eq!(outbox.has_room(OTHER, &call(3, towards(41))), Err(Full::Data));
    assert_eq!(outbox.has_room(OTHER, &call(3, towards(40))).and(outbox.add(OTHER, call(3, towards(40)))), Ok(()));
    assert_eq!(outbox.add(OTHER, intent(4)), Err(Full::Total));
    assert_eq!(take(&outbox, NOW, Level::Network), [1, 2]);
    assert_eq!(outbox.add(OTHER, call(4, towards(1))), Err(Full::Data), "still on its way");
    outbox.answer(DEVICE, Level::Network, &response(1), NOW, route());
    assert_eq!(outbox.add(OTHER, call(4, towards(60))), Ok(()));
    outbox.forget(OTHER);
    assert!(outbox.has_room(OTHER, &call(5, towards(100))).is_ok());
    assert_eq!(outbox.waiting(), 0);
}

#[test]
fn no_device_has_all_the_room_for_data() {
    let config = OutboxConfig { data: 100, device_data: 60, ..OutboxConfig::default() };
    let (outbox, _receiver) = outbox(config);
    add(&outbox, [call(1, towards(50))]);
    assert_eq!(outbox.add(DEVICE, call(2, towards(11))), Err(Full::Data));
    assert_eq!(outbox.has_room(DEVICE, &call(2, towards(11))), Err(Full::Data));
    assert_eq!(outbox.add(OTHER, call(3, towards(50))), Ok(()));
}

#[test]
fn data_of_a_device_takes_room_until_nobody_has_it_any_more() {
    let config = OutboxConfig { data: 100, ..OutboxConfig::default() };
    let (outbox, mut receiver) = outbox(config);
    outbox.sent(DEVICE, &call(1, from_device(80)), NOW, way(Level::Network), LISTENING);
    let mut piece = Vec::new();
    Data { request_id: 1, offset: 0, data: &[7; 80] }.encode(&mut piece);
    assert_eq!(outbox.data(DEVICE, Level::Network, &piece, NOW), Heard::Taken);
    outbox.answer(DEVICE, Level::Network, &response(1), NOW, route());
    let told = events(&mut receiver);
    assert_eq!(
        (outbox.calls(), outbox.has_room(OTHER, &call(2, towards(21)))),
        (0, Err(Full::Data)),
        "not written yet"
    );
    drop(told);
    assert_eq!(outbox.has_room(OTHER, &call(2, towards(100))), Ok(()));
}

#[test]
fn one_call_that_is_sent_again_and_again_makes_no_other_forgotten() {
    let (outbox, _receiver) = outbox(OutboxConfig { calls: 2, ..OutboxConfig::default() });
    let sent = |message, at| outbox.sent(DEVICE, &call(message, None), at, way(Level::Network), LISTENING);
    sent(1, NOW);
    (1..9).for_each(|ms| sent(2, later(ms)));
    assert_eq!(outbox.answer(DEVICE, Level::Network, &response(1), later(9), route()), Heard::Taken);
}

#[test]
fn calls_are_forgotten_after_their_time_and_the_oldest_makes_room() {
    let config = OutboxConfig { calls: 2, ..OutboxConfig::default() };
    let (outbox, _receiver) = outbox(config);
    let sent = |message, at| outbox.sent(DEVICE, &call(message, None), at, way(Level::Network), LISTENING);
    let answer = |request_id, at| outbox.answer(DEVICE, Level::Network, &response(request_id), at, route());
    (1..=3).for_each(|message| sent(message, NOW));
    assert_eq!(outbox.calls(), 2);
    assert_eq!((answer(1, NOW), answer(2, NOW)), (Heard::Late, Heard::Taken));
    sent(4, later(1));
    outbox.expire(later(600_000));
    assert_eq!((answer(3, later(600_000)), answer(4, later(600_000))), (Heard::Late, Heard::Taken));
}

#[test]
fn a_call_that_is_sent_again_is_remembered_from_then_on() {
    let (outbox, _receiver) = outbox(OutboxConfig::default());
    let sent = |at| outbox.sent(DEVICE, &call(1, None), at, way(Level::Network), LISTENING);
    sent(NOW);
    sent(later(300_000));
    outbox.expire(later(899_999));
    assert_eq!(outbox.calls(), 1);
    outbox.expire(later(900_000));
    assert_eq!(outbox.calls(), 0);
}

#[test]
fn the_end_of_a_connection_is_told_with_what_went_that_way_last() {
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    for message in [1, 2] {
        outbox.sent(DEVICE, &intent(message), NOW, through_relay(), LISTENING);
    }
    events(&mut receiver);
    let mut payload = Vec::new();
    let interface = crate::wire::container::RouteInterface::BtCentral;
    Terminated { interface, reason: 19, address: BT }.encode(&mut payload);
    assert_eq!(outbox.terminated(RELAY, Level::Network, &payload, NOW), Heard::Refused(Refused::Forged));
    assert_eq!(outbox.terminated(RELAY, Level::Device, &payload[1..], NOW), Heard::Refused(Refused::Truncated));
    assert_eq!(events(&mut receiver), []);
    for last in [Some((DEVICE, 2)), None] {
        assert_eq!(outbox.terminated(RELAY, Level::Device, &payload, NOW), Heard::Taken);
        let expected = Event::Terminated { relay: RELAY, address: BT, reason: 19, last, at: NOW };
        assert_eq!(events(&mut receiver), [expected]);
    }
}

#[test]
fn whoever_takes_at_the_same_time_each_intent_is_taken_once_or_taken_back() {
    const COUNT: i64 = 400;
    let (outbox, mut receiver) = outbox(OutboxConfig::default());
    let withdrawn = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=COUNT).for_each(|message| outbox.add(DEVICE, intent(message)).unwrap()));
        scope.spawn(|| {
            let taken_back = (1..=COUNT).filter(|message| outbox.withdraw(DEVICE, *message)).count();
            withdrawn.fetch_add(taken_back, std::sync::atomic::Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| (0..COUNT).for_each(|_| drop(take(&outbox, NOW, Level::Network))));
        }
    });
    take(&outbox, NOW, Level::Network);
    let sent: Vec<_> = events(&mut receiver)
        .into_iter()
        .map(|event| match event {
            Event::Sent { message, .. } => message,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(sent.is_sorted_by(|one, next| one < next), "in order and once, whoever takes");
    assert_eq!(sent.len() + withdrawn.into_inner(), COUNT as usize);
    assert_eq!((outbox.waiting(), outbox.next_expiry()), (0, None));
}

/// Something that is done to an outbox.
#[derive(Clone, Debug)]
enum Step {
    Add {
        device: u64,
        expires_in: Option<u64>,
        until_answered: bool,
    },
    Withdraw {
        device: u64,
        back: i64,
    },
    /// Messages whose number divides by one of these stay, or are dropped.
    Take {
        device: u64,
        stays: i64,
        drops: i64,
    },
    Answer {
        device: u64,
        back: i64,
    },
    Forget {
        device: u64,
    },
    Expire,
    Pass {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 1..4u64;
    prop_oneof![
        6 => (device(), prop::option::of(1..400u64), any::<bool>())
            .prop_map(|(device, expires_in, until_answered)| Step::Add { device, expires_in, until_answered }),
        1 => (device(), 0..8i64).prop_map(|(device, back)| Step::Withdraw { device, back }),
        4 => (device(), 2..9i64, 2..9i64).prop_map(|(device, stays, drops)| Step::Take { device, stays, drops }),
        2 => (device(), 0..8i64).prop_map(|(device, back)| Step::Answer { device, back }),
        1 => device().prop_map(|device| Step::Forget { device }),
        1 => Just(Step::Expire),
        2 => prop_oneof![0..100u64, 9_990..10_010u64].prop_map(|ms| Step::Pass { ms }),
    ]
}

/// All that waits, as a list, and the calls that are not answered, with when they were sent.
#[derive(Default)]
struct Model {
    waiting: Vec<(DeviceId, Intent)>,
    calls: BTreeMap<(DeviceId, i64), Timestamp>,
}

impl Model {
    fn take(&mut self, device: DeviceId, at: Timestamp, decide: impl Fn(i64) -> Decision) -> Vec<i64> {
        let (mut taken, mut is_held) = (Vec::new(), false);
        self.waiting.retain(|(owner, intent)| {
            let is_recent = self.calls.get(&(device, intent.message)).is_some_and(|sent| at.0 - sent.0 < 10_000);
            if *owner != device || is_held || intent.is_expired(at) || is_recent {
                return true;
            }
            match decide(intent.message) {
                Decision::Stay => is_held = true,
                Decision::Drop(_) => return false,
                Decision::Send(_) => {
                    taken.push(intent.message);
                    self.calls.insert((device, intent.message), at);
                    return intent.retry == Retry::UntilAnswered;
                }
            }
            true
        });
        taken
    }
}

fn decision(message: i64, stays: i64, drops: i64) -> Decision {
    match message {
        _ if message % drops == 0 => Decision::Drop(Dropped::TooLong { len: 2, limit: 1 }),
        _ if message % stays == 0 => Decision::Stay,
        _ => Decision::Send(way(Level::Network)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_outbox_does_what_a_list_would_do(steps in prop::collection::vec(step(), 1..80)) {
        let remembered = Duration::from_secs(1_000_000);
        let (outbox, mut receiver) = outbox(OutboxConfig { remembered, ..OutboxConfig::default() });
        let (mut model, mut now, mut last) = (Model::default(), NOW, 0);
        for step in steps {
            match step {
                Step::Add { device, expires_in, until_answered } => {
                    last += 1;
                    let retry = if until_answered { Retry::UntilAnswered } else { Retry::Never };
                    let expires_at = expires_in.map(|ms| Timestamp(now.0 + ms));
                    let intent = Intent { retry, expires_at, ..call(last, None) };
                    outbox.add(DeviceId(device), intent.clone()).unwrap();
                    model.waiting.push((DeviceId(device), intent));
                }
                Step::Withdraw { device, back } => {
                    let (before, message) = (model.waiting.len(), (DeviceId(device), last - back));
                    let is_sent = model.calls.contains_key(&message);
                    model.waiting.retain(|(owner, intent)| is_sent || (*owner, intent.message) != message);
                    prop_assert_eq!(outbox.withdraw(DeviceId(device), last - back), model.waiting.len() < before);
                }
                Step::Take { device, stays, drops } => {
                    let device = DeviceId(device);
                    let is_left = outbox.take_due(device, LISTENING, now, |intent, _| decision(intent.message, stays, drops));
                    let expected = model.take(device, now, |message| decision(message, stays, drops));
                    let sent = events(&mut receiver).into_iter().filter_map(|event| match event {
                        Event::Sent { message, .. } => Some(message),
                        _ => None,
                    });
                    prop_assert_eq!(sent.collect::<Vec<_>>(), expected);
                    let left = model.waiting.iter().any(|(owner, intent)| *owner == device && !intent.is_expired(now));
                    prop_assert_eq!(is_left, left);
                }
                Step::Answer { device, back } => {
                    let (device, message) = (DeviceId(device), last - back);
                    let heard = outbox.answer(device, Level::Network, &response(message as u32), now, route());
                    let is_known = model.calls.remove(&(device, message)).is_some();
                    let waits = model.waiting.iter().any(|(owner, intent)| (*owner, intent.message) == (device, message));
                    let expected = match (is_known, waits) {
                        (true, _) => Heard::Taken,
                        (false, true) => Heard::Refused(Refused::Forged),
                        (false, false) => Heard::Late,
                    };
                    prop_assert_eq!(heard, expected);
                    model.waiting.retain(|(owner, intent)| !is_known || (*owner, intent.message) != (device, message));
                    events(&mut receiver);
                }
                Step::Forget { device } => {
                    outbox.forget(DeviceId(device));
                    model.waiting.retain(|(owner, _)| *owner != DeviceId(device));
                    model.calls.retain(|(owner, _), _| *owner != DeviceId(device));
                }
                Step::Expire => {
                    let mut expired = outbox.expire(now);
                    expired.sort_unstable();
                    let gone = model.waiting.extract_if(.., |(_, intent)| intent.is_expired(now));
                    let mut expected: Vec<_> = gone.map(|(owner, intent)| (owner, intent.message)).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(expired, expected);
                }
                Step::Pass { ms } => now = Timestamp(now.0 + ms),
            }
            prop_assert_eq!((outbox.waiting(), outbox.calls()), (model.waiting.len(), model.calls.len()));
            let next = model.waiting.iter().filter_map(|(_, intent)| intent.expires_at).min();
            prop_assert_eq!(outbox.next_expiry(), next);
        }
    }
}
