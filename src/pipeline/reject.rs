//! The one place that makes a refusal: `application/problem+json` (RFC 9457) and the challenge of RFC 6750 §3.

use crate::identity::TokenError;
use crate::identity::claims::ClaimError;
use crate::identity::status::StatusError;
use crate::router::NoRoute;
use crate::telemetry::reason::Reason;
use crate::upstream::{Body, RequestBodyError, SendError};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use std::error::Error;
use std::num::NonZeroU32;
use std::time::Duration;

/// A request that goes no further. The client is told the reason; the log also gets the cause.
#[derive(Debug)]
pub struct Rejection {
    /// What the client is told.
    pub reason: Reason,
    /// What the operator can read.
    pub cause: Option<Box<dyn Error + Send + Sync>>,
    /// In how many seconds the client should come back, where that is known.
    retry_after: Option<NonZeroU32>,
}

/// When to come back after a 503, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// When to come back after a 429, where nothing else is known.
const RETRY_AFTER_LIMIT: NonZeroU32 = NonZeroU32::MIN;

impl Rejection {
    /// A refusal with what led to it.
    pub fn because(reason: Reason, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { reason, cause: Some(cause.into()), retry_after: None }
    }

    /// A refusal for a time, which is told in whole seconds, rounded up.
    pub fn too_many(reason: Reason, wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
        Self { reason, cause: None, retry_after: NonZeroU32::new(seconds) }
    }

    /// The answer. `realm` names the protection space (RFC 9110 §11.5).
    pub fn into_response(self, request_id: &str, realm: &HeaderValue) -> Response<Body> {
        let status = self.reason.status();
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.reason.title(),
            "status": status.as_u16(),
            "reason": self.reason.code(),
            "request_id": request_id,
        });
        let mut response = Response::new(Body::full(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, challenge(self.reason, realm));
            }
            // A token cannot help against a certificate.
            StatusCode::FORBIDDEN if !self.reason.is_about_certificate() => {
                headers.insert(WWW_AUTHENTICATE, challenge(self.reason, realm));
            }
            StatusCode::BAD_REQUEST if self.reason == Reason::MalformedAuthorization => {
                headers.insert(WWW_AUTHENTICATE, challenge(self.reason, realm));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, self.retry_after.unwrap_or(RETRY_AFTER_LIMIT).get().into());
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                // An empty list is allowed (RFC 9110 §10.2.1); the route's methods are nobody's business before a token.
                headers.insert(ALLOW, HeaderValue::from_static(""));
            }
            _ => {}
        }
        response
    }
}

/// `Bearer realm="…"`, with the error code where a token was sent (RFC 6750 §3.1).
fn challenge(reason: Reason, realm: &HeaderValue) -> HeaderValue {
    let error = match reason.status() {
        StatusCode::UNAUTHORIZED if reason == Reason::MissingToken => return realm.clone(),
        StatusCode::UNAUTHORIZED => "invalid_token",
        StatusCode::FORBIDDEN => "insufficient_scope",
        _ => "invalid_request",
    };
    let mut text = realm.as_bytes().to_vec();
    text.extend_from_slice(format!(", error=\"{error}\"").as_bytes());
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| realm.clone())
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self { reason, cause: None, retry_after: None }
    }
}

impl From<NoRoute> for Rejection {
    fn from(error: NoRoute) -> Self {
        match error {
            NoRoute::Unknown => Reason::NoRoute.into(),
            NoRoute::Method => Reason::MethodNotAllowed.into(),
        }
    }
}

impl From<TokenError> for Rejection {
    fn from(error: TokenError) -> Self {
        let reason = match &error {
            // Whoever sends a token that no issuer signed learns only that.
            TokenError::Malformed(_)
            | TokenError::Payload
            | TokenError::Issuer
            | TokenError::Algorithm { .. }
            | TokenError::Key { .. }
            | TokenError::Signature
            | TokenError::KeyWithdrawn
            | TokenError::NotActive
            | TokenError::Claims(
                ClaimError::Unusable(_) | ClaimError::Type | ClaimError::Bound | ClaimError::Contradiction,
            ) => Reason::InvalidToken,
            TokenError::Claims(ClaimError::Audience) => Reason::WrongAudience,
            TokenError::Expired | TokenError::TooOld => Reason::TokenExpired,
            TokenError::NotYetValid => Reason::TokenNotYetValid,
            TokenError::KeysUnavailable { .. } => Reason::KeysUnavailable,
            TokenError::Unknown => Reason::UserStatusUnknown,
        };
        Self::because(reason, error)
    }
}

