//! gRPC: refusals in its own shape, deadlines, and calls that end between two messages.

use crate::support::h2::{H2Answer, H2Client, body, endless, request};
use crate::support::{
    ANY, File, Gate, Gateway, PATIENCE, PUBLIC, Peer, Stage, Upstream, bearer, eventually, head, introspection,
};
use http::{HeaderMap, Response};
use hyper::body::Incoming;
use std::time::Duration;

/// A message of one byte.
const MESSAGE: &str = "\0\0\0\0\x01a";

/// Begins the answer to a call with a message and, perhaps, a part of the next.
fn begin_answer(peer: &mut Peer, and: &str) {
    peer.read_head();
    // In one piece, so that no deadline falls between the two.
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";
    peer.send([head, &as_chunk(&[MESSAGE, and].concat())].concat());
}

fn chunk(peer: &mut Peer, data: &str) {
    peer.send(as_chunk(data));
}

fn as_chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// The fields of a call.
fn fields<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("te", "trailers")], more, &[("content-type", "application/grpc")]].concat()
}

fn call(gateway: &Gateway, path: &str, more: &[(&str, &str)]) -> H2Answer {
    H2Client::connect(gateway.addr()).call(&format!("POST {path}"), &fields(more), body("", &[]))
}

fn status(fields: &HeaderMap) -> (&str, &str) {
    ["grpc-status", "grpc-message"].map(|name| fields.get(name).map_or("", |value| value.to_str().unwrap())).into()
}

/// Asserts that a call was refused as one: by a head that is all of it.
#[track_caller]
fn refused(answer: &H2Answer, expected: &str, reason: &str) {
    assert_eq!((answer.head.status.as_u16(), answer.body.len(), answer.trailers.len()), (200, 0, 0), "{answer:?}");
    let (status, message) = status(&answer.head.headers);
    assert_eq!((status, message.split(": ").next().unwrap()), (expected, reason));
    assert_eq!(answer.head.headers["content-type"], "application/grpc");
    assert!(answer.head.headers.contains_key("x-request-id") && !answer.head.headers.contains_key("content-length"));
}

#[test]
fn a_call_that_is_refused_is_told_in_the_shape_of_grpc() {
    let stage = Stage::new();
    let rest = ANY.replace("'/**'", "'/pkg.Any/*'")
        + &ANY.replace("'any'", "'admin'").replace("'/**'", "'/pkg.Admin/*'")
        + "access = { any_role = ['nobody'] }\n"
        + &PUBLIC.replace("'/**'", "'/pkg.Dead/*'").replace("'up'", "'dead'")
        + "[upstream.dead]\nto = 'http://127.0.0.1:1'\n[limits]\naddress = { rate = 1, burst = 10 }\n";
    let log = "access = { file = 'access.log' }";
    let gateway = stage.gateway(File { rest: &rest, log, ..File::default() });
    let token = format!("Bearer {}", stage.issuer.token("alice"));
    let told = call(&gateway, "/pkg.Any/Do", &[]);
    refused(&told, "16", "missing_token");
    assert_eq!(status(&told.head.headers).1, "missing_token: A bearer token is needed");
    assert_eq!(told.head.headers["www-authenticate"], "Bearer realm=\"postern\"");
    refused(&call(&gateway, "/pkg.Any/Do", &[("authorization", "Bearer x")]), "16", "invalid_token");
    refused(&call(&gateway, "/pkg.Admin/Do", &[("authorization", &token)]), "7", "role_missing");
    refused(&call(&gateway, "/pkg.Other/Do", &[]), "12", "no_route");
    refused(&call(&gateway, "/pkg.Dead/Do", &[]), "14", "upstream_unreachable");
    // Refused before its fields were read to the end.
    refused(&call(&gateway, "/pkg.Any/Do", &[("expect", "more")]), "2", "expectation_failed");
    assert_eq!(stage.upstream.requests(), 0);
    let limited = (0..10).map(|_| call(&gateway, "/pkg.Any/Do", &[("authorization", &token)]));
    let limited = limited.last().unwrap();
    refused(&limited, "8", "too_many_requests");
    assert_eq!(limited.head.headers["retry-after"], "1");
    // What was sent, and why.
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    eventually("the lines are written", || read().contains("role_missing"));
    let line = read().lines().find(|line| line.contains("role_missing")).unwrap().to_owned();
    assert!(line.contains("\"status\":200"), "{line}");
    assert_eq!(gateway.metric("postern_refusals_total{route=\"admin\",reason=\"role_missing\"}"), 1);
}

