//! TLS: one way to make a rustls configuration for whomever Postern calls, and one for its own listeners.

mod client;
mod names;

pub use client::{Asked, ClientTrust, MAX_CHAIN, ShownCertificate, Thumbprint};
pub use names::Names;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum TlsError {
    #[error("`{path}` cannot be read as PEM: {cause}")]
    Pem { path: PathBuf, cause: rustls::pki_types::pem::Error },
    #[error("`{path}` holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("`{path}` holds a certificate that cannot be an authority: {cause}")]
    Authority { path: PathBuf, cause: rustls::Error },
    #[error("the certificate of `{certificate}` cannot be used with the key of `{key}`: {cause}")]
    Certificate { certificate: PathBuf, key: PathBuf, cause: rustls::Error },
    #[error("`{path}` cannot be used to verify clients: {cause}")]
    ClientAuthority { path: PathBuf, cause: VerifierBuilderError },
    #[error("`{path}` holds no revocation list")]
    NoRevocationList { path: PathBuf },
    #[error("the certificate of `{path}` names no host, so no client would be shown it")]
    Nameless { path: PathBuf },
    #[error("no TLS version can be offered: {0}")]
    Version(rustls::Error),
}

/// A client configuration on the aws-lc-rs provider.
///
/// `ca` is a PEM file of the authorities trusted *instead of* the host's; `client_cert` is the PEM files of
/// a certificate chain and its key; `alpn` is offered in that order. The files are read once, here.
///
/// # Errors
/// A file that cannot be read, a `ca` without a usable certificate, a key that does not fit its certificate.
pub fn client_config(
    ca: Option<&Path>,
    client_cert: Option<(&Path, &Path)>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca {
        Some(path) => Arc::new(authorities(path)?),
        None => host_authorities(),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Version)?
        .with_root_certificates(roots);
    let mut config = match client_cert {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (chain, private) = (certificates(certificate)?, private_key(key)?);
            builder.with_client_auth_cert(chain, private).map_err(unusable(certificate, key))?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A server configuration on the aws-lc-rs provider: TLS 1.2 and 1.3, `alpn` in the order of preference. With `client_ca` a client
/// must show a certificate of one of these authorities. The files, all PEM, are read once, here.
///
/// # Errors
/// A file that cannot be read, a key that does not fit its certificate, a `client_ca` without a usable certificate.
pub fn server_config(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = server_builder()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let failed = |cause| TlsError::ClientAuthority { path: path.to_owned(), cause };
            builder.with_client_cert_verifier(verifier.map_err(failed)?)
        }
    };
    let (chain, private) = (certificates(certificate)?, private_key(key)?);
    let mut config = builder.with_single_cert(chain, private).map_err(unusable(certificate, key))?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// What every server configuration begins with: TLS 1.2 and 1.3 on the aws-lc-rs provider.
///
/// # Errors
/// The provider has neither, which it has.
pub fn server_builder() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Version)
}

/// A certificate and its key, ready to be shown. The files, both PEM, are read once, here.
///
/// # Errors
/// A file that cannot be read, a key that does not fit its certificate.
pub fn certified_key(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, private) = (certificates(certificate)?, private_key(key)?);
    CertifiedKey::from_der(chain, private, &provider()).map(Arc::new).map_err(unusable(certificate, key))
}

// Handed over each time: a process-wide default could be another's, or missing.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|cause| TlsError::Pem { path: path.to_owned(), cause })
}

fn unusable(certificate: &Path, key: &Path) -> impl FnOnce(rustls::Error) -> TlsError {
    move |cause| TlsError::Certificate { certificate: certificate.to_owned(), key: key.to_owned(), cause }
}

/// The host's trust store, read at the first use. An image without one trusts nobody, which is no error:
/// it may call only issuers and upstreams that name a `ca`, or none by TLS.
fn host_authorities() -> Arc<RootCertStore> {
    static HOST: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    HOST.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "a certificate of the host's trust store was skipped");
        }
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            tracing::warn!("the host's trust store is empty: TLS needs a `ca`");
        }
        Arc::new(roots)
    })
    .clone()
}

/// The authorities of a PEM file.
fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    store(path, certificates(path)?)
}

/// What was read of a file, as authorities. Unlike the host's store, a file that somebody named is held to its word: each
/// certificate must be usable.
fn store(path: &Path, certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|cause| TlsError::Authority { path: path.to_owned(), cause })?;
    }
    Ok(roots)
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |cause| TlsError::Pem { path: path.to_owned(), cause };
    let found: Vec<_> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_host_store_and_the_offered_protocols_make_a_configuration() {
        let config = client_config(None, None, &[b"h2", b"http/1.1"]).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_named_authority_and_a_client_certificate_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&certificate, pair.cert.pem()).unwrap();
        fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        let config = client_config(Some(&certificate), Some((&certificate, &key)), &[]).unwrap();
        assert!(config.client_auth_cert_resolver.has_certs());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&certificate, make().cert.pem()).unwrap();
        fs::write(&key, make().signing_key.serialize_pem()).unwrap();
        let error = client_config(None, Some((&certificate, &key)), &[]).unwrap_err();
        assert!(matches!(error, TlsError::Certificate { .. }), "{error}");
    }

    #[test]
    fn an_authority_file_without_a_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        fs::write(&path, "no PEM here\n").unwrap();
        assert!(matches!(client_config(Some(&path), None, &[]), Err(TlsError::NoCertificate { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(client_config(Some(&path), None, &[]), Err(TlsError::Pem { .. })));
    }
}
