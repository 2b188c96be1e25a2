//! The endpoints of one configuration, called as a worker calls them.

mod introspect;
mod logout;
mod pod;
mod token;

use super::client::tests::header;
use super::*;
use crate::base::clock::Clock;
use crate::config::{self, Algorithm, NamespaceToken};
use crate::dev::SigningKey;
use crate::identity::status::Assumed;
use crate::issuer::Issuer;
use crate::telemetry::metrics::Metrics;
use crate::token_service::{CredentialCache, Grant, NamespaceKind};
use crate::users::{Act, IssuerCause, IssuerTime, Lift, Proof, State, UserId};
use serde_json::{Value, json};
use std::path::Path;

pub(super) const START: u64 = 1_800_000_000;
pub(super) const URL: &str = "http://127.0.0.1:1/realms/demo";

const CONFIG: &str = "version = 1
dev = true
[token_service]
issuer = 'https://postern.example'
[token_service.clients]
orders = { secret = 's3cret', audience = 'orders' }
audit = { secret = 'other', audience = 'orders' }
billing = { secret = 's3cret', audience = 'billing' }
[issuer.main]
url = 'http://127.0.0.1:1/realms/demo'
audience = 'gateway'
user_status = { keycloak = { client_id = 'gateway', client_secret = 'x', backchannel_logout = { clients = ['cli'] } } }
[issuer.other]
url = 'http://127.0.0.1:1/realms/other'
audience = 'gateway'
user_status = 'none'
[issuer.cluster]
kind = 'kubernetes'
url = 'http://127.0.0.1:1'
audience = 'gateway'
user_status = 'none'
user_tokens = ['builder', 'ci-*', 'postern-*']
[delivery]
issuer = 'main'
[upstream.orders]
to = 'http://127.0.0.1:2'
[upstream.billing]
to = 'http://127.0.0.1:2'
[[route]]
path = '/**'
upstream = 'orders'
";

pub(super) fn config() -> Config {
    config::parse(CONFIG, Path::new("postern.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

impl<'a> Head<'a> {
    /// One without anything odd, from this machine.
    pub(super) fn of(
        method: &'a Method,
        authorization: &'a Authorization,
        content_type: Option<&'a HeaderValue>,
    ) -> Self {
        let client = IpAddr::from([127, 0, 0, 1]);
        Self { method, has_query: false, has_origin: false, authorization, content_type, client }
    }
}

/// Everything but sockets.
pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) users: Arc<Users>,
    pub(super) feed: Arc<Feed>,
    pub(super) service: Arc<TokenService>,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) links: Arc<Links>,
    /// The issuer's.
    key: SigningKey,
}

impl Stage {
    pub(super) fn new() -> Self {
        let clock = Clock::manual(START);
        let (users, counts) = (Users::in_memory(clock.clone()), Counts::new(&Metrics::new()));
        let feed = Feed::in_memory(Arc::clone(&users), Arc::clone(&counts), clock.clone()).unwrap();
        Self::with(clock, users, feed, counts)
    }

    pub(super) fn with(clock: Clock, users: Arc<Users>, feed: Arc<Feed>, counts: Arc<Counts>) -> Self {
        let config = config();
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let jwks = json!({ "keys": [key.jwk()] }).to_string();
        let offline =
            |issuer: &Arc<config::Issuer>| Arc::new(Issuer::offline(Arc::clone(issuer), clock.clone(), &jwks).unwrap());
        let issuers = config.issuers.iter().map(offline).collect();
        let service = Arc::new(TokenService::ephemeral(config.token_service.clone(), clock.clone()).unwrap());
        let links = Arc::new(Links::default());
        let shared = Shared {
            users: Arc::clone(&users),
            links: Arc::clone(&links),
            clock: clock.clone(),
            control: Handle::current(),
        };
        let verifier = Verifier::new(issuers, Vec::new(), &service, shared.clone(), 100).unwrap();
        // Nobody is there to be asked.
        let verifier = Arc::new(verifier.assuming(Assumed::Active));
        feed.configure(&config);
        service.send_receipts(feed.receipts());
        let surroundings = Surroundings { shared, feed: Some(Arc::clone(&feed)), counts, audit: Audit::off() };
        let endpoints = Endpoints::new(&config, verifier, Arc::clone(&service), &surroundings, None);
        Self { clock, users, feed, service, endpoints: Arc::new(endpoints), links, key }
    }

    /// A token as it is given to an upstream.
    pub(super) fn mint(&self, subject: &str, audience: &str) -> String {
        let template = Arc::new(NamespaceToken { audience: audience.into(), ..NamespaceToken::default() });
        let grant = Grant {
            template: &template,
            subject,
            original_issuer: URL,
            namespace: "team-a",
            kind: NamespaceKind::Own,
            email: "",
            username: Some("alice"),
            authorized_party: Some("cli"),
            epoch: self.users.epoch("main", subject),
            roles: &[],
            groups: &[],
        };
        let minted = self.service.credential(&CredentialCache::default(), &grant, self.clock.now()).unwrap();
        minted.header().to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }

