//! A gateway that is killed with calls waiting, and started again: nothing that was accepted is lost, nothing that was recorded
//! as sent is sent again, and no nonce is used twice.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use lastroute::simulate::Config;

use crate::harness::{Api, Fleet, request_id, seen, sleepers};
use crate::network::{Network, Trouble};
use crate::process::Process;
use crate::wire::SeenCall;

/// Devices that speak to the second process, and those that speak to the third.
const EARLY: u32 = 8;
const ALL: u32 = 12;
/// Calls to each device.
const CALLS: u32 = 25;
/// What was sent so long ago is written down.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Request ids of those calls that are no longer waiting, as the registry has it.
async fn recorded(api: &Api, accepted: &[String]) -> HashSet<u32> {
    let mut recorded = HashSet::new();
    for id in accepted {
        let call = api.call_now(id).await;
        if call["status"] != "waiting" {
            recorded.insert(request_id(&call));
        }
    }
    recorded
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_outlive_kills_and_what_is_recorded_as_sent_is_not_sent_again() {
    // Who comes from elsewhere after a kill is challenged first, six times a minute at most: that is tested by itself.
    let sleepers = |devices| Config { rebind: 0.0, ..sleepers(devices) };
    let fleet = sleepers(ALL);
    let network = Network::start(5, Trouble { lost_up: 0.1, ..Trouble::default() }, seen(&fleet)).await;
    let directory = tempfile::tempdir().unwrap();
    let identities = fleet.identities().unwrap();

    // Killed as soon as the last is accepted, before any device has spoken.
    let first = Process::start(directory.path());
    first.api.register(&identities, |number| number % 2 == 0).await;
    let mut accepted = Vec::new();
    for number in 0..CALLS {
        for identity in &identities {
            accepted.push(first.api.echo(identity.id, &number.to_string(), 600_000).await);
        }
    }
    first.kill();

    // Killed again while they leave: some are recorded as sent, some have just left, some wait for devices that are silent.
    let second = Process::start(directory.path());
    network.lead_to(Some(second.udp));
    let running = Fleet::start(&sleepers(EARLY), &network);
    let mut sent_before = HashSet::new();
    while sent_before.is_empty() {
        sent_before = recorded(&second.api, &accepted).await;
    }
    // More is accepted, and leaves, up to the moment in which it is killed.
    let first_left = Instant::now();
    while first_left.elapsed() < WRITTEN_WITHIN * 3 / 2 {
        for identity in &identities {
            accepted.push(second.api.echo(identity.id, "just before", 600_000).await);
        }
    }
    let sent_by_then = network.seen(|seen| {
        let first = |(of, sent): (&u32, &Vec<SeenCall>)| sent.first().map(|sent| (*of, sent.at));
        seen.calls.iter().filter_map(first).collect::<HashMap<u32, Instant>>()
    });
    let killed_at = Instant::now();
    network.lead_to(None);
    second.kill();
    running.stop().await;
    let long_ago = |at: &Instant| killed_at.duration_since(*at) > WRITTEN_WITHIN;
    let written = sent_by_then.values().filter(|at| long_ago(at)).count();
    let left = sent_by_then.len();
    println!(
        "{} seen as sent, {written} left more than a second before the end, {left} in all of {}",
        sent_before.len(),
        accepted.len()
    );
    assert!(written > 0 && written < left && left < accepted.len());

    // The devices boot again, and four more with them.
    let third = Process::start(directory.path());
    network.lead_to(Some(third.udp));
    let running = Fleet::start(&fleet, &network);
    let mut told = Vec::new();
    for id in &accepted {
        told.push(third.api.call_once(id, |call| call["status"] != "waiting").await);
    }
    let summary = running.stop().await;
    third.kill();

    network.seen(|seen| {
        assert_eq!(seen.repeated, [], "nonces, over three processes");
        let mut again = 0;
        for call in &told {
            let request_id = request_id(call);
            let times = seen.calls.get(&request_id).map_or(0, Vec::len);
            assert!(times >= 1, "told as sent and was not: {call}");
            if sent_before.contains(&request_id) || sent_by_then.get(&request_id).is_some_and(long_ago) {
                assert_eq!(times, 1, "was recorded as sent and left again: {call}");
            }
            assert!(times <= 2, "{call}");
            again += times - 1;
        }
        println!("{again} of {} left twice; fleet: {summary}", told.len());
    });
}
