//! One fetch of an issuer's keys: its discovery document, then its JWK Set.

use crate::base::http_client::{BearerToken, HttpError, not_json, shown};
use crate::base::secret::Secret;
use crate::config::IssuerKind;
use crate::issuer::Issuer;
use crate::issuer::discovery::{DiscoveryError, Document};
use crate::issuer::jwk::{Jwks, JwksError, parse_jwks};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

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
    #[error("the token in `{path}`, by which keys are asked for, cannot be read: {cause}")]
    Token { path: PathBuf, cause: io::Error },
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
        let token = self.discovery_token().await?;
        let known = self.endpoints.load_full().filter(|_| !with_discovery);
        let endpoints = match known {
            Some(endpoints) => endpoints,
            None => {
                let url = remote.discovery.document();
                let text = remote.http.get_as(url, token.as_ref()).await?;
                let document: Document = serde_json::from_slice(&text).map_err(|error| not_json(url, &error))?;
                let endpoints = Arc::new(remote.discovery.endpoints(&document)?);
                self.endpoints.store(Some(Arc::clone(&endpoints)));
                endpoints
            }
        };
        // Its origin is believed, so it may see the token as well.
        let text = remote.http.get_as(&endpoints.jwks, token.as_ref()).await?;
        parse_jwks(&text).map_err(|cause| FetchError::Jwks { url: shown(&endpoints.jwks), cause })
    }

    /// What an API server wants to see before it shows its keys, as it is in its file now.
    async fn discovery_token(&self) -> Result<Option<BearerToken>, FetchError> {
        let IssuerKind::Kubernetes { token: Some(path), .. } = &self.config.kind else { return Ok(None) };
        let failed = |cause| FetchError::Token { path: path.clone(), cause };
        let text = Zeroizing::new(tokio::fs::read_to_string(path).await.map_err(failed)?);
        let token = Some(text.trim_end()).filter(|text| !text.is_empty());
        let token = token.and_then(|text| BearerToken::new(&Secret::new(text)));
        token.map(Some).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }
}
