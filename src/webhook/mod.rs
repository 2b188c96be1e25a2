//! The mutating admission webhook: pods that ask for the token of their namespace get it as a file that stays fresh.
//!
//! A pod with the annotation `hpe-ezua/add-auth-token: "true"` gets the Secret `access-token` mounted at `/etc/secrets/ezua`, in each
//! of its containers. What is added is decided in `patch`, from what `pod` reads of it; `review` speaks the API server's language;
//! here are the sockets; `certificate` looks after TLS. It runs on a thread of its own: what strangers post must keep neither
//! requests nor the control plane waiting.

mod certificate;
mod patch;
mod pod;
pub mod review;

#[cfg(test)]
mod tests;

pub use certificate::{CertificateError, Certificates, Material};
pub use patch::VOLUME;
pub use pod::{ANNOTATION, SECRET};
pub use review::{KnownSecret, Outcome};

use crate::base::accept::LimitedListener;
use crate::telemetry::metrics::{Metrics, OutcomeLabel};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Open connections at most. An API server keeps 25 idle ones, and opens one more for each pod beyond.
const MAX_CONNECTIONS: usize = 256;

/// A client must have come through the TLS handshake by then.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The body of a review must be there by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The first answer must have been given by then.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

/// An HTTP/1.1 connection without a request. The API server closes its own after 90 seconds; were we first, we might do so while it
/// sends the next review, which it would not repeat.
const IDLE: Duration = Duration::from_secs(150);

/// An HTTP/2 connection ends after this; its client is told in good time (RFC 9113 §6.8).
const HTTP2_LIFE: Duration = Duration::from_secs(600);

/// What runs may take this long to end.
const GRACE: Duration = Duration::from_secs(5);

/// A review holds a pod twice at most, and the API server takes no object of more than 3 MiB.
const BODY_LIMIT: usize = 8 << 20;

/// Of the bodies that are being read, in KiB.
const BODIES: usize = 64 << 10;

/// Where reviews are taken.
const PATH: &str = "/mutate";

/// Tells of a namespace whether it has its Secret.
pub type SecretLookup = Arc<dyn Fn(&str) -> KnownSecret + Send + Sync>;

/// The webhook.
pub struct Webhook {
    certificates: Arc<Certificates>,
    secrets: SecretLookup,
    metrics: Arc<Metrics>,
    /// Room for bodies, in KiB.
    room: Semaphore,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl Webhook {
    /// A webhook that counts its reviews.
    pub fn new(certificates: Arc<Certificates>, secrets: SecretLookup, metrics: Arc<Metrics>) -> Self {
        // All are there from the start, so that the first refusal is an increase.
        for outcome in Outcome::ALL {
            drop(metrics.webhook_reviews.get_or_create(&OutcomeLabel { outcome: outcome.code() }));
        }
        Self { certificates, secrets, metrics, room: Semaphore::new(BODIES) }
    }

    /// Serves until `stop`; then nothing new is accepted, and what runs is ended.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let listener = LimitedListener::new(listener, MAX_CONNECTIONS);
        let webhook = Arc::new(self);
        let ending = watch::Sender::new(false);
        let mut open = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let (stream, place) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => break,
            };
            let (webhook, ending) = (Arc::clone(&webhook), ending.subscribe());
            open.spawn(async move {
                webhook.connection(stream, ending).await;
                drop(place);
            });
            while open.try_join_next().is_some() {}
        }
        drop(listener);
        ending.send_replace(true);
        while open.join_next().await.is_some() {}
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, mut ending: watch::Receiver<bool>) {
        let Some(config) = self.certificates.server_config() else { return };
        let acceptor = TlsAcceptor::from(config);
        let handshake = tokio::select! {
            handshake = timeout(HANDSHAKE, acceptor.accept(stream)) => handshake,
            _ = ending.wait_for(|ending| *ending) => return,
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake of the webhook failed"),
            Err(_) => return tracing::debug!("a TLS handshake of the webhook took too long"),
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let has_answered = Arc::new(AtomicBool::new(false));
        let answered = Arc::clone(&has_answered);
        let service = service_fn(move |request| {
            let (webhook, answered) = (Arc::clone(&self), Arc::clone(&answered));
            async move {
                let response = webhook.respond(request).await;
                answered.store(true, Ordering::Relaxed);
                Ok::<_, Infallible>(response)
            }
        });
        if is_http2 {
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.timer(TokioTimer::new()).max_concurrent_streams(100).max_header_list_size(16 << 10);
            let connection = server.serve_connection(io, service);
            drive(connection, http2::Connection::graceful_shutdown, HTTP2_LIFE, &has_answered, ending).await;
        } else {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(IDLE).max_header_size(16 << 10);
            let connection = server.serve_connection(io, service);
            drive(connection, http1::Connection::graceful_shutdown, Duration::MAX, &has_answered, ending).await;
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return failure(StatusCode::NOT_FOUND, "reviews are taken at /mutate");
        }
        if request.method() != Method::POST {
            let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "only POST");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let (outcome, response) = match self.review(request).await {
            Ok(answer) => (answer.outcome, json_response(StatusCode::OK, answer.body)),
            Err((status, why)) => {
                tracing::warn!(why, "what the webhook was sent is no review");
                (Outcome::Malformed, failure(status, &why))
            }
        };
        self.metrics.webhook_reviews.get_or_create(&OutcomeLabel { outcome: outcome.code() }).inc();
        response
    }

    async fn review(&self, request: Request<Incoming>) -> Result<review::Answer, (StatusCode, String)> {
        if !is_json(request.headers()) {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be `application/json`".into()));
        }
        let body = request.into_body();
        let told = body.size_hint().upper();
        let size = told.map_or(BODY_LIMIT, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if size > BODY_LIMIT {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the review is longer than {BODY_LIMIT} bytes")));
        }
        let wanted = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
        let read = async {
            let _room = self.room.acquire_many(wanted).await.expect("the semaphore is never closed");
            Limited::new(body, BODY_LIMIT).collect().await
        };
        match timeout(BODY_TIMEOUT, read).await {
            Ok(Ok(body)) => review::answer(&body.to_bytes(), |namespace| (self.secrets)(namespace))
                .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string())),
            Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body did not come: {error}"))),
            Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not come in time".into())),
        }
    }
}

/// Drives a connection to its end: that of its client, of its `life`, or of the webhook. One that has asked nothing by the time of
/// the first answer has no business here.
async fn drive<C: Future>(
    connection: C,
    end: impl Fn(Pin<&mut C>),
    life: Duration,
    has_answered: &AtomicBool,
    mut ending: watch::Receiver<bool>,
) {
    let mut connection = pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = sleep(FIRST_ANSWER) => if !has_answered.load(Ordering::Relaxed) { return },
        _ = ending.wait_for(|ending| *ending) => {}
    }
    tokio::select! {
        _ = &mut connection => return,
        () = sleep(life) => {}
        _ = ending.wait_for(|ending| *ending) => {}
    }
    end(connection.as_mut());
    // How it ends is its client's affair.
    let _ = timeout(GRACE, connection).await;
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// A failure as the API server has it: of such a body it passes the message on to whoever made the pod, of plain text it does not.
fn failure(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let reason = match status {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaType",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::REQUEST_TIMEOUT => "Timeout",
        _ => "BadRequest",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    });
    json_response(status, body.to_string())
}

fn json_response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
