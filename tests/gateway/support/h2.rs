//! HTTP/2, by hyper: a client, and an upstream whose answers have trailers.

use super::PATIENCE;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One connection of a client.
pub(crate) struct H2Client {
    runtime: Runtime,
    sender: SendRequest<Body>,
}

/// An answer read whole.
#[derive(Debug)]
pub(crate) struct H2Answer {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl H2Client {
    /// With prior knowledge, in clear text.
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::start(async move { TcpStream::connect(addr).await.unwrap() })
    }

    /// Over TLS, which must negotiate it.
    pub(crate) fn connect_tls(addr: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::connect_tls_for(addr, config, "localhost")
    }

    /// The same, asking for this host.
    pub(crate) fn connect_tls_for(addr: SocketAddr, config: Arc<ClientConfig>, host: &'static str) -> Self {
        Self::start(async move {
            let tcp = TcpStream::connect(addr).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(config);
            let stream = connector.connect(host.try_into().unwrap(), tcp).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            stream
        })
    }

    fn start<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: impl Future<Output = T>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let io = TokioIo::new(stream.await);
            let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Self { runtime, sender }
    }

    /// Sends requests at once and gives their answers.
    pub(crate) fn send(&self, requests: Vec<Request<Body>>) -> Vec<H2Answer> {
        let all = async {
            let sent: Vec<_> = requests
                .into_iter()
                .map(|request| {
                    let mut sender = self.sender.clone();
                    tokio::spawn(async move {
                        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
                        let body = body.collect().await.unwrap();
                        let trailers = body.trailers().cloned().unwrap_or_default();
                        H2Answer { head, body: body.to_bytes(), trailers }
                    })
                })
                .collect();
            let mut answers = Vec::new();
            for answer in sent {
                answers.push(answer.await.unwrap());
            }
            answers
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, all).await.unwrap() })
    }

    /// Sends a request and gives its answer as soon as that begins.
    pub(crate) fn begin(&self, request: Request<Body>) -> Response<Incoming> {
        let mut sender = self.sender.clone();
        let answer = async { tokio::time::timeout(PATIENCE, sender.send_request(request)).await };
        self.runtime.block_on(answer).unwrap().unwrap()
    }

    /// The next piece of an answer; an error says how it broke off.
    pub(crate) fn next(&self, answer: &mut Response<Incoming>) -> Option<Result<Bytes, String>> {
        let frame = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, answer.frame()).await.unwrap() })?;
        Some(frame.map(|frame| frame.into_data().unwrap()).map_err(|error| format!("{error:?}")))
    }

    /// All that is left of an answer, and its trailers; an error says how it broke off.
    pub(crate) fn rest(&self, answer: Response<Incoming>) -> Result<(Bytes, HeaderMap), String> {
        let rest = async { tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.unwrap() };
        let rest = self.runtime.block_on(rest).map_err(|error| format!("{error:?}"))?;
        let trailers = rest.trailers().cloned().unwrap_or_default();
        Ok((rest.to_bytes(), trailers))
    }

    /// Asks for a WebSocket at `path` (RFC 8441).
    pub(crate) fn connect_websocket(&self, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
        let mut request = request(&format!("CONNECT {path}"), fields, body("", &[]));
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        self.begin(request)
    }

    /// The WebSocket that an answer agreed to.
    pub(crate) fn socket(&self, answer: Response<Incoming>) -> Socket<'_> {
        assert_eq!(answer.status(), 200);
        let io = self.runtime.block_on(hyper::upgrade::on(answer)).unwrap();
        Socket { client: self, io: TokioIo::new(io) }
    }

    /// Whether nothing of an answer has come that was not read, its end neither.
    pub(crate) fn is_waiting(&self, answer: &mut Response<Incoming>) -> bool {
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(1), answer.frame()).await.is_err() })
    }

    /// The answer to `method path` with these fields, this body and these trailers.
    pub(crate) fn call(&self, head: &str, fields: &[(&str, &str)], body: Body) -> H2Answer {
        self.send(vec![request(head, fields, body)]).remove(0)
    }
}

/// A stream that carries a WebSocket.
pub(crate) struct Socket<'a> {
    client: &'a H2Client,
    io: TokioIo<Upgraded>,
}

impl Socket<'_> {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.client.runtime.block_on(self.io.write_all(bytes)).unwrap();
    }

    /// So many bytes.
    pub(crate) fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = async { tokio::time::timeout(PATIENCE, self.io.read_exact(&mut bytes)).await.unwrap().unwrap() };
        self.client.runtime.block_on(read);
        bytes
    }

    /// All that comes until the stream ends.
    pub(crate) fn read_rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = async { tokio::time::timeout(PATIENCE, self.io.read_to_end(&mut rest)).await.unwrap().unwrap() };
        self.client.runtime.block_on(read);
        rest
    }
}

/// `method path` to `api.example`, or `method http://host/path`.
pub(crate) fn request(head: &str, fields: &[(&str, &str)], body: Body) -> Request<Body> {
    let (method, target) = head.split_once(' ').unwrap();
    let base = if target.starts_with('/') { "http://api.example" } else { "" };
    let mut request = Request::builder().method(method).uri(format!("{base}{target}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// A body of no announced length, and the trailers behind it.
pub(crate) fn body(data: &'static str, trailers: &[(&'static str, &'static str)]) -> Body {
    let field =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let mut frames = VecDeque::new();
    if !data.is_empty() {
        frames.push_back(Frame::data(Bytes::from(data)));
    }
    if !trailers.is_empty() {
        frames.push_back(Frame::trailers(trailers.iter().map(field).collect()));
    }
    Frames(frames).boxed_unsync()
}

/// A body that never ends.
pub(crate) fn endless(data: &'static str) -> Body {
    Endless(Some(data.into())).boxed_unsync()
}

struct Endless(Option<Bytes>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

struct Frames(VecDeque<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// Starts an upstream that speaks HTTP/2 with prior knowledge, for as long as the process runs. It answers with the body that
/// came, the names of the fields in `x-names`, and the trailers that came and `grpc-status: 0`.
pub(crate) fn start_upstream() -> SocketAddr {
    start_server(false)
}

/// The same, and it takes WebSockets by extended CONNECT, but for the path `/declined`: it gives back what comes on them.
pub(crate) fn start_websockets() -> SocketAddr {
    start_server(true)
}

fn start_server(takes_websockets: bool) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                if takes_websockets {
                    server.enable_connect_protocol();
                }
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
    });
    addr
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (mut head, incoming) = request.into_parts();
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    let names = format!("{} {} {}", head.method, head.uri, names.join(","));
    if head.method == "CONNECT" {
        if head.uri.path() == "/declined" {
            return Ok(Response::builder().status(403).body(body("no", &[])).unwrap());
        }
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.unwrap().await.unwrap()));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
        return Ok(Response::builder().header("x-names", names).body(body("", &[])).unwrap());
    }
    let body = incoming.collect().await?;
    let mut trailers = body.trailers().cloned().unwrap_or_default();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(body.to_bytes()).with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(Response::builder().header("x-names", names).body(body.boxed_unsync()).unwrap())
}
