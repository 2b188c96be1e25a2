//! The embedded issuer over real sockets, held against what a Keycloak does.

use super::http_client::{Answer, get, post, request, send, with_token};
use super::*;
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::config::Algorithm;
use http::header::{AUTHORIZATION, HeaderValue};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use std::time::Duration;

const TOKEN: &str = "/realms/demo/protocol/openid-connect/token";
const INTROSPECT: &str = "/realms/demo/protocol/openid-connect/token/introspect";
const CERTS: &str = "/realms/demo/protocol/openid-connect/certs";

fn start() -> (Issuer, Clock) {
    let clock = Clock::manual(1_800_000_000);
    (Issuer::start("127.0.0.1:0".parse().unwrap(), clock.clone()).unwrap(), clock)
}

async fn form(issuer: &Issuer, path: &str, form: &[(&str, &str)]) -> Answer {
    send(issuer.addr(), post(path, form)).await.unwrap()
}

async fn sign_in(issuer: &Issuer, username: &str, password: &str) -> Answer {
    let body = [
        ("grant_type", "password"),
        ("client_id", "cli"),
        ("username", username),
        ("password", password),
        ("scope", "openid"),
    ];
    form(issuer, TOKEN, &body).await
}

async fn introspect(issuer: &Issuer, token: &str) -> Value {
    let body = [("client_id", "gateway"), ("client_secret", "gateway-secret"), ("token", token)];
    form(issuer, INTROSPECT, &body).await.json()
}

async fn control(issuer: &Issuer, method: &str, target: &str, body: &str) -> Answer {
    send(issuer.addr(), request(method, target, body.to_owned().into())).await.unwrap()
}

fn claims(token: &Value) -> Claims {
    decode(token.as_str().unwrap()).unwrap().1
}

#[track_caller]
fn check_error(answer: &Answer, status: u16, error: &str, description: &str) {
    let expected = json!({ "error": error, "error_description": description });
    assert_eq!((answer.status.as_u16(), answer.json()), (status, expected));
}

#[tokio::test]
async fn the_password_grant_gives_tokens_shaped_like_those_of_keycloak() {
    let (issuer, _) = start();
    let answer = sign_in(&issuer, "alice", "alice-pw").await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let body = answer.json();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(3600)));
    let (header, access) = decode(body["access_token"].as_str().unwrap()).unwrap();
    assert_eq!((&header["alg"], &header["typ"]), (&json!("RS256"), &json!("JWT")));
    let alice = issuer.demo().user("alice").unwrap();
    let expected = json!({
        "iss": issuer.url("demo"), "sub": alice.id, "aud": ["gateway", "account"], "typ": "Bearer", "azp": "cli",
        "iat": 1_800_000_000, "exp": 1_800_003_600, "acr": "1", "scope": "openid profile email",
        "realm_access": { "roles": ["reader", "writer", "admin"] }, "groups": ["/team-a"], "namespace": "team-a",
        "resource_access": { "account": { "roles": ["view-profile"] } }, "preferred_username": "alice",
        "email": "alice@example.com", "email_verified": true, "sid": access["sid"], "jti": access["jti"],
    });
    assert_eq!(Value::Object(access), expected);
    let id = claims(&body["id_token"]);
    assert_eq!((&id["typ"], &id["aud"]), (&json!("ID"), &json!("cli")));
    let (header, refresh) = decode(body["refresh_token"].as_str().unwrap()).unwrap();
    assert_eq!((&header["alg"], &refresh["typ"]), (&json!("HS512"), &json!("Refresh")));
}

#[tokio::test]
async fn the_password_grant_refuses_with_the_words_of_keycloak() {
    let (issuer, _) = start();
    for (user, password) in [("alice", "wrong"), ("nobody", "x"), ("service-account-gateway", "")] {
        check_error(&sign_in(&issuer, user, password).await, 400, "invalid_grant", "Invalid user credentials");
    }
    check_error(&sign_in(&issuer, "dave", "dave-pw").await, 400, "invalid_grant", "Account disabled");
    let no_client = form(&issuer, TOKEN, &[("grant_type", "password"), ("client_id", "nobody")]).await;
    check_error(&no_client, 401, "invalid_client", "Invalid client or Invalid client credentials");
    let no_grant = form(&issuer, TOKEN, &[("client_id", "cli")]).await;
    check_error(&no_grant, 400, "invalid_request", "Missing form parameter: grant_type");
    let odd = form(&issuer, TOKEN, &[("client_id", "cli"), ("grant_type", "odd")]).await;
    check_error(&odd, 400, "unsupported_grant_type", "Unsupported grant_type");
    assert_eq!(send(issuer.addr(), get(TOKEN)).await.unwrap().status, 405);
}

