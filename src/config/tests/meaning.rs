//! What is written reaches the type that stands for it.

use super::{GOOD, parse};
use crate::base::secret::Secret;
use crate::config::*;
use std::path::Path;
use std::time::Duration;

#[test]
fn what_kubernetes_gives_is_read() {
    let credential = |text: &str| {
        let text = format!("{GOOD}credential = {text}\n[kubernetes]\nrole = \"gateway\"\n");
        parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}")).routes[0].credential.clone()
    };
    let Credential::ServiceAccount(word) = credential("\"service-account\"") else { panic!("another") };
    assert_eq!(credential("{ service-account = {} }"), Credential::ServiceAccount(word));
    let account = ServiceAccount {
        account: "builder.a".into(),
        namespace: NamespaceSource::Claimed,
        timeout: Duration::from_secs(1),
    };
    let text = r#"{ service-account = { account = "builder.a", namespace = "claimed", timeout = "1s" } }"#;
    assert_eq!(credential(text), Credential::ServiceAccount(account.into()));
    let stored = StoredSecret { secret: "orders".into(), key: "a_B.c".into(), prefix: "Bearer ".into() };
    let text = r#"{ secret = { kubernetes = { secret = "orders", key = "a_B.c" }, prefix = "Bearer " } }"#;
    let header = http::header::AUTHORIZATION;
    assert_eq!(credential(text), Credential::Secret { header, value: SecretValue::Stored(stored.into()) });
    let text = GOOD.replace(":9000\"", ":9000\"\nupgrades = [\"spdy/3.1\"]");
    assert_eq!(parse(&text).unwrap().upstreams[0].upgrades, [Upgrade::Spdy]);
}

#[test]
fn every_requirement_is_read() {
    let text = format!(
        r#"{GOOD}access = {{ any_role = ["a"], all_roles = ["b", "c"], any_group = ["/g"],
all_scopes = ["s:r"], claims = {{ dept = "x", "a.b" = 1 }}, namespace = ["team-a", "team-b"] }}"#
    );
    let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let claim = |text| ClaimPath::parse(text).unwrap();
    let expected = Requirements {
        any_role: strings(&["a"]),
        all_roles: strings(&["b", "c"]),
        any_group: strings(&["/g"]),
        all_scopes: strings(&["s:r"]),
        claims: vec![(claim("dept"), "x".into()), (claim("a.b"), 1.into())],
        namespaces: strings(&["team-a", "team-b"]),
    };
    assert_eq!(parse(&text).unwrap().routes[0].access, Access::Token(expected));
}

#[test]
fn a_route_is_read_with_all_that_it_may_have() {
    let text = format!(
        r#"{GOOD}name = "x"
host = ["api.example.com", "*.example.org"]
methods = ["GET", "PURGE"]
issuers = ["self", "main"]
access = {{ any_role = ["sales"] }}
credential = {{ namespace-token = {{ target = "sales", audience = "y", roles = ["sales-*"], groups = ["*"] }} }}
headers = {{ X-Auth-User = "sub", x-auth-roles = "roles" }}
response_timeout = "2m"
allow_encoded_slash = true
max_body_bytes = "1KiB"
stream_ends = "token"
limit = {{ user = {{ rate = 30, per = "1m" }}, namespace = {{ rate = 9, burst = 1 }}, address = {{ rate = 2 }} }}
"#
    );
    let route = parse(&text).unwrap().routes[0].clone();
    assert_eq!((route.name.as_str(), route.hosts.len(), route.methods.as_ref().unwrap().len()), ("x", 2, 2));
    assert!(matches!(route.issuers.as_slice(), [IssuerName::Own, IssuerName::Configured(_)]));
    let token = NamespaceToken {
        target: Some(TargetNamespace("sales".into())),
        audience: "y".into(),
        roles: vec!["sales-*".into()],
        groups: vec!["*".into()],
    };
    assert_eq!(route.credential, Credential::NamespaceToken(token.into()));
    let headers: Vec<_> = route.headers.iter().map(|header| (header.name.as_str(), &header.source)).collect();
    assert_eq!(headers, [("x-auth-user", &HeaderSource::Subject), ("x-auth-roles", &HeaderSource::Roles)]);
    assert_eq!((route.response_timeout, route.max_body_bytes), (Some(Duration::from_secs(120)), Some(1024)));
    assert!(route.allow_encoded_slash && route.stream_ends == StreamEnds::Token);
    let rate = |rate, seconds, burst| Some(Rate { rate, per: Duration::from_secs(seconds), burst });
    let [user, namespace, address] = [rate(30, 60, 30), rate(9, 1, 1), rate(2, 1, 2)];
    assert_eq!(route.limit.as_deref(), Some(&RouteLimit { address, user, namespace, route: None, shared: false }));
    assert_eq!(user.unwrap().interval(), Duration::from_secs(2));
}

