//! `[upstream.NAME]`: the services that requests are forwarded to.

use std::path::PathBuf;
use std::time::Duration;

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// NAME of `[upstream.NAME]`; routes, logs and metrics use it.
    pub name: String,
    /// From `to`, such as `http://orders.sales.svc:8080`: whether it is `https://`.
    pub is_tls: bool,
    /// From `to`: the host name or address (IPv6 without brackets).
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
