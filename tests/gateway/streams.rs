//! What is open when its user goes: answers, uploads and WebSockets end, and nobody takes what came of them for whole.

use crate::support::h2::{H2Client, body, request};
use crate::support::{
    ANY, Client, File, Gate, Gateway, Peer, Seen, Stage, Upstream, bearer, eventually, head, introspection,
};
use postern::dev::TokenSpec;
use serde_json::{Value, json};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(30);

/// What a client of a WebSocket is told.
const TOLD: &[u8] = b"\x88\x0f\x03\xf0user_inactive";

/// Begins an answer of chunks, and leaves it open.
fn chunks(peer: &mut Peer) {
    peer.read();
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    peer.send("9\r\ndata: 1\n\n\r\n");
}

/// Begins an event stream, and leaves it open in the middle of an event.
fn events(peer: &mut Peer) {
    peer.read();
    peer.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    peer.send("d\r\ndata: 1\n\ndata\r\n");
}

fn gateway(stage: &Stage) -> Gateway {
    stage.gateway(File { issuer: &introspection(""), ..File::default() })
}

/// Has the session of a token end, and the gateway hear of it.
fn log_out(stage: &Stage, gateway: &Gateway, user: &str, token: &str) {
    stage.issuer.demo().end_sessions(user);
    stage.clock.advance(BOUND);
    gateway.call("/x", token).refused(401, "user_inactive");
}

fn begin(gateway: &Gateway, token: &str) -> Client {
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[&bearer(token)]));
    assert_eq!(client.read_head().status, 200);
    client
}

#[test]
fn an_answer_breaks_off_when_its_session_ends_and_others_live_on() {
    let gate = Gate::default();
    let (upstream, ends) = Upstream::watched({
        let gate = gate.clone();
        move |peer| {
            chunks(peer);
            gate.pass();
            peer.send("9\r\ndata: 2\n\n\r\n");
        }
    });
    let stage = Stage::with(upstream);
    let log = "access = { file = 'access.log' }";
    let gateway = stage.gateway(File { issuer: &introspection(""), log, ..File::default() });
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    let (mut hers, mut his) = (begin(&gateway, &alice), begin(&gateway, &bob));
    for client in [&mut hers, &mut his] {
        assert_eq!(client.read_chunk().as_deref(), Some(&b"data: 1\n\n"[..]));
    }
    log_out(&stage, &gateway, "alice", &alice);
    // No last chunk: nobody takes it for whole.
    assert_eq!(hers.read_rest(), b"");
    gate.open();
    assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
    assert_eq!(his.read_chunk().as_deref(), Some(&b"data: 2\n\n"[..]));
    assert_eq!(gateway.metric("postern_streams_ended_total{cause=\"inactive\"}"), 1);
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    eventually("the line is written", || read().contains("\"ended\""));
    let line: Value = serde_json::from_str(read().lines().find(|line| line.contains("\"ended\"")).unwrap()).unwrap();
    assert_eq!(
        (&line["status"], &line["complete"], &line["ended"]),
        (&200.into(), &false.into(), &"user_inactive".into())
    );
    assert_eq!((&line["bytes_sent"], line.get("reason")), (&9.into(), None));
}

