//! Random histories of messages against a plain list.

use std::cmp::Ordering;

use fastrand::Rng;
use lastroute::downlink::event::Way;
use lastroute::downlink::intent::{Retry, Sealing};
use lastroute::id::Cursor;
use lastroute::records::message::{Message, MessageCall, MessageChange, MessageStatus, NewMessage};
use lastroute::records::route::DownlinkRoute;
use lastroute::registry::messages::{MessageFilter, MessageOrder};
use lastroute::status::Time;
use lastroute::wire::frame::Level;

use super::messages::{new_answer, new_call, with_devices};
use super::*;

const ORDERS: [MessageOrder; 8] = [
    MessageOrder::CommandId,
    MessageOrder::CompletedAt,
    MessageOrder::CreatedAt,
    MessageOrder::DeviceId,
    MessageOrder::ExpiresAt,
    MessageOrder::SentAt,
    MessageOrder::Status,
    MessageOrder::UpdatedAt,
];

/// Far above what a test takes: only a restart lets them expire.
const LONG_MS: u64 = 1_000_000;

struct Model {
    messages: Vec<Message>,
    /// Those that are stopped for good although they have not expired.
    stopped: HashSet<i64>,
    random: Rng,
    clock: Clock,
}

impl Model {
    fn any(&mut self) -> Option<Message> {
        let len = self.messages.len();
        (len > 0).then(|| self.messages[self.random.usize(..len)].clone())
    }

    fn new_message(&mut self) -> NewMessage {
        let random = &mut self.random;
        let (device, request_id) = (random.u64(1..5), random.u32(..6));
        let call = MessageCall { request_id, command_id: random.u16(1..4), data: None };
        let is_call = random.u8(..4) > 0;
        NewMessage {
            packet_type: if is_call { PacketType::RPC_CMD } else { PacketType(200) },
            sealing: [Sealing::Best, Sealing::Network, Sealing::Device][random.usize(..3)],
            call: is_call.then_some(call),
            payload: vec![random.u8(..); random.usize(..9)].into(),
            retry: if random.bool() { Retry::Never } else { Retry::UntilAnswered },
            if_route: random.bool().then(|| Cursor { epoch: random.u64(..), n: random.u64(..) }),
            ..new_call(device, request_id, [0, LONG_MS, 3 * LONG_MS][random.usize(..3)])
        }
    }

    fn change(&mut self) -> Option<MessageChange> {
        // Not ahead of the clock, or it would be chance whether one that is dropped has expired when somebody looks.
        let (n, at) = (self.any()?.n, Time(Timestamp(self.clock.now().0 - self.random.u64(..50))));
        let level = if self.random.bool() { Level::Device } else { Level::Network };
        let (sequence, address) = (self.random.u16(..), ([192, 0, 2, 1], 4000).into());
        let route = DownlinkRoute::from(&Way { sequence, level, address, relay: None });
        let note = self.random.bool().then(|| "said".to_owned());
        Some(match self.random.u8(..4) {
            0 => MessageChange::Sent { n, at, level, route, note },
            1 => MessageChange::Dropped { n, at, note: format!("why {sequence}") },
            2 => MessageChange::Answered { n, at, answer: new_answer(self.random.i16(..)), data: None },
            _ => MessageChange::Terminated { n, at, reason: self.random.i16(..) },
        })
    }

