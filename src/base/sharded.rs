//! A map in parts, for what threads share but seldom touch at the same time.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many parts a map has.
pub const SHARDS: usize = 64;

/// Which part `hash` falls into. Maps find their entries by its other bits.
pub fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or(0) % SHARDS
}

/// A map in 64 parts, each under a lock of its own that is held for single look-ups only. Off the request path's fast way.
#[derive(Debug)]
pub struct Sharded<K, V, S = RandomState> {
    shards: Vec<Mutex<HashMap<K, V, S>>>,
}

impl<K, V, S: Default> Default for Sharded<K, V, S> {
    fn default() -> Self {
        Self { shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect() }
    }
}

impl<K, V, S> Sharded<K, V, S> {
    /// The part that `hash` falls into.
    pub fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<K, V, S>> {
        // A panic between two look-ups leaves a map that is still sound.
        self.shards[shard_of(hash)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every part in turn.
    pub fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<K, V, S>>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