#[test]
fn an_event_stream_ends_behind_the_event_that_is_half_way() {
    let gate = Gate::default();
    let (upstream, ends) = Upstream::watched({
        let gate = gate.clone();
        move |peer| {
            events(peer);
            gate.pass();
            peer.send("11\r\n: 2\n\ndata: 3\n\n...\r\n");
        }
    });
    let stage = Stage::with(upstream);
    let log = "access = { file = 'access.log' }";
    let gateway = stage.gateway(File { issuer: &introspection(""), log, ..File::default() });
    let alice = stage.issuer.token("alice");
    let mut client = begin(&gateway, &alice);
    assert_eq!(client.read_chunk().as_deref(), Some(&b"data: 1\n\ndata"[..]));
    log_out(&stage, &gateway, "alice", &alice);
    eventually("it is cut", || gateway.metric("postern_streams_ended_total{cause=\"inactive\"}") == 1);
    gate.open();
    assert_eq!(client.read_chunk().as_deref(), Some(&b": 2\n\n"[..]));
    // The proper end: whoever reads events has all of them that came, and connects anew.
    assert_eq!((client.read_chunk(), client.read_lines().len()), (None, 0));
    assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
    client.get("/x", &[&bearer(&alice)]).refused(401, "user_inactive");
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    eventually("the line is written", || read().contains("\"ended\":\"user_inactive\""));
    assert!(read().contains("\"complete\":false"), "{}", read());
}

#[test]
fn a_stream_outlives_its_token_unless_its_route_says_otherwise() {
    let stage = Stage::with(Upstream::watched(chunks).0);
    let route = |name: &str, more: &str| {
        ANY.replace("'any'", &format!("'{name}'")).replace("/**", &format!("/{name}")) + more + "\n"
    };
    let rest = route("session", "") + &route("token", "stream_ends = 'token'");
    let gateway = stage.gateway(File { rest: &rest, ..File::default() });
    let token = stage.issuer.issue(&TokenSpec::user("alice").lifetime(60));
    let mut clients = ["/session", "/token"].map(|path| {
        let mut client = gateway.connect();
        client.send(head("GET", path, &[&bearer(&token)]));
        assert_eq!(client.read_head().status, 200);
        assert!(client.read_chunk().is_some());
        client
    });
    eventually("both are streams", || gateway.metric("postern_streams_total") == 2);
    stage.clock.advance(Duration::from_secs(90));
    assert_eq!(clients[1].read_rest(), b"");
    assert_eq!(gateway.metric("postern_streams_ended_total{cause=\"expired\"}"), 1);
    gateway.call("/session", &token).refused(401, "token_expired");
    drop(clients);
}

#[test]
fn a_stream_of_http2_is_reset_and_its_connection_serves_others() {
    let (upstream, ends) = Upstream::watched(chunks);
    let stage = Stage::with(upstream);
    let gateway = gateway(&stage);
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    let client = H2Client::connect(gateway.addr());
    let begin = |token: &str| {
        let mut stream =
            client.begin(request("GET /x", &[("authorization", &format!("Bearer {token}"))], body("", &[])));
        assert_eq!((stream.status().as_u16(), client.next(&mut stream).unwrap().unwrap()), (200, "data: 1\n\n".into()));
        stream
    };
    let (mut hers, mut his) = (begin(&alice), begin(&bob));
    log_out(&stage, &gateway, "alice", &alice);
    assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
    let error = client.next(&mut hers).unwrap().expect_err("a whole stream");
    assert!(error.contains("INTERNAL_ERROR"), "{error}");
    // Another stream of the same connection, then and now.
    assert!(client.is_waiting(&mut his));
    begin(&bob);
}

#[test]
fn a_download_that_its_client_does_not_read_lets_go_of_its_upstream() {
    let (upstream, ends) = Upstream::watched(|peer| {
        peer.read();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        // Until the gateway closes the connection.
        while peer.try_send(&[b'x'; 100_000]) {}
    });
    let stage = Stage::with(upstream);
    let gateway = gateway(&stage);
    let alice = stage.issuer.token("alice");
    let mut slow = begin(&gateway, &alice);
    slow.read_bytes(100_000);
    log_out(&stage, &gateway, "alice", &alice);
    assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
    let (mut rest, mut more) = (0, 1);
    while more > 0 {
        more = slow.read_some();
        rest += more;
    }
    assert!(rest < 900_000_000, "{rest}");
}

