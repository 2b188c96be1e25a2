//! Which connections carry another request.

use super::{Call, Fake, fetch, get, on_worker, request, respond};
use crate::upstream::{Pools, RequestBody};
use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body_util::BodyExt;
use std::time::Duration;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn one_connection_carries_request_after_request_byte_for_byte() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        let mut first = get("/a%2Fb/../c?q=%20&x=[1]");
        first.fields =
            [("x-auth-user", "anna"), ("content-length", "7"), ("transfer-encoding", "chunked"), ("host", "x")]
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .into();
        let put = Call { body: RequestBody::Full(Bytes::new()), ..request(Method::POST, "/p") };
        for request in [first, put] {
            assert_eq!(fetch(&pools, &upstream, request).await.unwrap().body, "ok");
        }
        assert_eq!(fake.connections(), 1);
        assert_eq!(
            fake.notes(),
            [
                "GET /a%2Fb/../c?q=%20&x=[1] HTTP/1.1\r\nhost: orders.example\r\nx-auth-user: anna",
                "POST /p HTTP/1.1\r\nhost: orders.example\r\ncontent-length: 0",
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_not_reused_after_an_answer_that_ends_it() {
    on_worker(async || {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nConnection: x-a, Close\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            // Bytes behind the end of the message:
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok",
        ] {
            let fake = Fake::canned(answer).await;
            let (pools, upstream) = (Pools::new(), fake.upstream());
            for round in 1..=2 {
                let body = fetch(&pools, &upstream, get("/")).await.expect(answer).body;
                assert!(body.is_empty() || body == "ok", "{answer:?}: {body:?}");
                assert_eq!(pools.idle_connections(), 0, "{answer:?}");
                assert_eq!(fake.connections(), round, "{answer:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_given_to_nobody() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            while peer.read_head().await.is_some() {
                peer.write(OK).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned").await;
                notes.add("late");
            }
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        for (round, method) in [Method::GET, Method::POST, Method::GET].into_iter().enumerate() {
            assert_eq!(fetch(&pools, &upstream, request(method, "/")).await.unwrap().body, "ok");
            assert_eq!(fake.connections(), round + 1);
            while fake.notes().len() <= round {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_used() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            peer.write(OK).await;
            drop(peer);
            notes.add("closed");
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        for round in 1..=2 {
            // A POST is not repeated, so that using the dead connection would show.
            assert_eq!(fetch(&pools, &upstream, request(Method::POST, "/")).await.unwrap().body, "ok");
            assert_eq!(fake.connections(), round);
            fake.noted("closed").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_dropped_halfway_closes_the_connection() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await;
            peer.read_rest().await;
            notes.add("closed");
        })
        .await;
        let pools = Pools::new();
        let mut body = respond(&pools, &fake.upstream(), get("/")).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
        drop(body);
        fake.noted("closed").await;
        assert_eq!(pools.idle_connections(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_future_that_is_dropped_closes_the_connection() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            notes.add("asked");
            peer.read_rest().await;
            notes.add("closed");
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        tokio::select! {
            _ = respond(&pools, &upstream, get("/")) => panic!("answered"),
            () = fake.noted("asked") => {}
        }
        fake.noted("closed").await;
    })
    .await;
}

#[tokio::test]
async fn no_more_connections_are_kept_than_allowed() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let (pools, upstream) = (Pools::new(), fake.upstream_with(|config| config.max_idle_connections = 2));
        let answers = tokio::join!(
            fetch(&pools, &upstream, get("/1")),
            fetch(&pools, &upstream, get("/2")),
            fetch(&pools, &upstream, get("/3")),
        );
        assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
        assert_eq!((fake.connections(), pools.idle_connections()), (3, 2));
        fake.noted("end").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_closes_what_has_been_idle_too_long_or_was_closed() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let closing = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            peer.write(OK).await;
            drop(peer);
            notes.add("closed");
        })
        .await;
        let pools = Pools::new();
        fetch(&pools, &fake.upstream(), get("/")).await.unwrap();
        fetch(&pools, &closing.upstream(), get("/")).await.unwrap();
        closing.noted("closed").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        pools.sweep();
        assert_eq!(pools.idle_connections(), 1, "the open one stays");
        tokio::time::sleep(Duration::from_secs(31)).await;
        pools.sweep();
        assert_eq!(pools.idle_connections(), 0);
        fake.noted("end").await;
    })
    .await;
}

#[tokio::test]
async fn connections_of_one_configuration_are_not_used_for_another() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let pools = Pools::new();
        fetch(&pools, &fake.upstream(), get("/")).await.unwrap();
        fetch(&pools, &fake.upstream(), get("/")).await.unwrap();
        assert_eq!(fake.connections(), 2);
    })
    .await;
}
