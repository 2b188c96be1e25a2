//! Reload, drain, limits of the listener, and what is seen from outside.

use crate::support::{ANY, File, Gate, Gateway, Stage, Upstream, bearer, eventually, head, introspection, tls};
use postern::dev::{Endpoint, Illness, TokenSpec};
use serde_json::Value;

/// Answers with a head and a first chunk, and with the last one when the gate is open.
fn streaming(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::serving(move |mut peer| {
        while peer.read().is_some() {
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            gate.pass();
            peer.send("4\r\nlast\r\n0\r\n\r\n");
        }
    })
}

const PUBLIC: &str = "[[route]]\nname = 'old'\npath = '/old'\nupstream = 'up'\naccess = 'public'\n";

#[test]
fn a_reload_swaps_routes_while_a_stream_runs_on() {
    let gate = Gate::default();
    let stage = Stage::with(streaming(&gate));
    let gateway = stage.gateway(File { issuer: "", rest: PUBLIC, ..File::default() });
    let mut client = gateway.connect();
    client.send(head("GET", "/old", &[]));
    client.read_head();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"first"[..]));
    let other = Upstream::start();
    let rest = format!(
        "[upstream.other]\nto = 'http://{}'\n[[route]]\npath = '/new'\nupstream = 'other'\naccess = 'public'\n",
        other.addr()
    );
    gateway.inner.reload(stage.config(File { issuer: "", rest: &rest, ..File::default() })).unwrap();
    gateway.get("/new", &[]).passed();
    gateway.get("/old", &[]).refused(404, "no_route");
    gate.open();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"last"[..]));
    assert_eq!((client.read_chunk(), client.read_lines().len()), (None, 0));
    client.get("/new", &[]).passed();
    assert_eq!(gateway.metric("postern_config_reloads_total{outcome=\"ok\"}"), 1);
}

#[test]
fn a_reload_that_fails_leaves_the_old_configuration_in_force() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: "", rest: PUBLIC, ..File::default() });
    std::fs::write(stage.path("empty.pem"), "no certificate\n").unwrap();
    let rest = "[upstream.bad]\nto = 'https://127.0.0.1:1'\ntls = { ca = 'empty.pem' }\n\
                [[route]]\npath = '/new'\nupstream = 'bad'\naccess = 'public'\n";
    let error = gateway.inner.reload(stage.config(File { issuer: "", rest, ..File::default() })).unwrap_err();
    assert!(error.to_string().contains("`bad`"), "{error}");
    gateway.get("/old", &[]).passed();
    gateway.get("/new", &[]).refused(404, "no_route");
    assert_eq!(gateway.metric("postern_config_reloads_total{outcome=\"failed\"}"), 1);
}

#[test]
fn a_reload_lets_in_no_token_that_the_new_configuration_refuses() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    let token = stage.issuer.token("alice");
    let dave = stage.issuer.token("dave");
    gateway.call("/x", &token).passed();
    gateway.call("/x", &dave).passed();
    let reload = |file: File<'_>| gateway.inner.reload(stage.config(file)).unwrap();

    let stricter = ANY.replace("credential", "access = { any_role = ['boss'] }\ncredential");
    reload(File { rest: &stricter, ..File::default() });
    gateway.call("/x", &token).refused(403, "role_missing");
    // The keys that are known serve on, also where the issuer cannot be asked just now.
    stage.issuer.demo().set_illness(Endpoint::Discovery, Some(Illness::Refuse));
    reload(File { issuer: "leeway = '10s'\nuser_status = 'none'", ..File::default() });
    gateway.call("/x", &token).passed();
    stage.issuer.demo().set_illness(Endpoint::Discovery, None);
    let status = introspection("");
    reload(File { issuer: &status, ..File::default() });
    eventually("introspection is known", || gateway.call("/x", &token).status == 200);
    gateway.call("/x", &dave).refused(401, "user_inactive");
    reload(File { issuer: "algorithms = ['ES256']\nuser_status = 'none'", ..File::default() });
    gateway.call("/x", &token).refused(401, "invalid_token");
    reload(File::default());
    gateway.call("/x", &token).passed();

    let text = stage.text(File::default()).replace("audience = 'gateway'", "audience = 'other'");
    gateway.inner.reload(postern::config::parse(&text, &stage.path("postern.toml")).unwrap()).unwrap();
    gateway.call("/x", &token).refused(401, "wrong_audience");
}

