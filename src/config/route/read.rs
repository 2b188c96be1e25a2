//! The keys of `[[route]]`, and how they become a [`Route`].

use super::access::ACCESS;
use super::certificate::CLIENT_CERTIFICATE;
use super::credential::{CREDENTIAL, Recipient};
use super::limit::{LIMIT, RouteLimit};
use super::transform::{CORS, REQUEST_HEADERS, RESPONSE_HEADERS, REWRITE, Surface, Transform};
use super::{
    Access, ClientCertificate, Credential, HeaderSource, IdentityHeader, IssuerName, PathPattern, Route, StreamEnds,
};
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::nearest::did_you_mean;
use crate::config::reader::Reader;
use crate::config::tree::{Placed, Section};
use crate::config::{Issuer, TokenService, Upstream, headers, web};
use http::Method;
use std::sync::Arc;

/// `[[route]]`.
pub(in crate::config) static ROUTE: Table = Table::of(&[
    Key::optional("name", Kind::Text("a name"), "the text of `path`", "Unique; logs and metrics use it.")
        .example("\"orders\""),
    Key::optional(
        "host",
        Kind::OneOrMany(&Kind::Text("a host")),
        "any host",
        "The hosts that it answers: a name or an address without a port, or `*.example.com` for one label more.",
    )
    .example("[\"api.example.com\", \"*.example.org\"]"),
    Key::required("path", Kind::Text("a path pattern"), "The paths that it takes.").example("\"/orders/**\""),
    Key::optional(
        "methods",
        Kind::list(&Kind::Text("a method")),
        "`GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE`, `OPTIONS`",
        "The methods that it takes. Any but `TRACE` and `CONNECT` may be named.",
    )
    .example("[\"GET\", \"HEAD\"]"),
    Key::optional(
        "issuers",
        Kind::list(&Kind::Text("an issuer's name")),
        "every `[issuer]`, but not `self`",
        "The issuers whose tokens are accepted here; `self` names Postern's own tokens.",
    )
    .example("[\"main\", \"self\"]"),
    Key::optional(
        "access",
        Kind::WordOr(&["public"], &ACCESS),
        "any valid token of the issuers",
        "Who may pass. Each requirement that is given must be met; `public` lets everybody pass, and a token that is \
         sent is neither checked nor forwarded.",
    )
    .example("{ any_role = [\"admin\"] }"),
    Key::optional(
        "client_certificate",
        Kind::WordOr(&["required", "asked"], &CLIENT_CERTIFICATE),
        "none is asked for on account of this route",
        "A client certificate of `server.tls.client_ca` that a request needs besides its token, or, on a public route, by \
         itself: any (`required`), or one with these names. `asked`: clients are asked for one, of whatever authority, and \
         need none but for a token that is bound to it (RFC 8705). Clients that ask for other hosts by TLS are not asked.",
    )
    .example("{ any_san = [\"spiffe://example.com/ns/shop/sa/orders\"] }"),
    Key::required("upstream", Kind::Text("an upstream's name"), "The `[upstream]` that requests go to.")
        .example("\"orders\""),
    Key::optional(
        "credential",
        Kind::WordOr(&["namespace-token", "pass", "service-account", "none"], &CREDENTIAL),
        "`namespace-token`; on a public route `none`",
        "What the upstream is given: a token that Postern mints, the caller's own token (`pass`), a fixed header, a token \
         that somebody else makes, one of a ServiceAccount of the user's own namespace, or nothing.",
    )
    .example("\"namespace-token\""),
    Key::optional(
        "headers",
        Kind::Map {
            key: "a header",
            value: &Kind::word(&["sub", "username", "email", "roles", "groups", "namespace", "issuer"]),
        },
        "none",
        "Headers that tell the upstream who is calling; what a client sends under these names is removed. Lists are \
         joined by `,`.",
    )
    .example("{ x-auth-user = \"sub\" }"),
    Key::optional(
        "response_timeout",
        Kind::DURATION,
        "that of the upstream",
        "How long the head of an answer may take.",
    )
    .example("\"2m\""),
    Key::default(
        "allow_encoded_slash",
        Kind::Flag,
        "false",
        "Let `%2F` pass in the last, captured part of `path`, which must end in `*` or `**`.",
    ),
    Key::optional(
        "max_body_bytes",
        Kind::Size { least: 0, most: 1 << 50 },
        "no limit",
        "How large a request's body may be.",
    )
    .example("\"10MiB\""),
    Key::default(
        "stream_ends",
        Kind::word(&["session", "token"]),
        "\"session\"",
        "When an upload, a streaming answer or a WebSocket ends that is still open: with the session of its token, or also \
         with the token's `exp`. It ends with the block of its user in any case.",
    ),
    Key::optional("rewrite", Kind::Table(&REWRITE), "the path as it came", "The path that the upstream gets.")
        .example("{ strip_prefix = \"/api\" }"),
    Key::optional(
        "request_headers",
        Kind::Table(&REQUEST_HEADERS),
        "as they came, without what no client may say",
        "What is changed of the client's headers.",
    )
    .example("{ remove = [\"cookie\"], set = { x-route = \"{route}\" } }"),
    Key::optional(
        "response_headers",
        Kind::Table(&RESPONSE_HEADERS),
        "as they came",
        "What is changed of the upstream's headers.",
    )
    .example("{ hygiene = true }"),
    Key::optional(
        "cors",
        Kind::Table(&CORS),
        "what the upstream says goes on, and `OPTIONS` is a request like any other",
        "Which pages of other origins may call this route. Postern answers preflights itself, and everything about CORS \
         that the upstream says is replaced.",
    )
    .example("{ origins = [\"https://app.example.com\"] }"),
    Key::optional(
        "limit",
        Kind::Table(&LIMIT),
        "no limit",
        "How often the route may be asked for; requests beyond are answered with 429. Each limit that is given must have room.",
    )
    .example("{ user = { rate = 10, burst = 20 }, route = { rate = 1000 } }"),
]);

