//! Gateways, the devices registered at them, and calls over their API.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioExecutor;
use lastroute::app::App;
use lastroute::auth::keys::{KeyPair, RootKey};
use lastroute::client::Client;
use lastroute::clock::Clock;
use lastroute::config::{Config, Flags};
use lastroute::id::{DeviceId, KeyId};
use lastroute::simulate::identity::{Identity, network_block};
use lastroute::simulate::{self, Count, Stats, Summary};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::hand::Hand;
use crate::network::Network;
use crate::wire::Seen;

/// Longer than anything here takes, so that what never comes fails the test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);

pub(crate) const ECHO: u16 = 32_767;

pub(crate) const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);
pub(crate) const NETWORK_KEY: [u8; 32] = [0x42; 32];
pub(crate) const CLOUD_KEY: [u8; 32] = [0x11; 32];

/// Devices that sleep, wake about every 60 ms at another address each time, and then listen for 40 ms.
pub(crate) fn sleepers(devices: u32) -> simulate::Config {
    simulate::Config {
        devices,
        network: NETWORK,
        network_root: RootKey::new(NETWORK_KEY),
        cloud_public: KeyPair::from_private(CLOUD_KEY).public(),
        cadence: Duration::from_millis(60),
        jitter: 0.3,
        sleeping: 1.0,
        window: Duration::from_millis(40),
        rebind: 1.0,
        no_time: 0.2,
        ack_share: 0.3,
        ..simulate::Config::default()
    }
}

/// What can open everything that a fleet and its gateway say.
pub(crate) fn seen(fleet: &simulate::Config) -> Seen {
    let (devices, children) = (fleet.identities().unwrap(), fleet.child_identities().unwrap());
    Seen::with_keys(NETWORK, &fleet.network_root, devices.iter().chain(&children))
}

/// Writes the files of a gateway that knows the network of the fleets here; the flags that lead to them.
pub(crate) fn files(directory: &Path) -> Flags {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("cloud.key"), STANDARD.encode(CLOUD_KEY)).unwrap();
    std::fs::write(path("network.key"), STANDARD.encode(NETWORK_KEY)).unwrap();
    let block = network_block(NETWORK, "fleet", Some(&directory.join("network.key"))).unwrap();
    std::fs::write(path("lastroute.toml"), block).unwrap();
    Flags {
        config: Some(path("lastroute.toml")),
        data_dir: Some(path("data")),
        cloud_key_file: Some(path("cloud.key")),
        udp_listen: vec!["127.0.0.1:0".to_owned()],
        http_listen: Some("127.0.0.1:0".to_owned()),
        ..Flags::default()
    }
}

/// A gateway in this process.
pub(crate) struct Gateway {
    pub(crate) app: App,
    pub(crate) api: Api,
    _directory: tempfile::TempDir,
}

impl Gateway {
    pub(crate) fn start(network: &Network) -> Self {
        let gateway = Self::alone();
        network.lead_to(Some(gateway.app.udp()[0]));
        gateway
    }

    /// One that no network leads to.
    pub(crate) fn alone() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let app = App::start(Config::load(&files(directory.path()), []).unwrap()).unwrap();
        Self { api: Api::of(&app.http().to_string()), app, _directory: directory }
    }

    /// A device that speaks to it.
    pub(crate) async fn hand(&self, id: u64) -> Hand {
        Hand::new(id, self.app.udp()[0]).await
    }

    pub(crate) async fn stop(self) {
        tokio::task::spawn_blocking(move || self.app.stop()).await.unwrap();
    }
}

/// The API of a gateway.
#[derive(Clone)]
pub(crate) struct Api(Client);

impl Api {
    pub(crate) fn of(address: &str) -> Self {
        let client = Client::new(&format!("http://{address}"), None).unwrap();
        Self(client.with_limits(PATIENCE, 1 << 24))
    }

    /// The same, for requests that may fail.
    pub(crate) fn client(&self) -> Client {
        self.0.clone()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.0.post_json(path, body.to_string().into()).await;
        answer.unwrap_or_else(|error| panic!("POST {path} {body}: {error}")).expect("something there")
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.0.get_json(path).await;
        answer.unwrap_or_else(|error| panic!("GET {path}: {error}")).expect("something there")
    }

