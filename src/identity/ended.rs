//! May what was let in go on? Told from what is known, without asking anybody.

use super::verifier::{VerifiedToken, Verifier};
use crate::telemetry::reason::Reason;
use std::sync::atomic::Ordering;

/// Why something that was let in may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The user is blocked.
    User,
    /// The session that the token belongs to has ended, or the token itself was revoked.
    Session,
    /// The token expired.
    Token,
}

impl Ended {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::User, Self::Session, Self::Token];

    /// The word for metrics.
    pub fn cause(self) -> &'static str {
        match self {
            Self::User => "user_block",
            Self::Session => "session_end",
            Self::Token => "token_expiry",
        }
    }

    /// What a request with this token would be refused with.
    pub fn reason(self) -> Reason {
        match self {
            Self::User | Self::Session => Reason::UserInactive,
            Self::Token => Reason::TokenExpired,
        }
    }
}

impl Verifier {
    /// Grows with everything that may end what was let in. While it stands still, nothing has to be judged again.
    pub fn generation(&self) -> u64 {
        self.refusals.load(Ordering::Acquire)
    }

    /// Why something that was let in with this token may not go on. That nothing is known any more ends nothing.
    pub fn ended(&self, token: &VerifiedToken) -> Option<Ended> {
        token.is_refused().then_some(Ended::Session)
    }
}
