//! The admin listener: `/healthz`, `/readyz`, `/metrics`. Not for the public.

use crate::base::accept::LimitedListener;
use crate::telemetry::metrics::Metrics;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Open connections at most; the callers are probes and scrapers.
const MAX_CONNECTIONS: usize = 64;

/// A connection is closed after this, busy or not.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What the listener shows.
#[derive(Clone)]
pub struct View {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What the gateway still waits for before it is ready; empty if it is.
    pub waits_for: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What it goes without, though it is ready; empty if nothing.
    pub goes_without: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, view: View) {
    let listener = LimitedListener::new(listener, MAX_CONNECTIONS);
    loop {
        let (stream, place) = listener.accept().await;
        let view = view.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&view, &request))));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            let serving = server.serve_connection(TokioIo::new(stream), service);
            // A probe that breaks off is none of our concern.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
            drop(place);
        });
    }
}

fn answer(view: &View, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match (view.waits_for)() {
            missing if missing.is_empty() => match (view.goes_without)() {
                without if without.is_empty() => text(StatusCode::OK, "ready\n"),
                without => text(StatusCode::OK, format!("ready, without: {}\n", without.join(", "))),
            },
            missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, view.metrics.encode());
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
