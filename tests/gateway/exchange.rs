//! The caller's token is exchanged at its issuer, once for many requests, and what comes back is held against what was asked for.

use crate::support::{File, Gateway, PATIENCE, Stage, TokenEndpoint, bearer, eventually, granted, introspection};
use postern::dev::{TokenSpec, UserChange};
use serde_json::{Value, json};
use std::time::Duration;

const ROUTES: &str = "
[[route]]
path = '/**'
upstream = 'up'
credential = { exchange = { audience = 'orders', scope = ['orders:read'], client_id = 'gateway', client_secret = 'gateway-secret', timeout = '1m' } }
[[route]]
path = '/free/**'
upstream = 'up'
";

const GRANTED: &str = "profile orders:read";

const SECOND: Duration = Duration::from_secs(1);

/// A gateway whose routes' tokens are exchanged by an endpoint that waits for what it is to say.
fn start(status: &str) -> (Stage, TokenEndpoint, Gateway) {
    let stage = Stage::new();
    let endpoint = TokenEndpoint::start(&stage);
    let issuer = format!("{}\n{status}", endpoint.address());
    let gateway = stage.gateway(File { issuer: &issuer, rest: ROUTES, ..File::default() });
    (stage, endpoint, gateway)
}

const NO_STATUS: &str = "user_status = 'none'";

/// What the issuer makes of a token of alice's.
fn exchanged() -> TokenSpec {
    TokenSpec::user("alice").client("gateway").claim("aud", "orders").scope(GRANTED)
}

#[test]
fn the_callers_token_is_exchanged_for_one_that_is_for_the_upstream() {
    let (stage, endpoint, gateway) = start(NO_STATUS);
    let made = endpoint.grant(&stage, &exchanged(), GRANTED);
    let token = stage.issuer.token("alice");
    for _ in 0..3 {
        gateway.call("/x", &token).passed();
        assert_eq!(stage.upstream.last().all("authorization").collect::<Vec<_>>(), [format!("Bearer {made}")]);
    }
    assert_eq!(endpoint.calls(), 1);
    let form = endpoint.form();
    let mut said: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    said.sort_unstable();
    assert_eq!(
        said,
        [
            ("audience", "orders"),
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("scope", "orders:read"),
            ("subject_token", token.as_str()),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ]
    );
    // `gateway:gateway-secret`.
    assert_eq!(endpoint.last().header("authorization"), Some("Basic Z2F0ZXdheTpnYXRld2F5LXNlY3JldA=="));
    let ok = "postern_credential_calls_total{credential=\"exchange\",client=\"gateway\",outcome=\"ok\"}";
    assert_eq!(gateway.metric(ok), 1);
}

