//! A signing key: made, read from PEM, used, and shown as a JWK.

use crate::config::SigningAlgorithm;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A private key, prepared for signing.
pub struct SigningKey {
    id: Arc<str>,
    pair: Pair,
    jwk: Value,
    /// The JOSE header of every access token that it signs, encoded, with the dot.
    head: String,
    /// That of every security event token.
    event_head: String,
}

enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
}

/// Why the signing keys cannot be used. The operator reads this.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or folder cannot be read or written.
    #[error("signing keys: `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is no key that Postern can sign with.
    #[error("`{path}` holds no PKCS#8 PEM key of P-256, Ed25519, or RSA with at least 2048 bits")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The cryptographic library made no key.
    #[error("no {0:?} key could be made")]
    Generate(SigningAlgorithm),
}

impl SigningKey {
    /// Makes a key, and its PKCS#8 PEM.
    pub(super) fn generate(algorithm: SigningAlgorithm) -> Result<(Self, Zeroizing<String>), KeyError> {
        let failed = |_| KeyError::Generate(algorithm);
        let der: Zeroizing<Vec<u8>> = Zeroizing::new(match algorithm {
            SigningAlgorithm::Es256 => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
                document.map_err(failed)?.as_ref().to_vec()
            }
            SigningAlgorithm::EdDsa => {
                Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(failed)?.as_ref().to_vec()
            }
            SigningAlgorithm::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
                AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?.as_ref().to_vec()
            }
        });
        let key = Self::from_pkcs8(&der).ok_or(KeyError::Generate(algorithm))?;
        let text = Zeroizing::new(STANDARD.encode(&der));
        let mut pem = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
        for (at, character) in text.chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        Ok((key, pem))
    }

    /// Reads a PKCS#8 PEM file.
    ///
    /// # Errors
    /// [`KeyError`] with the file's name.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read(path).map(Zeroizing::new);
        let text = text.map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        let key =
            PrivatePkcs8KeyDer::from_pem_slice(&text).ok().and_then(|der| Self::from_pkcs8(der.secret_pkcs8_der()));
        key.ok_or_else(|| KeyError::NoKey { path: path.to_owned() })
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            Pair::Es256(pair)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            Pair::EdDsa(pair)
        } else {
            // The library refuses RSA keys below 2048 bits.
            Pair::Rs256(RsaKeyPair::from_pkcs8(der).ok()?)
        };
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        // The members of the thumbprint (RFC 7638 §3.2), in its order.
        let (algorithm, members) = match &pair {
            Pair::Es256(pair) => {
                let (x, y) = pair.public_key().as_ref().get(1..65)?.split_at(32);
                ("ES256", json!({"crv": "P-256", "kty": "EC", "x": b64(x), "y": b64(y)}))
            }
            Pair::EdDsa(pair) => {
                ("EdDSA", json!({"crv": "Ed25519", "kty": "OKP", "x": b64(pair.public_key().as_ref())}))
            }
            Pair::Rs256(pair) => {
                let public = pair.public_key();
                let number = |positive: aws_lc_rs::io::Positive<'_>| b64(positive.big_endian_without_leading_zero());
                ("RS256", json!({"e": number(public.exponent()), "kty": "RSA", "n": number(public.modulus())}))
            }
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, members.to_string().as_bytes());
        let id = b64(digest.as_ref());
        let head =
            |typ: &str| format!("{}.", b64(json!({"alg": algorithm, "typ": typ, "kid": id}).to_string().as_bytes()));
        let (head, event_head) = (head("at+jwt"), head("secevent+jwt"));
        let mut jwk = members;
        jwk["kid"] = json!(id);
        jwk["alg"] = json!(algorithm);
        jwk["use"] = json!("sig");
        Some(Self { id: id.into(), pair, jwk, head, event_head })
    }

    /// `kid`: the key's thumbprint (RFC 7638).
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn shared_id(&self) -> Arc<str> {
        Arc::clone(&self.id)
    }

    /// `alg` of what it signs.
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Es256(_) => "ES256",
            Pair::EdDsa(_) => "EdDSA",
            Pair::Rs256(_) => "RS256",
        }
    }

    /// The public key (RFC 7517 §4).
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// The compact JWS of an access token (RFC 9068) over `claims`; `None` if the library does not sign.
    pub(super) fn sign(&self, claims: &[u8]) -> Option<String> {
        self.sign_under(&self.head, claims)
    }

    /// The claims of an access token as it signs them, if this key signed them.
    pub(super) fn open(&self, token: &str) -> Option<Vec<u8>> {
        let (message, signature) = token.rsplit_once('.')?;
        let claims = token.strip_prefix(self.head.as_str())?.split('.').next()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let (algorithm, public): (&'static dyn VerificationAlgorithm, &[u8]) = match &self.pair {
            Pair::Es256(pair) => (&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref()),
            Pair::EdDsa(pair) => (&ED25519, pair.public_key().as_ref()),
            Pair::Rs256(pair) => (&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()),
        };
        UnparsedPublicKey::new(algorithm, public).verify(message.as_bytes(), &signature).ok()?;
        URL_SAFE_NO_PAD.decode(claims).ok()
    }

    /// The compact JWS of a security event token (RFC 8417 §2.3), likewise.
    pub(super) fn sign_event(&self, claims: &[u8]) -> Option<String> {
        self.sign_under(&self.event_head, claims)
    }

    fn sign_under(&self, head: &str, claims: &[u8]) -> Option<String> {
        let mut token = String::with_capacity(head.len() + claims.len() * 4 / 3 + 400);
        token.push_str(head);
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let random = SystemRandom::new();
        let mut signature = [0; 512];
        let signature = match &self.pair {
            Pair::Es256(pair) => {
                let made = pair.sign(&random, token.as_bytes()).ok()?;
                signature.get_mut(..made.as_ref().len())?.copy_from_slice(made.as_ref());
                &signature[..made.as_ref().len()]
            }
            Pair::EdDsa(pair) => {
                let made = pair.try_sign(token.as_bytes()).ok()?;
                signature.get_mut(..made.as_ref().len())?.copy_from_slice(made.as_ref());
                &signature[..made.as_ref().len()]
            }
            Pair::Rs256(pair) => {
                let room = signature.get_mut(..pair.public_modulus_len())?;
                pair.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), room).ok()?;
                room
            }
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }
}

