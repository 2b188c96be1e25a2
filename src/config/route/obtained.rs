//! `credential.exchange` and `credential.client-credentials`: tokens for the upstream that somebody else makes.

use super::IssuerName;
use super::access::scope;
use super::credential::Recipient;
use super::read::Known;
use crate::base::secret::Secret;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::tree::Section;
use crate::config::{Issuer, web};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// `credential.exchange`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// `issuer`: the one issuer that the route accepts.
    pub issuer: Arc<Issuer>,
    /// `audience` that is asked for, and that the token must have.
    pub audience: String,
    /// `scope`: words that are asked for, and that the token must have. Default: none.
    pub scopes: Vec<String>,
    /// `client_id` that asks. For Keycloak it must be in the `aud` of the caller's token.
    pub client_id: String,
    /// `client_secret`.
    pub client_secret: Secret,
    /// `timeout`: how long a request waits for the token. Default `5s`.
    pub timeout: Duration,
}

/// `credential.client-credentials`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    /// `issuer` or `token_endpoint`.
    pub endpoint: TokenEndpoint,
    /// `audience` that is asked for, and that the token must have. Default: none is asked for.
    pub audience: Option<String>,
    /// `scope`: words that are asked for, and that the token must have. Default: none.
    pub scopes: Vec<String>,
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`.
    pub client_secret: Secret,
    /// `timeout`: how long a request waits for the token. Default `5s`.
    pub timeout: Duration,
}

/// Where a client gets its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEndpoint {
    /// `issuer`: where its discovery document says.
    Issuer(Arc<Issuer>),
    /// `token_endpoint`, and the `ca` that may sign its certificate. `http://` only on loopback.
    Url(Url, Option<PathBuf>),
}

pub(super) static EXCHANGE: Table = Table::of(&[
    Key::optional(
        "issuer",
        Kind::Text("an issuer's name"),
        "the one that the route accepts",
        "The issuer that made the caller's token and exchanges it. The route accepts no other.",
    )
    .example("\"main\""),
    Key::required(
        "audience",
        Kind::Text("an audience"),
        "The audience that is asked for; a token without it is not used. For Keycloak the id of a client.",
    )
    .example("\"orders\""),
    SCOPE,
    Key::required(
        "client_id",
        Kind::Text("a client"),
        "The client that asks. For Keycloak it must be in the `aud` of the caller's token, with standard token exchange \
         switched on.",
    )
    .example("\"gateway\""),
    CLIENT_SECRET,
    TIMEOUT,
]);

pub(super) static CLIENT_CREDENTIALS: Table = Table::of(&[
    Key::optional(
        "issuer",
        Kind::Text("an issuer's name"),
        "`token_endpoint`",
        "The issuer that the client belongs to; its discovery document says where tokens are made.",
    )
    .example("\"main\""),
    Key::optional(
        "token_endpoint",
        Kind::Text("a URL"),
        "`issuer`",
        "Where tokens are made, for a server that is no `[issuer]`. `http://` only on loopback.",
    )
    .example("\"https://login.example.com/oauth2/token\""),
    Key::optional(
        "ca",
        Kind::File,
        "the host's authorities",
        "PEM file of the authorities that may sign the certificate of `token_endpoint`.",
    )
    .example("\"tls/login-ca.pem\""),
    Key::optional(
        "audience",
        Kind::Text("an audience"),
        "none is asked for",
        "The audience that is asked for; a token without it is not used.",
    )
    .example("\"orders\""),
    SCOPE,
    Key::required("client_id", Kind::Text("a client"), "The client.").example("\"gateway-orders\""),
    CLIENT_SECRET,
    TIMEOUT,
]);

