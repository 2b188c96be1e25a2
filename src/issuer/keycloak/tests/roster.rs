//! Everybody, and what tokens say about one of them.

use super::server::{Server, TOKEN};
use crate::base::clock::Clock;
use crate::issuer::keycloak::{Listed, Person, UsersPage};
use serde_json::{Value, json};

const ALICE: &str = "/admin/realms/demo/users/alice";
const USERS: &str = "/admin/realms/demo/users";

fn row(id: &str) -> Value {
    json!({"id": id, "username": format!("{id}-name"), "email": "", "enabled": true, "attributes": {"a": ["b"]}})
}

fn listed(id: &str) -> Listed {
    Listed { id: id.into(), username: format!("{id}-name"), email: None, enabled: true }
}

async fn start() -> Server {
    let server = Server::start().await;
    server.answer(ALICE, 200, row("alice").to_string());
    let roles = json!([{"id": "2", "name": "writer"}, {"id": "1", "name": "reader"}, {"id": "3", "name": "reader"}]);
    server.answer(&format!("{ALICE}/role-mappings/realm/composite"), 200, roles.to_string());
    let groups = json!([{"id": "1", "name": "staff", "path": "/staff"}, {"id": "2", "name": "a", "path": "/a"}]);
    server.answer(&format!("{ALICE}/groups"), 200, groups.to_string());
    server
}

#[tokio::test]
async fn a_person_is_three_answers() {
    let server = start().await;
    let client = server.client(Clock::system(), |_| ());
    let expected = Person {
        listed: listed("alice"),
        is_federated: false,
        roles: vec!["reader".into(), "writer".into()],
        groups: vec!["/a".into(), "/staff".into()],
    };
    assert_eq!(client.person("alice").await.unwrap().value, Some(expected));
    assert_eq!(server.asked().iter().filter(|line| !line.contains(TOKEN)).count(), 3);
}

#[tokio::test]
async fn nobody_is_there_only_by_keycloaks_own_words() {
    let server = start().await;
    let client = server.client(Clock::system(), |_| ());
    let places = [ALICE.to_owned(), format!("{ALICE}/role-mappings/realm/composite"), format!("{ALICE}/groups")];
    for place in &places {
        let server = start().await;
        let client = server.client(Clock::system(), |_| ());
        server.answer(place, 404, r#"{"error":"User not found"}"#);
        assert_eq!(client.person("alice").await.unwrap().value, None, "{place}");
        for (status, body) in [(404, "{}"), (500, "[]"), (200, "{}"), (200, "null"), (200, "<html>"), (403, "{}")] {
            server.answer(place, status, body);
            assert!(client.person("alice").await.is_err(), "{place}: {status} {body}");
        }
    }
    server.answer(ALICE, 200, row("bob").to_string());
    assert!(client.person("alice").await.is_err(), "somebody else");
    server.answer(ALICE, 200, json!([row("alice")]).to_string());
    assert!(client.person("alice").await.is_err(), "a list");
}

#[tokio::test]
async fn all_users_are_listed_page_by_page() {
    let server = start().await;
    let client = server.client(Clock::system(), |_| ());
    server.answer(USERS, 200, json!([row("a"), row("b"), row("..")]).to_string());
    let page = client.users(0).await.unwrap().value;
    assert_eq!(page, UsersPage { users: vec![listed("a"), listed("b")], next: None });
    let full: Vec<_> = (0..500).map(|number| row(&number.to_string())).collect();
    server.answer(USERS, 200, json!(full).to_string());
    let page = client.users(480).await.unwrap().value;
    assert_eq!((page.users.len(), page.next), (500, Some(960)));
    let asked = server.asked();
    assert!(asked.last().unwrap().ends_with("users?briefRepresentation=true&first=480&max=500"), "{asked:?}");
    for body in ["{}", "null", "", r#"[{"id":"a"}]"#] {
        server.answer(USERS, 200, body);
        assert!(client.users(0).await.is_err(), "{body}");
    }
}
