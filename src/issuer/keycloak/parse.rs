//! What an event of Keycloak means, read from strangers' bytes: who may change a user may write much of them.
//!
//! A row that lacks what it should have, or is of a kind that says nothing here, is counted and left out; the others count. What
//! is known of a user is never taken from an event but for three things that Keycloak itself says in it: disabled, locked out,
//! deleted. All else is a reason to ask.

use super::user::is_id;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;

/// The types of user events that mean anything here.
pub(super) const USER_EVENT_TYPES: &[&str] = &[
    "LOGIN",
    "LOGOUT",
    "USER_DISABLED_BY_PERMANENT_LOCKOUT",
    "DELETE_ACCOUNT",
    "UPDATE_PROFILE",
    "UPDATE_EMAIL",
    "VERIFY_EMAIL",
    "REVOKE_GRANT",
];

/// What administrators change that may change what many users may do.
const FOR_MANY: &[&str] = &[
    "REALM",
    "REALM_ROLE",
    "CLIENT_ROLE",
    "REALM_ROLE_MAPPING",
    "CLIENT_ROLE_MAPPING",
    "REALM_SCOPE_MAPPING",
    "CLIENT_SCOPE_MAPPING",
    "GROUP",
    "GROUP_MEMBERSHIP",
    "CLIENT",
    "CLIENT_SCOPE",
    "CLIENT_SCOPE_CLIENT_MAPPING",
    "PROTOCOL_MAPPER",
    "COMPONENT",
    "USER_FEDERATION_PROVIDER",
    "USER_FEDERATION_MAPPER",
    "ORGANIZATION",
    "ORGANIZATION_MEMBERSHIP",
];

/// The year 10000: no event is from then.
const LATEST_MS: u64 = 253_402_300_800_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Keycloak's name for it, by which one that comes twice is known.
    pub id: String,
    /// When, by Keycloak's clock, in milliseconds since 1970.
    pub time_ms: u64,
    /// What.
    pub meaning: Meaning,
}

/// What an event means here. A `user` is the `sub` of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are what their names say.
pub enum Meaning {
    /// What was sent to change the user holds `"enabled":false`.
    Disabled { user: String },
    /// Wrong passwords disabled the user.
    LockedOut { user: String },
    /// The user is no more.
    Deleted { user: String },
    /// What was sent to change the user holds `"enabled":true`, which need not be a change.
    Enabled { user: String },
    /// There is a new user, who is enabled, or of whom nothing more is told.
    Created { user: String },
    /// Something about the user changed.
    Changed { user: String },
    /// An administrator ended all sessions of the user, which also sets the user's not-before.
    LoggedOut { user: String },
    /// One session ended.
    SessionEnded { user: Option<String>, session: String },
    /// The user signed in. Only with `is_new` the session surely began then: a browser that still holds an older one gets that
    /// again, and Keycloak tells of it in the same words.
    SignedIn { user: String, session: String, is_new: bool },
    /// Something changed that may concern everybody.
    ForMany,
}

impl Meaning {
    /// The words for the metrics.
    pub const CODES: [&'static str; 10] = [
        "disabled",
        "locked_out",
        "deleted",
        "enabled",
        "created",
        "changed",
        "logged_out",
        "session_ended",
        "signed_in",
        "for_many",
    ];

    /// The place of its word in [`Self::CODES`].
    pub fn index(&self) -> usize {
        match self {
            Self::Disabled { .. } => 0,
            Self::LockedOut { .. } => 1,
            Self::Deleted { .. } => 2,
            Self::Enabled { .. } => 3,
            Self::Created { .. } => 4,
            Self::Changed { .. } => 5,
            Self::LoggedOut { .. } => 6,
            Self::SessionEnded { .. } => 7,
            Self::SignedIn { .. } => 8,
            Self::ForMany => 9,
        }
    }
}

/// A page of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Those that mean something, in the order in which they came.
    pub events: Vec<Event>,
    /// How many came in all.
    pub rows: usize,
    /// As many came as were asked for: there may be more.
    pub is_full: bool,
    /// The newest time of any.
    pub newest_ms: u64,
    /// How many lack what an event must have.
    pub malformed: u64,
    /// How many are of a kind that says nothing here, or is not known.
    pub unrelated: u64,
}

enum Read {
    Means(Meaning),
    Unrelated,
    Malformed,
}