/// What the sections of one kind are known by. A section with a mistake keeps its name, so that those who refer to it
/// are not blamed.
pub(in crate::config) struct Known<T> {
    what: &'static str,
    pub(in crate::config) all: Vec<(String, Option<Arc<T>>)>,
    /// False where the sections could not be told apart: then nobody knows what is absent.
    is_complete: bool,
}

impl<T> Known<T> {
    /// Those of `[what.NAME]`, to be filled in.
    pub(in crate::config) fn new(what: &'static str, root: &Section) -> Self {
        Self { what, all: Vec::new(), is_complete: root.value(what).is_some() || !root.is_given(what) }
    }

    pub(in crate::config) fn find(&self, name: &Placed<&str>, reader: &mut Reader<'_>) -> Option<Arc<T>> {
        if let Some((_, found)) = self.all.iter().find(|(known, _)| known == name.value) {
            return found.clone();
        }
        if !self.is_complete {
            return None;
        }
        let names = || self.all.iter().map(|(known, _)| known.as_str());
        let meant = did_you_mean(name.value, names());
        let mistake = Mistake::at(name.span.clone(), format!("no {} is named `{}`{meant}", self.what, name.value));
        let help = match self.all.is_empty() {
            true => format!("there is no `[{}.NAME]` in this file", self.what),
            false => format!("known: {}", names().collect::<Vec<_>>().join(", ")),
        };
        reader.note(mistake.help(help).absence());
        None
    }
}

/// What a route refers to.
pub(in crate::config) struct Surroundings<'a> {
    /// The whole file.
    pub(in crate::config) root: &'a Section,
    pub(in crate::config) issuers: &'a Known<Issuer>,
    pub(in crate::config) upstreams: &'a Known<Upstream>,
    pub(in crate::config) token_service: Option<&'a TokenService>,
}