#[test]
fn a_route_that_changes_nothing_has_nothing_to_look_at() {
    let transform = |text: &str| {
        let config = parse(&format!("{GOOD}{text}")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        config.routes[0].transform.clone()
    };
    assert_eq!(transform(""), None);
    let cors = transform("cors = { origins = 'https://a.example' }").unwrap().cors.unwrap();
    let text = |value: Option<http::HeaderValue>| value.unwrap().to_str().unwrap().to_owned();
    assert_eq!(cors.origins, transform::Origins::Listed(vec!["https://a.example".parse().unwrap()]));
    assert_eq!((cors.methods, cors.max_age), ("GET, HEAD, POST, PUT, PATCH, DELETE".parse().unwrap(), 600.into()));
    assert_eq!(text(cors.headers), "authorization, content-type");
    assert_eq!((text(cors.expose), cors.credentials), ("retry-after, www-authenticate, x-request-id".into(), false));
    let headers = transform("response_headers = { hygiene = true, remove = ['X-A'] }").unwrap().response;
    assert!(headers.hygiene && headers.remove == ["x-a"] && headers.set.is_empty());
    let headers = transform("request_headers = { remove = ['X_A'], set = { x-b = '{route}' } }").unwrap().request;
    assert_eq!(headers.taken, ["x-a", "x-b"]);
    assert_eq!(headers.set[0].value, transform::Template::Fixed("/orders/**".parse().unwrap()));
}

#[test]
fn a_secret_is_sent_behind_its_prefix() {
    let text =
        format!(r#"{GOOD}credential = {{ secret = {{ prefix = "Bearer ", value = {{ env = "CARGO_PKG_NAME" }} }} }}"#);
    let config = parse(&text).unwrap();
    let Credential::Secret { header, value: SecretValue::Given(value) } = &config.routes[0].credential else {
        panic!("no secret")
    };
    assert_eq!((header.as_str(), value.expose()), ("authorization", "Bearer postern"));
}

#[test]
fn relative_paths_are_seen_from_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), "").unwrap();
    let text = GOOD.replace("user_status", "ca = \"ca.pem\"\nuser_status");
    let config = super::super::parse(&text, &folder.path().join("gateway.toml")).unwrap();
    assert_eq!(config.issuers[0].ca.as_deref(), Some(folder.path().join("ca.pem").as_path()));
    let SigningKeys::Directory { path, .. } = &config.token_service.signing_keys else { panic!("files") };
    assert_eq!(path, &folder.path().join("postern-keys"));
}

#[test]
fn issuers_upstreams_and_routes_keep_the_order_of_the_file() {
    let text = format!(
        "{GOOD}[issuer.abba]\nurl = \"https://a\"\naudience = \"a\"\nuser_status = \
         \"none\"\n[upstream.a]\nto = \"https://a\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.issuers.iter().map(|issuer| issuer.name.as_str()).collect::<Vec<_>>(), ["main", "abba"]);
    assert_eq!(config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>(), ["orders", "a"]);
    assert_eq!(config.upstreams[1].targets, [Target::Host { host: "a".into(), port: 443 }]);
    assert!(config.upstreams[1].is_tls);
    // A route that names no issuer takes all of them, but not Postern's own tokens.
    assert_eq!(config.routes[0].issuers.len(), 2);
}

#[test]
fn the_admin_listener_and_the_access_log_can_be_off() {
    let config = parse(&format!("{GOOD}[admin]\nlisten = \"off\"\n[log]\naccess = \"off\"")).unwrap();
    assert_eq!((config.admin.listen, config.log.access), (None, LogPlace::Off));
}

#[test]
fn keycloak_is_read_with_all_that_it_may_have() {
    let status =
        r#"{ keycloak = { client_id = "gateway", client_secret = { env = "CARGO_PKG_NAME" }, end_sessions = true,
bound = "10s", admin_url = "https://admin.example.com/admin/realms/demo/", max_calls_per_second = 7,
end_sessions_client = { client_id = "manager", client_secret = { env = "CARGO_MANIFEST_DIR" } },
backchannel_logout = { clients = ["cli", "web"] } } }
endpoint_origins = ["https://admin.example.com"]
opaque = true"#
            .replace(",\n", ", ");
    let config = parse(&GOOD.replace("\"none\"", &status)).unwrap();
    let keycloak = config.issuers[0].user_status.keycloak().unwrap();
    assert_eq!((keycloak.introspection.bound, keycloak.max_calls_per_second), (Duration::from_secs(10), 7));
    assert_eq!(keycloak.admin_url.as_str(), "https://admin.example.com/admin/realms/demo");
    let manager = keycloak.end_sessions.as_ref().unwrap();
    assert_eq!((manager.client_id.as_str(), manager.client_secret.expose()), ("manager", env!("CARGO_MANIFEST_DIR")));
    assert_eq!(keycloak.backchannel_clients.as_ref().unwrap(), &["cli", "web"]);
    assert!(config.issuers[0].opaque);
}

