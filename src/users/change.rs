//! How what is known changes. Control plane only: each change waits for the disk.

use super::Users;
use super::decide::{self, Plan};
use super::decision::{self, Decision};
use super::memory::{Memory, Write};
use super::state::{LiftEffect, SignInEffect};
use super::store::{Store, StoreError};
use super::terms::{Act, Cause, IssuerClock, Lift, Lifted, Proof, Revocation, SessionScope, Tokens, UserId};
use crate::base::clock::Now;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

/// How long ended sessions and revoked tokens are remembered where nothing else says how long such a token could live.
const LONGEST_TOKEN_MS: u64 = 24 * 60 * 60 * 1000;

/// How long a feed's position waits for a decision to be written with.
const FLUSH_MS: u64 = 5_000;

/// How often is looked for what is over.
const SWEEP_MS: u64 = 60_000;

impl Users {
    /// Blocks a user. `None`: was blocked already by as much, or the proof is older than what is known.
    ///
    /// # Errors
    /// Nothing could be stored. The user is blocked nevertheless, until this process ends, and it is tried again.
    pub fn block(&self, user: &UserId, proof: Proof) -> Result<Option<Arc<Decision>>, StoreError> {
        self.block_all([(user.clone(), proof)]).map(|decisions| decisions.into_iter().next())
    }

    /// Blocks many users with one write: for a sweep. Gives the decisions, which are fewer if some were blocked already.
    ///
    /// # Errors
    /// As [`Users::block`].
    pub fn block_all(
        &self,
        proofs: impl IntoIterator<Item = (UserId, Proof)>,
    ) -> Result<Vec<Arc<Decision>>, StoreError> {
        self.change(|plan, memory, now| {
            for (user, proof) in proofs {
                decide::block(plan, memory, &user, proof, now);
            }
        })
        .map(|((), decisions)| decisions)
    }

    /// Ends the issuer's block or the operator's. The user then has to sign in again, or is still blocked by the other.
    ///
    /// # Errors
    /// Nothing could be stored; the user stays blocked.
    pub fn lift(&self, user: &UserId, lift: Lift) -> Result<Lifted, StoreError> {
        let (effect, decisions) = self.change(|plan, memory, now| decide::lift(plan, memory, user, lift, now))?;
        Ok(match (effect, decisions.into_iter().next()) {
            (LiftEffect::Lifted, Some(decision)) => Lifted::Done(decision),
            (LiftEffect::Stale, _) => Lifted::Stale,
            (LiftEffect::Lifted | LiftEffect::NotBlocked, _) => Lifted::NotBlocked,
        })
    }

    /// The issuer showed a session of the user, and when it began by its clock. If it began late enough its tokens pass; if too
    /// early they never do. Without a session: a verified token that has no `sid`, with its `iat`. `Some`: the user is in again.
    ///
    /// # Errors
    /// Nothing could be stored; the session does not count.
    pub fn signed_in(
        &self,
        user: &UserId,
        session: Option<&str>,
        began_ms: u64,
    ) -> Result<Option<Arc<Decision>>, StoreError> {
        let (effect, decisions) =
            self.change(|plan, memory, now| decide::signed_in(plan, memory, user, session, began_ms, now))?;
        if let (SignInEffect::TooOld, Some(session)) = (effect, session) {
            self.not_signed_in(user, session);
        }
        Ok(decisions.into_iter().next())
    }

    /// The issuer was asked for the user's sessions, after the token of this one came, and did not list it. Not stored.
    pub fn not_signed_in(&self, user: &UserId, session: &str) {
        self.memory.write().unwrap_or_else(PoisonError::into_inner).set_unproven(user, session);
    }

    /// Ends sessions; their user is not touched. `None`: known already.
    ///
    /// # Errors
    /// As [`Users::block`].
    pub fn end_session(
        &self,
        issuer: &Arc<str>,
        scope: SessionScope,
        cause: Cause,
    ) -> Result<Option<Arc<Decision>>, StoreError> {
        self.change_one(|plan, memory, now| {
            let until_ms = now.unix_ms.saturating_add(LONGEST_TOKEN_MS);
            decide::refuse(plan, memory, (issuer, scope.into(), None), (cause, None), until_ms, now);
        })
    }

    /// Ends one session of a user who is known. As [`Users::end_session`] otherwise; who listens can then be told whose it was.
    ///
    /// # Errors
    /// As [`Users::block`].
    pub fn end_session_of(
        &self,
        user: &UserId,
        session: String,
        cause: Cause,
    ) -> Result<Option<Arc<Decision>>, StoreError> {
        self.change_one(|plan, memory, now| {
            let until_ms = now.unix_ms.saturating_add(LONGEST_TOKEN_MS);
            let tokens = (user.issuer(), Tokens::Session(session), Some(user.subject().to_string()));
            decide::refuse(plan, memory, tokens, (cause, None), until_ms, now);
        })
    }