#[test]
fn what_is_less_or_other_than_what_was_asked_for_is_no_credential() {
    let (stage, endpoint, gateway) = start(NO_STATUS);
    let token = stage.issuer.token("alice");
    let issue = |spec: TokenSpec| stage.issuer.issue(&spec.lifetime(300));
    let ok = || granted(&issue(exchanged()), GRANTED);
    let with = |name: &str, value: Value| {
        let mut answer = ok();
        answer[name] = value;
        answer
    };
    let insufficient = [
        // Keycloak drops scopes without a word.
        with("scope", json!("profile")),
        with("scope", json!("profile orders:readonly")),
        granted(&issue(exchanged().scope("profile")), GRANTED),
        granted(&issue(exchanged().claim("aud", "billing")), GRANTED),
        granted(&issue(exchanged().claim("aud", json!(["account", "orders-v2"]))), GRANTED),
        granted(&issue(exchanged().without_claim("aud")), GRANTED),
        // The upstream could use it against Postern.
        granted(&issue(exchanged().claim("aud", json!(["orders", "gateway"]))), GRANTED),
        granted(&issue(exchanged().claim("iss", "https://elsewhere.example")), GRANTED),
        granted(&issue(TokenSpec::user("bob").claim("aud", "orders").scope(GRANTED)), GRANTED),
        granted("opaque", GRANTED),
        with("token_type", json!("DPoP")),
        with("issued_token_type", json!("urn:ietf:params:oauth:token-type:id_token")),
    ];
    let failed = [
        with("expires_in", json!(29)),
        granted(&issue(exchanged().claim("iat", json!(1)).claim("exp", json!(30))), GRANTED),
        with("expires_in", json!("300")),
        with("access_token", json!(7)),
        json!([]),
    ];
    let refused = [(400, "invalid_request"), (400, "invalid_scope"), (401, "invalid_client"), (403, "access_denied")]
        .map(|(status, error)| (status, json!({ "error": error, "error_description": "Said so" })));
    let counts = [insufficient.len(), failed.len() + 2, refused.len()];
    let answers = insufficient.into_iter().chain(failed).map(|answer| (200, answer));
    let broken = [(500, json!({ "error": "server_error" })), (302, ok())];
    for (status, answer) in answers.chain(refused).chain(broken) {
        endpoint.answer(status, answer.clone());
        // Whatever failed before is forgotten.
        stage.clock.advance(3 * SECOND);
        let refused = gateway.call("/x", &token);
        assert_eq!(refused.outcome(), (503, "credential_unavailable".to_owned()), "{status} {answer}");
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(stage.upstream.requests(), 0);
    let count = |outcome: &str| {
        let labels = format!("{{credential=\"exchange\",client=\"gateway\",outcome=\"{outcome}\"}}");
        usize::try_from(gateway.metric(&format!("postern_credential_calls_total{labels}"))).unwrap()
    };
    assert_eq!([count("insufficient"), count("failed"), count("refused")], counts);
    endpoint.answer(200, ok());
    stage.clock.advance(3 * SECOND);
    gateway.call("/x", &token).passed();
}

#[test]
fn many_requests_of_one_user_make_one_call_and_hold_nobody_else_up() {
    let (stage, endpoint, gateway) = start(NO_STATUS);
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    let send = |token: &str| {
        let mut client = gateway.connect();
        client.send(crate::support::head("GET", "/x", &[&bearer(token)]));
        client
    };
    let mut waiting: Vec<_> = (0..8).map(|_| send(&alice)).collect();
    eventually("the endpoint is asked", || endpoint.calls() == 1);
    // On the same worker.
    gateway.call("/free/x", &alice).passed();
    gateway.call("/free/x", &bob).passed();
    waiting.push(send(&bob));
    eventually("another user's call is made beside it", || endpoint.calls() == 2);
    // One that does not say whose it is, so that it serves both.
    endpoint.grant(&stage, &exchanged().without_claim("sub"), GRANTED);
    for client in &mut waiting {
        client.read().passed();
    }
    assert_eq!(endpoint.calls(), 2);
}

#[test]
fn a_request_that_gives_up_cancels_no_call() {
    let (stage, endpoint, gateway) = start(NO_STATUS);
    let token = stage.issuer.token("alice");
    let mut client = gateway.connect();
    client.send(crate::support::head("GET", "/x", &[&bearer(&token)]));
    eventually("the endpoint is asked", || endpoint.calls() == 1);
    drop(client);
    endpoint.grant(&stage, &exchanged(), GRANTED);
    gateway.call("/x", &token).passed();
    assert_eq!(endpoint.calls(), 1);
}

#[test]
fn a_failure_is_remembered_for_three_seconds() {
    let (stage, endpoint, gateway) = start(NO_STATUS);
    let token = stage.issuer.token("alice");
    endpoint.answer(500, json!({}));
    for _ in 0..5 {
        gateway.call("/x", &token).refused(503, "credential_unavailable");
    }
    assert_eq!(endpoint.calls(), 1);
    endpoint.grant(&stage, &exchanged(), GRANTED);
    gateway.call("/x", &token).refused(503, "credential_unavailable");
    stage.clock.advance(3 * SECOND);
    gateway.call("/x", &token).passed();
    assert_eq!(endpoint.calls(), 2);
}

#[test]
fn a_token_is_renewed_at_half_of_its_life_and_handed_out_while_a_third_is_left() {
    let (stage, endpoint, gateway) = start(NO_STATUS);
    let token = stage.issuer.token("alice");
    let call = || {
        gateway.call("/x", &token).passed();
        stage.upstream.last().bearer().to_owned()
    };
    let first = endpoint.grant(&stage, &exchanged(), GRANTED);
    assert_eq!(call(), first);
    stage.clock.advance(149 * SECOND);
    assert_eq!((call(), endpoint.calls()), (first.clone(), 1));
    let second = endpoint.grant(&stage, &exchanged(), GRANTED);
    stage.clock.advance(SECOND);
    // It does not wait for the new one.
    assert_eq!(call(), first);
    eventually("there is a new one", || call() == second);
    assert_eq!(endpoint.calls(), 2);
    // While the issuer is down, it serves until a third of its life is left.
    endpoint.answer(500, json!({}));
    let failed = "postern_credential_calls_total{credential=\"exchange\",client=\"gateway\",outcome=\"failed\"}";
    for age in 1..200 {
        stage.clock.advance(SECOND);
        assert_eq!(call(), second);
        if age == 150 {
            eventually("a renewal failed", || gateway.admin("/metrics").text().contains(&format!("{failed} 1\n")));
        }
    }
    eventually("another failed, too", || gateway.metric(failed) > 1);
    stage.clock.advance(5 * SECOND);
    gateway.call("/x", &token).refused(503, "credential_unavailable");
}

#[test]
fn another_session_has_a_token_of_its_own() {
    let (stage, endpoint, gateway) = start(NO_STATUS);
    let tokens = [stage.issuer.token("alice"), stage.issuer.token("alice")];
    for (calls, token) in [(1, &tokens[0]), (2, &tokens[1]), (2, &tokens[0])] {
        endpoint.grant(&stage, &exchanged(), GRANTED);
        gateway.call("/x", token).passed();
        assert_eq!(endpoint.calls(), calls);
    }
}

#[test]
fn a_changed_role_makes_it_be_got_anew() {
    let (stage, endpoint, gateway) = start(&introspection(""));
    let token = stage.issuer.token("alice");
    let call = || {
        stage.clock.advance(30 * SECOND);
        gateway.call("/x", &token).passed();
        stage.upstream.last().bearer().to_owned()
    };
    let first = endpoint.grant(&stage, &exchanged(), GRANTED);
    assert_eq!([call(), call()], [first.clone(), first]);
    let second = endpoint.grant(&stage, &exchanged(), GRANTED);
    let change = UserChange { roles: Some(vec!["reader".into()]), ..UserChange::default() };
    assert!(stage.issuer.demo().change_user("alice", change));
    assert_eq!((call(), endpoint.calls()), (second, 2));
}

#[test]
fn a_disabled_user_gets_none_not_even_if_it_comes_while_they_wait() {
    let (stage, endpoint, gateway) = start(&introspection(""));
    let token = stage.issuer.token("alice");
    let mut client = gateway.connect();
    client.send(crate::support::head("GET", "/x", &[&bearer(&token)]));
    eventually("the endpoint is asked", || endpoint.calls() == 1);
    let asked = stage.issuer.demo().counters().introspection;
    assert!(stage.issuer.demo().set_enabled("alice", false));
    stage.clock.advance(25 * SECOND);
    eventually("the token is asked about", || stage.issuer.demo().counters().introspection > asked);
    eventually("it is known", || gateway.call("/free/x", &token).status == 401);
    let before = stage.upstream.requests();
    endpoint.grant(&stage, &exchanged(), GRANTED);
    client.read().refused(401, "user_inactive");
    gateway.call("/x", &token).refused(401, "user_inactive");
    assert_eq!((stage.upstream.requests(), endpoint.calls()), (before, 1));
}

#[test]
fn calls_are_made_under_the_ceiling_of_the_issuer() {
    let (stage, endpoint, gateway) = start(&introspection(""));
    endpoint.grant(&stage, &exchanged(), GRANTED);
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    assert_eq!(gateway.metric("postern_user_status_calls_total{issuer=\"main\",kind=\"exchange\"}"), 1);
}

#[test]
fn an_endpoint_that_does_not_answer_is_waited_for_no_longer_than_the_timeout() {
    let stage = Stage::new();
    let endpoint = TokenEndpoint::start(&stage);
    let routes = ROUTES.replace("'1m'", "'200ms'");
    let issuer = format!("{}\n{NO_STATUS}", endpoint.address());
    let gateway = stage.gateway(File { issuer: &issuer, rest: &routes, ..File::default() });
    let token = stage.issuer.token("alice");
    let start = std::time::Instant::now();
    gateway.call("/x", &token).refused(503, "credential_unavailable");
    assert!(start.elapsed() < PATIENCE / 2);
    endpoint.grant(&stage, &exchanged(), GRANTED);
    eventually("a further call is answered", || {
        stage.clock.advance(3 * SECOND);
        gateway.call("/x", &token).status == 200
    });
}
