//! The verifier held against `jsonwebtoken`: both must agree about every token.

mod block;
mod kept;
mod status;

use super::claims::ClaimError;
use super::claims::tests::issuer;
use super::{LocalCache, Shared, TokenError, Verifier};
use crate::base::clock::Clock;
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::base::sharded::SHARDS;
use crate::config::{Algorithm, Introspection, NamespaceToken, SigningAlgorithm, SigningKeys, UserStatus, WhenUnknown};
use crate::dev::SigningKey;
use crate::issuer::Issuer;
use crate::token_service::{CredentialCache, Grant, NamespaceKind, TokenService};
use crate::users::Users;
use jsonwebtoken::{DecodingKey, Validation, jwk::Jwk};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// `jsonwebtoken` judges by the machine's clock, so both do, and no date lies within seconds of a limit.
static NOW: LazyLock<i64> = LazyLock::new(|| Clock::system().now().unix_seconds());
static KEYS: LazyLock<[SigningKey; 2]> =
    LazyLock::new(|| [(); 2].map(|()| SigningKey::generate(Algorithm::Es256).unwrap()));

fn verifier() -> Verifier {
    let jwks = json!({ "keys": [KEYS[0].jwk()] }).to_string();
    let issuer = Issuer::offline(Arc::new(issuer()), Clock::system(), &jwks).unwrap();
    Verifier::new(vec![Arc::new(issuer)], Vec::new(), &own(), shared(&Clock::system()), 100).unwrap()
}

/// On this thread's runtime.
pub(super) fn shared(clock: &Clock) -> Shared {
    let control = tokio::runtime::Handle::current();
    Shared { users: Users::in_memory(clock.clone()), links: Arc::default(), clock: clock.clone(), control }
}

fn own() -> TokenService {
    let config = crate::config::TokenService {
        issuer: "https://postern.example".into(),
        audience: "https://postern.example".into(),
        algorithm: SigningAlgorithm::Es256,
        lifetime: Duration::from_secs(1800),
        signing_keys: SigningKeys::Files(Vec::new()),
        clients: Vec::new(),
    };
    TokenService::ephemeral(config, Clock::system()).unwrap()
}

fn reference(token: &str) -> bool {
    let key: Jwk = serde_json::from_value(KEYS[0].jwk().clone()).unwrap();
    let mut rules = Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.leeway = 30;
    rules.validate_nbf = true;
    rules.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    rules.set_audience(&["api"]);
    rules.set_issuer(&[issuer().url]);
    jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(&key).unwrap(), &rules).is_ok()
}

/// A good token of this user, until then.
fn token(subject: &str, expires: i64) -> String {
    let header = json!({"alg": "ES256", "kid": KEYS[0].kid()}).to_string();
    let claims = json!({"iss": issuer().url, "aud": "api", "sub": subject, "exp": expires}).to_string();
    KEYS[0].compact(header.as_bytes(), claims.as_bytes()).unwrap()
}

/// All parts of a worker's view.
fn sweep_all(tokens: &LocalCache, verifier: &Verifier, now: Now) {
    (0..SHARDS).for_each(|_| tokens.sweep(verifier, now));
}

fn claims() -> impl Strategy<Value = Value> {
    let date = |offsets: &'static [i64]| proptest::option::of(proptest::sample::select(offsets));
    let audience = proptest::option::of(proptest::sample::select(vec![
        json!("api"),
        json!("other"),
        json!(["account", "api"]),
        json!(["account"]),
        json!([]),
    ]));
    let issuer = proptest::option::of(proptest::sample::select(vec![issuer().url, "http://other".into()]));
    let subject = proptest::option::of(Just("alice"));
    (date(&[-3600, -60, -10, 10, 3600]), date(&[-3600, -10, 10, 60, 3600]), audience, issuer, subject).prop_map(
        |(expires, not_before, audience, issuer, subject)| {
            let at = |offset: i64| json!(*NOW + offset);
            let members = [
                ("exp", expires.map(at)),
                ("nbf", not_before.map(at)),
                ("aud", audience),
                ("iss", issuer.map(Into::into)),
                ("sub", subject.map(Into::into)),
            ];
            members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
        },
    )
}

