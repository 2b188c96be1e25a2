//! What a route changes on the way: paths, headers of requests, headers of answers.

use crate::support::{Answer, Client, File, Gateway, Seen, Stage, Upstream, bearer, eventually, head, tls};

fn start(rest: &str) -> (Stage, Gateway) {
    let stage = Stage::new();
    let gateway = stage.gateway(File { rest, ..File::default() });
    (stage, gateway)
}

/// What the upstream gets of a request by alice with these lines.
#[track_caller]
fn seen(stage: &Stage, gateway: &Gateway, path: &str, lines: &[&str]) -> Seen {
    gateway.get(path, &[lines, &[&bearer(&stage.issuer.token("alice"))]].concat()).passed();
    stage.upstream.last()
}

const REWRITES: &str = "
[[route]]
path = '/api/**'
upstream = 'up'
credential = 'none'
rewrite = { strip_prefix = '/api' }
[[route]]
path = '/old/**'
upstream = 'up'
credential = 'none'
rewrite = { strip_prefix = '/old', add_prefix = '/v2/new' }
[[route]]
path = '/users/*/files/**'
upstream = 'up'
credential = 'none'
allow_encoded_slash = true
rewrite = { to = '/store/{1}/{rest}' }
";

#[test]
fn the_upstream_gets_the_path_that_the_route_says_and_the_query_as_it_was() {
    let (stage, gateway) = start(REWRITES);
    for (asked, sent, prefix) in [
        ("/api/orders/7?q=/api/x&%2F", "/orders/7?q=/api/x&%2F", Some("/api")),
        ("/api/", "/", Some("/api")),
        ("/api/api/x/", "/api/x/", Some("/api")),
        ("/old/a%20b", "/v2/new/a%20b", Some("/old")),
        ("/users/7/files/a/b", "/store/7/a/b", None),
        ("/users/7/files/a%2Fb?", "/store/7/a%2Fb?", None),
        ("/users/7/files/", "/store/7/", None),
    ] {
        let seen = seen(&stage, &gateway, asked, &["x-forwarded-prefix: /evil", "X_Forwarded_Prefix: /evil"]);
        assert_eq!(seen.line, format!("GET {sent} HTTP/1.1"), "{asked}");
        assert_eq!((seen.header("x-forwarded-prefix"), seen.header("x_forwarded_prefix")), (prefix, None), "{asked}");
    }
}

