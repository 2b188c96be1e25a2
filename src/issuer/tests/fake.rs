//! An issuer on a socket that signs nothing but publishes keys, counts, and can be ill in many ways.

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::config::{self, Algorithm, ClaimPath, IssuerKind, KeyPolicy, UserStatus, WhenUnknown};
use crate::issuer::Issuer;
use crate::issuer::tests::keys::{TestKey, jwks};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A sound configuration of an issuer at `url`, without introspection.
pub(in crate::issuer) fn config(url: &str) -> config::Issuer {
    let claim = |text| ClaimPath::parse(text).unwrap();
    config::Issuer {
        name: "main".to_owned(),
        kind: IssuerKind::Oidc,
        url: url.to_owned(),
        audiences: vec!["api".to_owned()],
        algorithms: Algorithm::ALL.to_vec(),
        leeway: Duration::from_secs(30),
        max_token_age: None,
        address: None,
        ca: None,
        endpoint_origins: Vec::new(),
        lightweight: false,
        opaque: false,
        roles_claims: vec![claim("realm_access.roles")],
        groups_claim: claim("groups"),
        namespace_claim: claim("namespace"),
        username_claim: claim("preferred_username"),
        email_claim: claim("email"),
        keys: KeyPolicy {
            refresh: Duration::from_secs(3600),
            max_stale: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
        },
        user_status: UserStatus::None,
    }
}

/// A `user_status` that introspects.
pub(in crate::issuer) fn introspection() -> UserStatus {
    UserStatus::Introspection(config::Introspection {
        client_id: "gateway".to_owned(),
        client_secret: Secret::new("s3cr:et"),
        bound: Duration::from_secs(30),
        timeout: Duration::from_secs(2),
        when_unknown: WhenUnknown::Deny,
    })
}

/// How the issuer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::issuer) enum Mode {
    Sound,
    Closes,
    Fails,
    Hangs,
    Garbage,
    Huge,
    Endless,
    Drips,
    Html,
    Redirects,
    ManyKeys,
    NoKeys,
}

/// The issuer. Its answers are of the moment when they are asked for.
pub(in crate::issuer) struct Fake {
    pub(in crate::issuer) url: String,
    state: Arc<Mutex<State>>,
    /// Only so many requests for keys are answered; further ones wait.
    answered: watch::Sender<usize>,
    fetches: watch::Sender<usize>,
}

struct State {
    mode: Mode,
    keys: Vec<Value>,
    discovery: Value,
    introspection: (u16, String),
    /// Whoever does not show this is shown nothing.
    bearer: Option<String>,
    seen: HashMap<String, Vec<String>>,
}

impl Fake {
    /// Starts one that publishes these keys.
    pub(in crate::issuer) async fn start(keys: &[&TestKey]) -> Arc<Self> {
        Self::start_with(keys, None).await
    }

    /// Starts one that speaks TLS as `localhost`.
    pub(in crate::issuer) async fn start_tls(keys: &[&TestKey], tls: TlsAcceptor) -> Arc<Self> {
        Self::start_with(keys, Some(tls)).await
    }

