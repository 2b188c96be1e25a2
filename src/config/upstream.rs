//! `[upstream.NAME]`: the services that requests are forwarded to.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::tree::Section;
use super::{follow, web};
use std::path::PathBuf;
use std::time::Duration;
use url::Host;

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// NAME of `[upstream.NAME]`; routes, logs and metrics use it.
    pub name: String,
    /// From `to`, such as `http://orders.sales.svc:8080`: whether it is `https://`.
    pub is_tls: bool,
    /// From `to`: the host name or address (IPv6 without brackets). One that follows the user holds `{namespace}`.
    pub host: String,
    /// From `to`: the port, 80 or 443 where absent.
    pub port: u16,
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
    /// `max_idle_connections` kept for reuse, of each worker. Default 128.
    pub max_idle_connections: usize,
    /// `upgrades`: what a client's connection may be switched to. Default `["websocket"]`.
    pub upgrades: Vec<Upgrade>,
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
pub(super) static UPSTREAM: Table = Table::of(&[
    Key::required(
        "to",
        Kind::Text("an origin"),
        "Where requests go: scheme, host and port. `{namespace}` as a label of the host is the user's own namespace.",
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
        "Connections kept for reuse, of each worker.",
    ),
    Key::default(
        "upgrades",
        Kind::list_or_empty(&Kind::word(&["websocket", "spdy/3.1"])),
        "[\"websocket\"]",
        "What a client's connection may be switched to. `spdy/3.1` is for the Kubernetes API.",
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
    /// Whether its host follows the user: there is one for each namespace.
    pub fn follows_user(&self) -> bool {
        self.host.contains('{')
    }

    /// The upstream of one namespace; `None` if that is no RFC 1123 label.
    #[must_use]
    pub fn of_namespace(&self, namespace: &str) -> Option<Self> {
        let namespace = web::namespace(namespace).ok()?;
        Some(Self { host: self.host.replace(follow::NAMESPACE, &namespace), ..self.clone() })
    }

    pub(super) fn read(name: &str, section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let to = reader.parse(section, "to", follow::origin);
        let (to, followed) = to.map_or((None, None), |(to, host)| (Some(to), host));
        let is_tls = to.as_ref().is_some_and(|to| to.scheme() == "https");
        let tls = section.section("tls").map(|tls| UpstreamTls::read(tls, reader));
        if let Some(to) = to.as_ref().filter(|_| !is_tls && section.is_given("tls")) {
            let shown = followed.as_deref().map(|host| format!("http://{host}"));
            let shown = shown.unwrap_or_else(|| to.origin().ascii_serialization());
            let message = format!("`tls` is for `https://` upstreams, and `{shown}` is none");
            reader
                .note(Mistake::at(section.key_span("tls"), message).related(section.value_span("to"), "in clear text"));
        }
        let protocol = match section.text("protocol")?.value {
            "http1" => Protocol::Http1,
            "http2" => Protocol::Http2,
            _ => Protocol::Auto,
        };
        let to = to?;
        Some(Self {
            name: name.to_owned(),
            is_tls,
            host: match (followed, to.host()?) {
                (Some(host), _) => host,
                (None, Host::Domain(name)) => name.to_owned(),
                (None, Host::Ipv4(address)) => address.to_string(),
                (None, Host::Ipv6(address)) => address.to_string(),
            },
            port: to.port_or_known_default()?,
            audience: section.text("audience").map_or(name, |audience| audience.value).to_owned(),
            protocol,
            tls: tls?,
            connect_timeout: section.duration("connect_timeout")?,
            response_timeout: section.duration("response_timeout")?,
            idle_timeout: section.duration("idle_timeout")?,
            max_idle_connections: section.integer("max_idle_connections")?,
            upgrades: section.texts("upgrades").map(|text| Upgrade::named(text.value)).collect(),
        })
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
