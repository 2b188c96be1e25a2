//! Users and their sessions, as Keycloak's directory has them.

use super::parse::object;
use super::{Answer, Keycloak, KeycloakError};
use crate::base::http_client::{HttpError, Reply, shown};
use http::Method;
use serde::Deserialize;
use std::sync::atomic::Ordering;
use url::Url;

/// Users asked for at once. A page costs Keycloak some 100 ms.
pub(super) const PAGE: usize = 500;

/// So many of the last page are asked for again: users that leave the list while it is read move the others to the front.
const OVERLAP: usize = 20;

/// The most characters of an id: that of a `sub` (OpenID Connect Core 1.0 §2).
const LONGEST_ID: usize = 255;

/// What the directory says of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserState {
    /// There is such a user.
    Present(User),
    /// The realm knows no such user: exactly Keycloak's own answer.
    Deleted,
}

/// A user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// May act.
    pub enabled: bool,
    /// Comes from another directory, as from LDAP. While that does not answer Keycloak calls such a user disabled, so only the list of
    /// disabled users shows that they are, which Keycloak makes from its own database (measured, 26.7.3).
    pub is_federated: bool,
    /// Nothing from before counts, in milliseconds since 1970; 0: no such time.
    pub not_before_ms: u64,
}

/// A page of the disabled users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisabledPage {
    /// Their ids.
    pub users: Vec<String>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<usize>,
}

/// A session of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `sid`.
    pub id: String,
    /// When it began, in milliseconds since 1970. Keycloak knows the second only, so it is up to one too early.
    pub began_ms: u64,
}

#[derive(Deserialize)]
struct UserRow {
    id: String,
    enabled: bool,
    #[serde(rename = "federationLink")]
    federation_link: Option<String>,
    #[serde(rename = "notBefore", default)]
    not_before: i64,
}

#[derive(Deserialize)]
struct SessionRow {
    id: String,
    #[serde(rename = "userId")]
    user_id: String,
    start: u64,
}

#[derive(Deserialize)]
struct RealmRow {
    #[serde(rename = "tokens-not-before")]
    not_before: i64,
}

/// `{"error":"User not found"}`, and no other member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gone {
    error: String,
}

impl Keycloak {
    /// One user.
    ///
    /// # Errors
    /// Everything but that user, or exactly `404 {"error":"User not found"}`: any other 404 may be a proxy's, or a lost realm's.
    pub async fn user(&self, id: &str) -> Result<Answer<UserState>, KeycloakError> {
        let url = self.user_url(id, "")?;
        let answer = self.ask(&self.reader, Method::GET, &url).await?;
        if is_gone(&answer.value) {
            return Ok(answer.with(UserState::Deleted));
        }
        let row = self.understood(&url, &answer.value).and_then(|row: UserRow| {
            let unexpected = || KeycloakError::Unexpected { url: shown(&url) };
            (row.id == id).then_some(row).ok_or_else(unexpected)
        });
        let row = self.note(row)?;
        let is_federated = row.federation_link.is_some_and(|link| !link.is_empty());
        let user = User { enabled: row.enabled, is_federated, not_before_ms: millis(row.not_before) };
        Ok(answer.with(UserState::Present(user)))
    }

    /// The disabled users, from the one at `first` on. Service accounts are never listed.
    ///
    /// # Errors
    /// As [`Self::user`].
    pub async fn disabled_users(&self, first: usize) -> Result<Answer<DisabledPage>, KeycloakError> {
        let query = format!("/users?enabled=false&briefRepresentation=true&first={first}&max={PAGE}");
        let answer: Answer<Vec<UserRow>> = self.get(&self.admin_url(&query)?).await?;
        let next = next_page(first, answer.value.len());
        // A server that does not know the parameter lists everybody.
        let disabled = answer.value.iter().filter(|row| !row.enabled && is_id(&row.id));
        Ok(answer.with(DisabledPage { users: disabled.map(|row| row.id.clone()).collect(), next }))
    }

    /// The sessions of a user, but for offline ones, which Keycloak does not list there; `None`: the user is deleted.
    ///
    /// # Errors
    /// As [`Self::user`].
    pub async fn sessions(&self, id: &str) -> Result<Answer<Option<Vec<Session>>>, KeycloakError> {
        let url = self.user_url(id, "/sessions")?;
        let answer = self.ask(&self.reader, Method::GET, &url).await?;
        if is_gone(&answer.value) {
            return Ok(answer.with(None));
        }
        let rows: Vec<SessionRow> = self.note(self.understood(&url, &answer.value))?;
        if rows.iter().any(|row| row.user_id != id) {
            return self.note(Err(KeycloakError::Unexpected { url: shown(&url) }));
        }
        let sessions = rows.into_iter().map(|row| Session { id: row.id, began_ms: row.start });
        Ok(answer.with(Some(sessions.collect())))
    }