const SCOPE: Key = Key::default(
    "scope",
    Kind::list_or_empty(&Kind::Text("a scope")),
    "[]",
    "Words that are asked for; a token that lacks one is not used.",
)
.example(r#"["orders:read"]"#);

const CLIENT_SECRET: Key =
    Key::required("client_secret", Kind::Secret, "Its secret.").example("{ file = \"/run/secrets/keycloak\" }");

const TIMEOUT: Key =
    Key::default("timeout", Kind::DURATION, "\"5s\"", "How long a request waits for the token at most.");

impl Exchange {
    pub(super) fn read(
        section: &Section,
        route: &Section,
        recipient: &Recipient<'_>,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let issuer = read_issuer(section, route, recipient, reader);
        if let (Some(issuer), Some(audience)) = (&issuer, section.text("audience")) {
            check_audience(issuer, audience.value, section, reader);
        }
        Some(Self {
            scopes: reader.parse_all(section, "scope", scope),
            issuer: issuer?,
            audience: section.text("audience")?.value.to_owned(),
            client_id: section.text("client_id")?.value.to_owned(),
            client_secret: section.secret("client_secret")?,
            timeout: section.duration("timeout")?,
        })
    }
}

impl ClientCredentials {
    pub(super) fn read(section: &Section, known: &Known<Issuer>, reader: &mut Reader<'_>) -> Option<Self> {
        let endpoint = TokenEndpoint::read(section, known, reader);
        if let (Some(TokenEndpoint::Issuer(issuer)), Some(audience)) = (&endpoint, section.text("audience")) {
            check_audience(issuer, audience.value, section, reader);
        }
        Some(Self {
            scopes: reader.parse_all(section, "scope", scope),
            endpoint: endpoint?,
            audience: section.text("audience").map(|text| text.value.to_owned()),
            client_id: section.text("client_id")?.value.to_owned(),
            client_secret: section.secret("client_secret")?,
            timeout: section.duration("timeout")?,
        })
    }

    /// `token_endpoint`, if it is given.
    pub(in crate::config) fn token_endpoint_url(&self) -> Option<&str> {
        match &self.endpoint {
            TokenEndpoint::Url(url, _) => Some(url.as_str()),
            TokenEndpoint::Issuer(_) => None,
        }
    }
}

impl TokenEndpoint {
    fn read(section: &Section, known: &Known<Issuer>, reader: &mut Reader<'_>) -> Option<Self> {
        match (section.is_given("issuer"), section.is_given("token_endpoint")) {
            (true, false) => {
                if section.is_given("ca") {
                    let mistake = Mistake::at(section.key_span("ca"), "`ca` is for `token_endpoint`");
                    reader.note(mistake.help("an issuer has a `ca` of its own"));
                }
                section.text("issuer").and_then(|name| known.find(&name, reader)).map(Self::Issuer)
            }
            (false, true) => {
                let url = reader.parse(section, "token_endpoint", web::issuer_url)?;
                Some(Self::Url(url, section.path("ca")))
            }
            (true, true) => {
                let mistake = Mistake::at(section.key_span("token_endpoint"), "`issuer` says where tokens are made");
                reader.note(mistake.related(section.key_span("issuer"), "write one of the two"));
                None
            }
            (false, false) => {
                let message = "missing key in `route.credential.client-credentials`: `issuer` or `token_endpoint`";
                reader.note(Mistake::at(section.span.clone(), message).absence());
                None
            }
        }
    }
}

/// Whoever did not make a token cannot exchange it; and a client's secret is for its own issuer alone.
fn read_issuer(
    section: &Section,
    route: &Section,
    recipient: &Recipient<'_>,
    reader: &mut Reader<'_>,
) -> Option<Arc<Issuer>> {
    let given = match section.is_given("issuer") {
        true => Some(section.text("issuer").and_then(|name| recipient.known_issuers.find(&name, reader))?),
        false => None,
    };
    let place = if route.is_given("issuers") { route.value_span("issuers") } else { route.value_span("path") };
    match (given, recipient.issuers) {
        // Nobody is let in by this route, which was noted.
        (given, []) => given,
        (None, [IssuerName::Configured(only)]) => Some(Arc::clone(only)),
        (Some(given), [IssuerName::Configured(only)]) if Arc::ptr_eq(&given, only) => Some(given),
        (given, _) => {
            let message = "a token can only be exchanged at the issuer that made it";
            let mistake = Mistake::at(section.span.clone(), message);
            let mistake = mistake.related(place, "accepts tokens of others too");
            let name = given.as_ref().map_or("NAME", |issuer| issuer.name.as_str());
            reader.note(mistake.help(format!("let the route accept that issuer alone: `issuers = [\"{name}\"]`")));
            given
        }
    }
}

/// An upstream could present what it was given to Postern itself, as if it were the user.
fn check_audience(issuer: &Issuer, audience: &str, section: &Section, reader: &mut Reader<'_>) {
    if issuer.audiences.iter().any(|own| own == audience) {
        let message =
            format!("`{audience}` is what Postern itself accepts tokens for (`issuer.{}.audience`)", issuer.name);
        let mistake = Mistake::at(section.value_span("audience"), message);
        reader.note(mistake.label("the upstream could use what it is given against Postern"));
    }
}
