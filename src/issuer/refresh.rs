//! How a key set is kept up to date: a loop on the control plane, and requests that wait for its next fetch.
//!
//! There is one fetch at a time, and only the loop ([`Issuer::run`]) makes any. A request whose `kid` is unknown
//! says which fetch it wants (one that begins after it came) and waits; requests that come together want the
//! same one. The loop answers with a fetch if its bucket has a token, else by saying that it will not.

use crate::base::clock::Now;
use crate::config::Algorithm;
use crate::issuer::bucket::Bucket;
use crate::issuer::fetch::FetchError;
use crate::issuer::key_set::Found;
use crate::issuer::unknown_kids::UnknownKids;
use crate::issuer::{Issuer, VerifyingKey};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// No request waits longer for a fetch.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Nor so long for the first one of all: whoever is not ready should say so.
const MAX_FIRST_WAIT: Duration = Duration::from_secs(1);

/// After the first failure; doubled after each further one.
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);

/// An issuer that is back is noticed within this.
const MAX_BACK_OFF: Duration = Duration::from_secs(8);

/// What an issuer has for a token's header.
#[derive(Debug, Clone)]
pub enum KeyLookup {
    /// The key to verify with.
    Key(Arc<VerifyingKey>),
    /// The issuer has no such key for that algorithm: the token is refused.
    Unknown,
    /// It is not known: there are no keys, or they are older than `max_stale`, or the `kid` is new and the issuer
    /// cannot be asked. The caller answers 503.
    Unavailable,
}

/// What requests and the loop tell each other.
#[derive(Debug)]
pub(super) struct Refresh {
    progress: watch::Sender<Progress>,
    /// The number of the fetch that somebody waits for.
    wanted: AtomicU64,
    wake: Notify,
    /// Until when, on the monotonic clock, the bucket is known to be empty.
    closed_until_ms: AtomicU64,
    unknown: UnknownKids,
}

/// Fetches are counted from 1; `done` is `begun`, or one less while a fetch is running.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    begun: u64,
    done: u64,
    /// Whether the last one that is done failed.
    is_failing: bool,
}

enum Reason {
    Due,
    Early,
}

impl Refresh {
    pub(super) fn new() -> Self {
        Self {
            progress: watch::Sender::default(),
            wanted: AtomicU64::new(0),
            wake: Notify::new(),
            closed_until_ms: AtomicU64::new(0),
            unknown: UnknownKids::new(),
        }
    }

