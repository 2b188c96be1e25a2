//! What a client may not say, however it is said, and what is said in its place.

use crate::support::{Answer, File, Gateway, Seen, Stage, Upstream, bearer, head};

/// Three routes; what one adds for its upstream, a client may say on none.
const ROUTES: &str = "
[[route]]
path = '/who/**'
upstream = 'up'
credential = 'none'
headers = { x-auth-user = 'username', x-team = 'namespace' }
[[route]]
path = '/plain/**'
upstream = 'up'
credential = 'none'
[[route]]
path = '/public/**'
upstream = 'up'
access = 'public'
[[route]]
path = '/pass/**'
upstream = 'up'
credential = 'pass'
[[route]]
path = '/minted/**'
upstream = 'up'
[[route]]
path = '/secret/**'
upstream = 'up'
credential = { secret = { header = 'x-api-key', prefix = 'Key ', value = 's3cret' } }
";

fn start() -> (Stage, Gateway) {
    let stage = Stage::new();
    let gateway = stage.gateway(File { rest: ROUTES, ..File::default() });
    (stage, gateway)
}

/// What the upstream is told beside `Host`, without what Postern itself says about each request.
fn told(seen: &Seen) -> Vec<String> {
    let ours = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "traceparent"];
    let told = seen.fields.iter().filter(|(name, _)| !ours.contains(&name.as_str()));
    told.map(|(name, value)| format!("{name}: {value}")).collect()
}

/// What the upstream is told of a request with these lines by alice.
#[track_caller]
fn told_of(stage: &Stage, gateway: &Gateway, path: &str, lines: &[&str]) -> Vec<String> {
    let token = bearer(&stage.issuer.token("alice"));
    gateway.get(path, &[lines, &[&token]].concat()).passed();
    told(&stage.upstream.last())
}

#[test]
fn who_a_client_says_it_is_goes_nowhere_however_it_is_spelled() {
    let (stage, gateway) = start();
    let lines = [
        "X-Auth-User: root",
        "x_auth_user: root",
        "X.Auth.User: root",
        "X-AUTH_USER: root",
        "x-auth-user: ",
        "X-Team: root",
        "x_team: root",
        "X!Team: root",
        "x-auth-anything: root",
        "X-Remote-User: root",
        "Remote_User: root",
        "Impersonate-User: root",
        "impersonate_group: root",
        "Impersonate-Extra-x: root",
        "X-User-Id: 0",
        "X-Original-URL: /admin",
        "x_original_url: /admin",
        "X-Rewrite-URL: /admin",
        "X-HTTP-Method-Override: DELETE",
        "x_http_method: DELETE",
        "X-Method-Override: DELETE",
        "X-Real-IP: 192.0.2.1",
        "x_real_ip: 192.0.2.1",
        "True-Client-IP: 192.0.2.1",
        "Forwarded: for=192.0.2.1",
        "X-Forwarded-Port: 1",
        "x_forwarded_for: 192.0.2.1",
        "X-Forwarded: 192.0.2.1",
        "Content_Length: 5",
        "Transfer_Encoding: chunked",
        "x-kept: yes",
    ];
    assert_eq!(told_of(&stage, &gateway, "/who/x", &lines), ["x-kept: yes", "x-auth-user: alice", "x-team: team-a"]);
    assert_eq!(told_of(&stage, &gateway, "/plain/x", &lines), ["x-kept: yes"]);
    gateway.get("/public/x", &lines).passed();
    assert_eq!(told(&stage.upstream.last()), ["x-kept: yes"]);
}

#[test]
fn trailers_say_no_more_than_headers_may() {
    let (stage, gateway) = start();
    let token = bearer(&stage.issuer.token("alice"));
    let mut client = gateway.connect();
    client.send(head("POST", "/who/x", &[&token, "transfer-encoding: chunked", "trailer: x-auth-user, x-sum"]));
    client.send("2\r\nhi\r\n0\r\nX-Auth-User: root\r\nx_team: root\r\nX-Forwarded-For: 192.0.2.1\r\n");
    client.send(format!("{token}\r\ncookie: a=1\r\ncontent-length: 9\r\nX-Sum: 1\r\n\r\n"));
    client.read().passed();
    let seen = stage.upstream.last();
    assert_eq!((&*seen.body, seen.trailers.as_slice()), (&b"hi"[..], &["x-sum: 1".to_owned()][..]));
}

#[test]
fn trailers_are_announced_that_may_come_and_no_others() {
    let (stage, gateway) = start();
    let chunked = |lines: &[&str]| {
        let mut client = gateway.connect();
        client.send(head("POST", "/public/x", &[lines, &["transfer-encoding: chunked"]].concat()));
        client.send("0\r\nX-Sum: 1\r\n\r\n");
        client.read().passed();
        stage.upstream.last().all("trailer").map(str::to_owned).collect::<Vec<_>>()
    };
    let all = "Trailer: X-Sum, X-Auth-User, x_team, content-length,authorization , no name";
    assert_eq!(chunked(&[all, "trailer: x-late,, trailer"]), ["X-Sum, x-late"]);
    assert_eq!(chunked(&["trailer: cookie, X-Forwarded-For"]), [""; 0]);
    assert_eq!(chunked(&["trailer: x-sum", "connection: trailer"]), [""; 0]);
    // Without chunks there is no place for any.
    let mut client = gateway.connect();
    client.send(head("POST", "/public/x", &["trailer: x-sum", "content-length: 2"]) + "hi");
    client.read().passed();
    assert_eq!(stage.upstream.last().header("trailer"), None);
}

