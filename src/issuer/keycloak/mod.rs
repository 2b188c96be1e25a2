//! What Keycloak's Admin API says about users: one by one, the disabled ones, their sessions, and what happened.
//!
//! Everything here runs on the control plane. An answer is what was understood; whatever else comes is a [`KeycloakError`], which
//! never says anything about a user. Measured against Keycloak 26.7.3.

mod account;
mod clock;
mod events;
mod parse;
mod roster;
mod settings;
mod user;

pub use clock::{IssuerSpan, Offset};
pub use events::{EventsConfig, Feed};
pub use parse::{Event, EventPage, Meaning, parse_admin_events, parse_user_events};
pub use roster::{Listed, Person, UsersPage};
pub use settings::{
    ClientSettings, EventSettings, Profile, ProfileAttribute, RealmSettings, ServiceAccount, Unmanaged,
};
pub use user::{DisabledPage, Session, User, UserState};

use crate::base::clock::Clock;
use crate::base::http_client::{HttpClient, HttpError, Reply, not_json, shown};
use crate::base::tls;
use crate::config;
use crate::issuer::IssuerError;
use crate::issuer::discovery::Discovery;
use account::Account;
use http::Method;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use url::Url;

/// The largest answer that is read. A page of 1,000 events with what was sent to change users is some 2 MB; one with whole
/// clients or realms in it is more.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// Why something is not known. Never a reason to think anything of a user.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum KeycloakError {
    #[error("the issuer refuses our client id and secret, or the token that it gave for them")]
    CredentialsRefused,
    #[error("the service account may not ask for `{url}`")]
    NotAllowed { url: String },
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("`{url}` answered something else than what was asked for")]
    Unexpected { url: String },
    #[error("this text cannot be the id of a user or session")]
    NoId,
    #[error("the issuer gave our service account no token")]
    NoToken,
    #[error("no client is configured that may end sessions")]
    NoManager,
}

/// An answer, and when it was asked for.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// What was answered.
    pub value: T,
    /// When it was asked for, in milliseconds of our monotonic clock.
    pub asked_ms: u64,
    /// What the issuer's clock showed when it answered.
    pub time: IssuerSpan,
}

impl<T> Answer<T> {
    fn with<U>(&self, value: U) -> Answer<U> {
        Answer { value, asked_ms: self.asked_ms, time: self.time }
    }
}

/// Counts since the start; read them at any time.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls that were made, those for tokens included.
    pub calls: AtomicU64,
    /// Those without a usable answer.
    pub failures: AtomicU64,
    /// Times that a call was refused for its token.
    pub unauthorized: AtomicU64,
    /// Whether our own credentials are refused now: an operator has to act.
    pub credentials_refused: AtomicBool,
}

/// Keycloak's Admin API for one realm, asked as a service account.
pub struct Keycloak {
    name: String,
    http: HttpClient,
    clock: Clock,
    /// The realm where tokens are had, and the same in the Admin API; without a final slash.
    realm: String,
    admin: String,
    /// Who reads.
    reader: Account,
    /// Who ends sessions, if anybody does.
    manager: Option<Account>,
    offset: Mutex<Option<Offset>>,
    /// Which user events are asked for; empty while that is not known.
    event_types: Mutex<Vec<&'static str>>,
    counters: Counters,
}

impl Keycloak {
    /// The Admin API of an issuer whose `user_status` is `keycloak`.
    ///
    /// # Errors
    /// A `ca` that cannot be used, a `url` that is none.
    pub fn new(issuer: &config::Issuer, status: &config::Keycloak, clock: Clock) -> Result<Self, IssuerError> {
        let tls = tls::client_config(issuer.ca.as_deref(), None, &[b"http/1.1"])?;
        let introspection = &status.introspection;
        let account = |id, secret| Account::new(id, secret, introspection.timeout);
        // Where the document can be reached the realm can.
        let document = Discovery::new(issuer)?.document().to_string();
        Ok(Self {
            name: issuer.name.clone(),
            http: HttpClient::new(&tls, introspection.timeout)?,
            clock,
            realm: document.trim_end_matches("/.well-known/openid-configuration").to_owned(),
            admin: status.admin_url.as_str().trim_end_matches('/').to_owned(),
            reader: account(&introspection.client_id, &introspection.client_secret),
            manager: status.end_sessions.as_ref().map(|client| account(&client.client_id, &client.client_secret)),
            offset: Mutex::new(None),
            event_types: Mutex::new(Vec::new()),
            counters: Counters::default(),
        })
    }

