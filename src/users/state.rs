//! What is known about one user, and how it changes: no I/O and no clock, each transition a function of state and proof.
//!
//! Two reasons to be out are kept apart, the issuer's and an operator's; one threshold, which only grows, says from when on a
//! session counts. Blocked, awaiting a sign-in or active is not stored but follows from these, so they cannot disagree.

use super::terms::{Act, Cause, IssuerCause, IssuerTime, Judgement, Lift, State, TokenClaims};
use serde::{Deserialize, Serialize};

/// The most proven sessions kept of a user. Of more, the oldest have to be proven again.
pub(super) const SESSIONS_KEPT: usize = 256;

/// What is known about one user. All times but `changed_ms` are by the issuer's clock, in milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Why the issuer blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by_issuer: Option<Cause>,
    /// Which operator blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by_operator: Option<Act>,
    /// Sessions count that began at or after this. 0: nothing was ever held against the user.
    pub(super) threshold_ms: u64,
    /// Events up to this are known: one that comes again is no news. Never after `threshold_ms`.
    #[serde(default)]
    pub(super) seen_ms: u64,
    /// When the newest sign-in since the last block began; 0 if none.
    #[serde(default)]
    pub(super) signed_in_ms: u64,
    /// When a read last showed the issuer's block, until it is lifted; `None` if events alone did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shown: Option<Shown>,
    /// The newest block is one that an event of the issuer's told of, and nothing else did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_event: bool,
    /// Grows with each block.
    pub(super) epoch: u64,
    /// When the state changed last, by our clock.
    #[serde(default)]
    pub(super) changed_ms: u64,
    /// Sessions shown to have begun late enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) sessions: Vec<SignIn>,
    /// When the newest proof of the issuer's block came in, by our monotonic clock, which begins anew with the process.
    #[serde(skip)]
    pub(super) proof_known_ms: u64,
}

/// A read that showed a block. When that was by the issuer's clock is known to a second or so, and the user may have been enabled
/// and have signed in within it: at which end of it sessions begin to count is decided at the lift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shown {
    pub(super) earliest_ms: u64,
    pub(super) latest_ms: u64,
    /// An event that came since tells of the block: it is what was read.
    pub(super) is_told: bool,
}

/// A session, and when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SignIn {
    pub(super) session: String,
    pub(super) began_ms: u64,
}

/// What a transition amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The proof was no news.
    Nothing,
    /// Worth keeping; nobody's state changed.
    Noted,
    /// A decision.
    Decided,
}

/// What came of the wish to lift a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LiftEffect {
    NotBlocked,
    Stale,
    Lifted,
}

/// What a sign-in shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignInEffect {
    /// It was known, needs no proof, or the user is blocked.
    Nothing,
    /// It began too early: the session never counts again.
    TooOld,
    /// A further session counts.
    Noted,
    /// The user is in again.
    Decided,
}

impl Record {
    /// Where the user stands. `floor_ms` is a threshold for everybody of the issuer.
    pub(super) fn state(&self, floor_ms: u64) -> State {
        let threshold = self.threshold_ms.max(floor_ms);
        match self.by_issuer {
            Some(Cause::Deleted) => State::Removed,
            Some(_) => State::Blocked,
            None if self.by_operator.is_some() => State::Blocked,
            None if self.signed_in_ms >= threshold => State::Active,
            None => State::AwaitingSignIn,
        }
    }

    fn is_blocked(&self) -> bool {
        self.by_issuer.is_some() || self.by_operator.is_some()
    }

    /// Holds a token against what is known. Does not allocate.
    pub(super) fn judge(&self, claims: &TokenClaims<'_>, floor_ms: u64) -> Judgement {
        if let Some(cause) = self.by_issuer {
            return Judgement::Refused(cause);
        }
        if self.by_operator.is_some() {
            return Judgement::Refused(Cause::Operator);
        }
        let threshold = self.threshold_ms.max(floor_ms);
        if threshold == 0 {
            return Judgement::Admitted;
        }
        let Some(session) = claims.session else {
            let is_late = claims.is_issued_from(threshold);
            return if is_late { Judgement::Admitted } else { Judgement::Refused(Cause::SignInTooOld) };
        };
        match self.began(session) {
            Some(began) if began >= threshold => Judgement::Admitted,
            Some(_) => Judgement::Refused(Cause::SignInTooOld),
            None => Judgement::NeedsSignInProof,
        }
    }

    fn began(&self, session: &str) -> Option<u64> {
        self.sessions.iter().find(|known| known.session == session).map(|known| known.began_ms)
    }

