//! What a decision costs, stage by stage, and what the structures behind it cost when they are large.
//!
//! `bench/run stages` times each with criterion. `bench/run instructions` counts those of [`COUNTED`]: with `--count` they run one after
//! another, and callgrind looks only at [`measured`].

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A bench that cannot run says so and ends.

mod grant;

use criterion::Criterion;
use grant::{grant, template};
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use postern::base::clock::{Clock, Now};
use postern::config::{self, Access, Algorithm, Config};
use postern::dev::SigningKey;
use postern::identity::jws::{self, Jws};
use postern::identity::{LocalCache, Shared, TokenCache, TokenError, VerifiedToken, Verifier};
use postern::issuer::{Issuer, KeyLookup};
use postern::pipeline::{
    Caller, Connection, Context, Pipeline, Presented, Stripped, Verdict, authenticate, authorize, inject, strip,
};
use postern::router::{Router, path};
use postern::telemetry::metrics::Metrics;
use postern::token_service::{CredentialCache, TokenService};
use postern::users::{Act, Judgement, Proof, TokenClaims, UserId, Users};
use serde_json::json;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::runtime::Runtime;

/// So many of each are counted.
const TIMES: usize = 2 * NEW_TOKENS;

/// So many tokens are new before all are forgotten: their keys are withdrawn and published again.
const NEW_TOKENS: usize = 32;

/// What is measured; each call is one.
type Operation = Box<dyn FnMut()>;
type Prepare = fn() -> Operation;

/// What is also counted under callgrind, in CI too. Those that begin with `decide` or are `strip` include `request`, which makes one.
const COUNTED: &[(&str, Prepare)] = &[
    ("request", request),
    ("strip", stage_strip),
    ("path", stage_path),
    ("route of 10", || stage_route(10)),
    ("route of 1,000", || stage_route(1_000)),
    ("route of 10,000", || stage_route(10_000)),
    ("authenticate, hit", stage_authenticate),
    ("signature, RS256", || stage_signature(Algorithm::Rs256)),
    ("signature, ES256", || stage_signature(Algorithm::Es256)),
    ("authenticate, miss, RS256", || stage_miss(Algorithm::Rs256)),
    ("authenticate, miss, ES256", || stage_miss(Algorithm::Es256)),
    ("authenticate, forged", stage_forged),
    ("user status", stage_status),
    ("authorize", stage_authorize),
    ("inject", stage_inject),
    ("mint", stage_mint),
    ("decide, hit", || decide(Show::Known)),
    ("decide, miss", || decide(Show::New)),
    ("decide, forged", || decide(Show::Forged)),
    ("decide, no token", || decide(Show::Nothing)),
];

/// What is only timed: it takes long to prepare.
const TIMED: &[(&str, Prepare)] = &[
    ("user status among 1,000,000 users", users_judge),
    ("cache of 100,000 tokens, insert and evict", cache_evict),
    ("a worker's 60,000 tokens, sweep of a part", local_sweep),
    ("configuration of 10,000 routes, load", config_load),
];

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--count") {
        for (name, prepare) in COUNTED {
            let mut operation = prepare();
            // What is made once is made by then, and new tokens begin anew.
            (0..NEW_TOKENS).for_each(|_| operation());
            measured(&mut operation);
            println!("{name}");
        }
        return;
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for (name, prepare) in COUNTED.iter().chain(TIMED) {
        // Prepared once, and only where it is asked for.
        let mut prepared = None;
        criterion.bench_function(name, |bencher| bencher.iter(prepared.get_or_insert_with(prepare)));
    }
    criterion.final_summary();
    // Each asserts what it did.
    println!("{} passed, 0 failed, 0 skipped", COUNTED.len() + TIMED.len());
}

/// An operation [`TIMES`] times. The name is known to `bench/instructions.py`, the number too.
#[inline(never)]
fn measured(operation: &mut Operation) {
    (0..TIMES).for_each(|_| operation());
}

// ---- What a decision is made of

/// The head of a request, as clients send it.
fn head(token: Option<&HeaderValue>) -> Parts {
    let mut request = Request::get("/orders/7?limit=10")
        .header("host", "api.example.com")
        .header("user-agent", "curl/8.11.1")
        .header("accept", "*/*");
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    request.body(()).unwrap().into_parts().0
}

fn request() -> Operation {
    let gateway = Gateway::new();
    let token = bearer(&gateway.token(Algorithm::Rs256, 0));
    Box::new(move || drop(black_box(head(Some(&token)))))
}

fn stage_strip() -> Operation {
    let gateway = Gateway::new();
    let (token, names) = (bearer(&gateway.token(Algorithm::Rs256, 0)), HashSet::new());
    Box::new(move || {
        let mut stripped = Stripped::default();
        strip::strip(&mut head(Some(&token)), &names, &mut stripped).unwrap();
        drop(black_box(stripped));
    })
}

