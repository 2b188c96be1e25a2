//! TLS towards upstreams.

use super::http2::echo;
use super::{Call, Fake, at, fetch, get, on_worker};
use crate::config;
use crate::telemetry::upstreams::UpstreamMetrics;
use crate::upstream::{Answer, Pools, Upstream, UpstreamError};
use http::{HeaderMap, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// An upstream `localhost` with a certificate of its own.
struct Secured {
    fake: Fake,
    directory: TempDir,
}

impl Secured {
    async fn start(alpn: &'static [&'static str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(directory.path().join("ca.pem"), pair.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let fake = Fake::start(move |peer, notes| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut io) = acceptor.accept(peer.io).await else { return };
                if io.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return echo(TokioIo::new(io), peer.number, notes).await;
                }
                let mut read = Vec::new();
                while let Ok(byte) = io.read_u8().await {
                    read.push(byte);
                    if !read.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
                    let answer = if head.contains("upgrade: websocket") {
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
                    } else if head.starts_with("GET /close ") {
                        "HTTP/1.1 200 OK\r\n\r\ncut off without a close_notify"
                    } else {
                        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                    };
                    notes.add(head.lines().nth(1).unwrap());
                    io.write_all(answer.as_bytes()).await.unwrap();
                    io.flush().await.unwrap();
                    if head.starts_with("GET /close ") {
                        return;
                    }
                }
            }
        })
        .await;
        Self { fake, directory }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn upstream(&self, change: impl FnOnce(&mut config::Upstream)) -> Arc<Upstream> {
        self.fake.upstream_with(|config| {
            config.is_tls = true;
            config.targets = vec![at("localhost", self.fake.port)];
            config.tls.ca = Some(self.ca());
            change(config);
        })
    }
}

#[tokio::test]
async fn a_verified_connection_is_reused() {
    on_worker(async || {
        let secured = Secured::start(&[]).await;
        let (pools, upstream) = (Pools::new(), secured.upstream(|_| {}));
        for _ in 0..3 {
            assert_eq!(fetch(&pools, &upstream, get("/")).await.unwrap().body, "ok");
        }
        assert_eq!((secured.fake.connections(), secured.fake.notes().len()), (1, 3));
        let expected = HeaderValue::from_str(&format!("localhost:{}", secured.fake.port)).unwrap();
        assert_eq!(upstream.host, expected);
    })
    .await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_name_is_refused() {
    on_worker(async || {
        let (secured, other) = (Secured::start(&[]).await, Secured::start(&[]).await);
        let pools = Pools::new();
        let foreign = secured.upstream(|config| config.tls.ca = Some(other.ca()));
        let misnamed = secured.upstream(|config| config.tls.server_name = Some("orders.example".to_owned()));
        for upstream in [foreign, misnamed] {
            let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
            assert!(error.starts_with("the upstream cannot be reached: the TLS handshake"), "{error}");
        }
        assert_eq!(secured.fake.notes(), [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn tls_chooses_the_protocol_and_an_upgrade_asks_for_http1() {
    on_worker(async || {
        let secured = Secured::start(&["h2", "http/1.1"]).await;
        let (pools, upstream) = (Pools::new(), secured.upstream(|_| {}));
        for _ in 0..2 {
            fetch(&pools, &upstream, get("/")).await.unwrap();
        }
        assert_eq!(secured.fake.connections(), 1);
        assert!(secured.fake.notes().iter().all(|note| note == "0 GET https://orders.example/ te="));
        let upgrade = Call { upgrade: Some(HeaderValue::from_static("websocket")), ..get("/") };
        let answer = upgrade.send(&pools, &upstream, &mut HeaderMap::new()).await.unwrap();
        assert!(matches!(answer, Answer::Switched(_)));

        let only1 = secured.upstream(|config| config.protocol = config::Protocol::Http1);
        assert_eq!(fetch(&pools, &only1, get("/")).await.unwrap().body, "ok");
    })
    .await;
}

#[tokio::test]
async fn http2_that_was_demanded_is_not_replaced_by_http1_and_is_tried_once_for_all_who_wait() {
    on_worker(async || {
        let secured = Secured::start(&[]).await;
        let (pools, upstream) = (Pools::new(), secured.upstream(|config| config.protocol = config::Protocol::Http2));
        let outcomes = tokio::join!(fetch(&pools, &upstream, get("/1")), fetch(&pools, &upstream, get("/2")));
        assert_eq!(outcomes.0.unwrap_err(), "the upstream cannot be reached: `localhost` does not speak HTTP/2");
        let other = "the upstream cannot be reached: the connection that another request was opening failed";
        assert_eq!(outcomes.1.unwrap_err(), other);
        assert_eq!(secured.fake.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_ends_without_a_close_notify_is_not_whole() {
    on_worker(async || {
        let secured = Secured::start(&[]).await;
        let error = fetch(&Pools::new(), &secured.upstream(|_| {}), get("/close")).await.unwrap_err();
        assert!(error.starts_with("the connection to the upstream broke"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_verified_is_an_error_at_once() {
    on_worker(async || {
        let secured = Secured::start(&[]).await;
        let config = secured.upstream(|_| {}).config.clone();
        let missing = config::Upstream {
            tls: config::UpstreamTls { ca: Some(secured.directory.path().join("none.pem")), ..config.tls.clone() },
            ..(*config).clone()
        };
        assert!(matches!(Upstream::new(Arc::new(missing), UpstreamMetrics::default()), Err(UpstreamError::Tls { .. })));
        let mut unnamed = (*config).clone();
        unnamed.tls.server_name = Some("no name".to_owned());
        assert!(matches!(
            Upstream::new(Arc::new(unnamed), UpstreamMetrics::default()),
            Err(UpstreamError::ServerName { .. })
        ));
    })
    .await;
}
