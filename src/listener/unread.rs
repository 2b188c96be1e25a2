//! Answers over HTTP/2 that wait for their client. Flow control is the library's: a client that opens no window leaves no write waiting,
//! so only this shows it.

use super::activity::Activity;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The body of an answer, which tells its connection whether something of it waits for the client.
#[derive(Debug)]
pub(super) struct Unread<B> {
    body: B,
    activity: Arc<Activity>,
    is_waiting: bool,
}

impl<B> Unread<B> {
    pub(super) fn new(body: B, activity: Arc<Activity>) -> Self {
        Self { body, activity, is_waiting: false }
    }

    fn note(&mut self, is_waiting: bool) {
        if self.is_waiting != is_waiting {
            self.is_waiting = is_waiting;
            self.activity.wait_for_client(is_waiting);
        }
    }
}

impl<B> Drop for Unread<B> {
    fn drop(&mut self) {
        self.note(false);
    }
}

impl<B: Body + Unpin> Body for Unread<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        // The next piece is asked for when the one before has found room.
        self.note(false);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.note(true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
