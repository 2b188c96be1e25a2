//! A verified token as the subject of an exchange.

use super::VerifiedToken;
use super::ceiling::Ceiling;
use super::source::Asking;
use crate::base::secret::Secret;
use std::sync::Arc;

impl VerifiedToken {
    /// The token itself, for the one who is to show it to its issuer.
    pub fn secret(&self) -> Option<Secret> {
        std::str::from_utf8(self.bytes()).ok().map(Secret::new)
    }

    /// `sid`: the session that it belongs to.
    pub fn session(&self) -> Option<&str> {
        self.facts.session.as_deref()
    }

    /// Under which its issuer is asked about users; `None` if it is not.
    pub fn ceiling(&self) -> Option<&Arc<Ceiling>> {
        self.source.status.as_ref().map(Asking::ceiling)
    }
}
