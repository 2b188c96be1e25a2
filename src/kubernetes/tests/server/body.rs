//! Bodies that come at once, in pieces, or break off.

use bytes::Bytes;
use http_body::{Body, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// A body that is fed.
pub(in super::super) struct Feed(mpsc::UnboundedReceiver<io::Result<Bytes>>);

impl Feed {
    pub(super) fn channel() -> (mpsc::UnboundedSender<io::Result<Bytes>>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        let (sender, feed) = Self::channel();
        let _ = sender.send(Ok(bytes.into()));
        feed
    }

    /// `first`, and then the end of the connection.
    pub(super) fn cut(first: Bytes) -> Self {
        let (sender, feed) = Self::channel();
        let _ = sender.send(Ok(first));
        // Later: what is not flushed when a body fails is not sent at all.
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let _ = sender.send(Err(io::Error::other("cut off")));
        });
        feed
    }
}

impl Body for Feed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|item| item.map(|item| item.map(Frame::data)))
    }
}
