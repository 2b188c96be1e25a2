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
use arc_swap::ArcSwap;
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

/// The certificates in force, kept in a folder.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    names: Vec<String>,
    clock: Clock,
    in_force: ArcSwap<InForce>,
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
        let material = current(&folder, &names, &clock)?;
        let in_force = ArcSwap::from_pointee(InForce { config: material.server_config()?, material });
        Ok(Self { folder, names, clock, in_force })
    }

    /// Makes what is due and puts it in force, as also what another replica left in the folder. Connections that are open keep what
    /// they have. Says whether anything changed. Waits for the disk.
    ///
    /// # Errors
    /// As [`Certificates::open`]; what was in force stays.
    pub fn maintain(&self) -> Result<bool, CertificateError> {
        let material = current(&self.folder, &self.names, &self.clock)?;
        if material == self.in_force.load().material {
            return Ok(false);
        }
        self.in_force.store(Arc::new(InForce { config: material.server_config()?, material }));
        Ok(true)
    }

    /// The authorities that a client of the webhook must trust, in PEM: `clientConfig.caBundle` of the MutatingWebhookConfiguration
    /// has to be this text (in base64, as the API has it), and to follow its changes within a day.
    pub fn ca_bundle(&self) -> String {
        self.in_force.load().material.ca_bundle()
    }

    /// For the next connection.
    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.in_force.load().config)
    }
}

fn current(folder: &std::path::Path, names: &[String], clock: &Clock) -> Result<Material, CertificateError> {
    let kept = directory::load(folder)?;
    let Some(next) = kept.maintained(names, clock.now().unix_ms / 1000)? else { return Ok(kept) };
    directory::store(folder, &kept, &next)?;
    Ok(next)
}
