//! What a gateway should make of the packets of one device that leave for it. Pure.
//!
//! The simplest reckoning that is right for a device the gateway has not heard before, which boots once and whose boot is
//! the first of its packets to leave. It shares no code with the rules of the gateway, so that each checks the other, but for
//! [`TimeClass`](crate::table::rules::TimeClass), which tells whoever asks which times are fresh.

use std::collections::HashSet;

use super::Count;

/// Sequences behind the newest that a gateway still tells from copies.
const REACH: i16 = 63;
/// Sequences that a gateway takes for a gap. After a greater one it sees another session.
const GAP: i16 = 1024;

/// A packet that leaves for the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// Its device has the time.
    pub(super) fresh: bool,
    /// Its time.
    pub(super) gps_time: u32,
    /// Its sequence.
    pub(super) sequence: u16,
    /// It was there before.
    pub(super) copy: bool,
}

/// What a gateway knows of one device: 8 bytes, for each of a million.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expectation {
    /// When its session began; 0 before.
    since: u32,
    newest: u16,
}

impl Expectation {
    /// What the gateway should count the packet as.
    pub(super) fn of(&mut self, packet: &Leaving) -> Count {
        let in_time = if packet.copy { Count::ToDuplicate } else { Count::ToAccept };
        if !packet.fresh {
            return in_time;
        }
        let ahead = packet.sequence.wrapping_sub(self.newest).cast_signed();
        if self.since == 0 || ahead > GAP {
            *self = Self { since: packet.gps_time, newest: packet.sequence };
        } else if ahead > 0 {
            self.newest = packet.sequence;
        } else if ahead < -REACH || packet.gps_time < self.since {
            return Count::TooLate;
        }
        in_time
    }
}

/// Packets that the kernel did not take while a copy of them is still to leave: for the gateway that is the first of them.
#[derive(Debug, Default)]
pub(super) struct Refused(HashSet<(u32, u16)>);

impl Refused {
    /// Notes a packet with a given sequence of the device at place `at`.
    pub(super) fn note(&mut self, at: u32, sequence: u16) {
        self.0.insert((at, sequence));
    }

    /// Whether it was noted; no longer from then on.
    pub(super) fn take(&mut self, at: u32, sequence: u16) -> bool {
        self.0.remove(&(at, sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys::{Interface, KeyRing, RootKey};
    use crate::auth::{Authenticator, seal_with};
    use crate::clock::Timestamp;
    use crate::id::{DeviceId, KeyId};
    use crate::table::route::{self, Outcome, Path};
    use crate::table::rules::Step;
    use crate::table::{Packet, RouteTable, TableConfig};
    use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

    const NOW: u32 = 1_479_435_219;

    fn packet(gps_time: u32, sequence: u16) -> Leaving {
        Leaving { fresh: true, gps_time, sequence, copy: false }
    }

    #[test]
    fn what_is_overtaken_counts_unless_it_is_far_behind_or_older_than_the_session() {
        let mut device = Expectation::default();
        let mut of = |gps_time, sequence| device.of(&packet(gps_time, sequence));
        assert_eq!(of(NOW, 2), Count::ToAccept, "the first to arrive begins the session");
        assert_eq!((of(NOW, 1), of(NOW - 1, 0)), (Count::ToAccept, Count::TooLate));
        assert_eq!((of(NOW + 9, 80), of(NOW, 17), of(NOW, 16)), (Count::ToAccept, Count::ToAccept, Count::TooLate));
        assert_eq!((of(NOW + 9, 80 + 1025), of(NOW + 8, 79)), (Count::ToAccept, Count::TooLate), "another session");
    }

    #[test]
    fn what_was_refused_is_known_until_its_copy_leaves() {
        let mut refused = Refused::default();
        refused.note(1, 7);
        assert_eq!(
            [(2, 7), (1, 8), (1, 7), (1, 7)].map(|(at, sequence)| refused.take(at, sequence)),
            [false, false, true, false]
        );
    }

    #[test]
    fn copies_and_packets_without_time_are_told_apart_by_what_they_are() {
        let mut device = Expectation::default();
        let without_time = Leaving { fresh: false, ..packet(5, 0) };
        assert_eq!(device.of(&without_time), Count::ToAccept);
        assert_eq!(device.of(&Leaving { copy: true, ..without_time }), Count::ToDuplicate);
        assert_eq!((device.of(&packet(NOW, 4)), device.of(&packet(NOW - 9, 3))), (Count::ToAccept, Count::TooLate));
    }

    /// Random histories of a device, through the reckoning and through a real table.
    #[test]
    fn a_real_table_agrees_over_random_losses_copies_and_overtakings() {
        let (root, network) = (RootKey::new([3; 32]), KeyId::from_le_bytes([1, 0, 0]));
        let ring = KeyRing::default();
        ring.set_network(network, root.clone());
        let path = Path::Direct("192.0.2.1:6200".parse().unwrap());
        let mut seen = [0; 3];
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let table = RouteTable::new(&TableConfig::default());
            let (mut authenticator, mut expectation) = (Authenticator::default(), Expectation::default());
            let without_time = random.u16(0..4);
            // (when it leaves, in quarters of a second, what)
            let mut leaving = Vec::new();
            for sequence in 0..60_u16 {
                if random.f64() < 0.3 {
                    continue;
                }
                let fresh = sequence >= without_time;
                let gps_time = u32::from(sequence / 4) + if fresh { NOW } else { 1_261_872_018 };
                // The boot is never held back.
                let hold = if sequence > 0 && random.f64() < 0.3 { random.u32(..30) } else { 0 };
                let left = u32::from(sequence) + hold;
                let first = Leaving { fresh, gps_time, sequence, copy: false };
                leaving.push((left, first));
                if random.f64() < 0.3 {
                    leaving.push((left + random.u32(..3), Leaving { copy: true, ..first }));
                }
            }
            leaving.sort_by_key(|(left, _)| *left);
            for (left, packet) in leaving {
                let (gps_time, sequence) = (packet.gps_time, packet.sequence);
                let packet_type = if sequence == 0 { PacketType::KEY_IDS } else { PacketType::TDF };
                let (flags, device_id) = (Flags(0), DeviceId(7));
                let header =
                    Header { packet_type, flags, key_id: network, device_id, gps_time, sequence, entropy: sequence };
                let mut bytes = Vec::new();
                let key = root.day_key(Interface::Udp, header.rotation());
                seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
                let at = Timestamp::from_gps(NOW + left / 4);
                let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
                let verified = &authenticator.open(&ring, frame, Interface::Udp, at).unwrap();
                let outcome = table.record(&Packet::new(verified, &path, at));
                let counted = match outcome {
                    Outcome::Counted(_) => Count::ToAccept,
                    Outcome::Refused(route::Refused { step: Step::TooOld, .. }) => Count::TooLate,
                    Outcome::Refused(_) => Count::ToDuplicate,
                    Outcome::NotRegistered => panic!("the table serves everybody"),
                };
                assert_eq!(counted, expectation.of(&packet), "seed {seed}, sequence {sequence} at {left}");
                seen[match counted {
                    Count::ToAccept => 0,
                    Count::ToDuplicate => 1,
                    _ => 2,
                }] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
    }
}
