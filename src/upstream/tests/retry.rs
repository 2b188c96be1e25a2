//! Requests that are sent again with `retry`, and those that are not.

use super::{Call, Fake, OK, RESPONSE_TIMEOUT, fetch, get, on_worker, request};
use crate::base::tick::TICK;
use crate::config::{self, Retry};
use crate::upstream::{Pools, RequestBody, Upstream};
use bytes::Bytes;
use http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

fn retry() -> Retry {
    Retry {
        max_retries: 2,
        statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
        per_try_timeout: None,
        budget_percent: 20,
        min_retries_per_second: 1000,
    }
}

fn over(fakes: &[&Fake], retry: Retry) -> Arc<Upstream> {
    let change = |config: &mut config::Upstream| {
        config.targets = fakes.iter().map(|fake| fake.target()).collect();
        config.retry = Some(retry);
    };
    fakes[0].upstream_with(change)
}

/// Reads a request and closes the connection.
async fn breaking() -> Fake {
    Fake::start(|mut peer, notes| async move {
        if let Some(head) = peer.read_head().await {
            notes.add(head);
        }
    })
    .await
}

/// Reads a request, writes this and closes the connection.
async fn answering(bytes: &'static str) -> Fake {
    Fake::start(move |mut peer, notes| async move {
        if let Some(head) = peer.read_head().await {
            notes.add(head);
            peer.write(bytes).await;
        }
    })
    .await
}

/// Reads a request and says nothing.
async fn mute() -> Fake {
    Fake::start(|mut peer, notes| async move {
        if let Some(head) = peer.read_head().await {
            notes.add(head);
        }
        peer.read_rest().await;
    })
    .await
}

#[tokio::test]
async fn an_idempotent_request_goes_to_another_endpoint_if_the_connection_breaks() {
    on_worker(async || {
        let (bad, good, pools) = (breaking().await, Fake::canned(OK).await, Pools::new());
        let upstream = over(&[&bad, &good], retry());
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            for _ in 0..10 {
                assert_eq!(fetch(&pools, &upstream, request(method.clone(), "/")).await.unwrap().body, "ok");
            }
        }
        let broken = bad.notes().len();
        assert!(broken > 0 && good.notes().len() == 30);
        assert_eq!(upstream.shared.metrics.retries.get(), broken as u64);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_sent_once() {
    on_worker(async || {
        let (bad, good, pools) = (breaking().await, Fake::canned(OK).await, Pools::new());
        let busy = Fake::canned("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        let upstream = over(&[&bad, &good, &busy], retry());
        let mut failed = 0;
        for number in 0..40 {
            let body = if number % 2 == 0 { RequestBody::Empty } else { RequestBody::Full(Bytes::from_static(b"x")) };
            let once = Call { body, ..request(Method::POST, "/") };
            failed += usize::from(fetch(&pools, &upstream, once).await.is_err());
        }
        assert!(failed > 0);
        assert_eq!((bad.notes().len(), upstream.shared.metrics.retries.get()), (failed, 0));
        let heads = [bad, good, busy].map(|fake| fake.notes().into_iter().filter(|note| note.contains("POST")).count());
        assert_eq!(heads.iter().sum::<usize>(), 40);
    })
    .await;
}

#[tokio::test]
async fn an_idempotent_request_goes_to_another_endpoint_if_the_head_of_the_answer_breaks_off_or_is_none() {
    on_worker(async || {
        let two_lengths = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        for head in ["HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Le", "\u{1}garbage\r\n\r\n", two_lengths] {
            let (bad, good, pools) = (answering(head).await, Fake::canned(OK).await, Pools::new());
            let upstream = over(&[&bad, &good], retry());
            while bad.notes().len() < 2 {
                assert_eq!(fetch(&pools, &upstream, get("/")).await.unwrap().body, "ok", "{head}");
            }
            // What may have had an effect does not.
            let asked = bad.notes().len();
            while bad.notes().len() == asked {
                let outcome = fetch(&pools, &upstream, request(Method::POST, "/")).await;
                assert_eq!(outcome.is_err(), bad.notes().len() > asked, "{head}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_is_sent_again_once_the_head_of_an_answer_was_passed_on() {
    on_worker(async || {
        let early = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        let upstream = over(&[&early], retry());
        fetch(&Pools::new(), &upstream, get("/")).await.unwrap_err();
        assert_eq!(early.notes().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn listed_statuses_are_tried_again_and_others_are_passed_on() {
    on_worker(async || {
        let (good, pools) = (Fake::canned(OK).await, Pools::new());
        let busy = Fake::canned("HTTP/1.1 503 Busy\r\nX-Busy: 1\r\nContent-Length: 4\r\n\r\nbusy").await;
        let upstream = over(&[&busy, &good], retry());
        for _ in 0..20 {
            let answer = fetch(&pools, &upstream, get("/")).await.unwrap();
            assert!(answer.body == "ok" && !answer.fields.contains_key("x-busy"));
        }
        assert!(!busy.notes().is_empty());
        // Whoever stays busy is believed in the end.
        let upstream = over(&[&busy], retry());
        let asked = busy.notes().len();
        let answer = fetch(&pools, &upstream, get("/")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (503, &b"busy"[..]));
        assert_eq!(busy.notes().len(), asked + 3);
    })
    .await;
}

#[tokio::test]
async fn the_budget_has_the_last_word() {
    on_worker(async || {
        let (bad, pools) = (breaking().await, Pools::new());
        let upstream = over(&[&bad], Retry { budget_percent: 20, min_retries_per_second: 0, ..retry() });
        for _ in 0..100 {
            fetch(&pools, &upstream, get("/")).await.unwrap_err();
        }
        let metrics = &upstream.shared.metrics;
        assert_eq!((bad.notes().len(), metrics.retries.get()), (120, 20));
        assert!(metrics.retries_denied.get() >= 80);
    })
    .await;
}

#[tokio::test]
async fn a_single_endpoint_is_tried_again_after_a_moment() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, _| async move {
            while peer.read_head().await.is_some() && peer.number > 1 {
                peer.write(OK).await;
            }
        })
        .await;
        assert_eq!(fetch(&Pools::new(), &over(&[&fake], retry()), get("/")).await.unwrap().body, "ok");
        assert_eq!(fake.connections(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    on_worker(async || {
        let (slow, good, pools) = (mute().await, Fake::canned(OK).await, Pools::new());
        let upstream = over(&[&slow, &good], Retry { per_try_timeout: Some(Duration::from_secs(2)), ..retry() });
        while slow.notes().is_empty() {
            let start = Instant::now();
            fetch(&pools, &upstream, get("/")).await.unwrap();
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_tries_together_have_the_time_of_one_request() {
    on_worker(async || {
        let slow = mute().await;
        let per_try_timeout = Some(Duration::from_secs(12));
        let upstream = over(&[&slow], Retry { per_try_timeout, max_retries: 9, ..retry() });
        let start = Instant::now();
        fetch(&Pools::new(), &upstream, get("/")).await.unwrap_err();
        let took = start.elapsed();
        assert!(took + TICK >= RESPONSE_TIMEOUT && took <= RESPONSE_TIMEOUT + 20 * TICK, "{took:?}");
        assert_eq!(slow.notes().len(), 3);
    })
    .await;
}
