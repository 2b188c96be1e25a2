//! The configuration: one TOML file in, values that cannot be wrong out.
//!
//! [`load`] reads a file and [`parse`] a text. Both give either a [`Config`] or every mistake of the file
//! at once ([`Diagnostics`]); no other module ever sees TOML.
//!
//! What a file may hold is described once, by the tables beside the types (`description`); the reader, the JSON Schema ([`schema()`])
//! and the reference page ([`reference()`]) are made from them. A file is read in two steps: the reader holds the TOML tree against
//! the description, then each section's `read` makes its type and checks what no single value can tell.

mod auth_token;
mod delivery;
mod description;
mod dev_mode;
mod diagnostic;
mod follow;
mod headers;
mod issuer;
mod kubernetes;
mod limits;
mod nearest;
mod operator;
mod reader;
mod redis;
mod reference;
mod route;
mod scalar;
mod schema;
mod secrets;
mod server;
mod state;
mod tls;
mod token_service;
mod traces;
mod tree;
mod upstream;
mod web;
mod webhook;

#[cfg(test)]
mod tests;

pub use auth_token::{AuthToken, ExternalClient, Failures, GrantType};
pub use delivery::{Delivery, NamespaceTemplate, OnOffboard, TemplateError};
pub use diagnostic::{Diagnostics, Mistake};
pub use issuer::{
    Algorithm, ClaimPath, EndSessions, Introspection, Issuer, IssuerKind, KeyPolicy, Keycloak, UserStatus, WhenUnknown,
};
pub use kubernetes::{Kubernetes, Role};
pub use limits::{Limits, Rate};
pub use operator::{Operator, OperatorAccess};
pub use redis::{Redis, RedisPlace};
pub use reference::reference;
pub use route::{
    Access, AllowedNames, ClientCertificate, ClientCredentials, Credential, DEFAULT_METHODS, Exchange, HeaderSource,
    HostRank, IdentityHeader, IssuerName, NamespaceSource, NamespaceToken, PathPattern, PathPatternError, Rank,
    Requirements, Route, RouteLimit, San, SecretValue, SegmentRank, ServiceAccount, StoredSecret, StreamEnds,
    TargetNamespace, TokenEndpoint, transform,
};
pub use schema::schema;
pub use server::{Admin, Log, LogFormat, LogPlace, Server};
pub use state::{Cluster, State};
pub use tls::{KeyPair, ServerTls, UnknownName};
pub use token_service::{Client, SigningAlgorithm, SigningKeys, TokenService};
pub use traces::Traces;
pub use upstream::{
    CircuitBreaker, HealthCheck, OutlierDetection, Protocol, Retry, Target, Upgrade, Upstream, UpstreamTls,
};
pub use webhook::Webhook;

use description::{Key, Kind, Table};
use diagnostic::Span;
use reader::Reader;
use route::{Known, Surroundings};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tree::{Placed, Section};

/// A whole, checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The files that it names (secrets, keys, certificates): a change of one is a change of the configuration.
    pub files: Vec<PathBuf>,
    /// Where the gateway listens, and its limits.
    pub server: Server,
    /// The admin listener: health and metrics.
    pub admin: Admin,
    /// The operators' API; absent where it is off.
    pub operator: Option<Operator>,
    /// The admission webhook; absent where it is off.
    pub webhook: Option<Webhook>,
    /// What this process does in a cluster; absent outside of one.
    pub kubernetes: Option<Kubernetes>,
    /// Through what replicas share what they know; absent where there is one, and in a cluster.
    pub redis: Option<Redis>,
    /// What is logged, and where.
    pub log: Log,
    /// What one address may ask for before it is known who is asking.
    pub limits: Limits,
    /// Where Postern remembers what it knows against users.
    pub state: State,
    /// Until when anybody is let in.
    pub cluster: Cluster,
    /// The issuers whose tokens are accepted, in the order of the file.
    pub issuers: Vec<Arc<Issuer>>,
    /// The upstreams that requests go to, in the order of the file.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The routes, in the order of the file.
    pub routes: Vec<Arc<Route>>,
    /// How Postern's own tokens are made.
    pub token_service: TokenService,
    /// Where each user's token is kept fresh, if anywhere.
    pub delivery: Option<Delivery>,
    /// Whom the issuer's tokens are passed to; absent: nobody.
    pub auth_token: Option<AuthToken>,
}

