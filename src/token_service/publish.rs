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

impl Document {
    /// Which document a request path asks for, if any. Paths lie under that of `token_service.issuer`; where the issuer has
    /// a path, the RFC 8414 form (`/.well-known/oauth-authorization-server/PATH`) is answered too.
    pub fn at(issuer: &str, path: &str) -> Option<Self> {
        // Cheap for every other request.
        if !path.contains("/.well-known/") {
            return None;
        }
        let base = path_of(issuer);
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
fn path_of(url: &str) -> &str {
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
                json!({
                    "issuer": issuer,
                    "jwks_uri": format!("{}/.well-known/jwks.json", issuer.trim_end_matches('/')),
                    "id_token_signing_alg_values_supported": algorithms,
                    "subject_types_supported": ["public"],
                    "response_types_supported": ["token"],
                })
                .to_string()
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
        assert_eq!(Document::at(issuer, path), document, "{issuer} {path}");
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