#[test]
fn connection_takes_away_what_it_names_but_nothing_that_postern_says() {
    let (stage, gateway) = start();
    let named =
        "connection: x-hop, authorization, host, x-auth-user, x-team, x-forwarded-for, x-request-id, keep-alive";
    assert_eq!(
        told_of(&stage, &gateway, "/who/x", &[named, "x-hop: 1", "x-kept: yes"]),
        ["x-kept: yes", "x-auth-user: alice", "x-team: team-a"]
    );
    let seen = stage.upstream.last();
    for name in ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id", "traceparent"] {
        assert_eq!(seen.all(name).count(), 1, "{name}");
    }
}

#[test]
fn fields_of_one_connection_end_with_it() {
    let (stage, gateway) = start();
    let lines = [
        "Keep-Alive: timeout=1",
        "TE: trailers, deflate",
        "Trailer: x-sum",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Proxy-Authorization: Basic YTpi",
        "Proxy-Connection: keep-alive",
        "Proxy-Anything: 1",
        "Connection: upgrade, http2-settings, te",
        "Expect: 100-continue",
    ];
    assert_eq!(told_of(&stage, &gateway, "/plain/x", &lines), [""; 0]);
    let answer = Upstream::answering(
        "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 1\r\nproxy-authenticate: Basic\r\nupgrade: h2c\r\nx-kept: yes\r\ncontent-length: 0\r\n\r\n",
    );
    let stage = Stage::with(answer);
    let answer = stage.gateway(File::default()).call("/x", &stage.issuer.token("alice"));
    let mut names: Vec<_> = answer.lines.iter().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date", "x-kept", "x-request-id"]);
}

#[test]
fn a_clients_token_is_forwarded_only_where_the_route_passes_it() {
    let (stage, gateway) = start();
    let token = stage.issuer.token("alice");
    let sent = [
        &*bearer(&token),
        "proxy-authorization: Basic YTpi",
        "x-api-key: mine",
        "X_Api_Key: mine",
        "cookie: session=1",
    ];
    for path in ["/plain/x", "/public/x", "/secret/x", "/minted/x", "/pass/x"] {
        gateway.get(path, &sent).passed();
        let seen = stage.upstream.last();
        let holds_token = seen.fields.iter().any(|(_, value)| value.contains(&token));
        assert_eq!(holds_token, path == "/pass/x", "{path}: {seen:?}");
        assert_eq!(seen.all("authorization").count(), usize::from(matches!(path, "/pass/x" | "/minted/x")), "{path}");
        assert_eq!(seen.header("x_api_key"), (path != "/secret/x").then_some("mine"), "{path}");
        assert_eq!(seen.header("x-api-key"), Some(if path == "/secret/x" { "Key s3cret" } else { "mine" }), "{path}");
        assert_eq!((seen.header("proxy-authorization"), seen.header("cookie")), (None, Some("session=1")), "{path}");
    }
    // On a public route a token is not even looked at.
    gateway.get("/public/x", &["authorization: Bearer nonsense", "authorization: x"]).passed();
}

/// The `X-Forwarded-For`, `-Proto` and `-Host` that the upstream gets.
fn forwarded(stage: &Stage, server: &str, lines: &[&str]) -> [Option<String>; 3] {
    let gateway = stage.gateway(File { server, ..File::default() });
    gateway.get("/x", &[lines, &[&bearer(&stage.issuer.token("alice"))]].concat()).passed();
    let seen = stage.upstream.last();
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].map(|name| {
        assert!(seen.all(name).count() < 2, "{seen:?}");
        seen.header(name).map(str::to_owned)
    })
}

#[test]
fn where_a_request_came_from_is_believed_of_trusted_proxies_alone() {
    let stage = Stage::new();
    let said =
        ["x-forwarded-for: 203.0.113.7, 198.51.100.1", "x-forwarded-proto: https", "x-forwarded-host: evil.example"];
    let as_sent = |chain: &str, scheme: &str| [chain, scheme, "api.example"].map(|text| Some(text.to_owned()));
    assert_eq!(forwarded(&stage, "", &said), as_sent("127.0.0.1", "http"));
    let others = "trusted_proxies = ['192.0.2.0/24', '::1/128']";
    assert_eq!(forwarded(&stage, others, &said), as_sent("127.0.0.1", "http"));
    let trusted = "trusted_proxies = ['127.0.0.0/8']";
    assert_eq!(forwarded(&stage, trusted, &said), as_sent("203.0.113.7, 198.51.100.1, 127.0.0.1", "https"));
    assert_eq!(forwarded(&stage, trusted, &[]), as_sent("127.0.0.1", "http"));
    assert_eq!(forwarded(&stage, trusted, &["x-forwarded-proto: gopher"]), as_sent("127.0.0.1", "http"));
}

