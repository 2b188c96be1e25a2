//! Keys of the embedded issuer, of every algorithm that Keycloak offers, and compact JWS made with them.

use crate::config::Algorithm;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use aws_lc_rs::{digest, hmac, signature};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value, json};

/// The members of a JOSE header or the claims of a token.
pub type Claims = Map<String, Value>;

/// A private key, and how its public half is published.
pub struct SigningKey {
    algorithm: Algorithm,
    private: Private,
    jwk: Value,
    kid: String,
}

enum Private {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({} {})", self.algorithm.name(), self.kid)
    }
}

impl SigningKey {
    /// Makes a new key; RSA keys have 2048 bits. Fails only where the machine has no randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, Unspecified> {
        let (private, public) = match algorithm {
            Algorithm::Rs256 => rsa(&RSA_PKCS1_SHA256)?,
            Algorithm::Rs384 => rsa(&RSA_PKCS1_SHA384)?,
            Algorithm::Rs512 => rsa(&RSA_PKCS1_SHA512)?,
            Algorithm::Ps256 => rsa(&RSA_PSS_SHA256)?,
            Algorithm::Ps384 => rsa(&RSA_PSS_SHA384)?,
            Algorithm::Ps512 => rsa(&RSA_PSS_SHA512)?,
            Algorithm::Es256 => ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)?,
            Algorithm::Es384 => ec("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING)?,
            Algorithm::Es512 => ec("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING)?,
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate()?;
                let public = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key()) });
                (Private::Ed(pair), public)
            }
        };
        let kid = thumbprint(&public);
        let jwk = published(public, &kid, algorithm.name(), "sig");
        Ok(Self { algorithm, private, jwk, kid })
    }

    /// The algorithm that the key signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key's thumbprint (RFC 7638), by which tokens name it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half as it stands in the key set.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// The signature of `message`, in the form of RFC 7518 §3 and RFC 8037 §3.1.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        match &self.private {
            Private::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut signature)?;
                Ok(signature)
            }
            Private::Ec(pair) => Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec()),
            Private::Ed(pair) => Ok(pair.try_sign(message)?.as_ref().to_vec()),
        }
    }

    /// Whether the signature of a compact JWS is this key's.
    pub(super) fn verifies(&self, token: &str) -> bool {
        let Some((input, signature)) = token.rsplit_once('.') else { return false };
        let Ok(signature) = BASE64URL.decode(signature) else { return false };
        let public = match &self.private {
            Private::Rsa(pair, _) => pair.public_key().as_ref(),
            Private::Ec(pair) => pair.public_key().as_ref(),
            Private::Ed(pair) => pair.public_key().as_ref(),
        };
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
        };
        UnparsedPublicKey::new(algorithm, public).verify(input.as_bytes(), &signature).is_ok()
    }

    /// A compact JWS of exactly these texts, which need not be JSON.
    pub fn compact(&self, header: &[u8], payload: &[u8]) -> Result<String, Unspecified> {
        let input = signing_input(header, payload);
        let signature = self.sign(input.as_bytes())?;
        Ok(format!("{input}.{}", encode(signature)))
    }
}

/// A key that encrypts, as Keycloak publishes one beside those that sign. Nothing is ever encrypted to it.
pub(super) fn encryption_jwk() -> Result<Value, Unspecified> {
    let (_, public) = rsa(&RSA_PKCS1_SHA256)?;
    let kid = thumbprint(&public);
    Ok(published(public, &kid, "RSA-OAEP", "enc"))
}

/// A compact JWS signed with HS512, as Keycloak's refresh tokens are. Its key is never published.
pub(super) fn compact_hs512(key: &hmac::Key, header: &[u8], payload: &[u8]) -> String {
    let input = signing_input(header, payload);
    let signature = hmac::sign(key, input.as_bytes());
    format!("{input}.{}", encode(signature))
}

/// Whether the signature of a compact JWS is that of this HS512 key.
pub(super) fn verify_hs512(key: &hmac::Key, token: &str) -> bool {
    token.rsplit_once('.').is_some_and(|(input, signature)| {
        BASE64URL.decode(signature).is_ok_and(|signature| hmac::verify(key, input.as_bytes(), &signature).is_ok())
    })
}

/// What a compact JWS says, header and payload, without any check of its signature.
pub fn decode(token: &str) -> Option<(Claims, Claims)> {
    let (header, rest) = token.split_once('.')?;
    let (payload, _) = rest.split_once('.')?;
    let part = |text: &str| serde_json::from_slice(&BASE64URL.decode(text).ok()?).ok();
    Some((part(header)?, part(payload)?))
}

