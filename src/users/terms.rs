//! The words in which users are spoken of: who, what was shown about them, and what follows.

use super::decision::Decision;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A user: the issuer's name in the configuration, and `sub`. Neither says anything without the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId {
    issuer: Arc<str>,
    subject: Arc<str>,
}

/// The most characters of a `sub` (OpenID Connect Core 1.0 §2).
const LONGEST_SUBJECT: usize = 255;

/// Whether a `sub` can name a user.
pub(super) fn is_subject(subject: &str) -> bool {
    // No character is shorter than a byte, so most are not counted.
    !subject.is_empty() && (subject.len() <= LONGEST_SUBJECT || subject.chars().count() <= LONGEST_SUBJECT)
}

impl UserId {
    /// `issuer` is the NAME of `[issuer.NAME]`. `None` if `subject` is empty or longer than 255 characters.
    pub fn new(issuer: impl Into<Arc<str>>, subject: impl Into<Arc<str>>) -> Option<Self> {
        let subject = subject.into();
        is_subject(&subject).then(|| Self { issuer: issuer.into(), subject })
    }

    /// The issuer's name in the configuration.
    pub fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// `sub`: any text.
    pub fn subject(&self) -> &Arc<str> {
        &self.subject
    }
}

/// For logs: the subject is escaped, since it may hold anything.
impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.issuer, self.subject.escape_debug())
    }
}

/// What of a verified token is held against what is known.
#[derive(Debug, Clone, Copy)]
pub struct TokenClaims<'a> {
    /// The NAME of `[issuer.NAME]`.
    pub issuer: &'a str,
    /// `sub`.
    pub subject: &'a str,
    /// `sid`.
    pub session: Option<&'a str>,
    /// `iat`, in seconds.
    pub issued: Option<i64>,
    /// `jti`.
    pub id: Option<&'a str>,
    /// Of a token that Postern made: in which epoch of its user. Under another it is void, whatever the clocks say.
    pub epoch: Option<u64>,
}

impl TokenClaims<'_> {
    /// Whether the token was surely issued at or after a time. `iat` is in whole seconds and may be up to one too early, never too late.
    pub(super) fn is_issued_from(&self, time_ms: u64) -> bool {
        self.issued.and_then(|issued| u64::try_from(issued).ok()).is_some_and(|at| at.saturating_mul(1000) >= time_ms)
    }
}

/// Whether a token passes, as far as its user is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is known against it.
    Admitted,
    /// It never passes again, or not as long as this holds.
    Refused(Cause),
    /// The user was blocked, the block is lifted, and nothing known shows that this token's session began since. To be asked of
    /// the issuer, and told by [`signed_in`](super::Users::signed_in) or [`not_signed_in`](super::Users::not_signed_in).
    NeedsSignInProof,
    /// What other replicas know was not read yet since the start.
    Unknown,
}

/// Why. The same word in the store, the audit record and the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The issuer disabled the user.
    Disabled,
    /// The issuer disabled the user after too many wrong passwords.
    LockedOut,
    /// The user is gone at the issuer.
    Deleted,
    /// The issuer takes nothing from before a time: for one user or for all.
    NotBefore,
    /// An operator said so.
    Operator,
    /// The user logged out, or was logged out.
    LoggedOut,
    /// The issuer no longer knows the session.
    SessionGone,
    /// The issuer's directory says that the user is enabled again.
    Enabled,
    /// The issuer showed a session that began late enough.
    SignedIn,
    /// The session began before the user's last block was lifted.
    SignInTooOld,
    /// The cluster is closed by hand.
    ClusterClosed,
    /// `cluster.valid_until` has passed.
    ClusterExpired,
    /// `sub` is empty or too long to name a user.
    NoUser,
    /// A word that a later version wrote.
    #[serde(other)]
    Other,
}

impl Cause {
    /// The word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::LockedOut => "locked_out",
            Self::Deleted => "deleted",
            Self::NotBefore => "not_before",
            Self::Operator => "operator",
            Self::LoggedOut => "logged_out",
            Self::SessionGone => "session_gone",
            Self::Enabled => "enabled",
            Self::SignedIn => "signed_in",
            Self::SignInTooOld => "sign_in_too_old",
            Self::ClusterClosed => "cluster_closed",
            Self::ClusterExpired => "cluster_expired",
            Self::NoUser => "no_user",
            Self::Other => "other",
        }
    }
}

/// A moment by the issuer's clock, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerTime {
    /// Exactly then: the `time` of an event.
    At(u64),
    /// Somewhere in the second that begins then: the `Date` of an answer.
    Within(u64),
}

impl IssuerTime {
    /// Not before this.
    pub fn earliest_ms(self) -> u64 {
        match self {
            Self::At(ms) | Self::Within(ms) => ms,
        }
    }

    /// Not after this.
    pub fn latest_ms(self) -> u64 {
        match self {
            Self::At(ms) => ms,
            Self::Within(ms) => ms.saturating_add(1000),
        }
    }
}

/// What shows that a user is out.
#[derive(Debug, Clone)]
pub enum Proof {
    /// The issuer says so.
    Issuer {
        /// What it says.
        cause: IssuerCause,
        /// When that was so, by its clock.
        time: IssuerTime,
        /// When it became so, by **our** clock in milliseconds since 1970, if that can be told: for the delay.
        happened_ms: Option<u64>,
    },
    /// An operator says so.
    Operator(Act),
}

