//! What is made of an authentic packet: rules R1 to R6, R8 and R9 together. Whoever takes packets in goes through here, the
//! gateway's ingest as well as tools that explain what a gateway would do.

use std::collections::HashSet;

use super::route::{Application, Outcome, Path, Refused};
use super::rules::Step;
use super::sending::Receipt;
use super::{Packet, RoutePolicy, RouteTable};
use crate::auth::Verified;
use crate::auth::keys::{KeyRing, NetworkInfo};
use crate::auth::nonce::OwnNonces;
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
    /// Rule R8: the device belongs to another organisation than its relay, or than the network it speaks under.
    Foreign,
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
            Self::Recorded { outcome: Outcome::Refused(Refused { step: Step::TooOld, .. }), .. } => Disposition::TooOld,
            Self::Recorded { outcome: Outcome::Refused(_), .. } => Disposition::Duplicate,
            // Registered, but not where it was heard.
            Self::Foreign | Self::Recorded { outcome: Outcome::NotRegistered, .. } => Disposition::NotRegistered,
        }
    }

    /// The rule, or the step of rule R4, that decided, where the disposition does not say.
    pub const fn rule(&self) -> Option<&'static str> {
        match self {
            Self::Recorded { outcome: Outcome::Counted(counted), .. } => Some(counted.step.name()),
            Self::Recorded { outcome: Outcome::Refused(refused), .. } => Some(refused.step.name()),
            Self::Foreign => Some("R8"),
            Self::Reflected | Self::Recorded { outcome: Outcome::NotRegistered, .. } => None,
        }
    }
}

impl Acceptance<'_> {
    /// Takes in an authentic packet that came by `path`. `receipt` is that of its datagram, a container perhaps; a time alone
    /// does where nothing is to be answered. `answers`: as in [`Packet::answers`].
    #[inline]
    pub fn accept(&self, verified: &Verified<'_>, path: &Path, receipt: impl Into<Receipt>, answers: bool) -> Accepted {
        let receipt = receipt.into();
        if self.is_reflected(verified) {
            return Accepted::Reflected;
        }
        let authority = self.authority(verified);
        if self.is_foreign(verified.header().device_id, &authority, path.relay()) {
            return Accepted::Foreign;
        }
        let announced = Announced::by(verified);
        let may_move = self.policy == RoutePolicy::Newest
            || proved_level(verified, path) == Level::Device
            || !self.has_key(verified.header().device_id);
        let (application, network) = (announced.application, authority.number());
        let packet = Packet { verified, path, may_move, answers, application, network, receipt };
        let outcome = self.table.record(&packet);
        if let (Outcome::Counted(_), Some((remote, application))) = (&outcome, announced.remote)
            // Whoever reports of another device is to it as a relay.
            && !self.is_foreign(remote, &authority, Some(verified.header().device_id))
            // And that it reports so is itself the word of the relay that decrypted it.
            && !(is_on_word(verified) && self.is_foreign(remote, &authority, path.relay()))
        {
            self.table.set_application(remote, application, receipt.at);
        }
        Accepted::Recorded { outcome, malformed: announced.malformed }
    }

    /// Whether the device has a key of its own.
    fn has_key(&self, id: DeviceId) -> bool {
        self.keys.has_device(id) || self.keyed.is_some_and(|keyed| keyed.contains(&id))
    }

    /// Under which networks a packet comes. What a relay decrypted names one that it was decrypted with: the relay may make
    /// that up, so it takes away from what the relay's own network allows, and adds nothing.
    fn authority(&self, verified: &Verified<'_>) -> Authority {
        let (header, opened) = (verified.header(), verified.network());
        let of_opened = opened.map(|(_, info)| info);
        if !is_on_word(verified) {
            let is_public = of_opened.is_some_and(|info| info.public);
            return Authority { networks: [of_opened, None], is_on_word: false, is_public };
        }
        let claimed = (header.level() == Level::Network).then_some(header.key_id);
        let is_public = opened.is_some_and(|(id, info)| info.public && claimed == Some(id));
        let of_claimed = claimed.and_then(|id| self.keys.network(id));
        Authority { networks: [of_opened, of_claimed], is_on_word: true, is_public }
    }

    /// Rule R8: a network that is not public speaks for devices of its own organisation, and so does a relay. Devices and
    /// networks of no organisation are nobody's.
    fn is_foreign(&self, id: DeviceId, authority: &Authority, relay: Option<DeviceId>) -> bool {
        let mut private = authority.networks.iter().flatten().filter(|info| !info.public && info.organisation != 0);
        private.any(|info| self.table.belongs_to_another(id, info.organisation))
            || !authority.is_public && relay.is_some_and(|relay| self.table.are_of_two_organisations(relay, id))
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

/// What a packet comes under, for rule R8. A device key stands for no network, whoever relays its packets.
struct Authority {
    /// Networks that it comes under, the one of a relay's word last; those that are not public must be of the device's
    /// organisation.
    networks: [Option<NetworkInfo>; 2],
    /// Whether a relay decrypted it.
    is_on_word: bool,
    /// Whether the key of a public network proves it, so that it does not matter who relays it.
    is_public: bool,
}

impl Authority {
    /// The number of the network that the device itself speaks under; 0: it uses its own key, or the network is not known.
    fn number(&self) -> u16 {
        self.networks[usize::from(self.is_on_word)].map_or(0, |info| info.number)
    }
}

/// What a packet proves of the way it came: of one inside a container no more than the container does, which whoever heard
/// the packet may have made; and of one that a relay decrypted nothing of the device, which need not have sent it.
fn proved_level(verified: &Verified<'_>, path: &Path) -> Level {
    match path {
        _ if is_on_word(verified) => Level::Network,
        Path::Direct(_) => verified.level(),
        Path::Relayed(through) => verified.level().min(through.level),
    }
}

/// Whether a relay decrypted the packet.
const fn is_on_word(verified: &Verified<'_>) -> bool {
    verified.entropy().is_none()
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
