//! Messages over a registry in a directory of its own, with a table and an outbox that packets are played into. No sockets:
//! what is handed to one is told by its event.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::counters::{LateAnswer, MessageEvent};
use super::*;
use crate::auth::keys::{Interface, RootKey};
use crate::auth::{open_with, seal_with};
use crate::downlink::channel::channel;
use crate::downlink::event::{Answer, Event, Listening};
use crate::downlink::intent::{Retry, Sealing};
use crate::downlink::outbox::{Decision, Heard, OutboxConfig};
use crate::id::KeyId;
use crate::ingest::posts::Mailbox;
use crate::records::message::{Message, MessageCall, MessageStatus, NewMessage};
use crate::records::{Metadata, NewBoard, NewDevice, NewOrganisation};
use crate::registry::{Live, Registrar};
use crate::table::TableConfig;
use crate::table::route::Path;
use crate::table::{Packet, route::Outcome as Recorded};
use crate::waiters::{Waiters, WaitersConfig};
use crate::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use crate::wire::rpc::Response;

use super::testing::DEVICE;

const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);
const NETWORK_ROOT: [u8; 32] = [1; 32];
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const HOUR_MS: u64 = 3_600_000;

struct Site {
    dispatch: Dispatch,
    table: Arc<RouteTable>,
    keys: Arc<KeyRing>,
    downlinks: Arc<Downlinks>,
    clock: Clock,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    /// The way to a socket that nobody reads.
    _mailboxes: Vec<Mailbox>,
    directory: TempDir,
    sequence: u16,
}

impl Site {
    async fn new() -> Self {
        Self::with(DispatchConfig::default()).await
    }

    async fn with(config: DispatchConfig) -> Self {
        let site = Self::open(tempfile::tempdir().unwrap(), config, 0).await;
        let registry = &site.dispatch.0.registry;
        let owner = registry.create_organisation(&NewOrganisation { name: "acme".to_owned() }).await.unwrap();
        let board = NewBoard {
            name: "tag".to_owned(),
            description: String::new(),
            soc: "nRF9151".to_owned(),
            organisation_id: owner.id,
            public: false,
            metadata_fields: Vec::new(),
        };
        let board = registry.create_board(&board).await.unwrap();
        let device = NewDevice {
            mcu_id: "0011223344556677".parse().unwrap(),
            board_id: board.id,
            organisation_id: owner.id,
            device_id: Some(DEVICE),
            metadata: Metadata::new(),
            initial_device_state: None,
            device_public_key: None,
            device_root_key: None,
        };
        registry.create_device(&device, Registrar::OfAll).await.unwrap();
        site
    }

    async fn open(directory: TempDir, config: DispatchConfig, offset_seconds: i64) -> Self {
        let clock = Clock::with_offset_seconds(offset_seconds);
        let cloud_keys = KeyPair::from_private([9; 32]);
        let (table, keys) = (Arc::new(RouteTable::new(&TableConfig::default())), Arc::new(KeyRing::default()));
        keys.set_network(NETWORK, RootKey::new(NETWORK_ROOT));
        let (events, received) = channel();
        let downlinks = Arc::new(Downlinks::new(OutboxConfig::default(), events));
        let live = Live {
            keys: Arc::clone(&keys),
            table: Arc::clone(&table),
            waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
            downlinks: Arc::clone(&downlinks),
            cloud_keys: cloud_keys.clone(),
            configured: Arc::default(),
        };
        let registry = Registry::open(directory.path(), live, clock.clone()).await.unwrap();
        let (posts, mailboxes) = Posts::to_threads(1);
        let parts = Parts {
            registry,
            table: Arc::clone(&table),
            downlinks: Arc::clone(&downlinks),
            posts,
            keys: Arc::clone(&keys),
            nonces: Arc::new(OwnNonces::new(&cloud_keys, clock.now())),
            cloud_keys,
            events: received,
            clock: clock.clone(),
            config,
        };
        let (dispatch, work) = Dispatch::open(parts).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(work.run(async move { drop(stopped.await) }));
        Self { dispatch, table, keys, downlinks, clock, stop, running, _mailboxes: mailboxes, directory, sequence: 0 }
    }

    /// Stops in order, or as a process that is killed does, and starts again with the same data.
    async fn restart(self, clean: bool, offset_seconds: i64) -> Self {
        if clean {
            self.stop.send(()).unwrap();
            self.running.await.unwrap();
        } else {
            self.running.abort();
            self.running.await.unwrap_err();
        }
        self.dispatch.0.registry.close().await;
        drop(self.dispatch);
        Self::open(self.directory, DispatchConfig::default(), offset_seconds).await
    }

