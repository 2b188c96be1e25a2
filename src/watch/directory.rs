//! What a watch asks of an issuer.

use crate::issuer::keycloak::{
    Answer, DisabledPage, EventPage, EventsConfig, Feed, IssuerSpan, Keycloak, KeycloakError, Session, UserState,
};
use std::future::Future;

/// An issuer's directory of users. The real one is [`Keycloak`]; a simulation has its own.
///
/// An error says that something is not known, never anything about a user.
pub trait Directory: Send + Sync + 'static {
    /// Events from a time on by the issuer's clock, oldest first, without the first `first` of them.
    fn events(
        &self,
        feed: Feed,
        since_ms: u64,
        first: usize,
    ) -> impl Future<Output = Result<Answer<EventPage>, KeycloakError>> + Send;

    /// Which events the issuer keeps.
    fn events_config(&self) -> impl Future<Output = Result<EventsConfig, KeycloakError>> + Send;

    /// The disabled users, from the one at `first` on.
    fn disabled_users(&self, first: usize) -> impl Future<Output = Result<Answer<DisabledPage>, KeycloakError>> + Send;

    /// One user.
    fn user(&self, id: &str) -> impl Future<Output = Result<Answer<UserState>, KeycloakError>> + Send;

    /// A user's sessions; `None`: the user is deleted.
    fn sessions(&self, id: &str) -> impl Future<Output = Result<Answer<Option<Vec<Session>>>, KeycloakError>> + Send;

    /// Ends a user's sessions at the issuer: all, or those that surely began before a time by its clock.
    fn end_sessions(
        &self,
        id: &str,
        begun_before_ms: Option<u64>,
    ) -> impl Future<Output = Result<(), KeycloakError>> + Send;

    /// From when on anything of the realm counts, in milliseconds since 1970 by the issuer's clock; 0: no such time.
    fn realm_not_before(&self) -> impl Future<Output = Result<u64, KeycloakError>> + Send;

    /// What the issuer's clock shows now, as far as its answers told; `None` before the first.
    fn time(&self) -> Option<IssuerSpan>;

    /// What the issuer's clock shows, asked of it now.
    fn ask_time(&self) -> impl Future<Output = Result<IssuerSpan, KeycloakError>> + Send;
}

impl Directory for Keycloak {
    async fn events(&self, feed: Feed, since_ms: u64, first: usize) -> Result<Answer<EventPage>, KeycloakError> {
        self.events(feed, since_ms, first).await
    }

    async fn events_config(&self) -> Result<EventsConfig, KeycloakError> {
        self.events_config().await
    }

    async fn disabled_users(&self, first: usize) -> Result<Answer<DisabledPage>, KeycloakError> {
        self.disabled_users(first).await
    }

    async fn user(&self, id: &str) -> Result<Answer<UserState>, KeycloakError> {
        self.user(id).await
    }

    async fn sessions(&self, id: &str) -> Result<Answer<Option<Vec<Session>>>, KeycloakError> {
        self.sessions(id).await
    }

    async fn end_sessions(&self, id: &str, begun_before_ms: Option<u64>) -> Result<(), KeycloakError> {
        self.end_sessions(id, begun_before_ms).await
    }

    async fn realm_not_before(&self) -> Result<u64, KeycloakError> {
        self.realm_not_before().await
    }

    fn time(&self) -> Option<IssuerSpan> {
        self.time()
    }

    async fn ask_time(&self) -> Result<IssuerSpan, KeycloakError> {
        self.ask_time().await
    }
}
