//! `[server]`, `[admin]` and `[log]`.

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
    /// `idle_timeout`: a connection without a request is closed after this. Default `75s`.
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

/// `server.tls`: PEM files, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// `certificate`: the chain, leaf first.
    pub certificate: PathBuf,
    /// `key`: the private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
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
    pub access: AccessLog,
}

/// The form of the operator's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where access lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file, which is opened again on SIGHUP.
    File(PathBuf),
}
