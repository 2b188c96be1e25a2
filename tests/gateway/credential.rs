//! What an upstream is given: tokens that it can verify with nothing but what the gateway publishes, or something else.

use crate::support::{File, Gateway, START, Stage, Upstream, introspection};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use postern::dev::{TokenSpec, User, UserChange};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

const ROUTES: &str = "
[[route]]
path = '/own/**'
upstream = 'up'
headers = { x-namespace = 'namespace' }
[[route]]
path = '/target/**'
upstream = 'up'
access = { any_role = ['admin'] }
headers = { x-namespace = 'namespace' }
credential = { namespace-token = { target = 'sales', audience = 'sales-api', roles = ['sales-*', 'reader'], groups = ['*'] } }
[[route]]
path = '/pass/**'
upstream = 'up'
credential = 'pass'
[[route]]
path = '/none/**'
upstream = 'up'
credential = 'none'
[[route]]
path = '/secret/**'
upstream = 'up'
credential = { secret = { value = { file = 'secret' }, prefix = 'Key ' } }
";

fn start(issuer: &str, tokens: &str) -> (Stage, Gateway) {
    let stage = Stage::new();
    std::fs::write(stage.path("secret"), "s3cret\n").unwrap();
    let gateway = stage.gateway(File { issuer, tokens, rest: ROUTES, ..File::default() });
    (stage, gateway)
}

const NO_STATUS: &str = "user_status = 'none'";

/// What a receiver reads in a token, after it verified it as a receiver does who knows the issuer's URL alone.
#[track_caller]
fn verified(gateway: &Gateway, token: &str, audience: &str) -> Value {
    let discovery = gateway.get("/.well-known/openid-configuration", &[]).json();
    assert_eq!(discovery["issuer"], "https://postern.example");
    let path = discovery["jwks_uri"].as_str().unwrap().strip_prefix("https://postern.example").unwrap();
    let keys: JwkSet = serde_json::from_value(gateway.get(path, &[]).json()).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let key = keys.find(header.kid.as_deref().expect("a kid")).expect("the key is published");
    let mut rules = Validation::new(header.alg);
    rules.set_audience(&[audience]);
    rules.set_issuer(&["https://postern.example"]);
    rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    // The library reads the machine's clock; the test has its own.
    rules.validate_exp = false;
    jsonwebtoken::decode(token, &DecodingKey::from_jwk(key).unwrap(), &rules).unwrap().claims
}

/// What the upstream verifies of a request by this token.
#[track_caller]
fn minted(stage: &Stage, gateway: &Gateway, path: &str, token: &str, audience: &str) -> Value {
    gateway.call(path, token).passed();
    verified(gateway, stage.upstream.last().bearer(), audience)
}

#[test]
fn a_namespace_token_says_who_is_calling_and_for_which_namespace() {
    let (stage, gateway) = start(NO_STATUS, "");
    let mut claims = minted(&stage, &gateway, "/own/x", &stage.issuer.token("alice"), "up");
    let jti = claims.as_object_mut().unwrap().remove("jti").unwrap();
    assert!(jti.as_str().unwrap().len() >= 16);
    let alice = stage.issuer.demo().user("alice").unwrap();
    assert_eq!(
        claims,
        json!({
            "iss": "https://postern.example", "aud": "up", "sub": alice.id, "orig_iss": stage.issuer.url("demo"),
            "namespace": "team-a", "namespace_kind": "own", "email": "alice@example.com",
            "preferred_username": "alice", "azp": "cli",
            "iat": START - 10, "nbf": START - 10, "exp": START - 10 + 1800,
        })
    );
    assert_eq!(stage.upstream.last().header("x-namespace"), Some("team-a"));
    let carol = minted(&stage, &gateway, "/own/x", &stage.issuer.token("carol"), "up");
    assert_eq!((&carol["email"], &carol["namespace"]), (&json!(""), &json!("team-c")));
}