#[test]
fn no_request_escapes_what_the_route_puts_in_front() {
    let (stage, gateway) = start(REWRITES);
    let token = bearer(&stage.issuer.token("alice"));
    for path in [
        "/api/../admin",
        "/api/%2e%2e/admin",
        "/api/x/..",
        "/api//evil",
        "/api/.",
        "/api/%2Fevil",
        "/api/..%2Fadmin",
        "/api/x%2F..",
        "/api/..;/admin",
        "/api/\\evil",
        "/users/../files/x",
        "/users/%2e%2e/files/x",
        "/users/a%2Fb/files/x",
        "/users/a/files/..%2Fx",
    ] {
        gateway.get(path, &[&token]).refused(400, "path_not_canonical");
    }
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn rights_and_log_are_of_the_path_that_was_asked_for() {
    let rest = "[[route]]\npath = '/open/**'\nupstream = 'up'\naccess = 'public'\nrewrite = { to = '/closed/{rest}' }\n\
                [[route]]\npath = '/closed/**'\nupstream = 'up'\ncredential = 'none'\n";
    let stage = Stage::new();
    let gateway = stage.gateway(File { log: "access = { file = 'access.log' }", rest, ..File::default() });
    gateway.get("/closed/x", &[]).refused(401, "missing_token");
    gateway.get("/open/x", &[]).passed();
    assert_eq!(stage.upstream.last().line, "GET /closed/x HTTP/1.1");
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    eventually("both lines are written", || read().lines().count() == 2);
    assert!(read().contains("\"path\":\"/open/x\""), "{}", read());
}

#[test]
fn a_request_that_is_sent_again_goes_to_the_same_path() {
    let upstream = Upstream::answering("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
    let stage = Stage::with(upstream);
    let rest = "[[route]]\npath = '/api/**'\nupstream = 'up'\nrewrite = { strip_prefix = '/api' }\n\
                request_headers = { set = { x-called = '{method} {path}' } }\n";
    let gateway = stage.gateway(File { rest, ..File::default() });
    assert_eq!(gateway.call("/api/x", &stage.issuer.token("alice")).status, 401);
    stage.clock.advance(std::time::Duration::from_secs(11));
    assert_eq!(gateway.call("/api/x", &stage.issuer.token("alice")).status, 401);
    let seen = stage.upstream.last();
    assert_eq!((stage.upstream.requests(), &*seen.line), (3, "GET /x HTTP/1.1"));
    assert_eq!(seen.all("x-called").collect::<Vec<_>>(), ["GET /api/x"]);
}

const HEADERS: &str = "
[[route]]
name = 'changed'
path = '/changed/**'
upstream = 'up'
headers = { x-auth-user = 'username' }
request_headers = { remove = ['cookie', 'X-Debug'], set = { x-who = '{username}@{namespace}', x-mail = '<{email}>', \
x-about = '{route} {upstream} {method} {path} {host} {client}', x-id = '{request_id}', accept-language = 'en', x-json = '{{}}' } }
[[route]]
path = '/plain/**'
upstream = 'up'
credential = 'none'
";

#[test]
fn request_headers_are_set_from_what_is_known_and_removed_however_they_are_spelled() {
    let (stage, gateway) = start(HEADERS);
    let sent = [
        "cookie: a=1",
        "X_Debug: 1",
        "x.debug: 1",
        "x-who: root",
        "X_Who: root",
        "accept-language: de",
        "Accept_Language: de",
        "x-json: evil",
        "x-kept: 1",
        "x-request-id: abc",
    ];
    let seen = seen(&stage, &gateway, "/changed/a?secret=1", &sent);
    for (name, value) in [
        ("x-who", "alice@team-a"),
        ("x-mail", "<alice@example.com>"),
        ("x-about", "changed up GET /changed/a api.example 127.0.0.1"),
        ("x-id", "abc"),
        ("accept-language", "en"),
        ("x-json", "{}"),
        ("x-kept", "1"),
        ("x-auth-user", "alice"),
    ] {
        assert_eq!(seen.all(name).collect::<Vec<_>>(), [value], "{name}");
    }
    for name in ["cookie", "x_debug", "x.debug", "x-debug", "x_who", "accept_language"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!((seen.all("authorization").count(), seen.all("x-forwarded-for").count()), (1, 1));
}

#[test]
fn what_one_route_says_about_callers_no_client_says_on_another() {
    let (stage, gateway) = start(HEADERS);
    // `x-about` tells the client's address.
    let sent = ["x-who: root", "x_mail: root", "X.About: 10.0.0.1", "accept-language: de", "x-json: mine"];
    let seen = seen(&stage, &gateway, "/plain/a", &sent);
    for name in ["x-who", "x_mail", "x.about", "x-about"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    // These two tell nothing about the caller.
    assert_eq!((seen.header("accept-language"), seen.header("x-json")), (Some("de"), Some("mine")));
}

#[test]
fn a_trailer_does_not_bring_back_what_was_set_or_removed() {
    let (stage, gateway) = start(HEADERS);
    let token = bearer(&stage.issuer.token("alice"));
    let mut client = gateway.connect();
    client.send(head("POST", "/changed/a", &[&token, "transfer-encoding: chunked"]));
    client.send("0\r\nX-Debug: 1\r\naccept_language: de\r\nx-who: root\r\nx-sum: 1\r\n\r\n");
    client.read().passed();
    assert_eq!(stage.upstream.last().trailers, ["x-sum: 1"]);
}

/// An upstream that says much.
const TALKATIVE: &str = "HTTP/1.1 200 OK\r\nserver: nginx/1.2\r\nx-powered-by: PHP/8\r\nX-AspNet-Version: 4\r\n\
     x-debug: 1\r\nX-Debug: 2\r\nx-frame-options: SAMEORIGIN\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-kept: 1\r\n\
     cache-control: public\r\nx-request-id: theirs\r\ncontent-length: 2\r\n\r\nok";

const ANSWERS: &str = "
[[route]]
name = 'clean'
path = '/clean/**'
upstream = 'up'
credential = 'none'
response_headers = { hygiene = true, remove = ['x-debug'], set = { cache-control = 'private', x-served-by = '{route} for {request_id}' } }
[[route]]
path = '/plain/**'
upstream = 'up'
credential = 'none'
";

#[track_caller]
fn fields(answer: &Answer) -> Vec<String> {
    let mut lines = answer.lines.clone();
    lines.retain(|line| !line.starts_with("date:"));
    lines.sort();
    lines
}

#[test]
fn answers_are_cleaned_and_what_the_upstream_says_is_otherwise_kept() {
    let stage = Stage::with(Upstream::answering(TALKATIVE));
    let gateway = stage.gateway(File { rest: ANSWERS, ..File::default() });
    let token = bearer(&stage.issuer.token("alice"));
    let answer = gateway.get("/clean/x", &[&token, "x-request-id: abc"]);
    assert_eq!(
        fields(&answer),
        [
            "cache-control: private",
            "content-length: 2",
            "referrer-policy: no-referrer",
            "set-cookie: a=1",
            "set-cookie: b=2",
            "x-content-type-options: nosniff",
            "x-frame-options: SAMEORIGIN",
            "x-kept: 1",
            "x-request-id: abc",
            "x-served-by: clean for abc",
        ]
    );
    let plain = gateway.get("/plain/x", &[&token]);
    assert_eq!((plain.header("server"), plain.header("x-powered-by")), (Some("nginx/1.2"), Some("PHP/8")));
    assert_eq!((plain.header("x-content-type-options"), plain.header("cache-control")), (None, Some("public")));
}

#[test]
fn refusals_carry_what_the_route_sets_and_keep_what_they_say() {
    let (_stage, gateway) = start(ANSWERS);
    let refused = gateway.get("/clean/x", &[]);
    refused.refused(401, "missing_token");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"postern\""));
    assert_eq!((refused.header("cache-control"), refused.header("x-frame-options")), (Some("no-store"), Some("DENY")));
    assert!(refused.header("x-served-by").unwrap().starts_with("clean for "));
    let plain = gateway.get("/plain/x", &[]);
    assert_eq!((plain.header("x-frame-options"), plain.header("x-served-by")), (None, None));
}

#[test]
fn browsers_are_told_to_stay_with_tls_only_over_tls() {
    let stage = Stage::new();
    tls::write_certificate(&stage, "server");
    let strict = |answer: Answer| answer.header("strict-transport-security").map(str::to_owned);
    let server = "tls = { certificate = 'server.pem', key = 'server.key' }";
    let gateway = stage.gateway(File { server, rest: ANSWERS, ..File::default() });
    let get = |path| Client::connect_tls(gateway.addr(), tls::client(&stage, "server", &[])).get(path, &[]);
    assert_eq!((strict(get("/clean/x")), strict(get("/plain/x"))), (Some("max-age=31536000".to_owned()), None));
    let gateway = stage.gateway(File { rest: ANSWERS, ..File::default() });
    assert_eq!(strict(gateway.get("/clean/x", &[])), None);
}
