//! What goes to the upstream and comes back over HTTP/1.1: bodies, limits, failures, upgrades, connections.

use crate::support::{Answer, Client, File, Gate, Gateway, Peer, Stage, Upstream, bearer, eventually, head};
use postern::dev::echo::Echo;
use std::thread::sleep;
use std::time::Duration;

/// Everybody passes, for these tests are about bytes.
const PUBLIC: &str = "
[[route]]
name = 'public'
path = '/**'
upstream = 'up'
access = 'public'
[[route]]
path = '/small'
upstream = 'up'
access = 'public'
max_body_bytes = '1KiB'
[[route]]
path = '/hasty'
upstream = 'up'
access = 'public'
response_timeout = '200ms'
";

fn start(upstream: Upstream) -> (Stage, Gateway) {
    let stage = Stage::with(upstream);
    let gateway = stage.gateway(File { issuer: "", rest: PUBLIC, ..File::default() });
    (stage, gateway)
}

fn mebibyte() -> Vec<u8> {
    (0..1024 * 1024_u32).map(|n| (n % 251) as u8).collect()
}

/// Answers each request with its own body, framed as it came.
fn echoing() -> Upstream {
    Upstream::serving(|mut peer| {
        while let Some(seen) = peer.read() {
            if seen.header("transfer-encoding").is_some() {
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n");
                peer.send(format!("{:x}\r\n", seen.body.len()));
                peer.send([&seen.body[..], b"\r\n0\r\nx-sum: 1\r\n\r\n"].concat());
            } else {
                peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len()));
                peer.send(&seen.body);
            }
        }
    })
}

#[test]
fn a_mebibyte_passes_up_and_down_in_either_framing() {
    let (stage, gateway) = start(echoing());
    let body = mebibyte();
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &[&format!("content-length: {}", body.len())]));
    client.send(&body);
    let answer = client.read();
    assert!(answer.status == 200 && answer.body == body && stage.upstream.last().body == body);
    assert_eq!(stage.upstream.last().header("content-length"), Some("1048576"));
    assert_eq!(answer.header("content-length"), Some("1048576"));

    client.send(head("POST", "/x", &["transfer-encoding: chunked", "te: trailers"]));
    for part in body.chunks(100_000) {
        client.send(format!("{:X};ext=1\r\n", part.len()));
        client.send([part, b"\r\n"].concat());
    }
    client.send("0\r\nx-part: 1\r\n\r\n");
    let answer = client.read();
    assert!(answer.status == 200 && answer.body == body && stage.upstream.last().body == body);
    assert_eq!((stage.upstream.last().trailers, answer.trailers), (vec!["x-part: 1".into()], vec!["x-sum: 1".into()]));
}

#[test]
fn bodies_stream_both_ways_at_once() {
    let (_stage, gateway) = start(Upstream::serving(|mut peer| {
        let Some(head) = peer.read_head() else { return };
        peer.record(head);
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while let Some(Some(chunk)) = peer.read_chunk() {
            peer.send([format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat());
        }
        peer.send("0\r\n\r\n");
    }));
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &["transfer-encoding: chunked"]));
    client.send("3\r\none\r\n");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_chunk().as_deref(), Some(&b"one"[..]));
    for word in ["two", "three", "four"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len()));
        assert_eq!(client.read_chunk().as_deref(), Some(word.as_bytes()));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.read_chunk(), None);
}

#[test]
fn a_body_over_the_limit_is_refused_announced_or_not() {
    let (stage, gateway) = start(echoing());
    let mut client = gateway.connect();
    client.send(head("POST", "/small", &["content-length: 1025"]));
    client.read().refused(413, "body_too_large");
    assert_eq!(stage.upstream.connections(), 0);
    let mut client = gateway.connect();
    client.send(head("POST", "/small", &["transfer-encoding: chunked"]));
    client.send(format!("400\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", "x".repeat(1024)));
    client.read().refused(413, "body_too_large");
    assert_eq!(stage.upstream.requests(), 0, "a part was taken for the whole");
    for framing in ["content-length: 1024\r\n", "transfer-encoding: chunked\r\n"] {
        let mut client = gateway.connect();
        client.send(head("POST", "/small", &[framing.trim_end()]));
        let body = "x".repeat(1024);
        client.send(if framing.starts_with('c') { body } else { format!("400\r\n{body}\r\n0\r\n\r\n") });
        assert_eq!(client.read().body.len(), 1024);
    }
}

#[test]
fn a_client_that_breaks_off_its_body_has_not_sent_a_request() {
    let (stage, gateway) = start(echoing());
    for (framing, part) in [("content-length: 10", "12345"), ("transfer-encoding: chunked", "5\r\n12345\r\n")] {
        let mut client = gateway.connect();
        client.send(head("POST", "/x", &[framing]));
        client.send(part);
        eventually("the upstream is connected to", || stage.upstream.connections() > 0);
        client.finish();
        client.read_rest();
        assert_eq!(stage.upstream.requests(), 0);
    }
}

