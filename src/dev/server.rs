//! A small HTTP server with a thread of its own, for the issuer and the echo upstream.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// An answer, or the wish to close the connection without one.
pub(super) type Answer = Result<Response<Full<Bytes>>, HangUp>;

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub(super) struct HangUp;

/// A running server. Dropping it closes the listener and cuts every connection.
#[derive(Debug)]
pub(super) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds; port 0 takes a free port. Only loopback: what is served here has passwords that everybody knows.
    pub(super) fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
        if !addr.ip().is_loopback() {
            let why = format!("`{addr}` is not a loopback address");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Serves HTTP/1.1, and HTTP/2 with prior knowledge, until dropped.
    pub(super) fn serve<H, F>(listener: TcpListener, name: &str, handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let serve = async move {
            tokio::select! {
                () = accept(listener, handler) => {}
                _ = stopped => {}
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(serve))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

async fn accept<H, F>(listener: tokio::net::TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve_connection(stream, handler.clone()))),
            // Out of descriptors, mostly: wait for some to be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve_connection<H, F>(stream: TcpStream, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    // Answers are small; waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let is_http2 = speaks_http2(&stream).await;
    let io = TokioIo::new(stream);
    let service = service_fn(handler);
    // How a connection ended is of no interest here.
    let _ = if is_http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
    };
}

/// Whether the client begins with the connection preface of HTTP/2 (RFC 9113 §3.4).
async fn speaks_http2(stream: &TcpStream) -> bool {
    const START: &[u8] = b"PRI * HTTP/2";
    let mut seen = [0; START.len()];
    // The preface nearly always comes in one piece; a client that sends half of it is given a second.
    for _ in 0..200 {
        match stream.peek(&mut seen).await {
            Ok(n) if n == START.len() => return seen == START,
            Ok(n) if n > 0 && seen[..n] == START[..n] => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => return false,
        }
    }
    false
}
