//! Serves one connection: TLS, the choice of protocol, then hyper.

use super::Listeners;
use super::activity::{Activity, InFlight, Wanted};
use super::io::{ClientIo, detect_http2};
use super::linger::Remains;
use super::tls::ServerTls;
use super::unread::Unread;
use crate::base::tick::Deadline;
use crate::base::tls::Asked;
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

    /// Whether clients of HTTP/2 may ask for WebSockets (RFC 8441 §3).
    fn takes_websockets(&self) -> bool;

    /// A new connection, and what came of asking for a certificate, where that was done.
    fn connect(&self, peer: IpAddr, is_tls: bool, asked: Option<Box<Asked>>) -> Rc<Self::Connection>;

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
        match &self.tls {
            None => {
                let connection = self.service.connect(peer, false, None);
                self.serve_http(stream, None, connection, &listed.activity).await;
            }
            // In a box, like all that only some connections need: the room for it would be that of each.
            Some(tls) => Box::pin(self.serve_tls(tls, stream, peer, &listed.activity)).await,
        }
    }

    async fn serve_tls(&self, tls: &ServerTls, stream: TcpStream, peer: IpAddr, activity: &Arc<Activity>) {
        let handshake = async {
            stream.readable().await?;
            self.handshakes.take(tls.accept(stream)).await
        };
        match Deadline::after(self.limits.header_timeout).bound(handshake).await {
            Some(Ok((stream, asked))) => {
                let connection = self.service.connect(peer, true, asked);
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.serve_http(stream, Some(is_http2), connection, activity).await;
            }
            Some(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            None => tracing::debug!(%peer, "TLS handshake timed out"),
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
        let io = ClientIo::new(io, prefix, Arc::clone(activity), remains.clone());
        if is_http2 {
            Box::pin(self.serve_http2(io, connection, activity)).await;
        } else {
            self.serve_http1(io, &connection, activity).await;
        }
        // Whoever was too slow is not waited for once more.
        if !activity.is_overdue() {
            remains.linger().await;
        }
    }

    async fn serve_http2<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        io: ClientIo<T>,
        connection: Rc<S::Connection>,
        activity: &Arc<Activity>,
    ) {
        activity.set_http2();
        let (service, begun) = (self.service.clone(), Arc::clone(activity));
        let service = service_fn(move |request| {
            let answer = service.clone().call(Rc::clone(&connection), request, begun.begin());
            let wanted = Wanted::new(Arc::clone(&begun));
            async move { answer.await.map(|response| response.map(|body| Unread::new(body, wanted.answered()))) }
        });
        let mut server = http2::Builder::new(LocalExecutor);
        server
            .max_concurrent_streams(self.limits.max_concurrent_streams)
            .max_header_list_size(u32::try_from(self.limits.max_header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(20);
        if self.service.takes_websockets() {
            server.enable_connect_protocol();
        }
        let serving = std::pin::pin!(server.serve_connection(TokioIo::new(io), service));
        watch(serving, activity, http2::Connection::graceful_shutdown).await;
    }

    /// Serves to the end of the connection. While it has been idle for a while it rests: hyper's state, most of which is buffers,
    /// is given back, and made anew for the next request. So a connection that does nothing costs next to nothing.
    async fn serve_http1<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        mut io: ClientIo<T>,
        connection: &Rc<S::Connection>,
        activity: &Arc<Activity>,
    ) {
        while let Some(idle) = Box::pin(self.serve_until_rest(io, Rc::clone(connection), activity)).await {
            io = idle;
            if !activity.rest(|cx| io.poll_wake(cx)).await {
                return;
            }
        }
    }

    /// Serves until the connection ends; gives the socket back if it only rests.
    async fn serve_until_rest<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        io: ClientIo<T>,
        connection: Rc<S::Connection>,
        activity: &Arc<Activity>,
    ) -> Option<ClientIo<T>> {
        let (service, begun) = (self.service.clone(), Arc::clone(activity));
        let service = service_fn(move |request| service.clone().call(Rc::clone(&connection), request, begun.begin()));
        let mut server = http1::Builder::new();
        // That a client has gone away is noticed by `ClientIo`, which takes no buffer for it.
        server.header_read_timeout(None).max_header_size(self.limits.max_header_bytes).half_close(true);
        let mut serving = server.serve_connection(TokioIo::new(io), service).with_upgrades();
        if !watch(Pin::new(&mut serving), activity, http1::UpgradeableConnection::graceful_shutdown).await {
            activity.leave_http();
            return None;
        }
        let parts = serving.into_parts()?;
        let mut io = parts.io.into_inner();
        io.put_back(parts.read_buf);
        Some(io)
    }
}

