//! Tokens of Postern's own clients: one for all callers, held against what was asked for.

use crate::support::{File, Gateway, Stage, TokenEndpoint, granted};
use postern::dev::TokenSpec;
use serde_json::{Value, json};
use std::time::Duration;

/// A route that everybody passes and one that takes a token, both with the token of a client.
fn routes(place: &str, more: &str) -> String {
    let credential = format!(
        "credential = {{ client-credentials = {{ {place}, client_id = 'robot', client_secret = 'robot-secret', timeout = '1m'{more} }} }}"
    );
    format!(
        "[[route]]\npath = '/**'\nupstream = 'up'\n{credential}\n\
         [[route]]\npath = '/public/**'\nupstream = 'up'\naccess = 'public'\n{credential}\n"
    )
}

fn start(more: &str) -> (Stage, TokenEndpoint, Gateway) {
    let stage = Stage::new();
    let endpoint = TokenEndpoint::start(&stage);
    let issuer = format!("{}\nuser_status = 'none'", endpoint.address());
    let routes = routes("issuer = 'main'", more);
    let gateway = stage.gateway(File { issuer: &issuer, rest: &routes, ..File::default() });
    (stage, endpoint, gateway)
}

fn of_robot() -> TokenSpec {
    TokenSpec::user("service-account-robot").client("robot").claim("aud", "orders").scope("orders:read")
}

#[test]
fn all_callers_share_the_token_of_a_client() {
    let (stage, endpoint, gateway) = start(", audience = 'orders', scope = ['orders:read']");
    let made = endpoint.grant(&stage, &of_robot(), "orders:read");
    for name in ["alice", "bob"] {
        gateway.call("/x", &stage.issuer.token(name)).passed();
        assert_eq!(stage.upstream.last().all("authorization").collect::<Vec<_>>(), [format!("Bearer {made}")]);
    }
    gateway.get("/public/x", &["authorization: Bearer mine"]).passed();
    assert_eq!(stage.upstream.last().bearer(), made);
    assert_eq!(endpoint.calls(), 1);
    let form = endpoint.form();
    let expected = [("grant_type", "client_credentials"), ("audience", "orders"), ("scope", "orders:read")];
    assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let ok = "postern_credential_calls_total{credential=\"client-credentials\",client=\"robot\",outcome=\"ok\"}";
    assert_eq!(gateway.metric(ok), 1);
}

#[test]
fn a_server_that_is_no_issuer_is_asked_by_its_url() {
    let stage = Stage::new();
    let endpoint = TokenEndpoint::start(&stage);
    let place = format!("token_endpoint = '{}'", endpoint.url("/oauth2/token"));
    let gateway = stage.gateway(File { rest: &routes(&place, ""), ..File::default() });
    // Nothing was asked for, so nothing has to be granted, and the token may be any.
    endpoint.answer(200, json!({ "access_token": "opaque", "token_type": "bearer", "expires_in": 3600 }));
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    assert_eq!(stage.upstream.last().bearer(), "opaque");
    assert!(endpoint.last().line.starts_with("POST /oauth2/token "));
    assert_eq!(endpoint.form(), [("grant_type".to_owned(), "client_credentials".to_owned())].into());
}

#[test]
fn a_token_that_is_less_than_what_was_asked_for_is_not_used() {
    let (stage, endpoint, gateway) = start(", audience = 'orders', scope = ['orders:read']");
    let issue = |spec: TokenSpec| stage.issuer.issue(&spec.lifetime(300));
    let mut unsaid: Value = granted("opaque", "");
    unsaid.as_object_mut().unwrap().remove("scope");
    for answer in [
        granted(&issue(of_robot()), "profile"),
        granted(&issue(of_robot().scope("profile")), "orders:read"),
        granted(&issue(of_robot().claim("aud", "account")), "orders:read"),
        granted(&issue(of_robot().claim("aud", json!(["orders", "gateway"]))), "orders:read"),
        granted("opaque", "orders:read"),
        unsaid,
    ] {
        endpoint.answer(200, answer.clone());
        stage.clock.advance(Duration::from_secs(3));
        let outcome = gateway.get("/public/x", &[]).outcome();
        assert_eq!(outcome, (503, "credential_unavailable".to_owned()), "{answer}");
    }
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_reload_keeps_the_token_of_a_client_that_is_the_same() {
    let stage = Stage::new();
    let endpoint = TokenEndpoint::start(&stage);
    let issuer = format!("{}\nuser_status = 'none'", endpoint.address());
    let same = routes("issuer = 'main'", "");
    let gateway = stage.gateway(File { issuer: &issuer, rest: &same, ..File::default() });
    endpoint.grant(&stage, &of_robot(), "");
    gateway.get("/public/x", &[]).passed();
    let more = format!("{same}[[route]]\npath = '/more'\nupstream = 'up'\n");
    gateway.inner.reload(stage.config(File { issuer: &issuer, rest: &more, ..File::default() })).unwrap();
    gateway.get("/public/x", &[]).passed();
    assert_eq!(endpoint.calls(), 1);
    let other = routes("issuer = 'main'", ", scope = ['a']");
    gateway.inner.reload(stage.config(File { issuer: &issuer, rest: &other, ..File::default() })).unwrap();
    endpoint.grant(&stage, &of_robot().scope("a"), "a");
    gateway.get("/public/x", &[]).passed();
    assert_eq!(endpoint.calls(), 2);
}