/// The keys of a file.
static ROOT: Table = Table::of(&[
    Key::required("version", Kind::Integer { least: 1, most: 1 }, "The version of this format.").example("1"),
    Key::default(
        "dev",
        Kind::Flag,
        "false",
        "For a machine of one's own: secrets may stand in this file, and everything must be on loopback.",
    ),
    Key::default("server", Kind::Table(&server::SERVER), "{}", "The public listeners."),
    Key::default("admin", Kind::Table(&server::ADMIN), "{}", "Health and metrics, on a listener of their own."),
    Key::default(
        "operator",
        Kind::Table(&operator::OPERATOR),
        "{}",
        "The API behind `postern user`, `postern token revoke` and `postern cluster`, on a listener of its own.",
    ),
    Key::default(
        "webhook",
        Kind::Table(&webhook::WEBHOOK),
        "{}",
        "The admission webhook that mounts users' tokens into their pods, on a listener of its own.",
    ),
    Key::optional(
        "kubernetes",
        Kind::Table(&kubernetes::KUBERNETES),
        "no cluster",
        "Postern in a Kubernetes cluster: what its replicas share lies in Secrets of its own namespace.",
    ),
    Key::optional(
        "redis",
        Kind::Table(&redis::REDIS),
        "one replica, or a cluster",
        "Several replicas outside of Kubernetes: they share what they know about users through this Redis.",
    ),
    Key::default("log", Kind::Table(&server::LOG), "{}", "What is logged, and where."),
    Key::default(
        "limits",
        Kind::Table(&limits::LIMITS),
        "{}",
        "What one client address may ask for before it is known who is asking. IPv6 addresses are taken by their \
         network of 64 bits.",
    ),
    Key::default("state", Kind::Table(&state::STATE), "{}", "What Postern remembers."),
    Key::default("cluster", Kind::Table(&state::CLUSTER), "{}", "Whether anybody is let in at all."),
    Key::optional(
        "issuer",
        Kind::Named(&issuer::ISSUER),
        "no tokens but Postern's own",
        "Who may issue tokens, and how they are checked. Routes, logs and metrics use NAME; `self` is reserved.",
    ),
    Key::optional(
        "upstream",
        Kind::Named(&upstream::UPSTREAM),
        "none",
        "The services that requests are forwarded to. Routes, logs and metrics use NAME.",
    ),
    Key::optional(
        "route",
        Kind::Tables(&route::ROUTE),
        "a mistake, but for the role `token-service` of `[kubernetes]`",
        "Which requests are let through, to where, and with what credential. A request that no route takes is a 404.",
    ),
    Key::default("token_service", Kind::Table(&token_service::TOKEN_SERVICE), "{}", "Postern as an issuer of tokens."),
    Key::optional(
        "delivery",
        Kind::Table(&delivery::DELIVERY),
        "no token is kept for anybody",
        "Each user's token, kept fresh where notebooks and jobs read it: at `GET /token`, and in files.",
    ),
    Key::optional(
        "auth_token",
        Kind::Table(&auth_token::AUTH_TOKEN),
        "nobody gets an issuer's tokens through Postern",
        "Sign-in by password, and refreshing, for programs outside that reach Postern only: `/auth/token` under \
         `token_service.issuer`.",
    ),
]);

/// Reads and checks a file. Secrets and certificates that it names must be there.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) => Err(Diagnostics::new(
            path,
            "",
            &[],
            vec![Mistake::of_file(format!("cannot read `{}`: {error}", path.display()))],
        )),
    }
}

