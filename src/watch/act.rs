//! What follows from an event, and from what is shown about a user.

use super::{Directory, SignIn, Watch, ahead_ms, locked};
use crate::identity::{Hint, News};
use crate::issuer::keycloak::{Event, IssuerSpan, Meaning};
use crate::users::{Cause, Decision, IssuerCause, IssuerTime, Proof, StoreError, Target, UserId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl<D: Directory> Watch<D> {
    /// Does what an event asks for. Gives whether it may concern everybody.
    pub(super) fn act(&self, event: &Event, time: IssuerSpan) -> bool {
        match &event.meaning {
            Meaning::Disabled { user } => self.act_disabled(user, IssuerCause::Disabled, event.time_ms, time),
            Meaning::LockedOut { user } => self.act_disabled(user, IssuerCause::LockedOut, event.time_ms, time),
            Meaning::Deleted { user } => {
                if let Some(user) = self.user(user) {
                    self.act_out(&user, IssuerCause::Deleted, event.time_ms, time);
                }
            }
            Meaning::Enabled { user } => {
                self.errands.read_enabled(user, event.time_ms);
                self.hint_user(user);
                // What was sent may have changed more than that.
                self.news(user, News::Changed);
            }
            Meaning::Created { user } => {
                self.news(user, News::Created);
                // Of most new users nothing is known, so there is nothing to ask.
                if self.is_known(user) {
                    self.errands.read_enabled(user, event.time_ms);
                }
            }
            Meaning::Changed { user } => {
                self.errands.read(user, self.is_known(user));
                self.hint_user(user);
                self.news(user, News::Changed);
            }
            Meaning::LoggedOut { user } => {
                self.errands.read_logged_out(user, event.time_ms, self.is_known(user));
                self.hint_user(user);
            }
            Meaning::SessionEnded { session, .. } => {
                let issuer = Arc::clone(&self.settings.issuer);
                self.hint(Hint::SessionEnded { issuer, session: session.clone() });
            }
            Meaning::SignedIn { user, session, is_new } => self.act_signed_in(user, session, event.time_ms, *is_new),
            Meaning::ForMany => return true,
        }
        false
    }

    fn act_disabled(&self, subject: &str, cause: IssuerCause, time_ms: u64, time: IssuerSpan) {
        let Some(user) = self.user(subject) else { return };
        self.act_out(&user, cause, time_ms, time);
        // The event may be late, and what it tells no longer so.
        self.errands.read(subject, true);
    }

    fn act_out(&self, user: &UserId, cause: IssuerCause, time_ms: u64, time: IssuerSpan) {
        self.block(user, self.told(cause, time_ms, time));
        if self.users.state(user).is_some_and(|view| view.by_issuer.is_some()) {
            // It bears the time at which it was made, and became so at some moment until it was read.
            let latest_ms = time.latest_ms.max(time_ms);
            self.saw_disabled(user.subject(), IssuerSpan { earliest_ms: time_ms, latest_ms });
        }
    }

    fn act_signed_in(&self, subject: &str, session: &str, time_ms: u64, is_new: bool) {
        let Some(user) = self.user(subject) else { return };
        // Its user may turn out to have been blocked before: the other feed tells that.
        locked(&self.logins).remember(subject, session, time_ms, is_new);
        self.act_login(&user, session, time_ms, is_new);
        self.news(subject, News::SignedIn);
    }

    /// A session that surely began then is a proof; any other is a reason to look.
    pub(super) fn act_login(&self, user: &UserId, session: &str, time_ms: u64, is_new: bool) {
        match self.known(user, session) {
            Some(SignIn::Proven) => {}
            // The list that was looked at before knows the second only, the event the millisecond.
            _ if is_new => self.signed_in(user, session, time_ms),
            Some(_) => {}
            None => self.errands.look(user.subject(), session),
        }
    }

    /// What is known against a user makes asking about them urgent.
    fn is_known(&self, subject: &str) -> bool {
        self.user(subject).is_some_and(|user| self.users.state(&user).is_some())
    }

    fn told(&self, cause: IssuerCause, time_ms: u64, time: IssuerSpan) -> Proof {
        let unix_ms = self.clock.now().unix_ms;
        let happened_ms = time_ms.checked_add_signed(-ahead_ms(time, unix_ms)).unwrap_or(unix_ms).min(unix_ms);
        Proof::Issuer { cause, time: IssuerTime::At(time_ms), happened_ms: Some(happened_ms) }
    }

    /// Blocks, and has sessions ended where that is configured.
    pub(super) fn block(&self, user: &UserId, proof: Proof) {
        let result = self.users.block(user, proof).map(|decision| decision.into_iter().collect());
        self.follow_blocks(result);
    }

    /// What follows from blocks beside what everybody learns of a decision.
    pub(super) fn follow_blocks(&self, result: Result<Vec<Arc<Decision>>, StoreError>) {
        match result {
            Ok(decisions) => {
                let ends = |decision: &&Arc<Decision>| !matches!(decision.cause, Cause::Deleted | Cause::NotBefore);
                for decision in decisions.iter().filter(ends).filter(|_| self.settings.end_sessions) {
                    if let Target::User(user) = &decision.target {
                        self.errands.end_sessions(user.subject(), None);
                    }
                }
            }
            Err(error) => self.note_store(&error),
        }
    }

    pub(super) fn signed_in(&self, user: &UserId, session: &str, began_ms: u64) {
        if let Err(error) = self.users.signed_in(user, Some(session), began_ms) {
            self.note_store(&error);
        }
    }

    pub(super) fn note_store(&self, error: &StoreError) {
        self.counters.store_failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(issuer = &*self.settings.issuer, %error, "a decision about a user cannot be stored");
    }

    pub(super) fn hint(&self, hint: Hint) {
        // Without a verifier there are no tokens in use.
        let _ = self.hints.send(hint);
    }

    fn hint_user(&self, subject: &str) {
        if let Some(user) = self.user(subject) {
            self.hint(Hint::Reintrospect(user));
        }
    }
}
