//! The client against a server that lies, hangs, breaks and refuses.

use super::server::{Reaction, Server, TOKEN, secret};
use crate::base::clock::Clock;
use crate::base::http_client::HttpError;
use crate::config::EndSessions;
use crate::issuer::keycloak::{DisabledPage, Feed, IssuerSpan, Keycloak, KeycloakError, Session, User, UserState};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

const ALICE: &str = "/admin/realms/demo/users/alice";

fn alice(enabled: bool) -> String {
    json!({"id": "alice", "username": "alice", "enabled": enabled, "notBefore": 7, "attributes": {}}).to_string()
}

async fn start() -> (Server, Keycloak) {
    let server = Server::start().await;
    server.answer(ALICE, 200, alice(true));
    let client = server.client(Clock::system(), |_| ());
    (server, client)
}

fn with_managers(server: &Server) -> Keycloak {
    let manager = EndSessions { client_id: "manager".to_owned(), client_secret: secret("m") };
    server.client(Clock::system(), |status| status.end_sessions = Some(manager))
}

#[tokio::test]
async fn a_token_is_had_once_and_held_until_it_is_old() {
    let server = Server::start().await;
    server.answer(ALICE, 200, alice(true));
    let clock = Clock::manual(5_000);
    let client = server.client(clock.clone(), |_| ());
    let (one, other) = tokio::join!(client.user("alice"), client.user("alice"));
    let expected = UserState::Present(User { enabled: true, is_federated: false, not_before_ms: 7_000 });
    assert_eq!([one.unwrap().value, other.unwrap().value], [expected; 2]);
    let grants = || server.asked().iter().filter(|line| line.contains(TOKEN)).count();
    assert_eq!(grants(), 1);
    clock.advance(Duration::from_secs(59));
    client.user("alice").await.unwrap();
    assert_eq!(grants(), 1);
    clock.advance(Duration::from_secs(1));
    server.grant("second", 1_060, 15);
    client.user("alice").await.unwrap();
    assert_eq!(grants(), 2);
    assert!(server.requests().last().unwrap().contains(".second\r\n"));
    // The second lives for 15 seconds; its last 10 are left for what is under way.
    clock.advance(Duration::from_secs(5));
    client.user("alice").await.unwrap();
    assert_eq!(grants(), 3);
}

#[tokio::test]
async fn a_token_that_is_still_good_is_used_while_no_new_one_is_to_be_had() {
    let server = Server::start().await;
    server.answer(ALICE, 200, alice(true));
    let clock = Clock::manual(5_000);
    let client = server.client(clock.clone(), |_| ());
    client.user("alice").await.unwrap();
    server.answer(TOKEN, 500, "");
    clock.advance(Duration::from_secs(61));
    client.user("alice").await.unwrap();
    client.user("alice").await.unwrap();
    assert_eq!(server.asked().iter().filter(|line| line.contains(TOKEN)).count(), 2);
    clock.advance(Duration::from_secs(3600));
    client.user("alice").await.unwrap_err();
}

