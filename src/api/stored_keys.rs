//! API keys that were made over the API: what the requests of this process need of them.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::registry::StoredKey;
use crate::status::Time;

use super::access::{Caller, Credential, Scope};
use super::error::ApiError;

/// Bytes of a digest by which a key is looked up. How long that takes tells nothing of the rest, and keys that share so much
/// are told apart by all of it.
const PREFIX: usize = 8;

/// The stored keys, by the beginning of their digest.
#[derive(Debug, Default)]
pub(super) struct StoredKeys(RwLock<HashMap<[u8; PREFIX], Vec<Known>>>);

#[derive(Debug)]
struct Known {
    id: Uuid,
    digest: [u8; 32],
    caller: Caller,
}

impl StoredKeys {
    pub(super) fn add(&self, stored: &StoredKey) {
        let scope = match stored.key.organisation_id {
            Some(id) => Scope::Organisation { id, number: stored.organisation },
            None => Scope::All,
        };
        let expires_at = stored.key.expires_at.map(|Time(at)| at);
        let caller = Caller::new(Credential::new(), scope, stored.key.access).until(expires_at);
        let known = Known { id: stored.key.id, digest: stored.digest, caller };
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.entry(prefix(&stored.digest)).or_default().push(known);
    }

    pub(super) fn remove(&self, id: Uuid) {
        self.revoke(|known| known.id == id);
    }

    pub(super) fn forget_expired(&self, now: Timestamp) {
        self.revoke(|known| known.caller.expires_at().is_some_and(|at| at <= now));
    }

    fn revoke(&self, which: impl Fn(&Known) -> bool) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, sharing| {
            sharing.extract_if(.., |known| which(known)).for_each(|known| known.caller.revoke());
            !sharing.is_empty()
        });
    }

    /// Who shows the key with this digest at `now`.
    ///
    /// # Errors
    /// It is unknown, or expired.
    pub(super) fn find(&self, digest: &[u8; 32], now: Timestamp) -> Result<Caller, ApiError> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let sharing = keys.get(&prefix(digest)).into_iter().flatten();
        let mut found = sharing.filter(|known| bool::from(known.digest.ct_eq(digest)));
        let known = found.next().ok_or(ApiError::Unauthorized)?;
        match known.caller.expires_at() {
            Some(at) if at <= now => Err(ApiError::ExpiredKey),
            _ => Ok(known.caller.clone()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }
}

fn prefix(digest: &[u8; 32]) -> [u8; PREFIX] {
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{AccessLevel, ApiKey};

    const NOW: Timestamp = Timestamp(1_795_402_800_123);

    fn stored(id: u128, digest: [u8; 32], expires_at: Option<u64>) -> StoredKey {
        let key = ApiKey {
            id: Uuid::from_u128(id),
            created_at: Time(Timestamp(0)),
            name: "reports".to_owned(),
            organisation_id: Some(Uuid::from_u128(100 + id)),
            access: AccessLevel::Read,
            expires_at: expires_at.map(|at| Time(Timestamp(at))),
        };
        StoredKey { key, digest, organisation: id as u32 }
    }

    fn number(keys: &StoredKeys, digest: [u8; 32]) -> Result<u32, ApiError> {
        keys.find(&digest, NOW).map(|caller| match caller.scope() {
            Scope::Organisation { number, .. } => number,
            Scope::All => 0,
        })
    }

    #[test]
    fn keys_whose_digests_begin_alike_are_told_apart_by_all_of_them() {
        let keys = StoredKeys::default();
        let (mut first, mut second, mut third) = ([7; 32], [7; 32], [7; 32]);
        (first[31], second[31], third[31]) = (1, 2, 3);
        keys.add(&stored(1, first, None));
        keys.add(&stored(2, second, None));
        assert_eq!((number(&keys, first), number(&keys, second)), (Ok(1), Ok(2)));
        assert_eq!(number(&keys, third), Err(ApiError::Unauthorized));
        keys.remove(Uuid::from_u128(1));
        assert_eq!((number(&keys, first), number(&keys, second)), (Err(ApiError::Unauthorized), Ok(2)));
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn a_key_is_worthless_from_the_moment_it_expires() {
        let keys = StoredKeys::default();
        keys.add(&stored(1, [1; 32], Some(NOW.0 + 1)));
        keys.add(&stored(2, [2; 32], Some(NOW.0)));
        assert_eq!((number(&keys, [1; 32]), number(&keys, [2; 32])), (Ok(1), Err(ApiError::ExpiredKey)));
    }

    #[test]
    fn expired_keys_are_forgotten_when_told_to() {
        let keys = StoredKeys::default();
        for (id, expires_at) in [(1, None), (2, Some(NOW.0)), (3, Some(NOW.0 + 1))] {
            keys.add(&stored(id, [id as u8; 32], expires_at));
        }
        keys.forget_expired(NOW);
        assert_eq!((keys.len(), number(&keys, [2; 32])), (2, Err(ApiError::Unauthorized)));
        assert_eq!((number(&keys, [1; 32]), number(&keys, [3; 32])), (Ok(1), Ok(3)));
    }

    #[test]
    fn requests_with_the_same_key_share_its_bound_of_waits() {
        let keys = StoredKeys::default();
        keys.add(&stored(1, [1; 32], None));
        keys.add(&stored(2, [2; 32], None));
        let caller = |digest| keys.find(&digest, NOW).unwrap();
        let _held = caller([1; 32]).places_to_wait(1, 1).unwrap();
        assert!(caller([1; 32]).places_to_wait(1, 1).is_none());
        assert!(caller([2; 32]).places_to_wait(1, 1).is_some());
        assert_ne!(caller([1; 32]).number(), caller([2; 32]).number());
    }
}
