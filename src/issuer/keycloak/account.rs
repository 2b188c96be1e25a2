//! A service account: its token, held and renewed, and what the token tells of the issuer's clock.

use super::clock::Offset;
use super::{Keycloak, KeycloakError};
use crate::base::http_client::{BasicCredentials, BearerToken, HttpError, not_json};
use crate::base::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use url::Url;

/// A token is renewed at this age although it would live longer: what it tells of the issuer's clock must not be old.
const RENEW_AFTER_MS: u64 = 60_000;

/// No token is used in the last part of its life: it would end under way.
const RESERVE_MS: u64 = 10_000;

/// After a renewal that failed, a token that is still good is used for so long without trying again.
const RETRY_AFTER_MS: u64 = 5_000;

/// A token that is needed is waited for so long at least. The first one after a signing key is gone takes Keycloak up to 10 s, and each call that
/// is given up leaves it with one more key to make.
const LEAST_TIMEOUT: Duration = Duration::from_secs(15);

/// A client that gets tokens for itself (RFC 6749 §4.4).
pub(super) struct Account {
    credentials: BasicCredentials,
    timeout: Duration,
    /// Held while a token is had, so that those who need it at once wait for the same one.
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// When the last call for a token that failed had failed, by our monotonic clock.
    failed_ms: u64,
    was_refused: bool,
}

#[derive(Clone)]
pub(super) struct Held {
    pub(super) token: BearerToken,
    /// Counts the tokens of this account.
    pub(super) number: u64,
    /// Of our monotonic clock.
    asked_ms: u64,
    renew_ms: u64,
    ends_ms: u64,
}

/// A token response (RFC 6749 §5.1).
#[derive(Deserialize)]
pub(super) struct Granted {
    #[serde(deserialize_with = "secret")]
    pub(super) access_token: Secret,
    /// In seconds.
    pub(super) expires_in: u64,
}

/// The part of the token that is read. It comes from the issuer itself over our own connection, so its signature is not looked at.
#[derive(Deserialize)]
struct Claims {
    iat: u64,
}

impl Account {
    pub(super) fn new(id: &str, secret: &Secret, timeout: Duration) -> Self {
        Self { credentials: BasicCredentials::new(id, secret), timeout, state: tokio::sync::Mutex::default() }
    }

    /// A token; not the one with the number `refused`.
    pub(super) async fn token(&self, keycloak: &Keycloak, refused: Option<u64>) -> Result<Held, KeycloakError> {
        let arrived_ms = keycloak.clock.now().monotonic_ms;
        let mut state = self.state.lock().await;
        let now = keycloak.clock.now().monotonic_ms;
        let usable = state.held.clone().filter(|held| Some(held.number) != refused && now < held.ends_ms);
        if let Some(held) = usable.as_ref().filter(|held| now < held.renew_ms) {
            return Ok(held.clone());
        }
        let timeout = if usable.is_some() { self.timeout } else { self.timeout.max(LEAST_TIMEOUT) };
        match (self.renew(keycloak, &mut state, arrived_ms, timeout).await, usable) {
            (Err(_), Some(usable)) => {
                state.held = Some(Held { renew_ms: now + RETRY_AFTER_MS, ..usable.clone() });
                Ok(usable)
            }
            (result, _) => result,
        }
    }

    /// Has a token that was asked for at `since_ms` or later.
    pub(super) async fn renewed_since(&self, keycloak: &Keycloak, since_ms: u64) -> Result<(), KeycloakError> {
        let mut state = self.state.lock().await;
        if state.held.as_ref().is_some_and(|held| held.asked_ms >= since_ms) {
            return Ok(());
        }
        self.renew(keycloak, &mut state, since_ms, self.timeout).await.map(|_| ())
    }

    /// One call for a token. Who came while another's failed shares in its failure.
    async fn renew(
        &self,
        keycloak: &Keycloak,
        state: &mut State,
        arrived_ms: u64,
        timeout: Duration,
    ) -> Result<Held, KeycloakError> {
        if state.failed_ms >= arrived_ms {
            return Err(match state.was_refused {
                true => KeycloakError::CredentialsRefused,
                false => KeycloakError::NoToken,
            });
        }
        let number = state.held.as_ref().map_or(0, |held| held.number) + 1;
        let granted = keycloak.note(self.grant(keycloak, number, timeout).await);
        match &granted {
            Ok(held) => state.held = Some(held.clone()),
            Err(error) => {
                state.failed_ms = keycloak.clock.now().monotonic_ms;
                state.was_refused = matches!(error, KeycloakError::CredentialsRefused);
            }
        }
        granted
    }

    /// A token that is not held, for one who looks at it.
    pub(super) async fn granted(&self, keycloak: &Keycloak) -> Result<Granted, KeycloakError> {
        self.ask(keycloak, self.timeout).await
    }

    async fn ask(&self, keycloak: &Keycloak, timeout: Duration) -> Result<Granted, KeycloakError> {
        let text = format!("{}/protocol/openid-connect/token", keycloak.realm);
        let url = Url::parse(&text).map_err(|_| KeycloakError::Unexpected { url: text })?;
        keycloak.counters.calls.fetch_add(1, Ordering::Relaxed);
        let form = [("grant_type", "client_credentials")];
        let answer = keycloak.http.post_form(&url, &self.credentials, &form, timeout).await;
        let body = answer.map_err(|error| match error {
            // Keycloak says 401; 400 and 403 are what RFC 6749 §5.2 and proxies have for it.
            HttpError::Status { status: 400 | 401 | 403, .. } => KeycloakError::CredentialsRefused,
            error => error.into(),
        })?;
        serde_json::from_slice(&body).map_err(|error| not_json(&url, &error).into())
    }

    async fn grant(&self, keycloak: &Keycloak, number: u64, timeout: Duration) -> Result<Held, KeycloakError> {
        let unexpected = || KeycloakError::Unexpected { url: keycloak.realm.clone() };
        let asked_ms = keycloak.clock.now().monotonic_ms;
        let granted = self.ask(keycloak, timeout).await?;
        let answered_ms = keycloak.clock.now().monotonic_ms;
        let offset = read::<Claims>(&granted.access_token);
        let offset = offset.map(|claims| Offset::new(claims.iat, asked_ms, answered_ms));
        let offset = offset.ok_or_else(unexpected)?;
        let token = BearerToken::new(&granted.access_token).ok_or_else(unexpected)?;
        let mut known = keycloak.offset.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(offset.narrowed(*known));
        drop(known);
        let lifetime_ms = granted.expires_in.saturating_mul(1000);
        Ok(Held {
            token,
            number,
            asked_ms,
            renew_ms: asked_ms.saturating_add(lifetime_ms.saturating_sub(RESERVE_MS).min(RENEW_AFTER_MS)),
            ends_ms: asked_ms.saturating_add(lifetime_ms),
        })
    }
}

/// The claims of a token that is a JWT, as Keycloak's are.
pub(super) fn read<T: DeserializeOwned>(token: &Secret) -> Option<T> {
    let payload = URL_SAFE_NO_PAD.decode(token.expose().split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}
