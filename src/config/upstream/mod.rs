//! `[upstream.NAME]`: the services that requests are forwarded to.

mod resilience;
mod target;

pub use resilience::{CircuitBreaker, HealthCheck, OutlierDetection, Retry};
pub use target::Target;

use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::tree::Section;
use crate::config::web;
use resilience::{CIRCUIT_BREAKER, HEALTH_CHECK, OUTLIER_DETECTION, RETRY};
use std::path::PathBuf;
use std::time::Duration;

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// NAME of `[upstream.NAME]`; routes, logs and metrics use it.
    pub name: String,
    /// `to`, such as `http://orders.sales.svc:8080` or `unix:/run/orders.sock`: at least one.
    pub targets: Vec<Target>,
    /// From `to`: whether it is `https://`, all of it.
    pub is_tls: bool,
    /// `audience` of the tokens minted for it. Default: its NAME.
    pub audience: String,
    /// `protocol`: `"http1"`, `"http2"` (in clear text: with prior knowledge) or `"auto"` (HTTP/2 where TLS negotiates
    /// it, else HTTP/1.1). Default `"auto"`.
    pub protocol: Protocol,
    /// `tls`: settings for an `https://` upstream.
    pub tls: UpstreamTls,
    /// `connect_timeout`, TLS handshake included. Default `2s`.
    pub connect_timeout: Duration,
    /// `response_timeout`: until the head of the answer. Default `30s`. A route may set its own.
    pub response_timeout: Duration,
    /// `idle_timeout`: how long a streaming body or an upgraded connection may be silent. Default `5m`.
    pub idle_timeout: Duration,
    /// `max_idle_connections` kept for reuse, of each worker to each endpoint. Default 128.
    pub max_idle_connections: usize,
    /// `upgrades`: what a client's connection may be switched to. Default `["websocket"]`.
    pub upgrades: Vec<Upgrade>,
    /// `max_connection_age`: one that is older carries no further request. Default: no limit.
    pub max_connection_age: Option<Duration>,
    /// `max_requests_per_connection`. Default: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// `dns_refresh`: how often the names of `to` are looked up. Default `30s`.
    pub dns_refresh: Duration,
    /// `health_check` of each endpoint. Default: none.
    pub health_check: Option<HealthCheck>,
    /// `outlier_detection`; none where it is `"off"`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `slow_start`: how long an endpoint that is back gets less than its share. Default `0s`.
    pub slow_start: Duration,
    /// `retry`. Default: none.
    pub retry: Option<Retry>,
    /// `circuit_breaker`. Default: no limit.
    pub circuit_breaker: CircuitBreaker,
}

/// A member of `upstream.NAME.upgrades`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// `"websocket"` (RFC 6455).
    WebSocket,
    /// `"spdy/3.1"`, which older clients of the Kubernetes API ask for.
    Spdy,
}

/// `upstream.NAME.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 where TLS negotiates it, else HTTP/1.1.
    Auto,
}

/// `upstream.NAME.tls`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// `ca`: PEM file of the authorities trusted. Default: the host's.
    pub ca: Option<PathBuf>,
    /// `certificate`: client certificate chain, with `key`.
    pub certificate: Option<PathBuf>,
    /// `key` of the client certificate.
    pub key: Option<PathBuf>,
    /// `server_name` to verify and to send as SNI. Default: the host of `to`.
    pub server_name: Option<String>,
}

