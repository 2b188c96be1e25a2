//! What browsers are told about pages of other origins.

use crate::support::{Answer, File, Gateway, Stage, Upstream, bearer, head, introspection};

const ROUTES: &str = "
[[route]]
path = '/app/**'
upstream = 'up'
credential = 'none'
access = { any_role = ['nobody-has-it'] }
methods = ['GET', 'POST']
cors = { origins = ['https://app.example.com', 'http://localhost:3000'], headers = ['authorization', 'x-team'], credentials = true, max_age = '5m' }
[[route]]
name = 'app-rest'
path = '/app/**'
upstream = 'up'
credential = 'none'
[[route]]
path = '/open/**'
upstream = 'up'
credential = 'none'
cors = { origins = '*', expose = [] }
[[route]]
path = '/plain/**'
upstream = 'up'
credential = 'none'
";

const APP: &str = "origin: https://app.example.com";

fn start() -> (Stage, Gateway) {
    let stage = Stage::with(Upstream::answering(
        "HTTP/1.1 200 OK\r\naccess-control-allow-origin: https://theirs.example\r\naccess-control-allow-credentials: true\r\n\
         access-control-expose-headers: x-secret\r\nvary: Accept\r\ncontent-length: 2\r\n\r\nok",
    ));
    let gateway = stage.gateway(File { rest: ROUTES, ..File::default() });
    (stage, gateway)
}

fn preflight(gateway: &Gateway, path: &str, lines: &[&str]) -> Answer {
    let mut client = gateway.connect();
    client.send(head("OPTIONS", path, lines));
    client.read()
}

/// What of an answer is about CORS, in order of names.
fn told(answer: &Answer) -> Vec<String> {
    let is_of_cors = |line: &&String| line.starts_with("access-control-") || line.starts_with("vary:");
    let mut lines: Vec<_> = answer.lines.iter().filter(is_of_cors).cloned().collect();
    lines.sort();
    lines
}

