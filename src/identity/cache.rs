//! Verified tokens, so that a repeated token costs a hash and a look-up.
//!
//! Two levels: each worker has a map of its own, read without a lock; behind it lies one sharded map for all, asked only on a
//! miss, where the alternative is a signature check. The hash is taken from the end of the token, its signature, which nobody can
//! choose; it only finds the entry. What admits is the comparison of every byte, so a collision costs time and no more, and only
//! verified tokens are ever stored, so strangers cannot fill the maps.

use super::jws::LastHeader;
use super::verifier::{VerifiedToken, Verifier};
use crate::base::clock::Now;
use crate::base::sharded::{SHARDS, Sharded, shard_of};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

/// Keys are hashes already.
#[derive(Debug, Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are keys");
    }
}

/// What is found by a hash, and then compared. Two of one hash take each other's place.
type ByHash<V> = HashMap<u64, V, BuildHasherDefault<AsIs>>;

/// The same for all threads.
pub(super) type SharedByHash<V> = Sharded<u64, V, BuildHasherDefault<AsIs>>;

/// The verified tokens of all workers.
#[derive(Debug)]
pub struct TokenCache {
    tokens: SharedByHash<Arc<VerifiedToken>>,
    seed: [u64; 2],
    capacity: usize,
}

impl TokenCache {
    /// A cache of at most `capacity` tokens.
    pub fn new(capacity: usize) -> Self {
        let random = RandomState::new();
        let seed = [random.hash_one(0), random.hash_one(1)];
        Self { tokens: Sharded::default(), seed, capacity: capacity.max(SHARDS) }
    }

    /// The hash under which a token is found: of its last 16 characters, which belong to the signature and are as good as random.
    pub fn hash(&self, token: &[u8]) -> u64 {
        let Some((_, tail)) = token.split_last_chunk::<16>() else { return 0 };
        let tail = u128::from_le_bytes(*tail);
        // Two halves, each under a secret of this process, multiplied and folded.
        #[allow(clippy::cast_possible_truncation)] // The halves are what is wanted.
        let half = |number: u128| [number as u64, (number >> 64) as u64];
        let [low, high] = half(tail);
        let [low, high] = half(u128::from(low ^ self.seed[0]) * u128::from(high ^ self.seed[1]));
        low ^ high
    }

    pub(super) fn get(&self, hash: u64, token: &[u8]) -> Option<Arc<VerifiedToken>> {
        self.tokens.shard(hash).get(&hash).filter(|known| known.is(token)).cloned()
    }

    /// Adds a token under its hash, or gives the one that another worker added meanwhile.
    pub fn insert(&self, hash: u64, token: Arc<VerifiedToken>) -> Arc<VerifiedToken> {
        let mut shard = self.tokens.shard(hash);
        if let Some(known) = shard.get(&hash)
            && known.is(token.bytes())
        {
            return Arc::clone(known);
        }
        // Any: to look for one that expired would cost as much as all of them, each time; [`TokenCache::sweep`] does that.
        if shard.len() >= self.capacity / SHARDS
            && let Some(any) = shard.keys().next().copied()
        {
            shard.remove(&any);
        }
        shard.insert(hash, Arc::clone(&token));
        token
    }

    /// Forgets tokens that expired or whose key is gone. Called now and then by the control plane.
    pub fn sweep(&self, now: Now) {
        for mut shard in self.tokens.shards() {
            shard.retain(|_, known| known.check(now).is_ok());
        }
    }

    /// Some token that is like this. Looks at all of them: for the control plane.
    pub(super) fn find(&self, is_like: impl Fn(&VerifiedToken) -> bool) -> Option<Arc<VerifiedToken>> {
        self.tokens.shards().find_map(|shard| shard.values().find(|token| is_like(token)).cloned())
    }

    /// How many tokens are held.
    pub fn len(&self) -> usize {
        self.tokens.shards().map(|shard| shard.len()).sum()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One worker's own view of the cache: in parts, so that no request waits for all of it to be looked through or thrown away.
#[derive(Debug)]
pub struct LocalCache {
    parts: Box<[RefCell<ByHash<Arc<VerifiedToken>>>; SHARDS]>,
    /// The part that is swept next.
    swept_next: Cell<usize>,
    /// Of the last token that was in no map.
    pub(super) last_header: RefCell<LastHeader>,
}

/// A part is emptied when it holds this many, 65,536 in all; what is in use comes back from the shared map.
const PART_CAPACITY: usize = 1024;

impl Default for LocalCache {
    fn default() -> Self {
        let parts = Box::new(std::array::from_fn(|_| RefCell::default()));
        Self { parts, swept_next: Cell::default(), last_header: RefCell::default() }
    }
}

impl LocalCache {
    pub(super) fn get(&self, hash: u64, token: &[u8]) -> Option<Arc<VerifiedToken>> {
        self.parts[shard_of(hash)].borrow().get(&hash).filter(|known| known.is(token)).cloned()
    }

    pub(super) fn insert(&self, hash: u64, token: Arc<VerifiedToken>) {
        let mut tokens = self.parts[shard_of(hash)].borrow_mut();
        if tokens.len() >= PART_CAPACITY {
            tokens.clear();
        }
        tokens.insert(hash, token);
    }

    /// Forgets, of the next part, tokens that expired or whose key is gone, and those of another verifier than the one in force: that
    /// finds them by other hashes, so never, and each holds all that its verifier knew of its issuer. [`SHARDS`] calls come to all parts.
    pub fn sweep(&self, verifier: &Verifier, now: Now) {
        let part = self.swept_next.get();
        self.swept_next.set((part + 1) % SHARDS);
        self.parts[part].borrow_mut().retain(|_, known| verifier.has_made(known) && known.check(now).is_ok());
    }
}