impl Surroundings<'_> {
    fn recipient<'b>(&'b self, access: &'b Access, upstream: &'b Upstream, issuers: &'b [IssuerName]) -> Recipient<'b> {
        let Self { root, issuers: known_issuers, token_service, .. } = *self;
        let has_cluster = root.is_given("kubernetes");
        Recipient { access, upstream, issuers, known_issuers, token_service, has_cluster }
    }
}

impl Route {
    pub(in crate::config) fn read(
        section: &Section,
        surroundings: &Surroundings<'_>,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let path = reader.parse(section, "path", PathPattern::parse);
        let name = match section.text("name") {
            Some(_) => reader.parse(section, "name", web::name),
            None => path.as_ref().map(|path| path.text.clone()),
        };
        let hosts = reader.parse_all(section, "host", web::host_pattern);
        let methods = section.is_given("methods").then(|| reader.parse_all(section, "methods", method));
        let access = Access::read(section, reader);
        let client_certificate = ClientCertificate::read(section, surroundings.root, reader);
        let issuers = read_issuers(section, access.as_ref(), surroundings.issuers, reader);
        if matches!(access, Some(Access::Token(_))) {
            check_opaque(section, &issuers, reader);
        }
        let upstream = section.text("upstream").and_then(|name| surroundings.upstreams.find(&name, reader));
        let credential = match (&access, &upstream) {
            (Some(access), Some(upstream)) => {
                let recipient = surroundings.recipient(access, upstream, &issuers);
                check_follows_user(section, access, upstream, reader);
                Credential::read(section, &recipient, reader)
            }
            _ => None,
        };
        let headers = read_headers(section, credential.as_ref(), reader);
        let limit = RouteLimit::read(section, access.as_ref(), surroundings.root, reader).map(Box::new);
        let allow_encoded_slash = section.flag("allow_encoded_slash")?;
        check_encoded_slash(section, path.as_ref(), allow_encoded_slash, reader);
        let surface = Surface {
            name: name.as_deref(),
            upstream: upstream.as_ref().map(|upstream| upstream.name.as_str()),
            path: path.as_ref(),
            methods: methods.as_deref(),
            access: access.as_ref(),
            credential: credential.as_ref(),
            headers: &headers,
            allow_encoded_slash,
        };
        let transform = Transform::read(section, &surface, reader);
        Some(Self {
            name: name?,
            hosts,
            path: path?,
            methods,
            issuers,
            access: access?,
            client_certificate,
            upstream: upstream?,
            credential: credential?,
            headers,
            response_timeout: section.duration("response_timeout"),
            allow_encoded_slash,
            max_body_bytes: section.integer("max_body_bytes"),
            stream_ends: match section.text("stream_ends")?.value {
                "token" => StreamEnds::Token,
                _ => StreamEnds::Session,
            },
            transform,
            limit,
        })
    }
}

fn check_encoded_slash(section: &Section, path: Option<&PathPattern>, is_allowed: bool, reader: &mut Reader<'_>) {
    if let Some(path) = path.filter(|path| is_allowed && !is_captured(path)) {
        let message =
            format!("`allow_encoded_slash` needs a path that ends in `*` or `**`, and `{}` does not", path.text);
        let mistake = Mistake::at(section.value_span("allow_encoded_slash"), message);
        reader.note(mistake.related(section.value_span("path"), "captures nothing"));
    }
}

fn is_captured(path: &PathPattern) -> bool {
    path.open_ended || path.segments.last() == Some(&None)
}

fn read_issuers(
    section: &Section,
    access: Option<&Access>,
    known: &Known<Issuer>,
    reader: &mut Reader<'_>,
) -> Vec<IssuerName> {
    if section.is_given("issuers") {
        let names = section.texts("issuers").filter_map(|name| match name.value {
            "self" => Some(IssuerName::Own),
            _ => known.find(&name, reader).map(IssuerName::Configured),
        });
        return names.collect();
    }
    if known.all.is_empty() && known.is_complete && matches!(access, Some(Access::Token(_))) {
        let mistake = Mistake::at(section.span.clone(), "no issuer is configured, so nobody can pass this route");
        reader.note(mistake.help("write an `[issuer.NAME]`, or `access = \"public\"` to let everybody pass").absence());
    }
    known.all.iter().filter_map(|(_, issuer)| issuer.clone().map(IssuerName::Configured)).collect()
}