/// One byte of the token replaced, or none.
fn spoilt(token: String, at: Option<(prop::sample::Index, u8)>) -> String {
    let mut bytes = token.into_bytes();
    if let Some((at, byte)) = at {
        let at = at.index(bytes.len());
        bytes[at] = b"abcXYZ019-_."[usize::from(byte) % 12];
    }
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn another_library_comes_to_the_same_verdict(
        claims in claims(),
        signer in 0..8_usize,
        at in proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let key = &KEYS[usize::from(signer == 0)];
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": KEYS[0].kid()});
        let token = spoilt(key.compact(header.to_string().as_bytes(), claims.to_string().as_bytes()).unwrap(), at);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ours = runtime.block_on(async {
            verifier().verify(&LocalCache::default(), token.as_bytes(), Clock::system().now()).await
        });
        prop_assert_eq!(ours.is_ok(), reference(&token), "{:?} {}", ours, claims);
    }
}

#[tokio::test]
async fn a_remembered_token_is_found_again_and_dies_with_its_time() {
    let clock = Clock::manual(1_800_000_000);
    let jwks = json!({ "keys": [KEYS[0].jwk()] }).to_string();
    let issuer = Issuer::offline(Arc::new(issuer()), clock.clone(), &jwks).unwrap();
    let verifier = Verifier::new(vec![Arc::new(issuer)], Vec::new(), &own(), shared(&clock), 100).unwrap();
    let token = token("alice", 1_800_000_060);
    let tokens = LocalCache::default();
    let first = verifier.verify(&tokens, token.as_bytes(), clock.now()).await.unwrap();
    let again = verifier.verify(&tokens, token.as_bytes(), clock.now()).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    // Another worker finds it too.
    let elsewhere = verifier.verify(&LocalCache::default(), token.as_bytes(), clock.now()).await.unwrap();
    assert!(Arc::ptr_eq(&first, &elsewhere));
    clock.advance(Duration::from_secs(90));
    let late = verifier.verify(&tokens, token.as_bytes(), clock.now()).await;
    assert_eq!(late.unwrap_err(), TokenError::Expired);
    verifier.sweep();
    assert!(verifier.cache().is_empty());
}

#[tokio::test]
async fn a_full_cache_takes_a_new_token_in_place_of_another() {
    let (verifier, now) = (verifier(), Clock::system().now());
    for number in 0..300 {
        let token = token(&number.to_string(), *NOW + 3600);
        let verified = verifier.verify(&LocalCache::default(), token.as_bytes(), now).await.unwrap();
        let again = verifier.verify(&LocalCache::default(), token.as_bytes(), now).await.unwrap();
        assert!(Arc::ptr_eq(&verified, &again));
        assert!(verifier.cache().len() <= 100);
    }
    // One for each of its parts.
    assert!(verifier.cache().len() > 50, "{}", verifier.cache().len());
}

/// Else every reload would cost the memory of all tokens in use, until they expire.
#[tokio::test]
async fn a_worker_lets_go_of_tokens_of_a_verifier_that_is_no_longer_in_force() {
    let token = token("alice", *NOW + 600);
    let (tokens, now, verifier, next) = (LocalCache::default(), Clock::system().now(), verifier(), verifier());
    let first = Arc::downgrade(&verifier.verify(&tokens, token.as_bytes(), now).await.unwrap());
    sweep_all(&tokens, &verifier, now);
    let again = verifier.verify(&tokens, token.as_bytes(), now).await.unwrap();
    assert!(first.upgrade().is_some_and(|first| Arc::ptr_eq(&first, &again)));
    drop((verifier, again));
    assert!(first.upgrade().is_some());
    sweep_all(&tokens, &next, now);
    assert!(first.upgrade().is_none());
}

