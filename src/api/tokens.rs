//! JSON Web Tokens: which are believed, and what they let their bearer do.
//!
//! The key decides the algorithm, never the token. What a token must say: `exp`, `aud`, and either `organisationId` or
//! `allOrganisations: true`; `access: "write"` if it is to change things.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Validation, decode, decode_header};
use lru::LruCache;
use serde::Deserialize;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::records::AccessLevel;

use super::access::{Credential, sha256};
use super::error::ApiError;
use super::signatures;
use super::token_keys::{self, KeysError, TokenKey, TokenKeys};

/// How far the clocks of those who make tokens may be from the gateway's.
const LEEWAY: Duration = Duration::from_secs(30);

/// Subjects that have a bound of waits of their own, the last ones seen: about 1 MB. One that is forgotten while it waits
/// begins a new count, as the bound of all waits still holds.
#[allow(clippy::unwrap_used, reason = "it is not zero, and evaluated when this is compiled")]
const SUBJECTS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Whose tokens are believed, and for whom they must be made.
#[derive(Clone, Debug)]
pub struct TokenRules {
    keys: Vec<(TokenKey, Validation)>,
    passed_over: usize,
}

/// Tokens that open the API, and who showed one.
#[derive(Debug)]
pub(super) struct Tokens {
    rules: TokenRules,
    subjects: Mutex<LruCache<Subject, Arc<Credential>>>,
}

/// Bearers who share a bound of waits: those whose tokens have the same organisation and the same `sub`, or none.
type Subject = (Option<Uuid>, Option<[u8; 32]>);

/// What a token that is believed lets its bearer do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// For this organisation; `None`: for all.
    pub(super) organisation: Option<Uuid>,
    pub(super) level: AccessLevel,
    pub(super) expires_at: Timestamp,
    /// Digest of its subject.
    subject: Option<[u8; 32]>,
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none, or says what this gateway does not understand.
    #[error("it is malformed, or says what this gateway does not understand")]
    Malformed,
    /// Its `kid` names no key of the gateway, or it has none where there are several.
    #[error("its kid names none of the gateway's keys; have it made with one of those")]
    UnknownKey,
    /// It is signed in another way than the key is for.
    #[error("its alg is not that of the gateway's key; have it made with that")]
    Algorithm,
    /// The signature does not fit.
    #[error("its signature does not fit; send it as it was made")]
    Signature,
    /// It has no `exp`.
    #[error("it has no exp; have it made with one")]
    NoExpiry,
    /// Its `exp` has passed.
    #[error("it has expired; get another")]
    Expired,
    /// Its `nbf` lies ahead.
    #[error("its nbf lies ahead; use it later, or set the clocks right")]
    NotYet,
    /// It is meant for somebody else.
    #[error("its aud does not name this gateway; have it made for this one")]
    Audience,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    sub: Option<String>,
    organisation_id: Option<Uuid>,
    #[serde(default)]
    all_organisations: bool,
    access: Option<AccessLevel>,
}