#[test]
fn only_a_call_is_refused_as_one() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    let client = H2Client::connect(gateway.addr());
    for content_type in ["application/json", "application/grpc-web", "application/grpc-web+proto", "text/plain"] {
        let answer = client.call("POST /x", &[("content-type", content_type)], body("", &[]));
        assert_eq!(
            (answer.head.status.as_u16(), answer.head.headers.get("grpc-status")),
            (401, None),
            "{content_type}"
        );
    }
    for content_type in ["application/grpc+proto", "application/grpc;x=y"] {
        refused(&client.call("POST /x", &[("content-type", content_type)], body("", &[])), "16", "missing_token");
    }
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &["content-type: application/grpc", "content-length: 0"]));
    client.read().refused(401, "missing_token");
}

#[test]
fn what_is_left_of_a_deadline_is_passed_on() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: "", rest: PUBLIC, ..File::default() });
    let told = |said| {
        assert_eq!(call(&gateway, "/x", &[("grpc-timeout", said)]).head.status, 200);
        stage.upstream.last().header("grpc-timeout").unwrap().to_owned()
    };
    assert_eq!([told("10S"), told("3H")], ["10000000u", "10800000m"]);
    let requests = stage.upstream.requests();
    for said in ["10s", "123456789S", "-1S", "1.5S", "S", "", "10"] {
        refused(&call(&gateway, "/x", &[("grpc-timeout", said)]), "13", "malformed_request");
    }
    refused(&call(&gateway, "/x", &[("grpc-timeout", "1S"), ("grpc-timeout", "2S")]), "13", "malformed_request");
    refused(&call(&gateway, "/x", &[("grpc-timeout", "0S")]), "4", "upstream_timeout");
    assert_eq!(stage.upstream.requests(), requests);
    // What is no call may say what it likes.
    let client = H2Client::connect(gateway.addr());
    assert_eq!(client.call("POST /x", &[("grpc-timeout", "soon")], body("", &[])).head.status, 200);
    assert_eq!(stage.upstream.last().header("grpc-timeout"), Some("soon"));
}

#[test]
fn a_call_without_an_answer_ends_at_its_deadline_or_its_route_s() {
    let (upstream, ends) = Upstream::watched(|peer| {
        peer.read_head();
    });
    let stage = Stage::with(upstream);
    let rest = PUBLIC.replace("'/**'", "'/slow'")
        + &PUBLIC.replace("'public'\npath", "'quick'\npath").replace("'/**'", "'/quick'")
        + "response_timeout = '100ms'\n";
    let gateway = stage.gateway(File { issuer: "", rest: &rest, ..File::default() });
    refused(&call(&gateway, "/slow", &[("grpc-timeout", "100m")]), "4", "upstream_timeout");
    refused(&call(&gateway, "/quick", &[("grpc-timeout", "1H")]), "4", "upstream_timeout");
    for _ in 0..2 {
        assert_eq!(ends.recv_timeout(PATIENCE), Ok("closed"));
    }
}