    /// Takes tokens back. `None`: known already.
    ///
    /// # Errors
    /// As [`Users::block`].
    pub fn revoke(&self, revocation: Revocation) -> Result<Option<Arc<Decision>>, StoreError> {
        let Revocation { issuer, tokens, act, until_ms } = revocation;
        self.change_one(|plan, memory, now| {
            let until_ms = until_ms.unwrap_or(now.unix_ms.saturating_add(LONGEST_TOKEN_MS));
            decide::refuse(plan, memory, (&issuer, tokens, None), (Cause::Operator, Some(act)), until_ms, now);
        })
    }

    /// Everybody of one issuer has to sign in again: its realm's not-before, in milliseconds. `None`: known already.
    ///
    /// # Errors
    /// As [`Users::block`].
    pub fn issuer_not_before(&self, issuer: &Arc<str>, time_ms: u64) -> Result<Option<Arc<Decision>>, StoreError> {
        self.change_one(|plan, memory, now| decide::issuer_not_before(plan, memory, issuer, time_ms, now))
    }

    /// Closes the cluster by hand: everybody is refused. `None`: was closed by hand already.
    ///
    /// # Errors
    /// As [`Users::block`].
    pub fn disable_cluster(&self, act: Act) -> Result<Option<Arc<Decision>>, StoreError> {
        self.change_one(|plan, memory, now| decide::close_cluster(plan, memory, Some(act), now))
    }

