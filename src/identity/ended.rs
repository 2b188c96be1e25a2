//! May what was let in go on? Told from what is known, without asking anybody.

use super::verifier::{VerifiedToken, Verifier};
use crate::telemetry::reason::Reason;
use crate::users::Cause;
use std::sync::atomic::Ordering;

/// Why something that was let in may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Of what is known against users or sessions.
    Known(Cause),
    /// The issuer says that the token is not active, or no longer for us. It gives no reason.
    Inactive,
    /// The token expired.
    Expired,
}

impl Ended {
    /// Every one that there is a word for.
    pub const ALL: [Self; 11] = [
        Self::Known(Cause::Disabled),
        Self::Known(Cause::LockedOut),
        Self::Known(Cause::Deleted),
        Self::Known(Cause::NotBefore),
        Self::Known(Cause::Operator),
        Self::Known(Cause::LoggedOut),
        Self::Known(Cause::SessionGone),
        Self::Known(Cause::ClusterClosed),
        Self::Known(Cause::ClusterExpired),
        Self::Inactive,
        Self::Expired,
    ];

    /// The word for metrics.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Known(cause) => cause.code(),
            Self::Inactive => "inactive",
            Self::Expired => "expired",
        }
    }

    /// What a request with this token would be refused with.
    pub fn reason(self) -> Reason {
        match self {
            Self::Known(_) | Self::Inactive => Reason::UserInactive,
            Self::Expired => Reason::TokenExpired,
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
        token.is_refused().then_some(Ended::Inactive)
    }
}
