//! The verifier held against `jsonwebtoken`: both must agree about every token.

use super::claims::tests::issuer;
use super::{LocalCache, TokenError, Verifier};
use crate::base::clock::Clock;
use crate::config::Algorithm;
use crate::dev::SigningKey;
use crate::issuer::Issuer;
use jsonwebtoken::{DecodingKey, Validation, jwk::Jwk};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// `jsonwebtoken` judges by the machine's clock, so both do, and no date lies within seconds of a limit.
static NOW: LazyLock<i64> = LazyLock::new(|| Clock::system().now().unix_seconds());
static KEYS: LazyLock<[SigningKey; 2]> =
    LazyLock::new(|| [(); 2].map(|()| SigningKey::generate(Algorithm::Es256).unwrap()));

fn verifier() -> Verifier {
    let jwks = json!({ "keys": [KEYS[0].jwk()] }).to_string();
    let runtime = tokio::runtime::Handle::current();
    let issuer = Issuer::offline(Arc::new(issuer()), Clock::system(), &jwks).unwrap();
    Verifier::new(vec![Arc::new(issuer)], Vec::new(), Clock::system(), runtime, 100)
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
    let handle = tokio::runtime::Handle::current();
    let verifier = Verifier::new(vec![Arc::new(issuer)], Vec::new(), clock.clone(), handle, 100);
    let claims = json!({"iss": "http://127.0.0.1:1/realms/demo", "aud": "api", "sub": "alice", "exp": 1_800_000_060});
    let header = json!({"alg": "ES256", "kid": KEYS[0].kid()}).to_string();
    let token = KEYS[0].compact(header.as_bytes(), claims.to_string().as_bytes()).unwrap();
    let tokens = LocalCache::default();
    let first = verifier.verify(&tokens, token.as_bytes(), clock.now()).await.unwrap();
    let again = verifier.verify(&tokens, token.as_bytes(), clock.now()).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    // Another worker finds it too.
    let elsewhere = verifier.verify(&LocalCache::default(), token.as_bytes(), clock.now()).await.unwrap();
    assert!(Arc::ptr_eq(&first, &elsewhere));
    clock.advance(std::time::Duration::from_secs(90));
    let late = verifier.verify(&tokens, token.as_bytes(), clock.now()).await;
    assert_eq!(late.unwrap_err(), TokenError::Expired);
    verifier.sweep();
    assert!(verifier.cache().is_empty());
}

/// A hash that is the same for two tokens costs time and admits nobody.
#[tokio::test]
async fn one_changed_byte_of_a_remembered_token_misses() {
    let verifier = verifier();
    let claims = json!({"iss": "http://127.0.0.1:1/realms/demo", "aud": "api", "sub": "alice", "exp": *NOW + 600});
    let header = json!({"alg": "ES256", "kid": KEYS[0].kid()}).to_string();
    let token = KEYS[0].compact(header.as_bytes(), claims.to_string().as_bytes()).unwrap();
    let tokens = LocalCache::default();
    let now = Clock::system().now();
    verifier.verify(&tokens, token.as_bytes(), now).await.unwrap();
    for at in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[at] ^= 1;
        assert!(verifier.verify(&tokens, &other, now).await.is_err(), "byte {at}");
    }
}
