//! What Postern answers itself, beside what it forwards: upstreams ask and are told, the issuer logs users out.

use crate::support::{Answer, File, Gateway, Stage, eventually, head};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use postern::config::Algorithm;
use postern::dev::{self, SigningKey};
use serde_json::{Value, json};
use std::time::Duration;

const KEYCLOAK: &str = "user_status = { keycloak = { client_id = 'gateway', client_secret = 'gateway-secret', \
     bound = '30s', timeout = '20s', backchannel_logout = { clients = ['cli'] } } }";

const REST: &str = "
[[route]]
path = '/**'
upstream = 'up'
[limits]
failed_authentications = { rate = 1, burst = 20 }
[token_service.clients]
up = { secret = 's3cret', audience = 'up' }
other = { secret = 's3cret', audience = 'else' }
[upstream.else]
to = 'http://127.0.0.1:1'
[operator]
listen = '127.0.0.1:0'
access = { issuer = 'main', role = 'writer', audience = 'gateway' }
";

fn start(stage: &Stage, rest: &str) -> Gateway {
    stage.gateway(File { server: "drain_wait = '0s'", issuer: KEYCLOAK, rest, ..File::default() })
}

impl Gateway {
    fn post(&self, path: &str, lines: &[&str], body: &str) -> Answer {
        let mut client = self.connect();
        client.send(post(path, lines, body));
        client.read()
    }

