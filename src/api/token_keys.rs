//! The public keys that tokens are signed for, out of a JWK or a JWK set (RFC 7517). Only kinds whose signatures are
//! checked here: Ed25519, P-256 and RSA.

use std::collections::HashSet;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The sizes of RSA moduli in bytes whose signatures are checked.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// A public key, and the one algorithm it is for.
#[derive(Clone, Debug)]
pub(super) struct TokenKey {
    /// What a token calls it.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Why a text has no usable keys. Quotes nothing of it but names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is no JSON of the right form.
    #[error("is neither a JWK nor a JWK set in JSON")]
    Form,
    /// A set without keys.
    #[error("is a JWK set without keys")]
    Empty,
    /// A set of which no key is understood; what is wrong with the first.
    #[error("is a JWK set without a key that can be used; the first: {0}")]
    NoneUsable(Box<KeysError>),
    /// A key that others must not have.
    #[error("key {0} is private or symmetric; give its public half alone, or sign tokens with an asymmetric key")]
    Secret(usize),
    /// A key of another kind, or not for signatures.
    #[error("key {0} is none of Ed25519, P-256 for ES256, and RSA of 2048 to 8192 bits for RS256, to check signatures")]
    Kind(usize),
    /// A value of a key is missing or of the wrong size.
    #[error("key {0} has no whole public key: its values are missing, or not base64url of the right size")]
    Values(usize),
    /// Several keys, and one without a name or with that of another.
    #[error("key {0} has no kid of its own; of several keys each needs one")]
    Name(usize),
}

/// The keys of a text.
#[derive(Debug)]
pub(super) struct TokenKeys {
    /// At least one; of several, each with an id of its own.
    pub(super) keys: Vec<TokenKey>,
    /// How many others the set has, which are not understood here.
    pub(super) passed_over: usize,
}

/// A JWK as far as it is looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// The private part of every asymmetric kind.
    d: Option<IgnoredAny>,
    /// A symmetric key.
    k: Option<IgnoredAny>,
}

/// The keys of a text. Of a set those that are not understood are passed over (RFC 7517, section 5), but not such as others
/// must not have.
pub(super) fn parse(text: &str) -> Result<TokenKeys, KeysError> {
    let mut value: Value = serde_json::from_str(text).map_err(|_| KeysError::Form)?;
    let values = match value.get_mut("keys").map(Value::take) {
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err(KeysError::Form),
        None => return Ok(TokenKeys { keys: vec![token_key(1, value)?], passed_over: 0 }),
    };
    let (mut keys, mut passed_over) = (Vec::with_capacity(values.len()), Vec::new());
    for (at, value) in (1..).zip(values) {
        match token_key(at, value) {
            Ok(key) => keys.push((at, key)),
            Err(error @ (KeysError::Kind(_) | KeysError::Values(_))) => passed_over.push(error),
            Err(error) => return Err(error),
        }
    }
    if keys.is_empty() {
        let first = passed_over.into_iter().next();
        return Err(first.map_or(KeysError::Empty, |first| KeysError::NoneUsable(Box::new(first))));
    }
    check_names(&keys)?;
    Ok(TokenKeys { keys: keys.into_iter().map(|(_, key)| key).collect(), passed_over: passed_over.len() })
}

/// That of several keys each has an id of its own.
fn check_names(keys: &[(usize, TokenKey)]) -> Result<(), KeysError> {
    let mut known = HashSet::new();
    let mut keys_with_faults = keys.iter().filter(|(_, key)| key.id.is_none() || !known.insert(&key.id));
    match keys_with_faults.next() {
        Some((at, _)) if keys.len() > 1 => Err(KeysError::Name(*at)),
        _ => Ok(()),
    }
}

fn token_key(at: usize, value: Value) -> Result<TokenKey, KeysError> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| KeysError::Form)?;
    if jwk.kty == "oct" || jwk.d.is_some() || jwk.k.is_some() {
        return Err(KeysError::Secret(at));
    }
    let (algorithm, name) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA"),
        ("EC", Some("P-256")) => (Algorithm::ES256, "ES256"),
        ("RSA", None) => (Algorithm::RS256, "RS256"),
        _ => return Err(KeysError::Kind(at)),
    };
    let of_algorithm = jwk.alg.as_deref().is_none_or(|alg| alg == name);
    if !of_algorithm || jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err(KeysError::Kind(at));
    }
    let key = decoding_key(algorithm, &jwk).ok_or(KeysError::Values(at))?;
    Ok(TokenKey { id: jwk.kid, algorithm, key })
}

