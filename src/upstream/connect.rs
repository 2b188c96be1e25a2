//! Connections: names resolved, TCP opened, TLS agreed upon.

use crate::base::tick::Deadline;
use crate::base::tls;
use crate::config;
use crate::upstream::{SendError, Upstream, UpstreamError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
    /// The TLS handshake failed.
    #[error("the TLS handshake with `{host}` failed")]
    Tls {
        /// The host of `to`.
        host: String,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// HTTP/2 was demanded, but TLS did not negotiate it.
    #[error("`{host}` does not speak HTTP/2")]
    NoHttp2 {
        /// The host of `to`.
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
#[derive(Debug)]
pub(super) struct Tls {
    /// Offers what `protocol` allows.
    preferred: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only, for upgrades.
    http1: Arc<ClientConfig>,
    server_name: ServerName<'static>,
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
        Ok(Self { preferred, http1: Arc::new(http1), server_name: server_name(config)? })
    }

    /// The same towards another host.
    pub(super) fn to_host_of(&self, config: &config::Upstream) -> Result<Self, UpstreamError> {
        let (preferred, http1) = (Arc::clone(&self.preferred), Arc::clone(&self.http1));
        Ok(Self { preferred, http1, server_name: server_name(config)? })
    }
}

/// The name to verify.
fn server_name(config: &config::Upstream) -> Result<ServerName<'static>, UpstreamError> {
    let server_name = config.tls.server_name.as_ref().unwrap_or(&config.host);
    ServerName::try_from(server_name.clone())
        .map_err(|_| UpstreamError::ServerName { name: config.name.clone(), server_name: server_name.clone() })
}

/// A connection to an upstream.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The protocol that a fresh connection is to be spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// Opens a connection within `connect_timeout`; with `only_http1`, one on which an upgrade can be asked for.
pub(super) async fn connect(upstream: &Upstream, only_http1: bool) -> Result<(Stream, Spoken), SendError> {
    let limit = upstream.config.connect_timeout;
    match Deadline::after(limit).bound(open(upstream, only_http1)).await {
        Some(outcome) => outcome.map_err(SendError::Unreachable),
        None => Err(SendError::ConnectTimeout(limit)),
    }
}

async fn open(upstream: &Upstream, only_http1: bool) -> Result<(Stream, Spoken), ConnectError> {
    let tcp = open_tcp(upstream).await?;
    let config = &*upstream.config;
    let Some(tls) = &upstream.tls else {
        let spoken = if config.protocol == config::Protocol::Http2 { Spoken::Http2 } else { Spoken::Http1 };
        return Ok((Stream::Plain(tcp), spoken));
    };
    let client = if only_http1 { &tls.http1 } else { &tls.preferred };
    let stream = TlsConnector::from(client.clone())
        .connect(tls.server_name.clone(), tcp)
        .await
        .map_err(|source| ConnectError::Tls { host: config.host.clone(), source })?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if config.protocol == config::Protocol::Http2 && !is_http2 {
        return Err(ConnectError::NoHttp2 { host: config.host.clone() });
    }
    Ok((Stream::Tls(Box::new(stream)), if is_http2 { Spoken::Http2 } else { Spoken::Http1 }))
}

/// Tries each address of the host in turn. Each has a fair share of the time, the last one all that is left, so that one
/// that swallows packets does not hide the next.
async fn open_tcp(upstream: &Upstream) -> Result<TcpStream, ConnectError> {
    let config = &*upstream.config;
    if let Some(address) = upstream.address {
        return open_address(address).await;
    }
    let unresolved = |source| ConnectError::Resolve { host: config.host.clone(), source };
    let addresses: Vec<_> =
        tokio::net::lookup_host((config.host.as_str(), config.port)).await.map_err(unresolved)?.collect();
    let Some((last, others)) = addresses.split_last() else {
        return Err(unresolved(io::ErrorKind::NotFound.into()));
    };
    let share = config.connect_timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in others {
        if let Some(Ok(stream)) = Deadline::after(share).bound(open_address(*address)).await {
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

impl Stream {
    /// Whether an idle connection is still open and has sent nothing. Costs no system call while the runtime has
    /// seen nothing happen on the socket; what arrived since it last looked is missed.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        match self {
            Self::Plain(tcp) => {
                matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(tls) => {
                let mut buf = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                // Without a budget: a task that has used its own up would be told that nothing is there.
                let look = unconstrained(std::future::poll_fn(|cx| Pin::new(&mut **tls).poll_read(cx, &mut buf)));
                pin!(look).poll(&mut cx).is_pending()
            }
        }
    }

    /// The same, asked of the system itself: for requests that cannot be sent twice.
    pub(super) fn is_quiet_for_sure(&mut self) -> bool {
        let tcp = match self {
            Self::Plain(tcp) => &*tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        let peeked = SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock) && self.is_quiet()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