/// Drives a connection until it ends, is overdue, or has drained; true if it does not end but rests.
async fn watch<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
    drain: impl FnOnce(Pin<&mut C>),
) -> bool {
    let mut drain = Some(drain);
    let mut registered: Option<Waker> = None;
    std::future::poll_fn(|cx| {
        // Nearly always the waker is the one of the poll before.
        if !registered.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            registered = Some(cx.waker().clone());
            activity.register(cx);
        }
        if activity.is_overdue() {
            return Poll::Ready(false);
        }
        if activity.is_draining()
            && let Some(drain) = drain.take()
        {
            drain(connection.as_mut());
        }
        // How a client's connection ends is the client's affair; what mattered is in the access log.
        match connection.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(false),
            // It has done what there was to do, so that nothing it holds is lost.
            Poll::Pending if activity.takes_rest() => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::tls::Prepared;
    use super::*;
    use crate::base::tick;
    use http_body::{Frame, SizeHint};
    use http_body_util::Full;
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
    use std::path::Path;
    use std::task::Context;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::task::{LocalSet, spawn_local};

    /// Answers with `ok`, and at `/never` not at all.
    #[derive(Clone)]
    pub(in crate::listener) struct Canned;

    pub(in crate::listener) struct Held {
        body: Full<Bytes>,
        _in_flight: InFlight,
    }

    impl Body for Held {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Pin::new(&mut self.body).poll_frame(cx)
        }

        fn is_end_stream(&self) -> bool {
            self.body.is_end_stream()
        }

        fn size_hint(&self) -> SizeHint {
            self.body.size_hint()
        }
    }

    impl Service for Canned {
        type Connection = ();
        type Body = Held;

        fn takes_websockets(&self) -> bool {
            false
        }

        fn connect(&self, _: IpAddr, _: bool, _: Option<Box<Asked>>) -> Rc<()> {
            Rc::default()
        }

        async fn call(
            self,
            _: Rc<()>,
            request: Request<Incoming>,
            in_flight: InFlight,
        ) -> Result<Response<Held>, Infallible> {
            if request.uri().path() == "/never" {
                std::future::pending().await
            }
            Ok(Response::new(Held { body: Full::from("ok"), _in_flight: in_flight }))
        }
    }

    /// Listeners of a configuration at `path` with these lines in `[server]`.
    pub(in crate::listener) fn listeners(server: &str, path: &Path) -> Rc<Listeners<Canned>> {
        let text = format!(
            "version = 1\n[admin]\nlisten = 'off'\n[server]\n{server}[upstream.up]\nto = 'http://127.0.0.1:1'\n\
             [[route]]\npath = '/**'\nupstream = 'up'\naccess = 'public'\n"
        );
        let config = crate::config::parse(&text, path).unwrap();
        let tls = Prepared::read(&config).unwrap().map(ServerTls::new);
        Listeners::new(&config.server, tls, Canned, Gauge::default(), Counter::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_rested_serves_on_and_ends_with_the_drain() {
        let test = async {
            spawn_local(tick::run());
            let listeners = listeners("", Path::new(""));
            let (mut client, io) = duplex(4096);
            let (listed, serving) = (listeners.activities.add(), Rc::clone(&listeners));
            let activity = Arc::clone(&listed.activity);
            let serving =
                spawn_local(async move { serving.serve_http(io, None, Rc::default(), &listed.activity).await });
            for _ in 0..3 {
                for piece in ["G", "ET / HTTP/1.1\r\nhost: a\r\n", "\r\n"] {
                    client.write_all(piece.as_bytes()).await.unwrap();
                    tokio::time::sleep(tick::TICK).await;
                    listeners.sweep();
                    assert!(!activity.is_resting());
                }
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\nok") {
                    assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
                }
                while !activity.is_resting() {
                    tokio::time::sleep(tick::TICK).await;
                    listeners.sweep();
                }
            }
            listeners.drain();
            assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
            drop(client);
            serving.await.unwrap();
        };
        LocalSet::new().run_until(test).await;
    }

    /// Time for frames to arrive at the other side, and to take effect.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_client_that_resets_nearly_all_its_requests_is_let_go() {
        let test = async {
            // Every second request is waited for, or none.
            for (answered_every, expected) in [(2, 1000), (1000, 101)] {
                let (client, io) = duplex(1 << 16);
                let listeners = listeners("", Path::new(""));
                let listed = listeners.activities.add();
                let serving =
                    spawn_local(async move { listeners.serve_http(io, None, Rc::default(), &listed.activity).await });
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(client)).await.unwrap();
                let connection = spawn_local(connection);
                let mut sent = 0;
                while sent < 1000 && sender.ready().await.is_ok() {
                    sent += 1;
                    let is_awaited = sent % answered_every == 0;
                    let path = if is_awaited { "http://a/" } else { "http://a/never" };
                    let answer = sender.send_request(Request::get(path).body(Full::<Bytes>::default()).unwrap());
                    if is_awaited {
                        assert_eq!(answer.await.unwrap().status(), 200);
                    } else {
                        tokio::select! {
                            biased;
                            answer = answer => assert!(answer.is_err()),
                            () = settle() => {}
                        }
                        settle().await;
                    }
                }
                assert_eq!(sent, expected);
                drop(sender);
                let _ended_by_either_side = connection.await.unwrap();
                serving.await.unwrap();
            }
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_connection_at_rest_takes_little_room() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let listeners = listeners("", Path::new(""));
        let task = Rc::clone(&listeners).serve(client, IpAddr::from([127, 0, 0, 1]));
        assert!(size_of_val(&task) <= 1024, "{} bytes", size_of_val(&task));
    }
}
