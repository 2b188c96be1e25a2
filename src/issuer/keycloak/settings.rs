//! What of a realm's settings bears on what Postern promises: read for `postern doctor`, never by a gateway.

use super::account::{Account, Granted, read};
use super::parse::USER_EVENT_TYPES;
use super::{Keycloak, KeycloakError};
use crate::base::secret::Secret;
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;

/// What a client's own token says about its service account.
#[derive(Debug)]
pub struct ServiceAccount {
    /// The token itself.
    pub token: Secret,
    /// How long it lives.
    pub lifetime: Duration,
    /// Its `aud`.
    pub audiences: Vec<String>,
    /// Its roles of the client `realm-management`; `None` where the token names no roles of any client, as a lightweight one.
    pub roles: Option<Vec<String>>,
}

/// Which events the realm stores, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSettings {
    /// Events of administrators.
    pub has_admin_events: bool,
    /// With what was sent to change something.
    pub has_details: bool,
    /// Events of users.
    pub has_user_events: bool,
    /// The types of user events that mean something to Postern and are not stored.
    pub missing: Vec<&'static str>,
    /// After how long events of users are deleted; `None`: never.
    pub user_events_expire: Option<Duration>,
}

/// The user profile: who may edit which attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The attributes that are declared.
    pub attributes: Vec<ProfileAttribute>,
    /// What becomes of others.
    pub unmanaged: Unmanaged,
}

/// A declared attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileAttribute {
    /// Its name.
    pub name: String,
    /// Whether users may edit their own.
    pub is_edited_by_users: bool,
}

/// What becomes of attributes that are not declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmanaged {
    /// They are not stored.
    Dropped,
    /// Administrators alone may set them, or not even they.
    ForAdministrators,
    /// Users may set their own.
    ForUsers,
}

/// Settings of the realm that only `view-realm` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmSettings {
    /// How long an access token lives, where its client says nothing else.
    pub access_token: Duration,
    /// How long a session lives without use.
    pub session_idle: Duration,
    /// How long a session lives at most.
    pub session_max: Duration,
    /// How long an offline session lives at most; `None`: as long as it is used.
    pub offline_session_max: Option<Duration>,
    /// After how long events of administrators are deleted; `None`: never.
    pub admin_events_expire: Option<Duration>,
}

/// Settings of a login client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Where its logout tokens are sent.
    pub logout_url: Option<String>,
    /// Whether they name the session.
    pub has_session: bool,
}

#[derive(Deserialize)]
struct AccountClaims {
    #[serde(default)]
    aud: OneOrMany,
    resource_access: Option<HashMap<String, ClientRoles>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Deserialize)]
