//! Which headers a route may add.

use http::HeaderName;

/// Why a route cannot add a header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("`{0}` is no header name")]
    NoName(String),
    #[error("`{0}` belongs to the connection or to the message itself and cannot be added")]
    OfTheMessage(String),
    #[error("`{0}` carries a credential: a route sets it with `credential`, not with `headers`")]
    OfTheCredential(String),
    #[error("`{0}` is set or removed by Postern itself")]
    OfPostern(String),
}

/// Hop-by-hop (RFC 9110 §7.6.1), framing, and what describes the content.
const OF_THE_MESSAGE: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

const OF_THE_CREDENTIAL: &[&str] = &["authorization", "cookie", "set-cookie"];

const OF_POSTERN: &[&str] = &[
    "forwarded",
    "traceparent",
    "tracestate",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];

/// The header of an identity.
pub(super) fn identity_header(text: &str) -> Result<HeaderName, HeaderError> {
    let name = added_header(text)?;
    if OF_THE_CREDENTIAL.contains(&fold(text).as_str()) {
        return Err(HeaderError::OfTheCredential(text.to_owned()));
    }
    Ok(name)
}

/// The header of a credential.
pub(super) fn credential_header(text: &str) -> Result<HeaderName, HeaderError> {
    added_header(text)
}

fn added_header(text: &str) -> Result<HeaderName, HeaderError> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| HeaderError::NoName(text.to_owned()))?;
    let folded = fold(text);
    if OF_THE_MESSAGE.contains(&folded.as_str()) {
        return Err(HeaderError::OfTheMessage(text.to_owned()));
    }
    if OF_POSTERN.contains(&folded.as_str()) || folded.starts_with("x-forwarded-") {
        return Err(HeaderError::OfPostern(text.to_owned()));
    }
    Ok(name)
}

/// What an upstream that takes headers from its environment cannot tell apart is one name: `X_Auth.User` and
/// `x-auth-user` are both `HTTP_X_AUTH_USER` to it.
pub(super) fn fold(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_header_is_refused_however_it_is_spelt() {
        for name in
            ["Content_Length", "connection", "X-Forwarded-For", "x_request.id", "authorization", "HOST", "a b", ""]
        {
            assert!(identity_header(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_credential_may_be_in_authorization_but_an_identity_may_not() {
        assert!(credential_header("Authorization").is_ok());
        assert!(identity_header("Authorization").is_err());
        assert!(identity_header("X-Auth-User").is_ok());
    }
}
