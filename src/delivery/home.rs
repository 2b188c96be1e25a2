//! What stands around a user's Secret in a cluster, as far as a plan depends on it. Elsewhere there is none of it.

use super::record::Record;
use crate::base::clock::Now;

/// The namespace of a user, and what is in it beside the token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Home {
    /// How the namespace stands.
    pub place: Place,
    /// The Secret that the user's own credentials are bound to.
    pub session: Session,
    /// All of it is looked at again then, by the monotonic clock.
    pub look_ms: u64,
    /// Looks that failed in a row.
    pub failures: u32,
    /// No look begins before this.
    pub after_ms: u64,
}

/// How the namespace stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// Tokens do not lie in namespaces.
    #[default]
    Elsewhere,
    /// Not looked at, or something is missing.
    Unready,
    /// It is there, marked for this user, with their Secret.
    Ready,
    /// It is there, and made by others, for another user, or its mark is gone.
    Taken,
    /// It is being deleted.
    Terminating,
}

/// Whether there is a Secret `postern-session`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Session {
    /// Not known.
    #[default]
    Unknown,
    /// Made, or found.
    Open,
    /// Deleted.
    Closed,
}

/// All that is in a namespace is looked at this often.
pub const LOOK_EVERY_MS: u64 = 60 * 60_000;

/// A namespace that is in the way is looked at this often.
const BLOCKED_EVERY_MS: u64 = 30_000;

/// One that is being deleted takes some seconds.
const TERMINATING_EVERY_MS: u64 = 2_000;

/// The longest pause after looks that failed.
const LONGEST_PAUSE_MS: u64 = 30_000;

impl Home {
    /// One that was never looked at.
    pub fn unready() -> Self {
        Self { place: Place::Unready, ..Self::default() }
    }

    /// Whether there is a place for a token.
    pub fn is_placed(&self) -> bool {
        matches!(self.place, Place::Elsewhere | Place::Ready)
    }

    /// Whether it is to be looked at now, and made or put right: when its time has come, when its user is back, and when the Secret is
    /// not there, whoever made the namespace.
    pub fn is_due(&self, record: &Record, wants_session: bool, is_absent: bool, now: Now) -> bool {
        let is_back = wants_session && self.session == Session::Closed;
        let is_half_made = is_absent && self.place == Place::Ready;
        self.is_wanted(record) && (now.monotonic_ms >= self.look_ms || is_back || is_half_made)
    }

    /// When it is to be looked at, if ever.
    pub fn next_ms(&self, record: &Record) -> Option<u64> {
        self.is_wanted(record).then_some(self.look_ms.max(self.after_ms))
    }

    /// For a user who is gone nothing is made again that somebody removed.
    fn is_wanted(&self, record: &Record) -> bool {
        self.place != Place::Elsewhere && record.namespace.is_some() && record.gone.is_none() && !record.is_offboarded
    }

    /// Something is missing or was changed.
    pub fn disturb(&mut self, place: Place) {
        if self.place != Place::Elsewhere {
            self.place = place;
            self.look_ms = 0;
        }
    }

    /// It was looked at, without a failure.
    pub fn settle(&mut self, place: Place, now: Now) {
        let pause_ms = match place {
            Place::Elsewhere | Place::Ready => LOOK_EVERY_MS,
            Place::Unready => 0,
            Place::Taken => BLOCKED_EVERY_MS,
            Place::Terminating => TERMINATING_EVERY_MS,
        };
        (self.place, self.failures, self.after_ms) = (place, 0, 0);
        self.look_ms = now.monotonic_ms.saturating_add(pause_ms);
    }

    /// It could not be looked at, or not all could be put right. What was ready stays so.
    pub fn fail(&mut self, wait_ms: u64, now: Now) {
        self.failures = self.failures.saturating_add(1);
        let pause_ms = (500 << self.failures.min(7)).min(LONGEST_PAUSE_MS).max(wait_ms);
        self.after_ms = now.monotonic_ms.saturating_add(pause_ms);
        self.look_ms = self.after_ms;
    }
}