#[test]
fn a_preflight_is_answered_without_a_token_and_without_the_upstream() {
    let (stage, gateway) = start();
    let answer = preflight(
        &gateway,
        "/app/x?y",
        &[APP, "access-control-request-method: POST", "access-control-request-headers: authorization"],
    );
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(
        told(&answer),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: authorization, x-team",
            "access-control-allow-methods: GET, POST",
            "access-control-allow-origin: https://app.example.com",
            "access-control-max-age: 300",
            "vary: Origin",
        ]
    );
    let open = preflight(&gateway, "/open/x", &["origin: https://any.example", "access-control-request-method: PUT"]);
    assert_eq!(
        told(&open),
        [
            "access-control-allow-headers: authorization, content-type",
            "access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE",
            "access-control-allow-origin: *",
            "access-control-max-age: 600",
        ]
    );
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_page_of_another_origin_is_promised_nothing() {
    let (stage, gateway) = start();
    for origin in [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "https://app.example.com:444",
        "http://app.example.com",
        "https://APP.example.com",
        "null",
        "",
    ] {
        let lines = [&*format!("origin: {origin}"), "access-control-request-method: GET"];
        let answer = preflight(&gateway, "/app/x", &lines);
        assert_eq!((answer.status, told(&answer)), (204, vec!["vary: Origin".to_owned()]), "{origin}");
        assert_eq!(told(&gateway.get("/app/x", &lines[..1])), ["vary: Origin"], "{origin}");
    }
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_preflight_gets_nobody_in() {
    let (stage, gateway) = start();
    let asks = "access-control-request-method: GET";
    // None of these is a preflight, so each needs a token like any other request.
    for (path, lines) in [
        ("/app/x", &[APP][..]),
        ("/app/x", &[asks]),
        ("/app/x", &[APP, APP, asks]),
        ("/app/x", &[APP, asks, asks]),
        ("/app/x", &[APP, "access-control-request-method: "]),
        ("/app/x", &[APP, "access-control-request-method: G T"]),
        ("/app/x", &[APP, asks, "connection: access-control-request-method"]),
        // The other route of this path takes it, and leaves CORS to its upstream.
        ("/app/x", &[APP, "access-control-request-method: DELETE"]),
        ("/plain/x", &[APP, asks]),
    ] {
        preflight(&gateway, path, lines).refused(401, "missing_token");
    }
    // And a request with the fields of a preflight is none.
    gateway.get("/open/x", &[APP, asks]).refused(401, "missing_token");
    assert_eq!(stage.upstream.requests(), 0);
    // What CORS leaves to the upstream goes there.
    let token = bearer(&stage.issuer.token("alice"));
    let answer = preflight(&gateway, "/plain/x", &[APP, asks, &token]);
    assert_eq!((answer.status, stage.upstream.last().line.as_str()), (200, "OPTIONS /plain/x HTTP/1.1"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://theirs.example"));
}

#[test]
fn a_preflight_is_held_to_the_path_and_the_limit_of_its_address() {
    let stage = Stage::new();
    let rest = format!("{ROUTES}[limits]\naddress = {{ rate = 1, burst = 3 }}\n");
    let gateway = stage.gateway(File { rest: &rest, ..File::default() });
    let lines = [APP, "access-control-request-method: GET"];
    preflight(&gateway, "/app/../x", &lines).refused(400, "path_not_canonical");
    preflight(&gateway, "/nowhere", &lines).refused(404, "no_route");
    for _ in 0..3 {
        assert_eq!(preflight(&gateway, "/app/x", &lines).status, 204);
    }
    let limited = preflight(&gateway, "/app/x", &lines);
    limited.refused(429, "too_many_requests");
    assert_eq!(limited.header("access-control-allow-origin"), Some("https://app.example.com"));
}

#[test]
fn a_page_sees_why_postern_refused() {
    let (stage, gateway) = start();
    let told_to_page = [
        "access-control-allow-credentials: true",
        "access-control-allow-origin: https://app.example.com",
        "access-control-expose-headers: retry-after, www-authenticate, x-request-id",
        "vary: Origin",
    ];
    let refused = gateway.get("/app/x", &[APP]);
    refused.refused(401, "missing_token");
    assert_eq!(told(&refused), told_to_page);
    let refused = gateway.get("/app/x", &[APP, &bearer(&stage.issuer.token("alice"))]);
    refused.refused(403, "role_missing");
    assert_eq!(told(&refused), told_to_page);
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_page_sees_that_postern_cannot_decide_or_reach_the_upstream() {
    let stage = Stage::new();
    let rest = "[upstream.gone]\nto = 'http://127.0.0.1:9'\n[[route]]\npath = '/gone/**'\nupstream = 'gone'\ncredential = 'none'\n\
                cors = { origins = 'https://app.example.com' }\n";
    let gateway = stage.gateway(File { rest, ..File::default() });
    let refused = gateway.get("/gone/x", &[APP, &bearer(&stage.issuer.token("alice"))]);
    refused.refused(502, "upstream_unreachable");
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example.com"));
    let issuer = introspection("timeout = '200ms'");
    let gateway = stage.gateway(File { issuer: &issuer, rest, ..File::default() });
    let token = bearer(&stage.issuer.token("alice"));
    stage.issuer.stop();
    let refused = gateway.get("/gone/x", &[APP, &token]);
    refused.refused(503, "user_status_unknown");
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example.com"));
}

#[test]
fn an_answer_says_what_the_route_says_and_not_what_the_upstream_says() {
    let (stage, gateway) = start();
    let token = bearer(&stage.issuer.token("alice"));
    let answer = gateway.get("/open/x", &["origin: https://any.example", &token]);
    assert_eq!(told(&answer), ["access-control-allow-origin: *", "vary: Accept"]);
    assert_eq!(stage.upstream.last().header("origin"), Some("https://any.example"));
    // A cache that keeps an answer to nobody's page must give it to none, so it varies too.
    let answer = gateway.get("/app/x", &[]);
    assert_eq!(told(&answer), ["vary: Origin"]);
}
