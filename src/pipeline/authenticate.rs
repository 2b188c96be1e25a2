//! Stage 3: exactly one bearer token (RFC 6750 §2.1), from the `Authorization` header alone, of an issuer that the route accepts.

use super::reject::Rejection;
use super::strip::Presented;
use crate::base::clock::Now;
use crate::config::{IssuerName, Route};
use crate::identity::{LocalCache, VerifiedToken, Verifier};
use crate::telemetry::reason::Reason;
use std::sync::Arc;

/// Verifies the token of a request. Waits only where the token names a key that is not known yet.
///
/// # Errors
/// [`Rejection`] with 401, 400 for a malformed header, 503 while the issuer's keys are unavailable.
pub async fn authenticate(
    verifier: &Verifier,
    tokens: &LocalCache,
    presented: &Presented,
    route: &Route,
    now: Now,
) -> Result<Arc<VerifiedToken>, Rejection> {
    let header = match presented {
        Presented::Nothing => return Err(Reason::MissingToken.into()),
        Presented::Several => return Err(Reason::MalformedAuthorization.into()),
        Presented::One(header) => header.as_bytes(),
    };
    let token = bearer(header).ok_or(Reason::MalformedAuthorization)?;
    let verified = verifier.verify(tokens, token, now).await?;
    let is_accepted = |name: &IssuerName| match name {
        IssuerName::Configured(issuer) => issuer.name == verified.issuer().config().name,
        IssuerName::Own => false,
    };
    if route.issuers.iter().any(is_accepted) { Ok(verified) } else { Err(Reason::WrongIssuer.into()) }
}

/// The token after the scheme, which is compared without case (RFC 9110 §11.1); the characters are those of `token68`.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let token = rest.trim_ascii_start();
    let is_token_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    (!token.is_empty() && !rest.starts_with(b"\t") && token.iter().all(is_token_byte)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, token: Option<&str>) {
        assert_eq!(bearer(header.as_bytes()), token.map(str::as_bytes), "{header:?}");
    }

    #[test]
    fn one_token_after_the_scheme_is_found() {
        check("Bearer a.b.c", Some("a.b.c"));
        check("bEARER a.b.c", Some("a.b.c"));
        check("Bearer  a.b.c", Some("a.b.c"));
    }

    #[test]
    fn anything_else_is_malformed() {
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer\ta.b.c",
            "Bearera.b.c",
            "Token a.b.c",
            "Basic YTpi",
            "Bearer a b",
            "Bearer a,b",
            "Bearer Bearer a.b.c",
            "Bearer a.b.c, Bearer a.b.c",
            "Bearer \"a\"",
            "Bearer token=\"a\"",
            "Bearer a;x",
        ] {
            check(header, None);
        }
    }
}
