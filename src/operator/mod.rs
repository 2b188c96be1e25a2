//! The operators' API: block and unblock users, take tokens back, close the cluster. On a listener of its own, for nobody else.
//!
//! Who may act is settled first (`access`), then what is asked for is done (`acts`). Every act that changes something is a decision of
//! [`Users`], and with that in the audit log under the operator's name.

mod access;
mod acts;

pub use access::AccessError;

use crate::base::accept::LimitedListener;
use crate::base::clock::Clock;
use crate::base::tls::{self, TlsError};
use crate::config;
use crate::identity::Verifier;
use crate::users::Users;
use access::Caller;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Open connections at most; the callers are people and their scripts.
const MAX_CONNECTIONS: usize = 32;

/// A connection is closed after this, busy or not.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// No request has a longer body.
const BODY_LIMIT: usize = 16 * 1024;

/// What the API acts on.
#[derive(Clone)]
pub struct Operators {
    /// Who is an operator, and the listener's certificate.
    pub config: Arc<config::Operator>,
    /// What is known against users.
    pub users: Arc<Users>,
    /// The time.
    pub clock: Clock,
    /// The verifier in force, for operators who show a token.
    pub verifier: VerifierInForce,
    /// The clocks of issuers.
    pub issuer_clocks: IssuerClocks,
    /// Everybody for whom a token is kept, where there are any.
    pub delivered: Option<Delivered>,
}

/// Gives everybody for whom a token is kept, as it is shown.
pub type Delivered = Arc<dyn Fn() -> Value + Send + Sync>;

/// Gives the verifier in force.
pub type VerifierInForce = Arc<dyn Fn() -> Arc<Verifier> + Send + Sync>;

/// Asks an issuer, by its name, what time it is.
pub type IssuerClocks = Arc<dyn Fn(&str) -> AskedTime + Send + Sync>;

/// No less than what an issuer's clock shows, in milliseconds since 1970. `None`: it did not say.
pub type AskedTime = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operators").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Checks that the certificate of a configuration can be used.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn check(config: &config::Operator) -> Result<(), TlsError> {
    acceptor(config).map(|_| ())
}

/// The files are read for each connection: there are few, and a certificate that was renewed is in force at once.
fn acceptor(config: &config::Operator) -> Result<Option<TlsAcceptor>, TlsError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let client_ca = match &config.access {
        config::OperatorAccess::ClientCa(path) => Some(path.as_path()),
        config::OperatorAccess::Role { .. } => None,
    };
    let made = tls::server_config(&files.certificate, &files.key, client_ca, &[b"http/1.1"])?;
    Ok(Some(TlsAcceptor::from(made)))
}

impl Operators {
    /// Serves until dropped. To be run on a thread of its own with a local runtime and [`tick::run`](crate::base::tick::run): an act
    /// waits for the disk.
    pub async fn serve(self, listener: TcpListener) {
        let listener = LimitedListener::new(listener, MAX_CONNECTIONS);
        loop {
            let (stream, place) = listener.accept().await;
            let operators = self.clone();
            tokio::task::spawn_local(async move {
                // Whoever breaks off is asked to try again by their own tool.
                let _ = tokio::time::timeout(CONNECTION_TIMEOUT, operators.connection(stream)).await;
                drop(place);
            });
        }
    }

    async fn connection(self, stream: TcpStream) {
        match acceptor(&self.config) {
            Ok(None) => self.requests(stream, None).await,
            Ok(Some(acceptor)) => match acceptor.accept(stream).await {
                Ok(stream) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let certificate = shown.map(|certificate| access::fingerprint(certificate));
                    self.requests(stream, certificate).await;
                }
                Err(error) => tracing::warn!(%error, "an operator's TLS handshake failed"),
            },
            Err(error) => tracing::error!(%error, "the operators' certificate cannot be used"),
        }
    }

    async fn requests(self, io: impl AsyncRead + AsyncWrite + Unpin, certificate: Option<String>) {
        let service = service_fn(|request| {
            let (operators, certificate) = (&self, certificate.as_deref());
            async move { Ok::<_, Infallible>(operators.answer(request, certificate).await) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
        // How the connection ends is its client's affair.
        let _ = server.serve_connection(TokioIo::new(io), service).await;
    }

    async fn answer(&self, request: Request<Incoming>, certificate: Option<&str>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let caller = match self.caller(&parts.headers, certificate).await {
            Ok(caller) => caller,
            Err(error) => {
                tracing::warn!(path = parts.uri.path(), %error, "an operator was refused");
                return error.into_response();
            }
        };
        let Some(act) = acts::Act::at(parts.uri.path()) else {
            return problem(StatusCode::NOT_FOUND, "there is nothing here");
        };
        if parts.method != Method::POST {
            let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "only POST");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        // A page in an operator's browser can post a form, but not this type without asking first.
        if !is_json(&parts.headers) {
            return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be `application/json`");
        }
        let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
            return problem(StatusCode::BAD_REQUEST, "the body did not come, or is longer than 16 KiB");
        };
        match self.act(act, &body.to_bytes(), &caller).await {
            Ok(answer) => json_response(StatusCode::OK, &answer),
            Err(error) => {
                tracing::warn!(operator = caller.name, ?act, %error, "an operator's act failed");
                problem(error.status(), &error.to_string())
            }
        }
    }

    async fn caller(&self, headers: &HeaderMap, certificate: Option<&str>) -> Result<Caller, AccessError> {
        match &self.config.access {
            config::OperatorAccess::ClientCa(_) => Caller::by_certificate(certificate),
            config::OperatorAccess::Role { issuer, role, audience } => {
                let verifier = (self.verifier)();
                Caller::by_token(&verifier, headers, access::Wanted { issuer, role, audience }, self.clock.now()).await
            }
        }
    }
}

impl AccessError {
    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = problem(self.status(), &self.to_string());
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"postern operators\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    json_response(status, &json!({ "status": status.as_u16(), "detail": detail }))
}

fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