/// What an issuer says against a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerCause {
    /// `enabled: false`.
    Disabled,
    /// `USER_DISABLED_BY_PERMANENT_LOCKOUT`. Lifted as any other disabling.
    LockedOut,
    /// A deletion, or exactly the answer that there is no such user.
    Deleted,
    /// Nothing from before the proof's time counts. Blocks and lifts in one step: the user has to sign in again.
    NotBefore,
}

impl From<IssuerCause> for Cause {
    fn from(cause: IssuerCause) -> Self {
        match cause {
            IssuerCause::Disabled => Self::Disabled,
            IssuerCause::LockedOut => Self::LockedOut,
            IssuerCause::Deleted => Self::Deleted,
            IssuerCause::NotBefore => Self::NotBefore,
        }
    }
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Who: the subject of the operator's token or certificate.
    pub by: String,
    /// Why, in their words.
    #[serde(default)]
    pub reason: String,
}

/// What ends a block.
#[derive(Debug, Clone)]
pub enum Lift {
    /// A read found the user there and enabled.
    Issuer {
        /// When the read began, in milliseconds of the **monotonic** clock that [`Users`](super::Users) was given. A read that
        /// began before the newest proof of the block came in says nothing.
        read_began_ms: u64,
        /// The `time` of an event that tells the moment of enabling, by the issuer's clock.
        enabled_ms: Option<u64>,
    },
    /// An operator ends an operator's block; the issuer's stays.
    Operator {
        /// Who, and why.
        act: Act,
        /// The issuer's clock at this moment: no less than that, in milliseconds since 1970.
        issuer_now_ms: u64,
    },
}

/// What an issuer's clock says at this moment, no less.
#[derive(Debug, Clone, Copy)]
pub struct IssuerClock<'a> {
    /// The NAME of `[issuer.NAME]`.
    pub issuer: &'a str,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// Which tokens, of one issuer, are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokens {
    /// The one with this `jti`.
    Id(String),
    /// Those of one session: `sid`.
    Session(String),
    /// Those of one user issued before a time, by the issuer's clock; a token without `iat` too.
    User {
        /// `sub`.
        subject: String,
        /// Milliseconds since 1970.
        issued_before_ms: u64,
    },
    /// Everybody's issued before a time, by the issuer's clock; a token without `iat` too.
    All {
        /// Milliseconds since 1970.
        issued_before_ms: u64,
    },
}

/// The part of [`Tokens`] that ends with a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionScope {
    /// One session: `sid`.
    Session(String),
    /// All sessions of a user begun before a time, by the issuer's clock. Their tokens were issued before it.
    User {
        /// `sub`.
        subject: String,
        /// Milliseconds since 1970.
        begun_before_ms: u64,
    },
}

impl From<SessionScope> for Tokens {
    fn from(scope: SessionScope) -> Self {
        match scope {
            SessionScope::Session(session) => Self::Session(session),
            SessionScope::User { subject, begun_before_ms } => {
                Self::User { subject, issued_before_ms: begun_before_ms }
            }
        }
    }
}

/// Tokens that an operator takes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The NAME of `[issuer.NAME]`.
    pub issuer: Arc<str>,
    /// Which.
    pub tokens: Tokens,
    /// Who, and why.
    pub act: Act,
    /// Until when a revoked token could live (its `exp`), in milliseconds since 1970; by default 24 hours from now.
    pub until_ms: Option<u64>,
}

/// Where a user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// May act: nothing is known against them, or they signed in again.
    Active,
    /// Blocked by the issuer or an operator.
    Blocked,
    /// No longer blocked, and not yet signed in again.
    AwaitingSignIn,
    /// Gone at the issuer.
    Removed,
}

impl State {
    /// The word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Blocked => "blocked",
            Self::AwaitingSignIn => "awaiting_sign_in",
            Self::Removed => "removed",
        }
    }
}

/// What `lift` did.
#[derive(Debug, Clone)]
pub enum Lifted {
    /// The reason is gone.
    Done(Arc<Decision>),
    /// There was no such reason.
    NotBlocked,
    /// The read began before the newest proof of the block came in: read again.
    Stale,
}

/// All that is known about one user, for `postern user show`.
#[derive(Debug, Clone)]
pub struct UserView {
    /// Who.
    pub user: UserId,
    /// Where they stand.
    pub state: State,
    /// Why the issuer blocks them.
    pub by_issuer: Option<Cause>,
    /// Which operator blocks them.
    pub by_operator: Option<Act>,
    /// Sessions count if they began at or after this, by the issuer's clock, in milliseconds since 1970. 0: all count.
    pub threshold_ms: u64,
    /// Grows with each block.
    pub epoch: u64,
    /// When the state changed last, by our clock, in milliseconds since 1970; 0 if never.
    pub changed_ms: u64,
    /// Sessions shown to have begun late enough, and when, by the issuer's clock.
    pub sessions: Vec<(String, u64)>,
}

/// A session that ended, and whose it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSession {
    /// Whose.
    pub user: UserId,
    /// `sid`.
    pub session: String,
    /// Why.
    pub cause: Cause,
    /// When, by our clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Until when it is remembered, likewise.
    pub until_ms: u64,
}

/// The cluster switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// Who closed it by hand, and why.
    pub closed: Option<Act>,
    /// `cluster.valid_until`, in milliseconds since 1970.
    pub valid_until_ms: Option<u64>,
    /// Whether that has passed.
    pub is_expired: bool,
}