/// Reads and checks a text. `origin` is the name of its file: mistakes are shown with it, and relative paths are seen
/// from its folder.
pub fn parse(text: &str, origin: &Path) -> Result<Config, Diagnostics> {
    let (mut reader, root) = Reader::read(text, origin, &ROOT);
    let config = assemble(&root, &mut reader);
    reader.finish(config)
}

impl Config {
    /// Whether anything is to be remembered beyond the life of the process.
    pub fn has_state(&self) -> bool {
        let has_keycloak = self.issuers.iter().any(|issuer| issuer.user_status.keycloak().is_some());
        let shares = self.kubernetes.is_some() || self.redis.is_some();
        has_keycloak || shares || self.operator.is_some() || !self.token_service.clients.is_empty()
    }
}

fn assemble(root: &Section, reader: &mut Reader<'_>) -> Option<Config> {
    let server_section = root.section("server");
    let server = server_section.and_then(|section| Server::read(section, reader));
    let admin = server_section.and_then(|server| Admin::read(root.section("admin")?, server, reader));
    let log = root.section("log").and_then(|section| Log::read(section, reader));
    let limits = root.section("limits").and_then(|section| Limits::read(section, reader));
    let state = root.section("state").and_then(State::read);
    let kubernetes = Kubernetes::read(root, reader);
    let redis = Redis::read(root, reader);
    let cluster = root.section("cluster").and_then(|section| Cluster::read(section, reader));
    let token_service = server_section.and_then(|server| TokenService::read(root, server, reader));
    let issuers = read_issuers(root, token_service.as_ref(), reader);
    let operator = root.section("operator").and_then(|section| {
        let public = server_section.into_iter().flat_map(|server| server.texts("listen"));
        let others: Vec<_> = public.chain(root.section("admin").and_then(|admin| admin.text("listen"))).collect();
        Operator::read(section, &others, &issuers, reader)
    });
    let delivery = Delivery::read(root, &issuers, token_service.as_ref(), reader);
    let webhook = root.section("webhook").and_then(|section| {
        let public = server_section.into_iter().flat_map(|server| server.texts("listen"));
        let single = ["admin", "operator"].into_iter().filter_map(|name| root.section(name)?.text("listen"));
        Webhook::read(section, &public.chain(single).collect::<Vec<_>>(), root.is_given("kubernetes"), reader)
    });
    let auth_token = match root.section("auth_token") {
        Some(section) => AuthToken::read(section, &issuers, reader).map(Some),
        None => Some(None),
    };
    let upstreams = read_upstreams(root, token_service.as_ref(), reader);
    let surroundings =
        Surroundings { root, issuers: &issuers, upstreams: &upstreams, token_service: token_service.as_ref() };
    let routes = read_routes(root, &surroundings, reader);
    kubernetes::check_routes(root, kubernetes.as_ref(), reader);
    Client::check(root, &upstreams, &routes, reader);
    if root.flag("dev") == Some(true) {
        let listen = server.iter().flat_map(|server| server.listen.iter().copied());
        let admin = admin.iter().filter_map(|admin| admin.listen);
        let operator = operator.iter().flatten().map(|operator| operator.listen);
        let webhook = webhook.iter().flatten().map(|webhook| webhook.listen);
        let others = (&issuers, &*routes, redis.as_ref().and_then(Option::as_ref));
        dev_mode::check(root, listen.chain(admin).chain(operator).chain(webhook), others, reader);
    }
    Some(Config {
        files: reader.files(),
        server: server?,
        admin: admin?,
        operator: operator?,
        webhook: webhook?,
        kubernetes: kubernetes?,
        redis: redis?,
        log: log?,
        limits: limits?,
        state: state?,
        cluster: cluster?,
        issuers: issuers.all.into_iter().filter_map(|(_, issuer)| issuer).collect(),
        upstreams: upstreams.all.into_iter().filter_map(|(_, upstream)| upstream).collect(),
        routes,
        token_service: token_service?,
        delivery: delivery?,
        auth_token: auth_token?,
    })
}

