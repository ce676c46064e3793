//! Messages: that each is accepted for itself, lasts, and goes with its device; what is kept beside them.

use lastroute::downlink::event::Received;
use lastroute::downlink::intent::{Intent, Retry, Sealing};
use lastroute::records::message::{Message, MessageAnswer, MessageCall, MessageChange, MessageStatus, NewMessage};
use lastroute::records::route::UplinkRoute;
use lastroute::registry::Registrar;
use lastroute::registry::messages::{MessageFilter, MessageOrder};
use lastroute::registry::reservation::Reserved;
use lastroute::status::Time;
use lastroute::table::route::{DirectRoute, Route, Trust};
use lastroute::wire::rpc::DataHeader;

use super::*;

/// A call to a device that waits so many milliseconds.
pub(crate) fn new_call(device: u64, request_id: u32, wait_ms: u64) -> NewMessage {
    NewMessage {
        device: DeviceId(device),
        packet_type: PacketType::RPC_CMD,
        sealing: Sealing::Best,
        call: Some(MessageCall { request_id, command_id: 9, data: None }),
        payload: Arc::from(&[1, 2, 3][..]),
        data: None,
        send_wait_timeout_ms: wait_ms,
        retry: Retry::Never,
        if_route: None,
    }
}

pub(crate) fn new_answer(code: i16) -> MessageAnswer {
    let route = Route::Direct(DirectRoute {
        address: ([192, 0, 2, 1], 4000).into(),
        received_at: Timestamp(1_795_402_800_123),
        sequence: 7,
        trust: Trust::Device,
    });
    MessageAnswer { route: UplinkRoute::from(&route), return_code: code, body: Box::new([5, 6]) }
}

/// A registry with devices 1 to `count`.
pub(crate) async fn with_devices(count: u64) -> Site {
    let site = Site::new().await;
    let (_, board) = site.owner().await;
    for number in 1..=count {
        site.registry.create_device(&new_device(&board, number), Registrar::OfAll).await.unwrap();
    }
    site
}

async fn all(site: &Site) -> Vec<Message> {
    let page = Page { descending: false, ..ALL };
    site.registry.messages(&MessageFilter::default(), MessageOrder::CreatedAt, page).await.unwrap()
}

#[tokio::test]
async fn of_many_messages_at_once_each_is_accepted_for_itself_and_one_to_an_unknown_device_fails_alone() {
    let site = with_devices(3).await;
    let mut callers = Vec::new();
    for at in 0..1200_u32 {
        let (registry, device) = (site.registry.clone(), if at == 600 { 99 } else { u64::from(at % 3) + 1 });
        callers.push(tokio::spawn(async move { registry.add_message(new_call(device, at, 60_000)).await }));
    }
    let mut accepted = Vec::new();
    for (at, caller) in (0_u32..).zip(callers) {
        match caller.await.unwrap() {
            Ok(message) => {
                assert_eq!((message.call.unwrap().request_id, message.device.device_id.0), (at, u64::from(at % 3) + 1));
                accepted.push(message);
            }
            Err(error) => {
                assert_eq!(at, 600);
                assert_eq!(error, RegistryError::NotFound { kind: "device", id: DeviceId(99).to_string() });
            }
        }
    }
    accepted.sort_by_key(|message| message.n);
    assert_eq!(accepted.iter().map(|message| message.n).collect::<Vec<_>>(), (1..=1199).collect::<Vec<i64>>());
    assert!(accepted.is_sorted_by(|one, next| one.downlink_id < one.id && one.id < next.downlink_id));
    assert_eq!(all(&site).await, accepted);
    let site = site.restart(0).await;
    assert_eq!(all(&site).await, accepted);
}

#[tokio::test]
async fn a_message_whose_caller_has_gone_away_is_written_and_harms_no_other() {
    let site = with_devices(1).await;
    let gone = tokio::spawn({
        let registry = site.registry.clone();
        async move { registry.add_message(new_call(1, 1, 60_000)).await }
    });
    tokio::task::yield_now().await;
    gone.abort();
    let second = site.registry.add_message(new_call(1, 2, 60_000)).await.unwrap();
    assert_eq!(site.registry.message(second.id).await.unwrap(), Some(second));
    let found = site.registry.message_of_call(DeviceId(1), 1).await.unwrap();
    assert_eq!(found.map(|message| message.n), Some(1));
}

#[tokio::test]
async fn ids_rise_also_when_the_clock_is_set_back_over_a_restart() {
    let site = with_devices(1).await;
    let first = site.registry.add_message(new_call(1, 1, 0)).await.unwrap();
    let site = site.restart(-86_400).await;
    let second = site.registry.add_message(new_call(1, 2, 0)).await.unwrap();
    assert!(second.id > first.id && second.n > first.n && second.created_at < first.created_at);
}

