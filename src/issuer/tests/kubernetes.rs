//! API servers, which show their keys only to those who show a token.

use crate::base::clock::Clock;
use crate::config::IssuerKind;
use crate::issuer::tests::fake::Fake;
use crate::issuer::tests::keys::TestKey;
use crate::issuer::{FetchError, Issuer};
use std::path::Path;
use std::sync::Arc;

fn cluster(fake: &Fake, token: Option<&Path>) -> Arc<Issuer> {
    fake.issuer_with(&Clock::system(), |config| {
        config.kind = IssuerKind::Kubernetes { token: token.map(Path::to_owned), user_tokens: Vec::new() };
    })
}

#[tokio::test]
async fn the_token_is_shown_for_the_document_and_the_keys_as_it_is_in_its_file_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    let issuer = cluster(&fake, Some(&path));
    for token in ["first", "second"] {
        fake.ask_for_token(token);
        std::fs::write(&path, format!("{token}\n")).unwrap();
        issuer.refresh_now(true).await.unwrap();
        assert!(issuer.is_ready());
    }
    for path in ["/realms/main/.well-known/openid-configuration", "/realms/main/certs"] {
        let seen = fake.requests(path);
        assert_eq!(seen.len(), 2);
        assert!(seen[1].contains("\r\nauthorization: Bearer second\r\n"), "{}", seen[1]);
        // Else a real one answers 406 when it is asked for its keys.
        let accept = seen[1].lines().find(|line| line.to_ascii_lowercase().starts_with("accept:"));
        assert!(accept.is_some_and(|line| line.contains("application/jwk-set+json")), "{accept:?}");
    }
}

#[tokio::test]
async fn without_a_token_or_with_a_bad_one_the_keys_known_so_far_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    fake.ask_for_token("right");
    let stranger = cluster(&fake, None);
    let error = stranger.refresh_now(true).await.unwrap_err();
    assert!(error.to_string().ends_with("answered 403"), "{error}");
    let issuer = cluster(&fake, Some(&path));
    let error = issuer.refresh_now(true).await.unwrap_err();
    assert!(matches!(error, FetchError::Token { .. }), "{error}");
    std::fs::write(&path, "right").unwrap();
    issuer.refresh_now(true).await.unwrap();
    for bad in ["wrong", "", "a\nb", "\u{7f}"] {
        std::fs::write(&path, bad).unwrap();
        let error = issuer.refresh_now(true).await.unwrap_err();
        assert!(issuer.is_ready() && !error.to_string().contains("wrong"), "{error}");
    }
}

#[tokio::test]
async fn other_issuers_are_shown_nothing() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    fake.issuer(&Clock::system()).refresh_now(true).await.unwrap();
    let seen = fake.requests("/realms/main/certs");
    assert!(!seen[0].contains("authorization:"), "{}", seen[0]);
}