/// Where the host of the upstream is that of the user's namespace, there must be a user, and no other namespace.
fn check_follows_user(section: &Section, access: &Access, upstream: &Upstream, reader: &mut Reader<'_>) {
    if !upstream.follows_user() {
        return;
    }
    let message = format!("the host of `{}` follows the user's own namespace", upstream.name);
    let mistake = || Mistake::at(section.value_span("upstream"), message.clone());
    if *access == Access::Public {
        reader.note(mistake().related(section.value_span("access"), "everybody passes, and no user is known"));
    }
    let token = section.section("credential").and_then(|credential| credential.section("namespace-token"));
    if let Some(token) = token.filter(|token| token.is_given("target")) {
        reader.note(mistake().related(token.value_span("target"), "this token is for another namespace"));
    }
}

/// An opaque token names no issuer: it could be shown to one only by showing it to another first.
fn check_opaque(section: &Section, issuers: &[IssuerName], reader: &mut Reader<'_>) {
    let opaque = issuers.iter().filter_map(|issuer| match issuer {
        IssuerName::Configured(issuer) if issuer.opaque => Some(issuer.name.as_str()),
        IssuerName::Configured(_) | IssuerName::Own => None,
    });
    let names: Vec<_> = opaque.collect();
    if let [first, second, ..] = names.as_slice() {
        let place = if section.is_given("issuers") { "issuers" } else { "path" };
        let message = format!("this route accepts opaque tokens of both `{first}` and `{second}`");
        let mistake = Mistake::at(section.value_span(place), message).label("an opaque token names no issuer");
        reader.note(mistake.help("let `issuers` name at most one issuer with `opaque = true`"));
    }
}

fn read_headers(section: &Section, credential: Option<&Credential>, reader: &mut Reader<'_>) -> Vec<IdentityHeader> {
    let credential_header = match credential {
        Some(Credential::Secret { header, .. }) => Some(headers::fold(header.as_str())),
        _ => None,
    };
    let mut found: Vec<(String, &Placed<String>, IdentityHeader)> = Vec::new();
    for (key, source) in section.map("headers") {
        let name = reader.keep(&key.span, headers::identity_header(&key.value));
        let (Some(name), Some(source)) = (name, source.text()) else { continue };
        let folded = headers::fold(name.as_str());
        if credential_header.as_ref() == Some(&folded) {
            let mistake =
                Mistake::at(key.span.clone(), format!("`{}` carries the credential of this route", key.value));
            reader.note(mistake.related(section.value_span("credential"), "as given here"));
        }
        if let Some((_, first, _)) = found.iter().find(|(other, _, _)| *other == folded) {
            let message = format!("`{}` and `{}` are one name to an upstream", key.value, first.value);
            let mistake = Mistake::at(key.span.clone(), message).related(first.span.clone(), "first here");
            reader.note(mistake.help(
                "letter case is no difference, nor is one character from another where neither is a letter or digit",
            ));
        }
        found.push((folded, key, IdentityHeader { name, source: HeaderSource::named(source.value) }));
    }
    found.into_iter().map(|(_, _, header)| header).collect()
}

/// Why a method is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum MethodError {
    #[error("`{0}` is no method: methods are in capitals, as in `GET`")]
    NoMethod(String),
    #[error("`{0}` cannot be forwarded")]
    NeverForwarded(Method),
}

/// Methods are case-sensitive (RFC 9110 §9.1): one in small letters would never match.
pub(super) fn method(text: &str) -> Result<Method, MethodError> {
    let refused = || MethodError::NoMethod(text.to_owned());
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(refused());
    }
    match Method::from_bytes(text.as_bytes()).map_err(|_| refused())? {
        method @ (Method::CONNECT | Method::TRACE) => Err(MethodError::NeverForwarded(method)),
        method => Ok(method),
    }
}