    async fn call(&self, endpoint: Endpoint, authorization: &Authorization, body: &str) -> (u16, Value, bool) {
        let method = if endpoint == Endpoint::Token { Method::GET } else { Method::POST };
        let json = endpoint == Endpoint::Events;
        let kind = if json { "application/json" } else { "application/x-www-form-urlencoded; charset=utf-8" };
        let kind = HeaderValue::from_static(kind);
        let reply = match self.endpoints.admit(&endpoint, &Head::of(&method, authorization, Some(&kind))) {
            Ok(admitted) => self.endpoints.answer(admitted, Bytes::copy_from_slice(body.as_bytes())).await,
            Err(reply) => reply,
        };
        assert_eq!(reply.response.headers()["cache-control"], "no-store");
        let body = serde_json::from_slice(reply.response.body()).unwrap_or_default();
        (reply.response.status().as_u16(), body, reply.is_failed_authentication)
    }

    async fn introspect(&self, client: &str, token: &str) -> Value {
        let (status, answer, _) =
            self.call(Endpoint::Introspect, &header(client, "s3cret"), &format!("token={token}")).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Posts a logout token with these claims, beside those that it needs.
    async fn log_out(&self, claims: Value) -> (u16, Value, bool) {
        self.log_out_as(json!({"alg": "ES256", "typ": "logout+jwt", "kid": self.key.kid()}), claims).await
    }

    async fn log_out_as(&self, head: Value, claims: Value) -> (u16, Value, bool) {
        let now = self.clock.now().unix_seconds();
        let mut all = json!({
            "iss": URL, "aud": "cli", "iat": now, "exp": now + 120, "jti": "1", "sub": "alice", "sid": "s1", "typ": "Logout",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}, "revoke_offline_access": true},
        });
        for (name, value) in claims.as_object().unwrap() {
            match value {
                Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
                value => all[name] = value.clone(),
            }
        }
        let token = self.key.compact(head.to_string().as_bytes(), all.to_string().as_bytes()).unwrap();
        self.post_logout(&token).await
    }

    async fn post_logout(&self, token: &str) -> (u16, Value, bool) {
        let endpoint = Endpoint::Logout("main".into());
        self.call(endpoint, &Authorization::Nothing, &format!("logout_token={token}")).await
    }

    pub(super) fn block(&self, subject: &str) {
        let time = IssuerTime::At(self.clock.now().unix_ms);
        let proof = Proof::Issuer { cause: IssuerCause::Disabled, time, happened_ms: None };
        self.users.block(&user(subject), proof).unwrap().unwrap();
    }

    pub(super) fn lift(&self, subject: &str) {
        let lift = Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: Some(self.clock.now().unix_ms) };
        self.users.lift(&user(subject), lift).unwrap();
        assert_eq!(self.users.state(&user(subject)).unwrap().state, State::AwaitingSignIn);
    }

    pub(super) fn sign_in(&self, subject: &str) {
        self.users.signed_in(&user(subject), Some("new"), self.clock.now().unix_ms).unwrap().unwrap();
    }

    pub(super) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

pub(super) fn user(subject: &str) -> UserId {
    UserId::new("main", subject).unwrap()
}

pub(super) fn act() -> Act {
    Act { by: "olga".into(), reason: "test".into() }
}

#[track_caller]
fn check(issuer: &str, path: &str, expected: Option<Served>) {
    assert_eq!(Site::new(issuer).at(path), expected, "{issuer} {path}");
}

#[test]
fn endpoints_lie_under_the_issuer_exactly() {
    let endpoint = |endpoint| Some(Served::Endpoint(endpoint));
    check("https://p.example", "/introspect", endpoint(Endpoint::Introspect));
    check("https://p.example/auth/", "/auth/events/poll", endpoint(Endpoint::Events));
    check("https://p.example", "/auth/token", endpoint(Endpoint::AuthToken));
    check("https://p.example/auth", "/auth/auth/token", endpoint(Endpoint::AuthToken));
    check("https://p.example", "/backchannel-logout/main", endpoint(Endpoint::Logout("main".into())));
    check("https://p.example", "/backchannel-logout/", endpoint(Endpoint::Logout("".into())));
    check("https://p.example", "/backchannel-logout/a/b", endpoint(Endpoint::Logout("a/b".into())));
    check("https://p.example/auth", "/auth/token", endpoint(Endpoint::Token));
    check("https://p.example/auth", "/token", None);
    check("https://p.example", "/.well-known/jwks.json", Some(Served::Document(Document::Keys)));
    for path in [
        "/",
        "",
        "/auth/token/",
        "/auth",
        "/introspect/",
        "/Introspect",
        "/introspec",
        "/events",
        "/backchannel-logout",
        "/orders",
    ] {
        check("https://p.example", path, None);
    }
    for path in ["/introspect", "/authintrospect", "/auth", "/auth/x", "/events/poll"] {
        check("https://p.example/auth", path, None);
    }
    let oauth = "/.well-known/oauth-authorization-server/auth";
    check("https://p.example/auth", oauth, Some(Served::Document(Document::Discovery)));
}
