//! What is made of an authentic packet: rules R1 to R5 and R9 together. Whoever takes packets in goes through here, the
//! gateway's ingest as well as tools that explain what a gateway would do.

use std::collections::HashSet;

use super::route::{Application, Outcome, Path};
use super::rules::Step;
use super::{Packet, RoutePolicy, RouteTable};
use crate::auth::Verified;
use crate::auth::keys::KeyRing;
use crate::auth::nonce::OwnNonces;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::metrics::Disposition;
use crate::wire::frame::{Level, PacketType};
use crate::wire::tdf;

/// What packets are judged with.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance<'a> {
    /// The keys of networks and devices.
    pub keys: &'a KeyRing,
    /// Devices that have keys of their own which may be missing in `keys`: a tool that has not the gateway's key cannot
    /// derive them. A gateway has all keys and goes without.
    pub keyed: Option<&'a HashSet<DeviceId>>,
    /// Last route and state of every device.
    pub table: &'a RouteTable,
    /// The nonces of our own downlinks; a tool that has not the gateway's key goes without.
    pub nonces: Option<&'a OwnNonces>,
    /// What may move a route.
    pub policy: RoutePolicy,
}

/// What became of an authentic packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Rule R2: one of our own downlinks came back.
    Reflected,
    /// The table decided.
    Recorded {
        /// What it decided.
        outcome: Outcome,
        /// The packet's readings end in a fault.
        malformed: bool,
    },
}

impl Accepted {
    /// The disposition that the packet ends in.
    pub const fn disposition(&self) -> Disposition {
        match self {
            Self::Reflected => Disposition::Reflected,
            Self::Recorded { outcome: Outcome::Counted(_), .. } => Disposition::Accepted,
            Self::Recorded { outcome: Outcome::Refused(Step::TooOld), .. } => Disposition::TooOld,
            Self::Recorded { outcome: Outcome::Refused(_), .. } => Disposition::Duplicate,
            Self::Recorded { outcome: Outcome::NotRegistered, .. } => Disposition::NotRegistered,
        }
    }
}

impl Acceptance<'_> {
    /// Takes in an authentic packet that came by `path` and arrived `at`.
    pub fn accept(&self, verified: &Verified<'_>, path: &Path, at: Timestamp) -> Accepted {
        if self.is_reflected(verified) {
            return Accepted::Reflected;
        }
        let announced = Announced::by(verified);
        let may_move = self.policy == RoutePolicy::Newest
            || verified.level() == Level::Device
            || !self.has_key(verified.header().device_id);
        let packet = Packet { verified, path, may_move, application: announced.application, at };
        let outcome = self.table.record(&packet);
        if let (Outcome::Counted(_), Some((remote, application))) = (outcome, announced.remote) {
            self.table.set_application(remote, application, at);
        }
        Accepted::Recorded { outcome, malformed: announced.malformed }
    }

    /// Whether the device has a key of its own.
    fn has_key(&self, id: DeviceId) -> bool {
        self.keys.has_device(id) || self.keyed.is_some_and(|keyed| keyed.contains(&id))
    }

    /// Rule R2: one of our own downlinks come back. What a relay decrypted has lost the entropy by which it would show.
    fn is_reflected(&self, verified: &Verified<'_>) -> bool {
        let header = verified.header();
        let is_own =
            |nonces: &OwnNonces, entropy| nonces.is_own(header.device_id, header.gps_time, header.sequence, entropy);
        header.packet_type.is_downlink_only()
            || header.packet_type.is_both_ways()
                && self.nonces.zip(verified.entropy()).is_some_and(|(nonces, entropy)| is_own(nonces, entropy))
    }
}

/// What the readings of a packet say.
#[derive(Default)]
struct Announced {
    /// What the sender runs.
    application: Option<Application>,
    /// What another device runs.
    remote: Option<(DeviceId, Application)>,
    malformed: bool,
}

impl Announced {
    fn by(verified: &Verified<'_>) -> Self {
        match verified.header().packet_type {
            PacketType::TDF => {
                let (application, malformed) = application(verified.payload());
                Self { application, malformed, remote: None }
            }
            PacketType::TDF_REMOTE => match tdf::split_remote(verified.payload()) {
                Some((remote, readings)) => {
                    let (application, malformed) = application(readings);
                    Self { remote: application.map(|application| (remote, application)), malformed, application: None }
                }
                None => Self { malformed: true, ..Self::default() },
            },
            _ => Self::default(),
        }
    }
}

/// The application that readings announce, and whether they end in a fault.
fn application(readings: &[u8]) -> (Option<Application>, bool) {
    let scan = tdf::scan(readings);
    let application =
        scan.announce.map(|announce| Application { id: announce.application_id, version: announce.version });
    (application, scan.fault.is_some())
}