#[test]
fn a_chain_that_a_proxy_sends_in_several_fields_is_kept_whole() {
    let stage = Stage::new();
    let said = ["x-forwarded-for: 203.0.113.7", "x-kept: 1", "X-Forwarded-For: 198.51.100.1"];
    let [chain, ..] = forwarded(&stage, "trusted_proxies = ['127.0.0.0/8']", &said);
    assert_eq!(chain.as_deref(), Some("203.0.113.7, 198.51.100.1, 127.0.0.1"));
}

/// The id that the client and the upstream are told, which must be one.
#[track_caller]
fn id_of(stage: &Stage, answer: &Answer) -> String {
    let seen = stage.upstream.last();
    assert_eq!((seen.all("x-request-id").count(), seen.header("x-request-id")), (1, answer.header("x-request-id")));
    answer.header("x-request-id").unwrap().to_owned()
}

#[test]
fn a_harmless_request_id_is_kept_and_any_other_replaced() {
    let (stage, gateway) = start();
    let id = |value: &str| id_of(&stage, &gateway.get("/public/x", &[&format!("x-request-id: {value}")]));
    for good in ["a", "abc-123", &"a".repeat(64)] {
        assert_eq!(id(good), good);
    }
    let mut made = vec![id_of(&stage, &gateway.get("/public/x", &[]))];
    for bad in ["", "a b", "a_b", "a;b", "{}", "caf\u{e9}", &"a".repeat(65)] {
        made.push(id(bad));
    }
    assert!(made.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{made:?}");
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), 8, "ids repeat");
    let refused = gateway.get("/plain/x", &["x-request-id: abc-123"]);
    refused.refused(401, "missing_token");
    assert_eq!(refused.header("x-request-id"), Some("abc-123"));
}

#[test]
fn a_trace_goes_on_and_a_broken_one_begins_anew() {
    let (stage, gateway) = start();
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = |lines: &[&str]| {
        gateway.get("/public/x", &[lines, &["tracestate: vendor=1"]].concat()).passed();
        let seen = stage.upstream.last();
        assert_eq!(seen.all("traceparent").count(), 1);
        let parent = seen.header("traceparent").unwrap().to_owned();
        // The state belongs to the trace that goes on.
        assert_eq!(seen.header("tracestate"), (parent == good).then_some("vendor=1"));
        parent
    };
    assert_eq!(trace(&[&format!("traceparent: {good}")]), good);
    for bad in ["00-0-0-0", &good.to_uppercase(), &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32))] {
        let made = trace(&[&format!("traceparent: {bad}")]);
        assert!(made.len() == 55 && made.starts_with("00-") && made.ends_with("-00") && made != *bad, "{made}");
    }
    assert_ne!(trace(&[]), trace(&[]));
}

#[test]
fn requests_that_servers_frame_or_route_differently_are_refused() {
    let (stage, gateway) = start();
    for (what, request) in [
        ("no host", "GET /public/x HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET /public/x HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n"),
        ("a host with a user", "GET /public/x HTTP/1.1\r\nhost: a@b\r\n\r\n"),
        ("a host with a path", "GET /public/x HTTP/1.1\r\nhost: a/b\r\n\r\n"),
        ("a host that differs from the target", "GET http://a/public/x HTTP/1.1\r\nhost: b\r\n\r\n"),
        (
            "a coding before chunked",
            "POST /public/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two codings",
            "POST /public/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "POST /public/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        ("a signed length", "POST /public/x HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na"),
        ("blank before the colon", "GET /public/x HTTP/1.1\r\nhost: a\r\nx-a : 1\r\n\r\n"),
        ("a folded field", "GET /public/x HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n 2\r\n\r\n"),
        ("a bare carriage return", "GET /public/x HTTP/1.1\r\nhost: a\r\nx-a: 1\r2\r\n\r\n"),
    ] {
        let mut client = gateway.connect();
        client.send(request);
        assert_eq!(client.read().status, 400, "{what}");
    }
    let mut client = gateway.connect();
    client.send(head("POST", "/public/x", &["expect: 200-ok", "content-length: 0"]));
    client.read().refused(417, "expectation_failed");
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_length_beside_chunks_never_frames_what_the_upstream_gets() {
    let (stage, gateway) = start();
    let mut client = gateway.connect();
    client.send("POST /public/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send("0\r\n\r\nGET /public/smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = client.read();
    if answer.status == 200 {
        let seen = stage.upstream.last();
        assert!(!(seen.header("content-length").is_some() && seen.header("transfer-encoding").is_some()), "{seen:?}");
        assert_eq!(seen.line, "POST /public/x HTTP/1.1");
    } else {
        assert_eq!((answer.status, stage.upstream.requests()), (400, 0));
    }
}
