//! Who may use the API, and what of it: administrator keys, stored keys, tokens, and what each kind of caller may do.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::records::AccessLevel;
use crate::registry::StoredKey;

use super::error::ApiError;
use super::router::Needs;
use super::stored_keys::StoredKeys;
use super::tokens::{Grant, TokenRules, Tokens};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What every API key begins with, and no token.
const KEY_PREFIX: &[u8] = b"ik";

/// The credentials that open the API. Holds digests of keys only: keys are random, so that a plain hash of them says
/// nothing.
#[derive(Default)]
pub struct Access {
    administrators: Vec<([u8; 32], Arc<Credential>)>,
    stored: StoredKeys,
    tokens: Option<Tokens>,
    /// Of everybody, where nothing is configured.
    everybody: Arc<Credential>,
    changes: Mutex<()>,
}

/// Those who show the same key, or tokens of the same subject.
#[derive(Debug, Default)]
pub(super) struct Credential {
    /// Different for each credential of this process.
    number: usize,
    /// How many of them wait.
    waiting: AtomicUsize,
    /// Whether it was taken back.
    revoked: watch::Sender<bool>,
}

impl Credential {
    /// Numbers that no other credential has.
    pub(super) fn new() -> Arc<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        Arc::new(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), ..Self::default() })
    }
}

/// Whoever made a request, and what that one may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `None` at an endpoint without credentials, where nobody waits.
    credential: Option<Arc<Credential>>,
    scope: Scope,
    level: AccessLevel,
    /// From when on the credentials are worthless.
    expires_at: Option<Timestamp>,
}

/// Whose records a caller works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of everybody.
    All,
    /// Those of one organisation, and what others made public.
    Organisation {
        /// Its record.
        id: Uuid,
        /// Its number in [`crate::table::Registration`].
        number: u32,
    },
}

/// Whom the credentials of a request show.
#[derive(Debug)]
pub enum Admission {
    /// One of whom all is known.
    Caller(Caller),
    /// The bearer of a token for one organisation, of which only the registry knows whether it exists.
    Token(Bearer),
}

/// The bearer of a token for one organisation.
#[derive(Debug)]
pub struct Bearer {
    organisation: Uuid,
    /// Who it is, but for the organisation.
    caller: Caller,
}

/// Places of waits within their caller's bound; given back on drop.
#[derive(Debug)]
pub struct WaitPlaces {
    credential: Option<Arc<Credential>>,
    count: usize,
}

impl Access {
    /// No credentials: everybody may do everything. Only for loopback, which the configuration sees to.
    pub fn open() -> Self {
        Self::default()
    }