fn stage_path() -> Operation {
    Box::new(|| assert!(path::canonical(black_box("/orders/2026/11/0190f3c2-5d1e-7c4a/items%20sold")).is_ok()))
}

fn stage_route(count: usize) -> Operation {
    let config = config::parse(&configuration(count), Path::new("")).unwrap();
    let router = Router::new(&config.routes);
    let asked = format!("/service-{}/orders/7", count / 2);
    Box::new(move || assert!(router.find("", &Method::GET, black_box(&asked)).is_ok()))
}

fn stage_authenticate() -> Operation {
    let gateway = Gateway::new();
    let presented = Presented::One(bearer(&gateway.token(Algorithm::Rs256, 0)));
    let (tokens, context) = (LocalCache::default(), gateway.context());
    Box::new(move || {
        let route = &gateway.config.routes[0];
        let verifying = authenticate::authenticate(&gateway.verifier, &tokens, &presented, route, &context);
        drop(black_box(at_once(verifying).unwrap()));
    })
}

/// What of a miss is the library's.
fn stage_signature(algorithm: Algorithm) -> Operation {
    let gateway = Gateway::new();
    let token = gateway.token(algorithm, 0);
    let Jws { message, signature, .. } = jws::parse(token.as_bytes()).unwrap();
    let message = message.to_vec();
    let key = gateway.issuer.key_now(Some(key_of(algorithm).kid()), algorithm);
    let Some(KeyLookup::Key(key)) = key else { panic!("the issuer has the key") };
    Box::new(move || assert!(key.verify(algorithm, &message, &signature)))
}

fn stage_miss(algorithm: Algorithm) -> Operation {
    let gateway = Gateway::new();
    let mut new = NewTokens::new(gateway, algorithm);
    Box::new(move || {
        let (tokens, token) = new.next();
        drop(black_box(gateway.verify(tokens, token.as_bytes()).unwrap()));
    })
}

fn stage_forged() -> Operation {
    let gateway = Gateway::new();
    let (tokens, token) = (LocalCache::default(), forged(&gateway.token(Algorithm::Rs256, 0)));
    Box::new(move || {
        assert_eq!(gateway.verify(&tokens, token.as_bytes()).unwrap_err(), TokenError::Signature);
    })
}

fn stage_status() -> Operation {
    let gateway = Gateway::new();
    let token = gateway.verified();
    Box::new(move || drop(black_box(at_once(gateway.verifier.confirm(&token, gateway.now)).unwrap())))
}

fn stage_authorize() -> Operation {
    let gateway = Gateway::new();
    let identity = at_once(gateway.verifier.confirm(&gateway.verified(), gateway.now)).unwrap();
    let Access::Token(required) = &gateway.config.routes[0].access else { unreachable!("the route asks for a role") };
    Box::new(move || authorize::authorize(black_box(required), &identity).unwrap())
}

fn stage_inject() -> Operation {
    let gateway = Gateway::new();
    let mut context = gateway.context();
    context.caller =
        Some(Caller { identity: at_once(gateway.verifier.confirm(&gateway.verified(), gateway.now)).unwrap() });
    let mut stripped = Stripped::default();
    Box::new(move || {
        stripped.fields.clear();
        inject::inject(&gateway.pipeline, &gateway.config.routes[0], &mut stripped, &mut context).unwrap();
    })
}

fn stage_mint() -> Operation {
    let gateway = Gateway::new();
    let template = template();
    let roles = ["reader".to_owned(), "writer".to_owned()];
    Box::new(move || {
        let grant = grant(&template, "3f1d2c4b-0000-4000-8000-000000000001", &roles, &[]);
        drop(black_box(gateway.service.credential(&CredentialCache::default(), &grant, gateway.now).unwrap()));
    })
}

/// What a caller shows.
#[derive(Clone, Copy)]
enum Show {
    Known,
    New,
    Forged,
    Nothing,
}

fn decide(show: Show) -> Operation {
    let gateway = Gateway::new();
    let known = gateway.token(Algorithm::Rs256, 0);
    let shown = match show {
        Show::Known | Show::New => Some(bearer(&known)),
        Show::Forged => Some(bearer(&forged(&known))),
        Show::Nothing => None,
    };
    let mut new = NewTokens::new(gateway, Algorithm::Rs256);
    let tokens = LocalCache::default();
    Box::new(move || {
        let one;
        let (tokens, shown) = match show {
            Show::New => {
                let (tokens, token) = new.next();
                one = bearer(token);
                (tokens, Some(&one))
            }
            _ => (&tokens, shown.as_ref()),
        };
        let (mut head, mut context, mut stripped) = (head(shown), gateway.context(), Stripped::default());
        let decided = at_once(gateway.pipeline.decide(tokens, &mut head, &mut context, &mut stripped));
        match show {
            Show::Known | Show::New => assert_eq!(decided.unwrap(), Verdict::Forward),
            Show::Forged | Show::Nothing => assert_eq!(decided.unwrap_err().reason.status(), 401),
        }
    })
}

