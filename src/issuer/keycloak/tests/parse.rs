//! Events as Keycloak 26.7.3 wrote them, and what strangers may make of them.

use crate::issuer::keycloak::{EventPage, Meaning, parse_admin_events, parse_user_events};
use proptest::prelude::*;
use serde_json::{Value, json};

const USER: &str = "312de68f-0a84-40d6-9dfa-7e318b447bc3";

fn admin_row(operation: &str, kind: &str, path: &str, representation: &str) -> Value {
    json!({"id": "b68413f3-4d6d-403c-a63e-e0355e5e1d83", "time": 1_795_309_364_753_u64, "realmId": "7d056e1e",
        "authDetails": {"realmId": "7d056e1e", "clientId": "92e2bf37", "userId": "8208f790", "ipAddress": "127.0.0.1"},
        "operationType": operation, "resourceType": kind, "resourcePath": path, "representation": representation})
}

fn user_row(kind: &str, session: Option<&str>, details: Value) -> Value {
    json!({"id": "0e95db2f-1042-48c5-8184-014a3cb2c818", "time": 1_795_309_229_518_u64, "type": kind, "realmId": "7d056e1e",
        "clientId": "cli", "userId": USER, "sessionId": session, "ipAddress": "127.0.0.1", "details": details})
}

fn read(rows: &[Value], parse: fn(&[u8]) -> Result<EventPage, serde_json::Error>) -> EventPage {
    parse(json!(rows).to_string().as_bytes()).unwrap()
}

fn meaning(page: &EventPage) -> Option<&Meaning> {
    assert!(page.events.len() <= 1);
    page.events.first().map(|event| &event.meaning)
}

#[track_caller]
fn check_admin(operation: &str, kind: &str, path: &str, representation: &str, expected: Option<Meaning>) {
    let page = read(&[admin_row(operation, kind, path, representation)], parse_admin_events);
    assert_eq!(meaning(&page), expected.as_ref(), "{operation} {kind} {path} {representation}");
    assert_eq!(page.malformed, 0);
}

fn user() -> String {
    USER.to_owned()
}

