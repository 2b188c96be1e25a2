//! What was decided, as everybody is told who has to act on it, and as the audit log has it.

use super::terms::{Act, Cause, State, Tokens, UserId};
use crate::telemetry::audit_log::Record;
use std::sync::Arc;

/// One change, made durable. From it follow the audit record, the metrics, closed streams, emptied Secrets and the event feed.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What happened.
    pub kind: Kind,
    /// To whom or what.
    pub target: Target,
    /// Why.
    pub cause: Cause,
    /// Whose decision it was, where it was an operator's.
    pub act: Option<Act>,
    /// When it was made, by our clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// When it happened by the issuer's clock, in milliseconds since 1970: not later than this.
    pub issuer_time_ms: Option<u64>,
    /// From the moment it happened to this decision, both by our clock.
    pub delay_ms: Option<u64>,
    /// The user's block epoch after it; 0 where the target is no user.
    pub epoch: u64,
    /// Where the user stands after it; `None` where the target is no user.
    pub state: Option<State>,
}

/// What a decision does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A user is out (or, with [`Cause::NotBefore`], has to sign in again): nothing made for them before counts any more.
    Block,
    /// A reason to be out is gone. Look at [`Decision::state`]: another may hold.
    Lift,
    /// A user is in again.
    SignIn,
    /// Tokens end, their user does not: a logout.
    SessionEnd,
    /// Tokens end, their user does not: an operator's act.
    Revocation,
    /// Everybody is out.
    ClusterClosed,
    /// Everybody may sign in again.
    ClusterOpened,
    /// Everybody of one issuer has to sign in again.
    IssuerNotBefore,
}

impl Kind {
    /// The word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Block => "user_block",
            Self::Lift => "user_lift",
            Self::SignIn => "user_sign_in",
            Self::SessionEnd => "session_end",
            Self::Revocation => "token_revocation",
            Self::ClusterClosed => "cluster_closed",
            Self::ClusterOpened => "cluster_opened",
            Self::IssuerNotBefore => "issuer_not_before",
        }
    }
}

/// Whom or what a decision is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A user, with everything they have.
    User(UserId),
    /// Some tokens of an issuer, named in the configuration.
    Tokens {
        /// The NAME of `[issuer.NAME]`.
        issuer: Arc<str>,
        /// Which.
        tokens: Tokens,
    },
    /// Everybody of an issuer, named in the configuration.
    Issuer(Arc<str>),
    /// Everybody.
    Cluster,
}

impl Decision {
    /// The user, if it is about one with everything they have.
    pub fn user(&self) -> Option<&UserId> {
        match &self.target {
            Target::User(user) => Some(user),
            Target::Tokens { .. } | Target::Issuer(_) | Target::Cluster => None,
        }
    }
}

/// The line that the audit log gets.
pub(super) fn record(decision: &Decision) -> Record<'_> {
    let mut record = Record {
        unix_ms: decision.at_ms,
        event: decision.kind.code(),
        cause: Some(decision.cause.code()),
        by: decision.act.as_ref().map(|act| act.by.as_str()),
        reason: decision.act.as_ref().map(|act| act.reason.as_str()),
        state: decision.state.map(State::code),
        issuer_time_ms: decision.issuer_time_ms,
        delay_ms: decision.delay_ms,
        ..Record::default()
    };
    match &decision.target {
        Target::User(user) => {
            record.issuer = Some(user.issuer());
            record.subject = Some(user.subject());
            record.epoch = Some(decision.epoch);
        }
        Target::Tokens { issuer, tokens } => {
            record.issuer = Some(issuer);
            match tokens {
                Tokens::Id(id) => record.token = Some(id),
                Tokens::Session(session) => record.session = Some(session),
                Tokens::User { subject, issued_before_ms } => {
                    record.subject = Some(subject);
                    record.issued_before_ms = Some(*issued_before_ms);
                }
                Tokens::All { issued_before_ms } => record.issued_before_ms = Some(*issued_before_ms),
            }
        }
        Target::Issuer(issuer) => record.issuer = Some(issuer),
        Target::Cluster => {}
    }
    record
}