impl PartialEq for SigningKey {
    /// A thumbprint covers the whole public key.
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config;
    use std::time::Duration;

    pub(in crate::token_service) fn config(folder: &Path, algorithm: SigningAlgorithm) -> config::TokenService {
        config::TokenService {
            issuer: "https://postern.example".into(),
            audience: "https://postern.example".into(),
            algorithm,
            lifetime: Duration::from_secs(1800),
            signing_keys: config::SigningKeys::Directory {
                path: folder.join("keys"),
                rotate_every: Duration::from_secs(30 * 86_400),
            },
            clients: Vec::new(),
        }
    }

    /// An independent library verifies what each kind of key signs, by the published JWK.
    #[test]
    fn another_library_verifies_each_algorithm() {
        for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa, SigningAlgorithm::Rs256] {
            let (key, pem) = SigningKey::generate(algorithm).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key.pem");
            std::fs::write(&path, pem.as_bytes()).unwrap();
            assert_eq!(SigningKey::load(&path).unwrap(), key);
            let token = key.sign(br#"{"sub":"alice","exp":4000000000}"#).unwrap();
            let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.jwk().clone()).unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            assert_eq!((header.kid.as_deref(), header.typ.as_deref()), (Some(key.id()), Some("at+jwt")));
            assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), key.id());
            let decoded = jsonwebtoken::decode::<Value>(
                &token,
                &jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap(),
                &jsonwebtoken::Validation::new(header.alg),
            );
            assert_eq!(decoded.unwrap().claims["sub"], "alice", "{algorithm:?}");
            assert!(key.jwk().get("d").is_none());
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "hello").unwrap();
        let said = SigningKey::load(&path).unwrap_err().to_string();
        assert!(said.contains("key.pem") && said.contains("PKCS#8"), "{said}");
    }
}
