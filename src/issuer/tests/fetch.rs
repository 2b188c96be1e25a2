//! Fetches that go well: rotation, discovery, what is kept and what is retired.

use crate::base::clock::Clock;
use crate::config::Algorithm::{self, Es256, Rs256};
use crate::issuer::tests::fake::{Fake, config};
use crate::issuer::tests::keys::{TestKey, jwks};
use crate::issuer::{DiscoveryError, FetchError, Found, Issuer, KeyLookup, VerifyingKey};
use std::sync::Arc;
use url::Url;

fn found(issuer: &Issuer, kid: Option<&str>, algorithm: Algorithm) -> Option<Arc<VerifyingKey>> {
    match issuer.keys().find(kid, algorithm) {
        Found::Key(key) => Some(key),
        Found::WrongAlgorithm | Found::Unknown => None,
    }
}

#[tokio::test]
async fn a_key_is_found_by_kid_and_only_for_its_algorithm() {
    let (a, b) = (TestKey::es256("a"), TestKey::es256("b"));
    let fake = Fake::start(&[&a, &b]).await;
    let issuer = fake.issuer(&Clock::system());
    assert!(!issuer.is_ready());
    issuer.refresh_now(true).await.unwrap();
    assert!(issuer.is_ready());
    let key = found(&issuer, Some("a"), Es256).unwrap();
    assert!(key.verify(Es256, b"m", &a.sign(b"m")));
    assert!(!key.verify(Es256, b"m", &b.sign(b"m")));
    assert!(matches!(issuer.keys().find(Some("a"), Rs256), Found::WrongAlgorithm));
    assert!(matches!(issuer.keys().find(Some("A"), Es256), Found::Unknown));
    assert!(matches!(issuer.key_now(Some("a"), Rs256), Some(KeyLookup::Unknown)));
}

#[tokio::test]
async fn without_kid_only_a_single_key_is_found() {
    let (a, b) = (TestKey::es256("a"), TestKey::es256("b"));
    let fake = Fake::start(&[&a]).await;
    let issuer = fake.issuer(&Clock::system());
    issuer.refresh_now(true).await.unwrap();
    assert!(found(&issuer, None, Es256).is_some());
    assert!(found(&issuer, None, Rs256).is_none());
    let second_of_a = TestKey::es256("a");
    for published in [[&a, &b], [&a, &second_of_a]] {
        fake.publish(&published);
        issuer.refresh_now(false).await.unwrap();
        assert!(found(&issuer, None, Es256).is_none());
        assert!(matches!(issuer.key_now(None, Es256), Some(KeyLookup::Unknown)));
    }
}

#[tokio::test]
async fn a_removed_key_is_retired_and_a_kept_one_stays_the_same() {
    let (kept, removed, new) = (TestKey::es256("kept"), TestKey::es256("removed"), TestKey::es256("new"));
    let fake = Fake::start(&[&kept, &removed]).await;
    let issuer = fake.issuer(&Clock::system());
    issuer.refresh_now(true).await.unwrap();
    let before = (found(&issuer, Some("kept"), Es256).unwrap(), found(&issuer, Some("removed"), Es256).unwrap());
    fake.publish(&[&new, &kept]);
    issuer.refresh_now(false).await.unwrap();
    assert!(Arc::ptr_eq(&before.0, &found(&issuer, Some("kept"), Es256).unwrap()));
    assert!(!before.0.is_retired() && before.1.is_retired());
    assert!(found(&issuer, Some("removed"), Es256).is_none());
    assert!(found(&issuer, Some("new"), Es256).is_some());
}

#[tokio::test]
async fn another_key_of_the_same_kid_is_another_key() {
    let (old, new) = (TestKey::es256("k"), TestKey::es256("k"));
    let fake = Fake::start(&[&old]).await;
    let issuer = fake.issuer(&Clock::system());
    issuer.refresh_now(true).await.unwrap();
    let before = found(&issuer, Some("k"), Es256).unwrap();
    fake.publish(&[&new]);
    issuer.refresh_now(false).await.unwrap();
    let after = found(&issuer, Some("k"), Es256).unwrap();
    assert!(before.is_retired() && !after.is_retired());
    assert!(!after.verify(Es256, b"m", &old.sign(b"m")) && after.verify(Es256, b"m", &new.sign(b"m")));
}

