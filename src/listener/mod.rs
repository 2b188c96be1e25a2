//! Accepts connections and serves HTTP on them. It serves any service, and has never heard of tokens.

pub mod activity;
pub mod connection;
pub mod io;
mod linger;
pub mod tls;
mod unread;

use crate::config;
use activity::{Activities, Limits};
use connection::Service;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, Socket, Type};
use std::io as std_io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;
use tls::{ServerTls, Turns};
use tokio::net::TcpListener;

/// Connections that wait to be accepted, as far as the system allows.
const BACKLOG: i32 = 4096;

/// Opens one listening socket of a group that shares an address; the kernel spreads connections over the group.
///
/// # Errors
/// The address cannot be had.
pub fn bind(address: SocketAddr) -> std_io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What the listeners of one worker have in common.
#[derive(Debug)]
pub struct Listeners<S> {
    service: S,
    tls: Option<ServerTls>,
    handshakes: Turns,
    limits: Limits,
    activities: Rc<Activities>,
    open: Gauge,
    refused: Counter,
}

impl<S: Service> Listeners<S> {
    /// Listeners that hand requests to `service` and count connections in `open` and `refused`, which all workers share.
    pub fn new(server: &config::Server, tls: Option<ServerTls>, service: S, open: Gauge, refused: Counter) -> Rc<Self> {
        let limits = Limits::new(server);
        let activities = Rc::new(Activities::default());
        Rc::new(Self { service, tls, handshakes: Turns::default(), limits, activities, open, refused })
    }

    /// Accepts from one socket until dropped. Must run in a local runtime.
    ///
    /// # Errors
    /// The socket cannot be used at all.
    pub async fn run(self: Rc<Self>, socket: StdListener) -> std_io::Result<()> {
        let socket = TcpListener::from_std(socket)?;
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    if usize::try_from(self.open.get()).unwrap_or(0) >= self.limits.max_connections {
                        self.refused.inc();
                        continue;
                    }
                    // Answers are written whole; waiting for more would only delay them.
                    let _ = stream.set_nodelay(true);
                    tokio::task::spawn_local(Rc::clone(&self).serve(stream, peer.ip()));
                }
                Err(error) => {
                    // A client that went away, or no descriptor left; the latter needs a moment.
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Closes connections that take too long. Called on every tick.
    pub fn sweep(&self) {
        self.activities.sweep(&self.limits);
    }

    /// Lets connections end after the request they are at.
    pub fn drain(&self) {
        self.activities.drain();
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.activities.len()
    }
}