#[tokio::test]
async fn a_user_without_an_email_address_has_no_email_claim() {
    let (issuer, _) = start();
    let carol = claims(&sign_in(&issuer, "carol", "carol-pw").await.json()["access_token"]);
    assert_eq!((carol.get("email"), &carol["email_verified"]), (None, &json!(false)));
}

#[tokio::test]
async fn a_refresh_token_gives_new_tokens_of_the_same_session_until_the_user_is_disabled_or_logged_out() {
    let (issuer, clock) = start();
    let first = sign_in(&issuer, "alice", "alice-pw").await.json();
    let token = first["refresh_token"].as_str().unwrap();
    let refresh = async |token| {
        form(&issuer, TOKEN, &[("grant_type", "refresh_token"), ("client_id", "cli"), ("refresh_token", token)]).await
    };
    clock.advance(Duration::from_secs(60));
    let second = refresh(token).await.json();
    let (old, new) = (claims(&first["access_token"]), claims(&second["access_token"]));
    assert_eq!((&old["sid"], &new["iat"]), (&new["sid"], &json!(1_800_000_060)));
    assert_ne!(old["jti"], new["jti"]);

    issuer.demo().set_enabled("alice", false);
    check_error(&refresh(token).await, 400, "invalid_grant", "User disabled");
    issuer.demo().set_enabled("alice", true);
    assert_eq!(refresh(token).await.status, 200);
    check_error(&refresh("no.token.x").await, 400, "invalid_grant", "Invalid refresh token");

    let logout = [("client_id", "cli"), ("refresh_token", token)];
    let answer = form(&issuer, "/realms/demo/protocol/openid-connect/logout", &logout).await;
    assert_eq!(answer.status, 204);
    check_error(&refresh(token).await, 400, "invalid_grant", "Session not active");
    assert_eq!(introspect(&issuer, first["access_token"].as_str().unwrap()).await, json!({ "active": false }));
}

#[tokio::test]
async fn a_confidential_client_gets_a_token_of_its_service_account() {
    let (issuer, _) = start();
    let grant = ("grant_type", "client_credentials");
    let with = |secret| [grant, ("client_id", "gateway"), ("client_secret", secret)];
    let body = form(&issuer, TOKEN, &with("gateway-secret")).await.json();
    let claims = claims(&body["access_token"]);
    assert_eq!(claims["preferred_username"], json!("service-account-gateway"));
    assert_eq!((claims.get("sid"), body.get("refresh_token")), (None, None));
    assert_eq!(introspect(&issuer, body["access_token"].as_str().unwrap()).await["active"], json!(true));
    assert_eq!(form(&issuer, TOKEN, &with("wrong")).await.status, 401);
    assert_eq!(form(&issuer, TOKEN, &[grant, ("client_id", "cli")]).await.json()["error"], "unauthorized_client");
}

#[tokio::test]
async fn introspection_tells_what_the_user_is_now() {
    let (issuer, _) = start();
    let token = issuer.token("alice");
    let told = introspect(&issuer, &token).await;
    let named = ["active", "client_id", "username", "token_type", "namespace"].map(|name| told[name].clone());
    assert_eq!(named, [json!(true), json!("cli"), json!("alice"), json!("Bearer"), json!("team-a")]);

    let change = r#"{ "roles": ["reader"], "namespace": "", "email": "a@b.c" }"#;
    assert_eq!(control(&issuer, "PUT", "/dev/users/alice", change).await.status, 200);
    let told = introspect(&issuer, &token).await;
    assert_eq!(told["realm_access"]["roles"], json!(["reader"]));
    assert_eq!((told.get("namespace"), &told["email"]), (None, &json!("a@b.c")));
}

