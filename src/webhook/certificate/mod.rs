//! The webhook's certificates. Postern is its own authority: nobody has to make or renew anything.
//!
//! An authority is trusted for a year. Sixty days before its end there is a second one, which signs after it has been in the bundle
//! ([`Certificates::ca_bundle`]) for a day; the first stays in the bundle to its end, its key does not. A serving certificate is good
//! for thirty days and replaced after twenty, or when its authority is, or when a name is missing in it.

mod directory;
mod material;
mod pair;

pub use material::Material;

use crate::base::clock::Clock;
use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::VerifierBuilderError;
use std::path::PathBuf;
use std::sync::Arc;

/// Why there are no certificates. The operator reads this.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum CertificateError {
    #[error("the webhook's certificates: `{path}`")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the webhook's certificates: `{0}` holds no certificate with its key: remove it, and a new one is made")]
    Form(String),
    #[error("the webhook's certificates: `{0}` is no name that a certificate can have")]
    Name(String),
    #[error("the webhook's certificates: a key is missing")]
    NoKey,
    #[error("the webhook's certificates")]
    Make(#[from] rcgen::Error),
    #[error("the webhook's certificates")]
    Use(#[from] rustls::Error),
    #[error("the webhook's certificates")]
    Verify(#[from] VerifierBuilderError),
}

/// The certificates in force.
#[derive(Debug)]
pub struct Certificates {
    /// Where they are kept; `None`: in a Secret, which others look after.
    folder: Option<PathBuf>,
    names: Vec<String>,
    clock: Clock,
    in_force: ArcSwapOption<InForce>,
}

#[derive(Debug)]
struct InForce {
    material: Material,
    config: Arc<ServerConfig>,
}

impl Certificates {
    /// Reads the folder and makes what is missing in it. `names` are DNS names and addresses by which the API server calls.
    ///
    /// # Errors
    /// [`CertificateError`] names the file.
    pub fn open(folder: PathBuf, names: Vec<String>, clock: Clock) -> Result<Self, CertificateError> {
        let certificates = Self { folder: Some(folder), ..Self::shared(names, clock) };
        certificates.maintain()?;
        Ok(certificates)
    }

    /// Certificates that are kept elsewhere: there are none until [`Certificates::put`].
    pub fn shared(names: Vec<String>, clock: Clock) -> Self {
        Self { folder: None, names, clock, in_force: ArcSwapOption::empty() }
    }

    /// Makes what is due and puts it in force, as also what another replica left in the folder. Connections that are open keep what
    /// they have. Says whether anything changed. Waits for the disk.
    ///
    /// # Errors
    /// As [`Certificates::open`]; what was in force stays.
    pub fn maintain(&self) -> Result<bool, CertificateError> {
        let Some(folder) = &self.folder else { return Ok(false) };
        let kept = directory::load(folder)?;
        let Some(next) = self.due(Some(&kept))? else { return self.put(kept) };
        directory::store(folder, &kept, &next)?;
        self.put(next)
    }

    /// What is to be kept instead of what was `found`, if anything is due.
    ///
    /// # Errors
    /// As [`Material::maintained`].
    pub fn due(&self, found: Option<&Material>) -> Result<Option<Material>, CertificateError> {
        found.unwrap_or(&Material::default()).maintained(&self.names, self.now())
    }

    /// Puts in force what is kept. Says whether that is anything new.
    ///
    /// # Errors
    /// There is no serving certificate in it, or it does not fit its key; what was in force stays.
    pub fn put(&self, material: Material) -> Result<bool, CertificateError> {
        if self.in_force.load().as_ref().is_some_and(|in_force| in_force.material == material) {
            return Ok(false);
        }
        self.in_force.store(Some(Arc::new(InForce { config: material.server_config()?, material })));
        Ok(true)
    }

    /// The authorities that a client of the webhook must trust, in PEM: `clientConfig.caBundle` of the MutatingWebhookConfiguration
    /// has to be this text (in base64, as the API has it), and to follow its changes within a day. Empty while there are none.
    pub fn ca_bundle(&self) -> String {
        self.in_force.load().as_ref().map(|in_force| in_force.material.ca_bundle()).unwrap_or_default()
    }

    /// When the serving certificate ends, in seconds since 1970; `None` while there is none that is good.
    pub fn expires(&self) -> Option<u64> {
        self.in_force.load().as_ref()?.material.expires(&self.names, self.now())
    }

    /// For the next connection; `None` while there are none.
    pub(super) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.in_force.load().as_ref().map(|in_force| Arc::clone(&in_force.config))
    }

    fn now(&self) -> u64 {
        self.clock.now().unix_ms / 1000
    }
}
