//! Back-channel logout (OpenID Connect Back-Channel Logout 1.0): the issuer says that a session ended. Never a user block.

use super::form::Form;
use super::logout_token::{self, LogoutToken, LogoutTokenError};
use super::reply;
use super::{Endpoints, Outcome};
use crate::base::clock::Now;
use crate::config;
use crate::identity::link::Hint;
use crate::issuer::Issuer;
use crate::users::{Cause, SessionScope, StoreError, UserId};
use bytes::Bytes;
use http::{Response, StatusCode};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// One issuer whose logout tokens are taken.
pub(super) struct Logout {
    /// The NAME of `[issuer.NAME]`, and the last part of the path.
    pub(super) name: Arc<str>,
    clients: Vec<String>,
    issuer: Arc<Issuer>,
}

/// The logout tokens that did their work, by issuer and `jti`, until they expire. Only issuers can add to it.
#[derive(Debug, Default)]
pub(super) struct Done(Mutex<HashMap<(Arc<str>, String), i64>>);

/// The most of them that are remembered. Of more, those go that expire first; a repeated one ends the same sessions once more.
const MAX_DONE: usize = 10_000;

impl Logout {
    /// Those of a configuration, with the issuers that verify for it.
    pub(super) fn all<'a>(issuers: impl Iterator<Item = &'a Arc<Issuer>>) -> Vec<Self> {
        let logout = |issuer: &Arc<Issuer>| {
            let config: &config::Issuer = issuer.config();
            let clients = config.user_status.keycloak()?.backchannel_clients.clone()?;
            Some(Self { name: config.name.as_str().into(), clients, issuer: Arc::clone(issuer) })
        };
        issuers.filter_map(logout).collect()
    }
}

impl fmt::Debug for Logout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logout").field("name", &self.name).field("clients", &self.clients).finish_non_exhaustive()
    }
}

impl Done {
    fn contains(&self, issuer: &Arc<str>, id: &str) -> bool {
        let done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        done.contains_key(&(Arc::clone(issuer), id.to_owned()))
    }

    fn insert(&self, issuer: &Arc<str>, id: String, until: i64, now: Now) {
        let mut done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() >= MAX_DONE {
            done.retain(|_, until| *until > now.unix_seconds());
        }
        if done.len() >= MAX_DONE
            && let Some(first) = done.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone())
        {
            done.remove(&first);
        }
        done.insert((Arc::clone(issuer), id), until);
    }
}

impl Endpoints {
    /// Answers a call. On the control plane: it waits for the disk, and perhaps for the issuer's keys.
    pub(super) async fn logout(&self, logout: &Logout, body: &[u8], now: Now) -> (Outcome, Response<Bytes>) {
        let form = match Form::parse(body) {
            Ok(form) => form,
            Err(error) => return (Outcome::Malformed, reply::invalid_request(&error.to_string())),
        };
        let Some(token) = form.get("logout_token") else {
            return (Outcome::Malformed, reply::invalid_request("the parameter `logout_token` is missing"));
        };
        let token = match logout_token::verify(&logout.issuer, &logout.clients, token.as_bytes(), now).await {
            Ok(token) => token,
            // The specification has 400 for whatever failed (§2.8).
            Err(LogoutTokenError::KeysUnavailable) => return (Outcome::Unavailable, failed()),
            Err(error) => {
                tracing::info!(issuer = &*logout.name, %error, "a logout token is refused");
                let outcome = if error == LogoutTokenError::Forged { Outcome::Forged } else { Outcome::Refused };
                return (outcome, reply::invalid_request(&error.to_string()));
            }
        };
        // What it says was done; an issuer that got no answer may well send it twice.
        if self.done.contains(&logout.name, &token.id) {
            return (Outcome::Repeated, reply::done());
        }
        let leeway = i64::try_from(logout.issuer.config().leeway.as_secs()).unwrap_or(0);
        let (id, until) = (token.id.clone(), token.expires.saturating_add(leeway));
        match self.end_sessions(&logout.name, token).await {
            Ok(()) => {
                self.done.insert(&logout.name, id, until, now);
                (Outcome::Done, reply::done())
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a logout cannot be stored");
                (Outcome::Unavailable, failed())
            }
        }
    }

    /// Ends what the token names: one session, or all of a user begun before it.
    async fn end_sessions(&self, issuer: &Arc<str>, token: LogoutToken) -> Result<(), StoreError> {
        let LogoutToken { subject, session, issued, .. } = token;
        let user = subject.as_deref().and_then(|subject| UserId::new(Arc::clone(issuer), subject));
        let hint = match (&user, &session) {
            // Tokens without `sid` may belong to the session, too.
            (Some(user), _) => Some(Hint::Reintrospect(user.clone())),
            (None, Some(session)) => {
                Some(Hint::ReintrospectSession { issuer: Arc::clone(issuer), session: session.clone() })
            }
            (None, None) => None,
        };
        let link = self.links.get(issuer);
        let (users, issuer) = (Arc::clone(&self.users), Arc::clone(issuer));
        let stored = tokio::task::spawn_blocking(move || match (session, user, subject) {
            (Some(session), Some(user), _) => users.end_session_of(&user, session, Cause::LoggedOut),
            (Some(session), None, _) => users.end_session(&issuer, SessionScope::Session(session), Cause::LoggedOut),
            (None, _, subject) => {
                // `iat` is in whole seconds, and the logout fell into that one.
                let begun_before_ms = u64::try_from(issued).unwrap_or(0).saturating_add(1).saturating_mul(1000);
                let scope = SessionScope::User { subject: subject.unwrap_or_default(), begun_before_ms };
                users.end_session(&issuer, scope, Cause::LoggedOut)
            }
        });
        // A task that is cancelled belongs to a process that ends.
        if let Ok(stored) = stored.await {
            stored?;
        }
        if let (Some(link), Some(hint)) = (link, hint) {
            // Nobody may be listening.
            let _ = link.hints().send(hint);
        }
        Ok(())
    }
}

fn failed() -> Response<Bytes> {
    reply::error(StatusCode::BAD_REQUEST, "temporarily_unavailable", "the logout could not be done; try again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use std::time::Duration;

    #[test]
    fn what_is_done_is_remembered_within_bounds() {
        let (clock, done) = (Clock::manual(1_000), Done::default());
        let [main, other]: [Arc<str>; 2] = ["main".into(), "other".into()];
        done.insert(&main, "a".into(), 1_001, clock.now());
        assert!(done.contains(&main, "a") && !done.contains(&other, "a") && !done.contains(&main, "b"));
        for number in 1..MAX_DONE {
            done.insert(&main, number.to_string(), 2_000, clock.now());
        }
        done.insert(&main, "b".into(), 2_000, clock.now());
        assert!(!done.contains(&main, "a") && done.contains(&main, "b"));
        assert_eq!(done.0.lock().unwrap().len(), MAX_DONE);
        clock.advance(Duration::from_secs(1_000));
        done.insert(&main, "c".into(), 3_000, clock.now());
        assert_eq!(done.0.lock().unwrap().len(), 1);
    }
}
