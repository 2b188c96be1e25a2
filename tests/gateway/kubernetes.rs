//! Service accounts of a cluster as callers: issuers of kind `kubernetes`, before an API server that shows its keys to nobody but who
//! shows a token.

use crate::support::{File, Gateway, START, Stage, Upstream, eventually};
use postern::config::Algorithm;
use postern::dev::SigningKey;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Not where the API server is reached.
const ISSUER: &str = "http://kubernetes.localhost";

const ROUTES: &str = "
[[route]]
name = 'any'
path = '/any/**'
upstream = 'up'
headers = { x-auth-user = 'username', x-auth-groups = 'groups', x-auth-namespace = 'namespace' }
[[route]]
name = 'team-a'
path = '/team-a/**'
upstream = 'up'
access = { namespace = 'team-a' }
[[route]]
name = 'group'
path = '/group/**'
upstream = 'up'
access = { any_group = ['system:serviceaccounts:team-b'] }
credential = 'none'
";

struct ApiServer {
    server: Upstream,
    state: Arc<Mutex<State>>,
}

struct State {
    key: Arc<SigningKey>,
    /// The token that it wants to see.
    wanted: String,
    /// What its document says of its keys' origin; without it that of the issuer.
    keys_at: Option<String>,
    forbidden: usize,
}

fn key() -> Arc<SigningKey> {
    Arc::new(SigningKey::generate(Algorithm::Es256).unwrap())
}

