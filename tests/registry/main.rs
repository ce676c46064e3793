//! Devices of the registry from outside: every rule by name, lists in every order, and random histories against a registry
//! that is a plain list.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are plain functions")]

mod batches;
mod heard;
mod keys;
mod lists;
mod live;
mod messages;
mod messages_model;
mod model;
mod rules;

use std::collections::HashSet;
use std::sync::Arc;

use lastroute::auth::keys::{Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::{Authenticator, Refusal, open_with, seal_with};
use lastroute::clock::{Clock, Timestamp};
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::channel;
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::{DeviceId, KeyId};
use lastroute::records::{
    Board, Metadata, MetadataField, MetadataOperation, MetadataUpdate, NewBoard, NewDevice, NewOrganisation,
};
use lastroute::records::{DeviceUpdate, Organisation};
use lastroute::registry::{Configured, Conflict, DeviceFilter, Live, Page, Registry, RegistryError};
use lastroute::table::route::Path;
use lastroute::table::{Packet, RouteTable, TableConfig};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, PacketType};
use tempfile::TempDir;

/// Everything, from the first on.
const ALL: Page = Page { limit: 10_000, offset: 0, descending: false };

/// The network that all devices are in.
const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);

/// A registry in a directory of its own, and what it keeps up to date.
struct Site {
    registry: Registry,
    live: Live,
    directory: TempDir,
}

impl Site {
    async fn new() -> Self {
        Self::with(Configured::default()).await
    }

    async fn with(configured: Configured) -> Self {
        Self::open(tempfile::tempdir().unwrap(), live(configured), 0).await
    }

    /// Stops it and starts one with the same data, and the clock moved by so many seconds. What was heard is lost.
    async fn restart(self, offset_seconds: i64) -> Self {
        self.registry.close().await;
        Self::open(self.directory, live((*self.live.configured).clone()), offset_seconds).await
    }

    async fn open(directory: TempDir, live: Live, offset_seconds: i64) -> Self {
        let clock = Clock::with_offset_seconds(offset_seconds);
        let registry = Registry::open(directory.path(), live.clone(), clock).await.unwrap();
        Self { registry, live, directory }
    }

    async fn organisation(&self, name: &str) -> Organisation {
        self.registry.create_organisation(&NewOrganisation { name: name.to_owned() }).await.unwrap()
    }

    /// A board of nRF9151 with these fields: name, required, unique.
    async fn board(&self, owner: &Organisation, name: &str, fields: &[(&str, bool, bool)]) -> Board {
        self.registry.create_board(&new_board(owner, name, fields)).await.unwrap()
    }

    /// An organisation and a board of its own without fields.
    async fn owner(&self) -> (Organisation, Board) {
        let owner = self.organisation("acme").await;
        let board = self.board(&owner, "tracker", &[]).await;
        (owner, board)
    }

    /// A packet of `device` over UDP, as ingest takes it in.
    fn hear(&self, device: DeviceId, at: Timestamp) {
        let header = header(device, Flags(0), NETWORK, at);
        let key = RootKey::new([1; 32]).day_key(Interface::Udp, header.rotation());
        let mut bytes = Vec::new();
        seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
        let verified = open_with(&key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap()).unwrap();
        let path = Path::Direct(([192, 0, 2, 1], 4000).into());
        let packet = Packet::new(&verified, &path, at);
        self.live.table.record(&packet);
    }

    /// Whether the gateway opens a packet of `device` that is sealed under its own key.
    fn opens(&self, device: DeviceId, key_id: KeyId, root: &RootKey) -> Result<(), Refusal> {
        let now = Timestamp::from_gps(1_479_435_219);
        let header = header(device, Flags(Flags::DEVICE_KEY), key_id, now);
        let mut bytes = Vec::new();
        seal_with(&root.day_key(Interface::Udp, header.rotation()), &header, Layout::Unversioned, &[], &mut bytes);
        let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
        Authenticator::default().open(&self.live.keys, frame, Interface::Udp, now).map(drop)
    }
}

fn header(device_id: DeviceId, flags: Flags, key_id: KeyId, at: Timestamp) -> Header {
    // Rises from packet to packet, as far as a test sends any.
    let sequence = at.gps() as u16;
    Header { packet_type: PacketType::TDF, flags, key_id, device_id, gps_time: at.gps(), sequence, entropy: 1 }
}

fn live(configured: Configured) -> Live {
    Live {
        keys: Arc::new(KeyRing::default()),
        table: Arc::new(RouteTable::new(&TableConfig { shards: 4, ..TableConfig::default() })),
        waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
        downlinks: Arc::new(Downlinks::new(OutboxConfig::default(), channel().0)),
        cloud_keys: KeyPair::from_private([1; 32]),
        configured: Arc::new(configured),
    }
}

fn configured(device: u64) -> Configured {
    Configured { devices: HashSet::from([DeviceId(device)]), ..Configured::default() }
}

fn new_board(owner: &Organisation, name: &str, fields: &[(&str, bool, bool)]) -> NewBoard {
    let field =
        |&(name, required, unique): &(&str, bool, bool)| MetadataField { name: name.to_owned(), required, unique };
    NewBoard {
        name: name.to_owned(),
        description: String::new(),
        soc: "nRF9151".to_owned(),
        organisation_id: owner.id,
        public: false,
        metadata_fields: fields.iter().map(field).collect(),
    }
}

/// A device of the board's owner, with this device id and the same number as its MCU id.
fn new_device(board: &Board, number: u64) -> NewDevice {
    NewDevice {
        mcu_id: format!("{number:016x}").parse().unwrap(),
        board_id: board.id,
        organisation_id: board.organisation_id,
        device_id: Some(DeviceId(number)),
        metadata: Metadata::new(),
        initial_device_state: None,
        device_public_key: None,
        device_root_key: None,
    }
}

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn update(operation: MetadataOperation, pairs: &[(&str, &str)]) -> DeviceUpdate {
    DeviceUpdate { metadata: Some(MetadataUpdate { operation, value: metadata(pairs) }) }
}

/// What a conflict names.
fn taken<T>(result: Result<T, RegistryError>) -> String {
    match result.err().unwrap() {
        RegistryError::Conflict(Conflict::Taken { what, value }) => format!("{what} {value}"),
        RegistryError::Conflict(Conflict::Metadata { name, value }) => format!("metadata {name} {value}"),
        other => panic!("{other}"),
    }
}

/// The sentence of a broken rule.
fn rule<T>(result: Result<T, RegistryError>) -> String {
    match result.err().unwrap() {
        RegistryError::Rule(text) => text,
        other => panic!("{other}"),
    }
}
