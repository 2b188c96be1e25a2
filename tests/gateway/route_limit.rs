//! How often a route may be asked for: in all, and by one address, user or namespace.

use crate::support::{Answer, File, Gateway, Stage, bearer, eventually};
use postern::dev::{User, UserChange};
use serde_json::Value;
use std::time::Duration;

/// A route for everything with a limit, and one without.
fn rest(limit: &str) -> String {
    format!(
        "[[route]]\nname='any'\npath='/**'\nupstream='up'\ncredential='none'\nlimit = {limit}\n\
         [[route]]\nname='other'\npath='/other'\nupstream='up'\ncredential='none'\n"
    )
}

fn limited(stage: &Stage, limit: &str) -> Gateway {
    limited_with(stage, "trusted_proxies = ['127.0.0.1']", limit)
}

fn limited_with(stage: &Stage, server: &str, limit: &str) -> Gateway {
    stage.gateway(File { server, rest: &rest(limit), ..File::default() })
}

#[track_caller]
fn is_told_to_wait(answer: &Answer, reason: &str, seconds: &str) {
    answer.refused(429, reason);
    assert_eq!((answer.header("retry-after"), answer.header("www-authenticate")), (Some(seconds), None));
}

fn from(gateway: &Gateway, client: &str, token: &str) -> Answer {
    gateway.get("/x", &[&format!("x-forwarded-for: {client}"), &bearer(token)])
}

#[test]
fn a_user_beyond_the_limit_waits_as_long_as_is_said_and_nobody_else_does() {
    let stage = Stage::new();
    let rest = rest("{ user = { rate = 2, per = '1m', burst = 3 } }");
    let gateway = stage.gateway(File { log: "access = { file = 'access.log' }", rest: &rest, ..File::default() });
    let [alice, again, bob] = ["alice", "alice", "bob"].map(|name| stage.issuer.token(name));
    for token in [&alice, &again, &alice] {
        gateway.call("/x", token).passed();
    }
    // Another token of the same user is the same user.
    is_told_to_wait(&gateway.call("/x", &again), "too_many_requests_of_user", "30");
    gateway.call("/x", &bob).passed();
    gateway.call("/other", &alice).passed();
    stage.clock.advance(Duration::from_millis(28_001));
    is_told_to_wait(&gateway.call("/x", &alice), "too_many_requests_of_user", "2");
    stage.clock.advance(Duration::from_millis(1999));
    gateway.call("/x", &alice).passed();
    is_told_to_wait(&gateway.call("/x", &alice), "too_many_requests_of_user", "30");
    assert_eq!(stage.upstream.requests(), 6);
    assert_eq!(gateway.metric("postern_refusals_total{route=\"any\",reason=\"too_many_requests_of_user\"}"), 3);
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    eventually("the lines are written", || read().lines().count() == 9);
    let refused =
        read().lines().map(|line| serde_json::from_str(line).unwrap()).find(|line: &Value| line["status"] == 429);
    let refused = refused.unwrap();
    let subject = stage.issuer.demo().user("alice").map(|user| user.id);
    assert_eq!(
        (refused["reason"].as_str(), refused["subject"].as_str()),
        (Some("too_many_requests_of_user"), subject.as_deref())
    );
}

#[test]
fn users_of_one_namespace_share_its_limit() {
    let stage = Stage::new();
    let gateway = limited(&stage, "{ namespace = { rate = 1, burst = 2 } }");
    let change = UserChange { namespace: Some("team-a".into()), ..UserChange::default() };
    assert!(stage.issuer.demo().change_user("carol", change));
    for name in ["erin", "frank"] {
        stage.issuer.demo().add_user(User::new(name));
    }
    let ask = |name: &str| gateway.call("/x", &stage.issuer.token(name));
    ask("alice").passed();
    ask("carol").passed();
    is_told_to_wait(&ask("carol"), "too_many_requests_of_namespace", "1");
    ask("bob").passed();
    // Who has none is not without a limit.
    ask("erin").passed();
    ask("frank").passed();
    is_told_to_wait(&ask("erin"), "too_many_requests_of_namespace", "1");
}