    /// Opens it again: everybody has to sign in. Name every issuer whose clock is known; for others ours counts. `None`: was not
    /// closed by hand.
    ///
    /// # Errors
    /// Nothing could be stored; the cluster stays closed.
    pub fn enable_cluster(&self, act: Act, clocks: &[IssuerClock<'_>]) -> Result<Option<Arc<Decision>>, StoreError> {
        self.change_one(|plan, memory, now| decide::open_cluster(plan, memory, Some(act), clocks, now))
    }

    /// `cluster.valid_until` of the configuration that now holds. A later date after one that passed opens the cluster again.
    ///
    /// # Errors
    /// Nothing could be stored; the cluster stays as closed as it was.
    pub fn set_valid_until(
        &self,
        valid_until_ms: Option<u64>,
        clocks: &[IssuerClock<'_>],
    ) -> Result<Option<Arc<Decision>>, StoreError> {
        let valid_until_ms = valid_until_ms.unwrap_or(u64::MAX);
        // The old date may have passed a moment ago.
        let closed = self.close_if_expired()?;
        if self.clock.now().unix_ms >= valid_until_ms {
            self.valid_until_ms.store(valid_until_ms, Ordering::Relaxed);
            return Ok(self.close_if_expired()?.or(closed));
        }
        let opened = self.change_one(|plan, memory, now| decide::open_cluster(plan, memory, None, clocks, now))?;
        self.valid_until_ms.store(valid_until_ms, Ordering::Relaxed);
        self.has_valid_until.store(true, Ordering::Relaxed);
        Ok(opened)
    }

    /// Another replica found that a date has passed which is not in force here any more: who is let in has to sign in again.
    fn open_if_later(&self) -> Result<(), StoreError> {
        let is_before = self.clock.now().unix_ms < self.valid_until_ms.load(Ordering::Relaxed);
        if is_before && self.has_valid_until.load(Ordering::Relaxed) && self.memory().cluster.is_expired {
            self.change_one(|plan, memory, now| decide::open_cluster(plan, memory, None, &[], now))?;
        }
        Ok(())
    }

    fn close_if_expired(&self) -> Result<Option<Arc<Decision>>, StoreError> {
        let valid_until_ms = self.valid_until_ms.load(Ordering::Relaxed);
        // Once: where a later date is in force, it was opened again, and here it is closed by the clock alone.
        let is_decided = self.expired_for_ms.load(Ordering::Relaxed) == valid_until_ms;
        if self.clock.now().unix_ms < valid_until_ms || is_decided {
            return Ok(None);
        }
        self.expired_for_ms.store(valid_until_ms, Ordering::Relaxed);
        self.change_one(|plan, memory, now| decide::close_cluster(plan, memory, None, now))
    }

    /// Once a second: makes a passed `valid_until` a decision, writes what waits, and now and then forgets what is over.
    ///
    /// # Errors
    /// Nothing could be stored. It is tried again.
    pub fn tick(&self) -> Result<(), StoreError> {
        self.close_if_expired()?;
        self.open_if_later()?;
        let now_ms = self.clock.now().monotonic_ms;
        if now_ms.saturating_sub(self.flushed_ms.load(Ordering::Relaxed)) >= FLUSH_MS || !self.is_sound() {
            self.flushed_ms.store(now_ms, Ordering::Relaxed);
            self.store().as_mut().map_or(Ok(()), |store| store.commit(&[]))?;
        }
        if now_ms.saturating_sub(self.swept_ms.load(Ordering::Relaxed)) >= SWEEP_MS {
            self.swept_ms.store(now_ms, Ordering::Relaxed);
            self.change(decide::sweep)?;
            self.memory.write().unwrap_or_else(PoisonError::into_inner).shrink();
        }
        Ok(())
    }

    /// How far a feed of an issuer was read, by its clock, in milliseconds since 1970.
    pub fn position(&self, issuer: &str, feed: &str) -> Option<u64> {
        self.memory().position(issuer, feed)
    }

    /// Stored with the next decision or some seconds later, never before a decision that was made earlier.
    pub fn set_position(&self, issuer: &Arc<str>, feed: &Arc<str>, at_ms: u64) {
        let write = Write::Position { issuer: Arc::clone(issuer), feed: Arc::clone(feed), at_ms };
        if let Some(store) = &mut *self.store() {
            store.later(vec![write.clone()]);
        }
        self.memory.write().unwrap_or_else(PoisonError::into_inner).apply(write);
    }

    /// Whether everything that was decided is on the disk. If not, see the log: what is decided still holds until a restart.
    pub fn is_sound(&self) -> bool {
        self.store().as_ref().is_none_or(Store::is_sound)
    }

    /// Leaves the store as a failed write does.
    #[cfg(test)]
    pub(super) fn break_store(&self) {
        self.store().iter_mut().for_each(Store::close);
    }

    fn store(&self) -> MutexGuard<'_, Option<Store>> {
        // Each write replaces whole values: a panic leaves none half done.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_one(&self, decide: impl FnOnce(&mut Plan, &Memory, Now)) -> Result<Option<Arc<Decision>>, StoreError> {
        self.change(decide).map(|((), decisions)| decisions.into_iter().next())
    }

    pub(super) fn change<T>(
        &self,
        decide: impl FnOnce(&mut Plan, &Memory, Now) -> T,
    ) -> Result<(T, Vec<Arc<Decision>>), StoreError> {
        // One change at a time; requests go on meanwhile.
        let mut store = self.store();
        let mut plan = Plan::default();
        let outcome = decide(&mut plan, &self.memory(), self.clock.now());
        let (moves, is_against, is_adopted) = (plan.moves, plan.is_against, plan.is_adopted);
        let (mut writes, decisions) = plan.into_parts();
        let is_to_share = !is_adopted && !writes.is_empty() && self.memory().outbox().is_some();
        if !is_adopted {
            // With the decision or not at all: what is decided is shared, even if this process ends now.
            let marks = self.memory().marks(&writes);
            writes.extend(marks);
        }
        let stored = match &mut *store {
            Some(store) if !writes.is_empty() => store.commit(&writes),
            _ => Ok(()),
        };
        if stored.is_err() {
            if !is_against {
                return stored.map(|()| (outcome, Vec::new()));
            }
            // A full disk lets nobody in.
            store.iter_mut().for_each(|store| store.later(writes.clone()));
        }
        let mut memory = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            memory.apply(write);
        }
        drop(memory);
        if moves {
            self.generation.fetch_add(1, Ordering::Release);
        }
        if is_to_share {
            self.outbox_moved();
        }
        let tell = |(decision, happened_ms)| self.tell(decision, happened_ms, is_adopted);
        let told = decisions.into_iter().map(tell).collect();
        stored.map(|()| (outcome, told))
    }

    fn tell(&self, decision: Decision, happened_ms: Option<u64>, is_adopted: bool) -> Arc<Decision> {
        let at_ms = self.clock.now().unix_ms;
        let delay_ms = happened_ms.map(|happened_ms| at_ms.saturating_sub(happened_ms));
        let decision = Arc::new(Decision { at_ms, delay_ms, ..decision });
        // Who decided it has it in theirs.
        if !is_adopted {
            self.audit.write(&decision::record(&decision));
        }
        // Nobody may be listening.
        let _ = self.decisions.send(Arc::clone(&decision));
        decision
    }
}
