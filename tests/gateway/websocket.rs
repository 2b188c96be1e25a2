//! WebSockets between a client and an upstream of which one speaks HTTP/2, or both do (RFC 8441).

use crate::support::h2::{self, H2Client, body, request};
use crate::support::{
    ANY, Client, File, Gateway, PATIENCE, PUBLIC, Peer, Stage, Upstream, bearer, head, introspection,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::ext::Protocol;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Duration;

/// A text frame of a client that says `hello`, and the same of a server.
const HELLO: &[u8] = b"\x81\x85\x01\x02\x03\x04igohn";
const ECHO: &[u8] = b"\x81\x05hello";

/// Agrees to a WebSocket, with the right answer to its key, and gives every frame back until there is a Close frame.
fn agree(peer: &mut Peer) {
    let Some(seen) = peer.read() else { return };
    let key = seen.header("sec-websocket-key").unwrap_or_default();
    let hash = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    peer.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: b\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        STANDARD.encode(hash)
    ));
    while let Some((first, payload)) = peer.read_frame() {
        peer.send([&[first, u8::try_from(payload.len()).unwrap()][..], &payload].concat());
        if first == 0x88 {
            return;
        }
    }
}

fn start(upstream: Upstream, rest: &str) -> (Stage, Gateway) {
    let stage = Stage::with(upstream);
    let gateway = stage.gateway(File { issuer: "", rest, ..File::default() });
    (stage, gateway)
}

/// A gateway before an upstream that speaks HTTP/2 and takes WebSockets, or takes none.
fn start_to_http2(takes: bool) -> (Stage, Gateway) {
    let addr = if takes { h2::start_websockets() } else { h2::start_upstream() };
    let rest = format!("{}[upstream.two]\nto = 'http://{addr}'\nprotocol = 'http2'\n", PUBLIC.replace("'up'", "'two'"));
    start(Upstream::start(), &rest)
}

/// What a server says of itself in its first frame of HTTP/2 (RFC 9113 §6.5).
fn settings(gateway: &Gateway) -> Vec<(u16, u32)> {
    let mut tcp = TcpStream::connect(gateway.addr()).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut head = [0; 9];
    tcp.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let mut payload = vec![0; usize::from(head[2])];
    tcp.read_exact(&mut payload).unwrap();
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    payload.chunks(6).map(|setting| (u16::from_be_bytes([setting[0], setting[1]]), number(&setting[2..]))).collect()
}

#[test]
fn a_websocket_over_http2_is_one_over_http1_to_an_upstream_that_speaks_that() {
    let (stage, gateway) = start(Upstream::serving(|mut peer| agree(&mut peer)), PUBLIC);
    let client = H2Client::connect(gateway.addr());
    let fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "a, b"), ("sec-websocket-key", "mine")];
    let keys = [(); 2].map(|()| {
        let answer = client.connect_websocket("/chat?x", &fields);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
            (200, &"b".parse().unwrap())
        );
        assert!(!answer.headers().keys().any(|name| ["sec-websocket-accept", "upgrade"].contains(&name.as_str())));
        let mut socket = client.socket(answer);
        socket.send(HELLO);
        assert_eq!(socket.read_bytes(ECHO.len()), ECHO);
        socket.send(b"\x88\x82\0\0\0\0\x03\xe8");
        assert_eq!(socket.read_rest(), b"\x88\x02\x03\xe8");
        let seen = stage.upstream.last();
        assert_eq!(seen.line, "GET /chat?x HTTP/1.1");
        let told = ["connection", "upgrade", "sec-websocket-version", "sec-websocket-protocol", "content-length"];
        let told = told.map(|name| seen.all(name).collect::<Vec<_>>().join("|"));
        assert_eq!(told, ["upgrade", "websocket", "13", "a, b", ""]);
        let keys: Vec<_> = seen.all("sec-websocket-key").collect();
        assert_eq!((keys.len(), STANDARD.decode(keys[0]).unwrap().len()), (1, 16));
        keys[0].to_owned()
    });
    assert_ne!(keys[0], keys[1]);
    // The connection serves others.
    assert_eq!(client.call("POST /x", &[], body("", &[])).head.status, 502);
}