/// `[upstream.NAME]`.
pub(in crate::config) static UPSTREAM: Table = Table::of(&[
    Key::required(
        "to",
        Kind::OneOrMany(&Kind::Text("an origin, or `unix:` and the path of a socket")),
        "Where requests go: scheme, host and port, or a Unix socket. Each address is an endpoint; with several, of the \
         list or of a name, each request goes to the less loaded of two that are chosen at random. `{namespace}` as a \
         label of the host is the user's own namespace.",
    )
    .example("\"http://orders.sales.svc:8080\""),
    Key::optional(
        "audience",
        Kind::Text("an audience"),
        "the upstream's NAME",
        "`aud` of the tokens that are minted for it. Never that of `token_service`.",
    )
    .example("\"orders\""),
    Key::default(
        "protocol",
        Kind::word(&["auto", "http1", "http2"]),
        "\"auto\"",
        "`auto` is HTTP/2 where TLS negotiates it, else HTTP/1.1; `http2` in clear text is with prior knowledge.",
    ),
    Key::default("tls", Kind::Table(&TLS), "{}", "Settings for an `https://` upstream."),
    Key::default(
        "connect_timeout",
        Kind::DURATION,
        "\"2s\"",
        "How long a connection may take, TLS handshake included.",
    ),
    Key::default(
        "response_timeout",
        Kind::DURATION,
        "\"30s\"",
        "How long the head of an answer may take. A route may set its own.",
    ),
    Key::default(
        "idle_timeout",
        Kind::DURATION,
        "\"5m\"",
        "How long a streaming body or an upgraded connection may be silent.",
    ),
    Key::default(
        "max_idle_connections",
        Kind::Integer { least: 0, most: 1_000_000 },
        "128",
        "Connections kept for reuse, of each worker to each endpoint.",
    ),
    Key::default(
        "upgrades",
        Kind::list_or_empty(&Kind::word(&["websocket", "spdy/3.1"])),
        "[\"websocket\"]",
        "What a client's connection may be switched to. `spdy/3.1` is for the Kubernetes API.",
    ),
    Key::optional(
        "max_connection_age",
        Kind::at_least(Duration::from_secs(1)),
        "no limit",
        "A connection that is older, by up to a tenth less so that not all end at once, carries no further request.",
    )
    .example("\"10m\""),
    Key::optional(
        "max_requests_per_connection",
        Kind::Integer { least: 1, most: 1_000_000_000 },
        "no limit",
        "A connection that carried so many requests carries no further one.",
    )
    .example("10000"),
    Key::default(
        "dns_refresh",
        Kind::at_least(Duration::from_secs(1)),
        "\"30s\"",
        "How often the names of `to` are looked up in the background; also when one of their addresses takes no connection.",
    ),
    Key::optional(
        "health_check",
        Kind::Table(&HEALTH_CHECK),
        "endpoints are not asked",
        "Asks each endpoint how it is. Requests go to healthy ones; while there is none they are answered 503.",
    ),
    Key::default(
        "outlier_detection",
        Kind::WordOr(&["off"], &OUTLIER_DETECTION),
        "{}",
        "Leaves out an endpoint that fails one request after the other, for a time that grows.",
    ),
    Key::default(
        "slow_start",
        Kind::DURATION_OR_ZERO,
        "\"0s\"",
        "How long an endpoint that was out gets less than its share of requests, growing to all of it.",
    ),
    Key::optional(
        "retry",
        Kind::Table(&RETRY),
        "no request is sent again that an endpoint may have seen",
        "Sends requests again where that is safe, to another endpoint if there is one.",
    ),
    Key::default(
        "circuit_breaker",
        Kind::Table(&CIRCUIT_BREAKER),
        "{}",
        "What there may be at once; a request beyond it is answered 503.",
    ),
]);

static TLS: Table = Table::of(&[
    Key::optional("ca", Kind::File, "the host's authorities", "PEM file of the authorities that are trusted.")
        .example("\"tls/ca.pem\""),
    Key::optional(
        "certificate",
        Kind::File,
        "no client certificate",
        "PEM file of the client certificate's chain, with `key`.",
    )
    .example("\"tls/client.pem\""),
    Key::optional("key", Kind::File, "no client certificate", "PEM file of the client certificate's private key.")
        .example("\"tls/client.key\""),
    Key::optional(
        "server_name",
        Kind::Text("a host name"),
        "the host of `to`",
        "The name that the certificate must have, also sent as SNI.",
    )
    .example("\"orders.example.com\""),
]);