#[test]
fn a_reload_takes_up_a_renewed_certificate() {
    let stage = Stage::new();
    tls::write_certificate(&stage, "server");
    let old = tls::client(&stage, "server", &[]);
    let server = "tls = { certificate = 'server.pem', key = 'server.key' }";
    let file = File { server, issuer: "", rest: PUBLIC, ..File::default() };
    let gateway = stage.gateway(file);
    let connect = |config| crate::support::Client::connect_tls(gateway.addr(), config);
    let mut open = connect(old);
    open.get("/old", &[]).passed();
    tls::write_certificate(&stage, "server");
    gateway.inner.reload(stage.config(file)).unwrap();
    connect(tls::client(&stage, "server", &[])).get("/old", &[]).passed();
    open.get("/old", &[]).passed();
    // A broken one is not taken up.
    std::fs::write(stage.path("server.pem"), "no certificate\n").unwrap();
    assert!(gateway.inner.reload(stage.config(file)).is_err());
    open.get("/old", &[]).passed();
}

#[test]
fn a_reload_that_fails_leaves_the_certificate_in_force() {
    let stage = Stage::new();
    tls::write_certificate(&stage, "server");
    let old = tls::client(&stage, "server", &[]);
    let server = "tls = { certificate = 'server.pem', key = 'server.key' }";
    let gateway = stage.gateway(File { server, issuer: "", rest: PUBLIC, ..File::default() });
    // The new certificate is sound; what fails is an upstream's.
    tls::write_certificate(&stage, "server");
    std::fs::write(stage.path("empty.pem"), "no certificate\n").unwrap();
    let rest = "[upstream.bad]\nto = 'https://127.0.0.1:1'\ntls = { ca = 'empty.pem' }\n\
                [[route]]\npath = '/new'\nupstream = 'bad'\naccess = 'public'\n";
    let broken = File { server, issuer: "", rest, ..File::default() };
    gateway.inner.reload(stage.config(broken)).unwrap_err();
    crate::support::Client::connect_tls(gateway.addr(), old).get("/old", &[]).passed();
}

#[test]
fn draining_ends_what_runs_and_takes_nothing_new() {
    let gate = Gate::default();
    let stage = Stage::with(streaming(&gate));
    let server = "drain_wait = '0s'\ndrain_deadline = '5m'";
    let gateway = stage.gateway(File { server, issuer: "", rest: PUBLIC, ..File::default() });
    let (addr, admin) = (gateway.addr(), gateway.inner.admin_address().unwrap());
    let mut idle = gateway.connect();
    idle.send(head("GET", "/none", &[]));
    idle.read().refused(404, "no_route");
    let mut client = gateway.connect();
    client.send(head("GET", "/old", &[]));
    client.read_head();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"first"[..]));

    let draining = std::thread::spawn(move || gateway.inner.drain());
    eventually("nothing new is taken", || std::net::TcpStream::connect(addr).is_err());
    let ready = crate::support::Client::connect(admin).get("/readyz", &[]);
    assert_eq!((ready.status, ready.text().contains("draining")), (503, true));
    assert_eq!(idle.read_rest(), b"");
    assert!(!draining.is_finished());
    gate.open();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"last"[..]));
    assert_eq!(client.read_chunk(), None);
    eventually("the gateway has ended, long before its deadline", || draining.is_finished());
    draining.join().unwrap();
}

#[test]
fn a_stream_that_does_not_end_is_cut_at_the_drain_deadline() {
    let gate = Gate::default();
    let stage = Stage::with(streaming(&gate));
    let server = "drain_wait = '0s'\ndrain_deadline = '200ms'";
    let gateway = stage.gateway(File { server, issuer: "", rest: PUBLIC, ..File::default() });
    let mut client = gateway.connect();
    client.send(head("GET", "/old", &[]));
    client.read_head();
    gateway.inner.drain();
    assert_eq!(client.read_rest(), b"5\r\nfirst\r\n");
    gate.open();
}

#[test]
fn while_it_waits_before_draining_it_serves_but_is_not_ready_and_sends_clients_away() {
    let stage = Stage::new();
    // Longer than any test: the gateway ends with the process.
    let server = "drain_wait = '1h'";
    let gateway = stage.gateway(File { server, issuer: "", rest: PUBLIC, ..File::default() });
    let (addr, admin) = (gateway.addr(), gateway.inner.admin_address().unwrap());
    let client = || crate::support::Client::connect(admin);
    assert_eq!(client().get("/readyz", &[]).status, 200);
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/old", &[]).header("connection"), None);
    drop(std::thread::spawn(move || gateway.inner.drain()));
    eventually("it is not ready", || client().get("/readyz", &[]).status == 503);
    // Answers and refusals alike end their connection, so that whoever keeps one makes another, elsewhere.
    let last = kept.get("/old", &[]);
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(kept.read_rest(), b"");
    let mut late = crate::support::Client::connect(addr);
    let refused = late.get("/none", &[]);
    assert_eq!((refused.status, refused.header("connection")), (404, Some("close")));
    assert_eq!(late.read_rest(), b"");
}

