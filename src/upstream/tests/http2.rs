//! HTTP/2 in clear text, against hyper's server.

use super::upload::Client;
use super::{Call, Fake, Notes, Peer, RESPONSE_TIMEOUT, chain, fetch, get, on_worker, request};
use crate::config::Protocol;
use crate::upstream::http2::LocalExecutor;
use crate::upstream::{Body, Pools, RequestBody, Upstream};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Echoes bodies, with trailers; `/hang` never answers, `/last` is the last that its connection answers.
pub(super) async fn echo<I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static>(io: I, number: usize, notes: Notes) {
    let last = Rc::new(Notify::new());
    let notify = last.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (notes, notify) = (notes.clone(), notify.clone());
        async move {
            let te = request.headers().get("te").map_or("", |te| te.to_str().unwrap());
            notes.add(format!("{number} {} {} te={te}", request.method(), request.uri()));
            match request.uri().path() {
                "/hang" => std::future::pending::<()>().await,
                "/last" => notify.notify_one(),
                _ => {}
            }
            let body = request.into_body().collect().await.inspect_err(|_| notes.add("broken body"))?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            trailers.insert("authorization", HeaderValue::from_static("forged"));
            let answer = Full::new(body.to_bytes()).with_trailers(async { Some(Ok::<_, Infallible>(trailers)) });
            Ok::<_, hyper::Error>(Response::new(answer))
        }
    });
    let mut connection =
        std::pin::pin!(hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(io, service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = last.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn fake() -> Fake {
    Fake::start(|peer: Peer, notes| echo(TokioIo::new(peer.io), peer.number, notes)).await
}

fn over_http2(fake: &Fake) -> Arc<Upstream> {
    fake.upstream_with(|config| config.protocol = Protocol::Http2)
}

#[tokio::test]
async fn requests_share_a_connection_and_trailers_pass() {
    on_worker(async || {
        let fake = fake().await;
        let (pools, upstream) = (Pools::new(), over_http2(&fake));
        let call = |te: &'static str| Call {
            fields: vec![
                ("te".parse().unwrap(), HeaderValue::from_static(te)),
                ("connection".parse().unwrap(), HeaderValue::from_static("close")),
            ],
            body: RequestBody::Full(Bytes::from_static(b"ping")),
            ..request(Method::POST, "/a%2Fb?c=d")
        };
        let answers =
            tokio::join!(fetch(&pools, &upstream, call("gzip, trailers")), fetch(&pools, &upstream, call("gzip")));
        for answer in [answers.0.unwrap(), answers.1.unwrap()] {
            assert_eq!(answer.body, "ping");
            assert_eq!(answer.trailers.len(), 1);
            assert_eq!(answer.trailers["grpc-status"], "0");
        }
        assert_eq!(fake.connections(), 1);
        let mut notes = fake.notes();
        notes.sort_unstable();
        let line = "0 POST http://orders.example/a%2Fb?c=d";
        assert_eq!(notes, [format!("{line} te="), format!("{line} te=trailers")]);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_goes_away_is_replaced() {
    on_worker(async || {
        let fake = Fake::start(|peer: Peer, notes: Notes| async move {
            let number = peer.number;
            echo(TokioIo::new(peer.io), number, notes.clone()).await;
            notes.add(format!("{number} closed"));
        })
        .await;
        let (pools, upstream) = (Pools::new(), over_http2(&fake));
        for round in 0..3 {
            // A POST is not repeated, so that using the closed connection would show.
            fetch(&pools, &upstream, request(Method::POST, "/last")).await.unwrap();
            assert_eq!(fake.connections(), round + 1);
            fake.noted(&format!("{round} closed")).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_answers_is_replaced() {
    on_worker(async || {
        let fake = fake().await;
        let (pools, upstream) = (Pools::new(), over_http2(&fake));
        let start = Instant::now();
        let error = fetch(&pools, &upstream, get("/hang")).await.unwrap_err();
        assert_eq!(error, "no answer from the upstream within 30s");
        assert!(start.elapsed() >= RESPONSE_TIMEOUT);
        fetch(&pools, &upstream, get("/")).await.unwrap();
        assert_eq!(fake.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_the_client_breaks_off_resets_its_stream_only() {
    on_worker(async || {
        let fake = fake().await;
        let (pools, upstream) = (Pools::new(), over_http2(&fake));
        let mut client = Client::connect(&pools, &upstream, None);
        client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf").await;
        drop(std::mem::replace(&mut client.io, tokio::io::duplex(1).0));
        // hyper drops the request with the client's connection, or the body reports the break first.
        fake.noted("broken body").await;
        fetch(&pools, &upstream, get("/")).await.unwrap();
        assert_eq!(fake.connections(), 1);

        let mut client = Client::connect(&pools, &upstream, Some(4));
        client.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
        assert!(client.error().await.ends_with("larger than 4 bytes"));
    })
    .await;
}

#[tokio::test]
async fn an_upload_of_any_size_is_echoed() {
    on_worker(async || {
        let fake = fake().await;
        let (pools, upstream) = (Pools::new(), over_http2(&fake));
        let data = Bytes::from(vec![b'x'; 5 << 20]);
        let call = Call { body: RequestBody::Full(data.clone()), ..request(Method::POST, "/") };
        assert_eq!(fetch(&pools, &upstream, call).await.unwrap().body, data);
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_over_http2_is_asked_for_only_if_it_is_known_to_be_taken() {
    on_worker(async || {
        let fake = fake().await;
        let (pools, upstream) = (Pools::new(), over_http2(&fake));
        for (protocol, said) in [("websocket", "takes no WebSocket"), ("SPDY/3.1", "no protocol upgrade")] {
            let upgrade = Call { upgrade: Some(HeaderValue::from_static(protocol)), ..get("/") };
            let error = upgrade.send(&pools, &upstream, &mut HeaderMap::new()).await.unwrap_err();
            assert!(chain(&error).contains(said), "{}", chain(&error));
        }
        assert!(fake.notes().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_let_go() {
    on_worker(async || {
        let fake = Fake::start(|peer: Peer, notes: Notes| async move {
            echo(TokioIo::new(peer.io), peer.number, notes.clone()).await;
            notes.add("closed");
        })
        .await;
        let (pools, upstream) = (Pools::new(), over_http2(&fake));
        pools.sweep();
        fetch(&pools, &upstream, get("/")).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(61)).await;
        pools.sweep();
        fake.noted("closed").await;
        assert!(matches!(Body::full(""), Body::Empty));
    })
    .await;
}
