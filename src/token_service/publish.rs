//! What receivers of our tokens read: the discovery document (OpenID Connect Discovery 1.0 §3, RFC 8414) and the key set.

use super::TokenService;
use bytes::Bytes;
use serde_json::json;

/// A document that Postern serves about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Discovery.
    Discovery,
    /// The key set (RFC 7517 §5).
    Keys,
}

/// Where, under the issuer's path, a minted token is introspected (RFC 7662 §2).
pub const INTROSPECT: &str = "/introspect";

impl Document {
    /// Which document a request path asks for, if any. Paths lie under `base`, that of `token_service.issuer`; where the issuer has
    /// a path, the RFC 8414 form (`/.well-known/oauth-authorization-server/PATH`) is answered too.
    pub fn at(base: &str, path: &str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/.well-known/oauth-authorization-server")
            && rest == base
        {
            return Some(Self::Discovery);
        }
        match path.strip_prefix(base)? {
            "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server" => Some(Self::Discovery),
            "/.well-known/jwks.json" => Some(Self::Keys),
            _ => None,
        }
    }
}

/// The path of a URL without its last slash; empty for an origin.
pub fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("", |at| rest[at..].trim_end_matches('/'))
}

impl TokenService {
    /// The document's JSON.
    pub fn document(&self, document: Document) -> Bytes {
        let ring = self.ring();
        let text = match document {
            Document::Keys => {
                let keys: Vec<_> = ring.published().iter().map(|key| key.jwk()).collect();
                json!({ "keys": keys }).to_string()
            }
            Document::Discovery => {
                let issuer = self.config().issuer.as_str();
                let mut algorithms: Vec<_> = ring.published().iter().map(|key| key.algorithm()).collect();
                algorithms.dedup();
                let under = |path: &str| format!("{}{path}", issuer.trim_end_matches('/'));
                let mut document = json!({
                    "issuer": issuer,
                    "jwks_uri": under("/.well-known/jwks.json"),
                    "id_token_signing_alg_values_supported": algorithms,
                    "subject_types_supported": ["public"],
                    "response_types_supported": ["token"],
                });
                // RFC 8414 §2. For the feed of events there is no member.
                if !self.config().clients.is_empty() {
                    document["introspection_endpoint"] = under(INTROSPECT).into();
                    document["introspection_endpoint_auth_methods_supported"] = json!(["client_secret_basic"]);
                }
                document.to_string()
            }
        };
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(issuer: &str, path: &str, document: Option<Document>) {
        assert_eq!(Document::at(path_of(issuer), path), document, "{issuer} {path}");
    }

    #[test]
    fn documents_lie_under_the_issuer() {
        check("https://p.example", "/.well-known/jwks.json", Some(Document::Keys));
        check("https://p.example/", "/.well-known/openid-configuration", Some(Document::Discovery));
        check("https://p.example/auth", "/auth/.well-known/openid-configuration", Some(Document::Discovery));
        check("https://p.example/auth", "/.well-known/oauth-authorization-server/auth", Some(Document::Discovery));
        check("https://p.example/auth", "/.well-known/jwks.json", None);
        check("https://p.example", "/x/.well-known/jwks.json", None);
        check("https://p.example", "/api/orders", None);
    }
}