#[test]
fn a_connection_that_dribbles_or_idles_is_closed_and_one_that_streams_is_not() {
    let gate = Gate::default();
    let stage = Stage::with(streaming(&gate));
    let server = "header_timeout = '2s'\nidle_timeout = '2s'";
    let gateway = stage.gateway(File { server, issuer: "", rest: PUBLIC, ..File::default() });
    let mut streaming = gateway.connect();
    streaming.send(head("GET", "/old", &[]));
    streaming.read_head();
    let mut closing: Vec<_> = ["", "P", "GET /old HTTP/1.1\r\nhost: a\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n"]
        .map(|sent| (gateway.connect(), sent))
        .into();
    closing.iter_mut().for_each(|(client, sent)| client.send(sent));
    for next in ["", "GET /old HTT"] {
        let mut client = gateway.connect();
        client.get("/none", &[]).refused(404, "no_route");
        client.send(next);
        closing.push((client, next));
    }
    for (mut client, sent) in closing {
        assert_eq!(client.read_rest(), b"", "{sent:?}");
    }
    gate.open();
    streaming.read_chunk();
    assert_eq!(streaming.read_chunk().as_deref(), Some(&b"last"[..]));
}

#[test]
fn more_connections_than_allowed_are_closed_at_once() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { server: "max_connections = 2", issuer: "", rest: PUBLIC, ..File::default() });
    let mut held = [gateway.connect(), gateway.connect()];
    for client in &mut held {
        client.get("/old", &[]).passed();
    }
    let mut third = gateway.connect();
    assert_eq!(third.read_rest(), b"");
    assert_eq!(gateway.metric("postern_connections_refused_total"), 1);
    for client in &mut held {
        client.get("/old", &[]).passed();
    }
    drop(held);
    eventually("there is room again", || gateway.metric("postern_connections") == 0);
    gateway.get("/old", &[]).passed();
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let stage = Stage::new();
    let gateway =
        stage.gateway(File { server: "max_header_bytes = '8KiB'", issuer: "", rest: PUBLIC, ..File::default() });
    gateway.get("/old", &[&format!("x-pad: {}", "a".repeat(7000))]).passed();
    let mut client = gateway.connect();
    client.send(head("GET", "/old", &[&format!("x-pad: {}", "a".repeat(9000))]));
    assert_eq!(client.read().status, 431);
    assert_eq!(stage.upstream.requests(), 1);
}

/// Requests of every kind, by users whose names must not be seen: the tokens that were sent.
fn traffic(stage: &Stage, gateway: &Gateway) -> Vec<String> {
    let tokens = ["alice", "bob", "dave"].map(|name| stage.issuer.token(name));
    for token in &tokens {
        gateway.call("/x/very-private?q=secret", token);
    }
    let expired = stage.issuer.issue(&TokenSpec::user("alice").lifetime(-60));
    gateway.call("/x", &expired).refused(401, "token_expired");
    gateway.get("/x", &["authorization: Bearer not.a.token"]).refused(401, "invalid_token");
    gateway.get("/../very-private", &[]).refused(400, "path_not_canonical");
    let minted = stage.upstream.last().header("authorization").map(str::to_owned);
    tokens.into_iter().chain([expired]).chain(minted).collect()
}

#[test]
fn metrics_have_bounded_labels_and_never_a_subject_path_or_token() {
    let stage = Stage::new();
    let rest = "[[route]]\nname = 'any'\npath = '/**'\nupstream = 'up'\n";
    let gateway = stage.gateway(File { issuer: &introspection(""), rest, ..File::default() });
    let tokens = traffic(&stage, &gateway);
    let answer = gateway.admin("/metrics");
    let text = answer.text();
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(text.ends_with("# EOF\n"));
    let subject = stage.issuer.demo().user("alice").unwrap().id;
    for private in
        ["alice", "very-private", "team-a", "127.0.0.1", &subject].into_iter().chain(tokens.iter().map(String::as_str))
    {
        assert!(!text.contains(private), "{private} is in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("postern_"), "{line}");
        let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let name = label.split('=').next().unwrap();
            assert!(
                [
                    "route", "status", "reason", "issuer", "outcome", "kind", "cause", "client", "endpoint", "feed",
                    "meaning", "upstream", "limit", "state", "le"
                ]
                .contains(&name),
                "{line}"
            );
        }
    }
    for (line, value) in [
        ("postern_requests_total{route=\"any\",status=\"2xx\"}", 2),
        ("postern_requests_total{route=\"any\",status=\"4xx\"}", 3),
        ("postern_requests_total{route=\"\",status=\"4xx\"}", 1),
        ("postern_refusals_total{route=\"any\",reason=\"user_inactive\"}", 1),
        ("postern_refusals_total{route=\"any\",reason=\"token_expired\"}", 1),
        ("postern_refusals_total{route=\"\",reason=\"path_not_canonical\"}", 1),
        ("postern_request_duration_seconds_count{route=\"any\"}", 5),
        ("postern_introspections_total{issuer=\"main\"}", 3),
        ("postern_key_fetches_total{issuer=\"main\"}", 1),
    ] {
        assert_eq!(gateway.metric(line), value, "{line}");
    }
}