#[test]
fn sessions_are_ended_by_the_same_client_unless_another_is_named() {
    let status =
        r#"{ keycloak = { client_id = "g", client_secret = { env = "CARGO_PKG_NAME" }, end_sessions = true } }"#;
    let config = parse(&GOOD.replace("\"none\"", status)).unwrap();
    let ends = config.issuers[0].user_status.keycloak().unwrap().end_sessions.as_ref().unwrap();
    assert_eq!((ends.client_id.as_str(), ends.client_secret.expose()), ("g", "postern"));
}

#[test]
fn the_sections_of_operation_are_read() {
    let text = format!(
        r#"{GOOD}
[operator]
listen = "127.0.0.1:9902"
access = {{ issuer = "main", role = "operator", audience = "ops" }}
[log]
audit = {{ file = "audit.log" }}
[limits]
address = {{ rate = 200 }}
failed_authentications = "off"
[state]
path = "/var/lib/postern"
[cluster]
valid_until = "2027-01-01T00:00:00Z"
[token_service.clients.orders]
secret = {{ env = "CARGO_PKG_NAME" }}
audience = "orders"
"#
    );
    let config = parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let access = OperatorAccess::Role { issuer: "main".into(), role: "operator".into(), audience: "ops".into() };
    let operator = Operator { listen: "127.0.0.1:9902".parse().unwrap(), tls: None, access };
    assert_eq!(config.operator, Some(operator));
    assert_eq!(config.log.audit, LogPlace::File("audit.log".into()));
    let address = Some(Rate { rate: 200, per: Duration::from_secs(1), burst: 200 });
    assert_eq!(config.limits, Limits { address, failed_authentications: None });
    assert_eq!(config.state.path, Path::new("/var/lib/postern"));
    let until = config.cluster.valid_until.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(until.as_secs(), 1_798_761_600);
    let [client] = config.token_service.clients.as_slice() else { panic!("{:?}", config.token_service.clients) };
    assert_eq!(
        (client.name.as_str(), client.secret.expose(), client.audience.as_str()),
        ("orders", "postern", "orders")
    );
    assert!(config.has_state());
}

#[test]
fn a_redis_is_read_with_all_that_it_may_have() {
    let text = format!(
        r#"{GOOD}
[redis]
url = "rediss://redis.example.com/2"
username = "gateway"
password = {{ env = "CARGO_PKG_NAME" }}
prefix = "demo"
"#
    );
    let config = parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let expected = Redis {
        place: RedisPlace::Network { host: "redis.example.com".into(), port: 6379, is_tls: true },
        database: 2,
        username: Some("gateway".into()),
        password: Some(Secret::new("postern")),
        ca: None,
        prefix: "demo".into(),
    };
    assert_eq!((config.redis.as_ref(), config.has_state()), (Some(&expected), true));
    let text = format!("{GOOD}[redis]\nurl = \"redis://redis.example.com\"\nclear_text = true\n");
    assert_eq!(parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}")).redis.unwrap().prefix, "postern");
}

#[test]
fn replicas_count_together_where_they_can_and_are_not_told_otherwise() {
    for (rest, limit, expected) in [
        ("", "", false),
        ("", ", shared = false", false),
        ("[redis]\nurl = 'unix:/r.sock'", "", true),
        ("[redis]\nurl = 'unix:/r.sock'", ", shared = true", true),
        ("[redis]\nurl = 'unix:/r.sock'", ", shared = false", false),
    ] {
        let text = format!("{GOOD}limit = {{ user = {{ rate = 1 }}{limit} }}\n{rest}\n");
        let config = parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(config.routes[0].limit.as_ref().unwrap().shared, expected, "{rest} {limit}");
    }
}

#[test]
fn routes_that_differ_in_rank_may_overlap() {
    for route in
        ["path = \"/orders/**\"\nmethods = [\"GET\"]", "path = \"/orders/**\"\nhost = \"a.b\"", "path = \"/orders/*\""]
    {
        let text = format!("{GOOD}[[route]]\nname = \"second\"\nupstream = \"orders\"\n{route}\n");
        parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    }
}

#[test]
fn a_mistake_says_where_it_is() {
    let mistakes = parse(&GOOD.replace("upstream = ", "upstrem = ")).unwrap_err();
    let [mistake] = mistakes.mistakes() else { panic!("{mistakes}") };
    assert_eq!(mistake.message(), "unknown key `upstrem`, did you mean `upstream`?");
    assert_eq!(mistakes.position(mistake), Some((11, 1)));
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_without_a_place() {
    let mistakes = load(Path::new("no/such/gateway.toml")).unwrap_err();
    assert!(mistakes.to_string().contains("cannot read `no/such/gateway.toml`: No such file"), "{mistakes}");
}
