//! A token of a ServiceAccount of the user's own namespace, with which they act at the Kubernetes API.
//!
//! It is bound to the Secret `postern-session` of that namespace, which is deleted when the user is blocked: then the API server takes the
//! token no more, whoever holds it.

use super::party::AskError;
use crate::base::clock::Clock;
use crate::base::json::parse_object;
use crate::base::secret::Secret;
use crate::config::ServiceAccount;
use crate::kubernetes::Cluster;
use crate::kubernetes::token_request::{AccountToken, Bound, BoundKind, TokenRequest, request};
use crate::token_service::obtained::Obtained;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::time::Duration;

/// What tokens are bound to.
const SESSION: &str = "postern-session";

/// For how long one is asked for: the admission policies allow no more.
const LIFETIME: Duration = Duration::from_hours(1);

/// Asks for a token for the API server itself.
pub(super) async fn ask(
    cluster: &Cluster,
    config: &ServiceAccount,
    namespace: &str,
    clock: &Clock,
) -> Result<Obtained, AskError> {
    // By its name alone, since we may not read it: what is there when the token is made is what the token dies with.
    let session = Bound { kind: BoundKind::Secret, name: SESSION.to_owned(), uid: None };
    let asked = TokenRequest {
        namespace,
        account: &config.account,
        audiences: &[],
        lifetime: LIFETIME,
        bound_to: Some(&session),
    };
    let now = clock.now();
    let made = request(cluster, &asked).await?;
    let lifetime = lifetime(&made, now.unix_ms);
    Ok(Obtained::with_floor(&made.token, now.monotonic_ms, lifetime)?)
}

/// The life that the token says, both dates being of one clock; where it cannot be read, what is left of it by our own.
fn lifetime(made: &AccountToken, now_unix_ms: u64) -> Duration {
    let stated = stated_lifetime(&made.token).map(Duration::from_secs);
    stated.unwrap_or_else(|| Duration::from_millis(made.expires_unix_ms.saturating_sub(now_unix_ms)))
}

/// It comes from the API server over our own connection, so its signature is not looked at.
fn stated_lifetime(token: &Secret) -> Option<u64> {
    let payload = token.expose().split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims = parse_object(&payload)?;
    let date = |name: &str| claims.get(name)?.as_u64();
    date("exp")?.checked_sub(date("iat")?)
}
