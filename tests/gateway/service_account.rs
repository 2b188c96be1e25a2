//! What Kubernetes makes or keeps for upstreams: a token of the ServiceAccount of the user's namespace, and secrets. Before an API
//! server that is the upstream, too.

use crate::support::{File, Gateway, PATIENCE, Stage, Upstream, bearer, eventually, head, introspection};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postern::dev::TokenSpec;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const KUBERNETES: &str = "[kubernetes]\nrole = 'gateway'\nkubeconfig = 'kubeconfig'\nnamespace = 'postern'\n";

/// What an API server remembers.
#[derive(Default)]
struct State {
    /// Paths and bodies of the TokenRequests.
    asked: Vec<(String, Value)>,
    /// What they are answered with instead of a token.
    fails: Option<u16>,
    /// In seconds.
    lifetime: u64,
    /// Whose bearer is not taken.
    dead: HashSet<String>,
    /// The key `token` of the Secret `orders`.
    secret: Option<&'static str>,
    watchers: Vec<Sender<Value>>,
}

struct ApiServer {
    server: Option<Upstream>,
    state: Arc<Mutex<State>>,
}

impl ApiServer {
    fn start() -> Self {
        let state = Arc::new(Mutex::new(State { lifetime: 3600, ..State::default() }));
        let shared = Arc::clone(&state);
        let server = Upstream::serving(move |mut peer| {
            while let Some(seen) = peer.read() {
                let is_ours = seen.header("authorization") == Some("Bearer postern");
                let path = seen.line.split(' ').nth(1).unwrap_or_default().to_owned();
                let mut state = shared.lock().unwrap();
                let (status, body) = if !is_ours {
                    let is_dead = state.dead.contains(seen.header("authorization").unwrap_or_default());
                    (if is_dead { 401 } else { 200 }, json!("ok"))
                } else if path.contains("/serviceaccounts/") {
                    state.answer(path, serde_json::from_slice(&seen.body).unwrap())
                } else if path.contains("watch=") {
                    let (sender, events) = channel();
                    if path.contains("orders") {
                        state.watchers.push(sender.clone());
                    }
                    drop(state);
                    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                    while let Ok(event) = events.recv_timeout(3 * PATIENCE) {
                        let line = format!("{event}\n");
                        peer.send(format!("{:x}\r\n{line}\r\n", line.len()));
                    }
                    return;
                } else if path.contains("fieldSelector=metadata.name%3Dorders") {
                    let items: Vec<_> = state.secret.map(object).into_iter().collect();
                    (200, json!({ "kind": "SecretList", "metadata": { "resourceVersion": "1" }, "items": items }))
                } else if path.contains("/secrets?") {
                    (200, json!({ "kind": "SecretList", "metadata": { "resourceVersion": "1" }, "items": [] }))
                } else {
                    (404, json!({ "kind": "Status", "code": 404, "reason": "NotFound" }))
                };
                let body = body.to_string();
                peer.send(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
            }
        });
        Self { server: Some(server), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the Secret `orders`.
    fn put(&self, text: Option<&'static str>) {
        let mut state = self.state();
        let event = match text {
            Some(text) if state.secret.is_none() => json!({ "type": "ADDED", "object": object(text) }),
            Some(text) => json!({ "type": "MODIFIED", "object": object(text) }),
            None => json!({ "type": "DELETED", "object": object("") }),
        };
        state.secret = text;
        state.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }
}

impl State {
    fn answer(&mut self, path: String, body: Value) -> (u16, Value) {
        self.asked.push((path, body));
        if let Some(status) = self.fails {
            return (status, json!({ "kind": "Status", "code": status, "message": "no" }));
        }
        let claims = json!({ "iat": 1000, "exp": 1000 + self.lifetime }).to_string();
        let token = format!("a.{}.{}", URL_SAFE_NO_PAD.encode(claims), self.asked.len());
        (201, json!({ "spec": {}, "status": { "token": token, "expirationTimestamp": "2000-01-01T00:00:00Z" } }))
    }
}

/// A Secret, each time of another version.
fn object(text: &str) -> Value {
    let version = format!("{}", 10 + text.len());
    let metadata = json!({ "name": "orders", "namespace": "postern", "uid": "u1", "resourceVersion": version });
    json!({ "kind": "Secret", "metadata": metadata, "data": { "token": STANDARD.encode(text) } })
}

/// A gateway whose upstream `up` is that server, too.
fn start(api: &mut ApiServer, rest: &str) -> (Stage, Gateway) {
    start_with(api, "user_status = 'none'", rest)
}

fn start_with(api: &mut ApiServer, issuer: &str, rest: &str) -> (Stage, Gateway) {
    let stage = Stage::with(api.server.take().unwrap());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{ "name": "a", "cluster": { "server": format!("http://{}", stage.upstream.addr()) } }],
        "users": [{ "name": "a", "user": { "token": "postern" } }],
        "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
    });
    std::fs::write(stage.path("kubeconfig"), kubeconfig.to_string()).unwrap();
    std::fs::write(stage.path("key.pem"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let tokens = "signing_keys = { files = ['key.pem'] }";
    let gateway = stage.gateway(File { issuer, tokens, rest: &format!("{KUBERNETES}{rest}"), ..File::default() });
    (stage, gateway)
}

const ACCOUNT: &str = "[[route]]\nname = 'any'\npath = '/**'\nupstream = 'up'\n\
                       credential = { service-account = { namespace = 'claimed', timeout = '1m' } }\n";

fn calls(gateway: &Gateway, outcome: &str) -> u64 {
    gateway.metric(&format!(
        "postern_credential_calls_total{{credential=\"service-account\",client=\"postern-user\",outcome=\"{outcome}\"}}"
    ))
}

#[test]
fn a_user_acts_as_the_account_of_their_own_namespace() {
    let mut api = ApiServer::start();
    let (stage, gateway) = start(&mut api, ACCOUNT);
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    let mut bearers = Vec::new();
    for token in [&alice, &alice, &bob] {
        let lines = [&bearer(token), "impersonate-user: admin", "x-remote-group: system:masters"];
        gateway.get("/api/v1/pods", &lines).passed();
        let seen = stage.upstream.last();
        assert_eq!(seen.all("authorization").count(), 1);
        assert_eq!((seen.header("impersonate-user"), seen.header("x-remote-group")), (None, None));
        bearers.push(seen.bearer().to_owned());
    }
    assert!(bearers[0] == bearers[1] && bearers[1] != bearers[2]);
    let asked = api.state().asked.clone();
    let paths: Vec<_> = asked.iter().map(|(path, _)| path.split('?').next().unwrap()).collect();
    let of = |namespace| format!("/api/v1/namespaces/{namespace}/serviceaccounts/postern-user/token");
    assert_eq!(paths, [of("team-a"), of("team-b")]);
    let bound = json!({ "apiVersion": "v1", "kind": "Secret", "name": "postern-session" });
    let spec = json!({ "audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound });
    assert_eq!(asked[0].1["spec"], spec);
    assert_eq!(calls(&gateway, "ok"), 2);
}

#[test]
fn without_a_namespace_of_their_own_nobody_has_a_token() {
    let mut api = ApiServer::start();
    let recorded = "[[route]]\npath = '/recorded'\nupstream = 'up'\ncredential = 'service-account'\n";
    let (stage, gateway) = start(&mut api, &format!("{ACCOUNT}{recorded}"));
    // What the issuer says is no record of the token service.
    gateway.call("/recorded", &stage.issuer.token("alice")).refused(403, "namespace_missing");
    let nobody = stage.issuer.issue(&TokenSpec::user("alice").claim("namespace", json!("no/namespace")));
    gateway.call("/x", &nobody).refused(403, "namespace_missing");
    assert_eq!(api.state().asked.len(), 0);
}

#[test]
fn ten_minutes_are_left_of_a_token_that_is_handed_out_or_there_is_none() {
    let mut api = ApiServer::start();
    let (stage, gateway) = start(&mut api, ACCOUNT);
    let pass = || gateway.call("/x", &stage.issuer.token("alice"));
    api.state().lifetime = 600;
    pass().refused(503, "credential_unavailable");
    assert_eq!(calls(&gateway, "insufficient"), 1);
    api.state().lifetime = 3600;
    stage.clock.advance(Duration::from_secs(3));
    pass().passed();
    api.state().fails = Some(403);
    stage.clock.advance(Duration::from_secs(50 * 60 - 1));
    pass().passed();
    eventually("it was to be renewed", || calls(&gateway, "refused") == 1);
    stage.clock.advance(Duration::from_secs(4));
    pass().refused(503, "credential_unavailable");
    for (status, outcome) in [(404, "refused"), (409, "refused"), (500, "failed")] {
        let before = calls(&gateway, outcome);
        api.state().fails = Some(status);
        stage.clock.advance(Duration::from_secs(4));
        pass().refused(503, "credential_unavailable");
        assert_eq!(calls(&gateway, outcome), before + 1, "{status}");
    }
    api.state().fails = None;
    stage.clock.advance(Duration::from_secs(4));
    pass().passed();
}

#[test]
fn a_token_that_the_api_server_takes_no_more_is_got_anew() {
    let mut api = ApiServer::start();
    let (stage, gateway) = start(&mut api, ACCOUNT);
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).passed();
    let first = stage.upstream.last().bearer().to_owned();
    api.state().dead.insert(format!("Bearer {first}"));
    stage.clock.advance(Duration::from_secs(11));
    gateway.call("/x", &token).passed();
    assert_ne!(stage.upstream.last().bearer(), first);
    let second = stage.upstream.last().bearer().to_owned();
    // Its user is blocked: what tokens are bound to is gone.
    api.state().dead.insert(format!("Bearer {second}"));
    api.state().fails = Some(404);
    stage.clock.advance(Duration::from_secs(11));
    assert_eq!(gateway.call("/x", &token).status, 401);
    gateway.call("/x", &token).refused(503, "credential_unavailable");
}

#[test]
fn a_header_carries_what_stands_in_a_secret_at_the_time() {
    let mut api = ApiServer::start();
    let rest = "[[route]]\npath = '/**'\nupstream = 'up'\naccess = 'public'\n\
                credential = { secret = { prefix = 'Key ', kubernetes = { secret = 'orders', key = 'token' } } }\n";
    let (stage, gateway) = start(&mut api, rest);
    let get = || gateway.get("/x", &["authorization: Bearer mine"]);
    get().refused(503, "credential_unavailable");
    eventually("it is watched", || !api.state().watchers.is_empty());
    for text in ["one", "three\n", "fourteen"] {
        api.put(Some(text));
        let wanted = format!("Key {}", text.trim_end());
        eventually("it is known", || {
            get().status == 200 && stage.upstream.last().header("authorization") == Some(&wanted)
        });
        assert_eq!(stage.upstream.last().all("authorization").count(), 1);
    }
    // A reload goes on with it.
    gateway
        .inner
        .reload(stage.config(File {
            tokens: "signing_keys = { files = ['key.pem'] }",
            rest: &format!("{KUBERNETES}{rest}[limits]\nfailed_authentications = 'off'\n"),
            ..File::default()
        }))
        .unwrap();
    get().passed();
    api.put(Some("no\nheader"));
    eventually("it cannot be sent", || get().status == 503);
    api.put(None);
    get().refused(503, "credential_unavailable");
    api.put(Some("again"));
    eventually("it is back", || get().status == 200);
}

/// A frame of a WebSocket; to SPDY it is bytes like others.
const HELLO: &[u8] = b"\x81\x05hello";

/// An API server's way with exec: it switches, says a word, and another when it was answered.
fn switching(protocol: &'static str) -> Upstream {
    Upstream::serving(move |mut peer| {
        peer.read();
        peer.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"));
        peer.send(HELLO);
        while peer.read_bytes(8).is_some() {
            peer.send(HELLO);
        }
    })
}

#[test]
fn what_kubectl_switches_to_passes_without_its_second_token_and_ends_with_its_user() {
    for (protocol, method) in [("SPDY/3.1", "POST"), ("websocket", "GET")] {
        let server = switching(protocol);
        let stage = Stage::with(Upstream::start());
        let rest = format!(
            "[upstream.cluster]\nto = 'http://{}'\nupgrades = ['websocket', 'spdy/3.1']\n\
             [[route]]\nname = 'any'\npath = '/**'\nupstream = 'cluster'\ncredential = 'none'\n",
            server.addr()
        );
        let gateway = stage.gateway(File { issuer: &introspection(""), rest: &rest, ..File::default() });
        let token = stage.issuer.token("alice");
        let mut client = gateway.connect();
        let lines = [
            &bearer(&token),
            "connection: Upgrade",
            &format!("upgrade: {protocol}"),
            "content-length: 0",
            "sec-websocket-protocol: base64url.bearer.authorization.k8s.io.YQ, v5.channel.k8s.io",
            "impersonate-user: admin",
        ];
        client.send(head(method, "/api/v1/namespaces/alice/pods/a/exec?command=sh", &lines));
        let answer = client.read_head();
        assert_eq!((answer.status, answer.header("upgrade")), (101, Some(protocol)));
        assert_eq!(client.read_bytes(HELLO.len()), HELLO);
        // Of a control frame of SPDY, which is none of a WebSocket, or a masked frame of one.
        let frame: &[u8] =
            if method == "POST" { b"\x80\x03\x00\x01\x00\x00\x00\x00" } else { b"\x81\x82\x00\x00\x00\x00hi" };
        client.send(frame);
        assert_eq!(client.read_bytes(HELLO.len()), HELLO);
        let seen = server.last();
        assert_eq!((seen.header("upgrade"), seen.header("connection")), (Some(protocol), Some("upgrade")));
        assert_eq!(seen.all("sec-websocket-protocol").collect::<Vec<_>>(), ["v5.channel.k8s.io"]);
        assert_eq!((seen.header("authorization"), seen.header("impersonate-user")), (None, None));
        stage.issuer.demo().end_sessions("alice");
        stage.clock.advance(Duration::from_secs(30));
        gateway.call("/x", &token).refused(401, "user_inactive");
        if method == "POST" {
            assert_eq!(client.read_rest(), b"");
        } else {
            let told = b"\x88\x0f\x03\xf0user_inactive";
            assert!(client.read_rest().starts_with(told));
        }
    }
}
