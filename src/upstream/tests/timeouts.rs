//! How long is waited for whom.

use super::upload::Client;
use super::{Call, Fake, RESPONSE_TIMEOUT, at, fetch, get, on_worker, request, respond};
use crate::base::tick::TICK;
use crate::upstream::{Pools, RequestBody};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

const IDLE: Duration = Duration::from_secs(25);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Neither early nor later than the ticks allow.
fn assert_after(start: Instant, limit: Duration) {
    let took = start.elapsed();
    assert!(took >= limit && took <= limit + 5 * TICK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_never_answers_is_given_up_and_not_asked_again() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            if peer.number == 0 {
                peer.read_head().await;
                peer.write(OK).await;
            }
            peer.read_rest().await;
            notes.add("closed");
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        fetch(&pools, &upstream, get("/")).await.unwrap();
        let start = Instant::now();
        let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert_eq!(error, "no answer from the upstream within 30s");
        assert_after(start, RESPONSE_TIMEOUT);
        fake.noted("closed").await;
        assert_eq!((fake.connections(), pools.idle_connections()), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_do_not_prolong_the_wait() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, _| async move {
            peer.read_head().await;
            for _ in 0..10 {
                peer.write("HTTP/1.1 103 Early Hints\r\n\r\n").await;
                tokio::time::sleep(Duration::from_secs(7)).await;
            }
            peer.write(OK).await;
        })
        .await;
        let start = Instant::now();
        fetch(&Pools::new(), &fake.upstream(), get("/")).await.unwrap_err();
        assert_after(start, RESPONSE_TIMEOUT);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_no_more_of_the_request_is_given_up() {
    on_worker(async || {
        let fake = Fake::silent().await;
        let upload = Call { body: RequestBody::Full(Bytes::from(vec![b'u'; 64 << 20])), ..request(Method::POST, "/") };
        let start = Instant::now();
        let error = fetch(&Pools::new(), &fake.upstream(), upload).await.unwrap_err();
        assert_eq!(error, "no answer from the upstream within 30s");
        assert_after(start, RESPONSE_TIMEOUT);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_is_no_error_but_a_silent_client_is() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            let mut body = [0; 10];
            if peer.io.read_exact(&mut body).await.is_ok() {
                peer.write(OK).await;
            }
            notes.add("over");
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream_with(|config| config.idle_timeout = IDLE));
        let mut client = Client::connect(&pools, &upstream, None);
        client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            client.write("u").await;
        }
        client.read_until("\r\n\r\nok").await;

        let mut client = Client::connect(&pools, &upstream, None);
        client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nu").await;
        let start = Instant::now();
        assert!(client.error().await.ends_with("the client sent nothing for 25s"));
        assert_after(start, IDLE);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_may_take_its_time_but_not_fall_silent() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, _| async move {
            peer.read_head().await;
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n").await;
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                peer.write(".").await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let mut body = respond(&Pools::new(), &fake.upstream_with(|config| config.idle_timeout = IDLE), get("/"))
            .await
            .unwrap()
            .into_body();
        for _ in 0..10 {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ".");
        }
        let start = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the upstream sent nothing for 25s");
        assert_after(start, IDLE);
        assert!(body.frame().await.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_late_is_no_silence_of_the_upstream() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, _| async move {
            peer.read_head().await;
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            peer.write("b").await;
            tokio::time::sleep(Duration::from_secs(100)).await;
            peer.write("c").await;
            std::future::pending::<()>().await;
        })
        .await;
        let mut body = respond(&Pools::new(), &fake.upstream_with(|config| config.idle_timeout = IDLE), get("/"))
            .await
            .unwrap()
            .into_body();
        let mut next = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(next().await, "a");
        assert_eq!(next().await, "b");
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(next().await, "c");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tls_handshake_that_hangs_is_a_connect_timeout() {
    on_worker(async || {
        let fake = Fake::silent().await;
        let upstream = fake.upstream_with(|config| config.is_tls = true);
        let start = Instant::now();
        let error = fetch(&Pools::new(), &upstream, get("/")).await.unwrap_err();
        assert_eq!(error, "no connection to the upstream within 2s");
        assert_after(start, Duration::from_secs(2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_swallows_packets_is_a_connect_timeout() {
    on_worker(async || {
        // A listener whose queue is full drops what asks for a connection.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
            queued.push(stream);
        }
        let fake = Fake::silent().await;
        for host in ["127.0.0.1", "localhost"] {
            let upstream = fake.upstream_with(|config| {
                config.targets = vec![at(host, address.port())];
            });
            let error = fetch(&Pools::new(), &upstream, get("/")).await.unwrap_err();
            assert_eq!(error, "no connection to the upstream within 2s", "{host}");
        }
    })
    .await;
}
