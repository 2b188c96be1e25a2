//! HTTP/2 and TLS, on either side.

use crate::support::h2::{self, H2Client, body, request};
use crate::support::{Client, File, Gate, Gateway, PUBLIC, Stage, Upstream, tls};

fn token(stage: &Stage) -> String {
    format!("Bearer {}", stage.issuer.token("alice"))
}

/// A gateway whose upstream `two` speaks HTTP/2.
fn start_to_http2() -> (Stage, Gateway) {
    let stage = Stage::new();
    let rest = format!(
        "[upstream.two]\nto = 'http://{}'\nprotocol = 'http2'\n[[route]]\npath = '/**'\nupstream = 'two'\n\
         headers = {{ x-auth-user = 'username' }}\n",
        h2::start_upstream()
    );
    let gateway = stage.gateway(File { rest: &rest, ..File::default() });
    (stage, gateway)
}

#[test]
fn http2_with_prior_knowledge_is_judged_like_http1_and_forwarded_as_it() {
    let stage = Stage::new();
    let route = PUBLIC.replace("access = 'public'", "credential = 'none'\nheaders = { x-auth-user = 'username' }");
    let gateway = stage.gateway(File { rest: &route, ..File::default() });
    let (client, token) = (H2Client::connect(gateway.addr()), token(&stage));
    let refused = client.call("GET /x", &[], body("", &[]));
    assert_eq!((refused.head.status.as_u16(), stage.upstream.requests()), (401, 0));
    assert!(String::from_utf8(refused.body.to_vec()).unwrap().contains("\"missing_token\""));
    let twice = client.call("GET /x", &[("authorization", &token), ("authorization", &token)], body("", &[]));
    assert_eq!(twice.head.status, 400);
    assert_eq!(client.call("GET /a/../b", &[("authorization", &token)], body("", &[])).head.status, 400);

    let fields = [
        ("authorization", &*token),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-auth-user", "root"),
        ("x_auth_user", "root"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-kept", "yes"),
    ];
    let answer = client.call("GET /x?y", &fields, body("", &[]));
    assert_eq!((answer.head.status.as_u16(), &*answer.body), (200, &b"ok"[..]));
    assert_eq!(answer.head.headers["content-length"], "2");
    let seen = stage.upstream.last();
    assert_eq!(seen.line, "GET /x?y HTTP/1.1");
    let told =
        ["x-auth-user", "cookie", "x-kept", "x-forwarded-for", "x-forwarded-host", "x_auth_user", "authorization"];
    assert_eq!(
        told.map(|name| seen.all(name).collect::<Vec<_>>().join("|")),
        ["alice", "a=1; b=2", "yes", "127.0.0.1", "api.example", "", ""]
    );
    assert_eq!(stage.upstream.requests(), 1);
}

#[test]
fn a_body_of_http2_becomes_chunks_and_one_with_trailers_is_refused() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: "", rest: PUBLIC, ..File::default() });
    let client = H2Client::connect(gateway.addr());
    let refused = client.call("POST /x", &[("te", "trailers")], body("hello", &[("x-auth-user", "root")]));
    assert_eq!((refused.head.status.as_u16(), stage.upstream.requests()), (400, 0));
    assert_eq!(client.call("POST /x", &[], body("hello", &[])).head.status, 200);
    let seen = stage.upstream.last();
    assert_eq!((&*seen.body, seen.header("transfer-encoding")), (&b"hello"[..], Some("chunked")));
}

#[test]
fn many_streams_of_a_connection_are_answered_each_by_itself() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    let (client, token) = (H2Client::connect(gateway.addr()), token(&stage));
    let answers = client.send(
        (0..60)
            .map(|n| {
                let fields: &[_] = if n % 2 == 0 { &[("authorization", &*token)] } else { &[] };
                request("GET /x", fields, body("", &[]))
            })
            .collect(),
    );
    let statuses: Vec<_> = answers.iter().map(|answer| answer.head.status.as_u16()).collect();
    assert_eq!(statuses, [200, 401].repeat(30));
    assert_eq!(stage.upstream.requests(), 30);
}