#[tokio::test]
async fn a_token_that_is_good_no_more_introspects_as_inactive() {
    let (issuer, clock) = start();
    let demo = issuer.demo();
    let inactive = json!({ "active": false });
    let token = issuer.token("alice");
    demo.set_enabled("alice", false);
    assert_eq!(introspect(&issuer, &token).await, inactive);
    demo.set_enabled("alice", true);
    assert_eq!(introspect(&issuer, &token).await["active"], json!(true));
    demo.end_sessions("alice");
    assert_eq!(introspect(&issuer, &token).await, inactive, "logged out");

    let expired = issuer.issue(&TokenSpec::user("alice").lifetime(10));
    assert_eq!(introspect(&issuer, &expired).await["active"], json!(true));
    clock.advance(Duration::from_secs(10));
    assert_eq!(introspect(&issuer, &expired).await, inactive, "expired");

    let foreign = SigningKey::generate(Algorithm::Rs256).unwrap();
    let forged = TokenSpec::user("alice").header("kid", demo.signing_key(Algorithm::Rs256).kid());
    let forged = forged.signed_by(Signer::Key(foreign.into()));
    assert_eq!(introspect(&issuer, &issuer.issue(&forged)).await, inactive, "forged");
    let other_audience = issuer.issue(&TokenSpec::user("alice").claim("aud", "other"));
    assert_eq!(introspect(&issuer, &other_audience).await, inactive, "not meant for the client that asks");
    assert_eq!(introspect(&issuer, &issuer.token("nobody")).await, inactive, "unknown user");
    assert_eq!(introspect(&issuer, "nonsense").await, inactive);
    let bob = issuer.token("bob");
    assert!(demo.delete_user("bob"));
    assert_eq!(introspect(&issuer, &bob).await, inactive, "deleted");
}

#[tokio::test]
async fn introspection_wants_the_secret_of_a_confidential_client() {
    let (issuer, _) = start();
    let token = issuer.token("alice");
    let public = form(&issuer, INTROSPECT, &[("client_id", "cli"), ("token", &token)]).await;
    assert_eq!((public.status.as_u16(), &public.json()["error"]), (401, &json!("invalid_client")));

    issuer.demo().add_client(Client::confidential("gateway", Secret::new("s/ce t%")));
    let basic = async |credentials: &str| {
        let mut request = post(INTROSPECT, &[("token", &token)]);
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::try_from(credentials).unwrap());
        send(issuer.addr(), request).await.unwrap()
    };
    // `gateway:s%2Fce+t%25` and `gateway:wrong`
    assert_eq!(basic("Basic Z2F0ZXdheTpzJTJGY2UrdCUyNQ==").await.json()["active"], json!(true));
    let wrong = basic("Basic Z2F0ZXdheTp3cm9uZw==").await;
    check_error(&wrong, 401, "invalid_client", "Invalid client or Invalid client credentials");
}

#[tokio::test]
async fn a_lightweight_token_says_nothing_and_introspection_says_it_all() {
    let (issuer, _) = start();
    let token = issuer.issue(&TokenSpec::user("alice").client("cli-light"));
    let (_, said) = decode(&token).unwrap();
    assert_eq!(said.keys().collect::<Vec<_>>(), ["azp", "exp", "iat", "iss", "jti", "scope", "sid", "typ"]);
    let told = introspect(&issuer, &token).await;
    assert_eq!((&told["username"], &told["aud"]), (&json!("alice"), &json!(["gateway", "account"])));
    assert_eq!(told["sub"], json!(issuer.demo().user("alice").unwrap().id));
}

#[tokio::test]
async fn tokens_of_every_algorithm_verify_against_the_served_key_set() {
    let (issuer, _) = start();
    for algorithm in Algorithm::ALL {
        let client = format!("cli-{}", algorithm.name().to_ascii_lowercase());
        let token = issuer.issue(&TokenSpec::user("alice").client(&client).claim("exp", 4_102_444_800_i64));
        let (header, _) = decode(&token).unwrap();
        assert_eq!(header["alg"], algorithm.name());
        let set = send(issuer.addr(), get(CERTS)).await.unwrap().json();
        let entry = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
        assert_eq!((&entry["alg"], &entry["use"]), (&json!(algorithm.name()), &json!("sig")));
        assert_eq!(introspect(&issuer, &token).await["active"], json!(true), "{algorithm:?}");
        // The reference library does not know P-521.
        if algorithm != Algorithm::Es512 {
            verify(entry, &token, algorithm).unwrap();
        }
    }
}

fn verify(entry: &Value, token: &str, algorithm: Algorithm) -> jsonwebtoken::errors::Result<Value> {
    let jwk = serde_json::from_value(entry.clone()).unwrap();
    let mut rules = Validation::new(algorithm.name().parse().unwrap());
    rules.set_audience(&["gateway"]);
    Ok(jsonwebtoken::decode(token, &DecodingKey::from_jwk(&jwk)?, &rules)?.claims)
}