#[test]
fn an_upstream_that_fails_is_502() {
    let stage = Stage::new();
    let rest =
        "[upstream.none]\nto = 'http://127.0.0.1:1'\n[[route]]\npath = '/**'\nupstream = 'none'\naccess = 'public'\n";
    stage.gateway(File { issuer: "", rest, ..File::default() }).get("/x", &[]).refused(502, "upstream_unreachable");
    for bytes in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : 1\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        let (_stage, gateway) = start(Upstream::serving(move |mut peer| {
            peer.read();
            peer.send(bytes);
        }));
        let answer = gateway.get("/x", &[]);
        assert_eq!(answer.outcome(), (502, "upstream_failed".to_owned()), "{bytes:?}");
    }
}

#[test]
fn an_upstream_that_is_late_is_504_by_the_routes_own_limit() {
    let (stage, gateway) = start(Upstream::serving(|mut peer| while peer.read().is_some() {}));
    gateway.get("/hasty", &[]).refused(504, "upstream_timeout");
    // Perhaps it had not looked yet when the answer was given up.
    eventually("it was asked", || stage.upstream.requests() > 0);
    assert_eq!(stage.upstream.requests(), 1, "it was asked twice");
}

#[test]
fn an_answer_that_was_cut_off_is_not_passed_for_whole() {
    for (bytes, got) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345", "12345"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n", "5\r\n12345\r\n"),
    ] {
        let cut = Gate::default();
        let is_cut = cut.clone();
        let (_stage, gateway) = start(Upstream::serving(move |mut peer| {
            peer.read();
            peer.send(bytes);
            is_cut.pass();
        }));
        let mut client = gateway.connect();
        client.send(head("GET", "/x", &[]));
        assert_eq!(client.read_head().status, 200);
        cut.open();
        assert_eq!(String::from_utf8(client.read_rest()).unwrap(), got);
    }
}

#[test]
fn answers_without_a_body_keep_their_length_and_the_connection() {
    let (stage, gateway) = start(Upstream::serving(|mut peer| {
        while let Some(seen) = peer.read() {
            peer.send(match &*seen.line {
                "HEAD /x HTTP/1.1" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                "GET /304 HTTP/1.1" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: \"a\"\r\n\r\n",
                "GET /204 HTTP/1.1" => "HTTP/1.1 204 No Content\r\n\r\n",
                _ => "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            });
        }
    }));
    let mut client = gateway.connect();
    client.send(head("HEAD", "/x", &[]));
    let answer = client.read_head();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    let answer = client.get("/304", &["if-none-match: \"a\""]);
    assert_eq!((answer.status, answer.header("etag"), answer.body.len()), (304, Some("\"a\""), 0));
    assert_eq!(stage.upstream.last().header("if-none-match"), Some("\"a\""));
    assert_eq!(client.get("/204", &[]).status, 204);
    assert_eq!(client.get("/x", &[]).text(), "ok");
    assert_eq!(stage.upstream.connections(), 1);
}

#[test]
fn connections_to_upstreams_are_used_again() {
    let (stage, gateway) = start(Upstream::start());
    for _ in 0..10 {
        gateway.get("/x", &[]).passed();
    }
    assert_eq!((stage.upstream.requests(), stage.upstream.connections()), (10, 1));
    // One that closes after its answer is not.
    let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let (stage, gateway) = start(Upstream::answering(closing));
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.get("/x", &[]).passed();
    }
    assert_eq!(stage.upstream.connections(), 3);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let (stage, gateway) = start(Upstream::serving(|mut peer| {
        while let Some(seen) = peer.read() {
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", seen.line.len(), seen.line));
        }
    }));
    let mut client = gateway.connect();
    let requests: String = (0..20).map(|n| head("GET", &format!("/{n}"), &[])).collect();
    client.send(requests + &head("GET", "//", &[]) + &head("GET", "/last", &["connection: close"]));
    for n in 0..20 {
        assert_eq!(client.read().text(), format!("GET /{n} HTTP/1.1"));
    }
    client.read().refused(400, "path_not_canonical");
    assert_eq!(client.read().text(), "GET /last HTTP/1.1");
    assert_eq!((client.read_rest().len(), stage.upstream.requests()), (0, 21));
}

#[test]
fn a_client_that_waits_for_100_is_refused_before_it_sends_its_body() {
    let stage = Stage::with(echoing());
    let gateway = stage.gateway(File::default());
    let lines = ["expect: 100-continue", "content-length: 5"];
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &lines));
    client.read().refused(401, "missing_token");
    let token = bearer(&stage.issuer.token("alice"));
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &[&lines[..], &[&token]].concat()));
    assert_eq!(client.read_head().status, 100);
    client.send("12345");
    assert_eq!(client.read().text(), "12345");
    assert_eq!(stage.upstream.last().header("expect"), None);
}

