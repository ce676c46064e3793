//! The simulator against a whole gateway that knows its devices.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lastroute::app::App;
use lastroute::auth::keys::KeyPair;
use lastroute::client::Client;
use lastroute::clock::Clock;
use lastroute::config::{Config, Flags};
use lastroute::metrics::Disposition;
use lastroute::simulate::args::write_gateway_config;
use lastroute::simulate::compare::Watched;
use lastroute::simulate::{self, Count, Stats};

use crate::harness::eventually;

/// A gateway that was given the configuration which the simulator writes.
pub(crate) struct Known {
    pub(crate) app: App,
    _directory: tempfile::TempDir,
}

impl Known {
    /// Starts it, and has `fleet` speak to it.
    pub(crate) fn start(fleet: &mut simulate::Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("cloud.key"), STANDARD.encode([0x11; 32])).unwrap();
        fleet.cloud_public = KeyPair::from_private([0x11; 32]).public();
        write_gateway_config(path("fleet.toml").as_ref(), fleet, None).unwrap();
        let flags = Flags {
            config: Some(path("fleet.toml")),
            data_dir: Some(path("data")),
            cloud_key_file: Some(path("cloud.key")),
            udp_listen: vec!["127.0.0.1:0".to_owned()],
            http_listen: Some("127.0.0.1:0".to_owned()),
            ..Flags::default()
        };
        let app = App::start(Config::load(&flags, []).unwrap()).unwrap();
        fleet.gateway = app.udp()[0];
        Self { app, _directory: directory }
    }

    pub(crate) async fn stop(self) {
        tokio::task::spawn_blocking(move || self.app.stop()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_counts_the_entries_that_relays_sent_and_their_children_have_relayed_routes() {
    let cadence = Duration::from_millis(50);
    let mut fleet = simulate::Config { devices: 3, relays: 2, children: 8, cadence, ..simulate::Config::default() };
    let gateway = Known::start(&mut fleet);
    let client = Client::new(&format!("http://{}", gateway.app.http()), None).unwrap();
    let watched = Watched::start(client.clone()).await.unwrap();
    let stats = Arc::new(Stats::default());
    // Copies that the second relay heard, too, count nowhere else.
    let enough = eventually(async || {
        tokio::task::yield_now().await;
        let counted = gateway.app.counted().entries;
        counted[Disposition::Duplicate as usize] > 4 && counted[Disposition::Accepted as usize] > 100
    });
    let summary = simulate::run(fleet.clone(), Clock::default(), stats, enough).await.unwrap();
    let sent = summary.get(Count::Entries);
    assert!(summary.get(Count::Containers) > 4 && sent > 100, "{summary}");

    eventually(async || {
        tokio::task::yield_now().await;
        gateway.app.counted().datagrams.iter().sum::<u64>() == summary.sent
    })
    .await;
    let counted = gateway.app.counted();
    let of = |disposition: Disposition| counted.entries[disposition as usize];
    assert_eq!(of(Disposition::Accepted) + of(Disposition::Duplicate), sent, "{counted:?}");
    assert_eq!(counted.malformed_containers, 0);

    let comparison = watched.compare(&summary).await.unwrap();
    assert_eq!(comparison.unexplained(), None, "{comparison}");
    assert!(comparison.to_string().contains("in containers"), "{comparison}");

    for (number, child) in fleet.child_identities().unwrap().iter().enumerate() {
        let route = client.last_route(child.id).await.unwrap().unwrap().route;
        let interface = if number % 4 == 3 { "bt_central" } else { "bt_adv" };
        assert_eq!(route["interface"], interface, "{route}");
        let relay = route["forwarded"]["deviceId"].as_str().unwrap();
        let own = format!("51a000010000000{}", number / 8);
        assert!(relay == own || number % 4 == 0 && relay.starts_with("51a000010000000"), "{route}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_are_too_old_or_copies_are_not_expected_to_be_read() {
    let mut fleet = simulate::Config {
        devices: 2,
        relays: 2,
        children: 4,
        cadence: Duration::from_millis(10),
        packets: Some(600),
        no_time: 0.0,
        duplicate: 0.1,
        reorder: 0.2,
        delay: Some(Duration::from_secs(1)),
        ..simulate::Config::default()
    };
    let gateway = Known::start(&mut fleet);
    let watched = Watched::start(Client::new(&format!("http://{}", gateway.app.http()), None).unwrap()).await.unwrap();
    let summary = simulate::run(fleet, Clock::default(), Arc::default(), std::future::pending()).await.unwrap();
    assert!(summary.get(Count::TooLate) > 20 && summary.get(Count::ToDuplicate) > 20, "{summary}");
    let comparison = watched.compare(&summary).await.unwrap();
    assert_eq!(comparison.unexplained(), None, "{comparison}");
    gateway.stop().await;
}