    /// Takes in a packet of the device, as ingest does, from this port.
    fn hear(&mut self, flags: u16, port: u16) {
        self.sequence += 1;
        let now = self.clock.now();
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(flags),
            key_id: NETWORK,
            device_id: DEVICE,
            gps_time: now.gps(),
            sequence: self.sequence,
            entropy: self.sequence,
        };
        let key = RootKey::new(NETWORK_ROOT).day_key(Interface::Udp, header.rotation());
        let mut bytes = Vec::new();
        seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
        let verified = open_with(&key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap()).unwrap();
        let path = Path::Direct(([192, 0, 2, 1], port).into());
        let network = self.keys.network(NETWORK).unwrap().number;
        let packet = Packet { network, ..Packet::new(&verified, &path, now) };
        assert!(matches!(self.table.record(&packet), Recorded::Counted(_)));
    }

    /// Takes all that is due out of the outbox, as a packet from the present route does, without sealing it; the messages.
    fn release(&self) -> Vec<i64> {
        let now = self.clock.now();
        let target = self.dispatch.0.target(DEVICE, now).unwrap();
        let (mut taken, mut sequence) = (Vec::new(), 0);
        let listening = Listening { always_rx: false, single_tx: false, heard_at: now };
        self.downlinks.outbox.take_due(DEVICE, listening, now, |intent, _| {
            taken.push(intent.message);
            sequence += 1;
            let address = target.to.address;
            Decision::Send(crate::downlink::event::Way { sequence, level: Level::Network, address, relay: None })
        });
        taken
    }

    async fn outcome(&self, message: &Message) -> Message {
        let deadline = Instant::now() + PATIENCE;
        self.dispatch.wait_for_outcome(message.clone(), deadline).await.unwrap().unwrap()
    }

    fn counted(&self, event: MessageEvent) -> u64 {
        self.dispatch.counters().messages().find(|(label, _)| *label == event.label()).unwrap().1
    }

    fn answer(&self, message: &Message, return_code: i16) -> Answer {
        let call = message.call.unwrap();
        let route = self.table.send_route(DEVICE, self.clock.now()).unwrap().route;
        Answer {
            request_id: call.request_id,
            command_id: call.command_id,
            return_code,
            body: [1, 2].into(),
            level: Level::Network,
            at: self.clock.now(),
            route,
        }
    }
}

fn call(site: &Site, send_wait_timeout_ms: u64) -> NewMessage {
    NewMessage {
        device: DEVICE,
        packet_type: PacketType::RPC_CMD,
        sealing: Sealing::Best,
        call: Some(MessageCall { request_id: site.dispatch.request_id(), command_id: 5, data: None }),
        payload: [].into(),
        data: None,
        send_wait_timeout_ms,
        retry: Retry::Never,
        if_route: None,
    }
}

fn plain(site: &Site, send_wait_timeout_ms: u64) -> NewMessage {
    NewMessage { call: None, packet_type: PacketType(0xc8), ..call(site, send_wait_timeout_ms) }
}

