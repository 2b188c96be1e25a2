//! How many early fetches an issuer has to bear.

use crate::base::clock::Now;

/// So many early fetches may follow each other at once.
const BURST: u32 = 5;

/// One more is allowed after each of these.
const REFILL_MS: u64 = 10_000;

/// A bucket of tokens; each early fetch takes one, whether it succeeds or not.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: u32,
    /// When the last token was added, or when the bucket was last full.
    since_ms: u64,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Now) -> Self {
        Self { tokens: BURST, since_ms: now.monotonic_ms }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Now) -> bool {
        let added = now.monotonic_ms.saturating_sub(self.since_ms) / REFILL_MS;
        self.since_ms += added * REFILL_MS;
        self.tokens = u32::try_from(added).unwrap_or(BURST).saturating_add(self.tokens).min(BURST);
        if self.tokens == BURST {
            self.since_ms = now.monotonic_ms;
        }
        let is_allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        is_allowed
    }

    /// Until when, on the monotonic clock, there is no token; 0 where there is one now.
    pub(super) fn empty_until_ms(&self) -> u64 {
        if self.tokens > 0 { 0 } else { self.since_ms + REFILL_MS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use std::time::Duration;

    #[test]
    fn five_at_once_then_one_each_ten_seconds() {
        let clock = Clock::manual(1_000);
        let mut bucket = Bucket::new(clock.now());
        let mut taken = |seconds: u64| {
            clock.advance(Duration::from_secs(seconds));
            (0..10).filter(|_| bucket.take(clock.now())).count()
        };
        assert_eq!([taken(0), taken(9), taken(1), taken(25), taken(5), taken(3_600)], [5, 0, 1, 2, 1, 5]);
    }

    #[test]
    fn an_empty_bucket_says_when_it_is_not() {
        let clock = Clock::manual(1_000);
        let mut bucket = Bucket::new(clock.now());
        assert_eq!(bucket.empty_until_ms(), 0);
        while bucket.take(clock.now()) {}
        assert_eq!(bucket.empty_until_ms(), clock.now().monotonic_ms + REFILL_MS);
    }
}
