//! Challenges that show that a device is reached at a place (rule R6): what it is asked to echo. They need no memory; who was
//! asked of late, and how often, is the table's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::contest::Place;
use crate::table::route::canonical;
use crate::wire::frame::Level;

/// Bytes of a cookie: one in 2^64 guesses is right.
pub const COOKIE_LEN: usize = 8;
/// A cookie is of one of these, and good until the end of the next one.
const SLOT_MS: u64 = 10_000;

/// Makes and recognises cookies.
pub struct Cookies {
    /// Of this process: nobody answers over a restart.
    key: hmac::Key,
}

impl Default for Cookies {
    fn default() -> Self {
        let mut secret = [0; 32];
        #[allow(clippy::expect_used, reason = "a system without random bytes can keep nothing secret")]
        SystemRandom::new().fill(&mut secret).expect("random bytes");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret) }
    }
}

impl Cookies {
    /// The payload of an ECHO_REQ that asks whether `device` is at `place`, which is to be sealed at this level.
    pub fn make(&self, device: DeviceId, place: &Place, level: Level, now: Timestamp) -> [u8; COOKIE_LEN] {
        self.cookie(device, place, level, now.0 / SLOT_MS)
    }

    /// The level at which the challenge was sealed that `payload` echoes, if it is a cookie for `device` at `place` that is
    /// not older than 10 to 20 s. Whoever knows the cookie could open that challenge.
    pub fn verify(&self, device: DeviceId, place: &Place, payload: &[u8], now: Timestamp) -> Option<Level> {
        let slot = now.0 / SLOT_MS;
        [Level::Device, Level::Network].into_iter().find(|level| {
            let is_of = |slot| payload.ct_eq(&self.cookie(device, place, *level, slot)).into();
            is_of(slot) || is_of(slot.wrapping_sub(1))
        })
    }

    fn cookie(&self, device: DeviceId, place: &Place, level: Level, slot: u64) -> [u8; COOKIE_LEN] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&device.0.to_le_bytes());
        context.update(&slot.to_le_bytes());
        context.update(&[u8::from(level == Level::Device)]);
        // Each kind of place begins with a byte of its own, and has one length.
        match *place {
            Place::Direct(address) => sign_address(&mut context, canonical(address)),
            Place::Relayed { relay, bt } => {
                context.update(&[2]);
                context.update(&relay.0.to_le_bytes());
                let (is_there, kind, bytes) = bt.map_or((0, 0, [0; 6]), |bt| (1, bt.kind, bt.bytes));
                context.update(&[is_there, kind]);
                context.update(&bytes);
            }
        }
        let mut cookie = [0; COOKIE_LEN];
        cookie.copy_from_slice(&context.sign().as_ref()[..COOKIE_LEN]);
        cookie
    }
}

fn sign_address(context: &mut hmac::Context, address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    context.update(&[1]);
    context.update(&ip.octets());
    context.update(&address.port().to_le_bytes());
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::container::BtAddress;

    const DEVICE: DeviceId = DeviceId(42);
    const NOW: Timestamp = Timestamp(1_795_402_800_000);
    const BT: BtAddress = BtAddress { kind: 1, bytes: [1, 2, 3, 4, 5, 0xc6] };

    fn direct(text: &str) -> Place {
        Place::Direct(text.parse().unwrap())
    }

    fn relayed(relay: u64, bt: Option<BtAddress>) -> Place {
        Place::Relayed { relay: DeviceId(relay), bt }
    }

    fn later(ms: u64) -> Timestamp {
        Timestamp(NOW.0 + ms)
    }

    #[test]
    fn a_cookie_is_good_for_its_device_and_place_for_10_to_20_s_and_tells_its_level() {
        let cookies = Cookies::default();
        let places = [
            direct("203.0.113.7:6200"),
            direct("203.0.113.7:6201"),
            direct("203.0.113.8:6200"),
            direct("[2001:db8::7]:6200"),
            relayed(1, None),
            relayed(1, Some(BT)),
            relayed(2, Some(BT)),
            relayed(1, Some(BtAddress { kind: 0, ..BT })),
        ];
        for here in &places {
            for level in [Level::Network, Level::Device] {
                let cookie = cookies.make(DEVICE, here, level, NOW);
                assert_eq!(cookies.verify(DEVICE, here, &cookie, later(19_999)), Some(level));
                assert_eq!(cookies.verify(DEVICE, here, &cookie, later(20_000)), None);
                assert_eq!(cookies.verify(DeviceId(43), here, &cookie, NOW), None);
                for place in places.iter().filter(|place| *place != here) {
                    assert_eq!(cookies.verify(DEVICE, place, &cookie, NOW), None, "{place:?}");
                }
                for other in [&[][..], &cookie[..7], &[&cookie[..], &[0]].concat(), &[0; 8]] {
                    assert_eq!(cookies.verify(DEVICE, here, other, NOW), None);
                }
                assert_eq!(Cookies::default().verify(DEVICE, here, &cookie, NOW), None, "of another process");
                assert_eq!(cookies.verify(DEVICE, here, &cookie, Timestamp(0)), None);
            }
        }
    }

    #[test]
    fn an_address_has_one_cookie_in_each_of_its_forms() {
        let cookies = Cookies::default();
        let [here, mapped] = ["203.0.113.7:6200", "[::ffff:203.0.113.7]:6200"].map(direct);
        let cookie = cookies.make(DEVICE, &here, Level::Network, NOW);
        assert_eq!(cookies.verify(DEVICE, &mapped, &cookie, NOW), Some(Level::Network));
    }

    #[test]
    fn nothing_prints_the_key() {
        assert_eq!(format!("{:?}", Cookies::default()), "***");
    }
}
