//! The services behind the gateway: connections to them, requests to them, and their answers.
//!
//! [`Pools::send`] takes an [`OutgoingRequest`] and gives an [`Answer`]. HTTP/1.1 is spoken by a client of our own
//! that reads and writes the socket inside the caller's task: no task of its own, no channel, no second wake-up.
//! HTTP/2 is hyper's. A [`Pools`] belongs to one worker thread; only [`Upstream`] is shared between workers.
//!
//! What an upstream sends is judged as strictly as what a client sends: whatever could be framed in two ways is
//! refused, and a connection that carried it is closed.

mod balance;
mod body;
mod connect;
mod cut;
mod endpoint;
mod endpoints;
mod farewell;
mod fields;
mod group;
mod handshake;
mod http1;
mod http2;
mod limits;
mod of_namespace;
mod parted;
mod parts;
mod patience;
mod pool;
mod pools;
mod request;
mod stream;
#[cfg(test)]
mod tests;
mod tunnel;
mod upkeep;
pub mod websocket;

pub use body::{Body, BodyError};
pub use connect::ConnectError;
pub use cut::Cut;
pub use endpoint::State;
pub use fields::is_forbidden_trailer;
pub use handshake::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, accept_for, new_key};
pub use http1::{
    Chunk, ChunkDecoder, ChunkError, Framing, HeadError, Http1Body, LineError, ResponseHead, parse_response_head,
};
pub use http2::Http2Body;
pub use limits::Limit;
pub use parted::{CallDeadline, Parted, tell_grpc};
pub use parts::is_grpc;
pub use pool::is_idempotent;
pub use pools::Pools;
pub use request::{KeepTrailer, OutgoingRequest, RequestBody, RequestBodyError};
pub use tunnel::{Upgraded, tunnel};

use crate::base::tls::TlsError;
use crate::config;
use crate::telemetry::upstreams::UpstreamMetrics;
use endpoints::Endpoints;
use http::{HeaderValue, StatusCode};
use limits::Shared;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One upstream as the configuration describes it, ready to be connected to. Shared by all workers.
#[derive(Debug)]
pub struct Upstream {
    /// What the file says.
    pub config: Arc<config::Upstream>,
    /// `Host` of requests to it: the authority of `to`, without the scheme's default port. Of several each endpoint has its own.
    pub host: HeaderValue,
    /// Tells the pools of this configuration from those of the one before a reload.
    id: u64,
    /// Whether the host holds a variable: then only [`Pools::of_namespace`] gives one that can be connected to.
    pub follows_user: bool,
    endpoints: Endpoints,
    shared: Arc<Shared>,
    tls: Option<connect::Tls>,
}

/// Why an upstream cannot be made from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// A certificate, key or list of authorities is unusable.
    #[error("TLS of upstream `{name}`")]
    Tls {
        /// Its name.
        name: String,
        /// What is wrong with which file.
        #[source]
        source: Box<TlsError>,
    },
    /// The name to verify is neither a DNS name nor an address.
    #[error("`{server_name}`, the server name of upstream `{name}`, is no host name")]
    ServerName {
        /// Name of the upstream.
        name: String,
        /// What cannot be verified.
        server_name: String,
    },
    /// The host cannot be sent in a `Host` field.
    #[error("`{host}`, the host of upstream `{name}`, is no host name")]
    Host {
        /// Name of the upstream.
        name: String,
        /// What cannot be sent.
        host: String,
    },
}

impl Upstream {
    /// Reads the certificates it needs; opens no connection.
    ///
    /// # Errors
    /// A file that cannot be used, a host that is none.
    pub fn new(config: Arc<config::Upstream>, metrics: UpstreamMetrics) -> Result<Self, UpstreamError> {
        let tls = if config.is_tls { Some(connect::Tls::new(&config)?) } else { None };
        if let Some(sample) = config.of_namespace("namespace").filter(|_| config.follows_user()) {
            // What can be wrong with a host is the same for all namespaces.
            Endpoints::new(&sample)?;
        }
        let shared = Arc::new(Shared::new(&config, metrics));
        Self::with(config, tls, shared)
    }

