//! Who may use the API: administrator keys.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The keys that open the API. Holds digests only: keys are random, so that a plain hash of them says nothing.
#[derive(Default)]
pub struct Access {
    credentials: Vec<Credential>,
    /// Waits of everybody, where there are no keys.
    waiting: Arc<AtomicUsize>,
}

struct Credential {
    digest: [u8; 32],
    waiting: Arc<AtomicUsize>,
}

/// Whoever made a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Waits with the same credential; of those at an endpoint without credentials, none.
    waiting: Option<&'a Arc<AtomicUsize>>,
    number: usize,
}

/// Places of waits within their caller's bound; given back on drop.
#[derive(Debug)]
pub struct WaitPlaces {
    waiting: Option<Arc<AtomicUsize>>,
    count: usize,
}

impl Access {
    /// No keys: everybody may. Only for loopback, which the configuration sees to.
    pub fn open() -> Self {
        Self::default()
    }

    /// Those who show one of `keys`. None: everybody may.
    pub fn of_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let credential = |key: &str| Credential { digest: sha256(key.as_bytes()), waiting: Arc::default() };
        Self { credentials: keys.into_iter().map(credential).collect(), ..Self::default() }
    }

    /// Whether everybody may.
    pub fn is_open(&self) -> bool {
        self.credentials.is_empty()
    }

    /// Who makes a request with these headers; `None` for a stranger.
    ///
    /// A key comes as `Authorization: ApiKey <key>`, `Authorization: Bearer <key>`, `x-api-key: Bearer <key>` or
    /// `x-api-key: <key>`. It takes the same time whichever key it is, and however close to one.
    pub fn admit(&self, headers: &HeaderMap) -> Option<Caller<'_>> {
        if self.is_open() {
            return Some(Caller { waiting: Some(&self.waiting), number: 0 });
        }
        let header = |name: HeaderName| headers.get(name).map(|value| value.as_bytes().trim_ascii());
        let keys = [
            header(AUTHORIZATION).and_then(|value| after_scheme(value, b"ApiKey")),
            header(AUTHORIZATION).and_then(|value| after_scheme(value, b"Bearer")),
            header(X_API_KEY).map(|value| after_scheme(value, b"Bearer").unwrap_or(value)),
        ];
        keys.into_iter().flatten().find_map(|key| self.credential(key))
    }

    fn credential(&self, key: &[u8]) -> Option<Caller<'_>> {
        let offered = sha256(key);
        let mut found = None;
        for (number, credential) in self.credentials.iter().enumerate() {
            if bool::from(credential.digest.ct_eq(&offered)) {
                found = Some(Caller { waiting: Some(&credential.waiting), number });
            }
        }
        found
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} keys)", self.credentials.len())
    }
}

impl Caller<'_> {
    /// Somebody at an endpoint that asks for no credentials. None of those waits.
    pub const fn anyone() -> Self {
        Self { waiting: None, number: 0 }
    }

    /// Different for each credential of this process.
    pub const fn number(self) -> usize {
        self.number
    }

    /// As many places to wait, unless the caller's credential would hold more than `limit` with them. Where there are no
    /// keys, everybody has the same.
    pub fn places_to_wait(self, count: usize, limit: usize) -> Option<WaitPlaces> {
        if let Some(waiting) = self.waiting {
            let take = |now: usize| now.checked_add(count).filter(|then| *then <= limit);
            waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        }
        Some(WaitPlaces { waiting: self.waiting.cloned(), count })
    }
}

impl Drop for WaitPlaces {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.fetch_sub(self.count, Ordering::Relaxed);
        }
    }
}

/// What follows `scheme` and a space.
fn after_scheme<'v>(value: &'v [u8], scheme: &[u8]) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    let key = rest.strip_prefix(b" ")?.trim_ascii();
    head.eq_ignore_ascii_case(scheme).then_some(key)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn two_keys() -> Access {
        Access::of_keys(["ik_first_0123456789", "ik_second_0123456789"])
    }

    fn admitted(access: &Access, name: &'static str, value: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        access.admit(&headers).is_some()
    }

    #[test]
    fn a_key_opens_in_each_of_its_forms_and_nothing_else_does() {
        let access = two_keys();
        for (name, value) in [
            ("authorization", "ApiKey ik_first_0123456789"),
            ("authorization", "apikey ik_second_0123456789"),
            ("authorization", "Bearer  ik_second_0123456789"),
            ("x-api-key", "Bearer ik_first_0123456789"),
            ("x-api-key", "ik_second_0123456789"),
        ] {
            assert!(admitted(&access, name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("authorization", "ik_first_0123456789"),
            ("authorization", "Basic ik_first_0123456789"),
            ("authorization", "ApiKey ik_first_012345678"),
            ("authorization", "ApiKey ik_first_01234567890"),
            ("authorization", "ApiKeyik_first_0123456789"),
            ("authorization", "ApiKey "),
            ("authorization", ""),
            ("x-api-key", "ApiKey ik_first_0123456789"),
            ("x-api-key", "# operators"),
            ("cookie", "ik_first_0123456789"),
        ] {
            assert!(!admitted(&access, name, value), "{name}: {value}");
        }
        assert!(access.admit(&HeaderMap::new()).is_none());
        assert!(Access::open().admit(&HeaderMap::new()).is_some());
        assert_eq!(format!("{access:?}"), "Access(2 keys)");
    }

    #[test]
    fn waits_are_bounded_for_each_key_alone() {
        let access = two_keys();
        let caller = |key: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_API_KEY, HeaderValue::from_static(key));
            access.admit(&headers).unwrap()
        };
        let first = caller("ik_first_0123456789").places_to_wait(1, 1).unwrap();
        assert!(caller("ik_first_0123456789").places_to_wait(1, 1).is_none());
        assert!(caller("ik_second_0123456789").places_to_wait(1, 1).is_some());
        drop(first);
        assert!(caller("ik_first_0123456789").places_to_wait(1, 1).is_some());
    }

    #[test]
    fn without_keys_everybody_shares_one_bound() {
        let access = Access::open();
        let places = |count| access.admit(&HeaderMap::new()).unwrap().places_to_wait(count, 3);
        let first = places(1).unwrap();
        let second = places(2).unwrap();
        assert!(places(1).is_none());
        drop(second);
        assert!(places(3).is_none() && places(usize::MAX).is_none());
        drop(first);
        assert!(places(4).is_none());
        assert!(places(3).is_some());
    }
}
