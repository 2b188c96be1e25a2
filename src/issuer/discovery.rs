//! OpenID Connect Discovery: where an issuer's keys and its introspection are, and whether to believe it.

use crate::config::{self, IssuerKind};
use serde::Deserialize;
use url::{Origin, Position, Url};

/// Where an issuer is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Where its JWK Set is.
    pub jwks: Url,
    /// Where it answers RFC 7662, if it says so.
    pub introspection: Option<Url>,
    /// Where it gives tokens, if it says so, and at an origin that is believed.
    pub token: Option<Url>,
}

/// Why a discovery document is not believed, or cannot be asked for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum DiscoveryError {
    #[error("`{0}` is no URL that an issuer can have")]
    Url(String),
    #[error("its discovery document is of another issuer, `{found}`")]
    AnotherIssuer { found: String },
    #[error("its `{name}` `{url}` has neither the issuer's origin nor one of `endpoint_origins`")]
    Origin { name: &'static str, url: String },
}

/// What is believed of an issuer's discovery document.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    document: Url,
    origin: Origin,
    address: Option<Url>,
    further_origins: Vec<Origin>,
    /// Whether our client secret would be sent to the introspection endpoint.
    introspects: bool,
}

/// The members that matter (OpenID Connect Discovery §3, RFC 8414 §2).
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) issuer: String,
    jwks_uri: String,
    introspection_endpoint: Option<String>,
    token_endpoint: Option<String>,
}

impl Discovery {
    pub(super) fn new(config: &config::Issuer) -> Result<Self, DiscoveryError> {
        let issuer = parse(&config.url)?;
        // An API server serves its document at its root, whatever the issuer's path.
        let base = match (&config.kind, &config.address) {
            (IssuerKind::Kubernetes { .. }, Some(_)) => issuer.origin().ascii_serialization(),
            (IssuerKind::Kubernetes { .. } | IssuerKind::Oidc, _) => config.url.clone(),
        };
        // A final slash of the issuer is not doubled (Discovery §4).
        let document = format!("{}/.well-known/openid-configuration", base.trim_end_matches('/'));
        let mut discovery = Self {
            issuer: config.url.clone(),
            document: parse(&document)?,
            origin: issuer.origin(),
            address: config.address.clone(),
            further_origins: Vec::new(),
            introspects: config.user_status.introspection().is_some(),
        };
        for origin in &config.endpoint_origins {
            discovery.further_origins.push(parse(origin)?.origin());
        }
        // The operator wrote `address`, so an issuer that names its endpoints by it may.
        discovery.further_origins.extend(config.address.as_ref().map(Url::origin));
        discovery.document = discovery.reachable(discovery.document.clone())?;
        Ok(discovery)
    }

    /// Where the document is fetched.
    pub(super) fn document(&self) -> &Url {
        &self.document
    }

    /// The endpoints of a document that says what it must.
    pub(super) fn endpoints(&self, document: &Document) -> Result<Endpoints, DiscoveryError> {
        if document.issuer != self.issuer {
            return Err(DiscoveryError::AnotherIssuer { found: document.issuer.clone() });
        }
        let jwks = self.endpoint("jwks_uri", &document.jwks_uri)?;
        let introspection = match &document.introspection_endpoint {
            Some(url) if self.introspects => Some(self.endpoint("introspection_endpoint", url)?),
            _ => None,
        };
        // Not everybody needs it: where it is foreign, whoever does finds none.
        let token = document.token_endpoint.as_ref().and_then(|url| self.endpoint("token_endpoint", url).ok());
        Ok(Endpoints { jwks, introspection, token })
    }

    fn endpoint(&self, name: &'static str, text: &str) -> Result<Url, DiscoveryError> {
        let foreign = || DiscoveryError::Origin { name, url: text.to_owned() };
        let url = parse(text).map_err(|_| foreign())?;
        if url.origin() != self.origin && !self.further_origins.contains(&url.origin()) {
            return Err(foreign());
        }
        self.reachable(url)
    }

    /// The URL with `address` in the place of the issuer's origin.
    fn reachable(&self, url: Url) -> Result<Url, DiscoveryError> {
        match &self.address {
            Some(address) if url.origin() == self.origin => {
                parse(&format!("{}{}", address.origin().ascii_serialization(), &url[Position::BeforePath..]))
            }
            _ => Ok(url),
        }
    }
}