impl From<StatusError> for Rejection {
    fn from(error: StatusError) -> Self {
        Self::because(of_status(&error), error)
    }
}

/// What a client is told whose user or token does not pass.
pub(super) fn of_status(error: &StatusError) -> Reason {
    match error {
        StatusError::Inactive | StatusError::Refused(_) => Reason::UserInactive,
        StatusError::Mismatch(ClaimError::Audience) => Reason::WrongAudience,
        StatusError::Mismatch(_) => Reason::InvalidToken,
        StatusError::Unknown => Reason::UserStatusUnknown,
    }
}

impl From<SendError> for Rejection {
    fn from(error: SendError) -> Self {
        let reason = match &error {
            SendError::Unavailable => Reason::UpstreamUnavailable,
            SendError::Overloaded(_) => Reason::UpstreamOverloaded,
            SendError::Unreachable(_) => Reason::UpstreamUnreachable,
            SendError::ConnectTimeout(_) | SendError::Timeout(_) => Reason::UpstreamTimeout,
            SendError::Failed(_) => Reason::UpstreamFailed,
            SendError::RequestBody(RequestBodyError::TooLarge { .. }) => Reason::BodyTooLarge,
            SendError::RequestBody(RequestBodyError::Idle(_)) => Reason::RequestTimeout,
            SendError::RequestBody(RequestBodyError::Cut(reason)) => *reason,
            SendError::RequestBody(
                RequestBodyError::Client(_) | RequestBodyError::Length | RequestBodyError::Trailers,
            ) => Reason::MalformedRequest,
        };
        Self::because(reason, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reason: Reason, status: u16, challenge: Option<&str>, retry: bool) {
        let realm = HeaderValue::from_static("Bearer realm=\"postern\"");
        let response = Rejection::from(reason).into_response("id-1", &realm);
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.status(), status);
        assert_eq!(header(WWW_AUTHENTICATE).as_deref(), challenge);
        assert_eq!(header(RETRY_AFTER).is_some(), retry);
        assert_eq!(header(CONTENT_TYPE).as_deref(), Some("application/problem+json"));
    }

    #[test]
    fn the_time_to_wait_is_told_in_whole_seconds() {
        let realm = HeaderValue::from_static("");
        for (wait, told) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (3_600_000, "3600")] {
            let wait = Duration::from_millis(wait);
            let response = Rejection::too_many(Reason::TooManyRequestsOfUser, wait).into_response("id-1", &realm);
            assert_eq!(
                (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
                (429, &HeaderValue::from_static(told))
            );
        }
    }

    #[test]
    fn each_class_of_refusal_has_its_challenge() {
        check(Reason::MissingToken, 401, Some("Bearer realm=\"postern\""), false);
        check(Reason::TokenExpired, 401, Some("Bearer realm=\"postern\", error=\"invalid_token\""), false);
        check(Reason::UserInactive, 401, Some("Bearer realm=\"postern\", error=\"invalid_token\""), false);
        check(Reason::RoleMissing, 403, Some("Bearer realm=\"postern\", error=\"insufficient_scope\""), false);
        check(Reason::MalformedAuthorization, 400, Some("Bearer realm=\"postern\", error=\"invalid_request\""), false);
        check(Reason::UserStatusUnknown, 503, None, true);
        check(Reason::TooManyRequests, 429, None, true);
        check(Reason::TooManyFailedAuthentications, 429, None, true);
        check(Reason::NoRoute, 404, None, false);
        check(Reason::ClientCertificateMissing, 403, None, false);
        check(Reason::MisdirectedRequest, 421, None, false);
    }
}
