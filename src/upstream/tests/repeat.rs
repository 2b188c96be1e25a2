//! When a request is sent a second time.

use super::{Call, Fake, at, fetch, get, on_worker, request};
use crate::upstream::{Pools, RequestBody};
use bytes::Bytes;
use http::Method;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream whose every connection answers one request and then does `next` to the second.
async fn once_then(next: &'static str) -> Fake {
    Fake::start(move |mut peer, notes| async move {
        peer.read_head().await;
        notes.add("first");
        peer.write(OK).await;
        if peer.read_head().await.is_some() {
            notes.add("second");
            peer.write(next).await;
        }
    })
    .await
}

fn with_body(method: Method) -> Call {
    Call { body: RequestBody::Full(Bytes::from_static(b"{}")), ..request(method, "/") }
}

#[tokio::test]
async fn an_idempotent_request_is_repeated_once_on_a_fresh_connection_if_an_idle_one_broke() {
    on_worker(async || {
        for again in [get("/"), request(Method::DELETE, "/"), with_body(Method::PUT)] {
            let fake = once_then("").await;
            let (pools, upstream) = (Pools::new(), fake.upstream());
            // Two idle connections: the second attempt must not take the other one, which is no better.
            let (one, two) = tokio::join!(fetch(&pools, &upstream, get("/")), fetch(&pools, &upstream, get("/")));
            assert!(one.is_ok() && two.is_ok());
            assert_eq!(fetch(&pools, &upstream, again).await.unwrap().body, "ok");
            assert_eq!(fake.connections(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_not_repeated() {
    on_worker(async || {
        for once in [request(Method::POST, "/"), request(Method::PATCH, "/"), with_body(Method::POST)] {
            let fake = once_then("").await;
            let (pools, upstream) = (Pools::new(), fake.upstream());
            fetch(&pools, &upstream, get("/")).await.unwrap();
            fetch(&pools, &upstream, once).await.unwrap_err();
            assert_eq!((fake.connections(), fake.notes().len()), (1, 2));
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_is_repeated_once_a_byte_of_the_answer_came() {
    on_worker(async || {
        let fake = once_then("H").await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        fetch(&pools, &upstream, get("/")).await.unwrap();
        fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert_eq!(fake.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_not_tried_again() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, _| async move {
            if peer.number == 0 {
                peer.read_head().await;
                peer.write(OK).await;
            }
            peer.read_head().await;
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        fetch(&pools, &upstream, get("/")).await.unwrap();
        let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert!(error.contains("closed before the answer"), "{error}");
        assert_eq!(fake.connections(), 2, "the idle one, then one fresh one");
        fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert_eq!(fake.connections(), 3, "one fresh one");
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_unreachable() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let upstream = fake.upstream_with(|config| config.targets = vec![at("127.0.0.1", port)]);
        let error = fetch(&Pools::new(), &upstream, get("/")).await.unwrap_err();
        assert!(error.starts_with("the upstream cannot be reached"), "{error}");
    })
    .await;
}
