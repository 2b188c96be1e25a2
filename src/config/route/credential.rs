//! `credential`: what the upstream is given to know the caller by.

use super::obtained::{CLIENT_CREDENTIALS, EXCHANGE};
use super::read::Known;
use super::{Access, ClientCredentials, Credential, Exchange, IssuerName, NamespaceToken, TargetNamespace};
use crate::base::secret::Secret;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::tree::Section;
use crate::config::{Issuer, TokenService, Upstream, headers, web};
use http::HeaderValue;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A table of `credential`.
pub(super) static CREDENTIAL: Table = Table::one_of(&[
    Key::optional(
        "namespace-token",
        Kind::Table(&NAMESPACE_TOKEN),
        "",
        "A token that Postern mints for the upstream, with more than the defaults.",
    )
    .example(r#"{ target = "sales", roles = ["sales-*"] }"#),
    Key::optional("secret", Kind::Table(&SECRET), "", "A fixed header.")
        .example(r#"{ header = "x-api-key", value = { file = "/run/secrets/api-key" } }"#),
    Key::optional(
        "exchange",
        Kind::Table(&EXCHANGE),
        "",
        "The caller's token, exchanged at its issuer for one that is made for the upstream (RFC 8693).",
    ),
    Key::optional(
        "client-credentials",
        Kind::Table(&CLIENT_CREDENTIALS),
        "",
        "A token of a client of Postern's own, the same for all callers (RFC 6749 §4.4).",
    ),
]);

static NAMESPACE_TOKEN: Table = Table::of(&[
    Key::optional(
        "target",
        Kind::Text("a namespace"),
        "the user's own namespace",
        "A namespace that is not the user's own. The route's `access` must hold a requirement.",
    )
    .example("\"sales\""),
    Key::optional("audience", Kind::Text("an audience"), "that of the upstream", "`aud` of the token.")
        .example("\"orders-v2\""),
    Key::default(
        "roles",
        Kind::list_or_empty(&Kind::Text("a role, or a beginning and `*`")),
        "[]",
        "Roles that the token carries, of those that the user has; `*` at the end matches any ending.",
    )
    .example(r#"["sales-*"]"#),
    Key::default(
        "groups",
        Kind::list_or_empty(&Kind::Text("a group, or a beginning and `*`")),
        "[]",
        "Groups that the token carries, likewise.",
    )
    .example(r#"["*"]"#),
]);

static SECRET: Table = Table::of(&[
    Key::default("header", Kind::Text("a header's name"), "\"authorization\"", "The header that carries it."),
    Key::required("value", Kind::Secret, "The secret.").example("{ file = \"/run/secrets/api-key\" }"),
    Key::default("prefix", Kind::AnyText, "\"\"", "What stands before it, such as `Bearer ` with its space."),
]);

/// What of the route and its surroundings bears on the credential.
pub(super) struct Recipient<'a> {
    pub(super) access: &'a Access,
    pub(super) upstream: &'a Upstream,
    /// Those that the route accepts.
    pub(super) issuers: &'a [IssuerName],
    pub(super) known_issuers: &'a Known<Issuer>,
    pub(super) token_service: Option<&'a TokenService>,
}

impl Credential {
    pub(super) fn read(route: &Section, recipient: &Recipient<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let is_public = *recipient.access == Access::Public;
        if is_public {
            refuse_what_needs_a_token(route, reader);
        }
        let own_namespace = || {
            let audience = recipient.upstream.audience.clone();
            Arc::new(NamespaceToken { audience, ..NamespaceToken::default() })
        };
        if let Some(section) = route.section("credential") {
            if let Some(secret) = section.section("secret") {
                return read_secret(secret, reader);
            }
            if let Some(exchange) = section.section("exchange") {
                if is_public {
                    return None;
                }
                return Exchange::read(exchange, route, recipient, reader).map(|found| Self::Exchange(Arc::new(found)));
            }
            if let Some(client) = section.section("client-credentials") {
                return ClientCredentials::read(client, recipient.known_issuers, reader)
                    .map(|found| Self::ClientCredentials(Arc::new(found)));
            }
            let token = section.section("namespace-token")?;
            return NamespaceToken::read(token, route, recipient, reader)
                .map(|token| Self::NamespaceToken(Arc::new(token)));
        }
        match route.text("credential").map(|word| word.value) {
            Some("pass") => Some(Self::Pass),
            Some("none") => Some(Self::None),
            Some(_) => Some(Self::NamespaceToken(own_namespace())),
            None if route.is_given("credential") => None,
            None if is_public => Some(Self::None),
            None => Some(Self::NamespaceToken(own_namespace())),
        }
    }
}

/// A public route checks no token, so there is nobody whose credential or name could be passed on.
fn refuse_what_needs_a_token(route: &Section, reader: &mut Reader<'_>) {
    let mut refuse = |key: &str, message: &str| {
        let mistake = Mistake::at(route.value_span(key), message);
        reader.note(mistake.related(route.value_span("access"), "everybody passes, and no token is checked"));
    };
    let is_word = |word: &str| route.text("credential").is_some_and(|text| text.value == word);
    let is_table = route.section("credential").is_some_and(|table| table.is_given("namespace-token"));
    if is_word("namespace-token") || is_table {
        refuse("credential", "a public route has no user to mint a namespace token for");
    }
    if route.section("credential").is_some_and(|table| table.is_given("exchange")) {
        refuse("credential", "a public route has no user whose token could be exchanged");
    }
    if is_word("pass") {
        refuse("credential", "a public route passes no token on");
    }
    if route.is_given("headers") {
        refuse("headers", "a public route has no user whose identity could be added");
    }
    if route.is_given("issuers") {
        refuse("issuers", "a public route checks no token of any issuer");
    }
}

impl NamespaceToken {
    fn read(section: &Section, route: &Section, recipient: &Recipient<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let target = reader.parse(section, "target", web::namespace).map(TargetNamespace);
        if let (Some(_), Access::Token(requirements)) = (&target, recipient.access)
            && requirements.is_empty()
        {
            let message = "a target namespace needs a requirement on the route";
            let mistake = Mistake::at(section.value_span("target"), message)
                .label("anybody with a valid token would get it")
                .related(route.value_span("access"), "requires nothing else")
                .help("for example `access = { any_role = [\"sales\"] }`");
            reader.note(mistake);
        }
        if let (Some(audience), Some(own)) = (section.text("audience"), recipient.token_service)
            && audience.value == own.audience
        {
            reader.note(own_audience(audience.span, &own.audience));
        }
        Some(Self {
            target,
            audience: section
                .text("audience")
                .map_or(recipient.upstream.audience.as_str(), |text| text.value)
                .to_owned(),
            roles: reader.parse_all(section, "roles", beginning),
            groups: reader.parse_all(section, "groups", beginning),
        })
    }
}

/// An upstream could present what it was given to Postern itself, as if it were the user.
pub(in crate::config) fn own_audience(span: std::ops::Range<usize>, audience: &str) -> Mistake {
    Mistake::at(span, format!("`{audience}` is the audience of Postern's own tokens (`token_service.audience`)"))
        .label("the upstream could use what it is given against Postern")
        .help("give the upstream an `audience` of its own")
}

fn read_secret(section: &Section, reader: &mut Reader<'_>) -> Option<Credential> {
    let header = reader.parse(section, "header", headers::credential_header);
    let prefix = section.text("prefix").map_or("", |prefix| prefix.value);
    let secret = section.secret("value")?;
    let whole = Zeroizing::new(format!("{prefix}{}", secret.expose()));
    if HeaderValue::from_str(&whole).is_err() {
        reader.note(Mistake::at(section.value_span("value"), "the secret holds a character that no header can carry"));
    }
    Some(Credential::Secret { header: header?, value: Secret::new(whole.as_str()) })
}

/// Why a role or group of a token is refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` has a `*` that is not at its end")]
pub(in crate::config) struct BeginningError(String);

/// A name, or a beginning and `*`.
pub(in crate::config) fn beginning(text: &str) -> Result<String, BeginningError> {
    match text.strip_suffix('*').unwrap_or(text).contains('*') {
        true => Err(BeginningError(text.to_owned())),
        false => Ok(text.to_owned()),
    }
}
