//! Handshakes take turns, so that many that begin at once keep nobody waiting who is already connected.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Hellos that are answered before the worker looks at what else came in. One is a signature and a key agreement: the time of
/// about ten requests.
const AT_ONCE: usize = 4;

/// The turns of one worker.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Turns {
    /// Runs a handshake for which the client's hello has arrived. Its first step, which is nearly all of the work, is a turn.
    /// Nothing that is waited for from the client is part of one: a client that is slow, or silent, holds up nobody.
    pub async fn take<F: Future>(&self, handshake: F) -> F::Output {
        let mut handshake = pin!(handshake);
        let turn = self.0.acquire().await;
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await {
            return done;
        }
        // It goes on after the runtime has asked the system what came in.
        yield_now().await;
        drop(turn);
        handshake.await
    }
}

#[cfg(test)]
mod tests {
    use crate::base::tls::client_config;
    use crate::listener::bind;
    use crate::listener::connection::tests::listeners;
    use rustls::ClientConnection;
    use rustls::pki_types::ServerName;
    use std::fs;
    use std::io::Write;
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};
    use tokio_rustls::TlsConnector;

    const STRANGERS: usize = 60;

    #[test]
    fn who_is_connected_does_not_wait_for_all_handshakes_that_began_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(directory.path().join("cert.pem"), pair.cert.pem()).unwrap();
        fs::write(directory.path().join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
        let config = client_config(Some(&directory.path().join("cert.pem")), None, &[b"http/1.1"]).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let tls = "tls = { certificate = 'cert.pem', key = 'key.pem' }\n";
            let listeners = listeners(tls, &directory.path().join("postern.toml"));
            let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let address = socket.local_addr().unwrap();
            spawn_local(listeners.run(socket));
            let friend = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut friend = TlsConnector::from(Arc::clone(&config)).connect(name.clone(), friend).await.unwrap();
            let mut ask = async || {
                friend.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\nok") {
                    assert_ne!(friend.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
                }
            };
            ask().await;

            let stranger = |_| {
                let mut hello = Vec::new();
                ClientConnection::new(Arc::clone(&config), name.clone()).unwrap().write_tls(&mut hello).unwrap();
                let mut stranger = TcpStream::connect(address).unwrap();
                stranger.write_all(&hello).unwrap();
                stranger.set_nonblocking(true).unwrap();
                stranger
            };
            let strangers: Vec<_> = (0..STRANGERS).map(stranger).collect();
            let greeted = || strangers.iter().filter(|stranger| stranger.peek(&mut [0]).is_ok()).count();
            while greeted() == 0 {
                yield_now().await;
            }
            ask().await;
            assert!(greeted() <= STRANGERS / 3, "{} were greeted first", greeted());
            while greeted() < STRANGERS {
                yield_now().await;
            }
        });
    }
}
