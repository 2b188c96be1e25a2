//! An upstream that tells what it received.

use super::keys;
use super::protocol::json_answer;
use super::server::{Answer, HangUp, Server};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A server that answers each request with a description of it, in JSON:
/// `method`, `target`, `headers` (pairs), `body_bytes`, and `token`, the header and
/// payload of a bearer token. A request to upgrade is answered with 101, and its bytes are sent back.
#[derive(Debug)]
pub struct Echo {
    addr: SocketAddr,
    requests: Arc<AtomicU64>,
    _server: Server,
}

impl Echo {
    /// Starts serving HTTP/1.1 and HTTP/2 on a loopback address; port 0 takes a free one. Stops when dropped.
    pub fn start(addr: SocketAddr) -> io::Result<Self> {
        let listener = Server::bind(addr)?;
        let addr = listener.local_addr()?;
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let server = Server::serve(listener, "dev-echo", move |request| {
            counter.fetch_add(1, Ordering::Relaxed);
            answer(request)
        })?;
        Ok(Self { addr, requests, _server: server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many requests came.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn answer(request: Request<Incoming>) -> Answer {
    if request.version() == Version::HTTP_11 && request.headers().contains_key(UPGRADE) {
        return Ok(upgrade(request));
    }
    let (head, mut body) = request.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        body_bytes += frame.map_err(|_| HangUp)?.data_ref().map_or(0, Bytes::len);
    }
    let target = head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string);
    let headers: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), lossy(value))).collect();
    let description = json!({
        "method": head.method.as_str(), "target": target, "headers": headers,
        "body_bytes": body_bytes, "token": token(&head.headers),
    });
    Ok(json_answer(StatusCode::OK, &description))
}

/// What a bearer token says, or null.
fn token(headers: &HeaderMap) -> Value {
    let credential = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let decoded = credential.and_then(|text| text.strip_prefix("Bearer ")).and_then(keys::decode);
    decoded.map_or(Value::Null, |(header, payload)| json!({ "header": header, "payload": payload }))
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Agrees to whatever protocol is asked for and sends its bytes back.
fn upgrade(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let protocol = request.headers().get(UPGRADE).cloned();
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            // It ends when either side has had enough.
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(protocol.map(|protocol| (UPGRADE, protocol)));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

#[cfg(test)]
mod tests {
    use super::super::http_client::{request, send, with_token};
    use super::super::keys::SigningKey;
    use super::*;
    use crate::config::Algorithm;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn start() -> Echo {
        Echo::start("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_described_without_the_signature_of_its_token() {
        let echo = start();
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let token = key.compact(br#"{"alg":"EdDSA"}"#, br#"{"sub":"alice"}"#).unwrap();
        let answer = send(echo.addr(), with_token(request("PUT", "/a/b?c=d", "12345".into()), &token)).await.unwrap();
        let said = answer.json();
        assert_eq!((&said["method"], &said["target"]), (&json!("PUT"), &json!("/a/b?c=d")));
        assert_eq!(said["body_bytes"], json!(5));
        assert_eq!(said["token"], json!({ "header": { "alg": "EdDSA" }, "payload": { "sub": "alice" } }));
        assert!(said["headers"].as_array().unwrap().contains(&json!(["authorization", format!("Bearer {token}")])));
        assert_eq!(echo.requests(), 1);
    }

    #[tokio::test]
    async fn http2_with_prior_knowledge_is_spoken_on_the_same_port() {
        let echo = start();
        let stream = tokio::net::TcpStream::connect(echo.addr()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let uri = format!("http://{}/h2", echo.addr());
        let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["target"], json!("/h2"));
    }

    #[tokio::test]
    async fn an_upgraded_connection_echoes_bytes() {
        let echo = start();
        let mut stream = tokio::net::TcpStream::connect(echo.addr()).await.unwrap();
        let head = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(stream.read_u8().await.unwrap());
        }
        assert!(seen.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&seen));
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"ping");
    }

    #[test]
    fn only_loopback_is_served() {
        let refused = Echo::start("0.0.0.0:0".parse().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
