//! What one address may ask for, before anybody knows who is asking.

use crate::support::{ANY, Answer, File, Gateway, Stage, bearer};
use postern::dev::TokenSpec;
use std::time::Duration;

const PROXIED: &str = "trusted_proxies = ['127.0.0.1']";

fn limited(stage: &Stage, server: &str, limits: &str) -> Gateway {
    let rest =
        format!("{ANY}[[route]]\nname='open'\npath='/open'\nupstream='up'\naccess='public'\n[limits]\n{limits}\n");
    stage.gateway(File { server, rest: &rest, ..File::default() })
}

/// As a proxy that is believed passes it on.
fn call_from(gateway: &Gateway, client: &str, token: &str) -> Answer {
    gateway.get("/x", &[&format!("x-forwarded-for: {client}"), &bearer(token)])
}

#[track_caller]
fn is_told_to_wait(answer: &Answer, reason: &str) {
    answer.refused(429, reason);
    assert_eq!((answer.header("retry-after"), answer.header("www-authenticate")), (Some("1"), None));
}

#[test]
fn an_address_with_too_many_bad_tokens_is_refused_before_its_token_is_looked_at() {
    let stage = Stage::new();
    let gateway = limited(&stage, PROXIED, "failed_authentications = { rate = 1, burst = 3 }");
    let [good, known] = [stage.issuer.token("alice"), stage.issuer.token("bob")];
    call_from(&gateway, "192.0.2.9", &known).passed();
    let forged = stage.issuer.issue(&TokenSpec::user("alice").header("alg", "PS256"));
    call_from(&gateway, "192.0.2.1", "nonsense").refused(401, "invalid_token");
    gateway
        .get("/x", &["x-forwarded-for: 192.0.2.1", "authorization: Basic YTpi"])
        .refused(400, "malformed_authorization");
    call_from(&gateway, "192.0.2.1", &forged).refused(401, "invalid_token");
    for token in ["nonsense", &forged, &good] {
        is_told_to_wait(&call_from(&gateway, "192.0.2.1", token), "too_many_failed_authentications");
    }
    // A token that was verified before costs a look-up, so its holder does not pay for a neighbour.
    call_from(&gateway, "192.0.2.1", &known).passed();
    gateway.get("/open", &["x-forwarded-for: 192.0.2.1"]).passed();
    assert_eq!(gateway.metric("postern_refusals_total{route=\"any\",reason=\"too_many_failed_authentications\"}"), 3);
    call_from(&gateway, "192.0.2.2", &good).passed();
    call_from(&gateway, "192.0.2.1", &good).passed();
    is_told_to_wait(&call_from(&gateway, "192.0.2.1", "nonsense"), "too_many_failed_authentications");
    stage.clock.advance(Duration::from_secs(1));
    call_from(&gateway, "192.0.2.1", "nonsense").refused(401, "invalid_token");
}

#[test]
fn good_callers_are_served_while_another_address_floods() {
    let stage = Stage::new();
    let gateway =
        limited(&stage, &format!("{PROXIED}\nworkers = 2"), "failed_authentications = { rate = 1, burst = 20 }");
    let good = stage.issuer.token("alice");
    let outcomes: Vec<u16> = std::thread::scope(|scope| {
        let flood = |n: u32| {
            let mut connection = gateway.connect();
            let token = bearer(&format!("random.{n}.token"));
            let lines = ["x-forwarded-for: 2001:db8::1:2".to_owned(), token];
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            (0..100).map(|_| connection.get("/x", &lines).status).collect::<Vec<_>>()
        };
        let flooding: Vec<_> = (0..4).map(|n| scope.spawn(move || flood(n))).collect();
        for n in 0..50 {
            call_from(&gateway, &format!("2001:db8:1:{n:x}::1"), &good).passed();
        }
        flooding.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let refused = outcomes.iter().filter(|status| **status == 429).count();
    // Four connections have at most one request each on its way when the budget ends.
    assert!((377..=380).contains(&refused), "{refused}");
    assert_eq!(outcomes.iter().filter(|status| **status == 401).count(), 400 - refused);
    is_told_to_wait(&call_from(&gateway, "2001:db8::ffff", "nonsense"), "too_many_failed_authentications");
}

#[test]
fn genuine_tokens_and_absent_ones_are_no_failed_authentications() {
    let stage = Stage::new();
    let gateway = limited(&stage, "", "failed_authentications = { rate = 1 }");
    let expired = stage.issuer.issue(&TokenSpec::user("alice").lifetime(-60));
    for _ in 0..5 {
        gateway.call("/x", &expired).refused(401, "token_expired");
        gateway.get("/x", &[]).refused(401, "missing_token");
    }
    gateway
        .call("/x", &stage.issuer.issue(&TokenSpec::user("alice").client("cli-noaud")))
        .refused(401, "wrong_audience");
    is_told_to_wait(&gateway.call("/x", "nonsense"), "too_many_failed_authentications");
    gateway.call("/x", &expired).refused(401, "token_expired");
}

#[test]
fn requests_of_one_address_are_counted_exactly_over_all_workers() {
    let stage = Stage::new();
    let gateway = limited(&stage, "workers = 2", "address = { rate = 10, burst = 100 }");
    let token = stage.issuer.token("alice");
    let ask = || {
        (0..10).flat_map(|_| {
            let mut connection = gateway.connect();
            let lines = bearer(&token);
            (0..5).map(|_| connection.get("/x", &[&lines]).status).collect::<Vec<_>>()
        })
    };
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ask().filter(|status| *status == 200).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 100);
    is_told_to_wait(&gateway.get("/open", &[]), "too_many_requests");
    // Who is not believed cannot be another address.
    is_told_to_wait(&gateway.get("/open", &["x-forwarded-for: 192.0.2.9"]), "too_many_requests");
    gateway.get("/nowhere/../x", &[]).refused(400, "path_not_canonical");
    stage.clock.advance(Duration::from_millis(100));
    gateway.get("/open", &[]).passed();
    is_told_to_wait(&gateway.get("/open", &[]), "too_many_requests");
}
