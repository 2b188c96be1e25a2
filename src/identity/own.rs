//! Postern's own tokens as tokens that come in: issuer `self` of a route. Only those minted for `token_service.audience` pass, so
//! that no upstream can use against Postern, or through it, what it was given.

use super::link::Links;
use super::said::Said;
use super::source::Source;
use super::status::StatusError;
use super::verifier::{TokenError, VerifiedToken, Verifier};
use super::{Identity, jws};
use crate::base::clock::{Clock, Now};
use crate::base::json::{self, Json, Object};
use crate::config::{self, Algorithm, ClaimPath, IssuerKind, KeyPolicy, UserStatus, WhenUnknown};
use crate::issuer::{Issuer, JwksError, KeyLookup};
use crate::token_service::TokenService;
use crate::token_service::publish::Document;
use crate::users::UserId;
use std::sync::Arc;
use std::time::Duration;

/// The name by which routes and logs know Postern's own tokens. No `[issuer]` can have it.
pub const OWN: &str = "self";

/// Postern as an issuer, with the keys that it publishes now.
///
/// # Errors
/// The published keys are no key set that can be read, which would be a bug in one of the two.
pub(super) fn source(service: &TokenService, clock: Clock, links: &Links) -> Result<Source, JwksError> {
    let issuer = Issuer::without_keys(Arc::new(config(service.config())), clock);
    if !service.ring().published().is_empty() {
        issuer.replace_keys(&service.document(Document::Keys))?;
    }
    Ok(Source::new(Arc::new(issuer), links))
}

/// Our own tokens are as [`crate::token_service::mint`] makes them.
fn config(service: &config::TokenService) -> config::Issuer {
    let claim = |name: &str| ClaimPath::parse(name).unwrap_or_else(|| unreachable!("`{name}` is a claim's name"));
    config::Issuer {
        name: OWN.into(),
        kind: IssuerKind::Oidc,
        url: service.issuer.clone(),
        audiences: vec![service.audience.clone()],
        algorithms: vec![Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa],
        leeway: Duration::from_secs(30),
        max_token_age: None,
        address: None,
        ca: None,
        endpoint_origins: Vec::new(),
        lightweight: false,
        opaque: false,
        roles_claims: vec![claim("roles")],
        groups_claim: claim("groups"),
        namespace_claim: claim("namespace"),
        username_claim: claim("preferred_username"),
        email_claim: claim("email"),
        keys: KeyPolicy { refresh: Duration::MAX, max_stale: Duration::MAX, timeout: Duration::MAX },
        // That of the issuer in `orig_iss` decides.
        user_status: UserStatus::None,
    }
}

/// In which epoch of its user a token of ours was made. `None` for what we do not write.
pub fn epoch(claims: &Object<'_>) -> Option<u64> {
    claims.get("epoch").map_or(Some(0), Json::as_u64)
}

impl VerifiedToken {
    /// Whether Postern made it.
    pub(super) fn is_own(&self) -> bool {
        self.source.issuer.config().name == OWN
    }
}

impl Verifier {
    /// Learns the keys that Postern publishes now. Called by the control plane.
    pub fn refresh_own_keys(&self, service: &TokenService) {
        if service.ring().published().is_empty() {
            return;
        }
        let keys = service.document(Document::Keys);
        if let Err(error) = self.own.issuer.replace_keys(&keys) {
            tracing::error!(%error, "Postern's own keys cannot be read back");
        }
    }

    /// The caller of an own token: a user of the issuer that `orig_iss` names.
    pub(super) fn own_identity(&self, claims: &Object<'_>) -> Result<Arc<Identity>, TokenError> {
        let url = claims.get("orig_iss").and_then(Json::as_str).ok_or(TokenError::Issuer)?;
        let original = self.source(url).ok_or(TokenError::Issuer)?;
        let identity = Said::read(claims, self.own.issuer.config(), &[]).ok_or(TokenError::Payload)?.identity();
        let issuer = Arc::clone(original.issuer.config());
        let epoch = epoch(claims).ok_or(TokenError::Payload)?;
        Ok(Arc::new(Identity { issuer, epoch, ..identity }))
    }

    /// The claims of a token that Postern minted for whomever, if a published key signed it and it lives.
    pub fn minted(&self, token: &[u8], now: Now) -> Option<Object<'static>> {
        let jws = jws::parse(token).ok()?;
        let KeyLookup::Key(key) = self.own.issuer.key_now(jws.kid.as_deref(), jws.algorithm)? else {
            return None;
        };
        if !key.verify(jws.algorithm, jws.message, &jws.signature) {
            return None;
        }
        let claims = json::parse_object(&jws.payload)?;
        let date = |name: &str| claims.get(name).and_then(Json::as_i64);
        let is_own = claims.get("iss").and_then(Json::as_str) == Some(&self.own.issuer.config().url);
        let lives = date("nbf")? <= now.unix_seconds() && now.unix_seconds() < date("exp")?;
        (is_own && lives).then(|| claims.into_owned())
    }

    /// An own token cannot be introspected at the user's issuer. It passes while the same user is known to be active by another token
    /// within the bound, and still has what this token says.
    pub(super) fn confirm_own(&self, token: &VerifiedToken, now: Now) -> Result<Arc<Identity>, StatusError> {
        let stated = token.stated.load_full().ok_or(StatusError::Unknown)?;
        let Some(settings) = stated.issuer.user_status.introspection() else {
            return Ok(stated);
        };
        let user = token.status.user.get().ok_or(StatusError::Unknown)?;
        if user.id().is_some_and(|user| self.is_as_kept(&user, &stated, settings, now)) {
            return Ok(stated);
        }
        let known = user.active_within(settings.bound, now).ok_or(StatusError::Unknown)?;
        let is_current = known.identity.epoch == stated.epoch
            && known.identity.namespace == stated.namespace
            && holds(&known.identity.roles, &stated.roles)
            && holds(&known.identity.groups, &stated.groups);
        if is_current { Ok(stated) } else { Err(StatusError::Inactive) }
    }

    /// Whether a token is kept ready for the user that says as much, and the issuer told about its users within the bound. Who is
    /// disabled is known by then, and what else changed made another token.
    fn is_as_kept(&self, user: &UserId, stated: &Identity, settings: &config::Introspection, now: Now) -> bool {
        let most = match settings.when_unknown {
            WhenUnknown::Deny => settings.bound,
            WhenUnknown::AllowFor(allow_for) => allow_for,
        };
        let heard_ms = self.bulletin.heard_ms(user.issuer());
        let is_heard = heard_ms > 0 && u128::from(now.monotonic_ms.saturating_sub(heard_ms)) <= most.as_millis();
        let says = |namespace: &str, roles: &[String], groups: &[String]| {
            stated.namespace.as_deref() == Some(namespace)
                && holds(roles, &stated.roles)
                && holds(groups, &stated.groups)
        };
        is_heard
            && match self.bulletin.kept(user) {
                Some(kept) => kept.epoch == stated.epoch && says(&kept.namespace, &kept.roles, &kept.groups),
                // In a cluster another process keeps it, and records what it says.
                None => self.bulletin.recorded(user).is_some_and(|recorded| {
                    self.users.epoch(user.issuer(), user.subject()) == stated.epoch
                        && says(&recorded.namespace, &recorded.roles, &recorded.groups)
                }),
            }
    }
}

fn holds(now: &[String], then: &[String]) -> bool {
    then.iter().all(|name| now.contains(name))
}
