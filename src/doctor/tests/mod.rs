//! The whole of it, against a server that stands in for Keycloak.

mod server;
mod tokens;

use super::Severity;
use serde_json::json;
use server::{ADMIN, DISCOVERY, INTROSPECT, NOW, Realm, TOKEN, events, profile};
use std::time::Duration;

const LOGOUT: &str = "backchannel_logout = { clients = [\"cli\"] }";

#[tokio::test]
async fn a_realm_that_is_set_up_well_leaves_nothing_but_the_tokens_of_users_to_ask_for() {
    let realm = Realm::start().await;
    let report = realm.examined(&realm.config("keycloak", LOGOUT), &[]).await;
    assert!(report.content, "{report}");
    let open: Vec<_> = report.issuers[0].findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
    let checks: Vec<_> = open.iter().map(|finding| (finding.severity, finding.check)).collect();
    assert_eq!(checks, [(Severity::Unknown, "audience"), (Severity::Note, "ceiling")], "{report}");
}

#[tokio::test]
async fn it_reads_and_asks_for_tokens_and_does_nothing_else() {
    let realm = Realm::start().await;
    realm.examined(&realm.config("keycloak", LOGOUT), &[]).await;
    for line in realm.asked() {
        let (method, path) = line.split_once(' ').unwrap();
        let is_read = method == "GET" || (method == "POST" && (path == TOKEN || path == INTROSPECT));
        assert!(is_read, "{line}");
    }
}

#[tokio::test]
async fn a_realm_that_is_set_up_badly_is_described_line_by_line() {
    let realm = Realm::start().await;
    spoil(&realm);
    let report = realm.examined(&realm.config("keycloak", LOGOUT), &[]).await;
    assert!(!report.content);
    let text = report.to_string().replace(&realm.url, "http://keycloak.test");
    let expected = include_str!("spoiled.txt");
    assert_eq!(text, expected, "\n{text}");
    let json = serde_json::to_value(&report).unwrap();
    let first = &json["issuers"][0]["findings"][2];
    assert_eq!((json["content"].as_bool(), first["severity"].as_str()), (Some(false), Some("risk")), "{json:#}");
}

fn spoil(realm: &Realm) {
    let issuer = "http://postern-doctor.invalid/realms/demo";
    let document = json!({ "issuer": issuer, "jwks_uri": issuer, "introspection_endpoint": issuer });
    realm.answer(&format!("unpinned {DISCOVERY}"), 200, &document);
    realm.grant(NOW - 60, &["gateway", "realm-management"], Some(&["view-users", "query-users", "manage-users"]));
    realm.answer(INTROSPECT, 200, &json!({ "active": false }));
    let mut stored = events();
    stored["adminEventsDetailsEnabled"] = false.into();
    stored["eventsExpiration"] = 30.into();
    stored["enabledEventTypes"] =
        json!(["LOGIN", "LOGOUT", "DELETE_ACCOUNT", "UPDATE_PROFILE", "UPDATE_EMAIL", "VERIFY_EMAIL"]);
    realm.answer(&format!("{ADMIN}/events/config"), 200, &stored);
    realm.answer(&format!("{ADMIN}/users/profile"), 200, &profile("user"));
    // What is left of it without `view-realm`.
    realm.answer(ADMIN, 200, &json!({ "realm": "demo", "bruteForceProtected": false }));
    realm.answer(&format!("{ADMIN}/clients"), 403, &json!({ "error": "HTTP 403 Forbidden" }));
}

#[tokio::test]
async fn what_may_not_be_read_is_unknown_and_names_the_role() {
    let realm = Realm::start().await;
    for path in ["/events/config", "/users/profile", "/clients", ""] {
        realm.answer(&format!("{ADMIN}{path}"), 403, &json!({ "error": "HTTP 403 Forbidden" }));
    }
    let report = realm.examined(&realm.config("keycloak", LOGOUT), &[]).await;
    let unknown: Vec<_> =
        report.issuers[0].findings.iter().filter(|finding| finding.severity == Severity::Unknown).skip(1).collect();
    let expected = [
        ("events", "view-events"),
        ("namespace", "view-users"),
        ("lifetimes", "view-realm"),
        ("logout", "view-clients"),
    ];
    assert_eq!(unknown.len(), expected.len(), "{report}");
    for (finding, (check, role)) in unknown.iter().zip(expected) {
        assert!(finding.check == check && finding.found.contains(role), "{finding}");
    }
    assert!(report.content, "{report}");
}

