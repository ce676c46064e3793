//! Challenges that show that a device is reached at an address (rule R6): what it is asked to echo. They need no memory but for
//! who was asked of late.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;
use lru::LruCache;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::route::canonical;

/// Bytes of a cookie: one in 2^64 guesses is right.
pub const COOKIE_LEN: usize = 8;
/// A cookie is of one of these, and a device is asked at most once in as long at one address.
const SLOT_MS: u64 = 10_000;
/// Devices and addresses that are remembered as asked: 65 536 are about 8 MiB. The one asked first makes room.
const REMEMBERED: usize = 65_536;

/// Makes and recognises cookies.
pub struct Cookies {
    /// Of this process: nobody answers over a restart.
    key: hmac::Key,
    asked: Mutex<LruCache<(DeviceId, SocketAddr), Timestamp, RandomState>>,
}

impl Default for Cookies {
    fn default() -> Self {
        let mut secret = [0; 32];
        #[allow(clippy::expect_used, reason = "a system without random bytes can keep nothing secret")]
        SystemRandom::new().fill(&mut secret).expect("random bytes");
        let asked = Mutex::new(LruCache::unbounded_with_hasher(RandomState::default()));
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), asked }
    }
}

impl Cookies {
    /// The payload of an ECHO_REQ that asks whether `device` is at `address`; `None` if that was asked less than 10 s ago.
    pub fn ask(&self, device: DeviceId, address: SocketAddr, now: Timestamp) -> Option<[u8; COOKIE_LEN]> {
        let address = canonical(address);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.peek(&(device, address)).is_some_and(|at| now.0.abs_diff(at.0) < SLOT_MS) {
            return None;
        }
        if asked.put((device, address), now).is_none() && asked.len() > REMEMBERED {
            asked.pop_lru();
        }
        Some(self.cookie(device, address, now.0 / SLOT_MS))
    }

    /// Whether `payload`, echoed by `device` from `address`, is a cookie for both that is not older than 10 to 20 s.
    pub fn verify(&self, device: DeviceId, address: SocketAddr, payload: &[u8], now: Timestamp) -> bool {
        let (address, slot) = (canonical(address), now.0 / SLOT_MS);
        [slot, slot.wrapping_sub(1)].iter().any(|slot| payload.ct_eq(&self.cookie(device, address, *slot)).into())
    }

    fn cookie(&self, device: DeviceId, address: SocketAddr, slot: u64) -> [u8; COOKIE_LEN] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&device.0.to_le_bytes());
        context.update(&slot.to_le_bytes());
        context.update(&address.port().to_le_bytes());
        match address.ip() {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        let mut cookie = [0; COOKIE_LEN];
        cookie.copy_from_slice(&context.sign().as_ref()[..COOKIE_LEN]);
        cookie
    }
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(42);
    const NOW: Timestamp = Timestamp(1_795_402_800_000);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn later(ms: u64) -> Timestamp {
        Timestamp(NOW.0 + ms)
    }

    #[test]
    fn a_cookie_is_good_for_its_device_and_address_for_10_to_20_s() {
        let cookies = Cookies::default();
        let here = address("203.0.113.7:6200");
        let cookie = cookies.ask(DEVICE, here, NOW).unwrap();
        let mapped = address("[::ffff:203.0.113.7]:6200");
        assert!([here, mapped].iter().all(|from| cookies.verify(DEVICE, *from, &cookie, later(19_999))));
        assert!(!cookies.verify(DEVICE, here, &cookie, later(20_000)));
        assert!(!cookies.verify(DeviceId(43), here, &cookie, NOW));
        for elsewhere in ["203.0.113.7:6201", "203.0.113.8:6200", "[2001:db8::7]:6200"] {
            assert!(!cookies.verify(DEVICE, address(elsewhere), &cookie, NOW));
        }
        for other in [&[][..], &cookie[..7], &[&cookie[..], &[0]].concat(), &[0; 8]] {
            assert!(!cookies.verify(DEVICE, here, other, NOW));
        }
        assert!(!Cookies::default().verify(DEVICE, here, &cookie, NOW), "of another process");
        assert!(!cookies.verify(DEVICE, here, &cookie, Timestamp(0)));
    }

    #[test]
    fn a_device_is_asked_at_one_address_once_in_10_s() {
        let cookies = Cookies::default();
        let (here, there) = (address("203.0.113.7:6200"), address("203.0.113.8:6200"));
        assert!(cookies.ask(DEVICE, here, NOW).is_some());
        assert_eq!([0, 9_999].map(|ms| cookies.ask(DEVICE, here, later(ms))), [None, None]);
        assert!(cookies.ask(DEVICE, there, NOW).is_some() && cookies.ask(DeviceId(43), here, NOW).is_some());
        assert!(cookies.ask(DEVICE, here, later(10_000)).is_some());
    }

    #[test]
    fn whoever_was_asked_first_makes_room() {
        let cookies = Cookies::default();
        let here = address("203.0.113.7:6200");
        for id in 0..=REMEMBERED as u64 {
            assert!(cookies.ask(DeviceId(id), here, NOW).is_some());
        }
        assert_eq!(cookies.asked.lock().unwrap().len(), REMEMBERED);
        assert!(cookies.ask(DeviceId(1), here, NOW).is_none() && cookies.ask(DeviceId(0), here, NOW).is_some());
    }

    #[test]
    fn nothing_prints_the_key() {
        assert_eq!(format!("{:?}", Cookies::default()), "***");
    }
}
