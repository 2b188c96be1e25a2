//! The issuer asked for tokens by a client of Postern's own (RFC 6749 §3.2).

use super::Issuer;
use crate::base::http_client::{BasicCredentials, HttpError, Reply};
use std::time::Duration;

/// Why a token endpoint did not answer.
#[derive(Debug, thiserror::Error)]
pub enum TokenEndpointError {
    /// No discovery document was read yet, or it names no such endpoint of an origin that is allowed.
    #[error("no `token_endpoint` of the issuer's origin or of one in `endpoint_origins` is known")]
    Unknown,
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl Issuer {
    /// Posts a form to the token endpoint, and gives the answer whatever its status. To be called on the control plane's
    /// runtime, where the connections live.
    ///
    /// # Errors
    /// [`TokenEndpointError`].
    pub async fn post_for_token(
        &self,
        who: &BasicCredentials,
        form: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Reply, TokenEndpointError> {
        let endpoints = self.endpoints();
        let url = endpoints.as_ref().and_then(|endpoints| endpoints.token.as_ref());
        let (Some(url), Some(remote)) = (url, &self.remote) else { return Err(TokenEndpointError::Unknown) };
        Ok(remote.http.post_form_for_reply(url, who, form, timeout).await?)
    }
}