#[tokio::test]
async fn the_discovery_document_names_endpoints_that_answer() {
    let (issuer, _) = start();
    let answer = send(issuer.addr(), get("/realms/demo/.well-known/openid-configuration")).await.unwrap();
    assert_eq!(answer.headers["cache-control"], "no-cache");
    let document = answer.json();
    assert_eq!(document["issuer"], issuer.url("demo"));
    let path = |name: &str| document[name].as_str().unwrap().parse::<http::Uri>().unwrap().path().to_owned();
    let keys: JwkSet =
        serde_json::from_value(send(issuer.addr(), get(&path("jwks_uri"))).await.unwrap().json()).unwrap();
    let uses: Vec<_> = keys.keys.iter().map(|key| key.common.public_key_use.clone().unwrap()).collect();
    assert_eq!(format!("{uses:?}"), "[Encryption, Signature]");
    for (name, status) in [("token_endpoint", 401), ("introspection_endpoint", 401), ("end_session_endpoint", 401)] {
        assert_eq!(form(&issuer, &path(name), &[]).await.status.as_u16(), status, "{name}");
    }
    assert_eq!(send(issuer.addr(), get("/realms/none/protocol/openid-connect/certs")).await.unwrap().status, 404);
}

#[tokio::test]
async fn userinfo_wants_the_scope_openid() {
    let (issuer, _) = start();
    let path = "/realms/demo/protocol/openid-connect/userinfo";
    let ask = async |token: &str| send(issuer.addr(), with_token(get(path), token)).await.unwrap();
    let told = ask(&issuer.issue(&TokenSpec::user("alice").scope("openid"))).await.json();
    assert_eq!((&told["preferred_username"], told.get("realm_access")), (&json!("alice"), None));
    assert_eq!(ask(&issuer.token("alice")).await.status, 403);
    assert_eq!(ask("nonsense").await.status, 401);
}

#[tokio::test]
async fn rotation_signs_with_a_new_key_and_keeps_or_drops_the_old_one() {
    let (issuer, _) = start();
    let kid = |token: &str| decode(token).unwrap().0["kid"].clone();
    let is_published = async |kid: &Value| {
        let set = send(issuer.addr(), get(CERTS)).await.unwrap().json();
        set["keys"].as_array().unwrap().iter().any(|key| key["kid"] == *kid)
    };
    let first = issuer.token("alice");
    let answer = control(&issuer, "POST", "/dev/keys/rotate?old=keep", "").await;
    let second = issuer.token("alice");
    assert_eq!(answer.json()["signing_keys"], json!([kid(&second), kid(&first)]));
    assert!(is_published(&kid(&first)).await);
    assert_eq!(introspect(&issuer, &first).await["active"], json!(true));

    issuer.demo().rotate_keys(OldKeys::Drop).unwrap();
    assert!(!is_published(&kid(&first)).await && !is_published(&kid(&second)).await);
    assert_eq!(introspect(&issuer, &second).await, json!({ "active": false }));
    assert_eq!(introspect(&issuer, &issuer.token("alice")).await["active"], json!(true));
}

#[tokio::test]
async fn a_token_made_to_measure_says_what_it_was_told_to() {
    let (issuer, _) = start();
    let spec = TokenSpec::user("alice").claim("aud", json!(["x"])).without_claim("sub").header("typ", "at+jwt");
    let (header, said) = decode(&issuer.issue(&spec.issued_ago(100).lifetime(40).without_header("kid"))).unwrap();
    assert_eq!((header.get("kid"), &header["typ"]), (None, &json!("at+jwt")));
    assert_eq!((said.get("sub"), &said["aud"]), (None, &json!(["x"])));
    assert_eq!((&said["iat"], &said["exp"]), (&json!(1_799_999_900), &json!(1_799_999_940)));

    let unsigned = issuer.issue(&TokenSpec::user("alice").header("alg", "none").signed_by(Signer::Bytes(Vec::new())));
    assert!(unsigned.ends_with('.'));
    let logout = decode(&issuer.issue(&TokenSpec::user("alice").kind(TokenKind::Logout))).unwrap();
    assert_eq!((&logout.0["typ"], &logout.1["typ"]), (&json!("logout+jwt"), &json!("Logout")));
    let at_jwt = decode(&issuer.issue(&TokenSpec::user("alice").client("cli-at-jwt"))).unwrap();
    assert_eq!(at_jwt.0["typ"], "at+jwt");
}