impl ApiServer {
    fn start() -> Self {
        let state = State { key: key(), wanted: "first".into(), keys_at: None, forbidden: 0 };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let server = Upstream::serving(move |mut peer| {
            while let Some(seen) = peer.read() {
                let mut state = shared.lock().unwrap();
                let is_allowed = seen.header("authorization") == Some(&format!("Bearer {}", state.wanted));
                state.forbidden += usize::from(!is_allowed);
                let (status, body) = match seen.line.split(' ').nth(1).unwrap_or_default() {
                    _ if !is_allowed => (403, json!({"kind": "Status", "reason": "Forbidden", "code": 403})),
                    "/.well-known/openid-configuration" => {
                        let keys = format!("{}/openid/v1/jwks", state.keys_at.as_deref().unwrap_or(ISSUER));
                        (200, json!({"issuer": ISSUER, "jwks_uri": keys, "response_types_supported": ["id_token"]}))
                    }
                    "/openid/v1/jwks" => (200, json!({"keys": [state.key.jwk()]})),
                    _ => (404, json!({"kind": "Status", "code": 404})),
                };
                drop(state);
                let body = body.to_string();
                peer.send(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
            }
        });
        Self { server, state }
    }

    fn config(&self, stage: &Stage, more: &str) -> String {
        std::fs::write(stage.path("token"), &self.state.lock().unwrap().wanted).unwrap();
        format!(
            "{ROUTES}\n[issuer.cluster]\nkind = 'kubernetes'\nurl = '{ISSUER}'\naddress = 'http://{}'\naudience = 'postern'\n\
             token = {{ file = 'token' }}\nuser_status = 'none'\nkeys = {{ refresh = '1h', max_stale = '30d' }}\n{more}\n",
            self.server.addr()
        )
    }

    fn gateway(&self, stage: &Stage) -> Gateway {
        stage.gateway(File { issuer: "", rest: &self.config(stage, ""), ..File::default() })
    }

    /// A token as TokenRequest makes it for a pod, changed.
    fn token(&self, namespace: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({
            "aud": ["postern"], "exp": START + 3600, "iat": START, "nbf": START, "iss": ISSUER, "jti": "1",
            "sub": format!("system:serviceaccount:{namespace}:builder"),
            "kubernetes.io": {
                "namespace": namespace, "node": {"name": "n", "uid": "n1"}, "pod": {"name": "p", "uid": "p1"},
                "serviceaccount": {"name": "builder", "uid": "u1"},
            },
        });
        change(&mut claims);
        let state = self.state.lock().unwrap();
        // No `typ`.
        let head = json!({"alg": "ES256", "kid": state.key.kid()}).to_string();
        state.key.compact(head.as_bytes(), claims.to_string().as_bytes()).unwrap()
    }
}

#[test]
fn a_service_account_is_a_caller_of_its_namespace() {
    let (stage, cluster) = (Stage::new(), ApiServer::start());
    let gateway = cluster.gateway(&stage);
    assert_eq!(cluster.state.lock().unwrap().forbidden, 0);
    let [a, b] = ["team-a", "team-b"].map(|namespace| cluster.token(namespace, |_| ()));
    gateway.call("/any/1", &a).passed();
    let seen = stage.upstream.last();
    let name = "system:serviceaccount:team-a:builder";
    assert_eq!(seen.header("x-auth-user"), Some(name));
    assert_eq!(seen.header("x-auth-groups"), Some("system:serviceaccounts,system:serviceaccounts:team-a"));
    assert_eq!(seen.header("x-auth-namespace"), Some("team-a"));
    let minted = seen.token();
    assert_eq!(
        (&minted["sub"], &minted["orig_iss"], &minted["namespace"]),
        (&name.into(), &ISSUER.into(), &"team-a".into())
    );
    gateway.call("/team-a/1", &a).passed();
    gateway.call("/team-a/1", &b).refused(403, "namespace_missing");
    gateway.call("/group/1", &b).passed();
    gateway.call("/group/1", &a).refused(403, "group_missing");
}

#[test]
fn a_token_of_another_shape_is_refused_and_says_why() {
    let (stage, cluster) = (Stage::new(), ApiServer::start());
    let gateway = cluster.gateway(&stage);
    let check = |reason: &str, change: &dyn Fn(&mut Value)| {
        gateway.call("/any/1", &cluster.token("team-a", change)).refused(401, reason);
    };
    let remove = |claims: &mut Value, name: &str| drop(claims.as_object_mut().unwrap().remove(name));
    check("wrong_audience", &|claims| claims["aud"] = json!([ISSUER]));
    check("invalid_token", &|claims| remove(claims, "exp"));
    check("invalid_token", &|claims| remove(claims, "kubernetes.io"));
    check("invalid_token", &|claims| claims["sub"] = json!("system:serviceaccount:team-b:builder"));
    check("invalid_token", &|claims| claims["kubernetes.io"]["namespace"] = json!("team-b"));
    check("invalid_token", &|claims| claims["kubernetes.io"]["serviceaccount"]["name"] = json!("default"));
    check("token_expired", &|claims| claims["exp"] = json!(START - 60));
    check("token_not_yet_valid", &|claims| claims["nbf"] = json!(START + 60));
    // As a Secret of type `kubernetes.io/service-account-token` holds it, signed by the same key.
    check("invalid_token", &|claims| {
        *claims = json!({
            "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:team-a:builder",
            "kubernetes.io/serviceaccount/namespace": "team-a",
            "kubernetes.io/serviceaccount/service-account.name": "builder",
        });
    });
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_token_that_was_extended_to_a_year_ends_when_it_was_meant_to() {
    let (stage, cluster) = (Stage::new(), ApiServer::start());
    let gateway = cluster.gateway(&stage);
    let token = cluster.token("team-a", |claims| {
        claims["exp"] = json!(START + 31_536_000);
        claims["kubernetes.io"]["warnafter"] = json!(START + 3607);
    });
    stage.clock.advance(Duration::from_secs(3607));
    gateway.call("/any/1", &token).passed();
    // Leeway is 30 seconds.
    stage.clock.advance(Duration::from_secs(30));
    gateway.call("/any/1", &token).refused(401, "token_expired");
}

#[test]
fn a_token_for_the_keys_that_was_replaced_is_read_anew() {
    let (stage, cluster) = (Stage::new(), ApiServer::start());
    let gateway = cluster.gateway(&stage);
    {
        let mut state = cluster.state.lock().unwrap();
        (state.key, state.wanted) = (key(), "second".into());
    }
    std::fs::write(stage.path("token"), "second\n").unwrap();
    gateway.call("/any/1", &cluster.token("team-a", |_| ())).passed();
    assert_eq!(cluster.state.lock().unwrap().forbidden, 0);
}

#[test]
fn a_cluster_that_lets_nobody_see_its_keys_is_waited_for() {
    let (stage, cluster) = (Stage::new(), ApiServer::start());
    let rest = cluster.config(&stage, "");
    std::fs::write(stage.path("token"), "of somebody else").unwrap();
    let gateway = stage.unready_gateway(File { issuer: "", rest: &rest, ..File::default() });
    eventually("it was asked", || cluster.state.lock().unwrap().forbidden > 0);
    assert!(!gateway.inner.is_ready());
    gateway.call("/any/1", &cluster.token("team-a", |_| ())).refused(503, "keys_unavailable");
    std::fs::write(stage.path("token"), "first").unwrap();
    eventually("the keys are there", || gateway.inner.is_ready());
    gateway.call("/any/1", &cluster.token("team-a", |_| ())).passed();
}

#[test]
fn keys_elsewhere_are_fetched_where_the_operator_says_so_and_the_token_goes_nowhere_else() {
    let (stage, cluster, elsewhere) = (Stage::new(), ApiServer::start(), ApiServer::start());
    let origin = format!("http://{}", elsewhere.server.addr());
    {
        let mut state = cluster.state.lock().unwrap();
        state.keys_at = Some(origin.clone());
        elsewhere.state.lock().unwrap().key = Arc::clone(&state.key);
    }
    let rest = cluster.config(&stage, "");
    let gateway = stage.unready_gateway(File { issuer: "", rest: &rest, ..File::default() });
    eventually("the document was read", || cluster.server.requests() > 0);
    gateway.call("/any/1", &cluster.token("team-a", |_| ())).refused(503, "keys_unavailable");
    assert_eq!(elsewhere.server.requests(), 0);
    let rest = cluster.config(&stage, &format!("endpoint_origins = ['{origin}']"));
    let gateway = stage.gateway(File { issuer: "", rest: &rest, ..File::default() });
    gateway.call("/any/1", &cluster.token("team-a", |_| ())).passed();
}

#[test]
fn a_key_of_the_cluster_verifies_no_token_of_another_issuer() {
    let (stage, cluster) = (Stage::new(), ApiServer::start());
    let rest = cluster.config(&stage, "");
    let gateway = stage.gateway(File { rest: &rest, ..File::default() });
    let url = stage.issuer.url("demo");
    let forged = cluster.token("team-a", |claims| {
        claims["iss"] = json!(url);
        claims["aud"] = json!(["gateway"]);
    });
    gateway.call("/any/1", &forged).refused(401, "invalid_token");
    gateway.call("/any/1", &stage.issuer.token("alice")).passed();
    gateway.call("/any/1", &cluster.token("team-a", |_| ())).passed();
}
