//! Grants that are passed on to the issuer's token endpoint, as they came from somebody outside.

use crate::base::http_client::{HttpError, Reply};
use crate::issuer::Issuer;
use std::net::IpAddr;
use std::time::Duration;

/// No answer of a token endpoint is longer: three tokens of 16 KiB, and what is said about them.
const MAX_ANSWER: usize = 64 * 1024;

/// Why there is no answer to pass back.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum GrantError {
    #[error(
        "the issuer names no `token_endpoint` at its own origin or one of `endpoint_origins`, or was never reached"
    )]
    NoEndpoint,
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl Issuer {
    /// Asks for tokens with somebody else's form, who calls from `caller`. Nothing is added but their address. To be called on the control
    /// plane's runtime, where the connections live.
    ///
    /// # Errors
    /// No endpoint, or no whole answer in time. Its status may be any.
    pub async fn grant(&self, form: &[(&str, &str)], caller: IpAddr, timeout: Duration) -> Result<Reply, GrantError> {
        let remote = self.remote.as_ref().ok_or(GrantError::NoEndpoint)?;
        let endpoints = self.endpoints.load_full().ok_or(GrantError::NoEndpoint)?;
        let url = endpoints.token.as_ref().ok_or(GrantError::NoEndpoint)?;
        Ok(remote.http.post_form_for(url, caller, form, timeout, MAX_ANSWER).await?)
    }
}