#[test]
fn an_upload_is_refused_on_its_way() {
    let (upstream, ends) = Upstream::watched(|peer| {
        peer.read_head();
    });
    let stage = Stage::with(upstream);
    let gateway = gateway(&stage);
    let alice = stage.issuer.token("alice");
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &[&bearer(&alice), "content-length: 1000"]) + "the first part");
    eventually("it is under way", || gateway.metric("postern_streams_total") == 1);
    log_out(&stage, &gateway, "alice", &alice);
    client.read().refused(401, "user_inactive");
    assert_eq!(client.read_rest(), b"");
    assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
}

#[test]
fn an_answer_that_comes_after_the_end_of_its_session_is_not_handed_out() {
    let gate = Gate::default();
    let upstream = Upstream::serving({
        let gate = gate.clone();
        move |mut peer| {
            peer.read();
            gate.pass();
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret");
        }
    });
    let stage = Stage::with(upstream);
    let gateway = gateway(&stage);
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    let mut clients = [&alice, &bob].map(|token| {
        let mut client = gateway.connect();
        client.send(head("GET", "/x", &[&bearer(token)]));
        client
    });
    eventually("both wait", || stage.upstream.requests() == 2);
    log_out(&stage, &gateway, "alice", &alice);
    gate.open();
    clients[0].read().refused(401, "user_inactive");
    assert_eq!(clients[1].read().text(), "secret");
}

#[test]
fn answers_that_are_complete_at_once_are_no_streams() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let stage = Stage::with(Upstream::answering(answer));
        let gateway = gateway(&stage);
        let alice = stage.issuer.token("alice");
        for _ in 0..3 {
            assert!(gateway.call("/x", &alice).status < 300);
        }
        assert_eq!(gateway.metric("postern_streams_total"), 0, "{answer:?}");
    }
}

#[test]
fn what_nobody_had_to_sign_in_for_is_no_stream() {
    let stage = Stage::with(Upstream::watched(chunks).0);
    let rest = ANY.replace("credential", "access = 'public'\ncredential");
    let gateway = stage.gateway(File { rest: &rest, issuer: &introspection(""), ..File::default() });
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[]));
    client.read_head();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"data: 1\n\n"[..]));
    assert_eq!(gateway.metric("postern_streams_total"), 0);
}

/// Agrees to become a WebSocket, gives every frame back, and answers a Close frame with one.
fn echo_frames(peer: &mut Peer) {
    peer.read();
    peer.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    while let Some((first, payload)) = peer.read_frame() {
        peer.record(Seen { line: format!("{first:x} {}", payload.escape_ascii()), ..Seen::default() });
        peer.send([&[first, u8::try_from(payload.len()).unwrap()][..], &payload].concat());
        if first == 0x88 {
            return;
        }
    }
}

fn upgrade(gateway: &Gateway, token: &str) -> Client {
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[&bearer(token), "connection: upgrade", "upgrade: websocket"]));
    assert_eq!(client.read_head().status, 101);
    client.send(b"\x81\x85\x01\x02\x03\x04igohn");
    assert_eq!(client.read_bytes(7), b"\x81\x05hello");
    client
}

#[test]
fn both_sides_of_a_websocket_are_told_and_others_live_on() {
    let (upstream, ends) = Upstream::watched(echo_frames);
    let stage = Stage::with(upstream);
    let gateway = gateway(&stage);
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    let (mut hers, mut his) = (upgrade(&gateway, &alice), upgrade(&gateway, &bob));
    log_out(&stage, &gateway, "alice", &alice);
    assert_eq!(hers.read_bytes(TOLD.len()), TOLD);
    // Too late.
    hers.send(b"\x81\x85\x01\x02\x03\x04igohn");
    hers.send(b"\x88\x82\0\0\0\0\x03\xf0");
    assert_eq!(hers.read_rest(), b"");
    assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
    assert_eq!(stage.upstream.last().line, "88 \\x03\\xf0user_inactive");
    his.send(b"\x81\x80\0\0\0\0");
    assert_eq!(his.read_bytes(2), b"\x81\0");
    assert_eq!(gateway.metric("postern_streams_ended_total{cause=\"inactive\"}"), 1);
}

