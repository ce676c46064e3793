//! A simulated fleet before a whole gateway: what one sends and the other counts.

use std::sync::Arc;
use std::time::Duration;

use lastroute::client::Client;
use lastroute::clock::Clock;
use lastroute::metrics::Disposition;
use lastroute::simulate::compare::Watched;
use lastroute::simulate::{self, Config, Count, Stats, Summary};

use crate::harness::{Gateway, eventually};

/// A gateway that serves the factory network.
fn gateway() -> Gateway {
    Gateway::start_with("", "[[network]]\nid = \"000000\"\n", "", 0)
}

/// 30 devices with 50 packets each, as troubled as can be reckoned with: no more than 10 packets of a device are under way
/// at once.
fn troubled(gateway: &Gateway, seed: u16) -> Config {
    Config {
        gateway: gateway.udp[0],
        devices: 30,
        sockets: 16,
        seed,
        rate: Some(1000),
        packets: Some(1500),
        ack_share: 0.3,
        rebind: 0.1,
        loss: 0.2,
        downlink_loss: 0.2,
        duplicate: 0.2,
        reorder: 0.3,
        delay: Some(Duration::from_millis(250)),
        ..Config::default()
    }
}

async fn run(config: Config) -> Summary {
    let never = std::future::pending();
    simulate::run(config, Clock::default(), Arc::new(Stats::default()), never).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_copies_and_overtakings_of_a_fleet_are_counted_exactly() {
    let gateway = gateway();
    for seed in 1..=2 {
        let before = gateway.counted();
        let summary = run(troubled(&gateway, seed)).await;
        for count in [Count::Lost, Count::Copies, Count::HeldBack, Count::Acks, Count::LostDownlinks, Count::Rebinds] {
            assert!(summary.get(count) > 20, "{summary}");
        }
        let expected = [Count::ToAccept, Count::ToDuplicate, Count::TooLate].map(|count| summary.get(count));
        assert_eq!(
            expected.iter().sum::<u64>(),
            summary.sent - summary.get(Count::Lost) + summary.get(Count::Copies),
            "{summary}"
        );
        eventually(async || {
            let now = gateway.counted();
            let since = |disposition| now.datagrams[disposition as usize] - before.datagrams[disposition as usize];
            let counted = [Disposition::Accepted, Disposition::Duplicate, Disposition::TooOld].map(since);
            tokio::task::yield_now().await;
            counted == expected
        })
        .await;
        assert_eq!(gateway.counted().kernel_drops, 0);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_says_it_counted_is_compared_with_what_was_sent() {
    let gateway = gateway();
    let client = Client::new(&format!("http://{}", gateway.http), None).unwrap();
    let watched = Watched::start(client).await.unwrap();
    let summary = run(troubled(&gateway, 3)).await;
    let comparison = watched.compare(&summary).await.unwrap();
    assert_eq!(comparison.unexplained(), None, "{comparison}");
    // Another fleet beside it is not part of what is compared.
    run(Config { packets: Some(10), ..troubled(&gateway, 4) }).await;
    let text = watched.compare(&summary).await.unwrap().unexplained().unwrap();
    assert!(text.contains("accepted +") && text.contains("serves no other devices"), "{text}");
    gateway.stop().await;
}
