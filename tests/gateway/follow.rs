//! Upstreams whose host is that of the user's own namespace.

use crate::support::{File, Gateway, Stage, Upstream};
use postern::app;
use postern::config::{self, Config, Route};
use postern::dev::TokenSpec;
use serde_json::json;
use std::sync::Arc;

const FOLLOWING: &str = "
[upstream.notebook]
to = 'http://notebook.{namespace}.invalid:8888'
[[route]]
path = '/**'
upstream = 'notebook'
credential = 'none'
headers = { x-namespace = 'namespace' }
";

/// A gateway whose upstream is the namespace itself: `localhost` is the one name that resolves everywhere. No file can say that.
fn start(stage: &Stage) -> Gateway {
    let mut config: Config = stage.config(File { rest: FOLLOWING, ..File::default() });
    let route = &config.routes[0];
    let port = stage.upstream.addr().port();
    let targets = vec![config::Target::Host { host: "{namespace}".to_owned(), port }];
    let upstream = config::Upstream { targets, ..(*route.upstream).clone() };
    config.routes = vec![Arc::new(Route { upstream: Arc::new(upstream), ..(**route).clone() })];
    let gateway = Gateway { inner: app::Gateway::start(config, stage.clock.clone()).unwrap() };
    crate::support::eventually("the gateway is ready", || gateway.inner.is_ready());
    gateway
}

#[test]
fn a_request_goes_to_the_host_of_its_users_namespace() {
    let stage = Stage::new();
    let gateway = start(&stage);
    let token = stage.issuer.issue(&TokenSpec::user("alice").claim("namespace", "localhost"));
    for _ in 0..2 {
        gateway.call("/x", &token).passed();
    }
    let seen = stage.upstream.last();
    let host = format!("localhost:{}", stage.upstream.addr().port());
    assert_eq!((seen.header("host"), seen.header("x-namespace")), (Some(host.as_str()), Some("localhost")));
    // The connection is kept, as to any upstream.
    assert_eq!(stage.upstream.connections(), 1);
    // Another namespace is another host.
    let other = stage.issuer.issue(&TokenSpec::user("bob").claim("namespace", "no-such-host"));
    gateway.call("/x", &other).refused(502, "upstream_unreachable");
    assert_eq!(stage.upstream.requests(), 2);
}

#[test]
fn who_has_no_namespace_or_an_odd_one_goes_nowhere() {
    let stage = Stage::with(Upstream::start());
    let gateway = start(&stage);
    let odd = [
        json!(""),
        json!("Localhost"),
        json!("localhost."),
        json!("localhost:1"),
        json!("evil.localhost"),
        json!("127.0.0.1"),
        json!("localhost/x"),
        json!("a@localhost"),
        json!("localhost#"),
        json!("local host"),
        json!("-localhost"),
        json!("localhost\r\nx: y"),
        json!("löcalhost"),
        json!("xn--/"),
        json!("{namespace}"),
        json!("a".repeat(64)),
        json!(["localhost"]),
        json!(7),
    ];
    for namespace in odd {
        let token = stage.issuer.issue(&TokenSpec::user("alice").claim("namespace", namespace.clone()));
        let outcome = gateway.call("/x", &token).outcome();
        assert_eq!(outcome, (403, "namespace_missing".to_owned()), "{namespace}");
    }
    gateway
        .call("/x", &stage.issuer.issue(&TokenSpec::user("alice").without_claim("namespace")))
        .refused(403, "namespace_missing");
    assert_eq!(stage.upstream.connections(), 0);
}