impl Upstream {
    /// The upstream of one namespace; `None` if that is no RFC 1123 label.
    #[must_use]
    pub fn of_namespace(&self, namespace: &str) -> Option<Self> {
        let namespace = web::namespace(namespace).ok()?;
        let targets = self.targets.iter().map(|target| target.of_namespace(&namespace)).collect();
        Some(Self { targets, ..self.clone() })
    }

    pub(in crate::config) fn read(name: &str, section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let to = target::read(section, reader);
        let tls = section.section("tls").map(|tls| UpstreamTls::read(tls, reader));
        let response_timeout = section.duration("response_timeout")?;
        let health_check = section.section("health_check").map(|check| HealthCheck::read(check, reader));
        let detection = section.section("outlier_detection").map(|found| OutlierDetection::read(found, reader));
        let retry = section.section("retry").map(|retry| Retry::read(retry, response_timeout, reader));
        let circuit_breaker = section.section("circuit_breaker").map(|limits| CircuitBreaker::read(limits, reader));
        let protocol = match section.text("protocol")?.value {
            "http1" => Protocol::Http1,
            "http2" => Protocol::Http2,
            _ => Protocol::Auto,
        };
        let (targets, is_tls) = to?;
        let upstream = Self {
            name: name.to_owned(),
            targets,
            is_tls,
            audience: section.text("audience").map_or(name, |audience| audience.value).to_owned(),
            protocol,
            tls: tls?,
            connect_timeout: section.duration("connect_timeout")?,
            response_timeout,
            idle_timeout: section.duration("idle_timeout")?,
            max_idle_connections: section.integer("max_idle_connections")?,
            upgrades: section.texts("upgrades").map(|text| Upgrade::named(text.value)).collect(),
            max_connection_age: section.duration("max_connection_age"),
            max_requests_per_connection: section.integer("max_requests_per_connection"),
            dns_refresh: section.duration("dns_refresh")?,
            health_check: health_check.flatten(),
            outlier_detection: detection.flatten(),
            slow_start: section.duration("slow_start")?,
            retry: retry.flatten(),
            circuit_breaker: circuit_breaker?,
        };
        if upstream.follows_user() && section.is_given("health_check") {
            let message = "the endpoints of an upstream that follows the user are not known, and cannot be checked";
            let mistake = Mistake::at(section.key_span("health_check"), message.to_owned());
            reader.note(mistake.related(section.value_span("to"), "follows the user"));
        }
        Some(upstream)
    }
}

impl Upgrade {
    /// The description lets no other word pass.
    fn named(word: &str) -> Self {
        match word {
            "spdy/3.1" => Self::Spdy,
            _ => Self::WebSocket,
        }
    }

    /// As `Upgrade` says it (RFC 9110 §7.8).
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Spdy => "SPDY/3.1",
        }
    }

    /// The protocol that a value of `Upgrade` asks for, if it is one of these and no list.
    pub fn asked(value: &[u8]) -> Option<Self> {
        [Self::WebSocket, Self::Spdy].into_iter().find(|known| value.eq_ignore_ascii_case(known.name().as_bytes()))
    }
}

impl UpstreamTls {
    fn read(section: &Section, reader: &mut Reader<'_>) -> Self {
        for (given, absent) in [("certificate", "key"), ("key", "certificate")] {
            if section.is_given(given) && !section.is_given(absent) {
                reader.note(Mistake::at(section.key_span(given), format!("`{given}` needs `{absent}` beside it")));
            }
        }
        let server_name = reader.parse(section, "server_name", |text| {
            let name = rustls::pki_types::ServerName::try_from(text.to_owned());
            name.map(|_| text.to_owned()).map_err(|_| web::WebError::NoHost(text.to_owned()))
        });
        Self { ca: section.path("ca"), certificate: section.path("certificate"), key: section.path("key"), server_name }
    }
}
