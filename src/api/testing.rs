//! Tokens as others make them, for tests: keys of each kind, and what they sign.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RsaKeyPair, PublicKeyComponents};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use serde_json::{Value, json};

/// A private key that opens nothing but these tests: making one takes too long.
const RSA_PKCS8: &str = "\
    MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCj6uZz/5g3Q8aIdPvyxfvNakdRWZBRstNzJupK+cjcLyyeGARkwzIZP4I2LF\
    kBz4Li0laffSpI5oTHJPezCb3PaQGkM5gJ3cLkqpDJg+pl2R+9gNQ3zKu5kyJEypSM/ef1VtCF3HGRWUOGyrkEQbyDiWxoqufc/xSQuDV2PLHK\
    Dmz+uN0muan1d/dBZP7UefYOKqV4clthp4StALCeSC78hPPh5CU2m1t5iGPbYGWDV9Wl900HS2BK3klI0Ti2SyCRGp9Gnlb0txWYJmexJrgwaL\
    8vKlb4an7SOpryBfL2QVkt5ev9EjRbOfQ0QeWXmHPnhC4AEldSZlXjqOovnmzZAgMBAAECggEACDuhzDe35yax+mPtzPl2tpAyTtAHI04DuCfp\
    4qQocNlfDf26KBl0aGI74bQD2xxswC8SXLuw+60LBDmYxgGk6p2lOyBq8CvsQFyfcw+mHpbI36rF00ZQuxG8dI9m5gH8EY2FDFl7IXLF+nzaIs\
    WZI1OBV2x7bX/TrO/OTPGqzbGBM1aeXOO7+MKJDc4WXS1uFwZZBdJcG83qGq+7avYjbDlmrNecrjMRSSWZp1eAG20UZLTk89E5QCik/33K8P7g\
    cM2kfb6tBYEkJt9kDBDZ4s5KgfNH+FfsORzdtWHdPjVjHrVLYrlH1aPpgMkPiphlWyy25XunK9EH3mjvTfye9QKBgQDVCFMVdu59VIw7qmwuUp\
    pwypJOwbsqC/l6Izdw+SjErfnXAuLIYf8hImj/g2XhR3tWkhW8qo9N7ovzHOcW2QU0xzRzF2X9+QDgHNyMy2TyF6mAzesUwf8XvgCLYMWeW6eh\
    2I4DfRYCH+HCBFctIXZ6HR172nrvUXi4GL5ECxhEtwKBgQDE+pXdz+6SSkuJX9ILfWd/UWeLxF+ttJynOnIBjghxTdTL+Bp34kq1+zsRhVVsVm\
    s/je9hzJVPWynHeZlsSGfLuDZidxgxqxnp4tAYlk7Ap0OCfVA4GwAPFwursEoortL08opgAiZbbmie6QXJKEmksH9eu9s5fDuyux5CkxHq7wKB\
    gQDJc2POCneggRFTYueGLorpWkZcv4rUShqSyzakWJma08JM9ueqAjGXDckoxwLStBwIU4DGtqtpUMl7DrvguTzZGf+ZTmkecBfJ1sEhSz2cSY\
    /6w78oFAO8Wep94vc9twKgY/53ghQL0kZUiHI/tUMqWtoEwyg5o1t7C7rw8WTzpQKBgBU2r4Et7ZGPssberO5T2RubFr20rmE0vFI+Nxz3wO0C\
    5tH4rFEQ697haaEfbO23+ODlVkyADex38u3qqJ1CxvrnoePE07Q1qxrHNIYRWfXhjaG2ATepoL3/S2B4IeRzv4BlxoVEdgEOyPGkQt1BG31DDN\
    SVAq0UNhGvmTiuQhW9AoGAFlyFqxB0V2mSwyZk2wSGcj1QZGlkWA/hgn+DWu+jqdmDLegeGcVzVYTUri4TFjovKSEWiGGSL5Asr6XOghw0wkyG\
    enUtEP7rrVRjfSHHFJ5Axav3arTg9LcUMa64kzemvsYHrjZzTJz1Ccjb1kqSxYNm9p25AMgYyNy9Qoii9yc=";

/// Somebody who makes tokens.
pub(super) enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(super) fn ed25519() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    pub(super) fn p256() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap())
    }

    pub(super) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(&STANDARD.decode(RSA_PKCS8).unwrap()).unwrap())
    }

    pub(super) const fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    /// The public key as a JWK.
    pub(super) fn jwk(&self, id: Option<&str>) -> Value {
        let mut jwk = match self {
            Self::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())}),
            Self::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Self::Rsa(pair) => {
                let PublicKeyComponents { n, e }: PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "n": text(&n), "e": text(&e), "alg": "RS256", "use": "sig"})
            }
        };
        if let Some(id) = id {
            jwk["kid"] = id.into();
        }
        jwk
    }

    /// A token that this key signs, whatever its header says.
    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", text(header.to_string().as_bytes()), text(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Self::P256(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", text(&signature))
    }

    /// A token that anybody can make who takes the public key for a secret.
    pub(super) fn token_with_public_key_as_secret(&self, claims: &Value) -> String {
        let public = match self {
            Self::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Self::P256(pair) => pair.public_key().as_ref().to_vec(),
            Self::Rsa(pair) => pair.public().as_ref().to_vec(),
        };
        let message = format!("{}.{}", text(br#"{"alg":"HS256"}"#), text(claims.to_string().as_bytes()));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), message.as_bytes());
        format!("{message}.{}", text(signature.as_ref()))
    }
}

/// A JWK set of these keys.
pub(super) fn jwk_set(keys: impl IntoIterator<Item = Value>) -> Value {
    json!({"keys": keys.into_iter().collect::<Vec<_>>()})
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
