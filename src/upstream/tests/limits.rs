//! The circuit breaker, and how long a connection is used.

use super::http2::echo;
use super::{Fake, OK, fetch, get, on_worker, respond};
use crate::base::tick::TICK;
use crate::config::{CircuitBreaker, Protocol};
use crate::upstream::{Pools, Upstream};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

fn limited(fake: &Fake, circuit_breaker: CircuitBreaker) -> Arc<Upstream> {
    fake.upstream_with(|config| config.circuit_breaker = circuit_breaker)
}

/// Answers with a head at once, and with the body when `wait` is over.
async fn slow(wait: Duration) -> Fake {
    Fake::start(move |mut peer, notes| async move {
        while peer.read_head().await.is_some() {
            notes.add("asked");
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
            tokio::time::sleep(wait).await;
            peer.write("ok").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_at_once_and_one_that_has_ended_makes_room() {
    on_worker(async || {
        let (fake, pools) = (slow(Duration::from_secs(3600)).await, Pools::new());
        let upstream = limited(&fake, CircuitBreaker { max_requests: Some(2), ..CircuitBreaker::default() });
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(respond(&pools, &upstream, get("/")).await.unwrap());
        }
        let error = fetch(&Pools::new(), &upstream, get("/")).await.unwrap_err();
        assert_eq!(error, "`circuit_breaker.max_requests` of the upstream is reached");
        assert_eq!((fake.notes().len(), upstream.shared.metrics.requests_overflows.get()), (2, 1));
        open.pop();
        respond(&pools, &upstream, get("/")).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_connection_and_takes_the_one_that_is_free() {
    on_worker(async || {
        let (fake, pools) = (slow(Duration::from_secs(1)).await, Pools::new());
        let upstream = limited(
            &fake,
            CircuitBreaker { max_connections: Some(1), max_pending_requests: Some(1), max_requests: None },
        );
        let (one, other, third) = tokio::join!(
            fetch(&pools, &upstream, get("/1")),
            fetch(&pools, &upstream, get("/2")),
            fetch(&pools, &upstream, get("/3")),
        );
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(third.unwrap_err(), "`circuit_breaker.max_pending_requests` of the upstream is reached");
        assert_eq!((fake.connections(), fake.notes().len()), (1, 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_for_a_connection_than_it_may_take_to_open_one() {
    on_worker(async || {
        let (fake, pools) = (slow(Duration::from_secs(3600)).await, Pools::new());
        let upstream = limited(
            &fake,
            CircuitBreaker { max_connections: Some(1), max_pending_requests: Some(9), max_requests: None },
        );
        let _open = respond(&pools, &upstream, get("/")).await.unwrap();
        let start = Instant::now();
        let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert_eq!(error, "`circuit_breaker.max_connections` of the upstream is reached");
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(2) && took <= Duration::from_secs(2) + 5 * TICK, "{took:?}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_idle_in_one_worker_is_closed_for_another() {
    on_worker(async || {
        let (fake, here, there) = (Fake::canned(OK).await, Pools::new(), Pools::new());
        let upstream = limited(
            &fake,
            CircuitBreaker { max_connections: Some(1), max_pending_requests: Some(9), max_requests: None },
        );
        fetch(&here, &upstream, get("/")).await.unwrap();
        let sweep = async {
            while here.idle_connections() > 0 {
                tokio::task::yield_now().await;
                here.sweep();
            }
        };
        let (answer, ()) = tokio::join!(fetch(&there, &upstream, get("/")), sweep);
        assert_eq!((answer.unwrap().body.as_ref(), fake.connections()), (&b"ok"[..], 2));
    })
    .await;
}

#[tokio::test]
async fn a_connection_carries_no_more_requests_than_it_may() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let http2 = Fake::start(|peer, notes| echo(TokioIo::new(peer.io), peer.number, notes)).await;
        let of = |fake: &Fake, protocol| {
            fake.upstream_with(|config| {
                config.max_requests_per_connection = Some(2);
                config.protocol = protocol;
            })
        };
        let pools = Pools::new();
        for (fake, upstream) in [(&fake, of(&fake, Protocol::Http1)), (&http2, of(&http2, Protocol::Http2))] {
            for _ in 0..5 {
                fetch(&pools, &upstream, get("/")).await.unwrap();
            }
            assert_eq!(fake.connections(), 3);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_too_old_ends_with_what_it_is_carrying() {
    on_worker(async || {
        let (fake, pools) = (slow(Duration::from_secs(15)).await, Pools::new());
        let upstream = fake.upstream_with(|config| config.max_connection_age = Some(Duration::from_secs(10)));
        let answer = respond(&pools, &upstream, get("/")).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
        assert_eq!(pools.idle_connections(), 0);

        let quick = Fake::canned(OK).await;
        let upstream = quick.upstream_with(|config| config.max_connection_age = Some(Duration::from_secs(10)));
        for (after, connections) in [(0, 1), (5, 1), (6, 2), (5, 2)] {
            tokio::time::sleep(Duration::from_secs(after)).await;
            pools.sweep();
            fetch(&pools, &upstream, get("/")).await.unwrap();
            assert_eq!(quick.connections(), connections);
        }
    })
    .await;
}
