//! What a file that says nothing gets. The reader takes defaults from the description; these are written down again
//! because a change of one is a change for everybody.

use super::{GOOD, parse};
use crate::base::secret::Secret;
use crate::config::*;
use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_listeners_and_the_log() {
    let config = parse(GOOD).unwrap();
    let expected = Server {
        listen: vec!["127.0.0.1:8080".parse().unwrap()],
        tls: None,
        trusted_proxies: Vec::new(),
        workers: None,
        header_timeout: seconds(10),
        idle_timeout: seconds(75),
        max_header_bytes: 65_536,
        max_connections: 10_000,
        max_concurrent_streams: 100,
        drain_wait: seconds(5),
        drain_deadline: seconds(30),
    };
    assert_eq!(config.server, expected);
    assert_eq!(config.admin, Admin { listen: Some("127.0.0.1:9901".parse().unwrap()) });
    let (level, format) = ("info".into(), LogFormat::Text);
    let expected = Log { level, format, access: LogPlace::Stdout, audit: LogPlace::Stdout, traces: None };
    assert_eq!(config.log, expected);
    assert_eq!((config.operator, config.cluster), (None, Cluster { valid_until: None }));
    assert_eq!(config.webhook, None);
    assert_eq!(config.state, State { path: "postern-state".into() });
}

#[test]
fn an_issuer() {
    let claim = |text: &str| ClaimPath::parse(text).unwrap();
    let expected = Issuer {
        name: "main".into(),
        kind: IssuerKind::Oidc,
        url: "https://keycloak.example.com/realms/demo".into(),
        audiences: vec!["gateway".into()],
        algorithms: Algorithm::ALL.to_vec(),
        leeway: seconds(30),
        max_token_age: None,
        address: None,
        ca: None,
        endpoint_origins: Vec::new(),
        lightweight: false,
        opaque: false,
        roles_claims: vec![claim("realm_access.roles"), claim("roles")],
        groups_claim: claim("groups"),
        namespace_claim: claim("namespace"),
        username_claim: claim("preferred_username"),
        email_claim: claim("email"),
        keys: KeyPolicy { refresh: seconds(300), max_stale: seconds(3600), timeout: seconds(5) },
        user_status: UserStatus::None,
    };
    assert_eq!(*parse(GOOD).unwrap().issuers[0], expected);
}

#[test]
fn introspection() {
    let status = r#"{ introspection = { client_id = "gateway", client_secret = { env = "CARGO_MANIFEST_DIR" } } }"#;
    let config = parse(&GOOD.replace("\"none\"", status)).unwrap();
    let UserStatus::Introspection(introspection) = &config.issuers[0].user_status else { panic!("none") };
    assert_eq!(introspection.client_secret.expose(), env!("CARGO_MANIFEST_DIR"));
    assert_eq!((introspection.bound, introspection.timeout), (seconds(30), seconds(2)));
    assert_eq!(introspection.when_unknown, WhenUnknown::Deny);
}

#[test]
fn keycloak() {
    let status = r#"{ keycloak = { client_id = "gateway", client_secret = { env = "CARGO_PKG_NAME" } } }"#;
    let config = parse(&GOOD.replace("\"none\"", status)).unwrap();
    let expected = Keycloak {
        introspection: Introspection {
            client_id: "gateway".into(),
            client_secret: Secret::new(env!("CARGO_PKG_NAME")),
            bound: seconds(30),
            timeout: seconds(2),
            when_unknown: WhenUnknown::Deny,
        },
        admin_url: "https://keycloak.example.com/admin/realms/demo".parse().unwrap(),
        max_calls_per_second: 100,
        end_sessions: None,
        backchannel_clients: None,
    };
    assert_eq!(config.issuers[0].user_status.keycloak(), Some(&expected));
    assert!(config.has_state() && !parse(GOOD).unwrap().has_state());
}

#[test]
fn limits_by_address() {
    let failed = Rate { rate: 100, per: Duration::from_secs(1), burst: 1000 };
    assert_eq!(parse(GOOD).unwrap().limits, Limits { address: None, failed_authentications: Some(failed) });
}

#[test]
fn an_upstream() {
    let expected = Upstream {
        name: "orders".into(),
        targets: vec![Target::Host { host: "127.0.0.1".into(), port: 9000 }],
        is_tls: false,
        audience: "orders".into(),
        protocol: Protocol::Auto,
        tls: UpstreamTls::default(),
        connect_timeout: seconds(2),
        response_timeout: seconds(30),
        idle_timeout: seconds(300),
        max_idle_connections: 128,
        upgrades: vec![Upgrade::WebSocket],
        max_connection_age: None,
        max_requests_per_connection: None,
        dns_refresh: seconds(30),
        health_check: None,
        outlier_detection: Some(OutlierDetection {
            consecutive_failures: 5,
            base_ejection_time: seconds(30),
            max_ejection_time: seconds(300),
            max_ejection_percent: 50,
        }),
        slow_start: seconds(0),
        retry: None,
        circuit_breaker: CircuitBreaker::default(),
    };
    assert_eq!(*parse(GOOD).unwrap().upstreams[0], expected);
}

#[test]
fn a_route_needs_a_token_and_mints_one() {
    let config = parse(GOOD).unwrap();
    let route = &config.routes[0];
    assert_eq!((route.name.as_str(), route.hosts.as_slice()), ("/orders/**", &[][..]));
    assert_eq!((&route.methods, route.response_timeout, route.max_body_bytes), (&None, None, None));
    assert!(matches!(route.issuers.as_slice(), [IssuerName::Configured(issuer)] if issuer.name == "main"));
    assert_eq!(route.access, Access::Token(Requirements::default()));
    let token = NamespaceToken { target: None, audience: "orders".into(), roles: Vec::new(), groups: Vec::new() };
    assert_eq!(route.credential, Credential::NamespaceToken(token.into()));
    assert!(route.headers.is_empty() && !route.allow_encoded_slash && route.stream_ends == StreamEnds::Session);
}

#[test]
fn a_public_route_gives_no_credential() {
    let config = parse(&format!("{GOOD}access = \"public\"")).unwrap();
    assert_eq!((&config.routes[0].access, &config.routes[0].credential), (&Access::Public, &Credential::None));
}

#[test]
fn the_token_service() {
    let expected = TokenService {
        issuer: "http://127.0.0.1:8080".into(),
        audience: "http://127.0.0.1:8080".into(),
        algorithm: SigningAlgorithm::Es256,
        lifetime: seconds(30 * 60),
        signing_keys: SigningKeys::Directory { path: "postern-keys".into(), rotate_every: seconds(30 * 86_400) },
        clients: Vec::new(),
    };
    assert_eq!(parse(GOOD).unwrap().token_service, expected);
}

#[test]
fn the_webhook() {
    let config = parse(&format!("{GOOD}[webhook]\nlisten = '0.0.0.0:8443'\nnames = ['a.b.svc', '::1']")).unwrap();
    let expected = Webhook {
        listen: "0.0.0.0:8443".parse().unwrap(),
        names: vec!["a.b.svc".into(), "::1".into()],
        directory: Some("postern-webhook".into()),
    };
    assert_eq!(config.webhook, Some(expected));
}
