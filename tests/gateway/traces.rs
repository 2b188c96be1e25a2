//! Spans of sampled requests, as a collector gets them.

use crate::support::{ANY, Collector, File, Gateway, Stage, TakenSpan, Upstream, bearer, eventually, head};
use postern::config;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

/// A gateway that sends its spans there.
fn gateway(stage: &Stage, collector: &Collector, more: &str) -> Gateway {
    stage.gateway(File { log: &collector.traces(more), ..File::default() })
}

/// Ends the gateway, which hands over what it has left. The spans of the servers' sides, and of the clients'.
fn ended(gateway: Gateway, collector: &Collector) -> (Vec<TakenSpan>, Vec<TakenSpan>) {
    drop(gateway);
    collector.spans().into_iter().partition(|span| span.kind == 2)
}

#[test]
fn a_sampled_request_leaves_a_span_of_each_side_and_the_upstream_is_told_its_parent() {
    let (stage, collector) = (Stage::new(), Collector::start());
    let gateway = gateway(&stage, &collector, "sample = '100%', service = 'edge', token = 'for-the-collector'");
    let token = stage.issuer.token("alice");
    gateway.get("/x/y?q=private", &[&bearer(&token), "x-request-id: id-7", "x-tag: private"]).passed();
    let told = stage.upstream.last().header("traceparent").unwrap().to_owned();
    let (own, calls) = ended(gateway, &collector);
    let ([own], [call]) = (own.as_slice(), calls.as_slice()) else { panic!("{own:?}\n{calls:?}") };
    assert_eq!(told, format!("00-{}-{}-01", own.trace_id, call.span_id));
    assert_eq!((&call.trace_id, &call.parent, own.parent.as_str()), (&own.trace_id, &own.span_id, ""));
    assert_eq!((own.name.as_str(), call.name.as_str(), call.kind), ("GET any", "GET", 3));
    assert_eq!((own.service.as_str(), own.status, call.status), ("edge", 0, 0));
    let port = stage.upstream.addr().port().to_string();
    for (span, name, value) in [
        (own, "http.request.method", "GET"),
        (own, "url.path", "/x/y"),
        (own, "url.scheme", "http"),
        (own, "http.route", "any"),
        (own, "http.response.status_code", "200"),
        (own, "network.protocol.version", "1.1"),
        (own, "error.type", ""),
        (own, "postern.request_id", "id-7"),
        (call, "http.request.method", "GET"),
        (call, "server.address", "127.0.0.1"),
        (call, "server.port", port.as_str()),
        (call, "http.response.status_code", "200"),
        (call, "postern.upstream", "up"),
        (call, "error.type", ""),
    ] {
        assert_eq!(span.get(name), value, "{name} of {span:?}");
    }
    let sent = collector.last();
    assert_eq!(sent.line, "POST /v1/traces HTTP/1.1");
    assert_eq!(sent.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(sent.header("authorization"), Some("Bearer for-the-collector"));
    let text = String::from_utf8_lossy(&sent.body).into_owned();
    let subject = stage.issuer.demo().user("alice").unwrap().id;
    for private in [token.as_str(), "private", "alice", "team-a", &subject, "for-the-collector"] {
        assert!(!text.contains(private), "{private} is sent");
    }
}

#[test]
fn a_request_is_sampled_if_its_caller_is_and_goes_on_with_their_trace() {
    let (stage, collector) = (Stage::new(), Collector::start());
    let gateway = gateway(&stage, &collector, "sample = '0%'");
    let header = bearer(&stage.issuer.token("alice"));
    let told = |lines: &[&str]| {
        gateway.get("/x", &[lines, &[header.as_str()]].concat()).passed();
        stage.upstream.last().header("traceparent").unwrap().to_owned()
    };
    assert!(told(&[]).ends_with("-00"));
    assert_eq!(told(&[&format!("traceparent: {PARENT}-00")]), format!("{PARENT}-00"));
    let told = told(&[&format!("traceparent: {PARENT}-01"), "tracestate: a=b"]);
    assert_eq!(stage.upstream.last().header("tracestate"), Some("a=b"));
    let (own, calls) = ended(gateway, &collector);
    let ([own], [call]) = (own.as_slice(), calls.as_slice()) else { panic!("{own:?}\n{calls:?}") };
    assert_eq!((own.trace_id.as_str(), own.parent.as_str()), (&PARENT[3..35], &PARENT[36..]));
    assert_eq!(told, format!("{}-{}-01", &PARENT[..35], call.span_id));
}

#[test]
fn a_span_says_why_its_request_was_refused() {
    let collector = Collector::start();
    let stage = Stage::with(Upstream::serving(|mut peer| {
        peer.read();
    }));
    let gateway = gateway(&stage, &collector, "sample = '100%'");
    gateway.get("/x", &[]).refused(401, "missing_token");
    gateway.get("/../x", &[]).refused(400, "path_not_canonical");
    let mut client = gateway.connect();
    // Refused before its fields are known.
    client.send(head("GET", "/x", &["expect: 200-ok"]));
    assert_eq!(client.read().status, 417);
    gateway.call("/x", &stage.issuer.token("alice")).refused(502, "upstream_failed");
    let (own, calls) = ended(gateway, &collector);
    let said: Vec<_> = own
        .iter()
        .map(|span| {
            (span.get("http.response.status_code"), span.get("error.type"), span.get("http.route"), span.status)
        })
        .collect();
    let expected = [
        ("401", "missing_token", "any", 0),
        ("400", "path_not_canonical", "", 0),
        ("417", "expectation_failed", "", 0),
        ("502", "upstream_failed", "any", 2),
    ];
    assert_eq!(said, expected);
    let [call] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!((call.get("error.type"), call.status, &call.parent), ("upstream_failed", 2, &own[3].span_id));
}

#[test]
fn what_an_upstream_answers_is_told_of_its_span() {
    let collector = Collector::start();
    let stage = Stage::with(Upstream::answering("HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"));
    let gateway = gateway(&stage, &collector, "sample = '100%'");
    assert_eq!(gateway.call("/x", &stage.issuer.token("alice")).status, 503);
    let (own, calls) = ended(gateway, &collector);
    assert_eq!((own[0].get("error.type"), own[0].status), ("503", 2));
    assert_eq!((calls[0].get("error.type"), calls[0].status), ("503", 2));
}

#[test]
fn spans_that_a_collector_does_not_take_are_sent_again_or_counted() {
    let (stage, collector) = (Stage::new(), Collector::answering(&[503, 400]));
    let gateway = gateway(&stage, &collector, "sample = '100%'");
    let token = stage.issuer.token("alice");
    // 503 may pass; 400 will not.
    gateway.call("/x", &token).passed();
    eventually("the first were given up", || gateway.metric("postern_spans_total{outcome=\"failed\"}") == 2);
    gateway.call("/x", &token).passed();
    eventually("the next were taken", || gateway.metric("postern_spans_total{outcome=\"exported\"}") == 2);
    assert_eq!(gateway.metric("postern_spans_total{outcome=\"dropped\"}"), 0);
    assert_eq!((collector.requests(), collector.spans().len()), (3, 2));
}

#[test]
fn a_collector_that_is_away_keeps_nobody_waiting() {
    let stage = Stage::new();
    let log = "access = 'off'\ntraces = { to = 'http://127.0.0.1:1/v1/traces', sample = '100%' }";
    let gateway = stage.gateway(File { log, ..File::default() });
    let header = bearer(&stage.issuer.token("alice"));
    let mut client = gateway.connect();
    for _ in 0..100 {
        client.get("/x", &[&header]).passed();
    }
    // Both sides of each request.
    eventually("they were given up", || gateway.metric("postern_spans_total{outcome=\"failed\"}") == 200);
}

#[test]
fn a_collector_that_is_shown_a_token_is_on_loopback_or_spoken_to_in_tls() {
    let stage = Stage::new();
    let check = |is_dev: bool, traces: &str| {
        let log = format!("access = 'off'\ntraces = {{ {traces} }}");
        let text = stage.text(File { issuer: "", log: &log, rest: "", ..File::default() })
            + &ANY.replace("credential = 'none'", "access = 'public'");
        let text = if is_dev { text } else { text.replace("dev = true", "") };
        config::parse(&text, &stage.path("postern.toml")).err().map(|mistakes| mistakes.to_string()).unwrap_or_default()
    };
    let token = "token = { env = 'PATH' }";
    assert_eq!(check(false, "to = 'http://collector:4318/v1/traces'"), "");
    assert_eq!(check(false, &format!("to = 'https://collector:4318/v1/traces', {token}")), "");
    assert!(check(false, &format!("to = 'http://collector:4318/v1/traces', {token}")).contains("in clear text"));
    assert!(check(true, "to = 'http://collector:4318/v1/traces'").contains("everything on loopback"));
}