#[test]
fn what_administrators_do_means_what_it_says() {
    let path = format!("users/{USER}");
    let of = |rest: &str| format!("{path}/{rest}");
    let (disabled, enabled) = (Meaning::Disabled { user: user() }, Meaning::Enabled { user: user() });
    let (deleted, changed) = (Meaning::Deleted { user: user() }, Meaning::Changed { user: user() });
    check_admin("UPDATE", "USER", &path, r#"{"enabled":false}"#, Some(disabled.clone()));
    check_admin("UPDATE", "USER", &path, r#"{"id":"x","enabled":false,"notBefore":0}"#, Some(disabled.clone()));
    check_admin("UPDATE", "USER", &path, r#"{"enabled":true}"#, Some(enabled));
    check_admin("UPDATE", "USER", &path, r#"{"email":"a@example.test"}"#, Some(changed.clone()));
    check_admin(
        "CREATE",
        "USER",
        &path,
        r#"{"username":"zed","enabled":true}"#,
        Some(Meaning::Created { user: user() }),
    );
    check_admin("CREATE", "USER", &path, r#"{"username":"zed","enabled":false}"#, Some(disabled.clone()));
    check_admin("DELETE", "USER", &path, r#"{"id":"x","username":"zed"}"#, Some(deleted));
    check_admin("ACTION", "USER", &of("logout"), "", Some(Meaning::LoggedOut { user: user() }));
    check_admin("ACTION", "USER", &of("reset-password"), "", Some(changed.clone()));
    // An import is told as a change of the realm.
    check_admin("UPDATE", "REALM", &path, r#"{"username":"zed2","enabled":false}"#, Some(disabled));
    check_admin("CREATE", "REALM_ROLE_MAPPING", &of("role-mappings/realm"), "[]", Some(changed.clone()));
    check_admin("DELETE", "GROUP_MEMBERSHIP", &of("groups/43427917"), "{}", Some(changed.clone()));
    check_admin("DELETE", "SOME_NEW_KIND", &of("anything"), "{}", Some(changed.clone()));
    let session = Meaning::SessionEnded { user: None, session: "qCOeCy7IxpVtUYbVXOb0A1zh".to_owned() };
    check_admin("DELETE", "USER_SESSION", "sessions/qCOeCy7IxpVtUYbVXOb0A1zh", r#"{"offline":true}"#, Some(session));
    check_admin("CREATE", "REALM_ROLE_MAPPING", "groups/43427917/role-mappings/realm", "[]", Some(Meaning::ForMany));
    check_admin("CREATE", "REALM_ROLE", "roles/reader/composites", "[]", Some(Meaning::ForMany));
    check_admin("UPDATE", "SOME_NEW_KIND", "things/1", "{}", None);
    check_admin("UPDATE", "AUTH_FLOW", "authentication/flows/1", "{}", None);
}

#[test]
fn only_the_user_itself_is_deleted_by_a_deletion() {
    let changed = Meaning::Changed { user: user() };
    for (kind, rest) in [
        ("USER", "/consents/cli"),
        ("USER", "/federated-identity/github"),
        ("USER", "/credentials/1"),
        ("USER", "/"),
        ("REALM_ROLE_MAPPING", ""),
        ("GROUP_MEMBERSHIP", ""),
    ] {
        // A final slash has nothing after it and is the same path.
        let expected = if (kind, rest) == ("USER", "/") { Meaning::Deleted { user: user() } } else { changed.clone() };
        check_admin("DELETE", kind, &format!("users/{USER}{rest}"), "{}", Some(expected));
    }
    check_admin("DELETE", "USER", &format!("users-x/{USER}"), "{}", None);
}

#[test]
fn what_failed_or_cannot_be_read_is_a_reason_to_ask_and_no_proof() {
    let path = format!("users/{USER}");
    let changed = Meaning::Changed { user: user() };
    for representation in [
        r#"{"enabled":"false"}"#,
        r#"{"enabled":0}"#,
        r#"{"enabled":null}"#,
        r#"{"enabled":true,"enabled":false}"#,
        r#"{"enabled":false"#,
        r#"{"attributes":{"enabled":false}}"#,
        r#"[{"enabled":false}]"#,
        "[false]",
        " [true]",
        "",
    ] {
        check_admin("UPDATE", "USER", &path, representation, Some(changed.clone()));
    }
    for operation in ["UPDATE", "DELETE"] {
        let mut row = admin_row(operation, "USER", &path, r#"{"enabled":false}"#);
        row["error"] = json!("not_allowed");
        assert_eq!(meaning(&read(&[row], parse_admin_events)), Some(&changed), "{operation}");
    }
    let mut bare = admin_row("UPDATE", "USER", &path, "");
    bare.as_object_mut().unwrap().remove("representation");
    assert_eq!(meaning(&read(&[bare], parse_admin_events)), Some(&changed));
}

#[test]
fn what_users_do_means_what_it_says() {
    let check = |kind: &str, session: Option<&str>, details: Value, expected: Option<Meaning>| {
        let page = read(&[user_row(kind, session, details.clone())], parse_user_events);
        assert_eq!(meaning(&page), expected.as_ref(), "{kind} {session:?} {details}");
    };
    let signed_in = |is_new| Some(Meaning::SignedIn { user: user(), session: "s1".to_owned(), is_new });
    check("LOGIN", Some("s1"), json!({"auth_method": "openid-connect", "grant_type": "password"}), signed_in(true));
    // The same words stand in the event of a browser that holds an older session.
    let browser = json!({"auth_type": "code", "response_type": "code", "code_id": "s1", "username": "password"});
    check("LOGIN", Some("s1"), browser, signed_in(false));
    check("LOGIN", Some("s1"), Value::Null, signed_in(false));
    let ended = Meaning::SessionEnded { user: Some(user()), session: "s1".to_owned() };
    check("LOGOUT", Some("s1"), json!({}), Some(ended));
    // Neither sets a not-before.
    check("LOGOUT", None, json!({}), Some(Meaning::Changed { user: user() }));
    check("REVOKE_GRANT", None, json!({}), Some(Meaning::Changed { user: user() }));
    let reason = json!({"reason": "brute_force_attack detected", "num_failures": "3"});
    check("USER_DISABLED_BY_PERMANENT_LOCKOUT", None, reason.clone(), Some(Meaning::LockedOut { user: user() }));
    check("USER_DISABLED_BY_TEMPORARY_LOCKOUT", None, reason, None);
    check("UPDATE_PROFILE", Some("s1"), json!({}), Some(Meaning::Changed { user: user() }));
    for kind in ["LOGIN_ERROR", "CODE_TO_TOKEN", "CLIENT_LOGIN", "TOKEN_EXCHANGE", "SOMETHING_NEW", "login", ""] {
        check(kind, Some("s1"), json!({"grant_type": "password"}), None);
    }
    let mut failed = user_row("LOGIN", Some("s1"), json!({"grant_type": "password"}));
    failed["error"] = json!("user_disabled");
    assert_eq!(meaning(&read(&[failed], parse_user_events)), None);
}

#[test]
fn a_row_that_lacks_something_is_counted_and_the_others_count() {
    let good = admin_row("UPDATE", "USER", &format!("users/{USER}"), r#"{"enabled":false}"#);
    let with = |name: &str, value: Value| {
        let mut row = good.clone();
        row[name] = value;
        row
    };
    let bad = [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        with("id", json!(null)),
        with("id", json!("")),
        with("id", json!("..")),
        with("time", json!("1795309364753")),
        with("time", json!(-1)),
        with("time", json!(1e300)),
        with("time", json!(u64::MAX)),
        with("operationType", json!(null)),
        with("resourcePath", json!("users/")),
        with("resourcePath", json!("users/../x")),
        with("resourcePath", json!(format!("users/{}", "a".repeat(256)))),
        with("representation", json!({"enabled": false})),
    ];
    let mut rows = bad.to_vec();
    rows.push(good);
    let page = read(&rows, parse_admin_events);
    assert_eq!((page.events.len(), page.rows, page.malformed, page.unrelated), (1, 17, 16, 0));
    assert_eq!(page.newest_ms, 1_795_309_364_753);
    let without_user = {
        let mut row = user_row("LOGOUT", Some("s"), json!({}));
        row["userId"] = json!(null);
        row
    };
    let page = read(&[without_user, user_row("LOGIN", None, json!({}))], parse_user_events);
    assert_eq!((page.events.len(), page.malformed), (0, 2));
}

#[test]
fn what_is_no_list_is_an_error() {
    for body in ["", "{}", "null", "<html></html>", r#"{"error":"unknown_error"}"#, "[", "[{}", "[] []"] {
        assert!(parse_admin_events(body.as_bytes()).is_err(), "{body}");
        assert!(parse_user_events(body.as_bytes()).is_err(), "{body}");
    }
    assert_eq!(parse_admin_events(b"[]").unwrap(), EventPage::default());
}

fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec!["USER", "UPDATE", "DELETE", "users/u", "sessions/s", "LOGIN", "", "x"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        word.prop_map(Value::from),
        ".{0,8}".prop_map(Value::from)
    ];
    let name = prop::sample::select(vec![
        "id",
        "time",
        "type",
        "operationType",
        "resourceType",
        "resourcePath",
        "representation",
        "userId",
        "sessionId",
        "details",
        "grant_type",
        "error",
    ]);
    leaf.prop_recursive(3, 40, 10, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(name.clone().prop_map(str::to_owned), inner, 0..10)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_row_is_an_event_or_counted(rows in prop::collection::vec(any_json(), 0..8)) {
        for parse in [parse_admin_events, parse_user_events] {
            let page = read(&rows, parse);
            let counted = page.events.len() as u64 + page.malformed + page.unrelated;
            prop_assert_eq!((page.rows, counted), (rows.len(), rows.len() as u64));
            for event in &page.events {
                prop_assert!(event.time_ms <= page.newest_ms && !event.id.is_empty());
            }
        }
    }
}
