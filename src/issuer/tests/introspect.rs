//! Introspection against a socket.

use crate::base::clock::Clock;
use crate::config::UserStatus;
use crate::issuer::tests::fake::{Fake, Mode, introspection};
use crate::issuer::tests::keys::TestKey;
use crate::issuer::{IntrospectError, Introspected, Issuer};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn start(timeout: Duration) -> (Arc<Fake>, Arc<Issuer>) {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    let issuer = fake.issuer_with(&Clock::system(), |config| {
        config.keys.timeout = Duration::from_secs(3600); // Its own timeout is what counts here.
        config.user_status = introspection();
        if let UserStatus::Introspection(introspection) = &mut config.user_status {
            introspection.timeout = timeout;
        }
    });
    (fake, issuer)
}

#[tokio::test]
async fn the_token_is_posted_with_our_credentials() {
    let (fake, issuer) = start(Duration::from_secs(5)).await;
    assert!(matches!(issuer.introspect("a.b.c").await, Err(IntrospectError::NoEndpoint)));
    issuer.refresh_now(true).await.unwrap();
    fake.answer_introspection(200, r#"{"active":true,"sub":"u","realm_access":{"roles":["a"]}}"#);
    let Ok(Introspected::Active(claims)) = issuer.introspect("a.b+c/d=").await else { panic!("not active") };
    assert_eq!(claims.to_value(), json!({"active": true, "sub": "u", "realm_access": {"roles": ["a"]}}));
    fake.answer_introspection(200, r#"{"active":false}"#);
    assert_eq!(issuer.introspect("a.b.c").await.unwrap(), Introspected::Inactive);
    let [request, _] = fake.requests("/realms/main/introspect").try_into().unwrap();
    let lower = request.to_lowercase();
    assert!(request.starts_with("POST ") && request.ends_with("\r\n\r\ntoken=a.b%2Bc%2Fd%3D"), "{request}");
    assert!(lower.contains("content-type: application/x-www-form-urlencoded\r\n"), "{request}");
    // gateway:s3cr%3Aet
    assert!(request.contains(": Basic Z2F0ZXdheTpzM2NyJTNBZXQ=\r\n"), "{request}");
}

#[tokio::test]
async fn our_own_refused_credentials_are_not_an_inactive_user() {
    let (fake, issuer) = start(Duration::from_secs(5)).await;
    issuer.refresh_now(true).await.unwrap();
    for status in [401, 403] {
        fake.answer_introspection(status, r#"{"active":false,"error":"invalid_client"}"#);
        assert!(matches!(issuer.introspect("t").await, Err(IntrospectError::CredentialsRefused)), "{status}");
    }
    assert!(issuer.credentials_refused.load(Ordering::Relaxed));
    fake.answer_introspection(200, r#"{"active":false}"#);
    assert_eq!(issuer.introspect("t").await.unwrap(), Introspected::Inactive);
    assert!(!issuer.credentials_refused.load(Ordering::Relaxed));
    let counters = issuer.counters();
    let counted = [&counters.introspections, &counters.introspection_failures].map(|one| one.load(Ordering::Relaxed));
    assert_eq!(counted, [3, 2]);
}

#[tokio::test]
async fn nothing_but_a_sound_answer_tells_anything() {
    let (fake, issuer) = start(Duration::from_secs(5)).await;
    issuer.refresh_now(true).await.unwrap();
    for (status, body) in [
        (200, "<html>maintenance</html>"),
        (200, "{}"),
        (200, r#"{"active":"false"}"#),
        (200, ""),
        (201, r#"{"active":true}"#),
        (204, ""),
        (400, r#"{"active":false}"#),
        (404, r#"{"active":false}"#),
        (500, r#"{"active":false}"#),
    ] {
        fake.answer_introspection(status, body);
        let result = issuer.introspect("the-token").await;
        assert!(matches!(result, Err(IntrospectError::Unavailable(_))), "{status} {body}: {result:?}");
    }
    for mode in [Mode::Closes, Mode::Huge, Mode::Endless, Mode::Redirects] {
        fake.set_mode(mode);
        check_unavailable(&issuer).await;
    }
}

#[tokio::test]
async fn an_answer_is_not_waited_for_beyond_the_timeout() {
    let (fake, issuer) = start(Duration::from_millis(300)).await;
    issuer.refresh_now(true).await.unwrap();
    for mode in [Mode::Hangs, Mode::Drips] {
        fake.set_mode(mode);
        let waited = tokio::time::timeout(Duration::from_secs(60), check_unavailable(&issuer)).await;
        assert!(waited.is_ok(), "{mode:?}: still waiting");
    }
}

/// There is no answer, and the error names the endpoint but neither token nor secret.
async fn check_unavailable(issuer: &Issuer) {
    let error = issuer.introspect("the-token").await.unwrap_err();
    assert!(matches!(error, IntrospectError::Unavailable(_)), "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("/realms/main/introspect"), "{text}");
    assert!(!text.contains("the-token") && !text.contains("s3cr"), "{text}");
}
