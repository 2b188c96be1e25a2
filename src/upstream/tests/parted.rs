//! Streaming answers that are ended from outside.

use super::{Fake, get, on_worker, respond};
use crate::base::tick::{Deadline, TICK};
use crate::telemetry::reason::Reason;
use crate::upstream::farewell::GRACE;
use crate::upstream::{Body, BodyError, CallDeadline, Cut, Pools};
use bytes::Bytes;
use http::HeaderValue;
use http_body::Body as _;
use http_body_util::BodyExt;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// An answer of which `first` has come, and whose upstream sends `second` when it is told to.
struct Answer {
    fake: Fake,
    go: Rc<Notify>,
    body: Body,
    _pools: Pools,
}

impl Answer {
    async fn begin(content_type: &HeaderValue, first: &'static str, second: &'static str) -> Self {
        let go = Rc::new(Notify::new());
        let told = Rc::clone(&go);
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let fake = Fake::start(move |mut peer, notes| {
            let told = Rc::clone(&told);
            async move {
                peer.read_head().await;
                peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                peer.write(chunk(first)).await;
                told.notified().await;
                peer.write(chunk(second)).await;
                peer.read_rest().await;
                notes.add("closed");
            }
        })
        .await;
        let pools = Pools::new();
        let body = respond(&pools, &fake.upstream(), get("/")).await.unwrap().into_body();
        assert!(body.is_open_ended());
        let body = body.in_parts(Some(content_type), true, None);
        let mut answer = Self { fake, go, body, _pools: pools };
        assert_eq!(answer.data().await, first);
        answer
    }

    async fn data(&mut self) -> Bytes {
        self.body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    /// The status and message that are next, and last.
    async fn status(&mut self) -> String {
        let fields = self.body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert!(self.body.frame().await.is_none());
        format!("{} {}", fields["grpc-status"].to_str().unwrap(), fields["grpc-message"].to_str().unwrap())
    }
}

#[tokio::test]
async fn a_call_that_is_cut_between_messages_has_its_status_at_once() {
    on_worker(async || {
        let mut answer = Answer::begin(&GRPC, "\0\0\0\0\x01a", "\0\0\0\0\x01b").await;
        let rest = answer.body.cut(Reason::UserInactive);
        assert!(matches!(rest, Body::Http1(_)) && !answer.body.is_finishing());
        drop(rest);
        answer.go.notify_one();
        assert_eq!(answer.status().await, "16 user_inactive: The user or the session is no longer active");
        assert_eq!((answer.body.ended(), answer.body.is_end_stream()), (Some(Reason::UserInactive), false));
        answer.fake.noted("closed").await;
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_half_way_is_finished_and_no_later_one_passes() {
    on_worker(async || {
        let mut answer = Answer::begin(&GRPC, "\0\0\0\0\x01a\0\0", "\0\0\x02ab\0\0\0\0\x01c").await;
        assert!(matches!(answer.body.cut(Reason::TokenExpired), Body::Empty) && answer.body.is_finishing());
        // What was said first stays.
        assert!(matches!(answer.body.cut(Reason::UserInactive), Body::Empty));
        answer.go.notify_one();
        assert_eq!(answer.data().await, "\0\0\x02ab");
        assert_eq!(answer.status().await, "16 token_expired: The token has expired");
        answer.fake.noted("closed").await;
    })
    .await;
}

#[tokio::test]
async fn an_event_stream_ends_between_two_events() {
    on_worker(async || {
        let mut answer = Answer::begin(&EVENTS, "data: 1\n\ndata", ": 2\n\ndata: 3\n\n").await;
        drop(answer.body.cut(Reason::UserInactive));
        answer.go.notify_one();
        assert_eq!(answer.data().await, ": 2\n\n");
        assert!(answer.body.frame().await.is_none());
        answer.fake.noted("closed").await;
    })
    .await;
}

#[tokio::test]
async fn what_has_no_parts_breaks_off() {
    on_worker(async || {
        let mut answer = Answer::begin(&HeaderValue::from_static("text/plain"), "one\n\n", "two\n\n").await;
        assert!(matches!(answer.body.cut(Reason::UserInactive), Body::Http1(_)));
        assert!(matches!(answer.body.frame().await, Some(Err(BodyError::Cut(Reason::UserInactive)))));
        answer.go.notify_one();
        answer.fake.noted("closed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_takes_too_long_breaks_off_whether_it_is_read_or_not() {
    on_worker(async || {
        for is_read in [true, false] {
            let mut answer = Answer::begin(&EVENTS, "data: 1", "").await;
            drop(answer.body.cut(Reason::UserInactive));
            let start = Instant::now();
            if !is_read {
                assert!(matches!(answer.body.give_up(), Body::Empty));
                tokio::time::sleep(GRACE + 3 * TICK).await;
                assert!(matches!(answer.body.give_up(), Body::Http1(_)));
            }
            assert!(matches!(answer.body.frame().await, Some(Err(BodyError::Cut(Reason::UserInactive)))));
            assert!(start.elapsed() >= GRACE && start.elapsed() <= GRACE + 5 * TICK, "{:?}", start.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_is_ended_and_its_request_with_it() {
    on_worker(async || {
        let mut answer = Answer::begin(&GRPC, "\0\0\0\0\x01a", "").await;
        let (limit, cut) = (Duration::from_secs(3), Rc::new(Cut::default()));
        let deadline = CallDeadline { at: Deadline::after(limit), cut: Rc::clone(&cut) };
        answer.body = std::mem::take(&mut answer.body).in_parts(Some(&GRPC), true, Some(deadline));
        let start = Instant::now();
        assert_eq!(answer.status().await, "4 upstream_timeout: The upstream did not answer in time");
        assert!(start.elapsed() >= limit && start.elapsed() <= limit + 5 * TICK, "{:?}", start.elapsed());
        assert_eq!(cut.reason(), Some(Reason::UpstreamTimeout));
    })
    .await;
}

#[tokio::test]
async fn whoever_sends_waits_until_the_part_has_come_to_its_end() {
    let cut = Rc::new(Cut::default());
    let sending = tokio::task::LocalSet::new();
    let watched = Rc::clone(&cut);
    let sender = sending.spawn_local(async move { std::future::poll_fn(|cx| watched.poll_sender(cx)).await });
    sending
        .run_until(async {
            tokio::task::yield_now().await;
            cut.set(Reason::UserInactive);
            cut.hold_sender();
            tokio::task::yield_now().await;
            assert!(!sender.is_finished());
            cut.release_sender();
            assert_eq!(sender.await.unwrap(), Reason::UserInactive);
        })
        .await;
}
