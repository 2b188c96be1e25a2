//! Which headers a route may add, set or remove.

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
    #[error("`{0}` carries a credential, and no answer is given one")]
    InAnAnswer(String),
    #[error("`{0}` is set or removed by Postern itself")]
    OfPostern(String),
    #[error("`{0}` never comes from a client: a route tells who is calling with `headers`")]
    OfIdentity(String),
    #[error("`{0}` tells browsers what pages of other origins may do: a route says it with `cors`")]
    OfCors(String),
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

/// A header that a route sets on requests.
pub(super) fn set_on_request(text: &str) -> Result<HeaderName, HeaderError> {
    let (name, folded) = (identity_header(text)?, fold(text));
    if folded.starts_with(OF_A_HANDSHAKE) {
        return Err(HeaderError::OfTheMessage(text.to_owned()));
    }
    if is_never_from_client(&folded) { Err(HeaderError::OfIdentity(text.to_owned())) } else { Ok(name) }
}

/// A header of the client that a route removes.
pub(super) fn removed_from_request(text: &str) -> Result<HeaderName, HeaderError> {
    const NEGOTIATED: &[&str] = &["accept-encoding", "max-forwards", "range", "via"];
    let (name, folded) = (header_name(text)?, fold(text));
    if is_never_from_client(&folded) || OF_POSTERN.contains(&folded.as_str()) {
        return Err(HeaderError::OfPostern(text.to_owned()));
    }
    let is_of_message = OF_THE_MESSAGE.contains(&folded.as_str()) && !NEGOTIATED.contains(&folded.as_str());
    if is_of_message || folded.starts_with(OF_A_HANDSHAKE) {
        return Err(HeaderError::OfTheMessage(text.to_owned()));
    }
    Ok(name)
}

/// A header that a route sets on answers.
pub(super) fn set_on_response(text: &str) -> Result<HeaderName, HeaderError> {
    const CHALLENGES: &[&str] = &["retry-after", "www-authenticate"];
    let (name, folded) = (added_header(text)?, fold(text));
    if OF_THE_CREDENTIAL.contains(&folded.as_str()) {
        return Err(HeaderError::InAnAnswer(text.to_owned()));
    }
    if folded.starts_with(OF_A_HANDSHAKE) {
        return Err(HeaderError::OfTheMessage(text.to_owned()));
    }
    if folded.starts_with("access-control-") {
        return Err(HeaderError::OfCors(text.to_owned()));
    }
    if CHALLENGES.contains(&folded.as_str()) { Err(HeaderError::OfPostern(text.to_owned())) } else { Ok(name) }
}

/// A header of the upstream that a route removes.
pub(super) fn removed_from_response(text: &str) -> Result<HeaderName, HeaderError> {
    let (name, folded) = (header_name(text)?, fold(text));
    let is_of_message = OF_THE_MESSAGE.contains(&folded.as_str()) && folded != "via";
    if is_of_message || folded.starts_with(OF_A_HANDSHAKE) {
        return Err(HeaderError::OfTheMessage(text.to_owned()));
    }
    if folded == "x-request-id" { Err(HeaderError::OfPostern(text.to_owned())) } else { Ok(name) }
}

/// Negotiates a WebSocket.
const OF_A_HANDSHAKE: &str = "sec-websocket-";

fn header_name(text: &str) -> Result<HeaderName, HeaderError> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| HeaderError::NoName(text.to_owned()))
}

fn added_header(text: &str) -> Result<HeaderName, HeaderError> {
    let (name, folded) = (header_name(text)?, fold(text));
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

/// Whether a field never comes from a client, whatever the routes say: hop-by-hop, about identity (also by a certificate, RFC 9440)
/// or forwarding, or a switch of method or URL. `name` is folded.
pub fn is_never_from_client(name: &str) -> bool {
    const PREFIXES: [&str; 11] = [
        "x-forwarded",
        "x-auth-",
        "x-remote-",
        "x-original-",
        "x-rewrite-",
        "x-http-method",
        "x-postern-",
        "impersonate-",
        "proxy-",
        "x-client-",
        "x-envoy-",
    ];
    match name {
        "authorization"
        | "host"
        | "content-length"
        | "transfer-encoding"
        | "connection"
        | "keep-alive"
        | "te"
        | "trailer"
        | "upgrade"
        | "expect"
        | "http2-settings"
        | "forwarded"
        | "x-real-ip"
        | "true-client-ip"
        | "cf-connecting-ip"
        | "x-cluster-client-ip"
        | "remote-user"
        | "remote-addr"
        | "client-cert"
        | "client-cert-chain"
        | "x-user"
        | "x-user-id"
        | "x-user-name"
        | "x-user-email"
        | "x-user-roles"
        | "x-userinfo"
        | "x-username"
        | "x-email"
        | "x-roles"
        | "x-groups"
        | "x-token"
        | "x-access-token"
        | "x-id-token"
        | "x-method-override"
        | "x-url-scheme"
        | "x-request-id"
        | "traceparent" => true,
        name => PREFIXES.iter().any(|prefix| name.starts_with(prefix)),
    }
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

    #[test]
    fn what_is_posterns_can_be_neither_set_nor_removed() {
        for name in
            ["X-Auth-User", "X_Forwarded.Proto", "Authorization", "Connection", "X-Request-ID", "Sec-WebSocket-Key"]
        {
            assert!(set_on_request(name).is_err() && removed_from_request(name).is_err(), "{name}");
        }
        for name in ["Cookie", "Accept-Encoding", "Origin"] {
            assert!(removed_from_request(name).is_ok(), "{name}");
        }
        for name in ["X-Request-Id", "Content_Length", "Transfer-Encoding", "sec-websocket-accept", "content-encoding"]
        {
            assert!(set_on_response(name).is_err() && removed_from_response(name).is_err(), "{name}");
        }
        for name in ["Set-Cookie", "WWW-Authenticate", "Retry-After", "Access-Control-Allow-Origin"] {
            assert!(set_on_response(name).is_err() && removed_from_response(name).is_ok(), "{name}");
        }
        assert!(set_on_response("Server").is_ok() && removed_from_response("Via").is_ok());
    }
}
