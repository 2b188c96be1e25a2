//! Bodies that come at once, in pieces, or break off.

use bytes::Bytes;
use http_body::{Body, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// A body that is fed.
pub(crate) struct Feed(mpsc::UnboundedReceiver<io::Result<Bytes>>);

/// Who feeds it.
pub(crate) struct Feeder(mpsc::UnboundedSender<io::Result<Bytes>>);

impl Feeder {
    pub(crate) fn send(&self, bytes: Bytes) -> Result<(), mpsc::error::SendError<io::Result<Bytes>>> {
        self.0.send(Ok(bytes))
    }

    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Ends the connection after what was sent.
    pub(crate) async fn cut(self) {
        // Later: what is not flushed when a body fails is not sent at all.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let _ = self.0.send(Err(io::Error::other("cut off")));
    }
}

impl Feed {
    pub(crate) fn channel() -> (Feeder, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Feeder(sender), Self(receiver))
    }

    pub(crate) fn whole(bytes: Vec<u8>) -> Self {
        let (feeder, feed) = Self::channel();
        let _ = feeder.send(bytes.into());
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
