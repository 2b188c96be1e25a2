//! `credential`: what the upstream is given to know the caller by.

use super::kubernetes::{SERVICE_ACCOUNT, STORED_SECRET, check_cluster, is_for_a_user};
use super::obtained::{CLIENT_CREDENTIALS, EXCHANGE};
use super::read::Known;
use super::{Access, ClientCredentials, Credential, Exchange, IssuerName, NamespaceToken, SecretValue, ServiceAccount};
use super::{StoredSecret, TargetNamespace};
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
    Key::optional(
        "service-account",
        Kind::Table(&SERVICE_ACCOUNT),
        "",
        "A token of a ServiceAccount of the user's own namespace, with other settings than the defaults.",
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
    Key::optional("value", Kind::Secret, "`kubernetes`", "The secret.").example("{ file = \"/run/secrets/api-key\" }"),
    Key::optional(
        "kubernetes",
        Kind::Table(&STORED_SECRET),
        "`value`",
        "The secret, as it stands in Kubernetes at the time. While it is not there, requests are 503.",
    )
    .example("{ secret = \"orders\", key = \"token\" }"),
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
    /// Whether there is a `[kubernetes]`.
    pub(super) has_cluster: bool,
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
                if secret.is_given("kubernetes") {
                    check_cluster(route, recipient.has_cluster, reader);
                }
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
            if let Some(account) = section.section("service-account") {
                let account = ServiceAccount::read(account, reader);
                return Self::service_account(account, route, recipient, reader);
            }
            let token = section.section("namespace-token")?;
            return NamespaceToken::read(token, route, recipient, reader)
                .map(|token| Self::NamespaceToken(Arc::new(token)));
        }
        match route.text("credential").map(|word| word.value) {
            Some("pass") => Some(Self::Pass),
            Some("none") => Some(Self::None),
            Some("service-account") => Self::service_account(Some(ServiceAccount::default()), route, recipient, reader),
            Some(_) => Some(Self::NamespaceToken(own_namespace())),
            None if route.is_given("credential") => None,
            None if is_public => Some(Self::None),
            None => Some(Self::NamespaceToken(own_namespace())),
        }
    }

    fn service_account(
        account: Option<ServiceAccount>,
        route: &Section,
        recipient: &Recipient<'_>,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        check_cluster(route, recipient.has_cluster, reader);
        is_for_a_user(route, recipient.access, reader).then_some(Self::ServiceAccount(Arc::new(account?)))
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
    match (section.is_given("value"), section.is_given("kubernetes")) {
        (true, true) => {
            let mistake = Mistake::at(section.key_span("kubernetes"), "`value` holds the secret");
            reader.note(mistake.related(section.key_span("value"), "write one of the two"));
        }
        (false, false) => {
            let message = "missing key in `route.credential.secret`: `value` or `kubernetes`";
            reader.note(Mistake::at(section.span.clone(), message).absence());
        }
        _ => {}
    }
    if let Some(stored) = section.section("kubernetes") {
        if HeaderValue::from_str(prefix).is_err() {
            let message = "`prefix` holds a character that no header can carry";
            reader.note(Mistake::at(section.value_span("prefix"), message));
        }
        let value = SecretValue::Stored(Arc::new(StoredSecret::read(stored, prefix, reader)?));
        return Some(Credential::Secret { header: header?, value });
    }
    let secret = section.secret("value")?;
    let whole = Zeroizing::new(format!("{prefix}{}", secret.expose()));
    if HeaderValue::from_str(&whole).is_err() {
        reader.note(Mistake::at(section.value_span("value"), "the secret holds a character that no header can carry"));
    }
    let value = SecretValue::Given(Secret::new(whole.as_str()));
    Some(Credential::Secret { header: header?, value })
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