    /// Whether there was something to delete.
    pub(crate) async fn delete(&self, path: &str) -> bool {
        self.0.delete(path).await.unwrap_or_else(|error| panic!("DELETE {path}: {error}"))
    }

    /// The bytes at a path.
    pub(crate) async fn bytes(&self, path: &str) -> Vec<u8> {
        let hyper = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let response = hyper.get(format!("{}{path}", self.0.address()).parse().unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    /// Registers devices, with their public keys where `with_key` says so.
    pub(crate) async fn register(&self, identities: &[Identity], with_key: impl Fn(usize) -> bool) {
        let organisation = self.post("/organisation", json!({"name": "Acme"})).await["id"].clone();
        let board = json!({"name": "tag", "description": "", "soc": "nRF9151", "organisationId": organisation});
        let board = self.post("/board", board).await["id"].clone();
        let device = |(number, identity): (usize, &Identity)| {
            let mut device = json!({
                "deviceId": identity.id, "mcuId": identity.id, "organisationId": organisation, "boardId": board,
            });
            if with_key(number) {
                device["devicePublicKey"] = STANDARD.encode(identity.keys.public()).into();
            }
            device
        };
        let devices: Vec<_> = identities.iter().enumerate().map(device).collect();
        self.post("/device/batch", json!({"devices": devices})).await;
    }

    /// Accepts a call, which waits for so many milliseconds if there are any; `more` says more of it. Returns its id.
    pub(crate) async fn call(&self, device: DeviceId, rpc: Value, wait_ms: u64, more: Value) -> String {
        let mut body = json!({"deviceId": device, "rpc": rpc, "sendWaitTimeoutMs": wait_ms});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/rpc", body).await["id"].as_str().unwrap().to_owned()
    }

    /// Accepts an echo of a text.
    pub(crate) async fn echo(&self, device: DeviceId, text: &str, wait_ms: u64) -> String {
        self.call(device, json!({"commandId": ECHO, "paramsEncoded": STANDARD.encode(text)}), wait_ms, json!({})).await
    }

    /// What became of a call by now.
    pub(crate) async fn call_now(&self, id: &str) -> Value {
        self.get(&format!("/rpc/{id}")).await["downlinkMessage"].clone()
    }

    /// What has become of a call once it is so.
    pub(crate) async fn call_once(&self, id: &str, so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let asking = async {
            loop {
                last = self.call_now(id).await;
                if so(&last) {
                    break;
                }
            }
        };
        let came = tokio::time::timeout(PATIENCE, asking).await;
        assert!(came.is_ok(), "it never came true: {last}");
        last
    }
}

/// The number by which a call is known on the wire.
pub(crate) fn request_id(call: &Value) -> u32 {
    call["rpcReq"]["requestId"].as_u64().unwrap().try_into().unwrap()
}

/// A fleet that runs until it is stopped.
pub(crate) struct Fleet {
    pub(crate) stats: Arc<Stats>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Summary>,
}

impl Fleet {
    /// Starts it behind a network.
    pub(crate) fn start(fleet: &simulate::Config, network: &Network) -> Self {
        let config = simulate::Config { gateway: network.address, ..fleet.clone() };
        let (stop, stopped) = oneshot::channel::<()>();
        let stats = Arc::new(Stats::default());
        let counting = Arc::clone(&stats);
        let stopped = async {
            let _ = stopped.await;
        };
        let running =
            tokio::spawn(async move { simulate::run(config, Clock::default(), counting, stopped).await.unwrap() });
        Self { stats, stop, running }
    }

    /// Waits until it has counted so many.
    pub(crate) async fn until(&self, count: Count, at_least: u64) {
        let waiting = async {
            while self.stats.get(count) < at_least {
                tokio::task::yield_now().await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(came.is_ok(), "{count:?} is {} after all this time", self.stats.get(count));
    }

    pub(crate) async fn stop(self) -> Summary {
        self.stop.send(()).unwrap();
        self.running.await.unwrap()
    }
}

/// Asks until it is so.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !so().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "it never came true: {what}");
}
