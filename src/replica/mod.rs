//! What is known about users, shared by all replicas: through Secrets of Postern's own namespace, or through a Redis ([`Carrier`]).
//!
//! Local first, then shared: a decision holds here, durably, before anybody else hears of it, and goes on holding while the carrier
//! is away. What is not shared yet is put as soon as it can be, by compare-and-swap on what others put ([`Users::offer`]); what others
//! put is adopted ([`Users::adopt`]). Each Secret has a task of its own, so one that fails holds up no other; a Redis has one.
//!
//! A watch only says that something changed. What is adopted was read then, and reads and writes of a Secret take turns: so nothing
//! that is known is ever replaced by something older, whatever the watch tells late. A Redis tells nothing, and is asked.

mod carrier;
mod notes;
mod part;

#[cfg(test)]
mod tests;

use crate::base::clock::Clock;
use crate::kubernetes::KubernetesError;
use crate::redis::RedisError;
use crate::users::{ShareError, StoreError, UserId, Users};
pub use carrier::Carrier;
use notes::Notes;
use part::{Due, Part};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The name of the state in a cluster: Secrets `postern-users-0` to `postern-users-15`.
pub const STATE: &str = "postern-users";

/// Of how many Secrets it is. Fixed: a change needs a migration.
pub const PARTS: u16 = 16;

/// The name of the state in a Redis, after the prefix.
pub const SHELF: &str = "users";

/// Why what is known cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The API server.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// Redis.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// What stands there, or our own store.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Not all of what is shared was read since the start.
    #[error("what is shared was not read yet")]
    NotLoaded,
}

/// This replica's part in what all know. One a process.
pub struct Replica {
    carrier: Carrier,
    users: Arc<Users>,
    clock: Clock,
    parts: Vec<Part>,
    notes: Notes,
    counters: Counters,
    /// How many parts were read since the start.
    loaded: AtomicUsize,
    /// The parts that cannot be shared at this moment.
    failing: Mutex<BTreeSet<usize>>,
}

/// What happened, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Decisions that had to be merged with what others had put.
    pub conflicts: AtomicU64,
    /// Reads and writes of shared state that failed.
    pub failures: AtomicU64,
    /// Keys that were put again, since somebody had removed them or put back something older.
    pub repairs: AtomicU64,
}

impl Replica {
    /// From now on what `users` decide is to be shared through `carrier`, and nobody is let in until all that is shared was read.
    /// To be called before anything is decided. Nothing is sent before [`Replica::run`].
    ///
    /// # Errors
    /// It cannot be stored that it is to be shared.
    pub fn new(carrier: impl Into<Carrier>, users: Arc<Users>, clock: Clock) -> Result<Arc<Self>, StoreError> {
        users.share()?;
        let carrier = carrier.into();
        let parts = (0..carrier.parts()).map(|_| Part::default()).collect();
        let (notes, counters) = (Notes::default(), Counters::default());
        let (loaded, failing) = (AtomicUsize::new(0), Mutex::default());
        Ok(Arc::new(Self { carrier, users, clock, parts, notes, counters, loaded, failing }))
    }

    /// Shares: for ever. Dropping it ends all that it began.
    pub async fn run(self: Arc<Self>) {
        let watches = match self.carrier.watches() {
            Ok(watches) => watches,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "what is known about users is not shared");
                return;
            }
        };
        let mut tasks = JoinSet::new();
        for (index, watch) in watches.into_iter().enumerate() {
            tasks.spawn(Arc::clone(&self).run_part(index, watch));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Whether all that is shared was read since the start. Before that the process is not ready.
    pub fn is_loaded(&self) -> bool {
        self.users.is_loaded()
    }

    /// Reads what is shared about these users, by reads that begin now, and adopts it. What was decided before this by any replica,
    /// and shared, is known once this returns; and what was decided here about them is shared, else another replica might take away what
    /// is let in on it.
    ///
    /// # Errors
    /// Not all could be read, or shared: then nothing may be done that lets one of them in.
    pub async fn refresh(&self, users: &[UserId]) -> Result<(), ReplicaError> {
        let mut parts = BTreeSet::new();
        for key in users.iter().flat_map(Users::shared_keys) {
            parts.insert(self.carrier.part_of(&key)?);
        }
        for index in parts {
            if let Err(error) = self.turn(index, Due::Read).await {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        }
        if self.is_loaded() { Ok(()) } else { Err(ReplicaError::NotLoaded) }
    }

    /// Tells the token service that a user who never signed in was seen with a valid token. Known ones are not told twice.
    pub fn note_sign_in(&self, user: &UserId) {
        if let Some(key) = self.notes.add(user) {
            self.wake(&key);
        }
    }

    /// The sign-in was taken up: the note is removed for all.
    pub fn forget_sign_in(&self, user: &UserId) {
        if let Some(key) = self.notes.forget(user) {
            self.wake(&key);
        }
    }

    /// Every sign-in that any replica noted, those noted before too. For one listener: the next takes its place.
    pub fn sign_ins(&self) -> mpsc::UnboundedReceiver<UserId> {
        self.notes.listen()
    }

    /// Whether at this moment something cannot be shared: what others decide is not heard of, or not all of it.
    pub fn is_alone(&self) -> bool {
        !self.failing.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// How many keys were decided about here and are not known to be shared.
    pub fn unshared(&self) -> usize {
        self.users.unshared_len()
    }

    /// How long ago the part that was read longest ago was read; `None` if one never was.
    pub fn age(&self) -> Option<Duration> {
        let oldest_ms = self.parts.iter().map(Part::confirmed_ms).min().flatten()?;
        Some(Duration::from_millis(self.clock.now().monotonic_ms.saturating_sub(oldest_ms)))
    }

    /// What happened, since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn wake(&self, key: &str) {
        if let Some(part) = self.carrier.part_of(key).ok().and_then(|index| self.parts.get(index)) {
            part.wake();
        }
    }

    fn note_failure(&self, index: usize, error: &ReplicaError) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        // Said when it begins, and not at each attempt.
        if failing.is_empty() {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                unshared = self.unshared(),
                ready = self.is_loaded(),
                "what is known about users cannot be shared with other replicas; what is decided here holds here, and is kept"
            );
        } else {
            tracing::debug!(
                index,
                error = error as &dyn std::error::Error,
                "what is known about users cannot be shared"
            );
        }
        failing.insert(index);
    }

    fn note_success(&self, index: usize) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.remove(&index) && failing.is_empty() {
            tracing::info!(unshared = self.unshared(), "what is known about users is shared with other replicas again");
        }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("parts", &self.parts.len()).field("unshared", &self.unshared()).finish()
    }
}