#[tokio::test]
async fn those_who_wait_for_a_token_share_its_failure() {
    let server = Server::start().await;
    let clock = Clock::manual(5_000);
    let client = server.client(clock.clone(), |_| ());
    server.answer(TOKEN, 500, "");
    let (one, other) = tokio::join!(client.user("alice"), client.user("alice"));
    assert!(one.is_err() && matches!(other, Err(KeycloakError::NoToken)), "{other:?}");
    assert_eq!(server.asked().len(), 1);
    clock.advance(Duration::from_millis(1));
    client.user("alice").await.unwrap_err();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_then_nothing_is_known() {
    let (server, client) = start().await;
    client.user("alice").await.unwrap();
    server.answer(ALICE, 401, r#"{"error":"HTTP 401 Unauthorized"}"#);
    let before = server.asked().len();
    let error = client.user("alice").await.unwrap_err();
    assert!(matches!(error, KeycloakError::CredentialsRefused), "{error}");
    let after: Vec<_> = server.asked().split_off(before);
    assert_eq!(after, [format!("GET {ALICE}"), format!("POST {TOKEN}"), format!("GET {ALICE}")]);
    assert!(client.counters().credentials_refused.load(Ordering::Relaxed));
    assert_eq!(client.counters().unauthorized.load(Ordering::Relaxed), 1);
    server.answer(ALICE, 200, alice(false));
    client.user("alice").await.unwrap();
    assert!(!client.counters().credentials_refused.load(Ordering::Relaxed));
}

#[tokio::test]
async fn refused_credentials_are_no_news_of_a_user() {
    let (server, client) = start().await;
    for status in [400, 401, 403] {
        server.answer(TOKEN, status, r#"{"error":"unauthorized_client"}"#);
        let error = client.user("alice").await.unwrap_err();
        assert!(matches!(error, KeycloakError::CredentialsRefused), "{status}: {error}");
        assert!(client.counters().credentials_refused.load(Ordering::Relaxed));
    }
    for body in [
        "<html>",
        "{}",
        r#"{"access_token":"no-jwt","expires_in":60}"#,
        r#"{"access_token":"a.e30.c","expires_in":60}"#,
    ] {
        server.answer(TOKEN, 200, body);
        client.user("alice").await.unwrap_err();
    }
    assert!(server.asked().iter().all(|line| line.contains(TOKEN)), "nothing was asked without a token");
}

#[tokio::test]
async fn a_user_is_deleted_only_by_keycloaks_own_words() {
    let (server, client) = start().await;
    server.answer(ALICE, 404, r#"{"error":"User not found"}"#);
    assert_eq!(client.user("alice").await.unwrap().value, UserState::Deleted);
    let lies = [
        (200, "<html>maintenance</html>".to_owned()),
        (200, String::new()),
        (200, "{}".to_owned()),
        (200, "null".to_owned()),
        (200, json!({"id": "bob", "enabled": false}).to_string()),
        (200, json!({"id": "alice"}).to_string()),
        (200, json!({"id": "alice", "enabled": "false"}).to_string()),
        (200, r#"{"error":"User not found"}"#.to_owned()),
        (204, String::new()),
        (302, String::new()),
        (403, r#"{"error":"HTTP 403 Forbidden"}"#.to_owned()),
        (404, String::new()),
        (404, r#"{"error":"Realm not found."}"#.to_owned()),
        (404, r#"{"error":"HTTP 404 Not Found"}"#.to_owned()),
        (404, "<html>404 page not found</html>".to_owned()),
        (500, r#"{"error":"unknown_error"}"#.to_owned()),
        (503, r#"{"error":"User not found"}"#.to_owned()),
    ];
    for (status, body) in lies {
        server.answer(ALICE, status, body.clone());
        let result = client.user("alice").await;
        assert!(result.is_err(), "{status} {body}: {result:?}");
    }
    for id in ["", ".", ".."] {
        assert!(matches!(client.user(id).await, Err(KeycloakError::NoId)), "{id:?}");
    }
}

#[tokio::test]
async fn nothing_is_waited_for_and_nothing_is_read_without_end() {
    let server = Server::start().await;
    let client = server.client(Clock::system(), |status| status.introspection.timeout = Duration::from_millis(400));
    server.react(ALICE, Reaction::Closes);
    assert!(matches!(client.user("alice").await, Err(KeycloakError::Http(HttpError::Unreachable { .. }))));
    server.react(ALICE, Reaction::Hangs);
    assert!(matches!(client.user("alice").await, Err(KeycloakError::Http(HttpError::Timeout { .. }))));
    let patient = server.client(Clock::system(), |_| ());
    server.react(ALICE, Reaction::Endless);
    let error = patient.user("alice").await.unwrap_err();
    assert!(matches!(error, KeycloakError::Http(HttpError::TooLarge { .. })), "{error}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("first") && !text.contains("s3cr"), "{text}");
}

#[tokio::test]
async fn a_list_of_everybody_disables_nobody() {
    let (server, client) = start().await;
    let rows = json!([{"id": "a", "enabled": true}, {"id": "b", "enabled": false}, {"id": "..", "enabled": false}, {"id": "c\n", "enabled": false}]);
    server.answer("/admin/realms/demo/users", 200, rows.to_string());
    let page = client.disabled_users(0).await.unwrap().value;
    assert_eq!(page, DisabledPage { users: vec!["b".to_owned(), "c\n".to_owned()], next: None });
    assert!(server.asked().last().unwrap().contains("enabled=false&briefRepresentation=true&first=0&max=500"));
    let full: Vec<_> = (0..500).map(|n| json!({"id": n.to_string(), "enabled": false})).collect();
    server.answer("/admin/realms/demo/users", 200, json!(full).to_string());
    assert_eq!(client.disabled_users(480).await.unwrap().value.next, Some(960));
    for body in [r#"{"error":"x"}"#, r#"[{"id":"b"}]"#, "<html>", ""] {
        server.answer("/admin/realms/demo/users", 200, body);
        client.disabled_users(0).await.unwrap_err();
    }
}

#[tokio::test]
async fn sessions_are_those_of_the_user_that_was_asked_for() {
    let (server, client) = start().await;
    let path = format!("{ALICE}/sessions");
    server.answer(&path, 200, json!([{"id": "s1", "userId": "alice", "start": 9_000, "username": "x"}]).to_string());
    let sessions = client.sessions("alice").await.unwrap().value;
    assert_eq!(sessions, Some(vec![Session { id: "s1".to_owned(), began_ms: 9_000 }]));
    server.answer(&path, 404, r#"{"error":"User not found"}"#);
    assert_eq!(client.sessions("alice").await.unwrap().value, None);
    for body in
        [json!([{"id": "s1", "userId": "bob", "start": 9}]), json!([{"id": "s1", "userId": "alice"}]), json!({})]
    {
        server.answer(&path, 200, body.to_string());
        client.sessions("alice").await.unwrap_err();
    }
}

#[tokio::test]
async fn all_sessions_are_ended_or_only_those_that_are_surely_older() {
    let (server, _) = start().await;
    let client = with_managers(&server);
    assert!(matches!(client.end_sessions("..", None).await, Err(KeycloakError::NoId)));
    server.answer(&format!("{ALICE}/logout"), 204, "");
    client.end_sessions("alice", None).await.unwrap();
    let row = |id: &str, start: u64| json!({"id": id, "userId": "alice", "start": start});
    let rows = json!([row("old", 8_000), row("same", 9_000), row("new", 10_000)]);
    server.answer(&format!("{ALICE}/sessions"), 200, rows.to_string());
    server.answer("/admin/realms/demo/sessions/old", 204, "");
    client.end_sessions("alice", Some(9_500)).await.unwrap();
    let ended: Vec<_> = server.asked().into_iter().filter(|line| line.starts_with("DELETE")).collect();
    assert_eq!(ended.len(), 1);
    assert!(ended[0].contains("/sessions/old"));
    server.answer("/admin/realms/demo/sessions/old", 500, "");
    client.end_sessions("alice", Some(9_500)).await.unwrap_err();
    let reader = server.client(Clock::system(), |_| ());
    assert!(matches!(reader.end_sessions("alice", None).await, Err(KeycloakError::NoManager)));
}

#[tokio::test]
async fn only_events_that_the_realm_keeps_are_asked_for() {
    let (server, client) = start().await;
    let config = json!({"eventsEnabled": true, "adminEventsEnabled": true, "adminEventsDetailsEnabled": false,
        "enabledEventTypes": ["LOGIN", "CODE_TO_TOKEN", "LOGOUT"]});
    server.answer("/admin/realms/demo/events/config", 200, config.to_string());
    let config = client.events_config().await.unwrap();
    assert_eq!(
        (config.has_admin_events, config.has_details, config.has_user_events, config.has_lockouts),
        (true, false, true, false)
    );
    server.answer("/admin/realms/demo/events", 200, "[]");
    client.events(Feed::User, 17, 980).await.unwrap();
    let asked = server.asked().pop().unwrap();
    assert!(asked.contains("/events?dateFrom=17&direction=asc&first=980&max=1000&type=LOGIN&type=LOGOUT"), "{asked}");
    for (status, body) in
        [(200, "<html>"), (200, "{}"), (403, "{}"), (404, r#"{"error":"User not found"}"#), (500, "[]")]
    {
        server.answer("/admin/realms/demo/events", status, body);
        client.events(Feed::User, 17, 0).await.unwrap_err();
    }
    server.answer("/admin/realms/demo/events/config", 200, "{}");
    assert!(!client.events_config().await.unwrap().has_admin_events);
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_in_parts() {
    let (server, client) = start().await;
    let row = |id: usize| json!({"id": id.to_string(), "time": id, "operationType": "UPDATE", "resourceType": "REALM"});
    server.react("/admin/realms/demo/admin-events", Reaction::Endless);
    let rows: Vec<_> = (1..=10).map(row).collect();
    let small = "/admin/realms/demo/admin-events?dateFrom=0&direction=asc&first=0&max=10";
    server.answer(small, 200, json!(rows).to_string());
    let page = client.events(Feed::Admin, 0, 0).await.unwrap().value;
    assert_eq!((page.rows, page.is_full, page.newest_ms), (10, true, 10));
}

#[tokio::test]
async fn the_issuers_clock_is_read_from_the_token_and_asked_anew_on_demand() {
    let server = Server::start().await;
    let clock = Clock::manual(5_000);
    let client = server.client(clock.clone(), |_| ());
    assert_eq!(client.time(), None);
    let span = IssuerSpan { earliest_ms: 1_000_000, latest_ms: 1_000_999 };
    assert_eq!(client.ask_time().await.unwrap(), span);
    clock.advance(Duration::from_secs(30));
    assert_eq!(client.time().unwrap(), IssuerSpan { earliest_ms: 1_030_000, latest_ms: 1_030_999 });
    // Set back by an hour.
    server.grant("second", 1_000_000_000, 3600);
    assert_eq!(client.ask_time().await.unwrap().earliest_ms, 1_000_000_000_000);
    server.answer(TOKEN, 401, "{}");
    clock.advance(Duration::from_secs(1));
    client.ask_time().await.unwrap_err();
}

#[tokio::test]
async fn the_realms_not_before_is_public() {
    let (server, client) = start().await;
    server.answer("/realms/demo", 200, r#"{"realm":"demo","tokens-not-before":1795309360}"#);
    assert_eq!(client.realm_not_before().await.unwrap(), 1_795_309_360_000);
    for body in ["{}", "<html>", r#"{"tokens-not-before":"1"}"#] {
        server.answer("/realms/demo", 200, body);
        client.realm_not_before().await.unwrap_err();
    }
}