/// Its requests wait meanwhile, so it looks at some of the tokens at a time.
#[tokio::test]
async fn a_worker_lets_go_of_expired_tokens_in_parts() {
    const MANY: usize = 200;
    let clock = Clock::manual(1_800_000_000);
    let jwks = json!({ "keys": [KEYS[0].jwk()] }).to_string();
    let issuer = Issuer::offline(Arc::new(issuer()), clock.clone(), &jwks).unwrap();
    let verifier = Verifier::new(vec![Arc::new(issuer)], Vec::new(), &own(), shared(&clock), MANY).unwrap();
    let (tokens, mut known) = (LocalCache::default(), Vec::new());
    for number in 0..MANY {
        let token = token(&number.to_string(), 1_800_000_060);
        known.push(Arc::downgrade(&verifier.verify(&tokens, token.as_bytes(), clock.now()).await.unwrap()));
    }
    let held = || known.iter().filter(|token| token.strong_count() > 0).count();
    assert_eq!(held(), MANY);
    clock.advance(Duration::from_secs(90));
    verifier.sweep();
    tokens.sweep(&verifier, clock.now());
    assert!(held() > MANY / 2, "{} are held", held());
    sweep_all(&tokens, &verifier, clock.now());
    assert_eq!(held(), 0);
}

/// A hash that is the same for two tokens costs time and admits nobody.
#[tokio::test]
async fn one_changed_byte_of_a_remembered_token_misses() {
    let verifier = verifier();
    let token = token("alice", *NOW + 600);
    let tokens = LocalCache::default();
    let now = Clock::system().now();
    verifier.verify(&tokens, token.as_bytes(), now).await.unwrap();
    for at in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[at] ^= 1;
        assert!(verifier.verify(&tokens, &other, now).await.is_err(), "byte {at}");
    }
}

/// A token as the token service mints it for `audience` in an epoch of its user.
fn minted(
    service: &TokenService,
    audience: &str,
    original_issuer: &str,
    subject: &str,
    epoch: u64,
    now: Now,
) -> String {
    let template = Arc::new(NamespaceToken { audience: audience.into(), ..NamespaceToken::default() });
    let grant = Grant {
        template: &template,
        subject,
        original_issuer,
        namespace: "team-a",
        kind: NamespaceKind::Own,
        email: "",
        username: None,
        authorized_party: None,
        epoch,
        roles: &[],
        groups: &[],
    };
    let minted = service.credential(&CredentialCache::default(), &grant, now).unwrap();
    minted.header().to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

#[tokio::test]
async fn of_our_own_tokens_only_those_for_ourselves_come_in() {
    let service = own();
    let minted = |audience: &str, url: &str| minted(&service, audience, url, "alice", 0, Clock::system().now());
    let offline = |issuer| {
        Arc::new(
            Issuer::offline(Arc::new(issuer), Clock::system(), &json!({ "keys": [KEYS[0].jwk()] }).to_string())
                .unwrap(),
        )
    };
    let introspecting = crate::config::Issuer { user_status: introspection(), ..issuer() };
    for (issuer, confirmed) in [(issuer(), true), (introspecting, false)] {
        let url = issuer.url.clone();
        let verifier = Verifier::new(vec![offline(issuer)], Vec::new(), &service, shared(&Clock::system()), 100);
        let verifier = Arc::new(verifier.unwrap());
        let verify = async |token: String| {
            verifier.verify(&LocalCache::default(), token.as_bytes(), Clock::system().now()).await
        };
        let token = verify(minted("https://postern.example", &url)).await.unwrap();
        assert_eq!((token.issuer().config().name.as_str(), token.subject()), ("self", Some("alice")));
        // Where the user's status is asked for, an own token alone proves nothing.
        let status = verifier.confirm(&token, Clock::system().now()).await;
        assert_eq!(status.as_ref().map(|caller| caller.issuer.url.as_str()).ok(), confirmed.then_some(url.as_str()));
        let foreign = verify(minted("orders", &url)).await;
        assert_eq!(foreign.unwrap_err(), TokenError::Claims(ClaimError::Audience));
        let stranger = verify(minted("https://postern.example", "https://nobody.example")).await;
        assert_eq!(stranger.unwrap_err(), TokenError::Issuer);
    }
}

fn introspection() -> UserStatus {
    UserStatus::Introspection(Introspection {
        client_id: "gateway".into(),
        client_secret: Secret::new("secret"),
        bound: Duration::from_secs(30),
        timeout: Duration::from_secs(1),
        when_unknown: WhenUnknown::Deny,
    })
}
