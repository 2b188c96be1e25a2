//! A server on a socket that says what a realm of Keycloak says, as a test wants it.

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::config::{self, Algorithm, Config};
use crate::dev::SigningKey;
use crate::doctor::{Report, Token, TokenError, examine};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// By both clocks.
pub(super) const NOW: u64 = 1_900_000_000;
/// In the configuration.
pub(super) const SECRET: &str = "s3cret-of-the-client";

pub(super) const TOKEN: &str = "/realms/demo/protocol/openid-connect/token";
pub(super) const INTROSPECT: &str = "/realms/demo/protocol/openid-connect/token/introspect";
pub(super) const DISCOVERY: &str = "/realms/demo/.well-known/openid-configuration";
pub(super) const ADMIN: &str = "/admin/realms/demo";

/// The realm.
#[derive(Clone)]
pub(super) struct Realm {
    pub(super) url: String,
    pub(super) key: Arc<SigningKey>,
    answers: Arc<Mutex<HashMap<String, (u16, String)>>>,
    seen: Arc<Mutex<Vec<String>>>,
    delay: Duration,
}

impl Realm {
    /// One that is set up well, and lets the service account see everything.
    pub(super) async fn start() -> Self {
        Self::start_slow(Duration::ZERO).await
    }

    pub(super) async fn start_slow(delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let realm = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            key: Arc::new(SigningKey::generate(Algorithm::Es256).unwrap()),
            answers: Arc::default(),
            seen: Arc::default(),
            delay,
        };
        realm.set_up();
        let accepting = realm.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        realm
    }

    fn set_up(&self) {
        let issuer = self.issuer();
        let document = json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/certs"),
            "introspection_endpoint": format!("{}{INTROSPECT}", self.url),
        });
        self.answer(DISCOVERY, 200, &document);
        self.answer("/realms/demo/certs", 200, &json!({ "keys": [self.key.jwk()] }));
        self.grant(NOW, &["gateway"], Some(&["view-users", "query-users", "view-events", "query-groups"]));
        self.answer(INTROSPECT, 200, &json!({ "active": true, "jti": "1" }));
        self.answer(&format!("{ADMIN}/events/config"), 200, &events());
        self.answer(&format!("{ADMIN}/users/profile"), 200, &profile("admin"));
        let settings = json!({
            "realm": "demo", "accessTokenLifespan": 300, "ssoSessionIdleTimeout": 1800, "ssoSessionMaxLifespan": 36000,
            "offlineSessionMaxLifespanEnabled": true, "offlineSessionMaxLifespan": 5_184_000,
            "attributes": { "adminEventsExpiration": "86400" },
        });
        self.answer(ADMIN, 200, &settings);
        let attributes = json!({
            "backchannel.logout.url": "https://postern.test/backchannel-logout/main",
            "backchannel.logout.session.required": "true",
        });
        self.answer(&format!("{ADMIN}/clients"), 200, &json!([{ "clientId": "cli", "attributes": attributes }]));
    }

    pub(super) fn issuer(&self) -> String {
        format!("{}/realms/demo", self.url)
    }

    /// What is answered to a path from now on, whatever its query.
    pub(super) fn answer(&self, path: &str, status: u16, body: &Value) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_string()));
    }

    /// What the client credentials grant gives.
    pub(super) fn grant(&self, issued: u64, audiences: &[&str], roles: Option<&[&str]>) {
        let mut claims = json!({ "iat": issued, "aud": audiences });
        if let Some(roles) = roles {
            claims["resource_access"] = json!({ "realm-management": { "roles": roles } });
        }
        let token = self.sign(&claims);
        self.answer(TOKEN, 200, &json!({ "access_token": token, "expires_in": 300, "token_type": "Bearer" }));
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.key.kid() });
        self.key.compact(header.to_string().as_bytes(), claims.to_string().as_bytes()).unwrap()
    }

    /// A token of a user as it should be, but for what is changed.
    pub(super) fn user_token(&self, change: impl FnOnce(&mut Value)) -> Token {
        let mut claims = self.user_claims();
        change(&mut claims);
        Token { name: "alice.jwt".to_owned(), text: Secret::new(self.sign(&claims)) }
    }

    pub(super) fn user_claims(&self) -> Value {
        json!({
            "iss": self.issuer(), "sub": "alice", "aud": ["gateway", "account"], "typ": "Bearer", "jti": "1",
            "exp": NOW + 300, "realm_access": { "roles": ["reader"] }, "preferred_username": "alice", "email": "a@b.test",
            "namespace": "team-a",
        })
    }

    /// A configuration for it; `lines` are further ones of `user_status`.
    pub(super) fn config(&self, source: &str, lines: &str) -> Config {
        self.config_with("", source, lines)
    }

    /// `above` are further lines of the issuer.
    pub(super) fn config_with(&self, above: &str, source: &str, lines: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        let text = format!(
            r#"version = 1
            [token_service]
            issuer = "https://postern.test"
            [issuer.main]
            url = "{}"
            audience = "gateway"
            {above}
            [issuer.main.user_status.{source}]
            client_id = "gateway"
            client_secret = {{ file = "secret" }}
            {lines}
            [upstream.orders]
            to = "http://127.0.0.1:9"
            [[route]]
            name = "orders"
            path = "/**"
            upstream = "orders"
            "#,
            self.issuer()
        );
        let path = folder.path().join("postern.toml");
        std::fs::write(&path, text).unwrap();
        config::load(&path).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    /// The doctor's word; what it says holds neither a token nor the secret.
    pub(super) async fn examined(&self, config: &Config, tokens: &[Token]) -> Report {
        let report = self.try_examine(config, tokens).await.unwrap();
        for text in [report.to_string(), serde_json::to_string(&report).unwrap()] {
            assert!(!text.contains("eyJ") && !text.contains(SECRET), "{text}");
        }
        report
    }

    pub(super) async fn try_examine(&self, config: &Config, tokens: &[Token]) -> Result<Report, TokenError> {
        examine(config, tokens, &Clock::manual(NOW)).await
    }

    /// Methods and paths of all requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// A test may say what an unpinned server says to one who calls it by another name.
    fn answer_to(&self, path: &str, is_other_host: bool) -> (u16, String) {
        let answers = self.answers.lock().unwrap();
        let other = answers.get(&format!("unpinned {path}")).filter(|_| is_other_host);
        other.or_else(|| answers.get(path)).cloned().unwrap_or((404, "{}".to_owned()))
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut text = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            let head = String::from_utf8(text.drain(..end).collect()).unwrap();
            let length =
                head.to_lowercase().split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            while text.len() < length.unwrap_or(0) {
                stream.read_buf(&mut text).await.unwrap();
            }
            text.drain(..length.unwrap_or(0));
            tokio::time::sleep(self.delay).await;
            let line = head.split(" HTTP/1.1").next().unwrap_or_default().to_owned();
            let path = line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
            self.seen.lock().unwrap().push(line);
            let (status, body) = self.answer_to(&path, head.contains("postern-doctor.invalid"));
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// A realm that stores what it should.
pub(super) fn events() -> Value {
    json!({
        "eventsEnabled": true, "adminEventsEnabled": true, "adminEventsDetailsEnabled": true,
        "enabledEventTypes": [
            "LOGIN", "LOGOUT", "USER_DISABLED_BY_PERMANENT_LOCKOUT", "DELETE_ACCOUNT", "UPDATE_PROFILE", "UPDATE_EMAIL",
            "VERIFY_EMAIL", "REVOKE_GRANT",
        ],
    })
}

/// A user profile with a namespace that such users edit.
pub(super) fn profile(who: &str) -> Value {
    json!({ "attributes": [
        { "name": "email", "permissions": { "view": ["admin", "user"], "edit": ["admin", "user"] } },
        { "name": "namespace", "permissions": { "view": ["admin", "user"], "edit": [who] } },
    ] })
}
