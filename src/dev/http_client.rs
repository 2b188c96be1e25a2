//! The smallest HTTP/1.1 client: one connection a request, for the tour and for tests.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// No answer on loopback takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("`{0}` cannot be reached")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("`{0}` broke off")]
    Http(SocketAddr, #[source] hyper::Error),
    #[error("`{0}` does not answer")]
    Silent(SocketAddr),
}

/// An answer, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body, or null where it is no JSON.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A request without a body.
pub(super) fn get(target: &str) -> Request<Full<Bytes>> {
    request("GET", target, Bytes::new())
}

/// A form.
pub(super) fn post(target: &str, form: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut request = request("POST", target, body.into());
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form_type);
    request
}

/// Any request; the target is a path.
pub(super) fn request(method: &str, target: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(target).body(Full::new(body)).expect("method and target are our own")
}

/// The request with a bearer token.
pub(super) fn with_token(mut request: Request<Full<Bytes>>, token: &str) -> Request<Full<Bytes>> {
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a compact token is visible ASCII");
    request.headers_mut().insert(AUTHORIZATION, value);
    request
}

/// Sends the request and reads the answer.
pub(super) async fn send(addr: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, SendError> {
    tokio::time::timeout(PATIENCE, exchange(addr, request)).await.unwrap_or(Err(SendError::Silent(addr)))
}

async fn exchange(addr: SocketAddr, mut request: Request<Full<Bytes>>) -> Result<Answer, SendError> {
    let broken = |error| SendError::Http(addr, error);
    let stream = tokio::net::TcpStream::connect(addr).await.map_err(|error| SendError::Connect(addr, error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let host = HeaderValue::try_from(addr.to_string()).expect("an address is visible ASCII");
    request.headers_mut().entry(HOST).or_insert(host);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = body.collect().await.map_err(broken)?.to_bytes();
    connection.abort();
    Ok(Answer { status: head.status, headers: head.headers, body })
}
