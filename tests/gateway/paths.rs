//! Which requests find a route: paths that mean one thing, hosts, methods.

use crate::support::{File, Gateway, Stage, head};

const ROUTES: &str = "
[[route]]
path = '/api/**'
upstream = 'up'
access = 'public'
[[route]]
path = '/files/**'
upstream = 'up'
access = 'public'
allow_encoded_slash = true
[[route]]
path = '/users/*/files/*'
upstream = 'up'
access = 'public'
allow_encoded_slash = true
[[route]]
path = '/read'
upstream = 'up'
access = 'public'
methods = ['GET', 'HEAD']
[[route]]
path = '/**'
host = 'only.example'
upstream = 'up'
access = 'public'
";

fn start() -> (Stage, Gateway) {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: "", rest: ROUTES, ..File::default() });
    (stage, gateway)
}

#[test]
fn a_path_with_more_than_one_meaning_is_refused_and_goes_nowhere() {
    let (stage, gateway) = start();
    for path in [
        "//api/x",
        "/api//x",
        "/api/./x",
        "/api/../admin",
        "/api/..",
        "/api/x/..",
        "/api/.../x",
        "/api/%2e%2e/admin",
        "/api/.%2e/admin",
        "/api/%2E%2E%2Fadmin",
        "/api/x%2Fy",
        "/api/x%5Cy",
        "/api\\x",
        "/api/..\\admin",
        "/api/x;y",
        "/api/..;/admin",
        "/api/x%3By",
        "/api/x%00",
        "/api/x%0d%0ay",
        "/api/%252e%252e/admin",
        "/%61pi/x",
        "/api/%c0%ae%c0%ae/admin",
        "/api/%ef%bc%8e%ef%bc%8e/admin",
        "/api/%ff",
        "/api/%",
        "/api/%2",
        "/api/%zz",
        "/api/x%20/..%20/y",
        "/api/x|y",
        "*",
    ] {
        let answer = gateway.get(path, &[]);
        assert_eq!(answer.outcome(), (400, "path_not_canonical".to_owned()), "{path}");
    }
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn an_encoded_slash_passes_only_in_the_last_part_of_a_route_that_allows_it() {
    let (stage, gateway) = start();
    for path in ["/files/a%2Fb", "/files/x/a%2fb/c", "/users/7/files/a%2Fb"] {
        gateway.get(path, &[]).passed();
        assert_eq!(stage.upstream.last().line, format!("GET {path} HTTP/1.1"));
    }
    for path in [
        "/users/7%2F8/files/x",
        "/files/a%2F..%2Fb",
        "/files/..%2Fb",
        "/files/%2F",
        "/files/a%2F%2Fb",
        "/files/a%2F./b",
    ] {
        gateway.get(path, &[]).refused(400, "path_not_canonical");
    }
    assert_eq!(stage.upstream.requests(), 3);
}

#[test]
fn path_and_query_are_forwarded_byte_for_byte() {
    let (stage, gateway) = start();
    for target in [
        "/api/",
        "/api/caf%C3%A9/a%20b?q=%2e%2e/..&r=a+b&&s[]=%zz",
        "/api/x?",
        "/api/x??",
        "/api/x?a='b'|c{d}",
        "/api/(a)!$&'*+,=:@~",
    ] {
        gateway.get(target, &[]).passed();
        assert_eq!(stage.upstream.last().line, format!("GET {target} HTTP/1.1"));
    }
    // A target with a host in it means the same as one without (RFC 9112 §3.2.2).
    let mut client = gateway.connect();
    client.send("GET http://api.example/api/x?y HTTP/1.1\r\nhost: api.example\r\n\r\n");
    client.read().passed();
    let seen = stage.upstream.last();
    assert_eq!(
        (&*seen.line, seen.header("host")),
        ("GET /api/x?y HTTP/1.1", Some(&*stage.upstream.addr().to_string()))
    );
}

#[test]
fn without_a_route_there_is_nothing() {
    let (stage, gateway) = start();
    for path in ["/", "/api", "/API/x", "/apix/y", "/read/", "/unknown", "/.well-known/other", "/api%2Fx", "/files%2Fa"]
    {
        gateway.get(path, &[]).refused(404, "no_route");
    }
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_host_of_its_own_comes_before_every_path() {
    let (stage, gateway) = start();
    for host in ["only.example", "ONLY.example", "only.example:8443", "only.example."] {
        let mut client = gateway.connect();
        client.send(format!("GET /unknown HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        client.read().passed();
        let said = stage.upstream.last();
        assert_eq!(said.header("x-forwarded-host"), Some(host));
    }
    let mut client = gateway.connect();
    client.send("GET /unknown HTTP/1.1\r\nhost: not-only.example\r\n\r\n");
    client.read().refused(404, "no_route");
}

#[test]
fn a_method_that_a_route_does_not_take_is_405() {
    let (stage, gateway) = start();
    for (method, path) in
        [("POST", "/read"), ("DELETE", "/read"), ("TRACE", "/api/x"), ("PROPFIND", "/api/x"), ("get", "/api/x")]
    {
        let mut client = gateway.connect();
        client.send(head(method, path, &["content-length: 0"]));
        let answer = client.read();
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(""), "{method}");
    }
    let mut client = gateway.connect();
    client.send("CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n\r\n");
    assert_eq!(client.read().status, 405);
    assert_eq!(stage.upstream.requests(), 0);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let mut client = gateway.connect();
        client.send(head(method, "/api/x", &["content-length: 0"]));
        client.read().passed();
        assert_eq!(stage.upstream.last().line, format!("{method} /api/x HTTP/1.1"));
    }
}
