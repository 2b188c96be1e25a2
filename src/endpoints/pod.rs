//! A pod trades the token of its service account for the user token of its own namespace, and of no other.
//!
//! `GET /token` takes both, since both ask for the same: the token that is kept for a user. Which user, a Keycloak token says itself; of a service
//! account's token the namespace does, if it is recorded as a user's own.

use super::Endpoints;
use crate::config::{Issuer, IssuerKind};
use crate::identity::{Identity, KeptToken};
use crate::kubernetes::grants::USER_ACCOUNT;
use crate::telemetry::audit_log::Record;
use crate::users::{State, UserId};

/// Whoever asks in the name of a service account.
#[derive(Debug)]
pub(super) struct Pod {
    /// `sub` of the token.
    account: String,
    /// `iat` of the token, with what clocks may differ by, in seconds since 1970.
    issued: i64,
}

/// Why a pod gets no token though its own is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    /// The configuration does not list it, or Postern makes its tokens: none of those obtains another.
    #[error("this service account may not have the token of a user")]
    Account,
    /// The namespace is nobody's own.
    #[error("the namespace of this service account is no user's")]
    NoUser,
    /// The token may be of a namesake: of the namespace that was there before the user had it.
    #[error("this token was made before its namespace became the user's: ask with a newer one")]
    Earlier,
    /// The user must first come themselves.
    #[error("the user of this namespace never signed in")]
    NeverSignedIn,
    /// Something is against the user.
    #[error("the user of this namespace is not let in")]
    Out(State),
}

impl Denied {
    /// The word, which stands in the answer.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Account => "account_not_listed",
            Self::NoUser => "no_user_of_namespace",
            Self::Earlier => "token_too_old",
            Self::NeverSignedIn => "never_signed_in",
            Self::Out(state) => state.code(),
        }
    }
}

impl Pod {
    /// Whoever asks, if their token is of an API server.
    pub(super) fn of(issuer: &Issuer, identity: &Identity, issued: Option<i64>) -> Option<Self> {
        matches!(issuer.kind, IssuerKind::Kubernetes { .. }).then(|| Self {
            account: identity.subject.clone(),
            issued: issued.unwrap_or(0).saturating_add(i64::try_from(issuer.leeway.as_secs()).unwrap_or(0)),
        })
    }

    /// Whether it may have this token, as far as its own tells.
    pub(super) fn check(&self, kept: &KeptToken) -> Result<(), Denied> {
        let is_later = self.issued >= i64::try_from(kept.named_unix_ms / 1000).unwrap_or(i64::MAX);
        if is_later { Ok(()) } else { Err(Denied::Earlier) }
    }
}

impl Endpoints {
    /// The user whose token a service account may have.
    pub(super) fn user_of_pod(&self, issuer: &Issuer, identity: &Identity) -> Result<UserId, Denied> {
        let IssuerKind::Kubernetes { user_tokens, .. } = &issuer.kind else { return Err(Denied::Account) };
        let (Some(namespace), Some((_, name))) = (&identity.namespace, identity.subject.rsplit_once(':')) else {
            return Err(Denied::Account);
        };
        let is_listed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        if name == USER_ACCOUNT || !user_tokens.iter().any(is_listed) {
            return Err(Denied::Account);
        }
        let user = self.links.bulletin().owner(namespace).ok_or(Denied::NoUser)?;
        match self.users.standing(&user, self.clock.now()).0 {
            State::Active => Ok(user),
            state => Err(Denied::Out(state)),
        }
    }

    /// A line for each token that a pod was given. What is denied is counted only: any pod could write as many as it likes.
    pub(super) fn audit_trade(&self, pod: &Pod, user: &UserId) {
        self.audit.write(&Record {
            unix_ms: self.clock.now().unix_ms,
            event: "token_issue",
            issuer: Some(user.issuer()),
            subject: Some(user.subject()),
            client: Some(&pod.account),
            grant: Some("service_account"),
            outcome: Some("issued"),
            ..Record::default()
        });
    }
}