    /// Administrators show one of `keys`. None, and no tokens: everybody may do everything.
    pub fn of_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let administrator = |key: &str| (sha256(key.as_bytes()), Credential::new());
        Self { administrators: keys.into_iter().map(administrator).collect(), ..Self::default() }
    }

    /// Also admits the bearers of tokens that keep to `rules`, if there are any.
    pub fn with_tokens(self, rules: Option<TokenRules>) -> Self {
        Self { tokens: rules.map(Tokens::new), ..self }
    }

    /// Whether everybody may do everything: neither an administrator key nor a key of tokens is configured. Stored keys do
    /// not change that; without an administrator nobody could make one.
    pub fn is_open(&self) -> bool {
        self.administrators.is_empty() && self.tokens.is_none()
    }

    /// Who makes any request, where everybody may do everything.
    pub(super) fn everybody(&self) -> Option<Caller> {
        self.is_open().then(|| Caller::administrator(&self.everybody))
    }

    /// To be held while a stored key is made or deleted, so that what is written and what is in force go in one order.
    pub(super) fn changes(&self) -> &Mutex<()> {
        &self.changes
    }

    /// From now on a stored key is as good as its record says.
    pub fn add(&self, key: &StoredKey) {
        self.stored.add(key);
    }

    /// Drops the stored keys that have expired at `now`. From then on they are unknown.
    pub(super) fn forget_expired(&self, now: Timestamp) {
        self.stored.forget_expired(now);
    }

    /// From the next request on the stored key of this record is unknown. Streams with it end, and a wait is told nothing
    /// any more.
    pub fn remove(&self, id: Uuid) {
        self.stored.remove(id);
    }

    /// Who makes a request with these headers at `now`.
    ///
    /// A key or token comes as `Authorization: ApiKey <key>`, `Authorization: Bearer <key or token>`, `x-api-key: Bearer
    /// <key or token>` or `x-api-key: <key or token>`. It takes the same time whichever key it is, and however close to
    /// one.
    ///
    /// # Errors
    /// Nothing that is known, or no longer, or not yet.
    pub fn admit(&self, headers: &HeaderMap, now: Timestamp) -> Result<Admission, ApiError> {
        if let Some(everybody) = self.everybody() {
            return Ok(Admission::Caller(everybody));
        }
        let header = |name: HeaderName| headers.get(name).map(|value| value.as_bytes().trim_ascii());
        let shown = [
            header(AUTHORIZATION).and_then(|value| after_scheme(value, b"ApiKey")),
            header(AUTHORIZATION).and_then(|value| after_scheme(value, b"Bearer")),
            header(X_API_KEY).map(|value| after_scheme(value, b"Bearer").unwrap_or(value)),
        ];
        let mut refused = ApiError::Unauthorized;
        for shown in shown.into_iter().flatten() {
            match self.recognise(shown, now) {
                Ok(admission) => return Ok(admission),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn recognise(&self, shown: &[u8], now: Timestamp) -> Result<Admission, ApiError> {
        match &self.tokens {
            Some(tokens) if !shown.starts_with(KEY_PREFIX) => {
                let grant = tokens.check(shown, now)?;
                let credential = tokens.credential(&grant);
                Ok(Admission::of_token(grant, credential))
            }
            _ => self.key(&sha256(shown), now).map(Admission::Caller),
        }
    }

    fn key(&self, offered: &[u8; 32], now: Timestamp) -> Result<Caller, ApiError> {
        let mut found = None;
        for (digest, credential) in &self.administrators {
            if bool::from(digest.ct_eq(offered)) {
                found = Some(credential);
            }
        }
        match found {
            Some(credential) => Ok(Caller::administrator(credential)),
            None => self.stored.find(offered, now),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} keys, {} stored)", self.administrators.len(), self.stored.len())
    }
}

impl Admission {
    fn of_token(grant: Grant, credential: Arc<Credential>) -> Self {
        let caller = Caller::new(credential, Scope::All, grant.level).until(Some(grant.expires_at));
        match grant.organisation {
            None => Self::Caller(caller),
            Some(organisation) => Self::Token(Bearer { organisation, caller }),
        }
    }
}

impl Bearer {
    /// The organisation that the token names.
    pub const fn organisation(&self) -> Uuid {
        self.organisation
    }

    /// The caller, given the organisation's number in the registry.
    ///
    /// # Errors
    /// There is no such organisation.
    pub fn of(self, number: Option<u32>) -> Result<Caller, ApiError> {
        let id = self.organisation;
        let number = number.ok_or(ApiError::TokenOrganisation(id))?;
        Ok(Caller { scope: Scope::Organisation { id, number }, ..self.caller })
    }
}

impl Caller {
    pub(super) const fn new(credential: Arc<Credential>, scope: Scope, level: AccessLevel) -> Self {
        Self { credential: Some(credential), scope, level, expires_at: None }
    }

    /// The same caller, whose credentials are worthless from then on.
    pub(super) fn until(self, expires_at: Option<Timestamp>) -> Self {
        Self { expires_at, ..self }
    }

    /// Takes the credential back, which ends the streams with it.
    pub(super) fn revoke(&self) {
        if let Some(credential) = &self.credential {
            credential.revoked.send_replace(true);
        }
    }

    /// Returns once the credential is taken back.
    pub(super) fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut revoked = self.credential.as_ref().map(|credential| credential.revoked.subscribe());
        async move {
            let taken_back = match &mut revoked {
                // Its sender lives as long as a stream holds its places.
                Some(revoked) => revoked.wait_for(|revoked| *revoked).await.is_ok(),
                None => false,
            };
            if !taken_back {
                std::future::pending().await
            }
        }
    }

    /// That the credentials are still good at `now`, after a wait.
    ///
    /// # Errors
    /// They were taken back, or have expired.
    pub(super) fn is_still_good(&self, now: Timestamp) -> Result<(), ApiError> {
        let revoked = self.credential.as_ref().is_some_and(|credential| *credential.revoked.borrow());
        let expired = self.expires_at.is_some_and(|at| at <= now);
        if revoked || expired { Err(ApiError::NoLongerGood) } else { Ok(()) }
    }

    /// From when on the credentials are worthless, if ever.
    pub(super) const fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    fn administrator(credential: &Arc<Credential>) -> Self {
        Self::new(Arc::clone(credential), Scope::All, AccessLevel::Write)
    }

    /// Somebody at an endpoint that asks for no credentials. None of those waits.
    pub const fn anyone() -> Self {
        Self { credential: None, scope: Scope::All, level: AccessLevel::Read, expires_at: None }
    }

    /// Whose records the caller works with.
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether the caller may also make, change and delete.
    pub const fn level(&self) -> AccessLevel {
        self.level
    }

    /// That the caller is one whom an endpoint serves.
    ///
    /// # Errors
    /// What is missing.
    pub fn meets(&self, needs: Needs) -> Result<(), ApiError> {
        let of_all = self.scope == Scope::All;
        let writes = self.level == AccessLevel::Write;
        match needs {
            Needs::Write | Needs::Administrator if !writes => Err(ApiError::ReadOnly),
            Needs::Operator | Needs::Administrator if !of_all => Err(ApiError::OfOneOrganisation),
            _ => Ok(()),
        }
    }

    /// Whether the caller may know of a record of `organisation`, which it may have made `public`.
    pub fn sees(&self, organisation: Uuid, public: bool) -> bool {
        public || self.is_of(organisation)
    }

    /// Whether the caller may know what was heard of a device, given the number of the organisation it is registered for,
    /// if it is registered.
    pub fn sees_device(&self, organisation_number: Option<u32>) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Organisation { number, .. } => organisation_number == Some(number),
        }
    }

    /// That the caller may list what `organisation` has.
    ///
    /// # Errors
    /// It is for another organisation.
    pub fn reads_for(&self, organisation: Uuid) -> Result<(), ApiError> {
        if self.is_of(organisation) { Ok(()) } else { Err(ApiError::ForeignOrganisation(organisation)) }
    }

    /// That the caller may make, change and delete in the name of `organisation`.
    ///
    /// # Errors
    /// It may only read, or it is for another organisation.
    pub fn writes_for(&self, organisation: Uuid) -> Result<(), ApiError> {
        self.meets(Needs::Write)?;
        self.reads_for(organisation)
    }

    fn is_of(&self, organisation: Uuid) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Organisation { id, .. } => id == organisation,
        }
    }

    /// Different for each credential of this process: each key, and each subject of tokens while it is remembered.
    pub fn number(&self) -> usize {
        self.credential.as_ref().map_or(0, |credential| credential.number)
    }

    /// As many places to wait, unless the caller's credential would hold more than `limit` with them. Where there are no
    /// credentials, everybody has the same.
    pub fn places_to_wait(&self, count: usize, limit: usize) -> Option<WaitPlaces> {
        if let Some(credential) = &self.credential {
            let take = |now: usize| now.checked_add(count).filter(|then| *then <= limit);
            credential.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        }
        Some(WaitPlaces { credential: self.credential.clone(), count })
    }
}

