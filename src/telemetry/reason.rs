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
    /// The route demands another client certificate than the one for whose host the connection was opened.
    MisdirectedRequest, "misdirected_request", MISDIRECTED_REQUEST, "This connection cannot be used for this host";
    /// The route demands a client certificate, and none was shown.
    ClientCertificateMissing, "client_certificate_missing", FORBIDDEN, "A client certificate is needed";
    /// The client certificate is of no authority of ours, expired, or was revoked.
    ClientCertificateInvalid, "client_certificate_invalid", FORBIDDEN, "The client certificate is not valid";
    /// The route demands a client certificate with other names.
    WrongClientCertificate, "wrong_client_certificate", FORBIDDEN, "This client certificate is not accepted here";
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
    /// The address asks more often than `limits.address` or the route's `limit.address` lets it.
    TooManyRequests, "too_many_requests", TOO_MANY_REQUESTS, "Too many requests from this address";
    /// The user asks more often than the route's `limit.user` lets them.
    TooManyRequestsOfUser, "too_many_requests_of_user", TOO_MANY_REQUESTS, "Too many requests of this user";
    /// The users of the namespace ask more often than the route's `limit.namespace` lets them.
    TooManyRequestsOfNamespace, "too_many_requests_of_namespace", TOO_MANY_REQUESTS,
        "Too many requests of this namespace";
    /// The route is asked for more often than its `limit.route` lets it be.
    TooManyRequestsOfRoute, "too_many_requests_of_route", TOO_MANY_REQUESTS, "Too many requests for this service";
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

impl Reason {
    /// The status of a gRPC call that is refused: gRPC's own translation of HTTP's, but that what is limited is exhausted, what is
    /// late is late, and a method that is not served is unimplemented.
    pub fn grpc_status(self) -> u8 {
        match self.status().as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 | 405 => 12,
            408 | 504 => 4,
            413 | 429 => 8,
            502 | 503 => 14,
            _ => 2,
        }
    }

    /// What a gRPC call is told beside that: the code, and the sentence.
    pub fn grpc_message(self) -> String {
        format!("{}: {}", self.code(), self.title())
    }

    /// Whether it is about a client's certificate, and not about a token.
    pub fn is_about_certificate(self) -> bool {
        matches!(self, Self::ClientCertificateMissing | Self::ClientCertificateInvalid | Self::WrongClientCertificate)
    }
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

    #[test]
    fn a_message_of_grpc_needs_no_percent_encoding() {
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
        assert!(Reason::ALL.iter().all(|reason| reason.grpc_message().bytes().all(is_plain)));
    }

    #[test]
    fn a_call_of_grpc_is_told_what_http_would_say() {
        let told = |reason: Reason| reason.grpc_status();
        assert_eq!([Reason::MissingToken, Reason::TokenExpired, Reason::UserInactive].map(told), [16; 3]);
        assert_eq!([Reason::RoleMissing, Reason::NamespaceMissing].map(told), [7; 2]);
        assert_eq!([Reason::NoRoute, Reason::MethodNotAllowed].map(told), [12; 2]);
        assert_eq!([Reason::TooManyRequests, Reason::BodyTooLarge].map(told), [8; 2]);
        assert_eq!([Reason::UserStatusUnknown, Reason::UpstreamUnreachable].map(told), [14; 2]);
        assert_eq!([Reason::UpstreamTimeout, Reason::RequestTimeout].map(told), [4; 2]);
        assert_eq!([Reason::MalformedRequest, Reason::ExpectationFailed].map(told), [13, 2]);
    }
}