#[test]
fn an_upstream_that_did_not_read_the_key_has_no_websocket() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    for (said, status) in [
        (format!("{SWITCH}\r\n"), 502),
        (format!("{SWITCH}sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), 502),
        // A success would be taken for an agreement.
        (OK.to_owned(), 502),
        (OK.replace("200 OK", "403 Forbidden"), 403),
        (OK.replace("200 OK", "302 Found"), 302),
    ] {
        let (_stage, gateway) = start(Upstream::answering(said.clone()), PUBLIC);
        let answer = H2Client::connect(gateway.addr()).connect_websocket("/chat", &[]);
        assert_eq!(answer.status(), status, "{said}");
    }
}

#[test]
fn an_upstream_that_speaks_http2_is_asked_by_extended_connect() {
    let (_stage, gateway) = start_to_http2(true);
    let mut client = gateway.connect();
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let lines = ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", key];
    client.send(head("GET", "/chat?x", &lines));
    let answer = client.read_head();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let names = answer.header("x-names").unwrap();
    assert!(names.starts_with("CONNECT http://127.0.0.1:") && names.contains("/chat?x "), "{names}");
    assert!(names.contains("sec-websocket-version") && !names.contains("sec-websocket-key"), "{names}");
    client.send(HELLO);
    assert_eq!(client.read_bytes(HELLO.len()), HELLO);
    // The end of one side is passed on to the other.
    client.finish();
    assert_eq!(client.read_rest(), b"");

    let mut client = gateway.connect();
    client.send(head("GET", "/declined", &lines));
    assert_eq!((client.read_head().status, client.read_chunk().unwrap()), (403, b"no".to_vec()));
    // Without a key there is nothing to answer.
    gateway.get("/chat", &lines[..3]).refused(400, "malformed_request");
}

#[test]
fn a_websocket_over_http2_stays_one_to_an_upstream_that_takes_it() {
    let (_stage, gateway) = start_to_http2(true);
    let client = H2Client::connect(gateway.addr());
    let answer = client.connect_websocket("/chat", &[("sec-websocket-version", "13")]);
    assert!(!answer.headers()["x-names"].to_str().unwrap().contains("sec-websocket-key"));
    let mut socket = client.socket(answer);
    socket.send(HELLO);
    assert_eq!(socket.read_bytes(HELLO.len()), HELLO);
    assert_eq!(client.connect_websocket("/declined", &[]).status(), 403);
}

#[test]
fn an_upstream_that_did_not_say_that_it_takes_websockets_is_not_asked_for_one() {
    let (_stage, gateway) = start_to_http2(false);
    let lines = ["connection: upgrade", "upgrade: websocket", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="];
    gateway.get("/chat", &lines).refused(502, "upstream_failed");
    assert_eq!(H2Client::connect(gateway.addr()).connect_websocket("/chat", &[]).status(), 502);
    gateway.get("/chat", &[]).passed();
}

#[test]
fn websockets_are_offered_over_http2_only_where_a_route_takes_them() {
    const ENABLE_CONNECT_PROTOCOL: (u16, u32) = (8, 1);
    let (_stage, gateway) = start(Upstream::start(), PUBLIC);
    assert!(settings(&gateway).contains(&ENABLE_CONNECT_PROTOCOL), "{:?}", settings(&gateway));
    let none = "[upstream.none]\nto = 'http://127.0.0.1:9'\nupgrades = []\n";
    let (_stage, gateway) = start(Upstream::start(), &(PUBLIC.replace("'up'", "'none'") + none));
    assert!(!settings(&gateway).iter().any(|(id, _)| *id == 8), "{:?}", settings(&gateway));
}

#[test]
fn no_other_connect_is_served() {
    let rest = PUBLIC.replace("'/**'", "'/chat'")
        + &PUBLIC.replace("'public'\npath", "'none'\npath").replace("'/**'", "'/none'").replace("'up'", "'none'")
        + "[upstream.none]\nto = 'http://127.0.0.1:9'\nupgrades = []\n";
    let (stage, gateway) = start(Upstream::start(), &rest);
    let client = H2Client::connect(gateway.addr());
    // An upstream that takes none, and a path without a route.
    assert_eq!(client.connect_websocket("/none", &[]).status(), 405);
    assert_eq!(client.connect_websocket("/else", &[]).status(), 404);
    assert_eq!(client.connect_websocket("/.well-known/jwks.json", &[]).status(), 404);
    let mut other = request("CONNECT /chat", &[], body("", &[]));
    other.extensions_mut().insert(Protocol::from_static("connect-udp"));
    assert_eq!(client.begin(other).status(), 405);
    let mut plain = request("CONNECT /chat", &[], body("", &[]));
    *plain.uri_mut() = "api.example:443".parse().unwrap();
    assert_eq!(client.begin(plain).status(), 405);
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_websocket_over_http2_needs_a_token_and_is_told_when_its_session_ends() {
    let (tell, ends) = channel();
    let upstream = Upstream::serving(move |mut peer| {
        agree(&mut peer);
        while peer.read_bytes(1).is_some() {}
        let _ = tell.send("closed");
    });
    let stage = Stage::with(upstream);
    let gateway = stage.gateway(File { issuer: &introspection(""), rest: ANY, ..File::default() });
    let client = H2Client::connect(gateway.addr());
    assert_eq!(client.connect_websocket("/chat", &[]).status(), 401);
    let [alice, bob] = ["alice", "bob"].map(|name| stage.issuer.token(name));
    let [mut hers, mut his] = [&alice, &bob].map(|token| {
        client.socket(client.connect_websocket("/chat", &[("authorization", &format!("Bearer {token}"))]))
    });
    stage.issuer.demo().end_sessions("alice");
    stage.clock.advance(Duration::from_secs(30));
    gateway.get("/y", &[&bearer(&alice)]).refused(401, "user_inactive");
    let told = b"\x88\x0f\x03\xf0user_inactive";
    assert_eq!(hers.read_bytes(told.len()), told);
    hers.send(b"\x88\x82\0\0\0\0\x03\xf0");
    assert_eq!(hers.read_rest(), b"");
    assert_eq!(ends.recv_timeout(PATIENCE), Ok("closed"));
    his.send(HELLO);
    assert_eq!(his.read_bytes(ECHO.len()), ECHO);
}

#[test]
fn a_connection_with_a_websocket_is_not_idle() {
    let stage = Stage::with(Upstream::serving(|mut peer| agree(&mut peer)));
    let server = "idle_timeout = '2s'";
    let gateway = stage.gateway(File { issuer: "", rest: PUBLIC, server, ..File::default() });
    let client = H2Client::connect(gateway.addr());
    let mut socket = client.socket(client.connect_websocket("/chat", &[]));
    // One that was idle for as long, since later, is closed.
    let mut idle: Client = gateway.connect();
    idle.get("/x", &[]);
    assert_eq!(idle.read_rest(), b"");
    socket.send(HELLO);
    assert_eq!(socket.read_bytes(ECHO.len()), ECHO);
}
