//! Connections: names resolved, TCP opened, TLS agreed upon.

use crate::base::tick::Deadline;
use crate::base::tls;
use crate::config;
use crate::upstream::endpoint::{Address, Endpoint};
use crate::upstream::stream::Stream;
use crate::upstream::{SendError, Upstream, UpstreamError};
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name of the host is not known.
    #[error("`{host}` cannot be resolved")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// None of the addresses takes connections.
    #[error("`{address}` refuses connections")]
    Tcp {
        /// The last address that was tried.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket in the file system takes no connections.
    #[error("`{path}` takes no connections")]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("the TLS handshake with `{host}` failed")]
    Tls {
        /// The name that it has to have.
        host: String,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// HTTP/2 was demanded, but TLS did not negotiate it.
    #[error("`{host}` does not speak HTTP/2")]
    NoHttp2 {
        /// The name that it has to have.
        host: String,
    },
    /// The HTTP/2 preface failed.
    #[error("the HTTP/2 handshake failed")]
    Http2(#[source] hyper::Error),
    /// Another request's attempt, which this one was waiting for, failed.
    #[error("the connection that another request was opening failed")]
    Shared,
}

/// What TLS towards one upstream needs.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    /// Offers what `protocol` allows.
    preferred: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only, for upgrades.
    http1: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new(config: &config::Upstream) -> Result<Self, UpstreamError> {
        let alpn: &[&[u8]] = match config.protocol {
            config::Protocol::Http1 => &[b"http/1.1"],
            config::Protocol::Http2 => &[b"h2"],
            config::Protocol::Auto => &[b"h2", b"http/1.1"],
        };
        let client_cert = config.tls.certificate.as_deref().zip(config.tls.key.as_deref());
        let preferred = tls::client_config(config.tls.ca.as_deref(), client_cert, alpn)
            .map_err(|source| UpstreamError::Tls { name: config.name.clone(), source: Box::new(source) })?;
        let mut http1 = ClientConfig::clone(&preferred);
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { preferred, http1: Arc::new(http1) })
    }
}

/// The protocol that a fresh connection is to be spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// Opens a connection within `connect_timeout`; with `only_http1`, one on which an upgrade can be asked for.
pub(super) async fn connect(
    upstream: &Upstream,
    endpoint: &Endpoint,
    only_http1: bool,
) -> Result<(Stream, Spoken), SendError> {
    let limit = upstream.config.connect_timeout;
    let outcome = match Deadline::after(limit).bound(open(upstream, endpoint, only_http1)).await {
        Some(outcome) => outcome.map_err(SendError::Unreachable),
        None => Err(SendError::ConnectTimeout(limit)),
    };
    if outcome.is_err() {
        upstream.shared.metrics.connect_failures.inc();
        // Who is asked for by name may be elsewhere by now.
        upstream.endpoints.stale.notify_one();
    }
    outcome
}

/// The same without a limit of time.
pub(super) async fn open(
    upstream: &Upstream,
    endpoint: &Endpoint,
    only_http1: bool,
) -> Result<(Stream, Spoken), ConnectError> {
    let config = &*upstream.config;
    let prior = if config.protocol == config::Protocol::Http2 { Spoken::Http2 } else { Spoken::Http1 };
    let tcp = match &endpoint.address {
        Address::Socket(address) => open_address(*address).await?,
        Address::Name { host, port } => open_name(host, *port, config.connect_timeout).await?,
        Address::Unix(path) => return Ok((Stream::unix(open_unix(path).await?), prior)),
    };
    let (Some(tls), Some(server_name)) = (&upstream.tls, &endpoint.server_name) else {
        return Ok((Stream::plain(tcp), prior));
    };
    let host = || server_name.to_str().into_owned();
    let client = if only_http1 { &tls.http1 } else { &tls.preferred };
    let stream = TlsConnector::from(client.clone())
        .connect(server_name.clone(), tcp)
        .await
        .map_err(|source| ConnectError::Tls { host: host(), source })?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if config.protocol == config::Protocol::Http2 && !is_http2 {
        return Err(ConnectError::NoHttp2 { host: host() });
    }
    Ok((Stream::tls(stream), if is_http2 { Spoken::Http2 } else { Spoken::Http1 }))
}

/// Tries each address of the host in turn. Each has a fair share of the time, the last one all that is left, so that one
/// that swallows packets does not hide the next.
async fn open_name(host: &str, port: u16, limit: Duration) -> Result<TcpStream, ConnectError> {
    let unresolved = |source| ConnectError::Resolve { host: host.to_owned(), source };
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await.map_err(unresolved)?.collect();
    let Some((last, others)) = addresses.split_last() else {
        return Err(unresolved(io::ErrorKind::NotFound.into()));
    };
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in others {
        // No coarse deadline, which would keep this to a worker.
        if let Ok(Ok(stream)) = tokio::time::timeout(share, open_address(*address)).await {
            return Ok(stream);
        }
    }
    open_address(*last).await
}

async fn open_address(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Tcp { address, source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    // A peer that vanished without a word is noticed, also while a stream is silent for good reason.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(45)).with_interval(Duration::from_secs(15));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
    Ok(stream)
}

async fn open_unix(path: &Path) -> Result<UnixStream, ConnectError> {
    UnixStream::connect(path).await.map_err(|source| ConnectError::Unix { path: path.to_owned(), source })
}