#[test]
fn an_answer_that_is_not_whole_ends_at_the_deadline_between_two_messages() {
    let (upstream, ends) = Upstream::watched(|peer| begin_answer(peer, ""));
    let stage = Stage::with(upstream);
    let rest = PUBLIC.replace("'/**'", "'/public'") + ANY;
    let log = "access = { file = 'access.log' }";
    let gateway = stage.gateway(File { rest: &rest, log, ..File::default() });
    let token = format!("Bearer {}", stage.issuer.token("alice"));
    let client = H2Client::connect(gateway.addr());
    for path in ["/public", "/mine"] {
        // Its client sends on, which ends, too.
        let begun = ["100m", "1S", "10S"].into_iter().find_map(|said| {
            let fields = fields(&[("authorization", &token), ("grpc-timeout", said)]);
            let mut answer = client.begin(request(&format!("POST {path}"), &fields, endless("x")));
            // An upstream that is late has begun no answer by then; with more time it has.
            let Some(first) = client.next(&mut answer) else {
                assert_eq!(ends.recv_timeout(PATIENCE), Ok("closed"));
                return None;
            };
            assert_eq!(first.unwrap(), MESSAGE);
            Some(answer)
        });
        let (rest, trailers) = client.rest(begun.expect("an answer that begins")).unwrap();
        assert_eq!((rest.len(), status(&trailers).0), (0, "4"), "{trailers:?}");
        assert_eq!(ends.recv_timeout(PATIENCE), Ok("closed"));
    }
    let read = || std::fs::read_to_string(stage.path("access.log")).unwrap();
    let was_begun = |line: &&str| line.contains("\"ended\"");
    eventually("the lines are written", || read().lines().filter(was_begun).count() == 2);
    for line in read().lines().filter(was_begun) {
        assert!(line.contains("\"complete\":false") && line.contains("\"ended\":\"upstream_timeout\""), "{line}");
    }
}

/// Begins a call of alice's, reads the message that comes at once, and has her session end.
fn begin_and_log_out(stage: &Stage, gateway: &Gateway, client: &H2Client, first: &str) -> Response<Incoming> {
    let alice = stage.issuer.token("alice");
    let authorization = format!("Bearer {alice}");
    let mut answer = client.begin(request("POST /x", &fields(&[("authorization", &authorization)]), endless("x")));
    assert_eq!(client.next(&mut answer).unwrap().unwrap(), first);
    stage.issuer.demo().end_sessions("alice");
    stage.clock.advance(Duration::from_secs(30));
    gateway.get("/y", &[&bearer(&alice)]).refused(401, "user_inactive");
    eventually("it is cut", || gateway.metric("postern_streams_ended_total{cause=\"inactive\"}") == 1);
    answer
}

#[test]
fn a_call_whose_session_ends_is_told_by_its_status() {
    let (upstream, ends) = Upstream::watched(|peer| begin_answer(peer, ""));
    let stage = Stage::with(upstream);
    let gateway = stage.gateway(File { issuer: &introspection(""), ..File::default() });
    let client = H2Client::connect(gateway.addr());
    let answer = begin_and_log_out(&stage, &gateway, &client, MESSAGE);
    let (rest, trailers) = client.rest(answer).unwrap();
    assert_eq!(rest.len(), 0);
    assert_eq!(status(&trailers), ("16", "user_inactive: The user or the session is no longer active"));
    assert_eq!(ends.recv_timeout(PATIENCE), Ok("closed"));
}

#[test]
fn a_message_that_is_half_way_is_finished_though_its_client_sends_on() {
    let gate = Gate::default();
    let (upstream, ends) = Upstream::watched({
        let gate = gate.clone();
        move |peer| {
            begin_answer(peer, "\0\0\0");
            gate.pass();
            chunk(peer, "\0\x02bc\0\0\0\0\x01d");
        }
    });
    let stage = Stage::with(upstream);
    let gateway = stage.gateway(File { issuer: &introspection(""), ..File::default() });
    let client = H2Client::connect(gateway.addr());
    let answer = begin_and_log_out(&stage, &gateway, &client, &[MESSAGE, "\0\0\0"].concat());
    gate.open();
    let (rest, trailers) = client.rest(answer).unwrap();
    assert_eq!((&rest[..], status(&trailers).0), (&b"\0\x02bc"[..], "16"));
    assert_eq!(ends.recv_timeout(PATIENCE), Ok("closed"));
}
