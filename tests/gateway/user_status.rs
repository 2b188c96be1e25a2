//! Is the user still enabled? No request passes on an answer older than the bound, whatever the issuer does.

use crate::support::{ANY, File, Gateway, Liar, Stage, bearer, eventually, head, introspection};
use postern::dev::{Endpoint, Illness, OldKeys, TokenSpec, UserChange, decode};
use serde_json::{Value, json};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

fn start(more: &str) -> (Stage, Gateway) {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: &introspection(more), ..File::default() });
    (stage, gateway)
}

fn fall_ill(stage: &Stage, illness: Option<Illness>) {
    stage.issuer.demo().set_illness(Endpoint::Introspection, illness);
}

#[test]
fn a_disabled_user_is_refused_within_the_bound() {
    let (stage, gateway) = start("");
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    gateway.call("/x", &alice).passed();
    gateway.call("/x", &bob).passed();
    assert!(stage.issuer.demo().set_enabled("alice", false));
    stage.clock.advance(BOUND);
    let before = stage.upstream.requests();
    let answer = gateway.call("/x", &alice);
    answer.refused(401, "user_inactive");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"postern\", error=\"invalid_token\""));
    gateway.call("/x", &stage.issuer.token("alice")).refused(401, "user_inactive");
    assert_eq!(stage.upstream.requests(), before);
    gateway.call("/x", &bob).passed();
}

#[test]
fn a_user_who_is_enabled_again_passes_after_the_bound() {
    let (stage, gateway) = start("");
    let token = stage.issuer.token("dave");
    gateway.call("/x", &token).refused(401, "user_inactive");
    stage.issuer.demo().set_enabled("dave", true);
    gateway.call("/x", &token).refused(401, "user_inactive");
    stage.clock.advance(BOUND);
    gateway.call("/x", &token).passed();
}

#[test]
fn a_user_who_logged_out_or_was_deleted_is_refused_within_the_bound() {
    let (stage, gateway) = start("");
    let demo = stage.issuer.demo();
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    gateway.call("/x", &alice).passed();
    gateway.call("/x", &bob).passed();
    demo.end_sessions("alice");
    assert!(demo.delete_user("bob"));
    stage.clock.advance(BOUND);
    gateway.call("/x", &alice).refused(401, "user_inactive");
    gateway.call("/x", &bob).refused(401, "user_inactive");
    // A session end is no block: whoever signs in again passes.
    gateway.call("/x", &stage.issuer.token("alice")).passed();
}

#[test]
fn an_answer_serves_all_requests_of_its_token_until_it_is_replaced_in_the_background() {
    let (stage, gateway) = start("");
    let token = stage.issuer.token("alice");
    let asked = || stage.issuer.demo().counters().introspection;
    for _ in 0..5 {
        gateway.call("/x", &token).passed();
    }
    stage.clock.advance(BOUND / 2);
    gateway.call("/x", &token).passed();
    assert_eq!(asked(), 1);
    // From now on it is asked about each four fifths of the bound, as the clock goes here.
    stage.clock.advance(Duration::from_secs(9));
    eventually("it is asked about again", || asked() == 2);
    for round in 3..6 {
        stage.clock.advance(BOUND * 4 / 5);
        eventually("it is asked about again", || asked() == round);
        gateway.call("/x", &token).passed();
    }
    assert_eq!(gateway.metric("postern_user_status_total{outcome=\"waited\"}"), 1, "only the first request waits");
    assert_eq!(gateway.metric("postern_user_status_calls_total{issuer=\"main\",kind=\"revalidation\"}"), 4);
    assert_eq!(gateway.metric("postern_tokens_in_use{issuer=\"main\"}"), 1);
    assert!((496..500).contains(&gateway.metric("postern_introspection_headroom{issuer=\"main\"}")));
    assert_eq!(gateway.metric("postern_user_status_queue{issuer=\"main\",kind=\"revalidation\"}"), 0);
    let is_young = || gateway.admin("/metrics").text().contains("postern_user_status_age_seconds{issuer=\"main\"} 0.0");
    eventually("the answer is there", is_young);
}

