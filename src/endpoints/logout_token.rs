//! A logout token, verified in full (OpenID Connect Back-Channel Logout 1.0 §2.4, §2.6).

use crate::base::clock::Now;
use crate::base::json::{self, Json, Object};
use crate::identity::jws;
use crate::issuer::{Issuer, KeyLookup};

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogoutToken {
    /// `sub`.
    pub(super) subject: Option<String>,
    /// `sid`. One of the two is there.
    pub(super) session: Option<String>,
    /// `iat`, in seconds.
    pub(super) issued: i64,
    /// `exp`, in seconds.
    pub(super) expires: i64,
    /// `jti`.
    pub(super) id: String,
}

/// Why it is refused. Of one that the issuer did not sign, nobody learns which check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LogoutTokenError {
    /// Malformed, of another type, or not signed by this issuer.
    #[error("the logout token is not valid")]
    Forged,
    /// A claim is missing or wrong.
    #[error("the claim `{0}` of the logout token is missing or wrong")]
    Claim(&'static str),
    /// The issuer's keys are not known, or too old.
    #[error("the logout token cannot be verified now")]
    KeysUnavailable,
}

/// The event that makes a token a logout token.
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// How old one may be, in seconds. It is sent the moment it is made.
const MAX_AGE: i64 = 300;

/// The longest `jti` and `sid` that are remembered, in bytes.
const MAX_ID: usize = 512;

/// Verifies a token that should be of `issuer`, for one of `clients`.
pub(super) async fn verify(
    issuer: &Issuer,
    clients: &[String],
    token: &[u8],
    now: Now,
) -> Result<LogoutToken, LogoutTokenError> {
    let jws = jws::parse_logout(token).map_err(|_| LogoutTokenError::Forged)?;
    let config = issuer.config();
    let claims = json::parse_object(&jws.payload).ok_or(LogoutTokenError::Forged)?;
    // Before any key is looked for: strangers' tokens cause no fetch by naming another issuer.
    if claims.get("iss").and_then(Json::as_str) != Some(&config.url) || !config.algorithms.contains(&jws.algorithm) {
        return Err(LogoutTokenError::Forged);
    }
    let key = match issuer.key_for(jws.kid.as_deref(), jws.algorithm).await {
        KeyLookup::Key(key) => key,
        KeyLookup::Unknown => return Err(LogoutTokenError::Forged),
        KeyLookup::Unavailable => return Err(LogoutTokenError::KeysUnavailable),
    };
    if !key.verify(jws.algorithm, jws.message, &jws.signature) {
        return Err(LogoutTokenError::Forged);
    }
    let leeway = i64::try_from(config.leeway.as_secs()).unwrap_or(0);
    read(&claims, clients, leeway, now.unix_seconds())
}

/// Reads the claims of a token that the issuer signed.
fn read(claims: &Object<'_>, clients: &[String], leeway: i64, now: i64) -> Result<LogoutToken, LogoutTokenError> {
    let wrong = LogoutTokenError::Claim;
    let text = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        Some(Json::String(text)) if !text.is_empty() && text.len() <= MAX_ID => Ok(Some(text.clone().into_owned())),
        Some(_) => Err(wrong(name)),
    };
    let time = |name: &'static str| match claims.get(name).and_then(Json::as_i64) {
        Some(time) if (0..=253_402_300_799).contains(&time) => Ok(time),
        _ => Err(wrong(name)),
    };
    let is_ours = |audience: &Json<'_>| audience.as_str().is_some_and(|name| clients.iter().any(|known| known == name));
    let is_for_us = match claims.get("aud") {
        Some(Json::Array(names)) => names.iter().all(|name| name.as_str().is_some()) && names.iter().any(is_ours),
        Some(name) => is_ours(name),
        None => false,
    };
    if !is_for_us {
        return Err(wrong("aud"));
    }
    let (issued, expires) = (time("iat")?, time("exp")?);
    if issued > now + leeway || issued < now - MAX_AGE - leeway {
        return Err(wrong("iat"));
    }
    if expires <= now - leeway {
        return Err(wrong("exp"));
    }
    let event = claims.get("events").and_then(|events| events.as_object()?.get(LOGOUT));
    if event.and_then(Json::as_object).is_none() {
        return Err(wrong("events"));
    }
    // So that no ID token can be used as one.
    if claims.get("nonce").is_some() {
        return Err(wrong("nonce"));
    }
    // Keycloak names the kind of every token of its in the payload, too.
    if claims.get("typ").is_some_and(|typ| typ.as_str() != Some("Logout")) {
        return Err(wrong("typ"));
    }
    let id = text("jti")?.ok_or(wrong("jti"))?;
    let (subject, session) = (text("sub")?, text("sid")?);
    if subject.is_none() && session.is_none() {
        return Err(wrong("sid"));
    }
    Ok(LogoutToken { subject, session, issued, expires, id })
}