    fn apply(&mut self, change: &MessageChange) {
        let n = match change {
            MessageChange::Sent { n, .. }
            | MessageChange::Dropped { n, .. }
            | MessageChange::Answered { n, .. }
            | MessageChange::Terminated { n, .. } => *n,
        };
        let Some(message) = self.messages.iter_mut().find(|message| message.n == n) else { return };
        let is_completed = message.status == MessageStatus::Completed;
        let at = match change.clone() {
            MessageChange::Sent { at, .. }
                if message.sent_at.is_some() && (is_completed || message.sent_at == Some(at)) =>
            {
                return;
            }
            MessageChange::Sent { at, level, route, note, .. } => {
                if !is_completed {
                    message.status = MessageStatus::Sent;
                }
                (message.sent_at, message.level, message.route, message.note) =
                    (Some(at), Some(level), Some(route), note);
                message.attempts += 1;
                at
            }
            MessageChange::Dropped { at, note, .. } => {
                self.stopped.insert(n);
                if message.status != MessageStatus::Waiting {
                    return;
                }
                (message.expires_at, message.note) = (at, Some(note));
                at
            }
            MessageChange::Answered { .. } if is_completed => return,
            MessageChange::Answered { at, answer, .. } => {
                (message.status, message.completed_at, message.answer) =
                    (MessageStatus::Completed, Some(at), Some(answer));
                at
            }
            MessageChange::Terminated { at, reason, .. } => {
                message.terminated = Some(reason);
                at
            }
        };
        message.updated_at = message.updated_at.max(at);
    }

    fn filter(&mut self, owner: uuid::Uuid) -> MessageFilter {
        let some = self.any().map(|message| message.created_at.0);
        let random = &mut self.random;
        let statuses = [MessageStatus::Waiting, MessageStatus::Sent, MessageStatus::Completed];
        MessageFilter {
            organisation: random.bool().then_some(if random.u8(..8) == 0 { uuid::Uuid::nil() } else { owner }),
            device: (random.u8(..3) == 0).then(|| DeviceId(random.u64(1..5))),
            status: (random.u8(..3) == 0).then(|| statuses[random.usize(..3)]),
            from: some.filter(|_| random.u8(..4) == 0),
            to: some.filter(|_| random.u8(..4) == 0),
            command_id: (random.u8(..4) == 0).then(|| random.u16(1..4)),
            hide_expired: random.bool(),
            calls_only: random.bool(),
        }
    }

    fn passes(&self, filter: &MessageFilter, message: &Message) -> bool {
        let expired = message.status == MessageStatus::Waiting && message.expires_at.0 <= self.clock.now();
        filter.organisation.is_none_or(|id| message.device.organisation_id == id)
            && filter.device.is_none_or(|id| message.device.device_id == id)
            && filter.status.is_none_or(|status| message.status == status)
            && filter.from.is_none_or(|from| message.created_at.0 >= from)
            && filter.to.is_none_or(|to| message.created_at.0 <= to)
            && filter.command_id.is_none_or(|id| message.call.is_some_and(|call| call.command_id == id))
            && !(filter.calls_only && message.call.is_none())
            && !(filter.hide_expired && expired)
    }

    fn list(&self, filter: &MessageFilter, order: MessageOrder, page: Page) -> Vec<Message> {
        let mut found: Vec<_> = self.messages.iter().filter(|message| self.passes(filter, message)).cloned().collect();
        found.sort_by(|one, other| compare(order, one, other));
        if page.descending {
            found.reverse();
        }
        found.into_iter().skip(page.offset as usize).take(page.limit as usize).collect()
    }

    fn to_send(&self, after: i64, limit: usize) -> Vec<i64> {
        let now = self.clock.now();
        let waits = |message: &&Message| {
            let may_go = match (message.status, message.retry) {
                (MessageStatus::Waiting, _) | (MessageStatus::Sent, Retry::UntilAnswered) => true,
                (MessageStatus::Sent, Retry::Never) | (MessageStatus::Completed, _) => false,
            };
            may_go && message.n > after && message.expires_at.0 > now && !self.stopped.contains(&message.n)
        };
        self.messages.iter().filter(waits).map(|message| message.n).take(limit).collect()
    }
}

fn compare(order: MessageOrder, one: &Message, other: &Message) -> Ordering {
    let command = |message: &Message| message.call.map(|call| call.command_id);
    let by = match order {
        MessageOrder::CommandId => command(one).cmp(&command(other)),
        MessageOrder::CompletedAt => one.completed_at.cmp(&other.completed_at),
        MessageOrder::CreatedAt => Ordering::Equal,
        MessageOrder::DeviceId => one.device.device_id.cmp(&other.device.device_id),
        MessageOrder::ExpiresAt => one.expires_at.cmp(&other.expires_at),
        MessageOrder::SentAt => one.sent_at.cmp(&other.sent_at),
        // In the order of their names.
        MessageOrder::Status => other.status.cmp(&one.status),
        MessageOrder::UpdatedAt => one.updated_at.cmp(&other.updated_at),
    };
    by.then(one.n.cmp(&other.n))
}