#[tokio::test]
async fn realms_are_separate() {
    let (issuer, _) = start();
    let other = issuer.realm("other").unwrap();
    let token = other.issue(&TokenSpec::user("alice"));
    assert_eq!(decode(&token).unwrap().1["iss"], issuer.url("other"));
    assert_eq!(introspect(&issuer, &token).await, json!({ "active": false }));
    assert_ne!(other.key_set(), issuer.demo().key_set());
    assert_eq!(control(&issuer, "POST", "/dev/users/alice/disable?realm=other", "").await.status, 200);
    assert!(issuer.demo().user("alice").unwrap().enabled && !other.user("alice").unwrap().enabled);
}

#[tokio::test]
async fn an_endpoint_can_fall_ill_and_is_counted_all_the_same() {
    let (issuer, _) = start();
    let ill = async |mode: &str| control(&issuer, "POST", &format!("/dev/illness/keys?mode={mode}"), "").await.status;
    assert_eq!(ill("500").await, 200);
    assert_eq!(send(issuer.addr(), get(CERTS)).await.unwrap().status, 500);
    ill("garbage").await;
    let garbage = send(issuer.addr(), get(CERTS)).await.unwrap();
    assert_eq!((garbage.status.as_u16(), garbage.json()), (200, Value::Null));
    ill("refuse").await;
    assert!(send(issuer.addr(), get(CERTS)).await.is_err());
    ill("none").await;
    assert_eq!(send(issuer.addr(), get(CERTS)).await.unwrap().status, 200);
    assert_eq!(ill("odd").await, 400);
    assert_eq!(issuer.demo().counters(), Counters { keys: 4, ..Counters::default() });
    assert_eq!(control(&issuer, "GET", "/dev/counters", "").await.json()["keys"], 4);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_never_answers() {
    let (issuer, _) = start();
    issuer.demo().set_illness(Endpoint::Keys, Some(Illness::Hang));
    let answer = send(issuer.addr(), get(CERTS)).await;
    assert!(answer.unwrap_err().to_string().ends_with("does not answer"));
}

#[tokio::test]
async fn users_are_made_changed_and_deleted_by_the_control_interface() {
    let (issuer, _) = start();
    let erin = r#"{ "password": "secret", "roles": ["auditor"], "groups": ["/x"], "namespace": "team-e" }"#;
    assert_eq!(control(&issuer, "PUT", "/dev/users/erin", erin).await.status, 200);
    let token = claims(&sign_in(&issuer, "erin", "secret").await.json()["access_token"]);
    assert_eq!((&token["realm_access"]["roles"], &token["namespace"]), (&json!(["auditor"]), &json!("team-e")));
    let list = control(&issuer, "GET", "/dev/users", "").await.json().to_string();
    assert!(list.contains("erin") && !list.contains("secret"), "{list}");
    assert_eq!(control(&issuer, "POST", "/dev/users/erin/disable", "").await.json()["enabled"], json!(false));
    check_error(&sign_in(&issuer, "erin", "secret").await, 400, "invalid_grant", "Account disabled");
    assert_eq!(control(&issuer, "DELETE", "/dev/users/erin", "").await.status, 200);
    assert_eq!(control(&issuer, "POST", "/dev/users/erin/enable", "").await.status, 404);
    assert_eq!(control(&issuer, "PUT", "/dev/users/erin", r#"{ "rolez": [] }"#).await.status, 400);
    assert_eq!(control(&issuer, "POST", "/dev/token-lifetime?seconds=7", "").await.status, 200);
    assert_eq!(sign_in(&issuer, "bob", "bob-pw").await.json()["expires_in"], 7);
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_steer_the_issuer() {
    let (issuer, _) = start();
    for (name, value) in [("origin", "https://evil.example"), ("host", "rebound.example:80")] {
        let mut request = request("POST", "/dev/users/alice/disable", "".into());
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        assert_eq!(send(issuer.addr(), request).await.unwrap().status, 403, "{name}");
    }
    assert!(issuer.demo().user("alice").unwrap().enabled);
}

#[tokio::test]
async fn an_issuer_that_was_stopped_goes_on_where_it_was() {
    let (issuer, _) = start();
    let token = issuer.token("alice");
    issuer.stop();
    assert!(send(issuer.addr(), get(CERTS)).await.is_err());
    issuer.restart().unwrap();
    assert_eq!(introspect(&issuer, &token).await["active"], json!(true));
    let addr = issuer.addr();
    drop(issuer);
    assert!(send(addr, get(CERTS)).await.is_err());
}
