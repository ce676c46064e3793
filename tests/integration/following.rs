//! Following devices over HTTP while they speak over UDP.

use lastroute::id::DeviceId;
use serde_json::json;

use crate::harness::{Client, Device, Events, Gateway, PATIENCE};

const ID: DeviceId = DeviceId(7);

/// How many packets the next event stands for. Comments on the way do not make it wait longer.
async fn heard(events: &mut Events) -> u64 {
    let (name, data) = tokio::time::timeout(PATIENCE, events.event()).await.expect("an event in time");
    assert_eq!(name, "packet", "{data}");
    1 + data["missed"].as_u64().unwrap()
}

/// The events from here to a total of `packets`: how many packets were heard after each, and its id.
async fn heard_until(events: &mut Events, mut total: u64, packets: u64) -> Vec<(u64, String)> {
    let mut told = Vec::new();
    while total < packets {
        total += heard(events).await;
        told.push((total, events.last_id.clone().unwrap()));
    }
    assert_eq!(total, packets, "nothing is told twice");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packet_is_followed_in_either_version_and_after_a_break() {
    const PACKETS: u64 = 100;
    let gateway = Gateway::start("");
    for client in [Client::http1(&gateway), Client::h2c(&gateway)] {
        let mut events = client.follow(ID, None).await;
        let mut device = Device::new(7, &gateway).await;
        // A device that goes on where another one was: its sequences continue in a session that is known.
        let begun: u64 = client.cursor(ID).await.split_once('-').unwrap().1.parse().unwrap();
        device.skip(begun as u16);
        let mut heard_so_far = 0;
        for number in 1..=PACKETS {
            device.report(0).await;
            // Every tenth packet is not waited for, so that it may be missed; the last one is.
            if number % 10 == 5 {
                continue;
            }
            if let Some((total, _)) = heard_until(&mut events, heard_so_far, number).await.last() {
                heard_so_far = *total;
            }
            // Cut off every now and then: what comes meanwhile is told afterwards.
            if number % 30 == 0 {
                let last_id = events.last_id.clone().unwrap();
                drop(events);
                events = client.follow(ID, Some(&last_id)).await;
            }
        }
        assert_eq!(heard_so_far, PACKETS);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_followed_across_a_restart_of_the_gateway_is_reset() {
    let first = Gateway::start("");
    let (udp, http) = (first.udp[0], first.http);
    let client = Client::http1(&first);
    let mut events = client.follow(ID, None).await;
    let mut device = Device::new(7, &first).await;
    device.report(0).await;
    assert_eq!(events.event().await.0, "packet");
    first.stop().await;
    assert_eq!(events.next().await, None, "it ends in order");

    let second = Gateway::start(&format!("udp-listen = \"{udp}\"\nhttp-listen = \"{http}\""));
    assert_eq!(second.http, http);
    let mut events = client.follow(ID, events.last_id.as_deref()).await;
    let (name, data) = events.event().await;
    assert_eq!((name.as_str(), &data["reset"], data.get("packet")), ("reset", &json!(true), None));
    device.report(0).await;
    let (name, data) = events.event().await;
    assert_eq!((name.as_str(), &data["packet"]["sequence"], &data["missed"]), ("packet", &json!(2), &json!(0)));
    second.stop().await;
    assert_eq!(events.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_events_unread_goes_on_after_the_last_one_that_was_read() {
    const ROUNDS: u64 = 25;
    const PACKETS: u64 = 8;
    let gateway = Gateway::start("");
    for (id, client) in [(7, Client::http1(&gateway)), (8, Client::h2c(&gateway))] {
        let mut device = Device::new(id, &gateway).await;
        let mut events = client.follow(device.id, None).await;
        // One who reads everything shows that everything was counted, and by then told to the other as well.
        let mut witness = client.follow(device.id, None).await;
        let (mut total, mut left_unread) = (0, 0);
        for round in 1..=ROUNDS {
            for number in 1..=PACKETS {
                device.report(0).await;
                heard_until(&mut witness, (round - 1) * PACKETS + number - 1, (round - 1) * PACKETS + number).await;
            }
            // Some of what has been sent on the connection, from nothing to all of it.
            for _ in 0..round % (PACKETS + 1) {
                if total < round * PACKETS {
                    total += heard(&mut events).await;
                }
            }
            left_unread += round * PACKETS - total;
            let last_id = events.last_id.clone().unwrap();
            drop(events);
            events = client.follow(device.id, Some(&last_id)).await;
        }
        assert!(left_unread > ROUNDS, "{left_unread}");
        heard_until(&mut events, total, ROUNDS * PACKETS).await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_a_place_to_go_on_from_as_often_as_one_likes() {
    const PACKETS: u64 = 6;
    let gateway = Gateway::start("");
    for (id, client) in [(7, Client::http1(&gateway)), (8, Client::h2c(&gateway))] {
        let mut device = Device::new(id, &gateway).await;
        let mut first = client.follow(device.id, None).await;
        let mut places = vec![(0, first.last_id.clone().unwrap())];
        for number in 1..=PACKETS {
            device.report(0).await;
            places.extend(heard_until(&mut first, number - 1, number).await);
        }
        let mut first = Some(first);
        for lives in [true, false] {
            first = first.filter(|_| lives);
            for (total, last_id) in places.iter().filter(|(total, _)| *total < PACKETS) {
                for _ in 0..2 {
                    let mut again = client.follow(device.id, Some(last_id)).await;
                    let unread = again.last_id.clone().unwrap();
                    let told = heard_until(&mut again, *total, PACKETS).await;
                    drop(again);
                    // The stream that went on can be gone on from as well: before its first event, and after its last.
                    let mut third = client.follow(device.id, Some(&unread)).await;
                    assert_eq!(heard_until(&mut third, *total, PACKETS).await.len(), told.len());
                }
            }
        }
        // After the last event there is nothing to tell until the device speaks.
        let mut last = client.follow(device.id, Some(&places[PACKETS as usize].1)).await;
        device.report(0).await;
        heard_until(&mut last, PACKETS, PACKETS + 1).await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_goes_on_takes_nothing_from_the_connection_that_still_lives() {
    let gateway = Gateway::start("");
    for (id, client) in [(7, Client::http1(&gateway)), (8, Client::h2c(&gateway))] {
        let mut device = Device::new(id, &gateway).await;
        let mut old = client.follow(device.id, None).await;
        device.report(0).await;
        let place = heard_until(&mut old, 0, 1).await.remove(0).1;
        device.report(0).await;
        heard_until(&mut old, 1, 2).await;
        let mut new = client.follow(device.id, Some(&place)).await;
        heard_until(&mut new, 1, 2).await;
        for number in 3..=5 {
            device.report(0).await;
            heard_until(&mut old, number - 1, number).await;
            heard_until(&mut new, number - 1, number).await;
        }
    }
    gateway.stop().await;
}
