//! Who is an operator: by a token of the configured issuer, role and audience, or by a client certificate.

use crate::base::clock::Now;
use crate::base::json;
use crate::identity::status::StatusError;
use crate::identity::{LocalCache, TokenError, Verifier, claims, jws};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use rustls::pki_types::CertificateDer;
use std::fmt::Write as _;
use std::sync::Arc;

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// Who, for the audit log: `ISSUER/SUBJECT`, or the certificate's fingerprint.
    pub(super) name: String,
}

/// What an operator's token must show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) issuer: &'a str,
    pub(super) role: &'a str,
    pub(super) audience: &'a str,
}

/// Why somebody is no operator.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum AccessError {
    #[error("a bearer token is needed")]
    NoToken,
    #[error("a client certificate is needed")]
    NoCertificate,
    #[error("the token is refused")]
    Token(#[from] TokenError),
    #[error("the user is refused")]
    User(#[from] StatusError),
    #[error("the token is of another issuer, lacks the audience, or its user lacks the role")]
    NoOperator,
}

impl AccessError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::NoCertificate => StatusCode::UNAUTHORIZED,
            Self::Token(TokenError::KeysUnavailable { .. }) | Self::User(StatusError::Unknown) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Token(_) | Self::User(_) => StatusCode::UNAUTHORIZED,
            Self::NoOperator => StatusCode::FORBIDDEN,
        }
    }
}

impl Caller {
    /// TLS has verified the certificate; without one nobody comes here.
    pub(super) fn by_certificate(fingerprint: Option<&str>) -> Result<Self, AccessError> {
        let name = fingerprint.ok_or(AccessError::NoCertificate)?.to_owned();
        Ok(Self { name })
    }

    /// The token goes the way of every token: verified, its user still enabled, its role as the issuer says now.
    pub(super) async fn by_token(
        verifier: &Arc<Verifier>,
        headers: &HeaderMap,
        wanted: Wanted<'_>,
        now: Now,
    ) -> Result<Self, AccessError> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (given.next(), given.next()) else { return Err(AccessError::NoToken) };
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or(AccessError::NoToken)?;
        let verified = verifier.verify(&LocalCache::default(), token.as_bytes(), now).await?;
        let identity = verifier.confirm_operator(&verified, now).await?;
        let is_operator = verified.issuer().config().name == wanted.issuer
            && identity.roles.iter().any(|role| role == wanted.role)
            && has_audience(token, wanted.audience);
        if !is_operator {
            return Err(AccessError::NoOperator);
        }
        Ok(Self { name: format!("{}/{}", wanted.issuer, identity.subject) })
    }
}

/// Whether a token that was verified names an audience.
fn has_audience(token: &str, audience: &str) -> bool {
    let jws = jws::parse(token.as_bytes()).ok();
    let claims = jws.as_ref().and_then(|jws| json::parse_object(&jws.payload));
    let named = claims.as_ref().and_then(|claims| claims.get("aud"));
    named.is_some_and(|named| claims::check_audience(named, &[audience]).is_ok())
}

/// SHA-256 of a certificate, as most tools print it.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut text = "certificate sha256:".to_owned();
    for byte in digest.as_ref() {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