    /// That of one namespace, where the host follows the user; `None` if that is no RFC 1123 label.
    fn of_namespace(&self, namespace: &str) -> Result<Option<Self>, UpstreamError> {
        let Some(config) = self.config.of_namespace(namespace) else { return Ok(None) };
        Self::with(Arc::new(config), self.tls.clone(), Arc::clone(&self.shared)).map(Some)
    }

    fn with(
        config: Arc<config::Upstream>,
        tls: Option<connect::Tls>,
        shared: Arc<Shared>,
    ) -> Result<Self, UpstreamError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let endpoints = Endpoints::new(&config)?;
        let host = endpoints.current().first().map_or(HeaderValue::from_static(""), |first| first.host.clone());
        let follows_user = config.follows_user();
        Ok(Self { host, id: NEXT_ID.fetch_add(1, Ordering::Relaxed), follows_user, endpoints, shared, tls, config })
    }

    /// Goes on with what is known about the same endpoints before a reload.
    pub fn adopt(&self, former: &Self) {
        self.endpoints.adopt(&self.config, &former.endpoints, &former.config);
    }

    /// How many endpoints are in which state, in the order of [`State::ALL`].
    pub fn states(&self) -> [usize; 3] {
        let (now, all) = (Instant::now(), self.endpoints.current());
        State::ALL.map(|state| all.iter().filter(|endpoint| endpoint.health.state(now) == state).count())
    }
}

/// What an upstream said to a request, but for its fields.
#[derive(Debug)]
pub enum Answer {
    /// A response.
    Response {
        /// Its status.
        status: StatusCode,
        /// Its body, as it comes.
        body: Body,
    },
    /// It agreed to the upgrade that was asked for: 101, or 200 over HTTP/2. The connection, or stream, is to be joined with the
    /// client's by [`tunnel`].
    Switched(Upgraded),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No endpoint of it is healthy, so none was asked.
    #[error("no endpoint of the upstream is healthy")]
    Unavailable,
    /// There is as much going on with it as its circuit breaker lets.
    #[error("`circuit_breaker.{}` of the upstream is reached", .0.key())]
    Overloaded(Limit),
    /// No connection could be made.
    #[error("the upstream cannot be reached")]
    Unreachable(#[source] ConnectError),
    /// A connection took longer than `connect_timeout`, TLS included.
    #[error("no connection to the upstream within {0:?}")]
    ConnectTimeout(Duration),
    /// The head of the answer did not come in time, or the upstream stopped taking the request.
    #[error("no answer from the upstream within {0:?}")]
    Timeout(Duration),
    /// The connection broke, or what came is not acceptable.
    #[error("the upstream failed")]
    Failed(#[source] Failure),
    /// The request's own body could not be passed on: it is the client's fault.
    #[error("the body of the request cannot be passed on")]
    RequestBody(#[source] RequestBodyError),
}

/// How an upstream failed a request.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Reading or writing failed.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// It closed the connection without a whole head.
    #[error("the connection was closed before the answer")]
    Closed,
    /// It sent a head that is refused.
    #[error("the head of the answer is refused")]
    Head(#[from] HeadError),
    /// The HTTP/2 connection or stream failed.
    #[error("the HTTP/2 exchange failed")]
    Http2(#[source] hyper::Error),
    /// A protocol upgrade other than a WebSocket's was asked of an upstream that is spoken to in HTTP/2.
    #[error("HTTP/2 has no protocol upgrade")]
    UpgradeOverHttp2,
    /// A WebSocket was asked of an upstream that is spoken to in HTTP/2 and did not say that it takes any (RFC 8441 §3).
    #[error("the upstream takes no WebSocket over HTTP/2")]
    NoWebSocketOverHttp2,
    /// The `Host` of the request is no authority, which HTTP/2 needs.
    #[error("`{0:?}` is no authority")]
    Authority(HeaderValue),
}
