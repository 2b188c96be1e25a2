//! All that the webhook's TLS needs, as one value: authorities and a serving certificate, each with its key. It is kept as a few
//! named texts, in a folder or anywhere else; what is due of it is decided here and nowhere else.

use super::CertificateError;
use super::pair::{AUTHORITY_LIFE, DAY, Pair, SERVING_LIFE};
use crate::base::secret::Secret;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{RootCertStore, ServerConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A new authority is made when the last has this long to go: time for it to become known, and for what the old one signed to end.
const NEXT_AUTHORITY: u64 = 2 * SERVING_LIFE;

/// It signs when it has been in the bundle for this long, unless there is no other.
const PUBLISHED_AHEAD: u64 = DAY;

const AUTHORITY: &str = "authority";
const SERVING: &str = "serving";

/// Authorities and the serving certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// The oldest first.
    authorities: Vec<Pair>,
    serving: Option<Pair>,
}

impl Material {
    /// Reads the texts that [`Material::files`] gave. Other names are passed over.
    ///
    /// # Errors
    /// A text that cannot be what its name says.
    pub fn parse<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, CertificateError> {
        let mut material = Self::default();
        for (name, text) in files {
            let Some((kind, made)) = parse_name(name) else { continue };
            let pair = Pair::parse(made, text).ok_or_else(|| CertificateError::Form(name.to_owned()))?;
            if kind == AUTHORITY {
                material.authorities.push(pair);
            } else if material.serving.as_ref().is_none_or(|other| other.made < pair.made) {
                material.serving = Some(pair);
            }
        }
        material.authorities.sort_by_key(|authority| authority.made);
        Ok(material)
    }

    /// Whether there is nothing of ours in it.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.serving.is_none()
    }

    /// Whether what is there can be served: a certificate that was put beside another's key cannot.
    ///
    /// # Errors
    /// [`CertificateError::Use`].
    pub fn check(&self) -> Result<(), CertificateError> {
        if self.serving.is_some() { self.server_config().map(drop) } else { Ok(()) }
    }

    /// When the serving certificate ends, which one of our authorities signed, in seconds since 1970.
    pub(super) fn expires(&self, names: &[String], now: u64) -> Option<u64> {
        let (serving, servers) = (self.serving.as_ref()?, server_names(names).ok()?);
        let mut signers = self.authorities.iter().filter(|by| verify(&[by], serving, &servers, now).is_ok());
        signers.next().map(|by| by.serving_end(serving.made))
    }

    /// The texts to keep, by name. Names are fit for files and for the data of a Secret.
    pub fn files(&self) -> BTreeMap<String, Secret> {
        let authorities = self.authorities.iter().map(|pair| (AUTHORITY, pair));
        let all = authorities.chain(self.serving.iter().map(|pair| (SERVING, pair)));
        all.map(|(kind, pair)| (format!("{kind}-{}.pem", pair.made), pair.text())).collect()
    }

    /// What is to be kept instead, if anything is due at this time (seconds since 1970). `names` are DNS names and addresses that
    /// the serving certificate must have.
    ///
    /// # Errors
    /// Only if the cryptographic library fails, or a name is none.
    pub fn maintained(&self, names: &[String], now: u64) -> Result<Option<Self>, CertificateError> {
        let servers = server_names(names)?;
        let mut next = self.clone();
        next.authorities.retain(|authority| now < authority.made + AUTHORITY_LIFE);
        let newest = next.authorities.iter().rfind(|authority| authority.can_sign(now));
        if newest.is_none_or(|newest| now + NEXT_AUTHORITY >= newest.made + AUTHORITY_LIFE) {
            next.authorities.push(Pair::make_authority(now)?);
            next.authorities.sort_by_key(|authority| authority.made);
        }
        let signer = next.signer(now).ok_or(CertificateError::NoKey)?.clone();
        // An authority that has a successor signs no more. What it signed is trusted to its end.
        for former in next.authorities.iter_mut().filter(|other| other.made < signer.made) {
            former.key = None;
        }
        let is_good = |serving: &Pair| {
            let life = signer.serving_end(serving.made).saturating_sub(serving.made);
            now < serving.made + life * 2 / 3 && verify(&[&signer], serving, &servers, now).is_ok()
        };
        if !next.serving.as_ref().is_some_and(is_good) {
            next.serving = Some(signer.make_serving(names, now)?);
        }
        Ok((next != *self).then_some(next))
    }

    /// The newest authority that has been in the bundle for long enough; else the newest.
    fn signer(&self, now: u64) -> Option<&Pair> {
        let mut known = self.authorities.iter().rev().filter(|authority| authority.can_sign(now));
        let newest = known.clone().next();
        known.find(|authority| authority.made + PUBLISHED_AHEAD <= now).or(newest)
    }

    /// The certificates of all authorities that may have signed, in PEM, the newest first.
    pub fn ca_bundle(&self) -> String {
        self.authorities.iter().rev().map(Pair::certificate_pem).collect()
    }

    /// A server with the serving certificate, for HTTP/2 and HTTP/1.1.
    pub(super) fn server_config(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let serving = self.serving.as_ref().ok_or(CertificateError::NoKey)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![serving.certificate.clone()], serving.private_key()?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Whether a client that trusts this bundle alone takes the serving certificate of `other`.
    #[cfg(test)]
    pub(crate) fn accepts(&self, other: &Self, names: &[String], now: u64) -> bool {
        let trusted: Vec<_> = self.authorities.iter().filter(|authority| authority.is_trusted(now)).collect();
        let servers = server_names(names).unwrap();
        other.serving.as_ref().is_some_and(|serving| verify(&trusted, serving, &servers, now).is_ok())
    }
}

impl Pair {
    fn can_sign(&self, now: u64) -> bool {
        self.key.is_some() && self.is_trusted(now)
    }
}

fn parse_name(name: &str) -> Option<(&str, u64)> {
    let (kind, made) = name.strip_suffix(".pem")?.split_once('-')?;
    Some((kind, made.parse().ok()?)).filter(|(kind, _)| [AUTHORITY, SERVING].contains(kind))
}

fn server_names(names: &[String]) -> Result<Vec<ServerName<'static>>, CertificateError> {
    let parse = |name: &String| ServerName::try_from(name.clone()).map_err(|_| CertificateError::Name(name.clone()));
    names.iter().map(parse).collect()
}

/// Holds a serving certificate against authorities and names as a client does.
fn verify(
    authorities: &[&Pair],
    serving: &Pair,
    servers: &[ServerName<'static>],
    now: u64,
) -> Result<(), CertificateError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.certificate.clone())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
    for server in servers {
        verifier.verify_server_cert(&serving.certificate, &[], server, &[], at)?;
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