/// `None` if a value is missing or of the wrong size.
fn decoding_key(algorithm: Algorithm, jwk: &Jwk) -> Option<DecodingKey> {
    let bytes = |text: &Option<String>| base64url(text.as_deref()?);
    match algorithm {
        Algorithm::EdDSA => {
            let x = bytes(&jwk.x).filter(|x| x.len() == 32)?;
            Some(DecodingKey::from_ed_der(&x))
        }
        Algorithm::ES256 => {
            let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
            let point = [&[4], x.as_slice(), y.as_slice()].concat();
            (x.len() == 32 && y.len() == 32).then(|| DecodingKey::from_ec_der(&point))
        }
        _ => {
            let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
            let whole = RSA_MODULUS.contains(&n.len()) && n.first() != Some(&0) && !e.is_empty();
            whole.then(|| DecodingKey::from_rsa_raw_components(&n, &e))
        }
    }
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Signer, jwk_set};
    use super::*;

    fn error(keys: &Value) -> KeysError {
        parse(&keys.to_string()).unwrap_err()
    }

    #[test]
    fn a_key_stands_alone_or_in_a_set_and_members_that_say_nothing_here_are_passed_over() {
        let (first, second) = (Signer::ed25519().jwk(None), Signer::rsa().jwk(Some("b")));
        assert_eq!(parse(&first.to_string()).unwrap().keys.len(), 1);
        assert_eq!(parse(&jwk_set([first.clone()]).to_string()).unwrap().keys.len(), 1);
        let mut named = first;
        (named["kid"], named["x5t"], named["key_ops"]) = ("a".into(), "0123".into(), json!(["verify"]));
        let TokenKeys { keys, passed_over } = parse(&jwk_set([named, second]).to_string()).unwrap();
        let algorithms: Vec<_> = keys.iter().map(|key| (key.id.as_deref(), key.algorithm)).collect();
        assert_eq!(algorithms, [(Some("a"), Algorithm::EdDSA), (Some("b"), Algorithm::RS256)]);
        assert_eq!(passed_over, 0);
    }

    #[test]
    fn keys_of_a_set_that_are_not_understood_are_passed_over_unless_none_is_left() {
        let key = |id: Option<&str>| Signer::ed25519().jwk(id);
        let secp = json!({"kty": "EC", "crv": "secp256k1", "kid": "a", "x": "AQAB", "y": "AQAB"});
        let unknown = json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AQAB"});
        let mut for_encryption = key(Some("a"));
        for_encryption["use"] = "enc".into();
        let short = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "a"});
        let strange = [secp.clone(), unknown, for_encryption, short];
        let set = |own: Vec<Value>| jwk_set([strange.to_vec(), own].concat()).to_string();
        for own in [vec![key(None)], vec![key(Some("a")), key(Some("b"))]] {
            let kept = own.len();
            let found = parse(&set(own)).unwrap();
            assert_eq!((found.keys.len(), found.passed_over), (kept, 4));
        }
        let none = parse(&set(Vec::new())).unwrap_err();
        assert_eq!(none, KeysError::NoneUsable(Box::new(KeysError::Kind(1))));
        let said = none.to_string();
        assert!(said.starts_with("is a JWK set without a key that can be used; the first: key 1 is none of"), "{said}");
        // Places are those in the file, and the ids of the kept ones are their own.
        let twice = set(vec![key(Some("a")), key(Some("a"))]);
        assert_eq!(parse(&twice).unwrap_err(), KeysError::Name(6));
        let mut private = secp;
        private["d"] = "AQAB".into();
        assert_eq!(error(&jwk_set([key(None), private])), KeysError::Secret(2));
        assert_eq!(error(&jwk_set([key(None), json!({"kty": "oct", "k": "AQAB"})])), KeysError::Secret(2));
    }

    #[test]
    fn a_private_or_symmetric_key_is_refused_and_not_quoted() {
        let symmetric = json!({"kty": "oct", "k": "c2VjcmV0"});
        for jwk in [Signer::ed25519(), Signer::p256(), Signer::rsa()].map(|signer| signer.jwk(Some("b"))) {
            let mut private = jwk;
            private["d"] = "c2VjcmV0".into();
            assert_eq!(error(&private), KeysError::Secret(1));
            let error = error(&jwk_set([Signer::ed25519().jwk(Some("a")), private]));
            assert_eq!(error, KeysError::Secret(2));
            assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
        }
        assert_eq!(error(&symmetric), KeysError::Secret(1));
    }

    #[test]
    fn a_key_of_another_kind_or_use_is_refused() {
        let changed = |name: &str, value: &str| {
            let mut jwk = Signer::ed25519().jwk(None);
            jwk[name] = value.into();
            error(&jwk)
        };
        for (name, value) in [("crv", "X25519"), ("kty", "EC"), ("alg", "HS256"), ("alg", "ES256"), ("use", "enc")] {
            assert_eq!(changed(name, value), KeysError::Kind(1), "{name} {value}");
        }
        for x in ["", "AAEC", "not base64url", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="] {
            assert_eq!(changed("x", x), KeysError::Values(1), "{x}");
        }
        assert_eq!(error(&json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})), KeysError::Values(1));
        assert_eq!(error(&json!({"kty": "EC", "crv": "P-256", "x": "AQAB"})), KeysError::Values(1));
    }

    #[test]
    fn several_keys_have_names_of_their_own() {
        let key = |id| Signer::ed25519().jwk(id);
        assert_eq!(error(&jwk_set([key(Some("a")), key(None)])), KeysError::Name(2));
        assert_eq!(error(&jwk_set([key(None), key(Some("a"))])), KeysError::Name(1));
        assert_eq!(error(&jwk_set([key(Some("a")), key(Some("a"))])), KeysError::Name(2));
    }

    #[test]
    fn what_is_no_jwk_is_said_to_be_none() {
        for text in ["", "-----BEGIN PUBLIC KEY-----", "[]", "7", "\"secret\"", "{}", "{\"keys\":7}", "{\"kty\":7}"] {
            assert_eq!(parse(text).unwrap_err(), KeysError::Form, "{text}");
        }
        assert_eq!(error(&json!({"keys": []})), KeysError::Empty);
    }
}
