//! A registry in a directory of its own, for tests.

use std::sync::Arc;

use tempfile::TempDir;

use super::database::{from_device_id, from_time};
use super::{Configured, KindOrder, Live, Page, Registry};
use crate::auth::keys::{Interface, KeyPair, KeyRing, RootKey};
use crate::auth::{Authenticator, Refusal, open_with, seal_with};
use crate::clock::{Clock, Timestamp};
use crate::downlink::Downlinks;
use crate::downlink::channel::channel;
use crate::downlink::outbox::OutboxConfig;
use crate::id::{DeviceId, KeyId};
use crate::records::{Board, Key32, Network, NetworkId, NewBoard, NewNetwork, NewOrganisation, Organisation};
use crate::table::route::Path;
use crate::table::{Packet, RouteTable, TableConfig};
use crate::waiters::{Waiters, WaitersConfig};
use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

/// Everything, from the first on.
pub(super) const ALL: Page = Page { limit: 10_000, offset: 0, descending: false };

/// A registry and what it keeps up to date.
pub(super) struct Site {
    pub(super) registry: Registry,
    pub(super) live: Live,
    pub(super) directory: TempDir,
}

impl Site {
    /// An empty one.
    pub(super) async fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap(), live(1, Configured::default()), 0).await
    }

    /// Stops it and starts one with the same data, `live`, and the clock moved by so many seconds.
    pub(super) async fn restart(self, live: Live, offset_seconds: i64) -> Self {
        self.registry.close().await;
        Self::in_directory(self.directory, live, offset_seconds).await
    }

    async fn in_directory(directory: TempDir, live: Live, offset_seconds: i64) -> Self {
        let clock = Clock::with_offset_seconds(offset_seconds);
        let registry = Registry::open(directory.path(), live.clone(), clock).await.unwrap();
        Self { registry, live, directory }
    }

    pub(super) async fn organisation(&self, name: &str) -> Organisation {
        self.registry.create_organisation(&NewOrganisation { name: name.to_owned() }).await.unwrap()
    }

    pub(super) async fn board(&self, owner: &Organisation, name: &str, public: bool) -> Board {
        self.registry.create_board(&new_board(owner, name, public)).await.unwrap()
    }

    pub(super) async fn network(&self, owner: &Organisation, name: &str, id: u32) -> Network {
        self.registry.create_network(&new_network(owner, name, id)).await.unwrap()
    }

    /// A device with what is given, as it is stored.
    pub(super) async fn device(&self, board: &Board, device_id: DeviceId, stored: Stored) {
        let registry = &self.registry;
        let mut change = registry.database.change().await.unwrap();
        let (id, now) = registry.stamp();
        let insert = "INSERT INTO device (id, created_at, updated_at, organisation, board, device_id, soc, mcu_id, metadata, \
                      state, state_updated_at, key_public, key_root, key_id) \
                      SELECT $1, $2, $2, organisation, n, $3, soc, $4, '{}', $5, $2, $6, $7, $8 FROM board WHERE id = $9";
        let inserted = sqlx::query(insert)
            .bind(id)
            .bind(from_time(now.0))
            .bind(from_device_id(device_id))
            .bind(device_id.to_string())
            .bind(stored.state)
            .bind(stored.public.map(Vec::from))
            .bind(stored.root.map(Vec::from))
            .bind(stored.key_id.map(|id| i64::from(id.get())))
            .bind(board.id);
        inserted.execute(&mut *change).await.unwrap();
        change.commit(|| ()).await.unwrap();
    }

    /// The names of the boards that an organisation sees.
    pub(super) async fn board_names(
        &self,
        owner: &Organisation,
        include_public: bool,
        order: KindOrder,
    ) -> Vec<String> {
        let boards = self.registry.boards(owner.id, include_public, order, ALL).await.unwrap();
        boards.into_iter().map(|board| board.name).collect()
    }
}

/// What is stored of a device.
pub(super) struct Stored {
    pub(super) state: &'static str,
    pub(super) public: Option<[u8; 32]>,
    pub(super) root: Option<[u8; 32]>,
    pub(super) key_id: Option<KeyId>,
}

/// Nothing said of its state, and no key.
pub(super) const BARE: Stored = Stored { state: "{}", public: None, root: None, key_id: None };

/// Whether the gateway opens a packet of network `id` that is sealed under a root key of so many `root`.
pub(super) fn opens_network(live: &Live, id: u32, root: u8) -> Result<(), Refusal> {
    opens(live, Flags(0), KeyId::new(id).unwrap(), DeviceId(1), &RootKey::new([root; 32]))
}

/// Whether the gateway opens a packet of a device that is sealed under its own key.
pub(super) fn opens_device(live: &Live, device: DeviceId, id: KeyId, root: &RootKey) -> Result<(), Refusal> {
    opens(live, Flags(Flags::DEVICE_KEY), id, device, root)
}

fn opens(live: &Live, flags: Flags, key_id: KeyId, device_id: DeviceId, root: &RootKey) -> Result<(), Refusal> {
    let now = Timestamp::from_gps(1_479_435_219);
    let gps_time = now.gps();
    let header = Header { packet_type: PacketType::TDF, flags, key_id, device_id, gps_time, sequence: 1, entropy: 1 };
    let mut bytes = Vec::new();
    seal_with(&root.day_key(Interface::Udp, header.rotation()), &header, Layout::Unversioned, &[], &mut bytes);
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
    Authenticator::default().open(&live.keys, frame, Interface::Udp, now).map(drop)
}

/// Lets a device be heard over UDP.
pub(super) fn hear(live: &Live, device_id: DeviceId, at: Timestamp) {
    let (key_id, gps_time) = (KeyId::new(1).unwrap(), at.gps());
    let flags = Flags(0);
    let header = Header { packet_type: PacketType::TDF, flags, key_id, device_id, gps_time, sequence: 1, entropy: 1 };
    let key = RootKey::new([1; 32]).day_key(Interface::Udp, header.rotation());
    let mut bytes = Vec::new();
    seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
    let verified = open_with(&key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap()).unwrap();
    let path = Path::Direct(([192, 0, 2, 1], 6200).into());
    live.table.record(&Packet::new(&verified, &path, at));
}

/// A gateway without devices and with the key pair `private`.
pub(super) fn live(private: u8, configured: Configured) -> Live {
    Live {
        keys: Arc::new(KeyRing::default()),
        table: Arc::new(RouteTable::new(&TableConfig { shards: 4, ..TableConfig::default() })),
        waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
        downlinks: Arc::new(Downlinks::new(OutboxConfig::default(), channel().0)),
        cloud_keys: KeyPair::from_private([private; 32]),
        configured: Arc::new(configured),
    }
}

pub(super) fn new_board(owner: &Organisation, name: &str, public: bool) -> NewBoard {
    NewBoard {
        name: name.to_owned(),
        description: format!("{name} described"),
        soc: "nRF9151".to_owned(),
        organisation_id: owner.id,
        public,
        metadata_fields: Vec::new(),
    }
}

pub(super) fn new_network(owner: &Organisation, name: &str, id: u32) -> NewNetwork {
    NewNetwork {
        name: name.to_owned(),
        description: String::new(),
        key: Key32::new([id as u8; 32]),
        organisation_id: owner.id,
        public: false,
        network_id: NetworkId(KeyId::new(id).unwrap()),
    }
}