/// An `http` or `https` URL without user and password, which would be sent to whoever listens there.
fn parse(text: &str) -> Result<Url, DiscoveryError> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    });
    url.ok_or_else(|| DiscoveryError::Url(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::tests::fake::config;

    fn document(issuer: &str, jwks: &str, introspection: Option<&str>) -> Document {
        let introspection_endpoint = introspection.map(str::to_owned);
        Document { issuer: issuer.to_owned(), jwks_uri: jwks.to_owned(), introspection_endpoint, token_endpoint: None }
    }

    const ISSUER: &str = "https://id.example.com/realms/demo";

    #[track_caller]
    fn check_jwks(change: impl FnOnce(&mut config::Issuer), jwks: &str, expected: Option<&str>) {
        let mut config = config(ISSUER);
        change(&mut config);
        let found = Discovery::new(&config).unwrap().endpoints(&document(ISSUER, jwks, None));
        assert_eq!(found.as_ref().ok().map(|endpoints| endpoints.jwks.as_str()), expected, "{found:?}");
    }

    #[test]
    fn the_document_is_below_the_issuer_url() {
        for url in [ISSUER, "https://id.example.com/realms/demo/"] {
            let document = "https://id.example.com/realms/demo/.well-known/openid-configuration";
            assert_eq!(Discovery::new(&config(url)).unwrap().document().as_str(), document);
        }
    }

    #[test]
    fn a_document_of_another_issuer_is_refused() {
        let discovery = Discovery::new(&config(ISSUER)).unwrap();
        for other in ["https://id.example.com/realms/demo/", "https://ID.example.com/realms/demo", "https://evil.test"]
        {
            let error = discovery.endpoints(&document(other, ISSUER, None)).unwrap_err();
            assert!(matches!(error, DiscoveryError::AnotherIssuer { .. }), "{error}");
        }
    }

    #[test]
    fn an_endpoint_of_a_foreign_origin_is_refused() {
        check_jwks(|_| (), "https://id.example.com/keys", Some("https://id.example.com/keys"));
        check_jwks(|_| (), "https://id.example.com:443/keys", Some("https://id.example.com/keys"));
        for foreign in [
            "https://evil.test/keys",
            "http://id.example.com/keys",
            "https://id.example.com:8443/keys",
            "https://id.example.com.evil.test/keys",
            "https://id.example.com@evil.test/keys",
            "https://user:password@id.example.com/keys",
            "file:///etc/passwd",
            "/keys",
            "",
        ] {
            check_jwks(|_| (), foreign, None);
        }
    }

    #[test]
    fn a_listed_origin_is_accepted_and_not_moved_to_the_address() {
        let keys = "https://keys.example.com/jwks.json";
        check_jwks(|config| config.endpoint_origins = vec!["https://keys.example.com".to_owned()], keys, Some(keys));
        let both = |config: &mut config::Issuer| {
            config.endpoint_origins = vec!["https://keys.example.com".to_owned()];
            config.address = Some(Url::parse("http://127.0.0.1:8080").unwrap());
        };
        check_jwks(both, keys, Some(keys));
    }

    #[test]
    fn the_address_takes_the_place_of_the_issuers_origin() {
        let address =
            |config: &mut config::Issuer| config.address = Some(Url::parse("http://keycloak:8080/x").unwrap());
        check_jwks(address, "https://id.example.com/keys?v=1", Some("http://keycloak:8080/keys?v=1"));
        check_jwks(address, "http://keycloak:8080/keys", Some("http://keycloak:8080/keys"));
        let mut config = config(ISSUER);
        address(&mut config);
        let document = Discovery::new(&config).unwrap().document().to_string();
        assert_eq!(document, "http://keycloak:8080/realms/demo/.well-known/openid-configuration");
    }

    #[test]
    fn passwords_go_to_no_foreign_token_endpoint() {
        let found = |token: &str| {
            let document = document(ISSUER, "https://id.example.com/keys", None);
            let document = Document { token_endpoint: Some(token.to_owned()), ..document };
            Discovery::new(&config(ISSUER)).unwrap().endpoints(&document).unwrap().token.map(String::from)
        };
        assert_eq!(found("https://id.example.com/token").as_deref(), Some("https://id.example.com/token"));
        for foreign in ["https://evil.test/token", "http://id.example.com/token", "https://id.example.com:1/token", ""]
        {
            assert_eq!(found(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_document_of_an_api_server_is_at_the_root_of_its_address() {
        let document = |url: &str, address: Option<&str>| {
            let mut config = config(url);
            config.kind = IssuerKind::Kubernetes { token: None, user_tokens: Vec::new() };
            config.address = address.map(|address| Url::parse(address).unwrap());
            Discovery::new(&config).unwrap().document().to_string()
        };
        let at_root = "https://10.0.0.1:6443/.well-known/openid-configuration";
        assert_eq!(document("https://kubernetes.default.svc", Some("https://10.0.0.1:6443")), at_root);
        assert_eq!(document("https://oidc.example.com/id/7", Some("https://10.0.0.1:6443")), at_root);
        // One that is public is where any issuer's is.
        let public = "https://oidc.example.com/id/7/.well-known/openid-configuration";
        assert_eq!(document("https://oidc.example.com/id/7", None), public);
    }

    #[test]
    fn our_secret_goes_to_no_foreign_introspection_endpoint() {
        let mut config = config(ISSUER);
        let document = document(ISSUER, "https://id.example.com/keys", Some("https://evil.test/introspect"));
        let unused = Discovery::new(&config).unwrap().endpoints(&document).unwrap();
        assert_eq!(unused.introspection, None);
        config.user_status = crate::issuer::tests::fake::introspection();
        let error = Discovery::new(&config).unwrap().endpoints(&document).unwrap_err();
        assert!(matches!(error, DiscoveryError::Origin { name: "introspection_endpoint", .. }), "{error}");
    }
}
