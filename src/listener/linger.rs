//! The end of a connection that its client may still be writing to.
//!
//! Closing a socket with unread bytes in it makes the system send a reset, and a reset makes the client's system throw away what it
//! has not read yet: the very answer that explains the end. So the sending side is closed, and what still comes is read and
//! forgotten for a moment (RFC 9112 §9.6).

use crate::base::tick::Deadline;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long a client may take to notice the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much of what it still sends is read.
const MOST_BYTES: usize = 1024 * 1024;

/// Where a connection leaves its socket when it is dropped before its client closed it.
#[derive(Debug)]
pub(super) struct Remains<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Remains<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Remains<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Remains<T> {
    pub(super) fn leave(&self, socket: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Remains<T> {
    /// Lets the client read to the end of what it was sent.
    pub(super) async fn linger(self) {
        let Some(mut socket) = self.take() else { return };
        let farewell = async move {
            socket.shutdown().await.ok()?;
            let mut scratch = vec![0; 8 * 1024];
            let mut left = MOST_BYTES;
            while left > 0 {
                let read = socket.read(&mut scratch).await.ok().filter(|read| *read > 0)?;
                left = left.saturating_sub(read);
            }
            Some(())
        };
        // However it ends, there is nothing more to do.
        let _ = Deadline::after(PATIENCE).bound(farewell).await;
    }
}
