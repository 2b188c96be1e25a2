//! What is known against users: who is blocked, who has to sign in again, which sessions and tokens ended. Outlives restarts.
//!
//! Two levels, never mixed. A **session end** concerns tokens: one, or those of a session. A **user block** needs proof about the
//! user, and everything of theirs ends with it. A blocked user who is enabled again gets in only by a session that began since.
//!
//! Every change is stored durably first, then remembered, then [`Users::generation`] moves, then it is told
//! ([`Users::subscribe`]) and written to the audit log. Requests read one atomic number as long as nothing changed.

mod adopt;
mod change;
mod decide;
mod decision;
mod memory;
mod merge;
mod share;
mod state;
mod store;
mod terms;

#[cfg(test)]
mod tests;

pub use adopt::Adopted;
pub use decision::{Decision, Kind, Target};
pub use share::{Offer, ShareError};
pub use store::StoreError;
pub use terms::{
    Act, Cause, ClusterView, EndedSession, IssuerCause, IssuerClock, IssuerTime, Judgement, Lift, Lifted, Proof,
    Revocation, SessionScope, State, TokenClaims, Tokens, UserId, UserView,
};

use crate::base::clock::{Clock, Now};
use crate::telemetry::audit_log::Audit;
use memory::{By, Memory, Refusal, TokenKey};
use state::Record;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use store::Store;
use tokio::sync::broadcast;

/// What is known against users. One a process; it outlives every reload of the configuration.
#[derive(Debug)]
pub struct Users {
    memory: RwLock<Memory>,
    /// Held by the one change that is under way. `None`: in memory alone.
    store: Mutex<Option<Store>>,
    generation: AtomicU64,
    /// `cluster.valid_until`; `u64::MAX` if there is none.
    valid_until_ms: AtomicU64,
    /// Whether that is what the configuration says, and of which date it was decided that it passed.
    has_valid_until: AtomicBool,
    expired_for_ms: AtomicU64,
    /// What is shared was not read yet.
    is_unknown: AtomicBool,
    /// Counts what is to be shared.
    outbox: broadcast::Sender<()>,
    /// When what waits was written, and when was looked for what is over, by the monotonic clock.
    flushed_ms: AtomicU64,
    swept_ms: AtomicU64,
    decisions: broadcast::Sender<Arc<Decision>>,
    clock: Clock,
    audit: Audit,
}

/// The generation at which a token was last found admissible. One in each verified token.
#[derive(Debug, Default)]
pub struct Seen(AtomicU64);

/// Decisions that a listener may lag behind before it has to look at the whole.
const LAG: usize = 4096;

impl Users {
    /// What the store holds, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is ever begun anew because something is wrong with what is there.
    pub fn open(path: &Path, clock: Clock, audit: Audit) -> Result<Arc<Self>, StoreError> {
        let (store, memory) = Store::open(path)?;
        Ok(Self::new(Some(store), memory, clock, audit))
    }

    /// Forgets everything with the process: for `explain`, for tests, and where no issuer's users are watched.
    pub fn in_memory(clock: Clock) -> Arc<Self> {
        Self::new(None, Memory::default(), clock, Audit::off())
    }

    fn new(store: Option<Store>, memory: Memory, clock: Clock, audit: Audit) -> Arc<Self> {
        Arc::new(Self {
            memory: RwLock::new(memory),
            store: Mutex::new(store),
            // 0 is what a token has that was never looked at.
            generation: AtomicU64::new(1),
            valid_until_ms: AtomicU64::new(u64::MAX),
            has_valid_until: AtomicBool::new(false),
            expired_for_ms: AtomicU64::new(u64::MAX),
            is_unknown: AtomicBool::new(false),
            outbox: broadcast::Sender::new(1),
            flushed_ms: AtomicU64::new(0),
            swept_ms: AtomicU64::new(0),
            decisions: broadcast::channel(LAG).0,
            clock,
            audit,
        })
    }

    // ---- What requests ask.