#[test]
fn two_hundred_requests_of_a_token_never_seen_cost_one_question() {
    let stage = Stage::new();
    let liar = Liar::start(&stage);
    let issuer = format!("{}\n{}", liar.address(), introspection("timeout = '20s'"));
    let gateway = stage.gateway(File { server: "workers = 2", issuer: &issuer, ..File::default() });
    let request = head("GET", "/x", &[&bearer(&stage.issuer.token("alice"))]);
    let mut clients: Vec<_> = std::iter::repeat_with(|| gateway.connect()).take(200).collect();
    for client in &mut clients {
        client.send(&request);
    }
    eventually("all requests wait", || gateway.metric("postern_user_status_total{outcome=\"waited\"}") == 200);
    assert_eq!((liar.introspections(), stage.upstream.requests()), (1, 0));
    liar.say(json!({ "active": true }));
    for client in &mut clients {
        client.read().passed();
    }
    assert_eq!((liar.introspections(), stage.upstream.requests()), (1, 200));
}

#[test]
fn an_answer_is_as_old_as_its_question() {
    let stage = Stage::new();
    let liar = Liar::start(&stage);
    let issuer = format!("{}\n{}", liar.address(), introspection("timeout = '20s'"));
    let gateway = stage.gateway(File { issuer: &issuer, ..File::default() });
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[&bearer(&stage.issuer.token("alice"))]));
    eventually("the issuer is asked", || liar.introspections() == 1);
    stage.clock.advance(BOUND);
    liar.say(json!({ "active": true }));
    // It may hear the answer to a second question, which is asked at once: that one is young.
    let answer = client.read();
    if answer.status == 200 {
        assert!(liar.introspections() > 1);
    } else {
        answer.refused(503, "user_status_unknown");
        assert_eq!(stage.upstream.requests(), 0);
    }
    eventually("it is asked about again", || liar.introspections() > 1);
}

#[test]
fn while_nothing_is_known_of_a_user_the_answer_is_503() {
    for illness in [Illness::Refuse, Illness::ServerError, Illness::Garbage, Illness::Hang] {
        let (stage, gateway) = start("timeout = '300ms'");
        let known = stage.issuer.token("alice");
        recovers(&stage, || gateway.call("/x", &known).status == 200);
        fall_ill(&stage, Some(illness));
        let unseen = gateway.call("/x", &stage.issuer.token("alice"));
        assert_eq!(unseen.outcome(), (503, "user_status_unknown".to_owned()), "{illness:?}");
        unseen.refused(503, "user_status_unknown");
        assert!(unseen.header("retry-after").is_some() && unseen.header("www-authenticate").is_none());
        stage.clock.advance(BOUND - SECOND);
        gateway.call("/x", &known).passed();
        stage.clock.advance(SECOND);
        gateway.call("/x", &known).refused(503, "user_status_unknown");
        fall_ill(&stage, None);
        recovers(&stage, || gateway.call("/x", &known).status == 200);
    }
}

/// Waits until the issuer is asked again, whatever calls of before are still under way.
#[track_caller]
fn recovers(stage: &Stage, mut has_recovered: impl FnMut() -> bool) {
    eventually("the issuer is asked again", || {
        stage.clock.advance(SECOND);
        has_recovered()
    });
}

#[test]
fn an_issuer_that_fails_is_not_asked_by_every_request() {
    let (stage, gateway) = start("");
    fall_ill(&stage, Some(Illness::ServerError));
    for _ in 0..20 {
        gateway.call("/x", &stage.issuer.token("alice")).refused(503, "user_status_unknown");
    }
    assert_eq!(stage.issuer.demo().counters().introspection, 1);
}

#[test]
fn a_client_secret_that_the_issuer_refuses_says_nothing_about_users() {
    let stage = Stage::new();
    let wrong = introspection("").replace("gateway-secret", "wrong");
    let gateway = stage.gateway(File { issuer: &wrong, ..File::default() });
    gateway.call("/x", &stage.issuer.token("alice")).refused(503, "user_status_unknown");
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn allow_for_lets_known_users_pass_for_its_time_and_strangers_never() {
    let (stage, gateway) = start("when_unknown = { allow_for = '5m' }");
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).passed();
    fall_ill(&stage, Some(Illness::Refuse));
    stage.clock.advance(BOUND);
    gateway.call("/x", &token).passed();
    assert_eq!(gateway.metric("postern_user_status_total{outcome=\"prolonged\"}"), 1);
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    gateway.call("/x", &stage.issuer.token("bob")).refused(503, "user_status_unknown");
    stage.clock.advance(Duration::from_secs(269));
    gateway.call("/x", &token).passed();
    stage.clock.advance(SECOND);
    gateway.call("/x", &token).refused(503, "user_status_unknown");
    gateway.call("/x", &stage.issuer.token("alice")).refused(503, "user_status_unknown");
}

