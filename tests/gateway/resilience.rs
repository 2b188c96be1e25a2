//! Upstreams with several endpoints, health checks, limits and sockets in the file system.

use crate::support::{File, Gate, Stage, Upstream, eventually};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

/// A gateway whose one route goes to an upstream with these lines.
fn route(lines: &str) -> String {
    format!("[upstream.many]\n{lines}\n[[route]]\nname = 'many'\npath = '/**'\nupstream = 'many'\naccess = 'public'\n")
}

fn file(rest: &str) -> File<'_> {
    File { issuer: "", rest, ..File::default() }
}

#[test]
fn requests_are_spread_and_an_endpoint_that_is_gone_costs_none() {
    let (stage, other) = (Stage::new(), Upstream::start());
    let to = format!("to = ['http://{}', 'http://{}', 'http://127.0.0.1:1']", stage.upstream.addr(), other.addr());
    let rest = route(&format!("{to}\noutlier_detection = {{ consecutive_failures = 2 }}"));
    let gateway = stage.gateway(file(&rest));
    for _ in 0..60 {
        gateway.get("/x", &[]).passed();
    }
    let (here, there) = (stage.upstream.requests(), other.requests());
    assert!(here + there == 60 && here > 5 && there > 5, "{here} and {there}");
    assert_eq!(stage.upstream.last().header("host"), Some(stage.upstream.addr().to_string().as_str()));
    assert_eq!(gateway.metric("postern_upstream_connect_failures_total{upstream=\"many\"}"), 2);
    assert_eq!(gateway.metric("postern_upstream_ejections_total{upstream=\"many\"}"), 1);
    let states = |state| gateway.metric(&format!("postern_upstream_endpoints{{upstream=\"many\",state=\"{state}\"}}"));
    assert_eq!([states("healthy"), states("ejected"), states("unhealthy")], [2, 1, 0]);
}

#[test]
fn while_no_endpoint_is_healthy_requests_are_refused_at_once_and_told_when_to_come_back() {
    let stage = Stage::with(Upstream::serving(|mut peer| {
        while let Some(seen) = peer.read() {
            let status = if seen.line.contains("/healthz") { "503 Busy" } else { "200 OK" };
            peer.send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"));
        }
    }));
    let check = "health_check = { path = '/healthz', interval = '100ms', timeout = '100ms', unhealthy_threshold = 1 }";
    let rest = route(&format!("to = 'http://{}'\n{check}", stage.upstream.addr()));
    let gateway = stage.gateway(file(&rest));
    eventually("the endpoint is found unhealthy", || {
        gateway.metric("postern_upstream_endpoints{upstream=\"many\",state=\"unhealthy\"}") == 1
    });
    let answer = gateway.get("/x", &[]);
    assert_eq!(answer.header("retry-after"), Some("5"));
    answer.refused(503, "upstream_unavailable");
    assert!(gateway.metric("postern_upstream_health_checks_total{upstream=\"many\",outcome=\"failed\"}") > 0);
    // A reload does not forget it.
    gateway.inner.reload(stage.config(file(&rest.replace("'100ms', unhealthy", "'90ms', unhealthy")))).unwrap();
    gateway.get("/x", &[]).refused(503, "upstream_unavailable");
}

#[test]
fn a_request_beyond_the_circuit_breaker_is_refused() {
    let gate = Gate::default();
    let held = gate.clone();
    let stage = Stage::with(Upstream::serving(move |mut peer| {
        while peer.read().is_some() {
            held.pass();
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    }));
    let rest = route(&format!("to = 'http://{}'\ncircuit_breaker = {{ max_requests = 1 }}", stage.upstream.addr()));
    let gateway = stage.gateway(file(&rest));
    let mut first = gateway.connect();
    first.send(crate::support::head("GET", "/x", &[]));
    eventually("the upstream has it", || stage.upstream.requests() == 1);
    gateway.get("/x", &[]).refused(503, "upstream_overloaded");
    assert_eq!(gateway.metric("postern_upstream_overflows_total{upstream=\"many\",limit=\"requests\"}"), 1);
    gate.open();
    first.read().passed();
    gateway.get("/x", &[]).passed();
}

#[test]
fn an_upstream_may_be_a_unix_socket() {
    let stage = Stage::new();
    let path = stage.path("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut io, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        while let Ok(1..) = io.read(&mut buffer) {
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        }
    });
    let rest = route(&format!("to = 'unix:{}'", path.display()));
    let gateway = stage.gateway(file(&rest));
    for _ in 0..3 {
        gateway.get("/x", &[]).passed();
    }
}

#[test]
fn a_request_that_is_safe_to_send_again_finds_the_endpoint_that_answers() {
    let breaking = Upstream::serving(|mut peer| drop(peer.read()));
    let stage = Stage::new();
    let to = format!("to = ['http://{}', 'http://{}']", breaking.addr(), stage.upstream.addr());
    let rest = route(&format!("{to}\nretry = {{ budget_percent = 100 }}\noutlier_detection = 'off'"));
    let gateway = stage.gateway(file(&rest));
    for _ in 0..40 {
        gateway.get("/x", &[]).passed();
    }
    assert!(breaking.requests() > 0);
    let sent = gateway.metric("postern_upstream_retries_total{upstream=\"many\",outcome=\"sent\"}");
    assert_eq!(sent, breaking.requests() as u64);
}