struct ClientRoles {
    #[serde(default)]
    roles: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventRow {
    events_enabled: bool,
    /// In seconds; absent or 0: never.
    events_expiration: Option<u64>,
    #[serde(default)]
    enabled_event_types: Vec<String>,
    admin_events_enabled: bool,
    admin_events_details_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileRow {
    attributes: Vec<AttributeRow>,
    unmanaged_attribute_policy: Option<String>,
}

#[derive(Deserialize)]
struct AttributeRow {
    name: String,
    #[serde(default)]
    permissions: Permissions,
}

#[derive(Default, Deserialize)]
struct Permissions {
    #[serde(default)]
    edit: Vec<String>,
}

/// Without `view-realm` Keycloak answers 200, and leaves nearly everything out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RealmRow {
    access_token_lifespan: Option<u64>,
    sso_session_idle_timeout: Option<u64>,
    sso_session_max_lifespan: Option<u64>,
    #[serde(default)]
    offline_session_max_lifespan_enabled: bool,
    offline_session_max_lifespan: Option<u64>,
    #[serde(default)]
    attributes: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientRow {
    client_id: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
}

impl Keycloak {
    /// The service account that reads, by a fresh token.
    ///
    /// # Errors
    /// It gets no token, or none that is a JWT.
    pub async fn service_account(&self) -> Result<ServiceAccount, KeycloakError> {
        self.look_at(&self.reader).await
    }

    /// The service account that ends sessions, by a fresh token.
    ///
    /// # Errors
    /// As [`Self::service_account`], or [`KeycloakError::NoManager`].
    pub async fn manager_account(&self) -> Result<ServiceAccount, KeycloakError> {
        self.look_at(self.manager.as_ref().ok_or(KeycloakError::NoManager)?).await
    }

    async fn look_at(&self, account: &Account) -> Result<ServiceAccount, KeycloakError> {
        let Granted { access_token, expires_in } = account.granted(self).await?;
        let claims: Option<AccountClaims> = read(&access_token);
        let claims = claims.ok_or_else(|| KeycloakError::Unexpected { url: self.realm.clone() })?;
        let management = |mut clients: HashMap<String, ClientRoles>| {
            clients.remove("realm-management").map(|client| client.roles).unwrap_or_default()
        };
        Ok(ServiceAccount {
            token: access_token,
            lifetime: Duration::from_secs(expires_in),
            audiences: match claims.aud {
                OneOrMany::One(name) => vec![name],
                OneOrMany::Many(names) => names,
            },
            roles: claims.resource_access.map(management),
        })
    }

    /// Which events are stored. Needs `view-events`.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn event_settings(&self) -> Result<EventSettings, KeycloakError> {
        let row: EventRow = self.get(&self.admin_url("/events/config")?).await?.value;
        let is_stored = |name: &str| row.enabled_event_types.iter().any(|stored| stored == name);
        // Where none is named, all are stored.
        let are_some = !row.enabled_event_types.is_empty();
        Ok(EventSettings {
            has_admin_events: row.admin_events_enabled,
            has_details: row.admin_events_details_enabled,
            has_user_events: row.events_enabled,
            missing: USER_EVENT_TYPES.iter().copied().filter(|name| are_some && !is_stored(name)).collect(),
            user_events_expire: seconds(row.events_expiration),
        })
    }

    /// Who may edit which attribute. Needs `view-users` (measured, 26.7.3).
    ///
    /// # Errors
    /// No usable answer.
    pub async fn user_profile(&self) -> Result<Profile, KeycloakError> {
        let row: ProfileRow = self.get(&self.admin_url("/users/profile")?).await?.value;
        let attributes = row.attributes.into_iter().map(|attribute| ProfileAttribute {
            is_edited_by_users: attribute.permissions.edit.iter().any(|who| who == "user"),
            name: attribute.name,
        });
        let unmanaged = match row.unmanaged_attribute_policy.as_deref() {
            None | Some("DISABLED") => Unmanaged::Dropped,
            Some("ADMIN_EDIT" | "ADMIN_VIEW") => Unmanaged::ForAdministrators,
            // What is not known is taken for the worst.
            Some(_) => Unmanaged::ForUsers,
        };
        Ok(Profile { attributes: attributes.collect(), unmanaged })
    }

    /// Lifetimes; `None` where `view-realm` is missing.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn realm_settings(&self) -> Result<Option<RealmSettings>, KeycloakError> {
        let row: RealmRow = self.get(&self.admin_url("")?).await?.value;
        let (Some(token), Some(idle), Some(max)) =
            (row.access_token_lifespan, row.sso_session_idle_timeout, row.sso_session_max_lifespan)
        else {
            return Ok(None);
        };
        let admin_events = row.attributes.get("adminEventsExpiration").and_then(|text| text.parse().ok());
        Ok(Some(RealmSettings {
            access_token: Duration::from_secs(token),
            session_idle: Duration::from_secs(idle),
            session_max: Duration::from_secs(max),
            offline_session_max: seconds(row.offline_session_max_lifespan)
                .filter(|_| row.offline_session_max_lifespan_enabled),
            admin_events_expire: seconds(admin_events),
        }))
    }

    /// A login client; `None`: there is none of that id. Needs `view-clients`.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn client(&self, id: &str) -> Result<Option<ClientSettings>, KeycloakError> {
        let mut url = self.admin_url("/clients")?;
        url.query_pairs_mut().append_pair("clientId", id);
        let rows: Vec<ClientRow> = self.get(&url).await?.value;
        let row = rows.into_iter().find(|row| row.client_id == id);
        Ok(row.map(|mut row| ClientSettings {
            logout_url: row.attributes.remove("backchannel.logout.url").filter(|url| !url.is_empty()),
            has_session: row.attributes.get("backchannel.logout.session.required").is_some_and(|text| text == "true"),
        }))
    }
}

/// 0 stands for never.
fn seconds(number: Option<u64>) -> Option<Duration> {
    number.filter(|seconds| *seconds > 0).map(Duration::from_secs)
}