impl Drop for WaitPlaces {
    fn drop(&mut self) {
        if let Some(credential) = &self.credential {
            credential.waiting.fetch_sub(self.count, Ordering::Relaxed);
        }
    }
}

/// What follows `scheme` and a space.
fn after_scheme<'v>(value: &'v [u8], scheme: &[u8]) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    let key = rest.strip_prefix(b" ")?.trim_ascii();
    head.eq_ignore_ascii_case(scheme).then_some(key)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const NOW: Timestamp = Timestamp(1_795_402_800_123);

    fn two_keys() -> Access {
        Access::of_keys(["ik_first_0123456789", "ik_second_0123456789"])
    }

    fn admit(access: &Access, name: &'static str, value: &'static str) -> Result<Caller, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        match access.admit(&headers, NOW)? {
            Admission::Caller(caller) => Ok(caller),
            Admission::Token(_) => panic!("a token"),
        }
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
            assert!(admit(&access, name, value).is_ok(), "{name}: {value}");
        }
        for (name, value) in [
            ("authorization", "ik_first_0123456789"),
            ("authorization", "Basic ik_first_0123456789"),
            ("authorization", "ApiKey ik_first_012345678"),
            ("authorization", "ApiKey ik_first_01234567890"),
            ("authorization", "ApiKeyik_first_0123456789"),
            ("authorization", "ApiKey "),
            ("authorization", ""),
            ("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),
            ("x-api-key", "ApiKey ik_first_0123456789"),
            ("x-api-key", "# operators"),
            ("cookie", "ik_first_0123456789"),
        ] {
            assert_eq!(admit(&access, name, value).unwrap_err(), ApiError::Unauthorized, "{name}: {value}");
        }
        assert!(access.admit(&HeaderMap::new(), NOW).is_err());
        assert!(Access::open().admit(&HeaderMap::new(), NOW).is_ok());
        assert_eq!(format!("{access:?}"), "Access(2 keys, 0 stored)");
    }

    #[test]
    fn a_caller_of_an_organisation_sees_its_own_and_what_is_public() {
        let (own, foreign) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let scope = Scope::Organisation { id: own, number: 7 };
        let caller = Caller::new(Credential::new(), scope, AccessLevel::Write);
        assert!(caller.sees(own, false) && caller.sees(foreign, true) && !caller.sees(foreign, false));
        assert_eq!((caller.reads_for(own), caller.writes_for(own)), (Ok(()), Ok(())));
        let refused = Err(ApiError::ForeignOrganisation(foreign));
        assert_eq!((caller.reads_for(foreign), caller.writes_for(foreign)), (refused.clone(), refused));
        assert!(caller.sees_device(Some(7)) && !caller.sees_device(Some(8)) && !caller.sees_device(None));
        let administrator = Caller::administrator(&Credential::new());
        assert!(administrator.sees(own, false) && administrator.writes_for(foreign).is_ok());
        assert!(administrator.sees_device(None));
    }

    #[test]
    fn what_an_endpoint_needs_takes_the_level_the_scope_or_both() {
        let one = Scope::Organisation { id: Uuid::from_u128(1), number: 1 };
        let (read_only, of_one) = (Err(ApiError::ReadOnly), Err(ApiError::OfOneOrganisation));
        for (scope, level, write, operator, administrator) in [
            (Scope::All, AccessLevel::Write, Ok(()), Ok(()), Ok(())),
            (Scope::All, AccessLevel::Read, read_only.clone(), Ok(()), read_only.clone()),
            (one, AccessLevel::Write, Ok(()), of_one.clone(), of_one.clone()),
            (one, AccessLevel::Read, read_only.clone(), of_one.clone(), read_only.clone()),
        ] {
            let caller = Caller::new(Credential::new(), scope, level);
            let met =
                [Needs::Read, Needs::Write, Needs::Operator, Needs::Administrator].map(|needs| caller.meets(needs));
            assert_eq!(met, [Ok(()), write, operator, administrator], "{caller:?}");
        }
        let reader = Caller::new(Credential::new(), one, AccessLevel::Read);
        assert_eq!(reader.writes_for(Uuid::from_u128(1)), read_only);
    }

    #[test]
    fn waits_are_bounded_for_each_key_alone() {
        let access = two_keys();
        let caller = |key: &'static str| admit(&access, "x-api-key", key).unwrap();
        let first = caller("ik_first_0123456789").places_to_wait(1, 1).unwrap();
        assert!(caller("ik_first_0123456789").places_to_wait(1, 1).is_none());
        assert!(caller("ik_second_0123456789").places_to_wait(1, 1).is_some());
        drop(first);
        assert!(caller("ik_first_0123456789").places_to_wait(1, 1).is_some());
        assert_ne!(caller("ik_first_0123456789").number(), caller("ik_second_0123456789").number());
    }

    #[test]
    fn without_keys_everybody_shares_one_bound() {
        let access = Access::open();
        let places = |count| admit(&access, "x-api-key", "whatever").unwrap().places_to_wait(count, 3);
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
