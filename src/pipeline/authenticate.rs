//! Stage 4: exactly one bearer token (RFC 6750 §2.1), from the `Authorization` header alone, of an issuer that the route accepts.

use super::Context;
use super::reject::Rejection;
use super::strip::Presented;
use crate::config::{IssuerName, Route};
use crate::identity::opaque::is_opaque;
use crate::identity::own::OWN;
use crate::identity::{LocalCache, TokenError, VerifiedToken, Verifier};
use crate::telemetry::reason::Reason;
use std::sync::Arc;

/// Verifies the token of a request. Waits only where the token names a key that is not known yet, or where it is opaque and only its
/// issuer can say what it is.
///
/// # Errors
/// [`Rejection`] with 401, 400 for a malformed header, 503 while the issuer's keys are unavailable.
pub async fn authenticate(
    verifier: &Arc<Verifier>,
    tokens: &LocalCache,
    presented: &Presented,
    route: &Route,
    context: &Context,
) -> Result<Arc<VerifiedToken>, Rejection> {
    let header = match presented {
        Presented::Nothing => return Err(Reason::MissingToken.into()),
        Presented::Several => return Err(Reason::MalformedAuthorization.into()),
        Presented::One(header) => header.as_bytes(),
    };
    let token = bearer(header).ok_or(Reason::MalformedAuthorization)?;
    let (now, shown) = (context.now, context.connection.thumbprint());
    let verified = match verifier.verify_shown(tokens, token, shown, now).await {
        Ok(verified) => verified,
        // Only a token that is refused is looked at byte by byte: one that was verified before has the right bytes.
        Err(TokenError::Malformed(error)) if !is_token68(token) => {
            return Err(Rejection::because(Reason::MalformedAuthorization, error));
        }
        Err(TokenError::Malformed(error)) => match opaque_issuer(route).filter(|_| is_opaque(token)) {
            Some(issuer) => verifier.verify_opaque(tokens, token, issuer, shown, (context.client, now)).await?,
            None => return Err(TokenError::Malformed(error).into()),
        },
        Err(error) => return Err(error.into()),
    };
    let is_accepted = |name: &IssuerName| {
        let accepted = match name {
            IssuerName::Configured(issuer) => issuer.name.as_str(),
            IssuerName::Own => OWN,
        };
        accepted == verified.issuer().config().name
    };
    if route.issuers.iter().any(is_accepted) { Ok(verified) } else { Err(Reason::WrongIssuer.into()) }
}

/// The one issuer of the route that takes tokens that are no JWS.
fn opaque_issuer(route: &Route) -> Option<&str> {
    route.issuers.iter().find_map(|name| match name {
        IssuerName::Configured(issuer) => issuer.opaque.then_some(issuer.name.as_str()),
        IssuerName::Own => None,
    })
}

/// Whether the request shows a token that was verified before. It may have ended since.
pub fn is_known(verifier: &Verifier, tokens: &LocalCache, presented: &Presented) -> bool {
    match presented {
        Presented::One(header) => bearer(header.as_bytes()).is_some_and(|token| verifier.is_known(tokens, token)),
        Presented::Nothing | Presented::Several => false,
    }
}

/// What follows the scheme, which is compared without case (RFC 9110 §11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(7)?;
    // Nearly all spell it like this.
    if scheme != b"Bearer " && !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let token = rest.trim_ascii_start();
    (!token.is_empty() && !rest.starts_with(b"\t")).then_some(token)
}

/// Whether it is one token at all (RFC 9110 §11.2).
fn is_token68(token: &[u8]) -> bool {
    token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, token: Option<&str>) {
        let found = bearer(header.as_bytes()).filter(|token| is_token68(token));
        assert_eq!(found, token.map(str::as_bytes), "{header:?}");
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