// ---- Large structures

fn users_judge() -> Operation {
    let clock = Clock::system();
    let users = Users::in_memory(clock.clone());
    let subjects: Vec<_> = (0..1_000_000).map(|n| format!("3f1d2c4b-0000-4000-8000-{n:012}")).collect();
    let proof = |subject: &String| {
        let act = Act { by: "bench".into(), reason: String::new() };
        (UserId::new("rs", subject.as_str()).unwrap(), Proof::Operator(act))
    };
    // Every second one is blocked: there is most to know of those.
    users.block_all(subjects.iter().step_by(2).map(proof)).unwrap();
    let now = clock.now();
    let mut at = 0;
    Box::new(move || {
        // A prime steps through all of them in no order that a cache could follow.
        at = (at + 611_953) % subjects.len();
        let claims = TokenClaims {
            issuer: "rs",
            subject: &subjects[at],
            session: None,
            issued: Some(now.unix_seconds()),
            id: None,
            epoch: None,
        };
        assert_eq!(users.judge(&claims, now) == Judgement::Admitted, at % 2 == 1);
    })
}

fn cache_evict() -> Operation {
    const CAPACITY: usize = 100_000;
    let gateway = Gateway::new();
    let cache = TokenCache::new(CAPACITY);
    let tokens: Vec<_> = (0..CAPACITY + CAPACITY / 10)
        .map(|n| {
            let token = gateway.token(Algorithm::Es256, n);
            (cache.hash(token.as_bytes()), gateway.verify(&LocalCache::default(), token.as_bytes()).unwrap())
        })
        .collect();
    let mut at = 0;
    let mut insert = move || {
        at = (at + 1) % tokens.len();
        let (hash, token) = &tokens[at];
        drop(black_box(cache.insert(*hash, Arc::clone(token))));
    };
    // Full, before it is measured.
    (0..CAPACITY).for_each(|_| insert());
    Box::new(insert)
}

fn local_sweep() -> Operation {
    let (gateway, tokens) = (Gateway::new(), LocalCache::default());
    for n in 0..60_000 {
        gateway.verify(&tokens, gateway.token(Algorithm::Es256, n).as_bytes()).unwrap();
    }
    Box::new(move || tokens.sweep(&gateway.verifier, gateway.now))
}

fn config_load() -> Operation {
    let text = configuration(10_000);
    Box::new(move || drop(black_box(config::parse(&text, Path::new("")).unwrap())))
}

// ---- What it all stands on

/// Two of the issuer's, and another's. To make them takes longer than all that is counted.
static KEYS: LazyLock<[SigningKey; 3]> = LazyLock::new(|| {
    [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa].map(|algorithm| SigningKey::generate(algorithm).unwrap())
});

fn key_of(algorithm: Algorithm) -> &'static SigningKey {
    KEYS.iter().find(|key| key.algorithm() == algorithm).unwrap()
}

/// The parts of a gateway that decide, without its sockets.
struct Gateway {
    config: Config,
    pipeline: Pipeline,
    verifier: Arc<Verifier>,
    service: Arc<TokenService>,
    issuer: Arc<Issuer>,
    jwks: String,
    now: Now,
    _runtime: Runtime,
}

/// So many routes for readers, the first of them at `/orders`.
fn configuration(routes: usize) -> String {
    let mut text = "version = 1
dev = true
[token_service]
issuer = 'https://postern.example.com'
[limits]
failed_authentications = { rate = 1000000 }
[issuer.main]
url = 'http://127.0.0.1:1/realms/demo'
audience = 'gateway'
algorithms = ['RS256', 'ES256']
user_status = 'none'
[upstream.orders]
to = 'http://127.0.0.1:2'
"
    .to_owned();
    for n in 0..routes {
        let path = if n == 0 { "/orders".to_owned() } else { format!("/service-{n}/orders") };
        writeln!(text, "[[route]]\nname = 'r{n}'\npath = '{path}/**'\nupstream = 'orders'").unwrap();
        writeln!(text, "access = {{ any_role = ['reader'] }}\nheaders = {{ X-User = 'sub' }}").unwrap();
    }
    text
}

