//! Which `kid`s were looked for at the issuer and not found: they cause no further fetch for a while.

use crate::base::clock::Now;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bounded memory of unknown `kid`s, without a lock.
///
/// Each `kid` has one slot, found by its hash; a later one with the same slot takes its place. A slot holds
/// another part of the hash (32 bits), until when the `kid` is not asked for again (28 bits, seconds of the
/// monotonic clock), and how often that was doubled (4 bits). The hash is keyed by a secret of the process, so
/// nobody can make the `kid` of a real key seem unknown.
#[derive(Debug)]
pub(super) struct UnknownKids {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

const SLOTS: usize = 4096;

/// A `kid` is asked for again after this; twice as long after each time that it was still unknown.
const FIRST_PAUSE_SECONDS: u64 = 5;

/// 5 s doubled four times is 80 s: a client that keeps an old token costs little, and a key that is published
/// after its first token is found within the periodic fetch or this.
const MAX_DOUBLED: u64 = 4;

/// A `kid` not asked for that long is new again.
const FORGOTTEN_AFTER_SECONDS: u64 = 300;

impl UnknownKids {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }

    /// Whether `kid` was unknown a short while ago.
    pub(super) fn contains(&self, kid: &str, now: Now) -> bool {
        let (slot, tag) = self.slot(kid);
        let value = slot.load(Ordering::Relaxed);
        value >> 32 == tag && seconds(now) < until(value)
    }

    /// Notes that a fetch just now did not bring `kid`.
    pub(super) fn insert(&self, kid: &str, now: Now) {
        let (slot, tag) = self.slot(kid);
        let known = slot.load(Ordering::Relaxed);
        let is_repeated =
            known >> 32 == tag && until(known) != 0 && seconds(now) < until(known) + FORGOTTEN_AFTER_SECONDS;
        // Many requests may report the same fetch; only what comes after the pause counts as once more.
        if is_repeated && seconds(now) < until(known) {
            return;
        }
        let doubled = if is_repeated { ((known & 0xf) + 1).min(MAX_DOUBLED) } else { 0 };
        let until = (seconds(now) + (FIRST_PAUSE_SECONDS << doubled)) & 0x0fff_ffff;
        slot.store(tag << 32 | until << 4 | doubled, Ordering::Relaxed);
    }

    fn slot(&self, kid: &str) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(kid);
        let at = usize::try_from(hash % SLOTS as u64).unwrap_or(0);
        (&self.slots[at], hash >> 32)
    }
}

fn until(value: u64) -> u64 {
    value >> 4 & 0x0fff_ffff
}

fn seconds(now: Now) -> u64 {
    now.monotonic_ms / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use std::time::Duration;

    #[test]
    fn an_unknown_kid_is_asked_for_ever_less_often() {
        let (clock, unknown) = (Clock::manual(1_000), UnknownKids::new());
        assert!(!unknown.contains("a", clock.now()));
        for pause in [5, 10, 20, 40, 80, 80] {
            unknown.insert("a", clock.now());
            unknown.insert("a", clock.now());
            clock.advance(Duration::from_secs(pause - 1));
            assert!(unknown.contains("a", clock.now()), "{pause}");
            clock.advance(Duration::from_secs(1));
            assert!(!unknown.contains("a", clock.now()), "{pause}");
        }
        clock.advance(Duration::from_secs(FORGOTTEN_AFTER_SECONDS));
        unknown.insert("a", clock.now());
        clock.advance(Duration::from_secs(FIRST_PAUSE_SECONDS));
        assert!(!unknown.contains("a", clock.now()));
    }

    #[test]
    fn a_million_kids_take_no_more_room_and_make_no_other_unknown() {
        let (clock, unknown) = (Clock::manual(1_000), UnknownKids::new());
        for n in 0..1_000_000 {
            unknown.insert(&format!("random-{n}"), clock.now());
        }
        assert_eq!(unknown.slots.len(), SLOTS);
        let wrong = (0..10_000).filter(|n| unknown.contains(&format!("real-{n}"), clock.now())).count();
        assert_eq!(wrong, 0);
    }
}
