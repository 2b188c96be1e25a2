//! `[server]`, `[admin]` and `[log]`.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::tls::{SERVER_TLS, ServerTls};
use super::traces::{TRACES, Traces};
use super::tree::{Placed, Section};
use super::web;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// `[server]`: the public listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `listen`: one address or a list. Default `127.0.0.1:8080`. Port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// `tls`: absent → clear text (HTTP/1.1, and HTTP/2 with prior knowledge).
    pub tls: Option<ServerTls>,
    /// `trusted_proxies`: peers whose `X-Forwarded-For` is believed. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// `workers`: threads that serve requests. Default: the number of processors this process may use.
    pub workers: Option<NonZeroUsize>,
    /// `header_timeout`: a request's head must be complete by then. Default `10s`.
    pub header_timeout: Duration,
    /// `idle_timeout`: a connection without a request, or whose client takes nothing of its answers, is closed after this. Default `75s`.
    pub idle_timeout: Duration,
    /// `max_header_bytes`: of a request's head. Default `64KiB`, at least `8KiB`.
    pub max_header_bytes: usize,
    /// `max_connections`: over all workers; more are closed at once. Default 10,000.
    pub max_connections: usize,
    /// `max_concurrent_streams`: of one HTTP/2 connection. Default 100.
    pub max_concurrent_streams: u32,
    /// `drain_wait`: after SIGTERM, how long to go on accepting while not ready. Default `5s`.
    pub drain_wait: Duration,
    /// `drain_deadline`: after that, how long running requests may take to end. Default `30s`.
    pub drain_deadline: Duration,
}

/// `[admin]`: `/healthz`, `/readyz` and `/metrics`, on a listener of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// `listen`: an address, or the word `off`. Default `127.0.0.1:9901`.
    pub listen: Option<SocketAddr>,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `level`: a `tracing` filter such as `info` or `postern=debug`. Default `info`.
    pub level: String,
    /// `format`: `text` or `json`. Default `text`. Of the log on standard error; access lines are always JSON.
    pub format: LogFormat,
    /// `access`: `"stdout"`, `"off"` or `{ file = "PATH" }`. Default `"stdout"`.
    pub access: LogPlace,
    /// `audit`: one JSON line for each change of a user's status and each act of an operator; `"stdout"`, `"off"` or
    /// `{ file = "PATH" }`. Default `"stdout"`.
    pub audit: LogPlace,
    /// `traces`: absent where it is `"off"`, the default.
    pub traces: Option<Traces>,
}

/// The form of the operator's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the lines of a log go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPlace {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file, which is opened again on SIGHUP.
    File(PathBuf),
}

pub(super) const ADDRESS: Kind = Kind::Text("an IP address and a port");

/// `[server]`.
pub(super) static SERVER: Table = Table::of(&[
    Key::default(
        "listen",
        Kind::OneOrMany(&ADDRESS),
        "\"127.0.0.1:8080\"",
        "Where requests are taken. Port 0 takes a free port.",
    )
    .example("[\"0.0.0.0:8443\", \"[::]:8443\"]"),
    Key::optional(
        "tls",
        Kind::Table(&SERVER_TLS),
        "clear text: HTTP/1.1, and HTTP/2 with prior knowledge",
        "TLS 1.2 and 1.3; HTTP/2 where the client negotiates it.",
    ),
    Key::default(
        "trusted_proxies",
        Kind::list_or_empty(&Kind::Text("a network")),
        "[]",
        "Peers whose `X-Forwarded-For` is believed.",
    )
    .example("[\"10.0.0.0/8\"]"),
    Key::optional(
        "workers",
        Kind::Integer { least: 1, most: 1024 },
        "the number of processors that the process may use",
        "Threads that serve requests.",
    )
    .example("4"),
    Key::default("header_timeout", Kind::DURATION, "\"10s\"", "A request's head must be complete by then."),
    Key::default(
        "idle_timeout",
        Kind::DURATION,
        "\"75s\"",
        "A connection without a request, or whose client takes nothing of its answers, is closed after this.",
    ),
    Key::default(
        "max_header_bytes",
        Kind::Size { least: 8 << 10, most: 1 << 20 },
        "\"64KiB\"",
        "How large a request's head may be.",
    ),
    Key::default(
        "max_connections",
        Kind::Integer { least: 1, most: 10_000_000 },
        "10000",
        "Connections over all workers; more are closed at once.",
    ),
    Key::default(
        "max_concurrent_streams",
        Kind::Integer { least: 1, most: 1_000_000 },
        "100",
        "Requests at a time on one HTTP/2 connection.",
    ),
    Key::default(
        "drain_wait",
        Kind::DURATION_OR_ZERO,
        "\"5s\"",
        "After SIGTERM, how long to go on accepting while not ready, until load balancers have noticed.",
    ),
    Key::default(
        "drain_deadline",
        Kind::DURATION_OR_ZERO,
        "\"30s\"",
        "After that, how long running requests may take to end.",
    ),
]);

/// `[admin]`.
pub(super) static ADMIN: Table = Table::of(&[Key::default(
    "listen",
    ADDRESS,
    "\"127.0.0.1:9901\"",
    "Where `/healthz`, `/readyz` and `/metrics` are served: an address, or the word `off`.",
)]);