    /// What was asked so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the issuer's clock shows now, as far as its last answers tell; `None` before the first.
    pub fn time(&self) -> Option<IssuerSpan> {
        let now = self.clock.now().monotonic_ms;
        self.offset().map(|offset| offset.between(now, now))
    }

    /// What the issuer's clock shows, asked of it now.
    ///
    /// # Errors
    /// It gave no token.
    pub async fn ask_time(&self) -> Result<IssuerSpan, KeycloakError> {
        let asked_ms = self.clock.now().monotonic_ms;
        self.reader.renewed_since(self, asked_ms).await?;
        self.time().ok_or_else(|| KeycloakError::Unexpected { url: self.realm.clone() })
    }

    fn offset(&self) -> Option<Offset> {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The JSON of a 200.
    async fn get<T: DeserializeOwned>(&self, url: &Url) -> Result<Answer<T>, KeycloakError> {
        let answer = self.ask(&self.reader, Method::GET, url).await?;
        let value = self.understood(url, &answer.value);
        self.note(value).map(|value| answer.with(value))
    }

    fn understood<T: DeserializeOwned>(&self, url: &Url, reply: &Reply) -> Result<T, KeycloakError> {
        if reply.status != 200 {
            return Err(HttpError::Status { url: shown(url), status: reply.status }.into());
        }
        serde_json::from_slice(&reply.body).map_err(|error| not_json(url, &error).into())
    }

    /// Whatever is answered but to a refused token, with which it is asked once more.
    async fn ask(&self, account: &Account, method: Method, url: &Url) -> Result<Answer<Reply>, KeycloakError> {
        let mut refused = None;
        loop {
            let held = account.token(self, refused).await?;
            let asked_ms = self.clock.now().monotonic_ms;
            self.counters.calls.fetch_add(1, Ordering::Relaxed);
            let reply = self.http.send_as(method.clone(), url, &held.token, BODY_LIMIT).await;
            let value = self.note(reply.map_err(KeycloakError::from))?;
            match value.status {
                401 if refused.is_none() => {
                    self.counters.unauthorized.fetch_add(1, Ordering::Relaxed);
                    refused = Some(held.number);
                }
                401 => return self.note(Err(KeycloakError::CredentialsRefused)),
                403 => return self.note(Err(KeycloakError::NotAllowed { url: shown(url) })),
                _ => {
                    self.note_credentials(false);
                    let time = self.offset().map(|offset| offset.between(asked_ms, self.clock.now().monotonic_ms));
                    let time = time.ok_or_else(|| KeycloakError::Unexpected { url: shown(url) })?;
                    return Ok(Answer { value, asked_ms, time });
                }
            }
        }
    }

    fn note<T>(&self, result: Result<T, KeycloakError>) -> Result<T, KeycloakError> {
        if let Err(error) = &result {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            if matches!(error, KeycloakError::CredentialsRefused) {
                self.note_credentials(true);
            }
        }
        result
    }

    /// Said once when it begins, and once when it ends.
    fn note_credentials(&self, are_refused: bool) {
        let issuer = self.name.as_str();
        match (self.counters.credentials_refused.swap(are_refused, Ordering::Relaxed), are_refused) {
            (false, true) => {
                tracing::error!(issuer, "the issuer refuses our service account: nothing is learnt about users");
            }
            (true, false) => tracing::info!(issuer, "the issuer accepts our service account again"),
            _ => {}
        }
    }

    /// A URL below the realm in the Admin API.
    fn admin_url(&self, path: &str) -> Result<Url, KeycloakError> {
        Url::parse(&format!("{}{path}", self.admin)).map_err(|_| KeycloakError::Unexpected { url: self.admin.clone() })
    }
}

#[cfg(test)]
mod tests;
