//! `postern doctor`: reads how each issuer is set up, and says which settings would break a promise.
//!
//! It only reads, needs no running gateway, and judges with the gateway's own code where it can. What the configured client may
//! not read is said to be unknown, with the role that would show it. No token and no secret gets into a [`Finding`].

mod account;
mod capacity;
mod events;
mod finding;
mod issuer;
mod lifetimes;
mod logout;
mod namespace;
mod token;

#[cfg(test)]
mod tests;

pub use capacity::{tokens_in_use, tokens_kept_fresh};
pub use finding::{Examined, Finding, Report, Severity};
pub use token::{Token, TokenError};

use crate::base::clock::Clock;
use crate::config::{self, Config, UserStatus};
use crate::issuer::Issuer;
use crate::issuer::keycloak::{Keycloak, KeycloakError};
use std::sync::Arc;
use std::time::Duration;

/// Everything is done by then, whatever the issuers do.
const LONGEST: Duration = Duration::from_secs(50);

/// No call takes longer, whatever the configuration allows a gateway.
const LONGEST_CALL: Duration = Duration::from_secs(10);

/// Looks at every issuer of a configuration. `tokens` are access tokens of users, each looked at with its issuer.
///
/// # Errors
/// A token that belongs to no issuer of the configuration.
pub async fn examine(config: &Config, tokens: &[Token], clock: &Clock) -> Result<Report, TokenError> {
    let mut of_issuers = vec![Vec::new(); config.issuers.len()];
    for token in tokens {
        of_issuers[token.belongs_to(&config.issuers)?].push(token);
    }
    let share = LONGEST / u32::try_from(config.issuers.len().max(1)).unwrap_or(u32::MAX);
    let mut examined = Vec::new();
    for (issuer, tokens) in config.issuers.iter().zip(of_issuers) {
        let mut findings = Vec::new();
        let own_issuer = &config.token_service.issuer;
        let work = examine_issuer(hurried(issuer), own_issuer, &tokens, clock, &mut findings);
        if tokio::time::timeout(share, work).await.is_err() {
            let text = format!("the issuer is too slow: not everything was looked at within {}", text(share));
            findings.push(Finding::broken("speed", text).breaks("users are asked about within `bound`"));
        }
        examined.push(Examined { issuer: issuer.name.clone(), url: issuer.url.clone(), findings });
    }
    Ok(Report::new(examined))
}

/// The same issuer, with less patience.
fn hurried(issuer: &config::Issuer) -> Arc<config::Issuer> {
    let mut issuer = issuer.clone();
    issuer.keys.timeout = issuer.keys.timeout.min(LONGEST_CALL);
    match &mut issuer.user_status {
        UserStatus::None => {}
        UserStatus::Introspection(introspection) | UserStatus::Keycloak(config::Keycloak { introspection, .. }) => {
            introspection.timeout = introspection.timeout.min(LONGEST_CALL);
        }
    }
    Arc::new(issuer)
}

async fn examine_issuer(
    config: Arc<config::Issuer>,
    own_issuer: &str,
    tokens: &[&Token],
    clock: &Clock,
    findings: &mut Vec<Finding>,
) {
    let issuer = match Issuer::new(Arc::clone(&config), clock.clone()) {
        Ok(issuer) => issuer,
        Err(error) => return findings.push(Finding::broken("discovery", error.to_string())),
    };
    if !issuer::examine(&issuer, findings).await {
        return;
    }
    match &config.user_status {
        UserStatus::None => {
            let text = "`user_status` is \"none\": a token is good until it expires, whatever happens to its user";
            findings.push(Finding::note("source", text));
        }
        UserStatus::Introspection(introspection) => {
            let text = "source `introspection` knows the end of sessions only, not that a user is disabled or deleted";
            findings.push(Finding::note("source", text).remedy("source `keycloak`, where the issuer is one"));
            if issuer::examine_client(&issuer, &introspection.client_id, findings).await {
                token::examine(&issuer, tokens, clock, findings).await;
                capacity::examine(&issuer, "no token", clock, findings).await;
            }
        }
        UserStatus::Keycloak(status) => match Keycloak::new(&config, status, clock.clone()) {
            Ok(keycloak) => {
                let place = Place { config: &config, status, issuer: &issuer, keycloak: &keycloak, clock, own_issuer };
                examine_keycloak(&place, tokens, findings).await;
            }
            Err(error) => findings.push(Finding::broken("client", error.to_string())),
        },
    }
}

/// A realm, and who looks at it.
struct Place<'a> {
    config: &'a config::Issuer,
    status: &'a config::Keycloak,
    issuer: &'a Issuer,
    keycloak: &'a Keycloak,
    clock: &'a Clock,
    /// `token_service.issuer`.
    own_issuer: &'a str,
}

async fn examine_keycloak(place: &Place<'_>, tokens: &[&Token], findings: &mut Vec<Finding>) {
    // All that follows is asked with this account's tokens.
    let Some(account) = account::examine(place, findings).await else { return };
    if !tokens.is_empty() {
        token::examine(place.issuer, tokens, place.clock, findings).await;
    } else if issuer::can_introspect(place.issuer) {
        account::examine_audience(place, &account, findings).await;
    }
    let realm = place.keycloak.realm_settings().await;
    match place.keycloak.event_settings().await {
        Ok(settings) => findings.extend(events::judge(&settings, realm.as_ref().ok().and_then(Option::as_ref))),
        Err(error) => findings.push(unread("events", "which events are stored", "view-events", &error)),
    }
    match place.keycloak.user_profile().await {
        Ok(profile) => findings.extend(namespace::judge(&profile, &place.config.namespace_claim)),
        Err(error) => findings.push(unread("namespace", "who may edit the namespace", "view-users", &error)),
    }
    match realm {
        Ok(Some(settings)) => findings.extend(lifetimes::judge(&settings)),
        Ok(None) => findings.push(lifetimes::unknown(account.lifetime)),
        Err(error) => findings.push(unread("lifetimes", "token and session lifetimes", "view-realm", &error)),
    }
    logout::examine(place, findings).await;
    findings.push(capacity::ceiling(place.status));
    if issuer::can_introspect(place.issuer) {
        capacity::examine(place.issuer, account.token.expose(), place.clock, findings).await;
    }
}

/// What could not be read, and the role that shows it.
fn unread(check: &'static str, what: &str, role: &str, error: &KeycloakError) -> Finding {
    match error {
        KeycloakError::NotAllowed { .. } => {
            let text = format!("{what} may not be read: needs role `{role}` of `realm-management`");
            Finding::unknown(check, text).remedy(format!("grant `{role}` to the service account, or look by hand"))
        }
        error => Finding::unknown(check, format!("{what} could not be read: {error}")),
    }
}

/// A duration as the configuration has it.
fn text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Names as a sentence has them.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