#[derive(Deserialize)]
struct Stamp {
    id: String,
    time: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdminRow {
    operation_type: String,
    resource_type: Option<String>,
    resource_path: Option<String>,
    representation: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserRow {
    #[serde(rename = "type")]
    kind: String,
    user_id: Option<String>,
    session_id: Option<String>,
    error: Option<String>,
    #[serde(default)]
    details: Option<HashMap<String, Value>>,
}

/// The part of what was sent to change a user that counts.
#[derive(Deserialize)]
struct Representation {
    enabled: Option<bool>,
}

/// Reads what `/admin-events` answers.
///
/// # Errors
/// No JSON array. A row that cannot be read is counted instead.
pub fn parse_admin_events(body: &[u8]) -> Result<EventPage, serde_json::Error> {
    page(body, |row| match AdminRow::deserialize(row) {
        Ok(row) => admin_meaning(&row),
        Err(_) => Read::Malformed,
    })
}

/// Reads what `/events` answers.
///
/// # Errors
/// No JSON array. A row that cannot be read is counted instead.
pub fn parse_user_events(body: &[u8]) -> Result<EventPage, serde_json::Error> {
    page(body, |row| match UserRow::deserialize(row) {
        Ok(row) => user_meaning(row),
        Err(_) => Read::Malformed,
    })
}

fn page(body: &[u8], read: impl Fn(&Value) -> Read) -> Result<EventPage, serde_json::Error> {
    let rows: Vec<Value> = serde_json::from_slice(body)?;
    let mut page = EventPage { rows: rows.len(), ..EventPage::default() };
    for row in &rows {
        let stamp = Stamp::deserialize(row).ok().filter(|stamp| is_id(&stamp.id) && stamp.time < LATEST_MS);
        let Some(Stamp { id, time: time_ms }) = stamp else {
            page.malformed += 1;
            continue;
        };
        page.newest_ms = page.newest_ms.max(time_ms);
        match read(row) {
            Read::Means(meaning) => page.events.push(Event { id, time_ms, meaning }),
            Read::Unrelated => page.unrelated += 1,
            Read::Malformed => page.malformed += 1,
        }
    }
    Ok(page)
}

fn admin_meaning(row: &AdminRow) -> Read {
    let kind = row.resource_type.as_deref().unwrap_or_default();
    let path = row.resource_path.as_deref().unwrap_or_default();
    let (front, rest) = path.split_once('/').unwrap_or((path, ""));
    match front {
        "users" => of_user(row, kind, rest),
        "sessions" if row.operation_type == "DELETE" => match is_id(rest) {
            true => Read::Means(Meaning::SessionEnded { user: None, session: rest.to_owned() }),
            false => Read::Malformed,
        },
        // What failed changed nothing.
        _ if FOR_MANY.contains(&kind) && row.error.is_none() => Read::Means(Meaning::ForMany),
        _ => Read::Unrelated,
    }
}

/// An event with the path `users/ID…`; an import has its users there too, as the kind `REALM`.
fn of_user(row: &AdminRow, kind: &str, path: &str) -> Read {
    let (user, rest) = path.split_once('/').unwrap_or((path, ""));
    if !is_id(user) {
        return Read::Malformed;
    }
    let user = user.to_owned();
    let is_whole = rest.is_empty() && matches!(kind, "USER" | "REALM") && row.error.is_none();
    Read::Means(match (row.operation_type.as_str(), rest) {
        ("DELETE", _) if is_whole => Meaning::Deleted { user },
        (operation @ ("CREATE" | "UPDATE"), _) if is_whole => match enabled(row.representation.as_deref()) {
            Some(false) => Meaning::Disabled { user },
            _ if operation == "CREATE" => Meaning::Created { user },
            Some(true) => Meaning::Enabled { user },
            None => Meaning::Changed { user },
        },
        ("ACTION", "logout") if kind == "USER" && row.error.is_none() => Meaning::LoggedOut { user },
        _ => Meaning::Changed { user },
    })
}

/// Whether what was sent says that the user is enabled. A text cut off by the database, or with `enabled` twice, says nothing.
fn enabled(representation: Option<&str>) -> Option<bool> {
    object::<Representation>(representation?.as_bytes())?.enabled
}

/// Reads a JSON object and nothing else: what serde derives takes an array of the members' values for one as well.
pub(super) fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    if json.trim_ascii_start().first() == Some(&b'{') { serde_json::from_slice(json).ok() } else { None }
}

fn user_meaning(row: UserRow) -> Read {
    if !USER_EVENT_TYPES.contains(&row.kind.as_str()) || row.error.is_some() {
        return Read::Unrelated;
    }
    let Some(user) = row.user_id.filter(|user| is_id(user)) else { return Read::Malformed };
    let session = row.session_id.filter(|session| is_id(session));
    Read::Means(match (row.kind.as_str(), session) {
        ("USER_DISABLED_BY_PERMANENT_LOCKOUT", _) => Meaning::LockedOut { user },
        ("LOGIN", Some(session)) => {
            // The password grant has no browser that could hold an older session (RFC 6749 §4.3).
            let grant = row.details.as_ref().and_then(|details| details.get("grant_type"));
            Meaning::SignedIn { user, session, is_new: grant.is_some_and(|grant| grant == "password") }
        }
        ("LOGIN", None) => return Read::Malformed,
        ("LOGOUT", Some(session)) => Meaning::SessionEnded { user: Some(user), session },
        _ => Meaning::Changed { user },
    })
}
