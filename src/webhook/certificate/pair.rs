//! A certificate and its key, as they are made (ECDSA P-256), written to a file and read back.

use super::CertificateError;
use crate::base::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long an authority is trusted, in seconds.
pub(super) const AUTHORITY_LIFE: u64 = 365 * DAY;

/// How long a serving certificate is good, in seconds.
pub(super) const SERVING_LIFE: u64 = 30 * DAY;

pub(super) const DAY: u64 = 24 * 3600;

/// Certificates are good from this long before they are made: the API server's clock may be behind ours.
pub(super) const BACKDATE: u64 = 3600;

/// A certificate, when it was made, and its key. An authority that will sign no more has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// In seconds since 1970. The file's name says it, so that nobody has to read certificates for it.
    pub(super) made: u64,
    pub(super) certificate: CertificateDer<'static>,
    /// PKCS#8 in PEM.
    pub(super) key: Option<Secret>,
}

impl Pair {
    /// An authority of its own.
    pub(super) fn make_authority(now: u64) -> Result<Self, CertificateError> {
        let key = new_key()?;
        let certificate = authority_params(now).self_signed(&key)?;
        Ok(Self::new(now, &certificate, &key))
    }

    /// A serving certificate for these names, signed by this authority and good no longer than it.
    pub(super) fn make_serving(&self, names: &[String], now: u64) -> Result<Self, CertificateError> {
        let authority = self.key.as_ref().ok_or(CertificateError::NoKey)?;
        let authority = KeyPair::try_from(&private_key(authority)?)?;
        let issuer = Issuer::new(authority_params(self.made), authority);
        let key = new_key()?;
        let mut params = CertificateParams::new(names)?;
        set_validity(&mut params, now.saturating_sub(BACKDATE), self.serving_end(now));
        params.distinguished_name = common_name("Postern's admission webhook".into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Self::new(now, &certificate, &key))
    }

    /// When a serving certificate ends that this authority signed at some time.
    pub(super) fn serving_end(&self, made: u64) -> u64 {
        (made + SERVING_LIFE).min(self.made + AUTHORITY_LIFE)
    }

    /// Whether this authority is to be trusted now, by a clock as ours. What is from the future was made under a wrong clock.
    pub(super) fn is_trusted(&self, now: u64) -> bool {
        self.made <= now + BACKDATE && now < self.made + AUTHORITY_LIFE
    }

    fn new(made: u64, certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        let key = Some(Secret::new(to_pem("PRIVATE KEY", key.serialized_der())));
        Self { made, certificate: certificate.der().clone(), key }
    }

    /// The certificate alone.
    pub(super) fn certificate_pem(&self) -> String {
        to_pem("CERTIFICATE", &self.certificate)
    }

    /// The content of its file: the certificate, then the key.
    pub(super) fn text(&self) -> Secret {
        Secret::new(self.certificate_pem() + self.key.as_ref().map_or("", Secret::expose))
    }

    /// Reads the content of a file back. It is encoded anew, so that no key can pass for a part of a certificate.
    pub(super) fn parse(made: u64, text: &str) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        let key = match PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()) {
            Ok(key) => Some(Secret::new(to_pem("PRIVATE KEY", key.secret_pkcs8_der()))),
            Err(pem::Error::NoItemsFound) => None,
            Err(_) => return None,
        };
        Some(Self { made, certificate, key })
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, CertificateError> {
        private_key(self.key.as_ref().ok_or(CertificateError::NoKey)?)
    }
}

fn private_key(pem: &Secret) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| CertificateError::NoKey)
}

/// RFC 7468 §2.
fn to_pem(label: &str, der: &[u8]) -> String {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n");
    // Base64 is ASCII: 64 bytes are 64 letters.
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.extend([line, "\n"]);
        rest = after;
    }
    pem + &format!("-----END {label}-----\n")
}

fn new_key() -> Result<KeyPair, CertificateError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// Name and use of an authority. Each has a name of its own, so that a verifier knows which one signed.
fn authority_params(made: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, made.saturating_sub(BACKDATE), made + AUTHORITY_LIFE);
    params.distinguished_name = common_name(format!("Postern's admission webhook, authority {made}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn common_name(name: String) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Sets from when to when a certificate is good. (The type of the dates is of a crate that nothing else here needs.)
fn set_validity(params: &mut CertificateParams, from: u64, to: u64) {
    let start = date_time_ymd(1970, 1, 1);
    params.not_before = start + Duration::from_secs(from);
    params.not_after = start + Duration::from_secs(to);
}