/// Text in base64url without padding.
pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL.encode(bytes)
}

/// A random identifier in the form of a UUID (RFC 9562, version 4), as Keycloak's are.
pub(super) fn uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

fn signing_input(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", encode(header), encode(payload))
}

fn rsa(encoding: &'static dyn RsaEncoding) -> Result<(Private, Value), Unspecified> {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref()).ok_or(Unspecified)?;
    let public = json!({ "kty": "RSA", "n": encode(modulus), "e": encode(exponent) });
    Ok((Private::Rsa(pair, encoding), public))
}

fn ec(curve: &str, algorithm: &'static EcdsaSigningAlgorithm) -> Result<(Private, Value), Unspecified> {
    let pair = EcdsaKeyPair::generate(algorithm)?;
    // An uncompressed point: 0x04, x, y; both padded to the size of the field.
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let public = json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) });
    Ok((Private::Ec(pair), public))
}

/// Modulus and exponent of a DER `RSAPublicKey` (RFC 8017 §A.1.1), without leading zeros.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = der_element(der, 0x30)?;
    let (modulus, rest) = der_element(sequence, 0x02)?;
    let (exponent, _) = der_element(rest, 0x02)?;
    Some((modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent.strip_prefix(&[0]).unwrap_or(exponent)))
}

/// The content of the DER element with this tag at the start, and what follows it.
fn der_element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let long = usize::from(length.saturating_sub(0x80));
    let (digits, rest) = rest.split_at_checked(long)?;
    let length = if length < 0x80 {
        usize::from(length)
    } else {
        digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit))
    };
    (first == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// RFC 7638: the hash of the required members in the order of their names, which is the order of our maps.
fn thumbprint(public: &Value) -> String {
    encode(digest::digest(&digest::SHA256, public.to_string().as_bytes()))
}

fn published(mut public: Value, kid: &str, algorithm: &str, usage: &str) -> Value {
    public["kid"] = json!(kid);
    public["alg"] = json!(algorithm);
    public["use"] = json!(usage);
    public
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::ECDSA_P521_SHA512_FIXED;
    use jsonwebtoken::{DecodingKey, Validation, jwk::Jwk};

    #[test]
    fn every_signature_is_verified_by_the_published_key() {
        for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != Algorithm::Es512) {
            let key = SigningKey::generate(algorithm).unwrap();
            let header = json!({ "alg": algorithm.name(), "kid": key.kid() }).to_string();
            let token = key.compact(header.as_bytes(), br#"{"exp":4102444800}"#).unwrap();
            let jwk: Jwk = serde_json::from_value(key.jwk().clone()).unwrap();
            let verify = |token: &str| {
                let rules = Validation::new(algorithm.name().parse().unwrap());
                jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(&jwk).unwrap(), &rules).is_ok()
            };
            assert!(verify(&token) && key.verifies(&token), "{key:?}");
            let other = SigningKey::generate(algorithm).unwrap();
            let forged = other.compact(header.as_bytes(), br#"{"exp":4102444800}"#).unwrap();
            assert!(!verify(&forged) && !key.verifies(&forged), "{key:?}");
        }
    }

    /// The reference library does not know P-521.
    #[test]
    fn es512_has_padded_coordinates_and_verifies() {
        let key = SigningKey::generate(Algorithm::Es512).unwrap();
        let part = |name: &str| BASE64URL.decode(key.jwk()[name].as_str().unwrap()).unwrap();
        assert_eq!((part("x").len(), part("y").len()), (66, 66));
        let point = [vec![4], part("x"), part("y")].concat();
        let signature = key.sign(b"message").unwrap();
        assert_eq!(signature.len(), 132);
        UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point).verify(b"message", &signature).unwrap();
    }

    #[test]
    fn an_hs512_token_is_verified_by_its_own_key_only() {
        let key = |byte: u8| hmac::Key::new(hmac::HMAC_SHA512, &[byte; 64]);
        let token = compact_hs512(&key(1), b"{}", b"{}");
        assert!(verify_hs512(&key(1), &token));
        assert!(!verify_hs512(&key(2), &token));
        assert!(!verify_hs512(&key(1), "no token"));
    }

    #[test]
    fn identifiers_have_the_form_of_a_uuid() {
        let id = uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert_ne!(id, uuid());
    }
}
