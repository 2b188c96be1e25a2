//! Why a request was refused: one word, the same in the answer, the access log and the metrics.

use http::StatusCode;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident, $code:literal, $status:ident, $title:literal;)*) => {
        /// Why a request was refused. Tells a client no more than the class of what failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable code.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The status of the answer.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// One sentence for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    /// No route has this host and path.
    NoRoute, "no_route", NOT_FOUND, "Nothing is served here";
    /// The route does not take this method.
    MethodNotAllowed, "method_not_allowed", METHOD_NOT_ALLOWED, "This method is not served here";
    /// Servers would read the path in different ways.
    PathNotCanonical, "path_not_canonical", BAD_REQUEST, "The path has more than one meaning";
    /// The request breaks HTTP.
    MalformedRequest, "malformed_request", BAD_REQUEST, "The request is malformed";
    /// An expectation other than `100-continue`.
    ExpectationFailed, "expectation_failed", EXPECTATION_FAILED, "This expectation cannot be met";
    /// No `Authorization` header.
    MissingToken, "missing_token", UNAUTHORIZED, "A bearer token is needed";
    /// More than one `Authorization` header, or not one bearer token in it.
    MalformedAuthorization, "malformed_authorization", BAD_REQUEST, "The Authorization header is malformed";
    /// Forged, malformed, of an unknown issuer or key, or of the wrong type.
    InvalidToken, "invalid_token", UNAUTHORIZED, "The token is not valid";
    /// `exp` has passed.
    TokenExpired, "token_expired", UNAUTHORIZED, "The token has expired";
    /// `nbf` or `iat` lies in the future.
    TokenNotYetValid, "token_not_yet_valid", UNAUTHORIZED, "The token is not valid yet";
    /// The token is for somebody else.
    WrongAudience, "wrong_audience", UNAUTHORIZED, "The token is for another audience";
    /// The route does not accept tokens of this issuer.
    WrongIssuer, "wrong_issuer", UNAUTHORIZED, "Tokens of this issuer are not accepted here";
    /// The issuer says that the token is not active: user disabled, deleted or logged out.
    UserInactive, "user_inactive", UNAUTHORIZED, "The user or the session is no longer active";
    /// The route asks for a role that the user lacks.
    RoleMissing, "role_missing", FORBIDDEN, "A role is missing";
    /// The route asks for a group that the user lacks.
    GroupMissing, "group_missing", FORBIDDEN, "A group is missing";
    /// The route asks for a scope that the token lacks.
    ScopeMissing, "scope_missing", FORBIDDEN, "A scope is missing";
    /// The route asks for a claim that the token lacks.
    ClaimMissing, "claim_missing", FORBIDDEN, "A claim is missing";
    /// A namespace is needed, and the user has none or another.
    NamespaceMissing, "namespace_missing", FORBIDDEN, "The user has no such namespace";
    /// The address asks more often than `limits.address` lets it.
    TooManyRequests, "too_many_requests", TOO_MANY_REQUESTS, "Too many requests from this address";
    /// The address showed more bad tokens than `limits.failed_authentications` lets it.
    TooManyFailedAuthentications, "too_many_failed_authentications", TOO_MANY_REQUESTS,
        "Too many failed authentications from this address";
    /// The request's body is over the route's limit.
    BodyTooLarge, "body_too_large", PAYLOAD_TOO_LARGE, "The request body is too large";
    /// The client stopped sending the request's body.
    RequestTimeout, "request_timeout", REQUEST_TIMEOUT, "The request did not arrive in time";
    /// The issuer's keys are not known, or too old.
    KeysUnavailable, "keys_unavailable", SERVICE_UNAVAILABLE, "The issuer's keys are not available";
    /// Nothing young enough is known about the user.
    UserStatusUnknown, "user_status_unknown", SERVICE_UNAVAILABLE, "The user's status is not known";
    /// No credential could be made for the upstream.
    CredentialUnavailable, "credential_unavailable", SERVICE_UNAVAILABLE, "No credential could be made";
    /// No endpoint of the upstream is healthy.
    UpstreamUnavailable, "upstream_unavailable", SERVICE_UNAVAILABLE, "The upstream is not available";
    /// A limit of the upstream's circuit breaker is reached.
    UpstreamOverloaded, "upstream_overloaded", SERVICE_UNAVAILABLE, "The upstream has too much to do";
    /// The upstream took no connection.
    UpstreamUnreachable, "upstream_unreachable", BAD_GATEWAY, "The upstream cannot be reached";
    /// The upstream's answer is broken.
    UpstreamFailed, "upstream_failed", BAD_GATEWAY, "The upstream did not answer properly";
    /// The upstream's answer did not come in time.
    UpstreamTimeout, "upstream_timeout", GATEWAY_TIMEOUT, "The upstream did not answer in time";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_words_in_snake_case() {
        let codes: std::collections::HashSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }
}
