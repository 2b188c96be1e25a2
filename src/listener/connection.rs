//! Serves one connection: TLS, the choice of protocol, then hyper.

use super::Listeners;
use super::activity::{Activity, InFlight};
use super::io::{ClientIo, detect_http2};
use super::linger::Remains;
use crate::base::tick::Deadline;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Answers requests. Cheap to clone; lives on one thread.
pub trait Service: Clone + 'static {
    /// What all requests of a connection have in common.
    type Connection: 'static;
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static;

    /// A new connection.
    fn connect(&self, peer: IpAddr, is_tls: bool) -> Rc<Self::Connection>;

    /// Answers one request.
    fn call(
        self,
        connection: Rc<Self::Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>>;
}

/// Runs hyper's HTTP/2 tasks on this thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

impl<S: Service> Listeners<S> {
    /// Serves one connection to its end.
    pub(super) async fn serve(self: Rc<Self>, stream: TcpStream, peer: IpAddr) {
        let _open = Open::new(&self.open);
        let listed = self.activities.add();
        let connection = self.service.connect(peer, self.tls.is_some());
        match &self.tls {
            None => self.serve_http(stream, None, connection, &listed.activity).await,
            Some(tls) => match Deadline::after(self.limits.header_timeout).bound(tls.accept(stream)).await {
                Some(Ok(stream)) => {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    self.serve_http(stream, Some(is_http2), connection, &listed.activity).await;
                }
                Some(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                None => tracing::debug!(%peer, "TLS handshake timed out"),
            },
        }
    }

    async fn serve_http<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        mut io: T,
        is_http2: Option<bool>,
        connection: Rc<S::Connection>,
        activity: &Arc<Activity>,
    ) {
        let (is_http2, prefix) = match is_http2 {
            Some(is_http2) => (is_http2, Bytes::new()),
            None => match Deadline::after(self.limits.header_timeout).bound(detect_http2(&mut io)).await {
                Some(Ok(detected)) => detected,
                Some(Err(_)) | None => return,
            },
        };
        let remains = Remains::default();
        let io = TokioIo::new(ClientIo::new(io, prefix, Arc::clone(activity), remains.clone()));
        let (service, guard) = (self.service.clone(), Arc::clone(activity));
        let service = service_fn(move |request| {
            let guard = guard.begin();
            let (service, connection) = (service.clone(), Rc::clone(&connection));
            async move {
                let answer = service.call(connection, request).await;
                Ok::<_, Infallible>(answer.map(|body| Guarded { body, _guard: guard }))
            }
        });
        if is_http2 {
            activity.set_http2();
            let mut server = http2::Builder::new(LocalExecutor);
            server
                .max_concurrent_streams(self.limits.max_concurrent_streams)
                .max_header_list_size(u32::try_from(self.limits.max_header_bytes).unwrap_or(u32::MAX))
                .max_pending_accept_reset_streams(20);
            watch(server.serve_connection(io, service), activity, http2::Connection::graceful_shutdown).await;
        } else {
            let mut server = http1::Builder::new();
            server.header_read_timeout(None).max_header_size(self.limits.max_header_bytes);
            let serving = server.serve_connection(io, service).with_upgrades();
            watch(serving, activity, http1::UpgradeableConnection::graceful_shutdown).await;
        }
        // Whoever was too slow is not waited for once more.
        if !activity.is_overdue() {
            remains.linger().await;
        }
    }
}

/// Drives a connection until it ends, is overdue, or has drained.
async fn watch<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    activity: &Activity,
    drain: impl FnOnce(Pin<&mut C>),
) {
    let mut connection = std::pin::pin!(connection);
    let mut drain = Some(drain);
    std::future::poll_fn(|cx| {
        activity.register(cx);
        if activity.is_overdue() {
            return Poll::Ready(());
        }
        if activity.is_draining()
            && let Some(drain) = drain.take()
        {
            drain(connection.as_mut());
        }
        // How a client's connection ends is the client's affair; what mattered is in the access log.
        connection.as_mut().poll(cx).map(|_| ())
    })
    .await;
}

/// An answer's body, whose end is the end of the request.
#[derive(Debug)]
struct Guarded<B> {
    body: B,
    _guard: InFlight,
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts an open connection.
struct Open<'a>(&'a prometheus_client::metrics::gauge::Gauge);

impl<'a> Open<'a> {
    fn new(open: &'a prometheus_client::metrics::gauge::Gauge) -> Self {
        open.inc();
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
