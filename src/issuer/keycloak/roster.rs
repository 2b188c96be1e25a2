//! Everybody of a realm, and what tokens say about one of them, as Keycloak's directory has it.

use super::parse::object;
use super::user::{PAGE, is_gone, is_id, next_page};
use super::{Answer, Keycloak, KeycloakError};
use crate::base::http_client::shown;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// More groups than any token holds.
const MOST_GROUPS: usize = 1000;

/// A user, as the list has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `sub`.
    pub id: String,
    /// The name that they sign in with.
    pub username: String,
    /// Their e-mail address.
    pub email: Option<String>,
    /// May act.
    pub enabled: bool,
}

/// A page of all users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsersPage {
    /// Those of the page.
    pub users: Vec<Listed>,
    /// Where the next begins; `None` after the last.
    pub next: Option<usize>,
}

/// What tokens say about a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// As the list has them.
    pub listed: Listed,
    /// Comes from another directory, as from LDAP. While that does not answer Keycloak calls such a user disabled.
    pub is_federated: bool,
    /// Realm roles, those that come through groups and other roles too; sorted.
    pub roles: Vec<String>,
    /// Paths of groups; sorted.
    pub groups: Vec<String>,
}

#[derive(Deserialize)]
struct UserRow {
    id: String,
    username: String,
    email: Option<String>,
    enabled: bool,
    #[serde(rename = "federationLink")]
    federation_link: Option<String>,
}

#[derive(Deserialize)]
struct RoleRow {
    name: String,
}

#[derive(Deserialize)]
struct GroupRow {
    path: String,
}

impl From<UserRow> for Listed {
    fn from(row: UserRow) -> Self {
        let email = row.email.filter(|email| !email.is_empty());
        Self { id: row.id, username: row.username, email, enabled: row.enabled }
    }
}

impl Keycloak {
    /// All users, from the one at `first` on. Service accounts are never listed.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn users(&self, first: usize) -> Result<Answer<UsersPage>, KeycloakError> {
        let query = format!("/users?briefRepresentation=true&first={first}&max={PAGE}");
        let answer: Answer<Vec<UserRow>> = self.get(&self.admin_url(&query)?).await?;
        let next = next_page(first, answer.value.len());
        let (asked_ms, time) = (answer.asked_ms, answer.time);
        let users = answer.value.into_iter().filter(|row| is_id(&row.id)).map(Listed::from).collect();
        Ok(Answer { value: UsersPage { users, next }, asked_ms, time })
    }

    /// What tokens say about one user; `None`: exactly Keycloak's own answer that there is no such user.
    ///
    /// # Errors
    /// No usable answer to one of three calls.
    pub async fn person(&self, id: &str) -> Result<Answer<Option<Person>>, KeycloakError> {
        let answer = self.of_user::<UserRow>(id, "").await?;
        let (asked_ms, time) = (answer.asked_ms, answer.time);
        let said = |value| Answer { value, asked_ms, time };
        let Some(row) = answer.value else { return Ok(said(None)) };
        if row.id != id {
            let unexpected = KeycloakError::Unexpected { url: shown(&self.user_url(id, "")?) };
            return self.note(Err(unexpected));
        }
        let Some(roles) = self.of_user::<Vec<RoleRow>>(id, "/role-mappings/realm/composite").await?.value else {
            return Ok(said(None));
        };
        let query = format!("/groups?briefRepresentation=true&first=0&max={MOST_GROUPS}");
        let Some(groups) = self.of_user::<Vec<GroupRow>>(id, &query).await?.value else { return Ok(said(None)) };
        let is_federated = row.federation_link.as_ref().is_some_and(|link| !link.is_empty());
        Ok(said(Some(Person {
            listed: row.into(),
            is_federated,
            roles: sorted(roles.into_iter().map(|role| role.name)),
            groups: sorted(groups.into_iter().map(|group| group.path)),
        })))
    }

    async fn of_user<T: DeserializeOwned>(&self, id: &str, rest: &str) -> Result<Answer<Option<T>>, KeycloakError> {
        let url = self.user_url(id, rest)?;
        let answer = self.ask(&self.reader, Method::GET, &url).await?;
        if is_gone(&answer.value) {
            return Ok(answer.with(None));
        }
        // A row is an object or a list of such, never a list of a row's values.
        let value = match rest {
            "" if answer.value.status == 200 => {
                object(&answer.value.body).ok_or_else(|| KeycloakError::Unexpected { url: shown(&url) })
            }
            _ => self.understood(&url, &answer.value),
        };
        let value = self.note(value)?;
        Ok(answer.with(Some(value)))
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}
