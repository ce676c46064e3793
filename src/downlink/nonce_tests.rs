//! That no nonce is used twice (rule R2): not by two downlinks, whatever is sent and however often the gateway starts anew, with
//! the records it had written down by then, nor by a downlink and an uplink of the same device; not where devices are deleted and
//! registered again, and not where the clock is set back.
#![allow(clippy::unwrap_used, reason = "a test that cannot seal or open fails")]

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;

use super::allowance::Allowance;
use super::intent::Sealing;
use super::seal::{Destination, NotSealed, Relay, Sealer};
use super::testing::{BT, DEVICE, NOW, RELAY};
use crate::auth::Authenticator;
use crate::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use crate::auth::nonce::OwnNonces;
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::table::kept::Kept;
use crate::table::route::{Outcome, Path};
use crate::table::{Packet, RouteTable, TableConfig};
use crate::wire::forward::AutoConnect;
use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);
const KEY: KeyId = KeyId::from_le_bytes([1, 2, 3]);

/// Seconds that a process reserves ahead.
const AHEAD: u32 = 6;
/// What sequences are moved by where the clock was set back to time that was used already.
const MOVE_BY: u16 = 1024;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A device speaks, some sequences after the last time.
    Uplink {
        of_relay: bool,
        after: u16,
    },
    Downlink {
        to: Where,
        sealing: Sealing,
    },
    /// The key of the device becomes known.
    Learn,
    Pass {
        ms: u64,
    },
    /// The clock is set back.
    SetBack {
        ms: u64,
    },
    Reserve,
    /// What changed of the records is written down.
    Write,
    /// A device is deleted, and registered again.
    Delete {
        of_relay: bool,
    },
    /// The process ends, with or without notice, and the next begins so much later.
    Restart {
        clean: bool,
        ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum Where {
    Device,
    Through,
    Relay,
}

fn step() -> impl Strategy<Value = Step> {
    let to = prop_oneof![Just(Where::Device), Just(Where::Through), Just(Where::Relay)];
    let sealing = prop_oneof![Just(Sealing::Best), Just(Sealing::Network), Just(Sealing::Device)];
    prop_oneof![
        4 => (any::<bool>(), 1..4u16).prop_map(|(of_relay, after)| Step::Uplink { of_relay, after }),
        8 => (to, sealing).prop_map(|(to, sealing)| Step::Downlink { to, sealing }),
        1 => Just(Step::Learn),
        3 => (0..3_000u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..20_000u64).prop_map(|ms| Step::SetBack { ms }),
        2 => Just(Step::Reserve),
        1 => Just(Step::Write),
        1 => any::<bool>().prop_map(|of_relay| Step::Delete { of_relay }),
        1 => (any::<bool>(), 0..1_500u64).prop_map(|(clean, ms)| Step::Restart { clean, ms }),
    ]
}

/// A gateway, its registry as far as it counts here, and what was said so far.
struct Site {
    keys: KeyRing,
    authenticator: Authenticator,
    nonces: OwnNonces,
    table: RouteTable,
    /// What is written down of the records, and of the time that is reserved.
    kept: BTreeMap<DeviceId, Kept>,
    reserved: u32,
    clock_turns: u32,
    epoch: u32,
    continues: Option<u32>,
    losses: u32,
    allowance: Allowance,
    now: Timestamp,
    /// Of the device and the relay.
    sequences: [u16; 2],
    used: HashSet<(DeviceId, u32, u16)>,
    repeated: Vec<(DeviceId, u32, u16)>,
    downlinks: usize,
}

impl Site {
    fn new(sequences: [u16; 2]) -> Self {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, RootKey::new([1; 32]));
        let mut site = Self {
            keys,
            authenticator: Authenticator::default(),
            nonces: OwnNonces::new(&KeyPair::from_private([5; 32]), NOW),
            table: RouteTable::new(&TableConfig::default()),
            kept: BTreeMap::new(),
            reserved: 0,
            clock_turns: 0,
            epoch: 0,
            continues: None,
            losses: 0,
            allowance: Allowance::default(),
            now: NOW,
            sequences,
            used: HashSet::new(),
            repeated: Vec::new(),
            downlinks: 0,
        };
        site.start();
        site
    }

    fn start(&mut self) {
        let (epoch, continues, losses) = (self.epoch, self.continues, self.losses);
        self.table = RouteTable::new(&TableConfig { epoch, continues, losses, ..TableConfig::default() });
        [DEVICE, RELAY].into_iter().for_each(|id| self.table.register(id, self.now));
        self.kept.iter().for_each(|(id, kept)| self.table.restore(&self.keys, *id, kept));
        self.table.settle();
        self.allowance = Allowance::default();
        self.allowance.start(self.reserved);
        self.move_sequences();
        self.reserve();
    }

    /// As `dispatch::reservation` does it.
    fn reserve(&mut self) {
        let until = self.now.gps() + AHEAD;
        self.reserved = until.max(self.allowance.until());
        if self.allowance.from() > until {
            self.clock_turns += 1;
            self.move_sequences();
            self.allowance.start(until);
        }
        self.allowance.extend(until);
    }

    fn move_sequences(&self) {
        self.table.move_down_sequences((self.clock_turns as u16).wrapping_mul(MOVE_BY));
    }

    fn write(&mut self) {
        let Self { table, keys, kept, .. } = self;
        table.changed(keys, |id, record| match record {
            Some(record) => _ = kept.insert(id, record),
            None => _ = kept.remove(&id),
        });
    }

    fn end(&mut self, clean: bool) {
        if clean {
            self.write();
            self.reserved = self.allowance.from().max(self.allowance.used() + 1);
            self.continues = Some(self.table.next_generation());
        } else {
            self.epoch += 1;
            self.losses += 1;
            self.continues = None;
        }
    }

    fn note(&mut self, device: DeviceId, gps_time: u32, sequence: u16) {
        if !self.used.insert((device, gps_time, sequence)) {
            self.repeated.push((device, gps_time, sequence));
        }
    }

    /// Recorded as ingest does it, and acknowledged.
    fn uplink(&mut self, of_relay: bool, after: u16) {
        let device_id = if of_relay { RELAY } else { DEVICE };
        let sequence = &mut self.sequences[usize::from(of_relay)];
        *sequence = sequence.wrapping_add(after);
        let (packet_type, flags, gps_time) = (PacketType::TDF, Flags(Flags::ACK_REQUEST), self.now.gps());
        let header =
            Header { packet_type, flags, key_id: NETWORK, device_id, gps_time, sequence: *sequence, entropy: 1 };
        self.note(device_id, gps_time, header.sequence);
        let mut bytes = Vec::new();
        let layout = Layout::Unversioned;
        self.authenticator.seal(&self.keys, &header, layout, Interface::Udp, b"", &mut bytes).unwrap();
        let frame = Frame::parse(&mut bytes, layout).unwrap();
        let verified = self.authenticator.open(&self.keys, frame, Interface::Udp, self.now).unwrap();
        let path = Path::Direct("203.0.113.7:6200".parse().unwrap());
        let packet = Packet { network: 1, ..Packet::new(&verified, &path, self.now) };
        // Where the clock was set back it may look like a copy.
        let Outcome::Counted(counted) = self.table.record(&packet) else { return };
        let acknowledged = counted.ack_sequence.filter(|_| self.allowance.allows(gps_time));
        if let Some(sequence) = acknowledged {
            self.note(device_id, gps_time, sequence);
        }
    }

    fn downlink(&mut self, to: Where, sealing: Sealing) {
        let device = if matches!(to, Where::Relay) { RELAY } else { DEVICE };
        let through = Relay { device: RELAY, network: Some(NETWORK), address: BT };
        let relay = matches!(to, Where::Through).then_some(through);
        let address = "203.0.113.7:6200".parse().unwrap();
        let to = Destination { device, network: Some(NETWORK), address, largest: 0, relay };
        let Ok(datagram) = self.seal(&to, sealing) else { return };
        self.downlinks += 1;
        let (outer, payload) = self.open(&datagram, Layout::Unversioned, Interface::Udp);
        self.note(outer.device_id, outer.gps_time, outer.sequence);
        if relay.is_some() {
            let forward = AutoConnect::parse(&payload).unwrap();
            let (inner, _) = self.open(forward.frame, Layout::Versioned, Interface::BtGatt);
            self.note(inner.device_id, inner.gps_time, inner.sequence);
        }
    }

    fn seal(&mut self, to: &Destination, sealing: Sealing) -> Result<Vec<u8>, NotSealed> {
        let Self { keys, authenticator, nonces, allowance, table, now, .. } = self;
        let sequences = &|device| table.next_downlink_sequence(device);
        let mut sealer = Sealer { keys, authenticator, nonces, allowance, sequences, now: *now };
        let mut datagram = Vec::new();
        sealer.seal(to, PacketType::ECHO_REQ, sealing, b"x", &mut datagram).map(|_| datagram)
    }

    fn open(&mut self, frame: &[u8], layout: Layout, interface: Interface) -> (Header, Vec<u8>) {
        let mut bytes = frame.to_vec();
        let frame = Frame::parse(&mut bytes, layout).unwrap();
        let verified = self.authenticator.open(&self.keys, frame, interface, self.now).unwrap();
        (*verified.header(), verified.payload().to_vec())
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Uplink { of_relay, after } => self.uplink(of_relay, after),
            Step::Downlink { to, sealing } => self.downlink(to, sealing),
            Step::Learn => {
                let key = DeviceKey { key_id: Some(KEY), root: RootKey::new([9; 32]) };
                self.keys.set_device(DEVICE, key, None);
            }
            Step::Pass { ms } => self.now = Timestamp(self.now.0 + ms),
            Step::Reserve => self.reserve(),
            Step::SetBack { ms } => self.now = Timestamp(self.now.0 - ms),
            Step::Write => self.write(),
            Step::Delete { of_relay } => {
                let id = if of_relay { RELAY } else { DEVICE };
                assert!(self.table.deregister(id));
                self.table.register(id, self.now);
            }
            Step::Restart { clean, ms } => {
                self.end(clean);
                self.now = Timestamp(self.now.0 + ms);
                if clean {
                    let from = Timestamp::from_gps(self.reserved);
                    // So soon is waited for.
                    if from <= self.now.after(Duration::from_secs(2)) {
                        self.now = self.now.max(from);
                    }
                }
                self.start();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_nonce_is_used_twice_whatever_is_said_and_however_often_the_gateway_starts_anew(
        sequences in any::<[u16; 2]>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut site = Site::new(sequences);
        steps.iter().for_each(|step| site.take(step));
        prop_assert_eq!(site.repeated, []);
    }
}

#[test]
fn downlinks_go_on_after_a_restart_once_the_time_of_the_process_before_has_passed() {
    let mut site = Site::new([7, 8]);
    let send = Step::Downlink { to: Where::Through, sealing: Sealing::Best };
    let hear = [false, true].map(|of_relay| Step::Uplink { of_relay, after: 1 });
    let mut sent = Vec::new();
    for restart in [None, Some((false, 0)), Some((false, 5_000)), Some((true, 0)), Some((true, 1_000))] {
        if let Some((clean, ms)) = restart {
            site.take(&Step::Restart { clean, ms });
        }
        hear.iter().chain([&send]).for_each(|step| site.take(step));
        sent.push(site.downlinks);
        site.take(&Step::Reserve);
        site.take(&Step::Pass { ms: 5_999 });
        site.take(&send);
        sent.push(site.downlinks);
        site.take(&Step::Pass { ms: 1 });
        site.take(&Step::Reserve);
        site.take(&send);
        sent.push(site.downlinks);
    }
    // At once, 5.999 s later and 6 s later: of the first process, after two kills, and after two clean stops.
    assert_eq!(sent, [1, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(site.repeated, []);
}