#[test]
fn a_target_namespace_and_chosen_roles_are_those_of_the_route() {
    let (stage, gateway) = start(NO_STATUS, "");
    let roles = json!({ "roles": ["admin", "sales-nl", "reader", "sales", "writer"] });
    let token = stage.issuer.issue(&TokenSpec::user("alice").claim("realm_access", roles));
    let claims = minted(&stage, &gateway, "/target/x", &token, "sales-api");
    assert_eq!((&claims["namespace"], &claims["namespace_kind"]), (&json!("sales"), &json!("target")));
    assert_eq!((&claims["roles"], &claims["groups"]), (&json!(["sales-nl", "reader"]), &json!(["/team-a"])));
    assert_eq!(stage.upstream.last().header("x-namespace"), Some("sales"));
    let own = minted(&stage, &gateway, "/own/x", &token, "up");
    assert_eq!((own.get("roles"), own.get("groups"), &own["namespace"]), (None, None, &json!("team-a")));
    gateway.call("/target/x", &stage.issuer.token("bob")).refused(403, "role_missing");
}

#[test]
fn each_upstream_gets_tokens_for_itself_alone() {
    let (stage, second) = (Stage::new(), Upstream::start());
    let rest = format!(
        "[upstream.second]\nto = 'http://{}'\naudience = 'orders'\n[[route]]\npath = '/first'\nupstream = 'up'\n\
         [[route]]\npath = '/second'\nupstream = 'second'\n",
        second.addr()
    );
    let gateway = stage.gateway(File { rest: &rest, ..File::default() });
    let token = stage.issuer.token("alice");
    for _ in 0..2 {
        let first = minted(&stage, &gateway, "/first", &token, "up");
        gateway.call("/second", &token).passed();
        let other = verified(&gateway, second.last().bearer(), "orders");
        assert_eq!((&first["aud"], &other["aud"]), (&json!("up"), &json!("orders")));
    }
    // What an upstream was given opens nothing here.
    gateway.call("/second", stage.upstream.last().bearer()).refused(401, "wrong_audience");
}

#[test]
fn tokens_of_every_algorithm_verify_and_keys_survive_a_restart() {
    for algorithm in ["ES256", "RS256", "EdDSA"] {
        let tokens = format!("algorithm = '{algorithm}'");
        let (stage, gateway) = start(NO_STATUS, &tokens);
        let token = stage.issuer.token("alice");
        minted(&stage, &gateway, "/own/x", &token, "up");
        let before = stage.upstream.last().bearer().to_owned();
        assert_eq!(postern::dev::decode(&before).unwrap().0["alg"], json!(algorithm));
        drop(gateway);
        let gateway = stage.gateway(File { tokens: &tokens, rest: ROUTES, ..File::default() });
        verified(&gateway, &before, "up");
    }
}

#[test]
fn a_user_without_a_namespace_is_refused_only_where_one_is_needed() {
    let (stage, gateway) = start(NO_STATUS, "");
    for namespace in [
        None,
        Some(json!("")),
        Some(json!("Team A")),
        Some(json!("../etc")),
        Some(json!("-a")),
        Some(json!(["team-a"])),
    ] {
        let spec = match &namespace {
            None => TokenSpec::user("alice").without_claim("namespace"),
            Some(value) => TokenSpec::user("alice").claim("namespace", value.clone()),
        };
        let token = stage.issuer.issue(&spec);
        let before = stage.upstream.requests();
        gateway.call("/own/x", &token).refused(403, "namespace_missing");
        assert_eq!(stage.upstream.requests(), before, "{namespace:?}");
        for path in ["/none/x", "/pass/x", "/secret/x"] {
            gateway.call(path, &token).passed();
        }
        assert_eq!(minted(&stage, &gateway, "/target/x", &token, "sales-api")["namespace"], "sales");
    }
}

#[test]
fn other_credentials_are_what_the_route_says() {
    let (stage, gateway) = start(NO_STATUS, "");
    let token = stage.issuer.token("alice");
    gateway.call("/pass/x", &token).passed();
    assert_eq!(stage.upstream.last().bearer(), token);
    gateway.call("/secret/x", &token).passed();
    assert_eq!(stage.upstream.last().all("authorization").collect::<Vec<_>>(), ["Key s3cret"]);
    gateway.call("/none/x", &token).passed();
    assert_eq!(stage.upstream.last().header("authorization"), None);
}