#[test]
fn a_client_that_sends_a_body_nobody_wants_still_reads_why() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    for _ in 0..20 {
        let mut client = gateway.connect();
        client.send(head("POST", "/x", &["content-length: 524288"]).into_bytes());
        // To the end, or until the gateway has waited long enough for it.
        let _ = (0..64).try_for_each(|_| client.try_send(&[b'x'; 8192]));
        client.read().refused(401, "missing_token");
    }
}

#[test]
fn a_client_that_goes_away_ends_the_request_to_the_upstream() {
    let (ended, has_ended) = std::sync::mpsc::channel();
    let (stage, gateway) = start(Upstream::serving(move |mut peer: Peer| {
        peer.read();
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n");
        // Until the gateway closes the connection.
        let _ = ended.send(peer.read().is_none());
    }));
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[]));
    client.read_head();
    drop(client);
    assert_eq!(has_ended.recv_timeout(crate::support::PATIENCE), Ok(true));
    assert_eq!(stage.upstream.requests(), 1);
}

#[test]
fn a_client_that_goes_away_before_its_answer_ends_the_request_to_the_upstream() {
    let (ended, has_ended) = std::sync::mpsc::channel();
    let (stage, gateway) = start(Upstream::serving(move |mut peer: Peer| {
        peer.read();
        // Until the gateway closes the connection.
        let _ = ended.send(peer.read().is_none());
    }));
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[]));
    eventually("the upstream has it", || stage.upstream.requests() == 1);
    drop(client);
    assert_eq!(has_ended.recv_timeout(crate::support::PATIENCE), Ok(true));
}

#[test]
fn a_request_that_comes_while_another_takes_long_is_answered_in_turn() {
    let gate = Gate::default();
    let passing = gate.clone();
    let (_stage, gateway) = start(Upstream::serving(move |mut peer: Peer| {
        while let Some(seen) = peer.read() {
            passing.pass();
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", seen.line.len(), seen.line));
        }
    }));
    let mut client = gateway.connect();
    client.send(head("GET", "/first", &[]));
    let second = head("GET", "/second", &[]);
    let (begin, rest) = second.split_at(20);
    for piece in [begin, rest] {
        // So long that the client is watched.
        sleep(Duration::from_millis(400));
        client.send(piece);
    }
    gate.open();
    for target in ["/first", "/second"] {
        assert_eq!(client.read().text(), format!("GET {target} HTTP/1.1"));
    }
}

#[test]
fn a_websocket_passes_and_no_upgrade_that_the_upstream_is_not_to_have() {
    let (stage, echo) = (Stage::new(), Echo::start("127.0.0.1:0".parse().unwrap()).unwrap());
    let rest = format!("[upstream.echo]\nto = 'http://{}'\n[[route]]\npath = '/**'\nupstream = 'echo'\n", echo.addr());
    let gateway = stage.gateway(File { rest: &rest, ..File::default() });
    let token = bearer(&stage.issuer.token("alice"));
    let upgrade = |protocol: &str, more: &[&str]| -> (Client, Answer) {
        let mut client = gateway.connect();
        let lines = ["connection: keep-alive, Upgrade", &format!("upgrade: {protocol}")];
        client.send(head("GET", "/chat", &[&lines[..], more].concat()));
        let answer = client.read_head();
        (client, answer)
    };
    assert_eq!(upgrade("websocket", &[]).1.status, 401);
    assert_eq!(echo.requests(), 0);
    let (mut client, answer) = upgrade("WebSocket", &[&token, "sec-websocket-version: 13"]);
    assert_eq!(
        (answer.status, answer.header("connection"), answer.header("upgrade")),
        (101, Some("upgrade"), Some("websocket"))
    );
    for word in ["ping", "and again"] {
        client.send(word);
        assert_eq!(client.read_bytes(word.len()), word.as_bytes());
    }
    client.finish();
    assert_eq!(client.read_rest(), b"");
    for other in ["h2c", "SPDY/3.1"] {
        let (_, answer) = upgrade(other, &[&token]);
        assert_eq!((answer.status, answer.header("upgrade")), (200, None), "{other}");
    }
}

#[test]
fn http_1_0_is_answered_in_kind() {
    let (stage, gateway) = start(echoing());
    let mut client = gateway.connect();
    client.send("POST /x HTTP/1.0\r\nhost: old.example\r\ncontent-length: 2\r\n\r\nhi");
    let answer = client.read();
    assert_eq!((answer.status, answer.text().as_str(), client.read_rest().len()), (200, "hi", 0));
    assert_eq!(stage.upstream.last().line, "POST /x HTTP/1.1");
}