#[tokio::test]
async fn a_wrong_secret_and_a_missing_service_account_are_told_apart() {
    let realm = Realm::start().await;
    realm.answer(TOKEN, 401, &json!({ "error": "unauthorized_client" }));
    let last = |report: &super::Report| report.issuers[0].findings.last().unwrap().to_string();
    let line = last(&realm.examined(&realm.config("keycloak", ""), &[]).await);
    assert!(line.starts_with("broken   client    client `gateway` has no service account"), "{line}");
    realm.answer(INTROSPECT, 401, &json!({ "error": "invalid_client" }));
    for source in ["keycloak", "introspection"] {
        let line = last(&realm.examined(&realm.config(source, ""), &[]).await);
        assert!(line.starts_with("broken   client    the issuer refuses client `gateway`"), "{line}");
    }
}

#[tokio::test]
async fn the_client_that_ends_sessions_is_looked_at_too() {
    let realm = Realm::start().await;
    let other =
        "end_sessions = true\nend_sessions_client = { client_id = \"ender\", client_secret = { file = \"secret\" } }";
    let report = realm.examined(&realm.config("keycloak", other), &[]).await;
    assert!(report.to_string().contains("the service account of `ender` lacks `manage-users`"), "{report}");
    let report = realm.examined(&realm.config("keycloak", "end_sessions = true"), &[]).await;
    assert!(report.to_string().contains("the service account of `gateway` lacks `manage-users`"), "{report}");
    assert!(!report.content);
}

#[tokio::test]
async fn an_issuer_that_knows_sessions_only_is_introspected_and_that_is_said() {
    let realm = Realm::start().await;
    let report = realm.examined(&realm.config("introspection", ""), &[]).await;
    assert!(report.content && report.to_string().contains("knows the end of sessions only"), "{report}");
    assert!(realm.asked().iter().all(|line| !line.contains(ADMIN)), "{:?}", realm.asked());
}

#[tokio::test]
async fn another_issuer_or_no_keys_are_broken() {
    let realm = Realm::start().await;
    realm.answer("/realms/demo/certs", 200, &json!({ "keys": [] }));
    let report = realm.examined(&realm.config("keycloak", ""), &[]).await;
    assert!(report.to_string().contains("broken   keys"), "{report}");
    let document = json!({ "issuer": "https://other.test/realms/demo", "jwks_uri": "https://other.test/certs" });
    realm.answer(DISCOVERY, 200, &document);
    let report = realm.examined(&realm.config("keycloak", ""), &[]).await;
    assert!(
        report.to_string().contains("broken   discovery the document is of issuer `https://other.test"),
        "{report}"
    );
    realm.answer(DISCOVERY, 404, &json!({ "error": "Realm does not exist" }));
    let report = realm.examined(&realm.config("keycloak", ""), &[]).await;
    assert!(report.issuers[0].findings.len() == 1 && report.to_string().contains("answered 404"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_slow_does_not_hold_it_up_for_longer_than_a_minute() {
    let realm = Realm::start_slow(Duration::from_secs(4)).await;
    let began = tokio::time::Instant::now();
    let report = realm.examined(&realm.config("keycloak", "timeout = \"5s\"\nbound = \"40s\""), &[]).await;
    assert!(began.elapsed() <= Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(!report.content && report.to_string().contains("not everything was looked at within 50s"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_never_answers_is_said_to_be_unreachable() {
    let realm = Realm::start_slow(Duration::from_secs(3600)).await;
    let report = realm.examined(&realm.config("keycloak", ""), &[]).await;
    assert!(!report.content && report.to_string().contains(&realm.url["http://".len()..]), "{report}");
    assert_eq!(report.issuers[0].findings.len(), 1, "{report}");
}
