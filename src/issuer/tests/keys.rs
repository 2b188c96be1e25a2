//! Keys that tests sign with, and what an issuer publishes of them.

use crate::config::Algorithm;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A key pair with the one algorithm that it signs with.
pub(in crate::issuer) struct TestKey {
    pub(in crate::issuer) algorithm: Algorithm,
    pub(in crate::issuer) jwk: Value,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl TestKey {
    /// A new key that is published as `kid`, with `use` and `alg`.
    pub(in crate::issuer) fn new(algorithm: Algorithm, kid: &str) -> Self {
        let (pair, mut jwk) = match algorithm {
            Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
            Algorithm::Ps256 => rsa(&signature::RSA_PSS_SHA256),
            Algorithm::Ps384 => rsa(&signature::RSA_PSS_SHA384),
            Algorithm::Ps512 => rsa(&signature::RSA_PSS_SHA512),
            Algorithm::Es256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            Algorithm::Es384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            Algorithm::Es512 => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let x = b64(pair.public_key().as_ref());
                (Pair::Ed(pair), json!({"kty": "OKP", "crv": "Ed25519", "x": x}))
            }
        };
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(algorithm.name());
        Self { algorithm, jwk, pair }
    }

    pub(in crate::issuer) fn es256(kid: &str) -> Self {
        Self::new(Algorithm::Es256, kid)
    }

    pub(in crate::issuer) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The JWK with some members set; `null` takes one away.
    pub(in crate::issuer) fn jwk_with(&self, changes: &Value) -> Value {
        let mut jwk = self.jwk.clone();
        let members = jwk.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                members.remove(name);
            } else {
                members.insert(name.clone(), value.clone());
            }
        }
        jwk
    }
}

pub(in crate::issuer) fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The text of a JWK Set.
pub(in crate::issuer) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn rsa(encoding: &'static dyn RsaEncoding) -> (Pair, Value) {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let jwk = {
        let (n, e) = rsa_parts(pair.public_key().as_ref());
        json!({"kty": "RSA", "n": b64(n), "e": b64(e)})
    };
    (Pair::Rsa(pair, encoding), jwk)
}

fn ec(algorithm: &'static signature::EcdsaSigningAlgorithm, curve: &str) -> (Pair, Value) {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let jwk = json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)});
    (Pair::Ec(pair), jwk)
}

/// `n` and `e` of a DER `RSAPublicKey` (RFC 8017 §A.1.1) of 2048 bits.
fn rsa_parts(der: &[u8]) -> (&[u8], &[u8]) {
    // SEQUENCE of 2 length bytes, INTEGER of 257 bytes (a zero first), INTEGER of 3 bytes.
    assert_eq!((der[..4].to_vec(), der[4..9].to_vec()), (vec![0x30, 0x82, 1, 10], vec![2, 0x82, 1, 1, 0]));
    (&der[9..265], &der[267..])
}