async fn add(site: &Site, model: &mut Model) {
    let new = model.new_message();
    match site.registry.add_message(new.clone()).await {
        Ok(message) => {
            assert_eq!((message.payload.clone(), message.call, message.retry), (new.payload, new.call, new.retry));
            assert_eq!((message.if_route, message.sealing), (new.if_route, new.sealing));
            assert_eq!(message.expires_at.0.0, message.created_at.0.0 + new.send_wait_timeout_ms);
            model.messages.push(message);
        }
        Err(error) => {
            assert_eq!((new.device, error.to_string()), (DeviceId(4), format!("there is no device {}", new.device)))
        }
    }
}

async fn withdraw(site: &Site, model: &mut Model) {
    let Some(message) = model.any() else { return };
    let waits = message.status == MessageStatus::Waiting;
    assert_eq!(site.registry.withdraw_message(message.id).await.unwrap(), waits);
    if waits {
        model.messages.retain(|known| known.n != message.n);
        assert!(!site.registry.withdraw_message(message.id).await.unwrap());
    }
}

async fn look(site: &Site, model: &mut Model, owner: uuid::Uuid) {
    for order in ORDERS {
        let filter = model.filter(owner);
        let (limit, offset, descending) = (model.random.u32(1..40), model.random.u64(..9), model.random.bool());
        let page = Page { limit, offset, descending };
        let found = site.registry.messages(&filter, order, page).await.unwrap();
        assert_eq!(found, model.list(&filter, order, page), "{filter:?} {order:?} {page:?}");
    }
    let (after, limit) = (model.random.i64(..40), model.random.u32(1..20));
    let found = site.registry.messages_to_send(after, limit).await.unwrap();
    let found: Vec<_> = found.iter().map(|(message, _)| message.n).collect();
    assert_eq!(found, model.to_send(after, limit as usize));
    let Some(message) = model.any() else { return };
    assert_eq!(site.registry.message_numbered(message.n).await.unwrap(), Some(message.clone()));
    let Some(call) = message.call else { return };
    let same = |known: &&Message| {
        known.device == message.device && known.call.is_some_and(|known| known.request_id == call.request_id)
    };
    let found = site.registry.message_of_call(message.device.device_id, call.request_id).await.unwrap();
    assert_eq!(found.as_ref(), model.messages.iter().rfind(same));
}

#[tokio::test]
async fn random_histories_of_messages_are_those_of_a_plain_list() {
    for seed in 0..4 {
        let mut site = with_devices(3).await;
        let owner = site.registry.organisation_named("acme").await.unwrap().unwrap().id;
        let random = Rng::with_seed(seed);
        let mut model = Model { messages: Vec::new(), stopped: HashSet::new(), random, clock: Clock::default() };
        let mut offset = 0;
        for step in 0..200 {
            match model.random.u8(..10) {
                0..4 => add(&site, &mut model).await,
                4..8 => {
                    let mut changes: Vec<_> = (0..model.random.usize(1..4)).filter_map(|_| model.change()).collect();
                    if model.random.bool() {
                        // Told again.
                        changes.extend(changes.last().cloned());
                    }
                    site.registry.change_messages(changes.clone()).await.unwrap();
                    changes.iter().for_each(|change| model.apply(change));
                }
                8 => withdraw(&site, &mut model).await,
                _ => look(&site, &mut model, owner).await,
            }
            if step % 50 == 49 {
                offset += LONG_MS.cast_signed() / 1000 + 500;
                site = site.restart(offset).await;
                model.clock = Clock::with_offset_seconds(offset);
                look(&site, &mut model, owner).await;
            }
        }
        assert!(model.messages.len() > 20, "{}", model.messages.len());
    }
}
