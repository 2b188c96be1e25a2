//! The words of a security event token (RFC 8417): which event, about whom, why.

use crate::users::{Cause, State};
use serde_json::{Value, json};

/// What a receiver is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// RISC: the user is blocked.
    AccountDisabled,
    /// RISC: the user signed in again after a block.
    AccountEnabled,
    /// CAEP: what was begun for the user before counts no more.
    SessionRevoked,
}

impl Event {
    /// Its name.
    pub(super) fn uri(self) -> &'static str {
        match self {
            Self::AccountDisabled => "https://schemas.openid.net/secevent/risc/event-type/account-disabled",
            Self::AccountEnabled => "https://schemas.openid.net/secevent/risc/event-type/account-enabled",
            Self::SessionRevoked => "https://schemas.openid.net/secevent/caep/event-type/session-revoked",
        }
    }

    /// What is to be told about a user whose block epoch grew, by where they stand now.
    pub(super) fn of(state: State) -> Self {
        match state {
            State::Blocked | State::Removed => Self::AccountDisabled,
            State::Active | State::AwaitingSignIn => Self::SessionRevoked,
        }
    }
}

/// Why, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) cause: Cause,
    /// By our clock, in seconds since 1970.
    pub(super) at: u64,
}

/// The claims but for `jti`, which the outbox gives.
pub(super) fn claims(
    issuer: &str,
    audience: &str,
    user: (&str, &str),
    event: Event,
    reason: Reason,
    now: i64,
) -> Value {
    let (original_issuer, subject) = user;
    let mut about = json!({
        "event_timestamp": reason.at,
        "initiating_entity": initiator(reason.cause),
    });
    if let Some(sentence) = sentence(reason.cause) {
        about["reason_admin"] = json!({ "en": sentence });
    }
    json!({
        "iss": issuer,
        "iat": now,
        "aud": audience,
        "sub_id": { "format": "iss_sub", "iss": original_issuer, "sub": subject },
        "events": { event.uri(): about },
    })
}

/// CAEP 1.0 §2: `admin`, `user`, `policy` or `system`.
fn initiator(cause: Cause) -> &'static str {
    match cause {
        Cause::Disabled | Cause::Deleted | Cause::NotBefore | Cause::Operator | Cause::ClusterClosed => "admin",
        Cause::LoggedOut | Cause::SignedIn => "user",
        Cause::LockedOut | Cause::ClusterExpired | Cause::SignInTooOld => "policy",
        Cause::SessionGone | Cause::Enabled | Cause::NoUser | Cause::Other => "system",
    }
}

/// For the receiver's operators. What an operator of ours wrote stays with us.
fn sentence(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::Disabled => "The issuer disabled the user.",
        Cause::LockedOut => "The issuer disabled the user after too many wrong passwords.",
        Cause::Deleted => "The issuer deleted the user.",
        Cause::NotBefore => "The issuer no longer accepts what is older.",
        Cause::Operator => "An operator of the gateway decided so.",
        Cause::LoggedOut => "The user logged out, or was logged out.",
        Cause::SessionGone => "The issuer no longer knows the session.",
        Cause::Enabled => "The issuer enabled the user again, who has to sign in.",
        Cause::SignedIn => "The user signed in again.",
        Cause::SignInTooOld => "The user has to sign in again.",
        Cause::ClusterClosed => "An operator closed the gateway.",
        Cause::ClusterExpired => "The gateway's last day has passed.",
        Cause::NoUser | Cause::Other => return None,
    })
}
