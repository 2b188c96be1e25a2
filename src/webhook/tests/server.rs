//! The webhook over real sockets, to clients that trust the bundle and nothing else.

use super::support::creation;
use crate::base::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::webhook::{ANNOTATION, Certificates, KnownSecret, Webhook};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NAME: &str = "postern-webhook.postern.svc";
const DAY: Duration = Duration::from_secs(86_400);

struct Running {
    address: SocketAddr,
    clock: Clock,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

async fn start() -> Running {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(1_800_000_000));
    let names = vec![NAME.to_owned()];
    let certificates = Arc::new(Certificates::open(folder.path().to_owned(), names, clock.clone()).unwrap());
    let metrics = Arc::new(Metrics::new());
    let secrets = Arc::new(|_: &str| KnownSecret::Present);
    let webhook = Webhook::new(Arc::clone(&certificates), secrets, Arc::clone(&metrics));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(webhook.serve(listener, async move { drop(stopped.await) }));
    Running { address, clock, certificates, metrics, stop, serving, _folder: folder }
}

#[derive(Debug)]
struct Time(Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().unix_ms)))
    }
}

impl Running {
    async fn connect(
        &self,
        bundle: &str,
        name: &'static str,
        protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(authority.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(Time(self.clock.clone())))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await
    }

    /// As the API server calls a Service.
    async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = self.connect(&self.certificates.ca_bundle(), NAME, b"http/1.1").await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn count(&self, outcome: &str) -> u64 {
        let line = format!("postern_webhook_reviews_total{{outcome=\"{outcome}\"}} ");
        self.metrics.encode().lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap()
    }
}

fn review() -> String {
    creation(
        &json!({ "metadata": { "annotations": { ANNOTATION: "true" } }, "spec": { "containers": [{ "name": "a" }] } }),
    )
    .to_string()
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", NAME).header("content-type", "application/json");
    request.body(Full::new(body.into())).unwrap()
}

async fn ask(sender: &mut http1::SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_client_that_trusts_the_bundle_alone_is_answered_again_and_again() {
    let webhook = start().await;
    let mut sender = webhook.http1().await;
    for _ in 0..3 {
        let (status, answer) = ask(&mut sender, post("/mutate?timeout=5s", review())).await;
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)));
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
    }
    assert_eq!((webhook.count("patched"), webhook.count("malformed")), (3, 0));
}

#[tokio::test]
async fn http2_is_spoken_to_who_offers_it() {
    let webhook = start().await;
    let stream = webhook.connect(&webhook.certificates.ca_bundle(), NAME, b"h2").await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("https://{NAME}/mutate")).header("content-type", "application/json");
    let response = sender.send_request(request.body(Full::new(Bytes::from(review()))).unwrap()).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, http::Version::HTTP_2));
    assert_eq!(webhook.count("patched"), 1);
}

#[tokio::test]
async fn nobody_who_trusts_others_or_calls_by_another_name_takes_the_certificate() {
    let (webhook, other) = (start().await, start().await);
    let own = webhook.certificates.ca_bundle();
    assert!(webhook.connect(&own, NAME, b"http/1.1").await.is_ok());
    assert!(webhook.connect(&other.certificates.ca_bundle(), NAME, b"http/1.1").await.is_err());
    assert!(webhook.connect(&own, "postern.postern.svc", b"http/1.1").await.is_err());
}

#[tokio::test]
async fn only_a_review_that_is_posted_is_taken() {
    let webhook = start().await;
    let check = async |request: Request<Full<Bytes>>, expected: u16| {
        let (status, answer) = ask(&mut webhook.http1().await, request).await;
        assert_eq!(status.as_u16(), expected);
        assert_eq!(
            (&answer["kind"], &answer["status"], &answer["code"]),
            (&json!("Status"), &json!("Failure"), &json!(expected))
        );
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()));
    };
    check(post("/", review()), 404).await;
    check(post("/mutate/", review()), 404).await;
    check(Request::get("/mutate").header("host", NAME).body(Full::default()).unwrap(), 405).await;
    check(Request::post("/mutate").header("host", NAME).body(Full::from(review())).unwrap(), 415).await;
    check(post("/mutate", "{}"), 400).await;
    check(post("/mutate", ""), 400).await;
    assert_eq!((webhook.count("malformed"), webhook.count("patched")), (3, 0));
}

#[tokio::test]
async fn a_new_certificate_is_in_force_without_dropping_a_connection() {
    let webhook = start().await;
    let bundle = webhook.certificates.ca_bundle();
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let before = shown(&webhook.connect(&bundle, NAME, b"http/1.1").await.unwrap());
    let mut open = webhook.http1().await;
    assert_eq!(ask(&mut open, post("/mutate", review())).await.0, StatusCode::OK);

    webhook.clock.advance(DAY * 20);
    assert!(webhook.certificates.maintain().unwrap());
    assert_eq!(ask(&mut open, post("/mutate", review())).await.0, StatusCode::OK);
    let after = shown(&webhook.connect(&bundle, NAME, b"http/1.1").await.unwrap());
    assert_ne!(before, after);

    // The next authority: first in the bundle, then in use.
    webhook.clock.advance(DAY * 285);
    assert!(webhook.certificates.maintain().unwrap());
    assert!(webhook.connect(&bundle, NAME, b"http/1.1").await.is_ok());
    let both = webhook.certificates.ca_bundle();
    webhook.clock.advance(DAY);
    assert!(webhook.certificates.maintain().unwrap());
    assert!(webhook.connect(&both, NAME, b"http/1.1").await.is_ok());
    assert!(webhook.connect(&bundle, NAME, b"http/1.1").await.is_err());
    assert_eq!(ask(&mut open, post("/mutate", review())).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_nothing_is_shown_out() {
    let webhook = start().await;
    let mut silent = TcpStream::connect(webhook.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
    let mut shy = webhook.connect(&webhook.certificates.ca_bundle(), NAME, b"http/1.1").await.unwrap();
    assert_eq!(shy.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

/// Sends the head of a review and the first byte of its body, and reads until the end.
async fn send_half(webhook: &Running, length: usize) -> String {
    let mut stream = webhook.connect(&webhook.certificates.ca_bundle(), NAME, b"http/1.1").await.unwrap();
    let lines = format!("host: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {length}");
    stream.write_all(format!("POST /mutate HTTP/1.1\r\n{lines}\r\n\r\n{{").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // It may end without a TLS close.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let webhook = start().await;
    let answer = send_half(&webhook, 9).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read() {
    let webhook = start().await;
    let answer = send_half(&webhook, (8 << 20) + 1).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn when_it_stops_open_connections_end_and_nothing_is_left_running() {
    let webhook = start().await;
    let mut open = webhook.http1().await;
    assert_eq!(ask(&mut open, post("/mutate", review())).await.0, StatusCode::OK);
    webhook.stop.send(()).unwrap();
    webhook.serving.await.unwrap();
    let more = async {
        open.ready().await?;
        open.send_request(post("/mutate", review())).await
    };
    assert!(more.await.is_err());
    assert!(TcpStream::connect(webhook.address).await.is_err());
}