#[test]
fn each_request_leaves_one_line_of_json_with_its_reason_and_without_any_token() {
    let stage = Stage::new();
    let rest = "[[route]]\nname = 'any'\npath = '/**'\nupstream = 'up'\n";
    let log = "access = { file = 'access.log' }";
    let gateway = stage.gateway(File { issuer: &introspection(""), log, rest, ..File::default() });
    let tokens = traffic(&stage, &gateway);
    let mut client = gateway.connect();
    client.send("GET /\"quoted\\ HTTP/1.1\r\nhost: a\"b\r\n\r\n");
    client.read();
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    eventually("the lines are written", || read().lines().count() >= 7);
    let text = read();
    for private in tokens.iter().map(|token| token.trim_start_matches("Bearer ")).chain(["q=secret", "not.a.token"]) {
        assert!(!text.contains(private), "{private} is in\n{text}");
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let member = |name: &str| lines.iter().map(|line| line[name].as_str().unwrap_or("-")).collect::<Vec<_>>().join(" ");
    assert_eq!(member("reason"), "- - user_inactive token_expired invalid_token path_not_canonical malformed_request");
    assert_eq!(member("route"), "any any any any any - -");
    assert_eq!(member("namespace"), "team-a team-b - - - - -");
    let first = &lines[0];
    assert_eq!(
        (&first["path"], &first["host"], &first["method"]),
        (&"/x/very-private".into(), &"api.example".into(), &"GET".into())
    );
    assert_eq!((&first["status"], &first["upstream"], &first["issuer"]), (&200.into(), &"up".into(), &"main".into()));
    assert_eq!(first["subject"].as_str(), stage.issuer.demo().user("alice").map(|user| user.id).as_deref());
    assert_eq!((&first["time"], &first["bytes_sent"]), (&"2027-01-15T08:00:00.000Z".into(), &2.into()));
    assert_eq!((&lines[6]["path"], &lines[6]["status"]), (&"/\"quoted\\".into(), &400.into()));
}

#[test]
fn the_line_of_an_answer_that_was_cut_off_says_so() {
    let stage = Stage::with(Upstream::serving(|mut peer| {
        peer.read();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345");
    }));
    let gateway =
        stage.gateway(File { issuer: "", rest: PUBLIC, log: "access = { file = 'access.log' }", ..File::default() });
    let mut client = gateway.connect();
    client.send(head("GET", "/old", &[]));
    client.read_rest();
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    eventually("the line is written", || !read().is_empty());
    let line: Value = serde_json::from_str(&read()).unwrap();
    assert_eq!((&line["status"], &line["complete"]), (&200.into(), &false.into()), "{line}");
}

#[test]
fn a_moved_access_log_goes_on_in_a_new_file() {
    let stage = Stage::new();
    let gateway =
        stage.gateway(File { issuer: "", rest: PUBLIC, log: "access = { file = 'access.log' }", ..File::default() });
    let count = |name: &str| std::fs::read_to_string(stage.path(name)).unwrap_or_default().lines().count();
    gateway.get("/old", &[]).passed();
    eventually("the first line is written", || count("access.log") == 1);
    std::fs::rename(stage.path("access.log"), stage.path("old.log")).unwrap();
    gateway.inner.reopen_log();
    gateway.get("/old", &[]).passed();
    eventually("the second line is written", || count("access.log") == 1);
    assert_eq!(count("old.log"), 1);
    // Nothing that was answered is lost at the end.
    gateway.get("/old", &[]).passed();
    drop(gateway);
    assert_eq!(count("access.log"), 2);
}

#[test]
fn the_admin_listener_serves_only_what_it_says() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    assert_eq!((gateway.admin("/healthz").text(), gateway.admin("/readyz").text()), ("ok\n".into(), "ready\n".into()));
    assert_eq!(gateway.admin("/").status, 404);
    let mut client = crate::support::Client::connect(gateway.inner.admin_address().unwrap());
    client.send(head("POST", "/metrics", &["content-length: 0"]));
    assert_eq!(client.read().status, 405);
    // And the public one serves none of it.
    gateway.get("/metrics", &[]).refused(401, "missing_token");
    gateway.get("/healthz", &[&bearer(&stage.issuer.token("alice"))]).passed();
}
