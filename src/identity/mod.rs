//! Who is calling: from the bytes of a bearer token to verified facts about a user who is still enabled.
//!
//! [`Verifier`] finds or makes a [`VerifiedToken`]; [`VerifiedToken::check`] holds it against the time and the keys of this
//! moment, on every request; [`Verifier::confirm`] holds it against what is known of its user ([`crate::users`]), and against the
//! issuer's last answer ([`status`]). The control plane asks the issuer about each token in use before its answer is too old
//! (`calls`), under a [`ceiling`]. A **user** is the pair (issuer, `sub`).

mod admit;
mod ask;
pub mod cache;
mod calls;
pub mod ceiling;
pub mod claims;
mod fair;
mod in_use;
pub mod jws;
pub mod link;
pub mod news;
pub mod opaque;
pub mod own;
mod rate;
mod said;
mod service_account;
pub mod source;
pub mod status;
mod subject;
mod succession;
pub mod verifier;

#[cfg(test)]
mod tests;

pub use cache::{LocalCache, TokenCache};
pub use link::{Hint, Link, Links, SignInQuestion, SignInReply, WatchEnd};
pub use news::{Bulletin, KeptToken, News, NoToken, Recorded};
pub use verifier::{Shared, TokenError, VerifiedToken, Verifier};

use crate::config;
use crate::token_service::CredentialCache;
use serde_json::Value;
use std::sync::Arc;

/// What is known of a caller. Immutable: a changed role makes a new one, which has no cached credentials.
#[derive(Debug)]
pub struct Identity {
    /// The issuer that vouches for the caller.
    pub issuer: Arc<config::Issuer>,
    /// `sub`.
    pub subject: String,
    /// The user's block epoch when this was said: what was made for a caller before a block is not found after it.
    pub epoch: u64,
    /// The client that the token was issued to (`azp`).
    pub authorized_party: Option<String>,
    /// From the issuer's `username_claim`.
    pub username: Option<String>,
    /// From the issuer's `email_claim`; never empty.
    pub email: Option<String>,
    /// From the issuer's `namespace_claim`; always a valid namespace name.
    pub namespace: Option<String>,
    /// From the issuer's `roles_claims`.
    pub roles: Vec<String>,
    /// From the issuer's `groups_claim`.
    pub groups: Vec<String>,
    /// The words of `scope`.
    pub scopes: Vec<String>,
    /// Values of the claims that some route asks about.
    pub claims: Vec<(config::ClaimPath, Value)>,
    /// Credentials made for this identity.
    pub credentials: CredentialCache,
}

impl Identity {
    /// Whether both say the same of the same user. Cached credentials are no part of it.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.is_same_user_as(other)
            && self.authorized_party == other.authorized_party
            && self.scopes == other.scopes
            && self.claims == other.claims
    }

    /// Whether both are the same user with the same roles, groups, namespace and names, though perhaps through another client.
    pub fn is_same_user_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.issuer, &other.issuer)
            && self.subject == other.subject
            && self.epoch == other.epoch
            && self.username == other.username
            && self.email == other.email
            && self.namespace == other.namespace
            && self.roles == other.roles
            && self.groups == other.groups
    }

    /// The value of a claim that some route asks about.
    pub fn claim(&self, path: &config::ClaimPath) -> Option<&Value> {
        self.claims.iter().find(|(known, _)| known == path).map(|(_, value)| value)
    }
}
