//! A server on a socket that answers what a test says, in the place of Keycloak.

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::config;
use crate::issuer::keycloak::Keycloak;
use crate::issuer::tests::fake::introspection;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is answered to a path.
#[derive(Clone)]
pub(super) enum Reaction {
    Says(u16, String),
    Hangs,
    Closes,
    /// A body of so many bytes without an end in sight.
    Endless,
}

#[derive(Clone, Default)]
pub(super) struct Server {
    pub(super) url: String,
    reactions: Arc<Mutex<HashMap<String, Reaction>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { url: format!("http://{}", listener.local_addr().unwrap()), ..Self::default() };
        server.grant("first", 1_000, 3600);
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        server
    }

    pub(super) fn client(&self, clock: Clock, change: impl FnOnce(&mut config::Keycloak)) -> Keycloak {
        let mut status = config::Keycloak {
            introspection: introspection().introspection().unwrap().clone(),
            admin_url: format!("{}/admin/realms/demo", self.url).parse().unwrap(),
            max_calls_per_second: 100,
            end_sessions: None,
            backchannel_clients: None,
        };
        status.introspection.timeout = Duration::from_secs(20);
        change(&mut status);
        let issuer = crate::issuer::tests::fake::config(&format!("{}/realms/demo", self.url));
        Keycloak::new(&issuer, &status, clock).unwrap()
    }

    /// Answers a path, without its query.
    pub(super) fn answer(&self, path: &str, status: u16, body: impl Into<String>) {
        self.react(path, Reaction::Says(status, body.into()));
    }

    pub(super) fn react(&self, path: &str, reaction: Reaction) {
        self.reactions.lock().unwrap().insert(path.to_owned(), reaction);
    }

    /// The token that is given from now on, made at `issued` seconds.
    pub(super) fn grant(&self, name: &str, issued: u64, expires_in: u64) {
        let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":{issued},"name":"{name}"}}"#));
        let body =
            format!(r#"{{"access_token":"e30.{payload}.{name}","expires_in":{expires_in},"token_type":"Bearer"}}"#);
        self.answer(TOKEN, 200, body);
    }

    /// The heads of all requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Methods and paths of all requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        let line = |head: &String| head.split(" HTTP/1.1").next().unwrap_or_default().to_owned();
        self.requests().iter().map(line).collect()
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut text = Vec::new();
        loop {
            while !text.windows(4).any(|four| four == b"\r\n\r\n") {
                if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let end = text.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let raw = String::from_utf8(text.drain(..end).collect()).unwrap();
            let length: Option<usize> =
                raw.to_lowercase().split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            while text.len() < length.unwrap_or(0) {
                stream.read_buf(&mut text).await.unwrap();
            }
            text.drain(..length.unwrap_or(0));
            let target = raw.split(' ').nth(1).unwrap_or_default().to_owned();
            self.seen.lock().unwrap().push(raw);
            let path = target.split('?').next().unwrap_or_default();
            let exact = self.reactions.lock().unwrap().get(&target).cloned();
            let reaction = exact.or_else(|| self.reactions.lock().unwrap().get(path).cloned());
            let answer = match reaction.unwrap_or(Reaction::Says(404, r#"{"error":"HTTP 404 Not Found"}"#.to_owned())) {
                Reaction::Says(status, body) => {
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                }
                Reaction::Hangs => return std::future::pending().await,
                Reaction::Closes => return,
                Reaction::Endless => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[").await;
                    while stream.write_all(&[b' '; 65536]).await.is_ok() {}
                    return;
                }
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

pub(super) const TOKEN: &str = "/realms/demo/protocol/openid-connect/token";

pub(super) fn secret(text: &str) -> Secret {
    Secret::new(text)
}