/// Has alice, who may, do something to users or tokens of issuer `main`.
fn act(stage: &Stage, gateway: &Gateway, path: &str, mut body: Value) {
    body["issuer"] = "main".into();
    body["reason"] = "r".into();
    let answer = gateway.operate(&stage.issuer.token("alice"), path, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_block_ends_all_that_its_user_has_open_and_a_session_only_its_own() {
    let (upstream, ends) = Upstream::watched(echo_frames);
    let stage = Stage::with(upstream);
    let operator = "[operator]\nlisten = '127.0.0.1:0'\n\
                    access = { issuer = 'main', role = 'writer', audience = 'gateway' }\n";
    let gateway = stage.gateway(File { rest: &format!("{operator}{ANY}"), ..File::default() });
    let tokens = ["bob"; 3].map(|name| stage.issuer.token(name));
    let [mut first, mut second, mut third] = tokens.each_ref().map(|token| upgrade(&gateway, token));
    let mut hers = upgrade(&gateway, &stage.issuer.token("alice"));
    let ended = || gateway.metric("postern_streams_ended_total{cause=\"operator\"}");
    let told = |client: &mut Client| {
        assert_eq!(client.read_bytes(TOLD.len()), TOLD);
        client.send(b"\x88\x82\0\0\0\0\x03\xf0");
        assert_eq!(client.read_rest(), b"");
        assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
    };
    let claims = |token: &str| postern::dev::decode(token).unwrap().1;
    act(&stage, &gateway, "/v1/tokens/revoke", json!({ "sid": claims(&tokens[0])["sid"] }));
    told(&mut first);
    assert_eq!(ended(), 1);
    act(&stage, &gateway, "/v1/user/block", json!({ "subject": claims(&tokens[1])["sub"] }));
    told(&mut second);
    told(&mut third);
    assert_eq!(ended(), 3);
    hers.send(b"\x81\x80\0\0\0\0");
    assert_eq!(hers.read_bytes(2), b"\x81\0");
}

#[test]
fn a_websocket_in_the_middle_of_a_large_frame_is_told_after_it() {
    let gate = Gate::default();
    let (upstream, ends) = Upstream::watched({
        let gate = gate.clone();
        move |peer| {
            peer.read();
            peer.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
            peer.send(b"\x82\x7f\0\0\0\0\0\x10\0\0");
            peer.send(vec![b'x'; 0x8_0000]);
            gate.pass();
            peer.send(vec![b'y'; 0x8_0000]);
            peer.send(b"\x81\x05world");
            assert_eq!(peer.read_frame(), Some((0x88, b"\x03\xf0user_inactive".to_vec())));
            peer.send(b"\x88\x02\x03\xf0");
        }
    });
    let stage = Stage::with(upstream);
    let gateway = gateway(&stage);
    let alice = stage.issuer.token("alice");
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[&bearer(&alice), "connection: upgrade", "upgrade: websocket"]));
    assert_eq!(client.read_head().status, 101);
    assert_eq!(client.read_bytes(10), b"\x82\x7f\0\0\0\0\0\x10\0\0");
    log_out(&stage, &gateway, "alice", &alice);
    eventually("it is cut", || gateway.metric("postern_streams_ended_total{cause=\"inactive\"}") == 1);
    gate.open();
    let frame = client.read_bytes(0x10_0000);
    assert_eq!((frame[0], frame[0x10_0000 - 1]), (b'x', b'y'));
    assert_eq!(client.read_bytes(TOLD.len()), TOLD);
    client.send(b"\x88\x82\0\0\0\0\x03\xf0");
    assert_eq!(client.read_rest(), b"");
    assert_eq!(ends.recv_timeout(crate::support::PATIENCE), Ok("closed"));
}
