//! Tokens that a user has.

use super::server::{INTROSPECT, NOW, Realm};
use crate::base::secret::Secret;
use crate::config::{Issuer, UserStatus};
use crate::doctor::{Severity, Token, TokenError};
use serde_json::{Value, json};

/// What is said of a token when introspection answers so.
#[track_caller]
fn assert_said(report: &crate::doctor::Report, severity: Severity, words: &str) {
    let said: Vec<_> = report.issuers[0].findings.iter().filter(|finding| finding.check == "token").collect();
    let is_said = said.iter().any(|finding| finding.severity == severity && finding.to_string().contains(words));
    assert!(is_said, "{severity:?} {words}\n{report}");
    assert!(said.iter().all(|finding| finding.found.starts_with("token in `alice.jwt`: ")), "{report}");
    assert_eq!(report.content, severity != Severity::Broken, "{report}");
}

fn answer_to(realm: &Realm, change: impl FnOnce(&mut Value)) {
    let mut answer = realm.user_claims();
    answer["active"] = true.into();
    change(&mut answer);
    realm.answer(INTROSPECT, 200, &answer);
}

/// The issuer with another client.
fn named(issuer: &Issuer, client_id: &str) -> Issuer {
    let mut issuer = issuer.clone();
    if let UserStatus::Keycloak(status) = &mut issuer.user_status {
        status.introspection.client_id = client_id.to_owned();
    }
    issuer
}

fn remove(name: &'static str) -> impl FnOnce(&mut Value) {
    move |claims| drop(claims.as_object_mut().unwrap().remove(name))
}

#[tokio::test]
async fn a_token_that_has_all_that_is_needed_is_let_in() {
    let realm = Realm::start().await;
    answer_to(&realm, |_| ());
    for source in ["keycloak", "introspection"] {
        let report = realm.examined(&realm.config(source, ""), &[realm.user_token(|_| ())]).await;
        assert_said(&report, Severity::Ok, "active");
        assert!(!report.to_string().contains("--token"), "{report}");
    }
}

#[tokio::test]
async fn a_token_that_names_no_audience_of_ours_is_broken_with_the_mapper_to_add() {
    let realm = Realm::start().await;
    realm.answer(INTROSPECT, 200, &json!({ "active": false }));
    let config = realm.config("keycloak", "");
    let token = realm.user_token(|claims| claims["aud"] = "account".into());
    let report = realm.examined(&config, &[token]).await;
    assert_said(&report, Severity::Broken, "its `aud` holds none of `gateway`");
    assert_said(&report, Severity::Broken, "Included Client Audience `gateway`");
    // Our audience is there, and the client that asks is another.
    let mut other = config.clone();
    other.issuers[0] = std::sync::Arc::new(named(&config.issuers[0], "asker"));
    let report = realm.examined(&other, &[realm.user_token(|_| ())]).await;
    assert_said(&report, Severity::Broken, "inactive for `asker`, which is not in its `aud`");
    // In `aud`, and inactive all the same.
    let report = realm.examined(&config, &[realm.user_token(|_| ())]).await;
    assert_said(&report, Severity::Unknown, "its session has ended");
}

#[tokio::test]
async fn a_lightweight_token_needs_an_issuer_that_takes_them_and_an_answer_that_has_the_rest() {
    let realm = Realm::start().await;
    let light = || {
        realm.user_token(|claims| {
            remove("sub")(claims);
            remove("aud")(claims);
        })
    };
    answer_to(&realm, |_| ());
    let report = realm.examined(&realm.config("keycloak", ""), &[light()]).await;
    assert_said(&report, Severity::Broken, "it is a lightweight token");
    let config = realm.config_with("lightweight = true", "keycloak", "");
    assert_said(&realm.examined(&config, &[light()]).await, Severity::Ok, "active");
    answer_to(&realm, remove("aud"));
    assert_said(&realm.examined(&config, &[light()]).await, Severity::Broken, "claim `aud` is missing");
    realm.answer(INTROSPECT, 200, &json!({ "active": false }));
    assert_said(&realm.examined(&config, &[light()]).await, Severity::Broken, "`gateway` is not an audience of it");
}

#[tokio::test]
async fn what_introspection_leaves_out_is_named() {
    let realm = Realm::start().await;
    let config = realm.config("keycloak", "");
    answer_to(&realm, |answer| {
        remove("namespace")(answer);
        remove("realm_access")(answer);
    });
    let report = realm.examined(&config, &[realm.user_token(|_| ())]).await;
    assert_said(&report, Severity::Broken, "leaves out `realm_access.roles`, `namespace`, which the token has");
    answer_to(&realm, remove("jti"));
    let report = realm.examined(&config, &[realm.user_token(|_| ())]).await;
    assert_said(&report, Severity::Note, "describes it in part");
    answer_to(&realm, remove("namespace"));
    let report = realm.examined(&config, &[realm.user_token(remove("namespace"))]).await;
    assert_said(&report, Severity::Note, "it has no claim `namespace`");
    answer_to(&realm, |answer| answer["sub"] = "mallory".into());
    let report = realm.examined(&config, &[realm.user_token(|_| ())]).await;
    assert_said(&report, Severity::Broken, "the answer of introspection is refused");
}

#[tokio::test]
async fn a_token_that_is_over_or_of_another_kind_is_said_to_be_that() {
    let realm = Realm::start().await;
    answer_to(&realm, |_| ());
    let config = realm.config("keycloak", "");
    let report = realm.examined(&config, &[realm.user_token(|claims| claims["exp"] = (NOW - 1).into())]).await;
    assert_said(&report, Severity::Unknown, "it has expired");
    let report = realm.examined(&config, &[realm.user_token(|claims| claims["typ"] = "ID".into())]).await;
    assert_said(&report, Severity::Broken, "is not `Bearer`");
    let config = realm.config_with("algorithms = [\"RS256\", \"ES256\"]", "keycloak", "");
    assert_said(&realm.examined(&config, &[realm.user_token(|_| ())]).await, Severity::Ok, "active");
    let hmac = ["eyJhbGciOiJIUzI1NiJ9", realm.user_token(|_| ()).text.expose().split_once('.').unwrap().1].join(".");
    let token = Token { name: "alice.jwt".to_owned(), text: Secret::new(hmac) };
    assert_said(&realm.examined(&config, &[token]).await, Severity::Broken, "Access token signature algorithm");
}

#[tokio::test]
async fn a_token_of_no_issuer_of_the_configuration_is_refused_before_anybody_is_asked() {
    let realm = Realm::start().await;
    let config = realm.config("keycloak", "");
    let foreign = realm.user_token(|claims| claims["iss"] = "https://other.test".into());
    let error = realm.try_examine(&config, &[foreign]).await.unwrap_err();
    assert!(matches!(&error, TokenError::Foreign { issuer, .. } if issuer == "https://other.test"), "{error}");
    let opaque = || Token { name: "alice.jwt".to_owned(), text: Secret::new("opaque") };
    let error = realm.try_examine(&config, &[opaque()]).await.unwrap_err();
    assert!(matches!(error, TokenError::Opaque { .. }), "{error}");
    assert_eq!(realm.asked(), Vec::<String>::new());
    answer_to(&realm, |_| ());
    let report = realm.examined(&realm.config_with("opaque = true", "keycloak", ""), &[opaque()]).await;
    assert_said(&report, Severity::Ok, "active");
}