/// The sections `[key.NAME]`, their names checked.
fn named<'a>(root: &'a Section, key: &str, reader: &mut Reader<'_>) -> Vec<(&'a Placed<String>, &'a Section)> {
    let mut sections = Vec::new();
    for (name, value) in root.map(key) {
        reader.keep(&name.span, web::name(&name.value));
        sections.extend(value.section().map(|section| (name, section)));
    }
    sections
}

fn read_issuers(root: &Section, token_service: Option<&TokenService>, reader: &mut Reader<'_>) -> Known<Issuer> {
    let mut known = Known::new("issuer", root);
    let mut urls: HashMap<String, Span> = HashMap::new();
    let mut cluster_of_users: Option<Span> = None;
    for (name, section) in named(root, "issuer", reader) {
        if name.value == "self" {
            let message = "`self` is the name of Postern's own tokens, and no issuer can have it";
            reader.note(Mistake::at(name.span.clone(), message));
        }
        let issuer = Issuer::read(&name.value, section, reader);
        if let Some(url) = section.text("url") {
            if let Some(first) = urls.get(url.value) {
                let mistake = Mistake::at(url.span.clone(), "two issuers have the same `url`");
                reader.note(mistake.related(first.clone(), "first here").help("one issuer may have several audiences"));
            }
            if token_service.is_some_and(|own| own.issuer == url.value) {
                let message = "this is Postern's own issuer (`token_service.issuer`)";
                reader.note(Mistake::at(url.span.clone(), message).help("a route names it by `issuers = [\"self\"]`"));
            }
            urls.entry(url.value.to_owned()).or_insert(url.span);
        }
        let has_users = root.is_given("delivery") || root.is_given("kubernetes");
        if has_users
            && issuer.as_ref().is_some_and(Issuer::gives_user_tokens)
            && let Some(first) = cluster_of_users.replace(name.span.clone())
        {
            let mistake = Mistake::at(name.span.clone(), "pods of two clusters would get users' tokens");
            let help = "users' namespaces are those of one cluster: write `user_tokens = []` for the other";
            reader.note(mistake.related(first, "the other").help(help));
        }
        known.all.push((name.value.clone(), issuer.map(Arc::new)));
    }
    known
}

fn read_upstreams(root: &Section, token_service: Option<&TokenService>, reader: &mut Reader<'_>) -> Known<Upstream> {
    let mut known = Known::new("upstream", root);
    for (name, section) in named(root, "upstream", reader) {
        let upstream = Upstream::read(&name.value, section, reader);
        if let (Some(upstream), Some(own)) = (&upstream, token_service)
            && upstream.audience == own.audience
        {
            let place = if section.is_given("audience") { section.value_span("audience") } else { name.span.clone() };
            reader.note(route::own_audience(place, &own.audience));
        }
        known.all.push((name.value.clone(), upstream.map(Arc::new)));
    }
    known
}

fn read_routes(root: &Section, surroundings: &Surroundings<'_>, reader: &mut Reader<'_>) -> Vec<Arc<Route>> {
    let (mut routes, mut names) = (Vec::new(), Vec::new());
    for section in root.list("route").iter().filter_map(Placed::section) {
        let Some(route) = Route::read(section, surroundings, reader) else { continue };
        let is_named = section.is_given("name");
        names.push((is_named, section.value_span(if is_named { "name" } else { "path" })));
        routes.push((Arc::new(route), section.value_span("path")));
    }
    let ambiguous = route::find_ambiguous(&routes, reader);
    let mut first_of: HashMap<&str, &Span> = HashMap::new();
    for (index, ((route, _), (is_named, place))) in routes.iter().zip(&names).enumerate() {
        match first_of.get(route.name.as_str()) {
            None => drop(first_of.insert(&route.name, place)),
            // Their paths are the same, which was noted.
            Some(_) if !is_named && ambiguous.contains(&index) => {}
            Some(first) => {
                let mistake = Mistake::at(place.clone(), format!("two routes are named `{}`", route.name));
                let mistake = mistake.related((*first).clone(), "first here");
                reader.note(mistake.help("a route without `name` is named by its `path`"));
            }
        }
    }
    routes.into_iter().map(|(route, _)| route).collect()
}