/// `[log]`.
pub(super) static LOG: Table = Table::of(&[
    Key::default(
        "level",
        Kind::Text("a filter"),
        "\"info\"",
        "What is logged: `error`, `warn`, `info`, `debug` or `trace`, also by module.",
    )
    .example("\"info,postern::issuer=debug\""),
    Key::default(
        "format",
        Kind::word(&["text", "json"]),
        "\"text\"",
        "The form of the log on standard error. Access lines are always JSON.",
    ),
    Key::default(
        "access",
        Kind::WordOr(&["stdout", "off"], &PLACE),
        "\"stdout\"",
        "Where access lines go, one a request.",
    ),
    Key::default(
        "audit",
        Kind::WordOr(&["stdout", "off"], &PLACE),
        "\"stdout\"",
        "Where audit lines go, one for each change of a user's status and each act of an operator.",
    ),
    Key::default(
        "traces",
        Kind::WordOr(&["off"], &TRACES),
        "\"off\"",
        "Where the spans of sampled requests go, by OTLP over HTTP.",
    ),
]);

static PLACE: Table = Table::of(&[Key::required(
    "file",
    Kind::Path,
    "The file that lines are appended to. It is opened again on SIGHUP.",
)
.example("\"access.log\"")]);

impl Server {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.parse_all(section, "listen", web::socket_address);
        let trusted_proxies = reader.parse_all(section, "trusted_proxies", network);
        Some(Self {
            listen,
            tls: section.section("tls").and_then(|tls| ServerTls::read(tls, reader)),
            trusted_proxies,
            workers: section.integer("workers").and_then(NonZeroUsize::new),
            header_timeout: section.duration("header_timeout")?,
            idle_timeout: section.duration("idle_timeout")?,
            max_header_bytes: section.integer("max_header_bytes")?,
            max_connections: section.integer("max_connections")?,
            max_concurrent_streams: section.integer("max_concurrent_streams")?,
            drain_wait: section.duration("drain_wait")?,
            drain_deadline: section.duration("drain_deadline")?,
        })
    }
}

impl Admin {
    pub(super) fn read(section: &Section, server: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let listen = section.text("listen")?;
        if listen.value == "off" {
            return Some(Self { listen: None });
        }
        let address = reader.parse(section, "listen", web::socket_address)?;
        let public = server.texts("listen").find(|public| web::socket_address(public.value) == Ok(address));
        if let Some(public) = public.filter(|_| address.port() != 0) {
            let mistake = Mistake::at(listen.span, format!("`{address}` is a public listener already"));
            reader.note(
                mistake
                    .related(public.span, "given here")
                    .help("metrics are not for callers: give `admin.listen` an address of its own, or \"off\""),
            );
        }
        Some(Self { listen: Some(address) })
    }
}

impl Log {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let level = reader.parse(section, "level", level);
        let [access, audit] = ["access", "audit"].map(|key| LogPlace::read(section, key));
        if let (Some(LogPlace::File(one)), Some(LogPlace::File(other))) = (&access, &audit)
            && one == other
        {
            let mistake = Mistake::at(section.value_span("audit"), "access and audit lines go to the same file");
            reader
                .note(mistake.related(section.value_span("access"), "given here").help("give each a file of its own"));
        }
        let format = match section.text("format")?.value {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let traces = match section.section("traces") {
            Some(traces) => Some(Traces::read(traces, reader)?),
            None => section.text("traces").map(|_| None)?,
        };
        Some(Self { level: level?, format, access: access?, audit: audit?, traces })
    }
}

impl LogPlace {
    fn read(section: &Section, key: &str) -> Option<Self> {
        Some(match section.section(key) {
            Some(place) => Self::File(place.path("file")?),
            None if section.text(key)?.value == "off" => Self::Off,
            None => Self::Stdout,
        })
    }
}

/// Why a value of these sections is refused.
#[derive(Debug, thiserror::Error)]
enum ServerError {
    #[error("`{0}` is no network: write an address or a network such as `10.0.0.0/8`")]
    NoNetwork(String),
    #[error("`{0}` is no level: write `error`, `warn`, `info`, `debug`, `trace` or `off`, or TARGET=LEVEL")]
    NoLevel(String),
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, ServerError> {
    let net = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)));
    net.map_err(|_| ServerError::NoNetwork(text.to_owned()))
}

/// A filter of `tracing-subscriber`. It would take a mistyped level for a target and log all of it.
fn level(text: &str) -> Result<String, ServerError> {
    let refused = || ServerError::NoLevel(text.to_owned());
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !matches!(level.trim(), "error" | "warn" | "info" | "debug" | "trace" | "off") {
            return Err(refused());
        }
    }
    tracing_subscriber::EnvFilter::try_new(text).map_err(|_| refused())?;
    Ok(text.to_owned())
}

/// The address in `listen` of a section beside `[server]`. One that another listener has, of `others`, is a mistake with this help.
pub(super) fn further_listener(
    listen: &Placed<&str>,
    section: &Section,
    (others, help): (&[Placed<&str>], &str),
    reader: &mut Reader<'_>,
) -> Option<SocketAddr> {
    let address = reader.parse(section, "listen", web::socket_address)?;
    let other = others.iter().find(|other| web::socket_address(other.value) == Ok(address));
    if let Some(other) = other.filter(|_| address.port() != 0) {
        let mistake = Mistake::at(listen.span.clone(), format!("`{address}` is another listener already"));
        reader.note(mistake.related(other.span.clone(), "given here").help(help));
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_no_target() {
        for (text, is_ok) in
            [("info", true), ("warn,postern=debug", true), ("inof", false), ("", false), ("postern=", false)]
        {
            assert_eq!(level(text).is_ok(), is_ok, "{text}");
        }
    }

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(network("10.0.0.0/8").is_ok() && network("fd00::/8").is_ok() && network("proxy").is_err());
    }
}