    fn want(&self, fetch: u64) {
        self.wanted.fetch_max(fetch, Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn is_closed(&self, now: Now) -> bool {
        now.monotonic_ms < self.closed_until_ms.load(Ordering::Relaxed)
    }
}

impl Issuer {
    /// The key for a token that names `kid` and `algorithm` in its header.
    ///
    /// A known key is found at once. An unknown `kid` waits for an early fetch, at most 2 s and as far as
    /// the bucket of such fetches allows (5, and one more each 10 s); before the first fetch is done any
    /// token waits for it, at most 1 s. May be awaited on any runtime with a timer, and dropped at any time: the
    /// fetch goes on.
    pub async fn key_for(&self, kid: Option<&str>, algorithm: Algorithm) -> KeyLookup {
        match self.key_now(kid, algorithm) {
            Some(found) => found,
            // Boxed, so that the usual case does not carry the room for this.
            None => Box::pin(self.key_later(kid, algorithm)).await,
        }
    }

    /// As [`Self::key_for`], where the answer is known without waiting.
    pub fn key_now(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<KeyLookup> {
        let now = self.clock.now();
        if !self.is_fresh(now) {
            // While the issuer fails, requests do not queue up for it: the loop tries again by itself.
            return self.refresh.progress.borrow().is_failing.then_some(KeyLookup::Unavailable);
        }
        match self.keys.find(kid, algorithm) {
            Found::Key(key) => Some(KeyLookup::Key(key)),
            Found::WrongAlgorithm => Some(KeyLookup::Unknown),
            Found::Unknown => match kid {
                Some(kid) if self.remote.is_some() => self.unknown_now(kid, now),
                _ => Some(KeyLookup::Unknown),
            },
        }
    }

    /// The answer for a `kid` that is not in the set, if no fetch is to be waited for.
    fn unknown_now(&self, kid: &str, now: Now) -> Option<KeyLookup> {
        if self.refresh.unknown.contains(kid, now) {
            return Some(KeyLookup::Unknown);
        }
        let progress = *self.refresh.progress.borrow();
        if progress.is_failing {
            return Some(KeyLookup::Unavailable);
        }
        let is_idle = progress.begun == progress.done;
        (is_idle && self.refresh.is_closed(now)).then_some(KeyLookup::Unknown)
    }

    async fn key_later(&self, kid: Option<&str>, algorithm: Algorithm) -> KeyLookup {
        let longest = if self.keys.is_empty() { MAX_FIRST_WAIT } else { MAX_WAIT };
        let wait = longest.min(self.config.keys.timeout);
        let found = tokio::time::timeout(wait, self.key_after_fetch(kid, algorithm)).await;
        found.unwrap_or(KeyLookup::Unavailable)
    }

    /// Waits until the key is there, or a fetch that began after the call is done, or none will be made.
    async fn key_after_fetch(&self, kid: Option<&str>, algorithm: Algorithm) -> KeyLookup {
        let mut progress = self.refresh.progress.subscribe();
        let arrived = progress.borrow().begun;
        loop {
            // Read before the keys are: a fetch replaces the keys first and says so then.
            let seen = *progress.borrow_and_update();
            if let Some(found) = self.key_now(kid, algorithm) {
                return found;
            }
            if seen.done > arrived {
                let now = self.clock.now();
                let Some(kid) = kid.filter(|_| self.is_fresh(now)) else { return KeyLookup::Unavailable };
                self.refresh.unknown.insert(kid, now);
                return KeyLookup::Unknown;
            }
            if seen.begun == seen.done {
                self.refresh.want(arrived + 1);
            }
            if progress.changed().await.is_err() {
                return KeyLookup::Unavailable;
            }
        }
    }

    /// Keeps the keys up to date for ever; dropping the future ends it. Run it once, on the control plane.
    pub async fn run(self: Arc<Self>) {
        if self.remote.is_none() {
            return;
        }
        let mut bucket = Bucket::new(self.clock.now());
        let mut failures = 0;
        let mut reason = Reason::Due;
        let mut due = Instant::now();
        loop {
            // The endpoints are learnt anew each time but in a hurry, when those of a while ago will do.
            let is_early = matches!(reason, Reason::Early);
            failures = if self.refresh_now(!is_early).await.is_ok() { 0 } else { failures + 1 };
            // However many early fetches there are, the regular one comes.
            if !is_early || failures > 0 {
                due = Instant::now() + pause_after(failures, self.config.keys.refresh);
            }
            reason = self.pause(due, &mut bucket).await;
        }
    }

    /// Makes one fetch, tells those who wait for it, and counts and logs what came of it. Not to be called beside
    /// [`Self::run`].
    pub(super) async fn refresh_now(&self, with_discovery: bool) -> Result<(), FetchError> {
        let mut fetch = Running::begin(&self.refresh);
        let asked = self.clock.now();
        self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        let result = self.fetch(with_discovery).await;
        match result {
            Ok(jwks) => {
                self.counters.note_success(asked, jwks.skipped.len());
                self.log_success(&jwks);
                self.keys.replace(jwks, asked);
                fetch.has_failed = false;
                Ok(())
            }
            Err(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                self.log_failure(&error);
                Err(error)
            }
        }
    }

    /// Waits until the next fetch is due, or wanted early and allowed.
    async fn pause(&self, due: Instant, bucket: &mut Bucket) -> Reason {
        let mut due = std::pin::pin!(tokio::time::sleep_until(due));
        loop {
            tokio::select! {
                biased;
                () = &mut due => return Reason::Due,
                () = self.refresh.wake.notified() => {}
            }
            let begun = self.refresh.progress.borrow().begun;
            if self.refresh.wanted.load(Ordering::Relaxed) <= begun {
                continue; // Somebody asked for a fetch that has been made since.
            }
            let is_allowed = bucket.take(self.clock.now());
            self.refresh.closed_until_ms.store(bucket.empty_until_ms(), Ordering::Relaxed);
            if is_allowed {
                self.counters.early_fetches.fetch_add(1, Ordering::Relaxed);
                return Reason::Early;
            }
            // Whoever asked had not seen yet that it is closed, and looks again.
            self.refresh.progress.send_modify(|_| ());
        }
    }
}

/// How long to wait after so many failures in a row; `refresh` at most, and after none.
fn pause_after(failures: u32, refresh: Duration) -> Duration {
    let pause = match failures.checked_sub(1) {
        None => refresh,
        Some(doubled) => (FIRST_BACK_OFF * (1 << doubled.min(10))).min(MAX_BACK_OFF).min(refresh),
    };
    // Up to a tenth less, so that many gateways do not come together.
    let random = RandomState::new().hash_one(failures) % 1000;
    pause.mul_f64(1.0 - random as f64 / 10_000.0)
}

/// A fetch that is running; whatever ends it, those who wait are told.
struct Running<'a> {
    refresh: &'a Refresh,
    has_failed: bool,
}

impl<'a> Running<'a> {
    fn begin(refresh: &'a Refresh) -> Self {
        refresh.progress.send_modify(|progress| progress.begun += 1);
        Self { refresh, has_failed: true }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.refresh.progress.send_modify(|progress| {
            progress.done = progress.begun;
            progress.is_failing = self.has_failed;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Refresh {
        /// Waits until that many fetches are done.
        pub(in crate::issuer) async fn fetched(&self, fetches: u64) {
            self.progress.subscribe().wait_for(|progress| progress.done >= fetches).await.unwrap();
        }
    }

    #[test]
    fn the_pause_after_failures_grows_to_a_bound() {
        let hour = Duration::from_secs(3600);
        for (failures, longest) in
            [(0, 3_600_000), (1, 500), (2, 1_000), (3, 2_000), (4, 4_000), (5, 8_000), (99, 8_000)]
        {
            let (pause, longest) = (pause_after(failures, hour), Duration::from_millis(longest));
            assert!(pause <= longest && pause >= longest.mul_f64(0.9), "{failures}: {pause:?}");
            assert!(pause_after(failures, Duration::from_secs(1)) <= Duration::from_secs(1), "{failures}");
        }
    }
}
