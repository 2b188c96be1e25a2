//! One token: its claims (CONTRACT: issuer self, audience of the upstream, namespace) and its signature.

use super::keys::SigningKey;
use crate::base::clock::Now;
use crate::config;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::Serialize;
use std::sync::Arc;

/// `iat` and `nbf` lie this many seconds in the past, for receivers whose clock is behind.
const BACK_DATED: i64 = 10;

/// What a token is to say.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// Audience, and which roles and groups are carried.
    pub template: &'a Arc<config::NamespaceToken>,
    /// `sub`, as the user's own issuer gives it.
    pub subject: &'a str,
    /// `orig_iss`: that issuer.
    pub original_issuer: &'a str,
    /// `namespace`.
    pub namespace: &'a str,
    /// `namespace_kind`.
    pub kind: NamespaceKind,
    /// `email`; empty where the user has none.
    pub email: &'a str,
    /// `preferred_username`; absent where unknown.
    pub username: Option<&'a str>,
    /// `azp`: the client that the user signed in with.
    pub authorized_party: Option<&'a str>,
    /// `epoch`: how often the user was blocked so far. A token of a former one is void for good.
    pub epoch: u64,
    /// The user's roles, of which the template chooses.
    pub roles: &'a [String],
    /// The user's groups, likewise.
    pub groups: &'a [String],
}

/// Whose namespace a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// The user's own.
    Own,
    /// One that the route names.
    Target,
}

/// A token ready to be sent.
#[derive(Debug)]
pub struct Minted {
    template: Arc<config::NamespaceToken>,
    namespace: String,
    key_id: Arc<str>,
    /// `exp`, in seconds since 1970.
    pub expires: i64,
    /// When it was minted, in milliseconds of the monotonic clock.
    pub minted_ms: u64,
    header: HeaderValue,
}

impl Minted {
    /// The value of the `Authorization` header, marked as sensitive.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// `namespace`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `kid` of the key that signed it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(super) fn is_for(&self, grant: &Grant<'_>) -> bool {
        self.namespace == grant.namespace
            && (Arc::ptr_eq(&self.template, grant.template) || self.template == *grant.template)
    }
}

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The key refused to sign, or no random bytes were to be had.
    #[error("key `{key}` did not sign")]
    Sign {
        /// The key's id.
        key: String,
    },
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: &'a str,
    namespace: &'a str,
    namespace_kind: NamespaceKind,
    orig_iss: &'a str,
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    azp: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<&'a str>>,
}

/// Nearly nobody was ever blocked, and then the token need not say so.
#[allow(clippy::trivially_copy_pass_by_ref)] // As serde wants it.
fn is_zero(epoch: &u64) -> bool {
    *epoch == 0
}

/// Mints one token.
///
/// # Errors
/// [`MintError::Sign`].
pub fn mint(config: &config::TokenService, key: &SigningKey, grant: &Grant<'_>, now: Now) -> Result<Minted, MintError> {
    let failed = || MintError::Sign { key: key.id().to_owned() };
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| failed())?;
    let issued = now.unix_seconds() - BACK_DATED;
    let expires = issued + i64::try_from(config.lifetime.as_secs()).unwrap_or(0);
    let jti = URL_SAFE_NO_PAD.encode(random);
    let claims = Claims::new(config, grant, (issued, expires), &jti);
    let claims = serde_json::to_vec(&claims).map_err(|_| failed())?;
    let token = key.sign(&claims).ok_or_else(failed)?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| failed())?;
    header.set_sensitive(true);
    Ok(Minted {
        template: Arc::clone(grant.template),
        namespace: grant.namespace.to_owned(),
        key_id: key.shared_id(),
        expires,
        minted_ms: now.monotonic_ms,
        header,
    })
}

impl<'a> Claims<'a> {
    fn new(config: &'a config::TokenService, grant: &Grant<'a>, (issued, expires): (i64, i64), jti: &'a str) -> Self {
        Self {
            iss: &config.issuer,
            sub: grant.subject,
            aud: &grant.template.audience,
            exp: expires,
            nbf: issued,
            iat: issued,
            jti,
            namespace: grant.namespace,
            namespace_kind: grant.kind,
            orig_iss: grant.original_issuer,
            email: grant.email,
            preferred_username: grant.username,
            azp: grant.authorized_party,
            epoch: grant.epoch,
            roles: chosen(grant.roles, &grant.template.roles),
            groups: chosen(grant.groups, &grant.template.groups),
        }
    }
}

/// The claims of a token for `grant`, with times and an id that are none.
pub(super) fn outline(config: &config::TokenService, grant: &Grant<'_>) -> Option<Vec<u8>> {
    serde_json::to_vec(&Claims::new(config, grant, (0, 0), "")).ok()
}

/// Those of `held` that one of `patterns` names; a pattern that ends in `*` matches any ending. A route that asks for none gets no
/// claim; one that asks gets a list, if only an empty one.
fn chosen<'a>(held: &'a [String], patterns: &[String]) -> Option<Vec<&'a str>> {
    if patterns.is_empty() {
        return None;
    }
    let matches = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    let chosen = held.iter().filter(|name| patterns.iter().any(|pattern| matches(name, pattern)));
    Some(chosen.map(String::as_str).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::config::SigningAlgorithm;
    use serde_json::{Value, json};

    pub(in crate::token_service) fn grant(template: &Arc<config::NamespaceToken>) -> Grant<'_> {
        Grant {
            template,
            subject: "user-1",
            original_issuer: "https://kc.example/realms/demo",
            namespace: "team-a",
            kind: NamespaceKind::Own,
            email: "",
            username: Some("alice"),
            authorized_party: Some("cli"),
            epoch: 0,
            roles: &[],
            groups: &[],
        }
    }

    fn claims(minted: &Minted) -> Value {
        let text = minted.header().to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let payload = text.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    #[test]
    fn a_token_says_what_the_contract_promises() {
        let folder = tempfile::tempdir().unwrap();
        let config = super::super::keys::tests::config(folder.path(), SigningAlgorithm::Es256);
        let now = Clock::manual(1_800_000_000).now();
        let ring = super::super::KeyRing::load(&config, now).unwrap();
        let template = Arc::new(config::NamespaceToken {
            audience: "orders".into(),
            roles: vec!["reader".into(), "ns-*".into()],
            ..Default::default()
        });
        let roles = ["reader".to_owned(), "writer".to_owned(), "ns-a".to_owned()];
        let minted = mint(&config, ring.current(), &Grant { roles: &roles, ..grant(&template) }, now).unwrap();
        let mut claims = claims(&minted);
        let jti = claims.as_object_mut().unwrap().remove("jti").unwrap();
        assert_eq!(jti.as_str().unwrap().len(), 22);
        assert_eq!(
            claims,
            json!({
                "iss": "https://postern.example", "sub": "user-1", "aud": "orders",
                "iat": 1_799_999_990, "nbf": 1_799_999_990, "exp": 1_800_001_790,
                "namespace": "team-a", "namespace_kind": "own", "orig_iss": "https://kc.example/realms/demo",
                "email": "", "preferred_username": "alice", "azp": "cli", "roles": ["reader", "ns-a"],
            })
        );
        assert!(minted.header().is_sensitive());
    }
}
