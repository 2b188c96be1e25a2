//! The keys of one issuer, as last fetched. Read without a lock, written by the refresh alone.

use crate::base::clock::Now;
use crate::config::Algorithm;
use crate::issuer::jwk::Jwks;
use crate::issuer::verifying_key::VerifyingKey;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The key set of one issuer.
pub struct KeySet {
    keys: ArcSwap<Keys>,
    /// [`Now::monotonic_ms`] when the last good set was asked for; 0: never.
    asked_at_ms: AtomicU64,
    max_stale: Duration,
}

#[derive(Default)]
struct Keys {
    by_kid: HashMap<Box<str>, Arc<VerifyingKey>>,
    /// Every key, those without `kid` too.
    all: Vec<Arc<VerifyingKey>>,
}

/// What a key set has for a token's header.
#[derive(Debug, Clone)]
pub enum Found {
    /// This key; whether it signed the token is still to be seen.
    Key(Arc<VerifyingKey>),
    /// The key exists but must not be used with that algorithm.
    WrongAlgorithm,
    /// No such key; without `kid`: not exactly one key.
    Unknown,
}

impl KeySet {
    /// An empty set, whose keys will be good for `max_stale` after they were asked for.
    pub(super) fn new(max_stale: Duration) -> Self {
        Self { keys: ArcSwap::default(), asked_at_ms: AtomicU64::new(0), max_stale }
    }

    /// The key that `kid` names, or without a `kid` the only key there is. Never waits.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Found {
        let keys = self.keys.load();
        let key = match kid {
            Some(kid) => keys.by_kid.get(kid),
            None => keys.only(),
        };
        match key {
            Some(key) if key.fits(algorithm) => Found::Key(Arc::clone(key)),
            Some(_) => Found::WrongAlgorithm,
            None => Found::Unknown,
        }
    }

    /// Whether the set was fetched, and not longer ago than `max_stale`.
    pub fn is_fresh(&self, now: Now) -> bool {
        self.age(now).is_some_and(|age| age <= self.max_stale)
    }

    /// How long ago the set was asked for; `None` if there never was one.
    pub fn age(&self, now: Now) -> Option<Duration> {
        match self.asked_at_ms.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_millis(now.monotonic_ms.saturating_sub(at))),
        }
    }

    /// Whether there never was a key.
    pub fn is_empty(&self) -> bool {
        self.keys.load().all.is_empty()
    }

    /// Takes a fetched set over. A key that is still in it stays the same object, so that what was verified
    /// with it stays good; one that is not is retired.
    pub(super) fn replace(&self, jwks: Jwks, asked: Now) {
        let old = self.keys.load_full();
        let keep = |key: VerifyingKey| {
            let known = old.all.iter().find(|known| known.is_same(&key));
            known.cloned().unwrap_or_else(|| Arc::new(key))
        };
        let all: Vec<_> = jwks.keys.into_iter().map(keep).collect();
        let by_kid = all.iter().filter_map(|key| Some((key.kid()?.into(), Arc::clone(key)))).collect();
        let new = Arc::new(Keys { by_kid, all });
        self.keys.store(Arc::clone(&new));
        self.asked_at_ms.store(asked.monotonic_ms, Ordering::Relaxed);
        for key in &old.all {
            if !new.all.iter().any(|kept| Arc::ptr_eq(kept, key)) {
                key.retire();
            }
        }
    }

    /// Starts with the keys of a set that this one replaces.
    pub(super) fn adopt(&self, former: &Self) {
        self.keys.store(former.keys.load_full());
        self.asked_at_ms.store(former.asked_at_ms.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Keys {
    fn only(&self) -> Option<&Arc<VerifyingKey>> {
        match self.all.as_slice() {
            [only] if only.candidates().len() == 1 => Some(only),
            _ => None,
        }
    }
}
