//! Answers: JSON, never cached.

use super::client::Unknown;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = answer(status, body.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 200 with a body.
pub(super) fn ok(body: &Value) -> Response<Bytes> {
    json_answer(StatusCode::OK, body)
}

/// 200 without one.
pub(super) fn done() -> Response<Bytes> {
    answer(StatusCode::OK, Bytes::new())
}

/// An error of OAuth 2.0 (RFC 6749 §5.2).
pub(super) fn error(status: StatusCode, error: &str, description: &str) -> Response<Bytes> {
    json_answer(status, &json!({ "error": error, "error_description": description }))
}

/// 400 `invalid_request`.
pub(super) fn invalid_request(description: &str) -> Response<Bytes> {
    error(StatusCode::BAD_REQUEST, "invalid_request", description)
}

/// 400 of the feed of events (RFC 8935 §2.3).
pub(super) fn invalid_poll(description: &str) -> Response<Bytes> {
    json_answer(StatusCode::BAD_REQUEST, &json!({ "err": "invalid_request", "description": description }))
}

/// 403: who asks is known, and may not have it. `reason` is a stable word.
pub(super) fn access_denied(reason: &str, description: &str) -> Response<Bytes> {
    let body = json!({ "error": "access_denied", "error_description": description, "reason": reason });
    json_answer(StatusCode::FORBIDDEN, &body)
}

/// Nobody is known to be asking.
pub(super) fn unauthorized(unknown: Unknown) -> Response<Bytes> {
    if unknown == Unknown::Ambiguous {
        return invalid_request("there is more than one Authorization header");
    }
    let mut response =
        error(StatusCode::UNAUTHORIZED, "invalid_client", "the client is not known by these credentials");
    let challenge = HeaderValue::from_static("Basic realm=\"postern\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// 401: nobody was let in by what was shown (RFC 6750 §3).
pub(super) fn bearer_needed(code: Option<&'static str>) -> Response<Bytes> {
    let (code, challenge) = match code {
        None => ("invalid_request", "Bearer realm=\"postern\""),
        Some(code) => (code, "Bearer realm=\"postern\", error=\"invalid_token\""),
    };
    let mut response = error(
        StatusCode::UNAUTHORIZED,
        code,
        "a valid access token of the users' issuer, or of a service account, is needed",
    );
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// 404.
pub(super) fn not_found() -> Response<Bytes> {
    error(StatusCode::NOT_FOUND, "invalid_request", "nothing is served here")
}

/// 405: one method is served at each path.
pub(super) fn only(method: &'static str) -> Response<Bytes> {
    let description = format!("only {method} is served here");
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", &description);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    response
}

/// 415.
pub(super) fn wrong_type(expected: &str) -> Response<Bytes> {
    error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", &format!("the body must be {expected}"))
}

/// 413.
pub(super) fn too_large() -> Response<Bytes> {
    error(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "the body is too large")
}

/// 408.
pub(super) fn too_slow() -> Response<Bytes> {
    error(StatusCode::REQUEST_TIMEOUT, "invalid_request", "the body did not arrive in time")
}

/// 503.
pub(super) fn unavailable() -> Response<Bytes> {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "try again later");
    response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}
