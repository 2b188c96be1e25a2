//! A Keycloak of a few documents behind a socket, which counts what it is asked. What it is asked is what goes over the wire.

use super::Counted;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern::base::clock::Clock;
use postern::config::Algorithm;
use postern::dev::{SigningKey, decode};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// How long its tokens live: no test lasts so long.
const LIFE_S: i64 = 36_000;

pub(crate) struct Keycloak {
    pub(crate) address: SocketAddr,
    pub(crate) counted: Counted,
    clock: Clock,
    key: SigningKey,
    disabled: usize,
    /// Admin events, oldest first.
    events: Mutex<Vec<Value>>,
}

impl Keycloak {
    /// One with so many disabled users, on this thread.
    pub(crate) async fn start(clock: Clock, disabled: usize) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let keycloak =
            Arc::new(Self { address, counted: Counted::default(), clock, key, disabled, events: Mutex::default() });
        tokio::task::spawn_local(Arc::clone(&keycloak).serve(listener));
        keycloak
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/realms/demo", self.address)
    }

    /// A token of a user.
    pub(crate) fn token(&self, subject: &str, id: &str) -> String {
        let now = self.clock.now().unix_seconds();
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.key.kid() });
        let claims = json!({
            "iss": self.url(), "sub": subject, "aud": "gateway", "typ": "Bearer", "jti": id, "sid": id,
            "iat": now, "exp": now + LIFE_S,
        });
        self.key.compact(header.to_string().as_bytes(), claims.to_string().as_bytes()).unwrap()
    }

    /// An administrator changes something: `path` says about whom.
    pub(crate) fn happen(&self, kind: &str, path: &str) {
        let mut events = self.events.lock().unwrap();
        let (id, time) = (format!("event-{}", events.len()), self.clock.now().unix_ms);
        let event = json!({
            "id": id, "time": time, "operationType": "UPDATE", "resourceType": kind, "resourcePath": path,
        });
        events.push(event);
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let keycloak = Arc::clone(&self);
            let service = service_fn(move |request| Arc::clone(&keycloak).answer(request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(async move { drop(connection.await) });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (kind, value) = self.document(&head.method, head.uri.path(), head.uri.query().unwrap_or_default(), &body);
        self.counted.count(kind);
        Ok(Response::new(Full::new(Bytes::from(value.to_string()))))
    }

    /// Of which kind a call is, and what is answered.
    fn document(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> (&'static str, Value) {
        let url = self.url();
        match (method, path) {
            (_, "/realms/demo/.well-known/openid-configuration") => {
                let at = |name| format!("{url}/protocol/openid-connect/{name}");
                let endpoints = json!({
                    "issuer": url, "jwks_uri": at("certs"), "token_endpoint": at("token"),
                    "introspection_endpoint": at("introspect"),
                });
                ("discovery", endpoints)
            }
            (_, "/realms/demo/protocol/openid-connect/certs") => ("key set", json!({ "keys": [self.key.jwk()] })),
            (&Method::POST, "/realms/demo/protocol/openid-connect/token") => ("own token", self.own_token()),
            (&Method::POST, "/realms/demo/protocol/openid-connect/introspect") => ("introspection", introspected(body)),
            (_, "/realms/demo") => ("realm", json!({ "tokens-not-before": 0 })),
            (_, "/admin/realms/demo/events/config") => {
                let all = json!({
                    "eventsEnabled": true, "adminEventsEnabled": true, "adminEventsDetailsEnabled": true,
                    "enabledEventTypes": [],
                });
                ("events config", all)
            }
            (_, "/admin/realms/demo/events") => ("events", json!([])),
            (_, "/admin/realms/demo/admin-events") => ("events", self.since(number(query, "dateFrom"))),
            (_, "/admin/realms/demo/users") => ("disabled users", self.disabled_users(query)),
            (_, path) => match path.strip_prefix("/admin/realms/demo/users/") {
                Some(id) => ("user", json!({ "id": id, "username": id, "enabled": true, "notBefore": 0 })),
                None => panic!("{path} is not asked for"),
            },
        }
    }

    fn own_token(&self) -> Value {
        json!({ "access_token": self.token("service-account", "own"), "expires_in": 300 })
    }

    fn since(&self, since_ms: usize) -> Value {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event["time"].as_u64() >= Some(since_ms as u64)).cloned().collect()
    }

    fn disabled_users(&self, query: &str) -> Value {
        let (first, most) = (number(query, "first"), number(query, "max"));
        let ids = (first..self.disabled).take(most).map(|number| format!("disabled-{number}"));
        ids.map(|id| json!({ "id": id, "username": id, "enabled": false, "notBefore": 0 })).collect()
    }
}

fn introspected(body: &[u8]) -> Value {
    let token = std::str::from_utf8(body).unwrap().strip_prefix("token=").unwrap();
    let (_, mut claims) = decode(token).unwrap();
    claims.insert("active".to_owned(), true.into());
    Value::Object(claims)
}

fn number(query: &str, name: &str) -> usize {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.unwrap().parse().unwrap()
}