#[test]
fn allow_for_prolongs_no_token_that_was_refused() {
    let (stage, gateway) = start("when_unknown = { allow_for = '5m' }");
    let [first, second] = [(); 2].map(|()| stage.issuer.token("alice"));
    gateway.call("/x", &first).passed();
    gateway.call("/x", &second).passed();
    stage.issuer.demo().end_sessions("alice");
    stage.clock.advance(BOUND);
    // Until the issuer has answered, it is prolonged.
    eventually("it is refused", || gateway.call("/x", &first).outcome() == (401, "user_inactive".to_owned()));
    fall_ill(&stage, Some(Illness::Refuse));
    stage.clock.advance(BOUND);
    assert_eq!(gateway.call("/x", &first).status, 503);
    stage.clock.advance(BOUND);
    assert_eq!(gateway.call("/x", &first).status, 503);
}

#[test]
fn a_user_who_was_disabled_during_an_outage_is_refused_when_it_ends() {
    let (stage, gateway) = start("when_unknown = { allow_for = '5m' }");
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).passed();
    fall_ill(&stage, Some(Illness::ServerError));
    stage.issuer.demo().set_enabled("alice", false);
    stage.clock.advance(BOUND);
    gateway.call("/x", &token).passed();
    fall_ill(&stage, None);
    recovers(&stage, || gateway.call("/x", &token).outcome() == (401, "user_inactive".to_owned()));
}

#[test]
fn a_token_that_is_not_good_by_itself_is_never_asked_about() {
    let (stage, gateway) = start("");
    let spec = TokenSpec::user("alice");
    gateway.call("/x", &stage.issuer.issue(&spec.clone().lifetime(-60))).refused(401, "token_expired");
    gateway.call("/x", &stage.issuer.issue(&spec.clone().claim("aud", "other"))).refused(401, "wrong_audience");
    gateway.call("/x", &stage.issuer.issue(&spec.header("kid", "x"))).refused(401, "invalid_token");
    stage.issuer.demo().rotate_keys(OldKeys::Drop).unwrap();
    assert_eq!(stage.issuer.demo().counters().introspection, 0);
}

/// Asserts what becomes of tokens of alice and a client when introspection says this.
#[track_caller]
fn check_answers(client: &str, cases: &[(Value, u16, &str)]) {
    let stage = Stage::new();
    let liar = Liar::start(&stage);
    let issuer = format!("lightweight = true\n{}\n{}", liar.address(), introspection(""));
    let gateway = stage.gateway(File { issuer: &issuer, ..File::default() });
    for (answer, status, reason) in cases {
        liar.say(answer.clone());
        // An issuer that failed is left alone for a moment.
        stage.clock.advance(SECOND);
        let before = (stage.upstream.requests(), liar.introspections());
        let got = gateway.call("/x", &stage.issuer.issue(&TokenSpec::user("alice").client(client)));
        assert_eq!(got.outcome(), (*status, (*reason).to_owned()), "{answer}");
        let after = (before.0 + usize::from(*status == 200), before.1 + 1);
        assert_eq!((stage.upstream.requests(), liar.introspections()), after, "{answer}");
    }
}

#[test]
fn an_answer_about_another_token_admits_nobody() {
    check_answers(
        "cli",
        &[
            (json!({ "active": true, "sub": "somebody-else" }), 401, "invalid_token"),
            (json!({ "active": true, "sub": 7 }), 401, "invalid_token"),
            (json!({ "active": true, "iss": "https://evil.example" }), 401, "invalid_token"),
            (json!({ "active": true, "aud": ["other"] }), 401, "wrong_audience"),
            (json!({ "active": true, "token_type": "DPoP" }), 401, "invalid_token"),
            (json!({ "active": true, "typ": "Refresh" }), 401, "invalid_token"),
            (json!({ "active": true, "token_type": "bearer", "aud": "gateway" }), 200, ""),
        ],
    );
}

