//! Clients' certificates: taken as they are shown in the handshake, judged when a request needs one.
//!
//! A connection outlives what is known about its certificate: authorities are exchanged, certificates expire and are revoked, and
//! a session that is resumed shows what was shown long ago. So the handshake settles only that the client has the key.

use super::{Names, TlsError, certificates, provider, store};
use crate::base::clock::Now;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, DistinguishedName};
use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// SHA-256 of a certificate, by which a token is bound to it (`x5t#S256`, RFC 8705 §3.1).
pub type Thumbprint = [u8; 32];

/// How many bytes of certificates a client may show. Whoever connects makes us keep them.
pub const MAX_CHAIN: usize = 16 * 1024;

/// How long a judgement holds: time passes for certificates and revocation lists.
const HOLDS_MS: u64 = 10_000;

/// The authorities of clients' certificates, and what they took back.
#[derive(Debug)]
pub struct ClientTrust {
    verifier: Arc<dyn ClientCertVerifier>,
    /// What it was made of.
    source: (Vec<CertificateDer<'static>>, Vec<CertificateRevocationListDer<'static>>),
}

impl ClientTrust {
    /// Reads them, all PEM. With revocation lists each authority must have one, and a new one before its next is due.
    ///
    /// # Errors
    /// A file that cannot be read, or holds nothing that can be used.
    pub fn load(ca: &Path, crl: Option<&Path>) -> Result<Self, TlsError> {
        let roots = certificates(ca)?;
        let lists = crl.map(revocation_lists).transpose()?.unwrap_or_default();
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store(ca, roots.clone())?), provider());
        let verifier = builder.with_crls(lists.iter().cloned()).enforce_revocation_expiration().build();
        let failed = |cause| TlsError::ClientAuthority { path: crl.unwrap_or(ca).to_owned(), cause };
        Ok(Self { verifier: verifier.map_err(failed)?, source: (roots, lists) })
    }

    /// The names of the authorities, so that clients know which of their certificates is meant.
    pub fn hints(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    /// Whether the other was made of the same.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.source == other.source
    }

    fn verify(&self, chain: &[CertificateDer<'static>], unix_ms: u64) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(CertificateError::BadEncoding)?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(unix_ms));
        self.verifier.verify_client_cert(leaf, intermediates, now).map(drop)
    }
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let pem = |cause| TlsError::Pem { path: path.to_owned(), cause };
    let lists = CertificateRevocationListDer::pem_file_iter(path).map_err(pem)?;
    let lists: Vec<_> = lists.collect::<Result<_, _>>().map_err(pem)?;
    if lists.is_empty() {
        return Err(TlsError::NoRevocationList { path: path.to_owned() });
    }
    Ok(lists)
}

/// A connection on which the client was asked for a certificate.
#[derive(Debug)]
pub struct Asked {
    /// The host that it asked for (SNI), in lower case.
    pub server_name: Option<Box<str>>,
    /// What it showed.
    pub shown: Option<ShownCertificate>,
}

/// A certificate that a client showed. It has the key of it; nothing else is settled.
#[derive(Debug)]
pub struct ShownCertificate {
    /// Leaf first, as shown.
    chain: Vec<CertificateDer<'static>>,
    thumbprint: Thumbprint,
    names: OnceCell<Names>,
    judgement: RefCell<Option<Judgement>>,
}

/// What came of the last look.
#[derive(Debug)]
struct Judgement {
    by: Arc<ClientTrust>,
    /// By the monotonic clock.
    until_ms: u64,
    outcome: Result<(), rustls::Error>,
}

impl ShownCertificate {
    /// What a client showed, if it is anything.
    pub fn new(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, chain.first()?);
        Some(Self {
            chain: chain.to_vec(),
            thumbprint: digest.as_ref().try_into().ok()?,
            names: OnceCell::new(),
            judgement: RefCell::new(None),
        })
    }

    /// One that stands in a PEM file, as if it had been shown.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        Self::new(&certificates(path)?).ok_or_else(|| TlsError::NoCertificate { path: path.to_owned() })
    }

    /// What a token is bound to it by.
    pub fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// Its names, which are worth something only once it was found good.
    pub fn names(&self) -> &Names {
        self.names.get_or_init(|| self.chain.first().map(Names::of).unwrap_or_default())
    }

    /// Whether it is a good one by these authorities at this moment. What was found holds for ten seconds.
    ///
    /// # Errors
    /// Why it is none, for the log.
    pub fn judge(&self, trust: &Arc<ClientTrust>, now: Now) -> Result<(), rustls::Error> {
        let mut last = self.judgement.borrow_mut();
        if let Some(last) = &*last
            && Arc::ptr_eq(&last.by, trust)
            && now.monotonic_ms < last.until_ms
        {
            return last.outcome.clone();
        }
        let outcome = trust.verify(&self.chain, now.unix_ms);
        let until_ms = now.monotonic_ms.saturating_add(HOLDS_MS);
        last.insert(Judgement { by: Arc::clone(trust), until_ms, outcome }).outcome.clone()
    }
}