impl Gateway {
    fn new() -> &'static Self {
        let config = config::parse(&configuration(10), Path::new("")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let jwks = json!({ "keys": [KEYS[0].jwk(), KEYS[1].jwk()] }).to_string();
        let clock = Clock::system();
        let issuer = Arc::new(Issuer::offline(Arc::clone(&config.issuers[0]), clock.clone(), &jwks).unwrap());
        let service = Arc::new(TokenService::ephemeral(config.token_service.clone(), clock.clone()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (users, control) = (Users::in_memory(clock.clone()), runtime.handle().clone());
        let shared = Shared { users, links: Arc::default(), clock: clock.clone(), control };
        let asked = Pipeline::claims_asked(&config);
        let verifier = Arc::new(Verifier::new(vec![Arc::clone(&issuer)], asked, &service, shared, 1000).unwrap());
        let now = clock.now();
        let (metrics, tokens) = (Metrics::new(), Arc::clone(&service));
        let pipeline = Pipeline::new(&config, Arc::clone(&verifier), tokens, &metrics, clock, None).unwrap();
        // For as long as the process: what is measured borrows from it.
        Box::leak(Box::new(Self { config, pipeline, verifier, service, issuer, jwks, now, _runtime: runtime }))
    }

    /// The access token of the `n`th user, as large as Keycloak makes them.
    fn token(&self, algorithm: Algorithm, n: usize) -> String {
        let key = key_of(algorithm);
        let header = json!({ "alg": algorithm.name(), "typ": "JWT", "kid": key.kid() });
        let now = self.now.unix_seconds();
        let claims = json!({
            "exp": now + 3600,
            "iat": now,
            "jti": format!("onrtac:{n:08}-5a0e-4d4e-a9b5-c9a3d6b8f1aa"),
            "iss": "http://127.0.0.1:1/realms/demo",
            "aud": ["gateway", "account"],
            "sub": format!("3f1d2c4b-0000-4000-8000-{n:012}"),
            "typ": "Bearer",
            "azp": "cli",
            "sid": "8d4f0cc2-7e9c-4d5e-8a3f-1b2c3d4e5f60",
            "acr": "1",
            "allowed-origins": ["https://app.example.com"],
            "realm_access": { "roles": ["reader", "offline_access", "uma_authorization", "default-roles-demo"] },
            "resource_access": { "account": { "roles": ["manage-account", "manage-account-links", "view-profile"] } },
            "scope": "openid profile email",
            "email_verified": true,
            "name": "Alice Liddell",
            "namespace": "team-a",
            "preferred_username": format!("user{n}"),
            "email": format!("user{n}@example.com"),
        });
        key.compact(header.to_string().as_bytes(), claims.to_string().as_bytes()).unwrap()
    }

    fn verify(&self, tokens: &LocalCache, token: &[u8]) -> Result<Arc<VerifiedToken>, TokenError> {
        at_once(self.verifier.verify(tokens, token, self.now))
    }

    fn verified(&self) -> Arc<VerifiedToken> {
        self.verify(&LocalCache::default(), self.token(Algorithm::Rs256, 0).as_bytes()).unwrap()
    }

    fn context(&self) -> Context {
        thread_local! {
            static CONNECTION: Rc<Connection> =
                Rc::new(Connection::new(IpAddr::from([127, 0, 0, 1]), false, Rc::new([])));
        }
        let (id, parent) = ("0190f3c2", "00-00000000000000000000000000000001-0000000000000001-00");
        let (id, parent) = (HeaderValue::from_static(id), HeaderValue::from_static(parent));
        Context::new(self.now, CONNECTION.with(Rc::clone), id, parent)
    }
}

/// Tokens that were not seen before, and a worker's view that does not have them.
struct NewTokens {
    gateway: &'static Gateway,
    view: LocalCache,
    tokens: Vec<String>,
    at: usize,
}

impl NewTokens {
    fn new(gateway: &'static Gateway, algorithm: Algorithm) -> Self {
        let tokens = (0..NEW_TOKENS).map(|n| gateway.token(algorithm, n)).collect();
        Self { gateway, view: LocalCache::default(), tokens, at: 0 }
    }

    fn next(&mut self) -> (&LocalCache, &str) {
        if self.at == NEW_TOKENS {
            let other = json!({ "keys": [KEYS[2].jwk()] }).to_string();
            for keys in [&other, &self.gateway.jwks] {
                self.gateway.issuer.replace_keys(keys.as_bytes()).unwrap();
                self.gateway.verifier.sweep();
            }
            assert!(self.gateway.verifier.cache().is_empty());
            (self.view, self.at) = (LocalCache::default(), 0);
        }
        self.at += 1;
        (&self.view, &self.tokens[self.at - 1])
    }
}

/// The same token with one bit of its signature another.
fn forged(token: &str) -> String {
    let at = token.len() - 100;
    let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    [&token[..at], other, &token[at + 1..]].concat()
}

fn bearer(token: &str) -> HeaderValue {
    HeaderValue::try_from(format!("Bearer {token}")).unwrap()
}

/// What a future comes to that has nothing to wait for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}