#[test]
fn an_answer_that_completes_a_lightweight_token_must_name_user_and_audience() {
    check_answers(
        "cli-light",
        &[
            (json!({ "active": true, "sub": "u" }), 401, "invalid_token"),
            (json!({ "active": true, "aud": "gateway" }), 401, "invalid_token"),
            (json!({ "active": true, "sub": "", "aud": "gateway" }), 401, "invalid_token"),
            (json!({ "active": true, "sub": "u", "aud": "gateway" }), 200, ""),
        ],
    );
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    let unknown = |answer| (answer, 503, "user_status_unknown");
    check_answers(
        "cli",
        &[
            unknown(json!({})),
            unknown(json!([])),
            unknown(json!({ "active": "true" })),
            unknown(json!({ "active": 1 })),
            unknown(json!({ "error": "invalid_client" })),
            (json!({ "active": false, "sub": "u" }), 401, "user_inactive"),
        ],
    );
}

#[test]
fn a_plain_introspection_server_leaves_the_token_to_say_who_it_is() {
    let stage = Stage::new();
    let liar = Liar::start(&stage);
    liar.say(json!({ "active": true }));
    let issuer = format!("{}\n{}", liar.address(), introspection(""));
    let route = ANY.replace("credential", "headers = { x-auth-roles = 'roles', x-auth-email = 'email' }\ncredential");
    let gateway = stage.gateway(File { issuer: &issuer, rest: &route, ..File::default() });
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    let seen = stage.upstream.last();
    assert_eq!(seen.header("x-auth-roles"), Some("reader,writer,admin"));
    assert_eq!(seen.header("x-auth-email"), Some("alice@example.com"));
    // What it does say counts more.
    liar.say(json!({ "active": true, "email": "new@example.com", "realm_access": { "roles": ["reader"] } }));
    stage.clock.advance(BOUND);
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    let seen = stage.upstream.last();
    assert_eq!(seen.header("x-auth-roles"), Some("reader"));
    assert_eq!(seen.header("x-auth-email"), Some("new@example.com"));
}

#[test]
fn a_token_in_its_leeway_is_no_better_than_the_session_it_belongs_to() {
    let stage = Stage::new();
    let route = ANY.replace("credential", "access = { any_role = ['admin'] }\ncredential");
    let issuer = introspection("").replace("30s", "5s");
    let gateway = stage.gateway(File { issuer: &issuer, rest: &route, ..File::default() });
    let (demo, spec) = (stage.issuer.demo(), TokenSpec::user("alice"));
    let fresh = stage.issuer.token("alice");
    let sid = decode(&fresh).unwrap().1["sid"].clone();
    let [old, unused] = [(); 2].map(|()| stage.issuer.issue(&spec.clone().lifetime(60).claim("sid", sid.clone())));
    let of_another_session = stage.issuer.issue(&spec.lifetime(60));
    gateway.call("/x", &old).passed();
    // Past `exp` the issuer calls every token inactive, whatever became of its user.
    stage.clock.advance(Duration::from_secs(65));
    assert_eq!(gateway.call("/x", &old).status, 401);
    gateway.call("/x", &fresh).passed();
    for token in [&old, &unused] {
        gateway.call("/x", token).passed();
    }
    gateway.call("/x", &of_another_session).refused(401, "user_inactive");
    let roles = Some(vec!["reader".into()]);
    assert!(demo.change_user("alice", UserChange { roles, ..UserChange::default() }));
    stage.clock.advance(Duration::from_secs(5));
    gateway.call("/x", &fresh).refused(403, "role_missing");
    for token in [&old, &unused] {
        assert_ne!(gateway.call("/x", token).status, 200, "a role that was taken away still counts");
    }
    demo.end_sessions("alice");
    stage.clock.advance(Duration::from_secs(5));
    for token in [&fresh, &old, &unused] {
        gateway.call("/x", token).refused(401, "user_inactive");
    }
}