    /// The issuer is against the user. `known_ms`: when that came in, by our monotonic clock.
    pub(super) fn block_by_issuer(&mut self, cause: IssuerCause, time: IssuerTime, known_ms: u64) -> Effect {
        // An event without a time worth the name still counts.
        let latest = time.latest_ms().max(1);
        if cause == IssuerCause::NotBefore {
            return self.not_before(latest);
        }
        // Events come again. What was read is as old as the reading, whatever clock stepped back meanwhile.
        let is_news = matches!(time, IssuerTime::Within(_)) || latest > self.seen_ms;
        if !is_news {
            return Effect::Nothing;
        }
        // The sign-in may bear a later time than this proof if the issuer's clock stepped back. It does not count any more.
        let earliest = time.earliest_ms().max(1);
        self.threshold_ms = self.threshold_ms.max(earliest).max(self.signed_in_ms.saturating_add(1));
        match time {
            IssuerTime::At(_) => {
                self.seen_ms = self.seen_ms.max(earliest);
                self.shown.iter_mut().for_each(|shown| shown.is_told = true);
            }
            IssuerTime::Within(_) => {
                let before = self.shown.map_or((0, 0), |shown| (shown.earliest_ms, shown.latest_ms));
                let (earliest_ms, latest_ms) = (earliest.max(before.0), latest.max(before.1));
                self.shown = Some(Shown { earliest_ms, latest_ms, is_told: false });
                self.is_event = false;
            }
        }
        self.proof_known_ms = self.proof_known_ms.max(known_ms);
        let cause = match (self.by_issuer, cause) {
            (Some(Cause::Deleted), _) | (None, _) | (Some(_), IssuerCause::Deleted) => cause.into(),
            (Some(known), _) => known,
        };
        if self.by_issuer.replace(cause) == Some(cause) {
            return Effect::Noted;
        }
        self.shut_out();
        self.is_event = matches!(time, IssuerTime::At(_)) && self.shown.is_none();
        Effect::Decided
    }

    fn not_before(&mut self, time_ms: u64) -> Effect {
        if time_ms <= self.threshold_ms {
            return Effect::Nothing;
        }
        (self.threshold_ms, self.is_event) = (time_ms, false);
        if self.is_blocked() {
            return Effect::Noted;
        }
        self.sessions.retain(|session| session.began_ms >= time_ms);
        self.epoch += 1;
        Effect::Decided
    }

    /// An operator is against the user.
    pub(super) fn block_by_operator(&mut self, act: Act) -> Effect {
        if self.by_operator.is_some() {
            return Effect::Nothing;
        }
        self.by_operator = Some(act);
        self.threshold_ms = self.threshold_ms.max(self.signed_in_ms.saturating_add(1));
        self.shut_out();
        Effect::Decided
    }

    /// Whatever was proven before counts no more: after the block each session has to be shown anew.
    fn shut_out(&mut self) {
        self.epoch += 1;
        (self.signed_in_ms, self.is_event) = (0, false);
        self.sessions.clear();
    }

    /// A reason to be out is gone. What is left is another reason, or to sign in; never more.
    pub(super) fn lift(&mut self, lift: &Lift) -> LiftEffect {
        match lift {
            Lift::Issuer { .. } if self.by_issuer.is_none() => LiftEffect::NotBlocked,
            Lift::Issuer { read_began_ms, .. } if *read_began_ms < self.proof_known_ms => LiftEffect::Stale,
            Lift::Issuer { enabled_ms, .. } => {
                self.by_issuer = None;
                if let Some(shown) = self.shown.take() {
                    // Only with both ends of the block told it is sure that the read showed no later one.
                    let is_exact = shown.is_told && enabled_ms.is_some();
                    let shown_ms = if is_exact { shown.earliest_ms } else { shown.latest_ms };
                    self.threshold_ms = self.threshold_ms.max(shown_ms);
                    self.seen_ms = self.seen_ms.max(shown.earliest_ms);
                }
                let enabled_ms = enabled_ms.unwrap_or_default();
                self.threshold_ms = self.threshold_ms.max(enabled_ms);
                self.seen_ms = self.seen_ms.max(enabled_ms);
                LiftEffect::Lifted
            }
            Lift::Operator { .. } if self.by_operator.is_none() => LiftEffect::NotBlocked,
            Lift::Operator { issuer_now_ms, .. } => {
                self.by_operator = None;
                self.threshold_ms = self.threshold_ms.max(*issuer_now_ms);
                LiftEffect::Lifted
            }
        }
    }

    /// The issuer shows a session, or, without one, a token with that `iat`.
    pub(super) fn signed_in(&mut self, session: Option<&str>, began_ms: u64, floor_ms: u64) -> SignInEffect {
        let threshold = self.threshold_ms.max(floor_ms);
        if self.is_blocked() || threshold == 0 {
            return SignInEffect::Nothing;
        }
        if began_ms < threshold {
            return SignInEffect::TooOld;
        }
        let was_active = self.state(floor_ms) == State::Active;
        let is_known = session.is_none_or(|session| self.began(session).is_some_and(|began| began >= threshold));
        if is_known && was_active {
            return SignInEffect::Nothing;
        }
        if let Some(session) = session.filter(|_| !is_known) {
            self.remember(session, began_ms, threshold);
        }
        self.signed_in_ms = self.signed_in_ms.max(began_ms);
        if was_active { SignInEffect::Noted } else { SignInEffect::Decided }
    }

    fn remember(&mut self, session: &str, began_ms: u64, threshold_ms: u64) {
        self.sessions.retain(|known| known.began_ms >= threshold_ms && known.session != session);
        if self.sessions.len() >= SESSIONS_KEPT {
            let oldest = self.sessions.iter().enumerate().min_by_key(|(_, known)| known.began_ms).map(|(at, _)| at);
            oldest.map(|at| self.sessions.swap_remove(at));
        }
        self.sessions.push(SignIn { session: session.to_owned(), began_ms });
    }
}