    async fn start_with(keys: &[&TestKey], tls: Option<TlsAcceptor>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = match &tls {
            None => format!("http://{address}/realms/main"),
            Some(_) => format!("https://localhost:{}/realms/main", address.port()),
        };
        let discovery = json!({
            "issuer": url,
            "jwks_uri": format!("{url}/certs"),
            "introspection_endpoint": format!("{url}/introspect"),
        });
        let state = State {
            mode: Mode::Sound,
            keys: keys.iter().map(|key| key.jwk.clone()).collect(),
            discovery,
            introspection: (200, r#"{"active":false}"#.to_owned()),
            bearer: None,
            seen: HashMap::new(),
        };
        let fake = Arc::new(Self {
            url,
            state: Arc::new(Mutex::new(state)),
            answered: watch::Sender::new(usize::MAX),
            fetches: watch::Sender::new(0),
        });
        let server = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (Arc::clone(&server), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        fake
    }

    /// Our side of it, on `clock`, not running yet.
    pub(in crate::issuer) fn issuer(&self, clock: &Clock) -> Arc<Issuer> {
        self.issuer_with(clock, |_| ())
    }

    pub(in crate::issuer) fn issuer_with(
        &self,
        clock: &Clock,
        change: impl FnOnce(&mut config::Issuer),
    ) -> Arc<Issuer> {
        let mut config = config(&self.url);
        change(&mut config);
        Arc::new(Issuer::new(Arc::new(config), clock.clone()).unwrap())
    }

    pub(in crate::issuer) fn set_mode(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
    }

    pub(in crate::issuer) fn publish(&self, keys: &[&TestKey]) {
        self.state.lock().unwrap().keys = keys.iter().map(|key| key.jwk.clone()).collect();
    }

    pub(in crate::issuer) fn say_in_discovery(&self, member: &str, value: &str) {
        self.state.lock().unwrap().discovery[member] = json!(value);
    }

    pub(in crate::issuer) fn answer_introspection(&self, status: u16, body: &str) {
        self.state.lock().unwrap().introspection = (status, body.to_owned());
    }

    /// Shows nothing to whoever does not show this token, as an API server does.
    pub(in crate::issuer) fn ask_for_token(&self, token: &str) {
        self.state.lock().unwrap().bearer = Some(token.to_owned());
    }

    /// Answers only so many requests for keys; further ones wait until more are allowed.
    pub(in crate::issuer) fn answer_keys(&self, times: usize) {
        self.answered.send_replace(times);
    }

    /// How often keys were asked for.
    pub(in crate::issuer) fn key_fetches(&self) -> usize {
        *self.fetches.borrow()
    }

    /// Waits until keys were asked for that often.
    pub(in crate::issuer) async fn key_fetch(&self, number: usize) {
        self.fetches.subscribe().wait_for(|fetches| *fetches >= number).await.unwrap();
    }

    /// The requests to a path, head and body.
    pub(in crate::issuer) fn requests(&self, path: &str) -> Vec<String> {
        self.state.lock().unwrap().seen.get(path).cloned().unwrap_or_default()
    }

    async fn serve(self: Arc<Self>, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        while let Some(request) = read(&mut stream).await {
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let is_stranger = {
                let mut state = self.state.lock().unwrap();
                let line = state.bearer.as_ref().map(|token| format!("\r\nauthorization: Bearer {token}\r\n"));
                let is_stranger = line.is_some_and(|line| !request.contains(&line));
                state.seen.entry(path.clone()).or_default().push(request);
                is_stranger
            };
            if is_stranger {
                if stream.write_all(&http(403, "", b"{\"kind\":\"Status\",\"code\":403}")).await.is_err() {
                    return;
                }
                continue;
            }
            if path.ends_with("/certs") {
                self.fetches.send_modify(|fetches| *fetches += 1);
                let number = self.key_fetches();
                let _ = self.answered.subscribe().wait_for(|answered| *answered >= number).await;
            }
            let mode = self.state.lock().unwrap().mode;
            match mode {
                Mode::Hangs => std::future::pending().await,
                Mode::Closes => return,
                Mode::Drips | Mode::Endless => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").await;
                    let spaces = if mode == Mode::Drips { vec![b' '; 16] } else { vec![b' '; 64 * 1024] };
                    while stream.write_all(&spaces).await.is_ok() {
                        if mode == Mode::Drips {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    return;
                }
                _ => {}
            }
            let answer = self.answer(mode, &path);
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, mode: Mode, path: &str) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let many =
            |count: usize| (0..count).map(|n| json!({"kty": "RSA", "kid": format!("many-{n}")})).collect::<Vec<_>>();
        match mode {
            Mode::Fails => http(500, "", b"{\"error\":\"down\"}"),
            Mode::Garbage => http(200, "", b"{\"keys\": [{\"kty\": \"RSA\", \xff\xfe"),
            Mode::Huge => http(200, "", &vec![b'A'; 2 * 1024 * 1024]),
            Mode::Html => http(200, "content-type: text/html\r\n", b"<html>maintenance</html>"),
            Mode::Redirects => http(302, &format!("location: {}/attacker\r\n", self.url), b""),
            Mode::ManyKeys if path.ends_with("/certs") => http(200, "", &jwks(&many(101))),
            Mode::NoKeys if path.ends_with("/certs") => http(200, "", &jwks(&many(3))),
            _ if path.ends_with("/.well-known/openid-configuration") => {
                http(200, "", state.discovery.to_string().as_bytes())
            }
            _ if path.ends_with("/certs") => http(200, "", &jwks(&state.keys)),
            _ if path.ends_with("/introspect") => http(state.introspection.0, "", state.introspection.1.as_bytes()),
            _ => http(404, "", b"{}"),
        }
    }
}

fn http(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// One request with its body.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut text = Vec::new();
    let mut length = None;
    while length.is_none_or(|length| text.len() < length) {
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
            let body = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            length = Some(end + 4 + body.unwrap_or(0));
        }
    }
    String::from_utf8(text).ok()
}