impl TokenRules {
    /// Believes tokens signed with the private half of a key in `text`, a JWK or a JWK set of public keys in JSON, if their
    /// `aud` is or has `audience`.
    ///
    /// # Errors
    /// The text is neither, or has a key that is not public, or none of a kind that is understood.
    pub fn of(text: &str, audience: &str) -> Result<Self, KeysError> {
        signatures::install();
        let TokenKeys { keys, passed_over } = token_keys::parse(text)?;
        let rule = |key: TokenKey| {
            let mut validation = Validation::new(key.algorithm);
            validation.set_required_spec_claims(&["exp", "aud"]);
            validation.set_audience(&[audience]);
            // By the gateway's own clock instead.
            validation.validate_exp = false;
            (key, validation)
        };
        Ok(Self { keys: keys.into_iter().map(rule).collect(), passed_over })
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// How many other keys the set has, of kinds that are not understood.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Of several keys each has an id.
    fn of_key(&self, id: Option<&str>) -> Option<&(TokenKey, Validation)> {
        match (id, self.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|(key, _)| key.id.as_deref().is_none_or(|own| own == id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    fn claims(&self, token: &[u8], now: Timestamp) -> Result<Claims, TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let (key, validation) = self.of_key(header.kid.as_deref()).ok_or(TokenError::UnknownKey)?;
        let claims: Claims = decode(token, &key.key, validation).map_err(refusal)?.claims;
        let (now, leeway) = (Duration::from_millis(now.0).as_secs_f64(), LEEWAY.as_secs_f64());
        let expires = claims.exp.ok_or(TokenError::NoExpiry)?;
        if expires + leeway <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|begins| begins - leeway > now) {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }
}

impl Tokens {
    pub(super) fn new(rules: TokenRules) -> Self {
        Self { rules, subjects: Mutex::new(LruCache::new(SUBJECTS)) }
    }

    /// What a token lets its bearer do at `now`: nothing that it does not say.
    ///
    /// # Errors
    /// It is not believed, or says for no organisation.
    pub(super) fn check(&self, token: &[u8], now: Timestamp) -> Result<Grant, ApiError> {
        let claims = self.rules.claims(token, now)?;
        if claims.organisation_id.is_none() && !claims.all_organisations {
            return Err(ApiError::TokenForNothing);
        }
        Ok(Grant {
            organisation: claims.organisation_id,
            level: claims.access.unwrap_or(AccessLevel::Read),
            // Saturates: a token without an end in sight is good for as long.
            expires_at: Timestamp((claims.exp.unwrap_or_default() * 1000.0) as u64).after(LEEWAY),
            subject: claims.sub.map(|subject| sha256(subject.as_bytes())),
        })
    }

    /// What those with the same organisation and subject share.
    pub(super) fn credential(&self, grant: &Grant) -> Arc<Credential> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(subjects.get_or_insert((grant.organisation, grant.subject), Credential::new))
    }
}

fn refusal(error: Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(_) => TokenError::NoExpiry,
        _ => TokenError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Signer, jwk_set};
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_402_800_123);
    const SECONDS: u64 = NOW.0 / 1000;
    const ORGANISATION: Uuid = Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_002a);

    /// Claims that are believed, and those of `more` in place of them; `null` leaves one out.
    fn claims(more: Value) -> Value {
        let mut claims = json!({"exp": SECONDS + 600, "aud": "lastroute", "organisationId": ORGANISATION});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    fn tokens(keys: &Value) -> Tokens {
        Tokens::new(TokenRules::of(&keys.to_string(), "lastroute").unwrap())
    }

    fn check(tokens: &Tokens, token: &str) -> Result<Grant, ApiError> {
        tokens.check(token.as_bytes(), NOW)
    }

    fn refused(tokens: &Tokens, token: &str) -> TokenError {
        match check(tokens, token) {
            Err(ApiError::Token(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_signed_with_a_key_of_each_kind_is_believed() {
        for signer in [Signer::ed25519(), Signer::p256(), Signer::rsa()] {
            let tokens = tokens(&signer.jwk(Some("a")));
            for header in [json!({"alg": signer.algorithm(), "kid": "a"}), json!({"alg": signer.algorithm()})] {
                let grant = check(&tokens, &signer.token(&header, &claims(json!({})))).unwrap();
                assert_eq!((grant.organisation, grant.level), (Some(ORGANISATION), AccessLevel::Read), "{header}");
            }
        }
    }

    #[test]
    fn the_key_decides_the_algorithm() {
        for signer in [Signer::ed25519(), Signer::p256(), Signer::rsa()] {
            let tokens = tokens(&signer.jwk(None));
            let claims = claims(json!({}));
            for algorithm in ["HS256", "EdDSA", "ES256", "ES384", "RS256", "RS512", "PS256"] {
                if algorithm != signer.algorithm() {
                    let token = signer.token(&json!({"alg": algorithm}), &claims);
                    assert_eq!(refused(&tokens, &token), TokenError::Algorithm, "{algorithm}");
                }
            }
            // The public key as a secret, which everybody knows.
            let token = signer.token_with_public_key_as_secret(&claims);
            assert_eq!(refused(&tokens, &token), TokenError::Algorithm);
            for none in ["none", "None", "NONE", ""] {
                let token = signer.token(&json!({"alg": none}), &claims);
                let unsigned = token.rsplit_once('.').unwrap().0;
                for token in [token.as_str(), &format!("{unsigned}."), unsigned] {
                    assert_eq!(refused(&tokens, token), TokenError::Malformed, "{token}");
                }
            }
        }
    }

    #[test]
    fn what_was_tampered_with_or_signed_by_another_is_refused() {
        for signer in [Signer::ed25519(), Signer::p256(), Signer::rsa()] {
            let tokens = tokens(&signer.jwk(None));
            let header = json!({"alg": signer.algorithm()});
            let (narrow, wide) = (claims(json!({})), claims(json!({"allOrganisations": true, "access": "write"})));
            let (narrow, wide) = (signer.token(&header, &narrow), signer.token(&header, &wide));
            let signature = narrow.rsplit_once('.').unwrap().1;
            let forged = format!("{}.{signature}", wide.rsplit_once('.').unwrap().0);
            assert_eq!(refused(&tokens, &forged), TokenError::Signature);
            let short = &narrow[..narrow.len() - signature.len() % 4 - 4];
            assert_eq!(refused(&tokens, short), TokenError::Signature);
        }
        let tokens = tokens(&Signer::ed25519().jwk(None));
        let foreign = Signer::ed25519().token(&json!({"alg": "EdDSA"}), &claims(json!({})));
        assert_eq!(refused(&tokens, &foreign), TokenError::Signature);
        for bad in ["", ".", "..", "eyJhbGciOiJFZERTQSJ9", "ey.ey.ey", "a b.c.d", "\u{e4}.\u{e4}.\u{e4}"] {
            assert_eq!(refused(&tokens, bad), TokenError::Malformed, "{bad}");
        }
    }

    #[test]
    fn times_hold_by_the_clock_of_the_gateway_give_or_take_30_s() {
        let signer = Signer::ed25519();
        let tokens = tokens(&signer.jwk(None));
        let result = |more: Value| match check(&tokens, &signer.token(&json!({"alg": "EdDSA"}), &claims(more))) {
            Ok(_) => None,
            Err(ApiError::Token(error)) => Some(error),
            Err(other) => panic!("{other:?}"),
        };
        for (more, error) in [
            (json!({"exp": SECONDS - 29}), None),
            (json!({"exp": SECONDS - 30}), Some(TokenError::Expired)),
            (json!({"exp": SECONDS as f64 - 29.8}), None),
            (json!({"exp": 0}), Some(TokenError::Expired)),
            (json!({"exp": null}), Some(TokenError::NoExpiry)),
            (json!({"exp": "2100"}), Some(TokenError::Malformed)),
            (json!({"nbf": SECONDS + 30}), None),
            (json!({"nbf": SECONDS + 31}), Some(TokenError::NotYet)),
            (json!({"nbf": "soon"}), Some(TokenError::Malformed)),
        ] {
            assert_eq!(result(more.clone()), error, "{more}");
        }
    }

    #[test]
    fn a_token_has_to_be_for_this_gateway() {
        let signer = Signer::ed25519();
        let tokens = tokens(&signer.jwk(None));
        let result = |more: Value| check(&tokens, &signer.token(&json!({"alg": "EdDSA"}), &claims(more)));
        assert!(result(json!({"aud": ["elsewhere", "lastroute"]})).is_ok());
        for aud in [json!("elsewhere"), json!("Lastroute"), json!([]), json!(null), json!(["elsewhere"])] {
            assert_eq!(result(json!({ "aud": aud })), Err(TokenError::Audience.into()), "{aud}");
        }
    }

    #[test]
    fn a_token_lets_its_bearer_do_what_it_says_and_no_more() {
        let signer = Signer::ed25519();
        let tokens = tokens(&signer.jwk(None));
        let result = |more: Value| {
            let grant = check(&tokens, &signer.token(&json!({"alg": "EdDSA"}), &claims(more)))?;
            Ok((grant.organisation, grant.level))
        };
        let (own, read, write) = (Some(ORGANISATION), AccessLevel::Read, AccessLevel::Write);
        for (more, expected) in [
            (json!({}), Ok((own, read))),
            (json!({"access": "write"}), Ok((own, write))),
            (json!({"organisationId": null, "allOrganisations": true}), Ok((None, read))),
            (json!({"organisationId": null, "allOrganisations": true, "access": "write"}), Ok((None, write))),
            (json!({"allOrganisations": true}), Ok((own, read))),
            (json!({"organisationId": null}), Err(ApiError::TokenForNothing)),
            (json!({"organisationId": null, "allOrganisations": false}), Err(ApiError::TokenForNothing)),
            (json!({"organisationId": "all"}), Err(TokenError::Malformed.into())),
            (json!({"access": "admin"}), Err(TokenError::Malformed.into())),
        ] {
            assert_eq!(result(more.clone()), expected, "{more}");
        }
    }

    #[test]
    fn of_several_keys_the_token_names_its_own() {
        let (first, second) = (Signer::ed25519(), Signer::p256());
        let tokens = tokens(&jwk_set([first.jwk(Some("a")), second.jwk(Some("b"))]));
        let token = |signer: &Signer, kid: Value| {
            let mut header = json!({"alg": signer.algorithm()});
            if !kid.is_null() {
                header["kid"] = kid;
            }
            signer.token(&header, &claims(json!({})))
        };
        assert!(check(&tokens, &token(&first, json!("a"))).is_ok());
        assert!(check(&tokens, &token(&second, json!("b"))).is_ok());
        assert_eq!(refused(&tokens, &token(&first, json!("b"))), TokenError::Algorithm);
        assert_eq!(refused(&tokens, &token(&first, json!("c"))), TokenError::UnknownKey);
        assert_eq!(refused(&tokens, &token(&first, json!(null))), TokenError::UnknownKey);
        let critical =
            first.token(&json!({"alg": "EdDSA", "kid": "a", "crit": ["b64"], "b64": false}), &claims(json!({})));
        assert_eq!(refused(&tokens, &critical), TokenError::Malformed);
    }

    #[test]
    fn bearers_of_one_subject_and_organisation_share_a_bound_and_a_number() {
        let signer = Signer::ed25519();
        let tokens = tokens(&signer.jwk(None));
        let credential = |more: Value| {
            let grant = check(&tokens, &signer.token(&json!({"alg": "EdDSA"}), &claims(more))).unwrap();
            tokens.credential(&grant)
        };
        let first = credential(json!({"sub": "report"}));
        assert!(Arc::ptr_eq(&first, &credential(json!({"sub": "report", "exp": SECONDS + 900}))));
        for more in [json!({"sub": "other"}), json!({}), json!({"sub": "report", "organisationId": Uuid::from_u128(7)})]
        {
            assert!(!Arc::ptr_eq(&first, &credential(more.clone())), "{more}");
        }
    }

    #[test]
    fn nothing_can_be_signed() {
        signatures::install();
        let key = jsonwebtoken::EncodingKey::from_secret(b"secret");
        assert!(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &json!({}), &key).is_err());
    }
}
