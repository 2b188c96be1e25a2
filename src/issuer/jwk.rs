//! JWK Sets (RFC 7517): text in, prepared keys out. What cannot be used is skipped, never fatal.

use crate::config::Algorithm;
use crate::issuer::verifying_key::{Candidate, VerifyingKey};
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// More entries than this are no key set but a mistake or an attack.
pub const MAX_ENTRIES: usize = 100;

/// Every key of one `kid` costs a verification of a forged token.
const MAX_OF_ONE_KID: usize = 4;

/// A longer `kid` is nobody's.
const MAX_KID_BYTES: usize = 512;

/// The usable keys of a JWK Set, and why the others are not.
#[derive(Debug)]
pub struct Jwks {
    /// One for each `kid`, and one for each key without; never empty.
    pub keys: Vec<VerifyingKey>,
    /// Why entries were skipped, in their order.
    pub skipped: Vec<JwkError>,
}

/// Why a whole set is refused; the keys known so far stay.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum JwksError {
    #[error("it is no JWK Set (line {line}, column {column})")]
    NotASet { line: usize, column: usize },
    #[error("it holds {found} keys; at most {MAX_ENTRIES} are taken")]
    TooMany { found: usize },
    #[error("it holds no usable key{}", first.as_ref().map(|error| format!("; of the first, {error}")).unwrap_or_default())]
    NoUsableKey { first: Option<JwkError> },
}

/// Why one entry is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum JwkError {
    #[error("a member is missing or of the wrong type")]
    Malformed,
    #[error("it is not for signatures")]
    NotForSignatures,
    #[error("it holds a private key, which everybody knows now")]
    Private,
    #[error("its type or curve is not supported")]
    Type,
    #[error("its `alg` is not supported or does not fit its type")]
    Algorithm,
    #[error("its `kid` is too long")]
    Kid,
    #[error("a value is not base64url of the right length")]
    Encoding,
    #[error("its modulus has fewer than 2048 or more than 8192 bits, or is even")]
    Modulus,
    #[error("its exponent is even, less than 3 or more than 32 bits long")]
    Exponent,
    #[error("it is no point of its curve")]
    Point,
    #[error("its `kid` names too many keys")]
    TooManyOfOneKid,
    #[error("it is there twice")]
    Twice,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Value>,
}

/// The members that matter. `x5c`, `x5u` and all others are ignored: only the bare key is trusted.
#[derive(Deserialize)]
struct RawJwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

/// Reads a JWK Set.
///
/// # Errors
/// A text that is no set, a set of more than [`MAX_ENTRIES`] entries, a set without a usable key.
pub fn parse_jwks(text: &[u8]) -> Result<Jwks, JwksError> {
    let raw: RawSet = serde_json::from_slice(text)
        .map_err(|error| JwksError::NotASet { line: error.line(), column: error.column() })?;
    if raw.keys.len() > MAX_ENTRIES {
        return Err(JwksError::TooMany { found: raw.keys.len() });
    }
    let mut keys = Vec::new();
    let mut skipped = Vec::new();
    for entry in raw.keys {
        if let Err(error) = parse_entry(entry).and_then(|(kid, key)| place(&mut keys, kid, key)) {
            skipped.push(error);
        }
    }
    if keys.is_empty() {
        return Err(JwksError::NoUsableKey { first: skipped.first().copied() });
    }
    Ok(Jwks { keys, skipped })
}

/// Puts a key beside those of its `kid`.
fn place(keys: &mut Vec<VerifyingKey>, kid: Option<Box<str>>, key: Candidate) -> Result<(), JwkError> {
    let named = keys.iter_mut().find(|known| kid.is_some() && known.kid() == kid.as_deref());
    let Some(known) = named else {
        keys.push(VerifyingKey::new(kid, key));
        return Ok(());
    };
    if known.candidates().iter().any(|other| other.identity == key.identity) {
        return Err(JwkError::Twice);
    }
    if known.candidates().len() == MAX_OF_ONE_KID {
        return Err(JwkError::TooManyOfOneKid);
    }
    known.add(key);
    Ok(())
}

fn parse_entry(entry: serde_json::Value) -> Result<(Option<Box<str>>, Candidate), JwkError> {
    let raw: RawJwk = serde_json::from_value(entry).map_err(|_| JwkError::Malformed)?;
    if raw.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err(JwkError::NotForSignatures);
    }
    if raw.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|name| name == "verify")) {
        return Err(JwkError::NotForSignatures);
    }
    if raw.d.is_some() {
        return Err(JwkError::Private);
    }
    if raw.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
        return Err(JwkError::Kid);
    }
    let key = match raw.kty.as_str() {
        "RSA" => rsa(&raw),
        "EC" => ec(&raw),
        "OKP" => okp(&raw),
        _ => Err(JwkError::Type),
    }?;
    Ok((raw.kid.map(String::into_boxed_str), key))
}

/// The algorithms that the key may be used with: the one that its `alg` names, else all of its type.
fn algorithms(raw: &RawJwk, of_type: &[Algorithm]) -> Result<Vec<Algorithm>, JwkError> {
    let Some(name) = &raw.alg else { return Ok(of_type.to_vec()) };
    let named = Algorithm::from_name(name).filter(|algorithm| of_type.contains(algorithm));
    named.map(|algorithm| vec![algorithm]).ok_or(JwkError::Algorithm)
}

