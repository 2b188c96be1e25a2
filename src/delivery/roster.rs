//! What a delivery asks of an issuer.

use crate::issuer::keycloak::{Answer, IssuerSpan, Keycloak, KeycloakError, Person, UserState, UsersPage};
use std::future::Future;

/// An issuer's directory of users. The real one is [`Keycloak`]; a simulation has its own.
///
/// An error says that something is not known, never anything about a user.
pub trait Roster: Send + Sync + 'static {
    /// All users, from the one at `first` on.
    fn users(&self, first: usize) -> impl Future<Output = Result<Answer<UsersPage>, KeycloakError>> + Send;

    /// Whether there is such a user.
    fn user(&self, id: &str) -> impl Future<Output = Result<Answer<UserState>, KeycloakError>> + Send;

    /// What tokens say about a user; `None`: there is no such user.
    fn person(&self, id: &str) -> impl Future<Output = Result<Answer<Option<Person>>, KeycloakError>> + Send;

    /// Whether the realm itself is there.
    fn realm(&self) -> impl Future<Output = Result<(), KeycloakError>> + Send;

    /// What the issuer's clock shows now, as far as its answers told; `None` before the first.
    fn time(&self) -> Option<IssuerSpan>;
}

impl Roster for Keycloak {
    async fn users(&self, first: usize) -> Result<Answer<UsersPage>, KeycloakError> {
        self.users(first).await
    }

    async fn user(&self, id: &str) -> Result<Answer<UserState>, KeycloakError> {
        self.user(id).await
    }

    async fn person(&self, id: &str) -> Result<Answer<Option<Person>>, KeycloakError> {
        self.person(id).await
    }

    async fn realm(&self) -> Result<(), KeycloakError> {
        self.realm_not_before().await.map(drop)
    }

    fn time(&self) -> Option<IssuerSpan> {
        self.time()
    }
}