    /// Whether a token passes. Without a lock while nothing changed since it was last admitted.
    #[inline]
    pub fn admit<'a>(&self, seen: &Seen, now: Now, claims: impl FnOnce() -> TokenClaims<'a>) -> Judgement {
        if self.is_current(seen, now) {
            return Judgement::Admitted;
        }
        // Read before the judgement: a change that comes meanwhile is looked at next time.
        let generation = self.generation();
        let judgement = self.judge(&claims(), now);
        if judgement == Judgement::Admitted {
            seen.0.store(generation, Ordering::Relaxed);
        }
        judgement
    }

    /// Whether nothing changed since the token was last admitted: two loads and two comparisons.
    #[inline]
    pub fn is_current(&self, seen: &Seen, now: Now) -> bool {
        seen.0.load(Ordering::Relaxed) == self.generation.load(Ordering::Acquire)
            && now.unix_ms < self.valid_until_ms.load(Ordering::Relaxed)
    }

    /// Grows with every change after which an admitted token may be refused. Never 0.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Holds a token against everything that is known, under a lock that is held for look-ups only. Does not allocate.
    pub fn judge(&self, claims: &TokenClaims<'_>, now: Now) -> Judgement {
        if !self.is_loaded() {
            return Judgement::Unknown;
        }
        let is_expired = now.unix_ms >= self.valid_until_ms.load(Ordering::Relaxed);
        self.memory().judge(claims, is_expired)
    }

    /// As [`Users::judge`], whether the cluster is closed or not: for those who may open it.
    pub fn judge_beside_cluster(&self, claims: &TokenClaims<'_>) -> Judgement {
        if self.is_loaded() { self.memory().judge_beside_cluster(claims) } else { Judgement::Unknown }
    }

    /// Grows with each block of the user, of everybody of the issuer, of everybody. What was made under a lower one is void.
    pub fn epoch(&self, issuer: &str, subject: &str) -> u64 {
        self.memory().epoch(issuer, subject)
    }

    /// Where a user stands, and their epoch, whether anything is known of them or not. While the cluster is closed nobody is active.
    pub fn standing(&self, user: &UserId, now: Now) -> (State, u64) {
        let is_expired = now.unix_ms >= self.valid_until_ms.load(Ordering::Relaxed);
        let memory = self.memory();
        let floor = memory.floor(user.issuer());
        let state = memory.record(user).map_or_else(|| Record::default().state(floor), |record| record.state(floor));
        let is_closed = is_expired || memory.cluster.is_expired || memory.cluster.closed.is_some();
        let state = if is_closed && state == State::Active { State::Blocked } else { state };
        (state, memory.epoch(user.issuer(), user.subject()))
    }

    // ---- What is seen from outside.

    /// Every decision from now on. Who lags too far behind looks at [`Users::list`] instead.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Decision>> {
        self.decisions.subscribe()
    }

    /// What is known about a user; `None` if nothing was ever held against them.
    pub fn state(&self, user: &UserId) -> Option<UserView> {
        let memory = self.memory();
        let record = memory.record(user).filter(|record| **record != Record::default())?;
        Some(view(&memory, user.clone(), record))
    }

    /// Every user about whom something is known, in no order.
    pub fn list(&self) -> Vec<UserView> {
        let memory = self.memory();
        let known = memory.users().filter(|(_, record)| **record != Record::default());
        known.map(|(user, record)| view(&memory, user, record)).collect()
    }

    /// The users of an issuer whom it blocks; deleted ones too.
    pub fn blocked_by_issuer(&self, issuer: &str) -> Vec<UserId> {
        let memory = self.memory();
        let blocked = memory.users().filter(|(user, record)| **user.issuer() == *issuer && record.by_issuer.is_some());
        blocked.map(|(user, _)| user).collect()
    }

    /// A session that ended, if it is known whose it was.
    pub fn ended_session(&self, issuer: &Arc<str>, session: &str) -> Option<EndedSession> {
        let key = TokenKey::of(issuer, &Tokens::Session(session.to_owned()));
        let memory = self.memory();
        ended(&key, memory.refused(&key)?)
    }

    /// The sessions that ended of late and of whom it is known whose they were, in no order.
    pub fn ended_sessions(&self) -> Vec<EndedSession> {
        self.memory().refusals().filter_map(|(key, refusal)| ended(&key, refusal)).collect()
    }

    /// How many users are blocked or removed.
    pub fn blocked_users(&self) -> usize {
        let is_out = |record: &&Record| matches!(record.state(0), State::Blocked | State::Removed);
        self.memory().records().filter(is_out).count()
    }

    /// The cluster switch.
    pub fn cluster(&self) -> ClusterView {
        let until = self.valid_until_ms.load(Ordering::Relaxed);
        let memory = self.memory();
        ClusterView {
            closed: memory.cluster.closed.clone(),
            valid_until_ms: (until < u64::MAX).then_some(until),
            is_expired: memory.cluster.is_expired || self.clock.now().unix_ms >= until,
        }
    }

    fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        // Writes are replacements of whole values: a panic leaves none half done.
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(key: &TokenKey, refusal: &Refusal) -> Option<EndedSession> {
    let subject = refusal.subject.as_deref().filter(|_| key.by == By::Session)?;
    Some(EndedSession {
        user: UserId::new(Arc::clone(&key.issuer), subject)?,
        session: key.id.to_string(),
        cause: refusal.cause,
        at_ms: refusal.at_ms,
        until_ms: refusal.until_ms,
    })
}

fn view(memory: &Memory, user: UserId, record: &Record) -> UserView {
    let floor = memory.floor(user.issuer());
    UserView {
        state: record.state(floor),
        by_issuer: record.by_issuer,
        by_operator: record.by_operator.clone(),
        threshold_ms: record.threshold_ms.max(floor),
        epoch: memory.epoch(user.issuer(), user.subject()),
        changed_ms: record.changed_ms,
        sessions: record.sessions.iter().map(|known| (known.session.clone(), known.began_ms)).collect(),
        user,
    }
}