#[tokio::test]
async fn a_message_waits_is_sent_and_is_answered_and_whoever_listens_is_told_of_each() {
    let mut site = Site::new().await;
    let mut outcomes = site.dispatch.outcomes();
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    assert_eq!((message.status, site.dispatch.waiting()), (MessageStatus::Waiting, 1));
    site.hear(0, 4000);
    assert_eq!(site.release(), [message.n]);
    let sent = timeout(PATIENCE, outcomes.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(
        (sent.message.status, sent.message.level, sent.is_final),
        (MessageStatus::Sent, Some(Level::Network), false)
    );
    assert!(sent.message.sent_at.is_some() && sent.message.route.is_some());
    assert_eq!(sent.message.note, None, "nothing speaks against its having heard it");

    let waiting = {
        let site = &site;
        async move { site.outcome(&message).await }
    };
    let answer = site.answer(&sent.message, -5);
    let answered = Event::Answered { device: DEVICE, message: sent.message.n, answer, data: None };
    site.downlinks.events.send(answered);
    let completed = waiting.await;
    assert_eq!((completed.status, completed.answer.unwrap().return_code), (MessageStatus::Completed, -5));
    let told = timeout(PATIENCE, outcomes.recv()).await.unwrap().unwrap().unwrap();
    assert!(told.is_final && told.organisation > 0);
    assert_eq!(MessageEvent::ALL.map(|event| site.counted(event)), [1, 1, 1, 0, 0, 0]);
}

#[tokio::test]
async fn what_is_to_be_sent_at_once_is_sealed_for_the_route_and_says_so() {
    let mut site = Site::new().await;
    site.hear(Flags::SINGLE_TX, 4000);
    let sent = site.dispatch.send(plain(&site, 0)).await.unwrap();
    assert_eq!((sent.status, sent.attempts), (MessageStatus::Sent, 1));
    assert_eq!(site.dispatch.message(sent.id).await.unwrap().as_ref(), Some(&sent), "whoever looks now finds it so");
    let route = serde_json::to_value(sent.route.unwrap()).unwrap();
    assert_eq!(route["udp"]["address"], "192.0.2.1:4000");
    assert!(sent.note.unwrap().contains("said that nothing follows soon"));
    assert_eq!(site.dispatch.waiting(), 0);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_the_reason_and_nothing_stays_of_it() {
    let mut site = Site::new().await;
    let refused = async |new| site.dispatch.send(new).await.unwrap_err();
    let unknown = DeviceId(1);
    assert_eq!(refused(NewMessage { device: unknown, ..call(&site, 0) }).await, SendError::UnknownDevice(unknown));
    // As the configuration file alone does.
    site.table.register(unknown, site.clock.now());
    assert_eq!(
        refused(NewMessage { device: unknown, ..call(&site, HOUR_MS) }).await,
        SendError::UnknownDevice(unknown)
    );
    assert_eq!(refused(call(&site, 0)).await, SendError::NoRoute(DEVICE));
    let long = |len| NewMessage { payload: vec![0; len].into(), ..plain(&site, HOUR_MS) };
    assert_eq!(refused(long(511)).await, SendError::TooLong { len: 549, limit: 548 });
    let withdrawn = site.dispatch.send(long(510)).await.unwrap();
    assert_eq!(site.dispatch.withdraw(withdrawn.id).await, Ok(Some(true)));

    site.hear(0, 4000);
    let refused = async |new| site.dispatch.send(new).await.unwrap_err();
    let level = NewMessage { sealing: Sealing::Device, ..call(&site, 0) };
    assert_eq!(refused(level).await, SendError::NoKey(DEVICE));
    let before = site.table.cursor(DEVICE);
    site.hear(0, 4001);
    let cursor = site.table.cursor(DEVICE);
    let bound = |if_route| NewMessage { if_route: Some(if_route), ..call(&site, HOUR_MS) };
    assert_eq!(site.dispatch.send(bound(before)).await.unwrap_err(), SendError::RouteMoved { cursor });
    let message = site.dispatch.send(bound(cursor)).await.unwrap();
    assert_eq!(site.dispatch.withdraw(message.id).await, Ok(Some(true)));
    let all = site.dispatch.0.registry.messages_to_send(0, 10).await.unwrap();
    assert!(all.is_empty(), "{all:?}");
}

#[tokio::test]
async fn what_waits_too_long_expires_on_time_and_can_still_be_taken_back() {
    let mut site = Site::new().await;
    let mut outcomes = site.dispatch.outcomes();
    let long = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    let begun = Instant::now();
    let short = site.dispatch.send(call(&site, 50)).await.unwrap();
    let expired = timeout(PATIENCE, outcomes.recv()).await.unwrap().unwrap().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(40), "{:?}", begun.elapsed());
    assert_eq!((expired.message.n, expired.message.status, expired.is_final), (short.n, MessageStatus::Waiting, true));
    assert_eq!((site.counted(MessageEvent::Expired), site.dispatch.waiting()), (1, 1));
    site.hear(0, 4000);
    assert_eq!(site.release(), [long.n]);
    assert_eq!(site.dispatch.withdraw(short.id).await, Ok(Some(true)));
    assert_eq!(site.dispatch.withdraw(short.id).await, Ok(None));
}

#[tokio::test]
async fn what_was_sent_cannot_be_taken_back_whether_that_is_written_down_or_not() {
    let mut site = Site::new().await;
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    site.hear(0, 4000);
    assert_eq!(site.release().len(), 1);
    assert_eq!(site.dispatch.withdraw(message.id).await, Ok(Some(false)));
    let deadline = Instant::now() + Duration::from_millis(1);
    assert!(site.dispatch.wait_for_outcome(message.clone(), deadline).await.unwrap().is_some());
    assert_eq!(site.dispatch.withdraw(message.id).await, Ok(Some(false)));
}

#[tokio::test]
async fn what_waits_in_the_registry_alone_can_be_taken_back() {
    let site = Site::new().await;
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    // As where there was no room for it when the gateway started.
    site.downlinks.outbox.forget(DEVICE);
    assert_eq!(site.dispatch.withdraw(message.id).await, Ok(Some(true)));
    assert_eq!(site.dispatch.message(message.id).await, Ok(None));
}

#[tokio::test]
async fn a_call_that_is_sent_until_it_is_answered_cannot_be_taken_back_once_it_was_sent_nor_after_a_restart() {
    let mut site = Site::new().await;
    let new = NewMessage { retry: Retry::UntilAnswered, ..call(&site, HOUR_MS) };
    let message = site.dispatch.send(new).await.unwrap();
    site.hear(0, 4000);
    assert_eq!(site.release(), [message.n]);
    assert_eq!(site.dispatch.withdraw(message.id).await, Ok(Some(false)));
    let mut site = site.restart(true, 0).await;
    assert_eq!((site.dispatch.waiting(), site.dispatch.calls()), (1, 1));
    assert_eq!(site.dispatch.withdraw(message.id).await, Ok(Some(false)));
    site.hear(0, 4000);
    let mut response = Vec::new();
    let request_id = message.call.unwrap().request_id;
    Response { request_id, command_id: 5, return_code: 3, body: &[] }.encode(&mut response);
    let route = site.table.send_route(DEVICE, site.clock.now()).unwrap().route;
    assert_eq!(site.downlinks.outbox.answer(DEVICE, Level::Network, &response, site.clock.now(), route), Heard::Taken);
    let completed = site.outcome(&message).await;
    assert_eq!((completed.status, completed.answer.unwrap().return_code), (MessageStatus::Completed, 3));
    assert!(site.release().is_empty());
}

#[tokio::test]
async fn what_is_to_be_sent_at_once_is_not_sent_to_a_route_that_has_moved_while_it_was_written_down() {
    let mut site = Site::new().await;
    site.hear(0, 4000);
    let before = site.table.cursor(DEVICE);
    let message = Message { if_route: Some(before), send_wait_timeout_ms: 0, ..super::testing::message() };
    site.hear(0, 4001);
    let refused = site.dispatch.0.send_now(DEVICE, &intents::of(&message, None));
    assert_eq!(refused, Err(SendError::RouteMoved { cursor: site.table.cursor(DEVICE) }));
}

#[tokio::test]
async fn who_waits_for_a_message_that_is_taken_back_learns_that_it_is_gone() {
    let site = Site::new().await;
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    let (id, n) = (message.id, message.n);
    let mut outcomes = site.dispatch.outcomes();
    let (dispatch, deadline) = (site.dispatch.clone(), Instant::now() + PATIENCE);
    let waiting = tokio::spawn(async move { dispatch.wait_for_outcome(message, deadline).await });
    while !site.dispatch.0.outcomes.is_awaited(n) {
        tokio::task::yield_now().await;
    }
    assert_eq!(site.dispatch.withdraw(id).await, Ok(Some(true)));
    assert!(waiting.await.unwrap().unwrap().is_none());
    let told = outcomes.recv().await.unwrap().unwrap();
    assert!(told.is_withdrawn && told.is_final && told.message.n == n);
}

#[tokio::test]
async fn after_a_restart_what_waits_still_waits_in_order() {
    for clean in [true, false] {
        let mut site = Site::new().await;
        let mut numbers = Vec::new();
        for _ in 0..3 {
            numbers.push(site.dispatch.send(call(&site, HOUR_MS)).await.unwrap().n);
        }
        let gone = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
        assert_eq!(site.dispatch.withdraw(gone.id).await, Ok(Some(true)));
        site.hear(0, 4000);
        let mut site = site.restart(clean, 0).await;
        assert_eq!(site.dispatch.waiting(), 3, "clean: {clean}");
        site.hear(0, 4000);
        assert_eq!(site.release(), numbers);
    }
}

#[tokio::test]
async fn what_was_sent_before_a_clean_stop_is_written_down_and_not_sent_again() {
    let mut site = Site::new().await;
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    site.hear(0, 4000);
    assert_eq!(site.release(), [message.n]);
    let mut site = site.restart(true, 0).await;
    site.hear(0, 4000);
    assert!(site.release().is_empty());
    assert_eq!(site.dispatch.0.registry.message(message.id).await.unwrap().unwrap().status, MessageStatus::Sent);
}

#[tokio::test]
async fn nothing_is_sealed_in_the_time_that_an_earlier_process_reserved() {
    let allowed = |site: &Site, ahead: u32| site.downlinks.allowance.allows(site.clock.now().gps() + ahead);
    let site = Site::new().await;
    assert!(allowed(&site, 0) && !allowed(&site, 60));
    let site = site.restart(true, 0).await;
    assert!(allowed(&site, 0), "it waits for the second after the last that was used before it begins");
    let killed_at = site.clock.now().gps();
    let site = site.restart(false, 0).await;
    assert!(!allowed(&site, 0));
    assert!((killed_at..killed_at + 5).all(|gps| !site.downlinks.allowance.allows(gps)));

    // An hour earlier: what was reserved lies an hour ahead, and nobody waits for it.
    let site = site.restart(false, -3600).await;
    assert!(allowed(&site, 0));
    let reserved = site.dispatch.0.registry.reserved_time().await.unwrap().unwrap();
    assert!(reserved.before <= killed_at && reserved.clock_turns == 1);
    let site = site.restart(true, -7200).await;
    let reserved = site.dispatch.0.registry.reserved_time().await.unwrap().unwrap();
    assert_eq!(reserved.clock_turns, 2, "a clean stop does not give back time that others have used");
}

#[tokio::test]
async fn where_the_clock_is_set_back_sequences_move_instead_of_messages_waiting() {
    let mut site = Site::new().await;
    site.hear(0, 4000);
    let now = site.clock.now().gps();
    site.downlinks.allowance.start(now + 3600);
    let before = site.table.next_downlink_sequence(DEVICE).unwrap();
    site.dispatch.0.reserve().await.unwrap();
    assert_eq!(site.table.next_downlink_sequence(DEVICE).unwrap().wrapping_sub(before), 1025);
    assert!((now..now + 30).contains(&site.downlinks.allowance.from()), "at once");
    site.dispatch.0.reserve().await.unwrap();
    let site = site.restart(false, 0).await;
    let reserved = site.dispatch.0.registry.reserved_time().await.unwrap().unwrap();
    assert_eq!(reserved.clock_turns, 1, "once, and not forgotten");
}

/// Takes all the nonces it can in the next seconds, and finds none that was used.
fn use_nonces(site: &Site, used: &mut HashSet<(u32, u16)>) {
    let now = site.clock.now().gps();
    for gps in (now..now + 15).filter(|gps| site.downlinks.allowance.allows(*gps)) {
        for _ in 0..3 {
            let sequence = site.table.next_downlink_sequence(DEVICE).unwrap();
            assert!(used.insert((gps, sequence)), "{gps} {sequence} a second time");
        }
    }
}

#[tokio::test]
async fn r11_no_nonce_is_used_again_when_the_clock_steps_between_restarts_or_not() {
    for by in [3600, -3600, 86_400, -86_400, -5] {
        let (mut used, mut site) = (HashSet::new(), Site::new().await);
        site.hear(0, 4000);
        use_nonces(&site, &mut used);
        // There and back, within one process.
        for step in [by, -by, by] {
            site.clock.set_system(step * 1000);
            for _ in 0..3 {
                use_nonces(&site, &mut used);
                site.dispatch.0.reserve().await.unwrap();
            }
        }
        // The same sequences of the device, so that downlinks would begin with the same ones again.
        for (clean, offset) in [(true, by), (false, by), (true, 0), (false, 0), (true, by), (false, 0)] {
            site = site.restart(clean, offset).await;
            assert!(!clean || site.downlinks.allowance.allows(site.clock.now().gps()), "at once: {by} {offset}");
            site.hear(0, 4000);
            let before = used.len();
            for _ in 0..4 {
                use_nonces(&site, &mut used);
                site.dispatch.0.reserve().await.unwrap();
                site.clock.set_system(3_000);
            }
            assert!(used.len() > before, "it goes on: {by} {clean} {offset}");
        }
    }
}

#[tokio::test]
async fn nothing_is_accepted_while_the_registry_has_as_much_as_it_may() {
    let site = Site::with(DispatchConfig { registry_limit: 1, ..DispatchConfig::default() }).await;
    while site.dispatch.0.stored.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(site.dispatch.send(call(&site, HOUR_MS)).await.unwrap_err(), SendError::Stored);
}

#[tokio::test]
async fn a_late_answer_completes_the_call_it_fits_and_no_other() {
    let mut site = Site::new().await;
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    site.hear(0, 4000);
    site.release();
    let fits = site.answer(&message, 0);
    let late = |answer| Event::LateAnswer { device: DEVICE, answer };
    let other_command = Answer { command_id: 6, ..fits.clone() };
    let other_call = Answer { request_id: fits.request_id ^ 1, ..fits.clone() };
    let of_another = Event::LateAnswer { device: DeviceId(1), answer: fits.clone() };
    for event in [late(other_command), late(other_call), of_another, late(fits.clone())] {
        site.downlinks.events.send(event);
    }
    let completed = site.outcome(&message).await;
    assert_eq!((completed.status, completed.answer.unwrap().body), (MessageStatus::Completed, [1, 2].into()));
    site.downlinks.events.send(late(fits));
    let site = site.restart(true, 0).await;
    let completed = site.outcome(&message).await;
    assert_eq!(completed.status, MessageStatus::Completed);
}

#[tokio::test]
async fn a_late_answer_to_what_was_never_sent_changes_nothing() {
    let mut site = Site::new().await;
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    site.hear(0, 4000);
    let answer = site.answer(&message, 0);
    site.downlinks.events.send(Event::LateAnswer { device: DEVICE, answer });
    // Another one, whose outcome says that the first was looked at.
    let next = site.dispatch.send(plain(&site, 0)).await.unwrap();
    assert_eq!(next.status, MessageStatus::Sent);
    let site = site.restart(true, 0).await;
    assert_eq!(site.dispatch.message(message.id).await.unwrap().unwrap().status, MessageStatus::Waiting);
}

#[tokio::test]
async fn late_answers_are_counted_by_what_came_of_them() {
    let mut site = Site::new().await;
    let message = site.dispatch.send(call(&site, HOUR_MS)).await.unwrap();
    site.hear(0, 4000);
    site.release();
    let fits = site.answer(&message, 0);
    let forged = Answer { command_id: 6, ..fits.clone() };
    let unknown = Answer { request_id: fits.request_id ^ 1, ..fits.clone() };
    for answer in [forged, unknown, fits] {
        site.downlinks.events.send(Event::LateAnswer { device: DEVICE, answer });
    }
    site.outcome(&message).await;
    let counted: Vec<_> = site.dispatch.counters().late_answers().collect();
    assert_eq!(counted, LateAnswer::ALL.map(|result| (result.label(), u64::from(result != LateAnswer::Dropped))));
}

#[tokio::test]
async fn on_the_next_packet_comes_back_with_the_answer() {
    let mut site = Site::new().await;
    let new = call(&site, HOUR_MS);
    let dispatch = site.dispatch.clone();
    let sending = tokio::spawn(async move { dispatch.send_on_next_packet(new, PATIENCE).await });
    while site.dispatch.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    site.hear(0, 4000);
    let n = site.release()[0];
    let message = site.dispatch.0.registry.message_numbered(n).await.unwrap().unwrap();
    let answer = site.answer(&message, 7);
    site.downlinks.events.send(Event::Answered { device: DEVICE, message: n, answer, data: Some(vec![9].into()) });
    let message = sending.await.unwrap().unwrap();
    assert_eq!((message.status, message.received_len), (MessageStatus::Completed, Some(1)));
    assert_eq!(site.dispatch.data(message.id).await.unwrap().as_deref(), Some(&[9][..]));
}

#[tokio::test]
async fn on_the_next_packet_does_not_wait_for_an_answer_longer_than_told() {
    let mut site = Site::new().await;
    let new = call(&site, HOUR_MS);
    let dispatch = site.dispatch.clone();
    let sending = tokio::spawn(async move { dispatch.send_on_next_packet(new, Duration::from_millis(20)).await });
    while site.dispatch.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!sending.is_finished());
    site.hear(0, 4000);
    site.release();
    assert_eq!(timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap().status, MessageStatus::Sent);
}

#[tokio::test]
async fn a_request_id_is_31_bits_and_never_that_of_the_last_call() {
    let site = Site::new().await;
    let ids: Vec<_> = (0..3).map(|_| site.dispatch.request_id()).collect();
    assert!(ids.iter().all(|id| *id <= u32::MAX >> 1) && ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}
