//! The gateway's own downlink nonces: made so that a downlink that comes back is recognised without memory (rule R2).
//!
//! The 16-bit entropy of a downlink is a keyed function of device, time and sequence. One genuine uplink in 65 536 has
//! the same by chance, so for times within this process's life a match counts only if it was really sent.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use ring::hmac;

use super::keys::{KeyPair, RootKey};
use crate::clock::Timestamp;
use crate::id::DeviceId;

/// Downlinks remembered exactly. Beyond them the match alone decides, as for those of earlier processes: 65 536 are about
/// 3 MiB, and a minute of 1 000 downlinks a second.
const REMEMBERED: usize = 65_536;

type Sent = (DeviceId, u32, u16);

/// Makes and recognises downlink nonces.
pub struct OwnNonces {
    key: hmac::Key,
    /// GPS second before which another process may have sent.
    started: u32,
    sent: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    order: VecDeque<Sent>,
    set: HashSet<Sent, foldhash::fast::RandomState>,
    /// GPS second up to which something was forgotten.
    forgotten: u32,
}

impl OwnNonces {
    /// For the gateway that owns `pair`, started at `now`.
    pub fn new(pair: &KeyPair, now: Timestamp) -> Self {
        let secret = RootKey::new(*pair.private());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.derive(b"lastroute", b"downlink entropy"));
        Self { key, started: now.gps(), sent: Mutex::default() }
    }

    /// The entropy of the downlink of (device, gps time, sequence).
    pub fn entropy(&self, device: DeviceId, gps_time: u32, sequence: u16) -> u16 {
        let mut message = [0; 14];
        message[..8].copy_from_slice(&device.0.to_le_bytes());
        message[8..12].copy_from_slice(&gps_time.to_le_bytes());
        message[12..].copy_from_slice(&sequence.to_le_bytes());
        match hmac::sign(&self.key, &message).as_ref() {
            [low, high, ..] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        }
    }

    /// Remembers a downlink that is about to be sent, of a type that is legal both ways.
    pub fn remember(&self, device: DeviceId, gps_time: u32, sequence: u16) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.order.len() == REMEMBERED
            && let Some(oldest) = sent.order.pop_front()
        {
            sent.set.remove(&oldest);
            sent.forgotten = sent.forgotten.max(oldest.1);
        }
        sent.order.push_back((device, gps_time, sequence));
        sent.set.insert((device, gps_time, sequence));
    }

    /// Whether an authentic uplink of a type that is legal both ways is one of our own downlinks.
    pub fn is_own(&self, device: DeviceId, gps_time: u32, sequence: u16, entropy: u16) -> bool {
        if self.entropy(device, gps_time, sequence) != entropy {
            return false;
        }
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        gps_time < self.started || gps_time <= sent.forgotten || sent.set.contains(&(device, gps_time, sequence))
    }
}

impl fmt::Debug for OwnNonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(42);

    fn nonces(private: u8, started: u32) -> OwnNonces {
        OwnNonces::new(&KeyPair::from_private([private; 32]), Timestamp::from_gps(started))
    }

    #[test]
    fn what_was_sent_is_recognised_by_this_process_and_by_the_next() {
        let first = nonces(1, 1000);
        let entropy = first.entropy(DEVICE, 1500, 7);
        assert!(!first.is_own(DEVICE, 1500, 7, entropy), "matches by chance, was never sent");
        first.remember(DEVICE, 1500, 7);
        assert!(first.is_own(DEVICE, 1500, 7, entropy));
        assert!(!first.is_own(DEVICE, 1500, 7, entropy ^ 1));
        assert!(nonces(1, 2000).is_own(DEVICE, 1500, 7, entropy), "before its start the match decides");
        assert!(
            !nonces(2, 2000).is_own(DEVICE, 1500, 7, entropy) || nonces(2, 2000).entropy(DEVICE, 1500, 7) == entropy
        );
    }

    #[test]
    fn memory_is_bounded_and_what_falls_out_is_decided_by_the_match() {
        let nonces = nonces(1, 1000);
        for count in 0..=u32::from(u16::MAX) + 1 {
            nonces.remember(DEVICE, 1001 + count, 0);
        }
        assert_eq!(nonces.sent.lock().unwrap().order.len(), REMEMBERED);
        assert!(nonces.is_own(DEVICE, 1001, 0, nonces.entropy(DEVICE, 1001, 0)));
        assert!(!nonces.is_own(DEVICE, 1002, 1, nonces.entropy(DEVICE, 1002, 1)));
    }
}
