//! The fields that never come from a client, as headers or trailers.
//!
//! Names are compared folded: lower case, and every character that is no letter or digit as `-`, because servers behind a gateway
//! fold them too (`X_Auth_User`, `X.Auth.User`).

use std::collections::HashSet;

/// Whether a field never comes from a client, as header or trailer: hop-by-hop, about identity or forwarding, or a switch of method
/// or URL.
pub fn is_forbidden(name: &str, identity_headers: &HashSet<String>) -> bool {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return is_forbidden_folded(name, identity_headers);
    }
    is_forbidden_folded(&fold(name), identity_headers)
}

/// Lower case, every other character `-`.
pub fn fold(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

fn is_forbidden_folded(name: &str, identity_headers: &HashSet<String>) -> bool {
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
        name => PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || identity_headers.contains(name),
    }
}
