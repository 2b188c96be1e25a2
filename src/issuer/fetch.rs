//! One fetch of an issuer's keys: its discovery document, then its JWK Set.

use crate::base::http_client::{HttpError, not_json, shown};
use crate::issuer::Issuer;
use crate::issuer::discovery::{DiscoveryError, Document};
use crate::issuer::jwk::{Jwks, JwksError, parse_jwks};
use std::sync::Arc;

/// Why a fetch brought no keys; those known so far stay.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum FetchError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("`{url}` cannot be used: {cause}")]
    Jwks { url: String, cause: JwksError },
    #[error("this issuer's keys are not fetched")]
    Offline,
}

impl Issuer {
    /// Fetches the keys once and learns the endpoints, for one who only looks. A gateway has [`Self::run`].
    ///
    /// # Errors
    /// No usable keys.
    pub async fn look(&self) -> Result<Jwks, FetchError> {
        self.fetch(true).await
    }

    /// Who the discovery document says the issuer is when it is asked for under another `Host`.
    ///
    /// # Errors
    /// No such document.
    pub async fn name_under(&self, host: &'static str) -> Result<String, FetchError> {
        let remote = self.remote.as_ref().ok_or(FetchError::Offline)?;
        let url = remote.discovery.document();
        let body = remote.http.get_as_host(url, host).await?;
        let document: Document = serde_json::from_slice(&body).map_err(|error| not_json(url, &error))?;
        Ok(document.issuer)
    }

    /// Fetches the keys; `with_discovery` or where none was read yet, the discovery document first.
    pub(super) async fn fetch(&self, with_discovery: bool) -> Result<Jwks, FetchError> {
        let remote = self.remote.as_ref().ok_or(FetchError::Offline)?;
        let known = self.endpoints.load_full().filter(|_| !with_discovery);
        let endpoints = match known {
            Some(endpoints) => endpoints,
            None => {
                let document: Document = remote.http.get_json(remote.discovery.document()).await?;
                let endpoints = Arc::new(remote.discovery.endpoints(&document)?);
                self.endpoints.store(Some(Arc::clone(&endpoints)));
                endpoints
            }
        };
        let text = remote.http.get(&endpoints.jwks).await?;
        parse_jwks(&text).map_err(|cause| FetchError::Jwks { url: shown(&endpoints.jwks), cause })
    }
}