#[test]
fn all_callers_of_a_route_share_its_limit_and_who_may_not_pass_takes_nothing_of_it() {
    let stage = Stage::new();
    let gateway = limited(&stage, "{ route = { rate = 1, burst = 2 }, user = { rate = 5, per = '1h' } }");
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    for _ in 0..5 {
        gateway.call("/x", "nonsense").refused(401, "invalid_token");
        gateway.get("/x", &[]).refused(401, "missing_token");
    }
    gateway.call("/x", &alice).passed();
    gateway.call("/x", &bob).passed();
    for _ in 0..10 {
        is_told_to_wait(&gateway.call("/x", &alice), "too_many_requests_of_route", "1");
    }
    // Whom the limit of the route refused has lost nothing of their own.
    for _ in 0..4 {
        stage.clock.advance(Duration::from_secs(1));
        gateway.call("/x", &alice).passed();
    }
}

#[test]
fn an_address_beyond_the_limit_of_the_route_is_refused_before_its_token_is_looked_at() {
    let stage = Stage::new();
    let gateway = limited(&stage, "{ address = { rate = 1, per = '10s', burst = 2 } }");
    let alice = stage.issuer.token("alice");
    from(&gateway, "2001:db8::1", "nonsense").refused(401, "invalid_token");
    from(&gateway, "2001:db8::2", &alice).passed();
    for token in ["nonsense", &alice] {
        is_told_to_wait(&from(&gateway, "2001:db8:0:0:9::", token), "too_many_requests", "10");
    }
    from(&gateway, "2001:db8:0:1::1", &alice).passed();
    from(&gateway, "192.0.2.1", &alice).passed();
    gateway.get("/other", &["x-forwarded-for: 2001:db8::1", &bearer(&alice)]).passed();
}

#[test]
fn a_public_route_has_limits_of_its_own() {
    let stage = Stage::new();
    let rest = "[[route]]\nname='open'\npath='/**'\nupstream='up'\naccess='public'\n\
                limit = { address = { rate = 1, burst = 2 }, route = { rate = 1, burst = 3 } }\n";
    let gateway =
        stage.gateway(File { server: "trusted_proxies = ['127.0.0.1']", issuer: "", rest, ..File::default() });
    let ask = |client: &str| gateway.get("/x", &[&format!("x-forwarded-for: {client}")]);
    ask("192.0.2.1").passed();
    ask("192.0.2.1").passed();
    is_told_to_wait(&ask("192.0.2.1"), "too_many_requests", "1");
    ask("192.0.2.2").passed();
    is_told_to_wait(&ask("192.0.2.2"), "too_many_requests_of_route", "1");
}

#[test]
fn workers_together_let_a_user_pass_no_more_than_one_would() {
    let stage = Stage::new();
    let gateway = limited_with(&stage, "workers = 2", "{ user = { rate = 1, burst = 100 } }");
    let token = bearer(&stage.issuer.token("alice"));
    let ask = || {
        (0..10).flat_map(|_| {
            let mut connection = gateway.connect();
            (0..5).map(|_| connection.get("/x", &[&token]).status).collect::<Vec<_>>()
        })
    };
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ask().filter(|status| *status == 200).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 100);
}

#[test]
fn what_is_counted_goes_on_through_a_reload_that_leaves_the_limit_alone() {
    let stage = Stage::new();
    let gateway = limited(&stage, "{ user = { rate = 1, burst = 2 }, address = { rate = 9 } }");
    let alice = stage.issuer.token("alice");
    gateway.call("/x", &alice).passed();
    gateway.call("/x", &alice).passed();
    let reload = |limit: &str| {
        let config =
            stage.config(File { server: "trusted_proxies = ['127.0.0.1']", rest: &rest(limit), ..File::default() });
        gateway.inner.reload(config).unwrap();
    };
    reload("{ user = { rate = 1, burst = 2 }, address = { rate = 8 } }");
    is_told_to_wait(&gateway.call("/x", &alice), "too_many_requests_of_user", "1");
    reload("{ user = { rate = 1, burst = 1 } }");
    gateway.call("/x", &alice).passed();
    is_told_to_wait(&gateway.call("/x", &alice), "too_many_requests_of_user", "1");
}