#[tokio::test]
async fn the_keys_of_another_issuers_document_are_not_fetched() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    fake.say_in_discovery("issuer", "http://evil.test");
    let issuer = fake.issuer(&Clock::system());
    let error = issuer.refresh_now(true).await.unwrap_err();
    assert!(matches!(error, FetchError::Discovery(DiscoveryError::AnotherIssuer { .. })), "{error}");
    assert_eq!((issuer.is_ready(), fake.key_fetches()), (false, 0));
}

#[tokio::test]
async fn keys_at_a_foreign_origin_are_fetched_only_where_it_is_listed() {
    let elsewhere = Fake::start(&[&TestKey::es256("a")]).await;
    let fake = Fake::start(&[]).await;
    fake.say_in_discovery("jwks_uri", &format!("{}/certs", elsewhere.url));
    let error = fake.issuer(&Clock::system()).refresh_now(true).await.unwrap_err();
    assert!(matches!(error, FetchError::Discovery(DiscoveryError::Origin { name: "jwks_uri", .. })), "{error}");
    assert_eq!(elsewhere.key_fetches(), 0);
    let origin = Url::parse(&elsewhere.url).unwrap().origin().ascii_serialization();
    let issuer = fake.issuer_with(&Clock::system(), |config| config.endpoint_origins = vec![origin]);
    issuer.refresh_now(true).await.unwrap();
    assert!(issuer.is_ready());
}

#[tokio::test]
async fn an_issuer_with_a_public_url_is_asked_at_its_address() {
    let public = "https://id.example.com/realms/main";
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    fake.say_in_discovery("issuer", public);
    fake.say_in_discovery("jwks_uri", &format!("{public}/certs"));
    let address = Url::parse(&fake.url).unwrap();
    let issuer = fake.issuer_with(&Clock::system(), |config| {
        config.url = public.to_owned();
        config.address = Some(address);
    });
    issuer.refresh_now(true).await.unwrap();
    assert!(issuer.is_ready());
    assert_eq!(issuer.endpoints().unwrap().jwks.as_str(), format!("{}/certs", fake.url));
}

#[tokio::test]
async fn an_issuer_over_tls_is_asked_only_where_its_authority_is_trusted() {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, pair.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key.into())
        .unwrap();
    let fake = Fake::start_tls(&[&TestKey::es256("a")], tokio_rustls::TlsAcceptor::from(Arc::new(tls))).await;
    let error = fake.issuer(&Clock::system()).refresh_now(true).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let issuer = fake.issuer_with(&Clock::system(), |config| config.ca = Some(ca));
    issuer.refresh_now(true).await.unwrap();
    assert!(issuer.is_ready());
}

#[tokio::test]
async fn an_early_fetch_asks_for_the_keys_alone() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    let issuer = fake.issuer(&Clock::system());
    for with_discovery in [false, false, true] {
        issuer.refresh_now(with_discovery).await.unwrap();
    }
    let documents = fake.requests("/realms/main/.well-known/openid-configuration").len();
    assert_eq!((documents, fake.key_fetches()), (2, 3));
}

#[tokio::test]
async fn an_issuer_from_a_text_has_its_keys_for_ever() {
    let (key, clock) = (TestKey::es256("a"), Clock::manual(1_000));
    let text = String::from_utf8(jwks(std::slice::from_ref(&key.jwk))).unwrap();
    let issuer = Issuer::offline(Arc::new(config("https://id.example.com")), clock.clone(), &text).unwrap();
    clock.advance(std::time::Duration::from_secs(1_000_000));
    assert!(issuer.is_ready() && issuer.is_fresh(clock.now()));
    assert!(matches!(issuer.key_for(Some("a"), Es256).await, KeyLookup::Key(_)));
    assert!(matches!(issuer.key_for(Some("b"), Es256).await, KeyLookup::Unknown));
    assert!(matches!(issuer.introspect("token").await, Err(crate::issuer::IntrospectError::NotConfigured)));
}

#[tokio::test]
async fn a_reload_takes_the_keys_over_only_from_the_same_issuer() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    let clock = Clock::system();
    let former = fake.issuer(&clock);
    former.refresh_now(true).await.unwrap();
    let same = fake.issuer_with(&clock, |config| config.leeway = std::time::Duration::ZERO);
    same.adopt(&former);
    let key = found(&same, Some("a"), Es256).unwrap();
    assert!(Arc::ptr_eq(&key, &found(&former, Some("a"), Es256).unwrap()) && same.is_fresh(clock.now()));
    let other = fake.issuer_with(&clock, |config| config.url.push('/'));
    other.adopt(&former);
    assert!(!other.is_ready());
}
