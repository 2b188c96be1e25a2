//! An upstream that does not take its credential any more: it is got anew, and the request sent again where that is safe.

use crate::support::{File, Gateway, Stage, TokenEndpoint, Upstream, bearer, head};
use postern::dev::TokenSpec;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// More than ten seconds.
const OLD: Duration = Duration::from_secs(11);

/// Which credentials the upstream does not take.
#[derive(Clone, Default)]
struct Refused {
    those: Arc<Mutex<HashSet<String>>>,
    all: Arc<Mutex<bool>>,
}

impl Refused {
    fn add(&self, credential: &str) {
        self.those.lock().unwrap().insert(credential.to_owned());
    }

    fn all(&self) {
        *self.all.lock().unwrap() = true;
    }

    fn upstream(&self) -> Upstream {
        let refused = self.clone();
        Upstream::serving(move |mut peer| {
            while let Some(seen) = peer.read() {
                let is_refused = *refused.all.lock().unwrap()
                    || seen.header("authorization").is_some_and(|value| {
                        refused.those.lock().unwrap().contains(value.trim_start_matches("Bearer "))
                    });
                let answer = match is_refused {
                    true => {
                        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\nx-mine: 1\r\ncontent-length: 4\r\n\r\nmine"
                    }
                    false => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                };
                peer.send(answer);
            }
        })
    }
}

fn start(rest: &str) -> (Refused, Stage, Gateway) {
    let refused = Refused::default();
    let stage = Stage::with(refused.upstream());
    let gateway = stage.gateway(File { rest, ..File::default() });
    (refused, stage, gateway)
}

const OWN: &str = "[[route]]\nname = 'own'\npath = '/**'\nupstream = 'up'\n\
                   [[route]]\nname = 'pass'\npath = '/pass/**'\nupstream = 'up'\ncredential = 'pass'\n";

fn count(gateway: &Gateway, what: &str) -> u64 {
    gateway.metric(&format!("postern_credential_{what}_total{{route=\"own\"}}"))
}

#[test]
fn a_credential_that_is_no_longer_taken_is_replaced_and_the_request_sent_again() {
    let (refused, stage, gateway) = start(OWN);
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).passed();
    let first = stage.upstream.last().bearer().to_owned();
    refused.add(&first);
    // It is too young to be doubted.
    stage.clock.advance(10 * SECOND);
    let answer = gateway.call("/x", &token);
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-mine")), (401, "mine", Some("1")));
    assert_eq!((stage.upstream.requests(), count(&gateway, "purges")), (2, 0));
    stage.clock.advance(SECOND);
    for path in ["/x", "/x?again"] {
        let answer = gateway.call(path, &token);
        answer.passed();
        assert_eq!(answer.header("x-mine"), None);
    }
    let last = stage.upstream.last();
    assert_ne!(last.bearer(), first);
    assert_eq!((last.all("authorization").count(), last.line.as_str()), (1, "GET /x?again HTTP/1.1"));
    assert_eq!(stage.upstream.requests(), 5);
    assert_eq!([count(&gateway, "purges"), count(&gateway, "retries")], [1, 1]);
}

#[test]
fn an_upstream_that_refuses_everything_makes_no_storm() {
    let (refused, stage, gateway) = start(OWN);
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).passed();
    refused.all();
    let mut client = gateway.connect();
    let mut seen = HashSet::new();
    for _ in 0..60 {
        stage.clock.advance(SECOND);
        for _ in 0..3 {
            let answer = client.get("/x", &[&bearer(&token)]);
            assert_eq!((answer.status, answer.text().as_str()), (401, "mine"));
            seen.insert(stage.upstream.last().bearer().to_owned());
        }
    }
    let purges = count(&gateway, "purges");
    assert!((4..=6).contains(&purges), "{purges} in a minute");
    assert_eq!(seen.len() as u64, purges + 1);
    assert_eq!(stage.upstream.requests() as u64, 1 + 180 + purges);
}

