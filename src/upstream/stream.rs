//! An open connection to an endpoint: bytes both ways, and how long it may be used.

use crate::base::tick;
use crate::config;
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::coop::unconstrained;
use tokio_rustls::client::TlsStream;

/// A connection to an endpoint.
#[derive(Debug)]
pub(super) struct Stream {
    io: Io,
    /// In a box, because most have no limit.
    life: Option<Box<Life>>,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The limits of a connection.
#[derive(Debug)]
pub(super) struct Life {
    term: Term,
    /// Its part of `max_connections`, given back when it is closed.
    _permit: Option<OwnedSemaphorePermit>,
}

/// How long a connection is used, and for how many requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    /// A tick of this thread.
    retire_at: u64,
    requests_left: u32,
}

impl Life {
    /// What the configuration says of a connection that is opened now. `random` spreads the ends of many over a tenth of their age.
    pub(super) fn new(
        config: &config::Upstream,
        random: u64,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<Box<Self>> {
        if config.max_connection_age.is_none() && config.max_requests_per_connection.is_none() && permit.is_none() {
            return None;
        }
        let retire_at = config.max_connection_age.map_or(u64::MAX, |age| {
            let ticks = tick::ticks(age);
            tick::count().saturating_add(ticks - random % (ticks / 10 + 1))
        });
        let requests_left = config.max_requests_per_connection.unwrap_or(u32::MAX);
        Some(Box::new(Self { term: Term { retire_at, requests_left }, _permit: permit }))
    }
}

impl Term {
    const ENDLESS: Self = Self { retire_at: u64::MAX, requests_left: u32::MAX };

    /// Counts a request; false if it is the last.
    pub(super) fn count(&mut self) -> bool {
        self.requests_left = self.requests_left.saturating_sub(1);
        self.requests_left > 0 && !self.is_over()
    }

    /// Whether it is too old.
    pub(super) fn is_over(&self) -> bool {
        tick::count() >= self.retire_at
    }
}

impl Stream {
    pub(super) fn plain(io: TcpStream) -> Self {
        Self { io: Io::Plain(io), life: None }
    }

    pub(super) fn unix(io: UnixStream) -> Self {
        Self { io: Io::Unix(io), life: None }
    }

    pub(super) fn tls(io: TlsStream<TcpStream>) -> Self {
        Self { io: Io::Tls(Box::new(io)), life: None }
    }

    pub(super) fn with(self, life: Option<Box<Life>>) -> Self {
        Self { life, ..self }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.io, Io::Tls(_))
    }

    /// How long it may be used.
    pub(super) fn term(&self) -> Term {
        self.life.as_ref().map_or(Term::ENDLESS, |life| life.term)
    }

    /// Counts a request that it has carried; whether it may carry another.
    pub(super) fn count(&mut self) -> bool {
        self.life.as_mut().is_none_or(|life| life.term.count())
    }

    /// Whether it is too old for another request.
    pub(super) fn is_over(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.term.is_over())
    }

    /// Whether an idle connection is still open and has sent nothing. Costs no system call while the runtime has
    /// seen nothing happen on the socket; what arrived since it last looked is missed.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let read = match &mut self.io {
            Io::Plain(tcp) => tcp.try_read(&mut byte),
            Io::Unix(unix) => unix.try_read(&mut byte),
            Io::Tls(tls) => {
                let mut buf = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                // Without a budget: a task that has used its own up would be told that nothing is there.
                let look = unconstrained(std::future::poll_fn(|cx| Pin::new(&mut **tls).poll_read(cx, &mut buf)));
                return pin!(look).poll(&mut cx).is_pending();
            }
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, asked of the system itself: for requests that cannot be sent twice.
    pub(super) fn is_quiet_for_sure(&mut self) -> bool {
        let socket = match &self.io {
            Io::Plain(tcp) => tcp.as_fd(),
            Io::Unix(unix) => unix.as_fd(),
            Io::Tls(tls) => tls.get_ref().0.as_fd(),
        };
        let peeked = SockRef::from(&socket).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock) && self.is_quiet()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
