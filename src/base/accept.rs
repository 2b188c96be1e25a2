//! A listener that has no more than so many connections open.

use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// After this, accepting is tried again: the process may be out of file descriptors for a while.
const RETRY: Duration = Duration::from_millis(10);

/// A listener with a limit.
#[derive(Debug)]
pub struct LimitedListener {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl LimitedListener {
    /// At most `most` connections at a time: the next is accepted when there is room.
    pub fn new(listener: TcpListener, most: usize) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(most)) }
    }

    /// The next connection, and its place, to be held as long as it is open.
    pub async fn accept(&self) -> (TcpStream, OwnedSemaphorePermit) {
        let place = Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return (stream, place),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_more_waits_until_another_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limited = LimitedListener::new(listener, 1);
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (first, place) = limited.accept().await;
        let mut second = std::pin::pin!(limited.accept());
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err());
        drop((first, place));
        drop(second.await);
    }
}