#[tokio::test]
async fn data_goes_with_a_message_until_it_is_answered_and_what_came_is_found_then() {
    let site = with_devices(1).await;
    let data: Arc<[u8]> = vec![7; 100_000].into();
    let call =
        MessageCall { request_id: 1, command_id: 40, data: Some(DataHeader { size: 100_000, rx_ack_period: 4 }) };
    let new = NewMessage { call: Some(call), data: Some(data.clone()), ..new_call(1, 1, 60_000) };
    let message = site.registry.add_message(new).await.unwrap();
    assert_eq!((message.data_len, message.received_len), (Some(100_000), None));
    let site = site.restart(0).await;
    assert_eq!(site.registry.messages_to_send(0, 10).await.unwrap(), [(message.clone(), Some(data))]);
    assert_eq!(site.registry.message_data(message.id).await.unwrap(), None);
    let received: Received = vec![9; 3].into();
    let at = message.created_at;
    let answered = |data| MessageChange::Answered { n: message.n, at, answer: new_answer(0), data };
    let twice = vec![answered(Some(received.clone())), answered(None)];
    site.registry.change_messages(twice).await.unwrap();
    let message = site.registry.message(message.id).await.unwrap().unwrap();
    assert_eq!(
        (message.status, message.data_len, message.received_len),
        (MessageStatus::Completed, Some(100_000), Some(3))
    );
    assert_eq!(site.registry.message_data(message.id).await.unwrap(), Some((*received).into()));
    assert_eq!(site.registry.messages_to_send(0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_deleted_device_takes_its_messages_with_it_also_what_waits_in_memory() {
    let site = with_devices(2).await;
    let mut made = Vec::new();
    for device in [1, 2] {
        let data = Some(Arc::from(&[1][..]));
        made.push(site.registry.add_message(NewMessage { data, ..new_call(device, 1, 60_000) }).await.unwrap());
        let intent = Intent {
            message: made[made.len() - 1].n,
            packet_type: PacketType::ECHO_REQ,
            sealing: Sealing::Best,
            payload: Arc::from(&[1][..]),
            call: None,
            expires_at: Some(Timestamp(u64::MAX)),
            retry: Retry::Never,
            if_route: None,
        };
        site.live.downlinks.outbox.add(DeviceId(device), intent).unwrap();
    }
    site.registry.delete_device(made[0].device.id).await.unwrap();
    assert_eq!(all(&site).await, made[1..]);
    let waiting = [1, 2].map(|device| site.live.downlinks.outbox.waiting_for(DeviceId(device)));
    assert_eq!(waiting, [0, 1]);
    // What is told of it later is of no message.
    let late = MessageChange::Answered {
        n: made[0].n,
        at: made[0].created_at,
        answer: new_answer(0),
        data: Some(vec![1].into()),
    };
    site.registry.change_messages(vec![late]).await.unwrap();
    assert_eq!(site.registry.message(made[0].id).await.unwrap(), None);
}

#[tokio::test]
async fn messages_are_forgotten_by_age_but_for_those_that_are_still_to_be_sent() {
    let site = with_devices(1).await;
    let waits = [0, 1_000_000, 100_000_000];
    let mut made = Vec::new();
    for (request_id, wait_ms) in (0..).zip(waits) {
        made.push(site.registry.add_message(new_call(1, request_id, wait_ms)).await.unwrap());
    }
    let before = made[0].created_at.0;
    assert_eq!(site.registry.forget_messages(before).await.unwrap(), 0);
    let site = site.restart(2000).await;
    let after = made[2].created_at.0.after(std::time::Duration::from_secs(1));
    assert_eq!(site.registry.forget_messages(after).await.unwrap(), 2);
    assert_eq!(all(&site).await, made[2..]);
    let drop = MessageChange::Dropped { n: made[2].n, at: Time(after), note: "no use".to_owned() };
    site.registry.change_messages(vec![drop]).await.unwrap();
    assert_eq!(site.registry.forget_messages(after).await.unwrap(), 1);
}

#[tokio::test]
async fn the_reserved_second_is_found_again() {
    let site = Site::new().await;
    assert_eq!(site.registry.reserved_time().await.unwrap(), None);
    let last = Reserved { before: 5, clock_turns: 70_000 };
    for reserved in [Reserved { before: u32::MAX, clock_turns: 0 }, last] {
        site.registry.reserve_time(reserved).await.unwrap();
        assert_eq!(site.registry.reserved_time().await.unwrap(), Some(reserved));
    }
    let site = site.restart(0).await;
    assert_eq!(site.registry.reserved_time().await.unwrap(), Some(last));
}

#[tokio::test]
async fn a_page_of_too_many_bytes_is_refused() {
    let site = with_devices(1).await;
    // More than there may be on a page, all in answers.
    let body = || vec![0; 33 * 1024 * 1024].into();
    for request_id in 0..2 {
        let message = site.registry.add_message(new_call(1, request_id, 0)).await.unwrap();
        let answer = MessageAnswer { body: body(), ..new_answer(0) };
        let change = MessageChange::Answered { n: message.n, at: message.created_at, answer, data: None };
        site.registry.change_messages(vec![change]).await.unwrap();
    }
    let list = async |limit| {
        let page = Page { limit, ..ALL };
        site.registry.messages(&MessageFilter::default(), MessageOrder::CreatedAt, page).await.map(|found| found.len())
    };
    assert_eq!((list(1).await, list(2).await), (Ok(1), Err(RegistryError::PageTooLong)));
}
