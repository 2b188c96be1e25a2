//! Which certificate a client is shown, by the host that it asks for (SNI, RFC 6066 §3).

use crate::base::tls::Names;
use crate::config::UnknownName;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// Certificates by the names that stand in them.
#[derive(Debug)]
pub(super) struct ByName {
    /// Those of a name in the order of the file: there may be one of each kind of key. `*.` stands for one label.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For everybody else; without it they are refused.
    default: Option<Arc<CertifiedKey>>,
}

/// The hosts that a certificate is for.
pub(super) fn names(key: &CertifiedKey) -> Vec<String> {
    key.end_entity_cert().map(|certificate| Names::of(certificate).dns).unwrap_or_default()
}

impl ByName {
    /// The first is the default.
    pub(super) fn new(keys: &[Arc<CertifiedKey>], unknown_name: UnknownName) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for key in keys {
            for name in names(key) {
                by_name.entry(name).or_default().push(Arc::clone(key));
            }
        }
        let default = keys.first().filter(|_| unknown_name == UnknownName::Default).cloned();
        Self { names: by_name, default }
    }

    fn find(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.names.get(&format!("*.{rest}")));
        self.names.get(name).or_else(wildcard).map(Vec::as_slice)
    }

    /// Of those that have the name, the first that the client can verify.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let Some(named) = name.and_then(|name| self.find(name)) else { return self.default.as_ref() };
        named.iter().find(|key| key.key.choose_scheme(schemes).is_some()).or(named.first())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::PrivatePkcs8KeyDer;

    const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const ED25519: SignatureScheme = SignatureScheme::ED25519;

    fn key(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Arc<CertifiedKey> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let private = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Arc::new(CertifiedKey::from_der(vec![certificate.der().clone()], private, &default_provider()).unwrap())
    }

    #[test]
    fn an_exact_name_comes_before_a_wildcard_of_one_label() {
        let names: [&[&str]; 4] = [&["default.example"], &["*.shop.example"], &["eu.shop.example"], &["shop.example"]];
        let keys = names.map(|names| key(&PKCS_ECDSA_P256_SHA256, names));
        for (name, expected) in [
            (Some("us.shop.example"), 1),
            (Some("eu.shop.example"), 2),
            (Some("shop.example"), 3),
            (Some("a.us.shop.example"), 0),
            (Some("default.example"), 0),
            (None, 0),
        ] {
            let by_name = ByName::new(&keys, UnknownName::Default);
            assert!(Arc::ptr_eq(by_name.choose(name, &[P256]).unwrap(), &keys[expected]), "{name:?}");
            let refusing = ByName::new(&keys, UnknownName::Refuse);
            let is_known = expected != 0 || name == Some("default.example");
            assert_eq!(refusing.choose(name, &[P256]).is_some(), is_known, "{name:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_a_name_the_client_gets_the_one_it_can_verify() {
        let keys = [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256].map(|algorithm| key(algorithm, &["a.example"]));
        let by_name = ByName::new(&keys, UnknownName::Default);
        for (schemes, expected) in [(&[P256][..], 1), (&[ED25519], 0), (&[P256, ED25519], 0), (&[], 0)] {
            assert!(Arc::ptr_eq(by_name.choose(Some("a.example"), schemes).unwrap(), &keys[expected]), "{schemes:?}");
        }
    }
}
