//! Serves one connection: TLS, the choice of protocol, then hyper.

use super::Listeners;
use super::activity::{Activity, InFlight};
use super::io::{ClientIo, detect_http2};
use super::linger::Remains;
use crate::base::tick::Deadline;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
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
use std::task::{Poll, Waker};
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

    /// Answers one request. The body holds `in_flight`, which tells the end of the answer.
    fn call(
        self,
        connection: Rc<Self::Connection>,
        request: Request<Incoming>,
        in_flight: InFlight,
    ) -> impl Future<Output = Result<Response<Self::Body>, Infallible>>;
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
        let (service, begun) = (self.service.clone(), Arc::clone(activity));
        let service = service_fn(move |request| service.clone().call(Rc::clone(&connection), request, begun.begin()));
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
    let mut registered: Option<Waker> = None;
    std::future::poll_fn(|cx| {
        // Nearly always the waker is the one of the poll before.
        if !registered.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            registered = Some(cx.waker().clone());
            activity.register(cx);
        }
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
