//! Limits of routes that two gateways count together over one Redis. Their clock stands still and budgets are of hours, so nothing
//! comes back meanwhile.

use crate::support::redis::RedisServer;
use crate::support::{File, Gateway, Stage, eventually};

/// Ten at once, one an hour.
const TEN: &str = "{ rate = 1, per = '1h', burst = 10 }";

fn rest(stage: &Stage, server: &RedisServer, (name, limit): (&str, &str)) -> String {
    format!(
        "[state]\npath = '{}'\n[redis]\nurl = 'unix:{}'\n[[route]]\nname = 'any'\npath = '/**'\nupstream = 'up'\n\
         credential = 'none'\nlimit = {{ {limit} }}\n",
        stage.path(name).display(),
        server.socket().display()
    )
}

fn gateway(stage: &Stage, server: &RedisServer, name: &str, limit: &str) -> Gateway {
    let rest = rest(stage, server, (name, limit));
    let gateway =
        stage.unready_gateway(File { server: "trusted_proxies = ['127.0.0.1']", rest: &rest, ..File::default() });
    eventually("it is ready", || gateway.inner.is_ready());
    eventually("it counts with others", || !is_alone(&gateway));
    gateway
}

fn two(stage: &Stage, server: &RedisServer, limit: &str) -> [Gateway; 2] {
    ["a", "b"].map(|name| gateway(stage, server, name, limit))
}

fn is_alone(gateway: &Gateway) -> bool {
    gateway.metric("postern_route_limits_alone") == 1
}

/// Waits for an exchange that begins after this call.
fn told(gateway: &Gateway) {
    let exchanges = || gateway.metric("postern_route_limits_exchanges_total");
    let before = exchanges();
    eventually("others are told", || exchanges() >= before + 2);
}

/// How many pass of so many requests; the others are refused on account of the limit.
fn passing(gateway: &Gateway, token: &str, times: usize) -> usize {
    let answers = (0..times).map(|_| gateway.call("/x", token));
    let is_passed = |status: u16| {
        assert!(status == 200 || status == 429, "{status}");
        status == 200
    };
    answers.filter(|answer| is_passed(answer.status)).count()
}

/// Asks at one and then at the other, which passes what is left, and hears of the one when it is first asked.
#[track_caller]
fn count_together(a: &Gateway, b: &Gateway, token: &str) {
    assert_eq!(passing(a, token, 6), 6);
    told(a);
    assert_eq!(passing(b, token, 1), 1);
    told(b);
    assert_eq!(passing(b, token, 20), 3);
}

#[test]
fn two_gateways_pass_together_what_one_would() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let stage = Stage::new();
    let [a, b] = two(&stage, &server, &format!("user = {TEN}"));
    let alice = stage.issuer.token("alice");
    count_together(&a, &b, &alice);
    told(&b);
    // The first has not asked since. What it lets pass before it hears is what the manual says; then it refuses, and says until when.
    assert_eq!(passing(&a, &alice, 1), 1);
    told(&a);
    let answer = a.call("/x", &alice);
    answer.refused(429, "too_many_requests_of_user");
    let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((3000..=7200).contains(&seconds), "{seconds}");
    // Who did not ask yet has all of it.
    assert_eq!(passing(&a, &stage.issuer.token("bob"), 20), 10);
    // Nobody who asked is named there.
    let subject = stage.issuer.demo().user("alice").unwrap().id;
    let keys = server.command(&["KEYS", "*"]);
    assert!(keys.contains("{postern}:limits:") && !keys.contains(&subject), "{keys}");
}

#[test]
fn namespaces_routes_and_addresses_are_counted_together_too() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let stage = Stage::new();
    for (limit, reason) in [
        ("namespace", "too_many_requests_of_namespace"),
        ("route", "too_many_requests_of_route"),
        ("address", "too_many_requests"),
    ] {
        let [a, b] = two(&stage, &server, &format!("{limit} = {TEN}"));
        let alice = stage.issuer.token("alice");
        count_together(&a, &b, &alice);
        b.call("/x", &alice).refused(429, reason);
        drop((a, b));
        ["a", "b"].iter().for_each(|name| std::fs::remove_dir_all(stage.path(name)).unwrap());
    }
}

#[test]
fn without_redis_each_gateway_holds_the_limit_by_itself_and_says_so() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let stage = Stage::new();
    let [a, b] = two(&stage, &server, &format!("user = {TEN}"));
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| stage.issuer.token(name));
    assert_eq!(passing(&a, &alice, 6), 6);
    told(&a);
    assert_eq!(passing(&b, &alice, 1), 1);
    told(&b);
    server.kill();
    for gateway in [&a, &b] {
        eventually("it says so", || is_alone(gateway));
        assert!(gateway.metric("postern_route_limits_exchange_failures_total") > 0);
        assert_eq!(passing(gateway, &bob, 20), 10);
    }
    // What was heard before goes on to hold.
    assert_eq!(passing(&b, &alice, 20), 3);
    server.run();
    for gateway in [&a, &b] {
        eventually("it counts with others again", || !is_alone(gateway));
    }
    count_together(&a, &b, &carol);
}

#[test]
fn a_limit_that_is_not_shared_is_each_gateways_own() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let stage = Stage::new();
    let [a, b] = two(&stage, &server, &format!("user = {TEN}, shared = false"));
    let alice = stage.issuer.token("alice");
    assert_eq!((passing(&a, &alice, 20), passing(&b, &alice, 20)), (10, 10));
    assert!(!server.command(&["KEYS", "*"]).contains("limits"));
    // A reload has it count with others, from what it counted.
    let shared = rest(&stage, &server, ("b", &format!("user = {TEN}")));
    b.inner
        .reload(stage.config(File { server: "trusted_proxies = ['127.0.0.1']", rest: &shared, ..File::default() }))
        .unwrap();
    assert_eq!((passing(&b, &alice, 1), passing(&b, &stage.issuer.token("bob"), 1)), (0, 1));
    eventually("others are told", || server.command(&["KEYS", "*"]).contains("{postern}:limits:"));
    eventually("it is not alone", || !is_alone(&b));
}