/// RFC 7518 §6.3.1.
fn rsa(raw: &RawJwk) -> Result<Candidate, JwkError> {
    use Algorithm::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    let algorithms = algorithms(raw, &[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512])?;
    let (n, e) = (number(raw.n.as_ref())?, number(raw.e.as_ref())?);
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) || n.last().is_none_or(|last| last % 2 == 0) {
        return Err(JwkError::Modulus);
    }
    // A long exponent makes each verification expensive; nobody needs one.
    if e.len() > 4 || e.last().is_none_or(|last| last % 2 == 0) || e == [1] {
        return Err(JwkError::Exponent);
    }
    let components = RsaPublicKeyComponents { n: &n, e: &e };
    let prepare = |algorithm| {
        let parsed = components.to_parsed_public_key(rsa_parameters(algorithm)?);
        parsed.map(|key| (algorithm, key)).map_err(|_| JwkError::Modulus)
    };
    let prepared = algorithms.into_iter().map(prepare).collect::<Result<_, _>>()?;
    Ok(candidate("RSA", prepared, &[&n, &e]))
}

fn rsa_parameters(algorithm: Algorithm) -> Result<&'static RsaParameters, JwkError> {
    Ok(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => return Err(JwkError::Algorithm),
    })
}

/// RFC 7518 §6.2.1: coordinates are as long as the curve's field, leading zeros included.
fn ec(raw: &RawJwk) -> Result<Candidate, JwkError> {
    let (algorithm, parameters, length): (_, &'static EcdsaVerificationAlgorithm, _) = match raw.crv.as_deref() {
        Some("P-256") => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        Some("P-384") => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        Some("P-521") => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
        _ => return Err(JwkError::Type),
    };
    algorithms(raw, &[algorithm])?;
    let (x, y) = (bytes(raw.x.as_ref())?, bytes(raw.y.as_ref())?);
    if x.len() != length || y.len() != length {
        return Err(JwkError::Encoding);
    }
    // SEC 1 §2.3.3: 4 marks an uncompressed point.
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    let key = ParsedPublicKey::new(parameters, &point).map_err(|_| JwkError::Point)?;
    Ok(candidate("EC", vec![(algorithm, key)], &[&point]))
}

/// RFC 8037 §2. Ed448 is nobody's: Keycloak offers it only by configuration, aws-lc-rs not at all.
fn okp(raw: &RawJwk) -> Result<Candidate, JwkError> {
    if raw.crv.as_deref() != Some("Ed25519") {
        return Err(JwkError::Type);
    }
    algorithms(raw, &[Algorithm::EdDsa])?;
    let x = bytes(raw.x.as_ref())?;
    // The length is checked here because aws-lc-rs would take other encodings of other lengths too.
    if x.len() != 32 {
        return Err(JwkError::Encoding);
    }
    if is_of_small_order(&x) {
        return Err(JwkError::Point);
    }
    let key = ParsedPublicKey::new(&signature::ED25519, &x).map_err(|_| JwkError::Point)?;
    Ok(candidate("OKP", vec![(Algorithm::EdDsa, key)], &[&x]))
}

/// Whether an Ed25519 point has order 1, 2, 4 or 8: anybody can sign for such a key (RFC 8032 §5.1.7 lets them be).
/// These are all encodings of their `y`, canonical or not; the sign of `x` is the top bit and does not matter.
fn is_of_small_order(point: &[u8]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\
           \xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
        *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\
           \x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    ];
    let mut y = point.to_vec();
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    let is_zero_or_one = y[0] <= 1 && y[1..].iter().all(|byte| *byte == 0);
    // p - 1, p and p + 1, where p = 2^255 - 19.
    let is_around_p = (0xec..=0xee).contains(&y[0]) && y[1..31].iter().all(|byte| *byte == 0xff) && y[31] == 0x7f;
    is_zero_or_one || is_around_p || ORDER_8.iter().any(|known| y == known)
}

/// The identity is the type, the algorithms and the parts of the key, each with its length before it.
fn candidate(kind: &str, prepared: Vec<(Algorithm, ParsedPublicKey)>, parts: &[&[u8]]) -> Candidate {
    let mut identity = kind.as_bytes().to_vec();
    let names = prepared.iter().map(|(algorithm, _)| algorithm.name().as_bytes());
    for part in names.chain(parts.iter().copied()) {
        identity.extend_from_slice(&part.len().to_be_bytes());
        identity.extend_from_slice(part);
    }
    Candidate { identity, prepared }
}

fn bytes(text: Option<&String>) -> Result<Vec<u8>, JwkError> {
    URL_SAFE_NO_PAD.decode(text.ok_or(JwkError::Malformed)?).map_err(|_| JwkError::Encoding)
}

/// An unsigned big-endian number. Leading zeros, which RFC 7518 §6.3.1.1 forbids and some issuers write,
/// change nothing and are dropped.
fn number(text: Option<&String>) -> Result<Vec<u8>, JwkError> {
    let bytes = bytes(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}