#[test]
fn a_client_of_http2_that_opens_no_window_is_let_go_and_one_that_waits_is_not() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::with(Upstream::serving(move |mut peer| {
        while let Some(seen) = peer.read() {
            if seen.line.starts_with("GET /large ") {
                peer.send([b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n".as_slice(), &[b'a'; 200_000]].concat());
            } else {
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n");
                opened.pass();
                peer.send("1\r\nb\r\n0\r\n\r\n");
            }
        }
    }));
    let gateway = stage.gateway(File { server: "idle_timeout = '2s'", issuer: "", rest: PUBLIC, ..File::default() });
    let patient = H2Client::connect(gateway.addr());
    let mut answer = patient.begin(request("GET /events", &[], body("", &[])));
    assert_eq!(patient.next(&mut answer), Some(Ok("a".into())));
    // The preface, SETTINGS, and HEADERS of stream 1 with fields of the static table.
    let fields = b"\x82\x86\x04\x06/large\x01\x01a";
    let mut greedy = gateway.connect();
    greedy.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    greedy.send([&[0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1], fields.as_slice()].concat());
    let came = greedy.read_rest().len();
    assert!((65_535..100_000).contains(&came), "{came} bytes in a window of 65,535");
    gate.open();
    assert_eq!(patient.next(&mut answer), Some(Ok("b".into())));
}

#[test]
fn an_upstream_that_speaks_http2_gets_http1_requests_in_http2() {
    let (stage, gateway) = start_to_http2();
    let mut client = gateway.connect();
    let lines = ["content-length: 5", "x-kept: yes", "x-auth-user: root", "connection: x-hop", "x-hop: 1"];
    let authorization = format!("authorization: {}", token(&stage));
    client.send(crate::support::head("POST", "/x?y", &[&lines[..], &[&authorization]].concat()) + "hello");
    let answer = client.read();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let names = answer.header("x-names").unwrap();
    assert!(names.starts_with("POST http://127.0.0.1:") && names.contains("/x?y "), "{names}");
    let mut names: Vec<_> = names.rsplit(' ').next().unwrap().split(',').collect();
    names.sort_unstable();
    let ours = [
        "traceparent",
        "x-auth-user",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-kept",
        "x-request-id",
    ];
    assert_eq!(names, [&["authorization", "content-length"][..], &ours].concat());
}

#[test]
fn grpc_passes_with_the_trailers_of_its_answer() {
    let (stage, gateway) = start_to_http2();
    let client = H2Client::connect(gateway.addr());
    let token = token(&stage);
    let fields = [("authorization", &*token), ("te", "trailers"), ("content-type", "application/grpc")];
    let answer = client.call("POST /pkg.Service/Method", &fields, body("frame", &[]));
    assert_eq!((answer.head.status.as_u16(), &*answer.body), (200, &b"frame"[..]));
    let names = answer.head.headers["x-names"].to_str().unwrap();
    assert!(names.split([' ', ',']).any(|name| name == "te"), "{names}");
    let mut trailers: Vec<_> =
        answer.trailers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    trailers.sort_unstable();
    assert_eq!(trailers, [("grpc-status", "0")]);
}

#[test]
fn tls_negotiates_the_protocol_and_upstreams_are_told_https() {
    let stage = Stage::new();
    tls::write_certificate(&stage, "server");
    let server = "tls = { certificate = 'server.pem', key = 'server.key' }";
    let gateway = stage.gateway(File { server, issuer: "", rest: PUBLIC, ..File::default() });
    for protocols in [&["http/1.1"][..], &["http/1.0"], &[]] {
        let mut client = Client::connect_tls(gateway.addr(), tls::client(&stage, "server", protocols));
        client.get("/x", &["x-forwarded-proto: http"]).passed();
        assert_eq!(stage.upstream.last().header("x-forwarded-proto"), Some("https"));
    }
    let client = H2Client::connect_tls(gateway.addr(), tls::client(&stage, "server", &["h2", "http/1.1"]));
    assert_eq!(client.call("GET /x", &[], body("", &[])).head.status, 200);
    assert_eq!(stage.upstream.last().header("x-forwarded-proto"), Some("https"));
    // Clear text is not served there.
    let mut plain = gateway.connect();
    plain.send(crate::support::head("GET", "/x", &[]));
    assert!(!plain.read_rest().starts_with(b"HTTP/"));
    assert_eq!(stage.upstream.requests(), 4);
}

#[test]
fn an_upstream_is_spoken_to_over_tls_only_if_its_certificate_is_the_right_one() {
    let stage = Stage::new();
    tls::write_certificate(&stage, "good");
    tls::write_certificate(&stage, "other");
    let addr = tls::start_upstream(&stage, "good");
    let upstream = |name: &str, settings: &str| {
        format!(
            "[upstream.{name}]\nto = 'https://{addr}'\ntls = {{ {settings} }}\n\
             [[route]]\npath = '/{name}'\nupstream = '{name}'\naccess = 'public'\n"
        )
    };
    let rest = upstream("good", "ca = 'good.pem', server_name = 'localhost'")
        + &upstream("stranger", "ca = 'other.pem', server_name = 'localhost'")
        + &upstream("misnamed", "ca = 'good.pem', server_name = 'orders.example'")
        + &upstream("unnamed", "ca = 'good.pem'");
    let gateway = stage.gateway(File { issuer: "", rest: &rest, ..File::default() });
    for _ in 0..2 {
        assert_eq!(gateway.get("/good", &[]).text(), "GET /good HTTP/1.1");
        for path in ["/stranger", "/misnamed", "/unnamed"] {
            gateway.get(path, &[]).refused(502, "upstream_unreachable");
        }
    }
}