    fn introspect(&self, client: &str, token: &str) -> Value {
        let answer = self.post("/introspect", &[FORM, &basic(client, "s3cret")], &format!("token={token}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    fn poll(&self, client: &str, request: &Value) -> Answer {
        self.post("/events/poll", &[JSON, &basic(client, "s3cret")], &request.to_string())
    }

    /// As an operator, who may be the user herself.
    fn block(&self, stage: &Stage, subject: &str) {
        let body = json!({ "issuer": "main", "subject": subject, "reason": "r" });
        assert_eq!(self.operate(&stage.issuer.token("alice"), "/v1/user/block", &body).status, 200);
    }
}

const FORM: &str = "content-type: application/x-www-form-urlencoded";
const JSON: &str = "content-type: application/json";

fn basic(name: &str, secret: &str) -> String {
    format!("authorization: Basic {}", STANDARD.encode(format!("{name}:{secret}")))
}

fn post(path: &str, lines: &[&str], body: &str) -> String {
    let length = format!("content-length: {}", body.len());
    head("POST", path, &[lines, &[&length]].concat()) + body
}

/// A stage, a gateway, alice's id, her token, and the one that the upstream was given for her.
fn with_alice() -> (Stage, Gateway, String, String, String) {
    let stage = Stage::new();
    let gateway = start(&stage, REST);
    let token = stage.issuer.token("alice");
    gateway.call("/orders/1", &token).passed();
    let given = stage.upstream.last().bearer().to_owned();
    let id = stage.issuer.demo().user("alice").unwrap().id;
    (stage, gateway, id, token, given)
}

#[test]
fn an_upstream_asks_about_the_token_that_it_was_given() {
    let (stage, gateway, alice, token, given) = with_alice();
    let answer = gateway.introspect("up", &given);
    assert_eq!((&answer["active"], &answer["sub"], &answer["aud"]), (&json!(true), &json!(alice), &json!("up")));
    assert_eq!(answer["orig_iss"], *stage.issuer.url("demo"));
    let inactive = json!({"active": false});
    assert_eq!(gateway.introspect("other", &given), inactive);
    assert_eq!(gateway.introspect("up", &token), inactive);
    gateway.block(&stage, &alice);
    assert_eq!(gateway.introspect("up", &given), inactive);
    let published = gateway.get("/.well-known/openid-configuration", &[]).json();
    assert_eq!(published["introspection_endpoint"], "https://postern.example/introspect");
}

#[test]
fn an_upstream_is_told_of_a_block_and_can_verify_what_it_is_told() {
    let (stage, gateway, alice, ..) = with_alice();
    let mut waiting = gateway.connect();
    waiting.send(post("/events/poll", &[JSON, &basic("up", "s3cret")], "{}"));
    gateway.block(&stage, &alice);
    let answer = waiting.read();
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let answer = answer.json();
    let (jti, set) = answer["sets"].as_object().unwrap().iter().next().unwrap();
    let set = set.as_str().unwrap();
    let keys = gateway.get("/.well-known/jwks.json", &[]).body;
    let keys: JwkSet = serde_json::from_slice(&keys).unwrap();
    let head = jsonwebtoken::decode_header(set).unwrap();
    assert_eq!(head.typ.as_deref(), Some("secevent+jwt"));
    let mut rules = Validation::new(head.alg);
    rules.validate_exp = false;
    rules.set_required_spec_claims(&["iss", "aud"]);
    rules.set_issuer(&["https://postern.example"]);
    rules.set_audience(&["up"]);
    let key = DecodingKey::from_jwk(keys.find(&head.kid.unwrap()).unwrap()).unwrap();
    let claims = jsonwebtoken::decode::<Value>(set, &key, &rules).unwrap().claims;
    assert_eq!(claims["jti"], **jti);
    let subject = json!({"format": "iss_sub", "iss": stage.issuer.url("demo"), "sub": alice});
    assert_eq!(claims["sub_id"], subject);
    let name = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
    assert!(claims["events"][name].is_object(), "{claims}");
    // The other client's audience never had a token.
    let other = gateway.poll("other", &json!({"returnImmediately": true}));
    assert_eq!(other.json(), json!({"sets": {}}));
    assert_eq!(gateway.poll("up", &json!({"ack": [jti], "returnImmediately": true})).json(), json!({"sets": {}}));
    assert_eq!(gateway.metric("postern_events_queued_total"), 1);
    assert_eq!(gateway.metric("postern_events_waiting{client=\"up\"}"), 0);
}

#[test]
fn a_poll_ends_with_its_connection_and_with_the_gateway() {
    let (_stage, gateway, ..) = with_alice();
    let poll = || {
        let mut client = gateway.connect();
        client.send(post("/events/poll", &[JSON, &basic("up", "s3cret")], "{}"));
        client
    };
    drop(std::iter::repeat_with(poll).take(3).collect::<Vec<_>>());
    eventually("nobody waits", || gateway.metric("postern_event_polls") == 0);
    let mut waiting = poll();
    eventually("a poll waits", || gateway.metric("postern_event_polls") == 1);
    let draining = std::thread::spawn(|| gateway.inner.drain());
    assert_eq!(waiting.read().json(), json!({"sets": {}}));
    draining.join().unwrap();
}

#[test]
fn the_issuer_ends_a_session_and_its_token_is_refused() {
    let (stage, gateway, alice, token, _) = with_alice();
    let (_, claims) = dev::decode(&token).unwrap();
    let now = stage.clock.now().unix_seconds();
    let logout = |key: &SigningKey, sid: &str| {
        let head = json!({"alg": "RS256", "typ": "logout+jwt", "kid": stage.issuer.demo().signing_key(Algorithm::Rs256).kid()});
        let claims = json!({
            "iss": stage.issuer.url("demo"), "aud": "cli", "sub": alice, "sid": sid, "iat": now, "exp": now + 120,
            "jti": sid, "typ": "Logout", "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        let token = key.compact(head.to_string().as_bytes(), claims.to_string().as_bytes()).unwrap();
        gateway.post("/backchannel-logout/main", &[FORM], &format!("logout_token={token}"))
    };
    let sid = claims["sid"].as_str().unwrap();
    let forged = logout(&SigningKey::generate(Algorithm::Rs256).unwrap(), sid);
    assert_eq!((forged.status, &forged.json()["error"]), (400, &json!("invalid_request")));
    let call = || gateway.call("/orders/1", &token);
    call().passed();
    let key = stage.issuer.demo().signing_key(Algorithm::Rs256);
    assert_eq!(logout(&key, "another").status, 200);
    call().passed();
    let done = logout(&key, sid);
    assert_eq!((done.status, done.body.len()), (200, 0));
    call().refused(401, "user_inactive");
    let unknown = gateway.post("/backchannel-logout/nobody", &[FORM], "logout_token=x");
    assert_eq!(unknown.status, 404);
    assert!(stage.upstream.last().line.starts_with("GET"));
}

#[test]
fn whatever_is_no_sound_call_is_refused_and_never_forwarded() {
    let (stage, gateway, ..) = with_alice();
    let seen = stage.upstream.requests();
    let known = basic("up", "s3cret");
    let status = |answer: Answer| answer.status;
    for path in ["/introspect", "/events/poll", "/backchannel-logout/main"] {
        let answer = gateway.get(path, &[&known]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{path}");
    }
    let large = "a".repeat(70_000);
    assert_eq!(status(gateway.post("/introspect", &[FORM, &known], &format!("token={large}"))), 413);
    let mut chunked = gateway.connect();
    chunked.send(head("POST", "/introspect", &[FORM, &known, "transfer-encoding: chunked"]));
    chunked.send(format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len()));
    assert_eq!(chunked.read().status, 413);
    assert_eq!(status(gateway.post("/introspect", &[JSON, &known], "{}")), 415);
    assert_eq!(status(gateway.post("/introspect", &[FORM, FORM, &known], "token=a")), 415);
    assert_eq!(status(gateway.post("/introspect", &[FORM, &known, &known], "token=a")), 400);
    assert_eq!(status(gateway.post("/introspect", &[FORM, &known], "token=a&token=b")), 400);
    let anonymous = gateway.post("/introspect", &[FORM], "token=a");
    assert_eq!((anonymous.status, &anonymous.json()["error"]), (401, &json!("invalid_client")));
    assert!(anonymous.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic realm=")));
    let odd = gateway.poll("up", &json!({"ack": "all"}));
    assert_eq!((odd.status, &odd.json()["err"]), (400, &json!("invalid_request")));
    let twice = gateway.post("/introspect", &["host: other.example", FORM, &known], "token=a");
    twice.refused(400, "malformed_request");
    assert_eq!(stage.upstream.requests(), seen);
}

#[test]
fn who_guesses_credentials_is_shut_out_for_a_while() {
    let (stage, gateway, _, token, given) = with_alice();
    let guess = || gateway.post("/introspect", &[FORM, &basic("up", "guess")], "token=a");
    for _ in 0..20 {
        assert_eq!(guess().status, 401);
    }
    guess().refused(429, "too_many_failed_authentications");
    gateway
        .post("/introspect", &[FORM, &basic("up", "s3cret")], "token=a")
        .refused(429, "too_many_failed_authentications");
    // Those whose token is known go on.
    gateway.call("/orders/1", &token).passed();
    stage.clock.advance(Duration::from_secs(2));
    assert_eq!(gateway.introspect("up", &given)["active"], true);
}

#[test]
fn without_clients_the_paths_are_a_routes_affair() {
    let stage = Stage::new();
    let gateway = start(&stage, "[[route]]\npath = '/**'\nupstream = 'up'\ncredential = 'none'\naccess = 'public'\n");
    for path in ["/introspect", "/events/poll"] {
        gateway.post(path, &[FORM], "token=a").passed();
    }
    assert_eq!(gateway.post("/backchannel-logout/", &[FORM], "").status, 404);
}