#[test]
fn what_may_have_had_an_effect_is_not_sent_twice_but_its_credential_is_replaced() {
    for (method, body) in [("POST", "data"), ("PUT", "data"), ("POST", ""), ("PATCH", "")] {
        let (refused, stage, gateway) = start(OWN);
        let token = stage.issuer.token("alice");
        gateway.call("/x", &token).passed();
        refused.add(stage.upstream.last().bearer());
        stage.clock.advance(OLD);
        let mut client = gateway.connect();
        let length = format!("content-length: {}", body.len());
        client.send(head(method, "/x", &[&bearer(&token), &length]) + body);
        assert_eq!(client.read().status, 401, "{method}");
        assert_eq!((stage.upstream.requests(), count(&gateway, "retries")), (2, 0), "{method}");
        client.get("/x", &[&bearer(&token)]).passed();
        assert_eq!((stage.upstream.requests(), count(&gateway, "purges")), (3, 1), "{method}");
    }
}

#[test]
fn an_idempotent_request_without_a_body_is_sent_again() {
    for method in ["HEAD", "OPTIONS", "PUT", "DELETE"] {
        let (refused, stage, gateway) = start(OWN);
        let token = stage.issuer.token("alice");
        gateway.call("/x", &token).passed();
        refused.add(stage.upstream.last().bearer());
        stage.clock.advance(OLD);
        let mut client = gateway.connect();
        client.send(head(method, "/x", &[&bearer(&token), "content-length: 0"]));
        assert_eq!(client.read_head().status, 200, "{method}");
        assert_eq!((stage.upstream.requests(), count(&gateway, "retries")), (3, 1), "{method}");
    }
}

#[test]
fn the_callers_own_token_is_not_postern_s_to_replace() {
    let (refused, stage, gateway) = start(OWN);
    let token = stage.issuer.token("alice");
    refused.add(&token);
    gateway.call("/x", &token).passed();
    stage.clock.advance(OLD);
    assert_eq!(gateway.call("/pass/x", &token).status, 401);
    assert_eq!(stage.upstream.requests(), 2);
}

#[test]
fn a_credential_that_somebody_else_made_is_got_anew() {
    for credential in [
        "exchange = { audience = 'orders', client_id = 'gateway', client_secret = 'gateway-secret' }",
        "client-credentials = { issuer = 'main', client_id = 'gateway', client_secret = 'gateway-secret' }",
    ] {
        let refused = Refused::default();
        let stage = Stage::with(refused.upstream());
        let endpoint = TokenEndpoint::start(&stage);
        let issuer = format!("{}\nuser_status = 'none'", endpoint.address());
        let rest = format!("[[route]]\nname = 'own'\npath = '/**'\nupstream = 'up'\ncredential = {{ {credential} }}\n");
        let gateway = stage.gateway(File { issuer: &issuer, rest: &rest, ..File::default() });
        let token = stage.issuer.token("alice");
        let made = TokenSpec::user("alice").client("gateway").claim("aud", "orders");
        let first = endpoint.grant(&stage, &made, "");
        gateway.call("/x", &token).passed();
        refused.add(&first);
        stage.clock.advance(OLD);
        let second = endpoint.grant(&stage, &made, "");
        gateway.call("/x", &token).passed();
        assert_eq!((stage.upstream.last().bearer(), endpoint.calls()), (second.as_str(), 2));
        // Where there is no other, the caller gets the upstream's answer.
        refused.add(&second);
        stage.clock.advance(OLD);
        endpoint.answer(500, serde_json::json!({}));
        let answer = gateway.call("/x", &token);
        assert_eq!((answer.status, answer.text().as_str(), endpoint.calls()), (401, "mine", 3));
        assert_eq!([count(&gateway, "purges"), count(&gateway, "retries")], [2, 1]);
        gateway.call("/x", &token).refused(503, "credential_unavailable");
    }
}