    /// Ends sessions of a user at Keycloak: all of them, or those that surely began before a time by its clock. Offline ones
    /// stay. To end all also sets the user's not-before, so it is not for a user who may have signed in again.
    ///
    /// # Errors
    /// Not all could be ended, or [`KeycloakError::NoManager`].
    pub async fn end_sessions(&self, id: &str, begun_before_ms: Option<u64>) -> Result<(), KeycloakError> {
        let manager = self.manager.as_ref().ok_or(KeycloakError::NoManager)?;
        let Some(before_ms) = begun_before_ms else {
            return self.end(manager, Method::POST, self.user_url(id, "/logout")?).await;
        };
        let sessions = self.sessions(id).await?.value.unwrap_or_default();
        for session in sessions.iter().filter(|session| session.began_ms.saturating_add(999) < before_ms) {
            let url = self.admin_url(&format!("/sessions/{}", segment(&session.id)?))?;
            self.end(manager, Method::DELETE, url).await?;
        }
        Ok(())
    }

    async fn end(&self, manager: &super::Account, method: Method, url: Url) -> Result<(), KeycloakError> {
        let status = self.ask(manager, method, &url).await?.value.status;
        // What is not there has ended.
        match status {
            200 | 204 | 404 => Ok(()),
            status => self.note(Err(HttpError::Status { url: shown(&url), status }.into())),
        }
    }

    /// From when on anything of the realm counts, in milliseconds since 1970; 0: no such time. Needs no right.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn realm_not_before(&self) -> Result<u64, KeycloakError> {
        let url = Url::parse(&self.realm).map_err(|_| KeycloakError::Unexpected { url: self.realm.clone() })?;
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        let row: Result<RealmRow, HttpError> = self.http.get_json(&url).await;
        self.note(row.map_err(KeycloakError::from)).map(|row| millis(row.not_before))
    }

    pub(super) fn user_url(&self, id: &str, rest: &str) -> Result<Url, KeycloakError> {
        self.admin_url(&format!("/users/{}{rest}", segment(id)?))
    }
}

/// Where the page after one of so many rows begins, which began at `first`; `None` after the last.
pub(super) fn next_page(first: usize, rows: usize) -> Option<usize> {
    (rows >= PAGE).then(|| first + rows - OVERLAP)
}

pub(super) fn is_gone(reply: &Reply) -> bool {
    let is_said = || object::<Gone>(&reply.body).is_some_and(|gone| gone.error == "User not found");
    reply.status == 404 && is_said()
}

fn millis(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

/// Whether a text can be the id of a user, a session or an event. Who can be let in by a token can be asked about, so a control
/// character is no reason against it; but as a segment of a path no escape hides two dots.
pub(super) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= LONGEST_ID && !matches!(text, "." | "..")
}

/// An id as one segment of a path: whatever it holds, it cannot leave its place. An id of a federated user may hold anything.
fn segment(id: &str) -> Result<String, KeycloakError> {
    if !is_id(id) {
        return Err(KeycloakError::NoId);
    }
    let mut segment = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => segment.push(char::from(byte)),
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_gone(status: u16, body: &str, expected: bool) {
        assert_eq!(is_gone(&Reply { status, body: body.into() }), expected, "{status} {body}");
    }

    #[test]
    fn only_keycloaks_own_words_say_that_a_user_is_gone() {
        check_gone(404, r#"{"error":"User not found"}"#, true);
        check_gone(404, "{ \"error\" : \"User not found\" }", true);
        for body in [
            r#"{"error":"Realm not found."}"#,
            r#"{"error":"HTTP 404 Not Found"}"#,
            r#"{"error":"User not found","path":"/x"}"#,
            r#"{"error":"User not found","error":"User not found"}"#,
            r#""User not found""#,
            r#"["User not found"]"#,
            "User not found",
            "<html>User not found</html>",
            "",
            "{}",
        ] {
            check_gone(404, body, false);
        }
        for status in [200, 400, 403, 410, 500, 502] {
            check_gone(status, r#"{"error":"User not found"}"#, false);
        }
    }

    proptest! {
        #[test]
        fn whatever_an_id_holds_it_stays_one_segment(id in "(?s).{1,40}") {
            let Ok(segment) = segment(&id) else { return Ok(()) };
            let url = Url::parse(&format!("http://kc.test/admin/realms/demo/users/{segment}/sessions")).unwrap();
            let path: Vec<_> = url.path_segments().unwrap().collect();
            prop_assert_eq!(&path[..4], ["admin", "realms", "demo", "users"]);
            prop_assert_eq!((path.len(), path[4], path[5]), (6, segment.as_str(), "sessions"));
            prop_assert_eq!((url.query(), url.fragment()), (None, None));
        }
    }

    #[test]
    fn what_would_leave_its_place_is_no_id() {
        for text in ["", ".", ".."] {
            assert!(!is_id(text), "{text:?}");
        }
        assert!(!is_id(&"a".repeat(256)) && is_id(&"ä".repeat(255)));
        assert_eq!(segment("a\nb\0\u{85}").unwrap(), "a%0Ab%00%C2%85");
        assert_eq!(segment("f:1:a/../b;c=d%2f ä").unwrap(), "f%3A1%3Aa%2F..%2Fb%3Bc%3Dd%252f%20%C3%A4");
    }
}
