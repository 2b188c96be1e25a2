//! Upstreams that do what they are told, wrong things included, behind real sockets.
//!
//! Where limits of time are tested, time is paused: it jumps to the next tick whenever nothing can move.

mod balance;
mod farewell;
mod framing;
mod http2;
mod limits;
mod of_namespace;
mod parted;
mod repeat;
mod retry;
mod reuse;
mod timeouts;
mod tls;
mod upgrade;
mod upkeep;
mod upload;

use crate::base::tick::TICK;
use crate::config;
use crate::telemetry::upstreams::UpstreamMetrics;
use crate::upstream::{Answer, OutgoingRequest, Pools, RequestBody, SendError, Upstream};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a test the way a worker runs: tasks that stay on the thread, and a tick.
pub(super) async fn on_worker<T>(test: impl AsyncFnOnce() -> T) -> T {
    LocalSet::new()
        .run_until(async {
            spawn_local(crate::base::tick::run());
            spawn_local(pace());
            Box::pin(test()).await
        })
        .await
}

/// Keeps paused time from outrunning the kernel: it stands still while a blocking task runs, so that each tick leaves
/// what is on its way between two sockets the time to arrive.
async fn pace() {
    loop {
        tokio::time::sleep(TICK).await;
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_micros(200))).await;
    }
}

/// One connection as a fake upstream sees it.
pub(super) struct Peer {
    pub(super) io: TcpStream,
    /// Which connection it is, from 0.
    pub(super) number: usize,
}

impl Peer {
    /// The next head, without the empty line; `None` if the connection ends instead.
    pub(super) async fn read_head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.io.read_u8().await.ok()?);
        }
        Some(String::from_utf8(head).unwrap().trim_end().to_owned())
    }

    pub(super) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // A gateway that has seen enough may have closed the connection.
        let _ = self.io.write_all(bytes.as_ref()).await;
    }

    /// All that still comes.
    pub(super) async fn read_rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.io.read_to_end(&mut rest).await;
        rest
    }
}

/// A fake upstream: every connection is given to `serve`.
pub(super) struct Fake {
    pub(super) port: u16,
    connections: Rc<Cell<usize>>,
    pub(super) notes: Rc<RefCell<Vec<String>>>,
}

impl Fake {
    pub(super) async fn start<F: Future<Output = ()> + 'static>(serve: impl Fn(Peer, Notes) -> F + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fake = Self { port, connections: Rc::default(), notes: Rc::default() };
        let (connections, notes) = (fake.connections.clone(), fake.notes.clone());
        spawn_local(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                io.set_nodelay(true).unwrap();
                let number = connections.replace(connections.get() + 1);
                spawn_local(serve(Peer { io, number }, Notes(notes.clone())));
            }
        });
        fake
    }

    /// Answers every request with the same bytes, and notes each head.
    pub(super) async fn canned(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Rc::new(answer.into());
        Self::start(move |mut peer, notes| {
            let answer = answer.clone();
            async move {
                while let Some(head) = peer.read_head().await {
                    notes.add(head);
                    peer.write(&*answer).await;
                }
                notes.add("end");
            }
        })
        .await
    }

    /// Takes connections and does nothing with them.
    pub(super) async fn silent() -> Self {
        Self::start(|peer, _| async move {
            let _open = peer;
            std::future::pending().await
        })
        .await
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    /// Waits for a note.
    pub(super) async fn noted(&self, wanted: &str) {
        while !self.notes.borrow().iter().any(|note| note == wanted) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn upstream(&self) -> Arc<Upstream> {
        self.upstream_with(|_| {})
    }

    pub(super) fn upstream_with(&self, change: impl FnOnce(&mut config::Upstream)) -> Arc<Upstream> {
        let mut config = config::Upstream {
            name: "fake".to_owned(),
            targets: vec![self.target()],
            is_tls: false,
            audience: "fake".to_owned(),
            protocol: config::Protocol::Auto,
            tls: config::UpstreamTls::default(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: RESPONSE_TIMEOUT,
            idle_timeout: Duration::from_secs(300),
            max_idle_connections: 128,
            upgrades: vec![config::Upgrade::WebSocket],
            max_connection_age: None,
            max_requests_per_connection: None,
            dns_refresh: Duration::from_secs(30),
            health_check: None,
            outlier_detection: None,
            slow_start: Duration::ZERO,
            retry: None,
            circuit_breaker: config::CircuitBreaker::default(),
        };
        change(&mut config);
        Arc::new(Upstream::new(Arc::new(config), UpstreamMetrics::default()).unwrap())
    }

    pub(super) fn target(&self) -> config::Target {
        at("127.0.0.1", self.port)
    }
}

pub(super) fn at(host: &str, port: u16) -> config::Target {
    config::Target::Host { host: host.to_owned(), port }
}

/// What a fake upstream has to tell the test.
#[derive(Clone)]
pub(super) struct Notes(Rc<RefCell<Vec<String>>>);

impl Notes {
    pub(super) fn add(&self, note: impl Into<String>) {
        self.0.borrow_mut().push(note.into());
    }
}

/// A request that is to be sent.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) host: HeaderValue,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) body: RequestBody,
}

impl Call {
    pub(super) async fn send(
        self,
        pools: &Pools,
        upstream: &Arc<Upstream>,
        answer_fields: &mut HeaderMap,
    ) -> Result<Answer, SendError> {
        let request = OutgoingRequest {
            method: &self.method,
            target: &self.target,
            host: &self.host,
            fields: &self.fields,
            upgrade: self.upgrade.as_ref(),
        };
        pools.send(upstream, &request, self.body, answer_fields, RESPONSE_TIMEOUT).await
    }
}

pub(super) fn request(method: Method, target: &str) -> Call {
    Call {
        method,
        target: target.parse().unwrap(),
        host: "orders.example".parse().unwrap(),
        fields: Vec::new(),
        upgrade: None,
        body: RequestBody::Empty,
    }
}

pub(super) fn get(target: &str) -> Call {
    request(Method::GET, target)
}

/// A response read to its end.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

/// Sends, and reads the answer to its end; the error's chain as a text where it fails.
pub(super) async fn fetch(pools: &Pools, upstream: &Arc<Upstream>, request: Call) -> Result<Whole, String> {
    let response = respond(pools, upstream, request).await.map_err(|error| chain(&error))?;
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.map_err(|error| chain(&error))?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(Whole { status: parts.status, fields: parts.headers, body: collected.to_bytes(), trailers })
}

pub(super) async fn respond(
    pools: &Pools,
    upstream: &Arc<Upstream>,
    request: Call,
) -> Result<Response<crate::upstream::Body>, SendError> {
    let mut fields = HeaderMap::new();
    match request.send(pools, upstream, &mut fields).await? {
        Answer::Response { status, body } => {
            let mut response = Response::new(body);
            *response.status_mut() = status;
            *response.headers_mut() = fields;
            Ok(response)
        }
        Answer::Switched(_) => panic!("switched without being asked to"),
    }
}

/// An error and its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
