//! What happened, from Keycloak's two feeds, and whether it keeps them at all.

use super::parse::{EventPage, USER_EVENT_TYPES, parse_admin_events, parse_user_events};
use super::{Answer, Keycloak, KeycloakError};
use crate::base::http_client::{HttpError, not_json, shown};
use http::Method;
use serde::Deserialize;
use std::sync::PoisonError;

/// How many events are asked for at once; fewer where so many are more than can be read.
const PAGE_SIZES: [usize; 4] = [1000, 100, 10, 1];

/// One of the two feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// What administrators did.
    Admin,
    /// What users did.
    User,
}

impl Feed {
    /// The word: in the store, the log and the metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Admin => "admin_events",
            Self::User => "user_events",
        }
    }
}

/// What of events the realm keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsConfig {
    /// Events of administrators.
    pub has_admin_events: bool,
    /// With what was sent to change something, so that an event alone tells that a user was disabled.
    pub has_details: bool,
    /// Events of users.
    pub has_user_events: bool,
    /// The one among them by which wrong passwords disable a user.
    pub has_lockouts: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigRow {
    #[serde(default)]
    events_enabled: bool,
    #[serde(default)]
    admin_events_enabled: bool,
    #[serde(default)]
    admin_events_details_enabled: bool,
    /// Where none is named, all are kept.
    #[serde(default)]
    enabled_event_types: Vec<String>,
}

impl Keycloak {
    /// Which events the realm keeps; from then on only those are asked for, since an unknown type is a 500.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn events_config(&self) -> Result<EventsConfig, KeycloakError> {
        let row: ConfigRow = self.get(&self.admin_url("/events/config")?).await?.value;
        let is_kept = |name: &&str| row.enabled_event_types.iter().any(|kept| kept == name);
        let kept: Vec<_> = USER_EVENT_TYPES.iter().copied().filter(is_kept).collect();
        let are_all = row.enabled_event_types.is_empty();
        let config = EventsConfig {
            has_admin_events: row.admin_events_enabled,
            has_details: row.admin_events_details_enabled,
            has_user_events: row.events_enabled && (are_all || !kept.is_empty()),
            has_lockouts: row.events_enabled && (are_all || kept.contains(&"USER_DISABLED_BY_PERMANENT_LOCKOUT")),
        };
        *self.event_types.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(config)
    }

    /// Events from a time on, oldest first, without the first `first` of them.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn events(&self, feed: Feed, since_ms: u64, first: usize) -> Result<Answer<EventPage>, KeycloakError> {
        let mut sizes = PAGE_SIZES.into_iter().peekable();
        while let Some(size) = sizes.next() {
            match self.page(feed, since_ms, first, size).await {
                Err(KeycloakError::Http(HttpError::TooLarge { .. })) if sizes.peek().is_some() => {}
                result => return result,
            }
        }
        unreachable!("the last page size is answered or an error")
    }

    async fn page(
        &self,
        feed: Feed,
        since_ms: u64,
        first: usize,
        size: usize,
    ) -> Result<Answer<EventPage>, KeycloakError> {
        let url = match feed {
            Feed::Admin => self.admin_url("/admin-events"),
            Feed::User => self.admin_url("/events"),
        };
        let mut url = url?;
        let numbers = format!("dateFrom={since_ms}&direction=asc&first={first}&max={size}");
        url.set_query(Some(&numbers));
        if feed == Feed::User {
            let types = self.event_types.lock().unwrap_or_else(PoisonError::into_inner).clone();
            url.query_pairs_mut().extend_pairs(types.into_iter().map(|name| ("type", name)));
        }
        let answer = self.ask(&self.reader, Method::GET, &url).await?;
        if answer.value.status != 200 {
            let status = answer.value.status;
            return self.note(Err(HttpError::Status { url: shown(&url), status }.into()));
        }
        let page = match feed {
            Feed::Admin => parse_admin_events(&answer.value.body),
            Feed::User => parse_user_events(&answer.value.body),
        };
        let page = self.note(page.map_err(|error| not_json(&url, &error).into()))?;
        Ok(answer.with(EventPage { is_full: page.rows >= size, ..page }))
    }
}