#[test]
fn at_least_ten_minutes_and_at_most_thirty_are_left_whenever_a_token_is_handed_out() {
    for (lifetime, least) in [("30m", 5), ("20m", 9)] {
        let (stage, gateway) = start(NO_STATUS, &format!("lifetime = '{lifetime}'"));
        let token = stage.issuer.issue(&TokenSpec::user("alice").lifetime(86_400));
        let mut client = gateway.connect();
        let mut seen = HashSet::new();
        let mut now = START;
        for _ in 0..180 {
            client.get("/own/x", &[&crate::support::bearer(&token)]).passed();
            let claims = stage.upstream.last().token();
            let left = claims["exp"].as_u64().unwrap() - now;
            assert!((600..=1800).contains(&left), "{left} s left");
            seen.insert(claims["jti"].to_string());
            stage.clock.advance(Duration::from_secs(40));
            now += 40;
        }
        // Two hours: each token serves until little more than ten minutes are left of it.
        assert!((least..=20).contains(&seen.len()), "{} tokens of {lifetime}", seen.len());
    }
}

#[test]
fn a_changed_user_gets_a_new_token_within_the_bound_and_an_unchanged_one_does_not() {
    let (stage, gateway) = start(&introspection(""), "");
    let token = stage.issuer.token("alice");
    let now = |path, audience| {
        stage.clock.advance(Duration::from_secs(30));
        minted(&stage, &gateway, path, &token, audience)
    };
    let change = |change: UserChange| assert!(stage.issuer.demo().change_user("alice", change));
    let first = now("/own/x", "up");
    assert_eq!(now("/own/x", "up")["jti"], first["jti"]);
    change(UserChange { email: Some("new@example.com".into()), ..UserChange::default() });
    let second = now("/own/x", "up");
    assert_eq!(second["email"], "new@example.com");
    assert_ne!(second["jti"], first["jti"]);
    change(UserChange { namespace: Some("team-z".into()), ..UserChange::default() });
    assert_eq!(now("/own/x", "up")["namespace"], "team-z");
    assert_eq!(now("/target/x", "sales-api")["roles"], json!(["reader"]));
    change(UserChange { roles: Some(vec!["admin".into(), "sales-nl".into()]), ..UserChange::default() });
    assert_eq!(now("/target/x", "sales-api")["roles"], json!(["sales-nl"]));
    change(UserChange { email: Some(String::new()), ..UserChange::default() });
    assert_eq!(now("/own/x", "up")["email"], "");
}

#[test]
fn whoever_a_token_is_for_its_identity_is_not_anothers() {
    let (stage, gateway) = start(NO_STATUS, "");
    let other = stage.issuer.realm("other").unwrap();
    let issuer =
        format!("[issuer.second]\nurl = '{}'\naudience = 'gateway'\nuser_status = 'none'\n{ROUTES}", other.url());
    drop(gateway);
    let gateway = stage.gateway(File { rest: &issuer, ..File::default() });
    // The same `sub` of two issuers is two users.
    let namesake = stage.issuer.demo().user("alice").unwrap();
    other.add_user(User { namespace: Some("team-o".into()), email: None, ..namesake.clone() });
    let tokens = [stage.issuer.token("alice"), other.issue(&TokenSpec::user("alice")), stage.issuer.token("bob")];
    for _ in 0..2 {
        let said = tokens.each_ref().map(|token| minted(&stage, &gateway, "/own/x", token, "up"));
        assert_eq!(said.each_ref().map(|said| &said["namespace"]), ["team-a", "team-o", "team-b"]);
        assert_eq!([&said[0]["sub"], &said[1]["sub"]], [&json!(namesake.id); 2]);
        assert_eq!(
            [&said[0]["orig_iss"], &said[1]["orig_iss"]],
            [&json!(stage.issuer.url("demo")), &json!(other.url())]
        );
    }
}

#[test]
fn what_is_published_holds_public_keys_alone() {
    let (_stage, gateway) = start(NO_STATUS, "");
    for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
        let answer = gateway.get(path, &[]);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{path}");
        assert_eq!(answer.json()["jwks_uri"], "https://postern.example/.well-known/jwks.json");
    }
    let set = gateway.get("/.well-known/jwks.json", &["authorization: Bearer nonsense"]).json();
    let keys = set["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    let members: Vec<_> = keys[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    let mut client = gateway.connect();
    client.send("POST /.well-known/jwks.json HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    client.read().refused(404, "no_route");
}
