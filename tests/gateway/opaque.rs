//! Tokens that are no JWS: worth what their issuer says, and never enough to have it asked without end.

use crate::support::{ANY, File, Gateway, Liar, START, Stage, introspection};
use serde_json::{Value, json};
use std::time::Duration;

/// A gateway whose issuer takes opaque tokens, and says of all of them whatever the test has it say.
struct Opaque {
    stage: Stage,
    liar: Liar,
    gateway: Gateway,
}

fn start() -> Opaque {
    let stage = Stage::new();
    let liar = Liar::start(&stage);
    let issuer = format!("opaque = true\n{}\n{}", liar.address(), introspection(""));
    let route = ANY.replace("credential", "headers = { x-auth-user = 'sub', x-auth-roles = 'roles' }\ncredential");
    let gateway = stage.gateway(File { issuer: &issuer, rest: &route, ..File::default() });
    Opaque { stage, liar, gateway }
}

fn good() -> Value {
    json!({ "active": true, "sub": "u-1", "aud": "gateway", "exp": START + 600, "roles": ["reader"] })
}

#[test]
fn an_opaque_token_is_worth_what_its_issuer_says_and_is_remembered() {
    let Opaque { stage, liar, gateway } = start();
    liar.say(good());
    let end = "the-same-end-of-all";
    let tokens = ["x".to_owned(), format!("one-{end}"), format!("two-{end}"), "a.b".into(), "a.b.c.d.e".into()];
    for token in &tokens {
        for _ in 0..3 {
            gateway.call("/x", token).passed();
        }
    }
    assert_eq!(liar.introspections(), tokens.len());
    let seen = stage.upstream.last();
    assert_eq!((seen.header("x-auth-user"), seen.header("x-auth-roles")), (Some("u-1"), Some("reader")));
    // It is in use as any other, and ends as the issuer said.
    assert_eq!(gateway.metric("postern_tokens_in_use{issuer=\"main\"}"), 5);
    liar.say(json!({ "active": false }));
    stage.clock.advance(Duration::from_secs(30));
    gateway.call("/x", "x").refused(401, "user_inactive");
    stage.clock.advance(Duration::from_secs(600));
    gateway.call("/x", "x").refused(401, "token_expired");
}

#[test]
fn an_answer_has_to_say_whose_the_token_is_for_whom_and_until_when() {
    let Opaque { stage, liar, gateway } = start();
    let mut number = 0;
    let mut check = |change: &dyn Fn(&mut Value), status: u16, reason: &str| {
        number += 1;
        let mut answer = good();
        change(&mut answer);
        liar.say(answer.clone());
        let got = gateway.call("/x", &format!("token-{number}"));
        assert_eq!(got.outcome(), (status, reason.to_owned()), "{answer}");
    };
    for name in ["sub", "aud", "exp"] {
        let without = |answer: &mut Value| drop(answer.as_object_mut().unwrap().remove(name));
        check(&without, 401, "invalid_token");
    }
    check(&|answer| answer["aud"] = json!("other"), 401, "wrong_audience");
    check(&|answer| answer["iss"] = json!("https://evil.example"), 401, "invalid_token");
    check(&|answer| answer["token_type"] = json!("DPoP"), 401, "invalid_token");
    check(&|answer| answer["typ"] = json!("Refresh"), 401, "invalid_token");
    check(&|answer| answer["cnf"] = json!({ "jkt": "x" }), 401, "invalid_token");
    check(&|answer| answer["exp"] = json!(START - 60), 401, "token_expired");
    check(&|answer| answer["active"] = json!("true"), 503, "user_status_unknown");
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_token_that_the_issuer_does_not_know_costs_one_question_in_a_while() {
    let Opaque { stage, liar, gateway } = start();
    liar.say(json!({ "active": false }));
    for _ in 0..5 {
        gateway.call("/x", "guess").refused(401, "invalid_token");
    }
    assert_eq!(liar.introspections(), 1);
    liar.say(good());
    stage.clock.advance(Duration::from_secs(5));
    gateway.call("/x", "guess").passed();
    assert_eq!(liar.introspections(), 2);
}

#[test]
fn an_opaque_token_is_shown_only_to_an_issuer_that_takes_such() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: &introspection(""), ..File::default() });
    gateway.call("/x", "secret-of-somebody-else").refused(401, "invalid_token");
    assert_eq!(stage.issuer.demo().counters().introspection, 0);
    let Opaque { liar, gateway, .. } = start();
    liar.say(good());
    // What has the form of a JWS is one, or nothing.
    gateway.call("/x", "a.b.c").refused(401, "invalid_token");
    gateway.call("/x", "not a token").refused(400, "malformed_authorization");
    assert_eq!(liar.introspections(), 0);
}
