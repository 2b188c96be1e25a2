//! How often something may happen, counted by key: the generic cell rate algorithm, which keeps one number a key and needs no upkeep.
//!
//! A budget of `burst` units is whole at first. Each unit that is taken comes back after one interval. Shared by all workers, in a table in
//! parts; exact, and bounded in memory.

use super::clock::Now;
use super::sharded::{SHARDS, Sharded};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many units there can be, and how fast they come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pace {
    /// The time that one unit takes to come back.
    interval_ns: u64,
    /// How far ahead of now a budget's end can lie and leave room for one more.
    room_ns: u64,
}

impl Pace {
    /// So many units, one of which comes back each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX / 2).max(1);
        Self { interval_ns, room_ns: interval_ns.saturating_mul(u64::from(burst.saturating_sub(1))) }
    }

    /// The time that one unit takes to come back.
    pub(super) fn interval_ns(self) -> u64 {
        self.interval_ns
    }

    /// The time that all units take to come back.
    pub(super) fn whole_ns(self) -> u64 {
        self.room_ns.saturating_add(self.interval_ns)
    }

    /// Takes one unit of a budget that is whole at that time: when it will be whole then.
    ///
    /// # Errors
    /// There is none; so many nanoseconds are to be waited for it.
    pub(super) fn take(self, whole_at_ns: u64, now_ns: u64) -> Result<u64, u64> {
        let start = whole_at_ns.max(now_ns);
        match start.saturating_sub(now_ns.saturating_add(self.room_ns)) {
            0 => Ok(start.saturating_add(self.interval_ns)),
            wait_ns => Err(wait_ns),
        }
    }
}

/// Budgets of many keys.
#[derive(Debug)]
pub struct Budget<K> {
    pace: Pace,
    /// By key: when its budget will be whole again.
    whole_at_ns: Sharded<K, u64>,
    hasher: RandomState,
    capacity: usize,
    /// Until then some key may be over its budget; a later moment needs no look-up.
    over_until_ns: AtomicU64,
}

impl<K: Copy + Eq + Hash> Budget<K> {
    /// So many units, one of which comes back each `interval`; at most so many keys are remembered. At 32 bytes each in tables that
    /// may be half empty, 100,000 addresses take up to 7 MB.
    pub fn new(burst: u32, interval: Duration, capacity: usize) -> Self {
        Self {
            pace: Pace::new(burst, interval),
            whole_at_ns: Sharded::default(),
            hasher: RandomState::new(),
            capacity: capacity.max(SHARDS),
            over_until_ns: AtomicU64::new(0),
        }
    }

    /// Takes one unit. False if there was none: then nothing is taken.
    pub fn take(&self, key: K, now: Now) -> bool {
        let now_ns = now.monotonic_us * 1000;
        let mut shard = self.whole_at_ns.shard(self.hasher.hash_one(key));
        let known = shard.get(&key).copied();
        let Ok(whole_at) = self.pace.take(known.unwrap_or(0), now_ns) else { return false };
        if known.is_none() && shard.len() >= self.capacity / SHARDS {
            self.make_room(&mut shard, now_ns);
            if shard.len() >= self.capacity / SHARDS {
                // All of them are over their budgets; whoever is new is not.
                return true;
            }
        }
        shard.insert(key, whole_at);
        if let Err(wait_ns) = self.pace.take(whole_at, now_ns) {
            self.over_until_ns.fetch_max(now_ns.saturating_add(wait_ns), Ordering::Relaxed);
        }
        true
    }

    /// Gives back one unit that was taken.
    pub fn give_back(&self, key: K, now: Now) {
        let now_ns = now.monotonic_us * 1000;
        let mut shard = self.whole_at_ns.shard(self.hasher.hash_one(key));
        // One that was forgotten meanwhile is whole already.
        let Some(whole_at) = shard.get_mut(&key) else { return };
        *whole_at = whole_at.saturating_sub(self.pace.interval_ns);
        if *whole_at <= now_ns {
            shard.remove(&key);
        }
    }

    /// Whether nothing is left.
    pub fn is_over(&self, key: K, now: Now) -> bool {
        self.wait(key, now).is_some()
    }

    /// How long it takes until something is left; nothing if something is.
    pub fn wait(&self, key: K, now: Now) -> Option<Duration> {
        let now_ns = now.monotonic_us * 1000;
        if now_ns >= self.over_until_ns.load(Ordering::Relaxed) {
            return None;
        }
        let whole_at = self.whole_at_ns.shard(self.hasher.hash_one(key)).get(&key).copied()?;
        self.pace.take(whole_at, now_ns).err().map(Duration::from_nanos)
    }

    /// Forgets who has a whole budget again; where that is not enough, the eighth that is nearest to it. Never who has none left.
    fn make_room(&self, shard: &mut HashMap<K, u64>, now_ns: u64) {
        shard.retain(|_, whole_at| *whole_at > now_ns);
        let most = self.capacity / SHARDS;
        if shard.len() <= most - most.div_ceil(8) {
            return;
        }
        let mut times: Vec<u64> = shard.values().copied().collect();
        let (_, limit, _) = times.select_nth_unstable(most.div_ceil(8) - 1);
        let limit = (*limit).min(now_ns.saturating_add(self.pace.room_ns));
        shard.retain(|_, whole_at| *whole_at > limit);
    }
}

/// Whom an address stands for: itself, or for IPv6 its network of 64 bits, which one customer has whole.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    /// Three at once, ten a second.
    fn three() -> Budget<u32> {
        Budget::new(3, Duration::from_millis(100), 1000)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (budget, clock) = (three(), Clock::manual(1));
        let taken = |times: u32| (0..times).filter(|_| budget.take(1, clock.now())).count();
        assert_eq!(taken(10), 3);
        clock.advance(Duration::from_millis(99));
        assert_eq!(taken(10), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(taken(10), 1);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(taken(10), 3);
    }

    #[test]
    fn in_the_long_run_the_rate_is_what_passes() {
        let (budget, clock) = (Budget::new(1, Duration::from_nanos(142_857_143), 1000), Clock::manual(1));
        let mut taken = 0;
        for _ in 0..100_000 {
            taken += u32::from(budget.take(1, clock.now()));
            clock.advance(Duration::from_millis(1));
        }
        // The clock's step of one millisecond costs half of one on average, of 143.
        assert!((690..=701).contains(&taken), "{taken}");
    }

    #[test]
    fn threads_together_pass_what_one_would() {
        let budget = Budget::new(500, Duration::from_secs(1), 1000);
        let now = Clock::manual(1).now();
        let take = || (0..1000).filter(|_| budget.take(1, now)).count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 500);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (budget, now) = (three(), Clock::manual(1).now());
        for _ in 0..100 {
            assert!(budget.take(1, now));
            budget.give_back(1, now);
        }
        assert_eq!((0..10).filter(|_| budget.take(1, now)).count(), 3);
        budget.give_back(1, now);
        assert!(!budget.is_over(1, now) && budget.take(1, now) && !budget.take(1, now));
        // Nothing is owed to who took nothing.
        budget.give_back(2, now);
        assert_eq!((0..10).filter(|_| budget.take(2, now)).count(), 3);
    }

    #[test]
    fn the_wait_is_until_one_came_back() {
        let (budget, clock) = (three(), Clock::manual(1));
        assert!((0..3).all(|_| budget.take(1, clock.now())));
        assert_eq!(budget.wait(1, clock.now()), Some(Duration::from_millis(100)));
        assert_eq!(budget.wait(2, clock.now()), None);
        clock.advance(Duration::from_millis(60));
        assert_eq!(budget.wait(1, clock.now()), Some(Duration::from_millis(40)));
        clock.advance(Duration::from_millis(40));
        assert_eq!(budget.wait(1, clock.now()), None);
        assert!(budget.take(1, clock.now()));
    }

    #[test]
    fn one_network_is_one_caller() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (one, other, is_same) in [
            ("2001:db8::1", "2001:db8:0:0:ffff::2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("10.0.0.1", "10.0.0.2", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
        ] {
            assert_eq!(network(address(one)) == network(address(other)), is_same, "{one} {other}");
        }
    }

    #[test]
    fn no_more_keys_are_remembered_than_fit_and_none_that_is_over_is_forgotten() {
        let (budget, clock) = (Budget::new(2, Duration::from_secs(1), 1000), Clock::manual(1));
        let over = [1, 2, 3];
        for key in over {
            assert!(budget.take(key, clock.now()) && budget.take(key, clock.now()));
        }
        for key in 100..100_000 {
            assert!(budget.take(key, clock.now()));
        }
        let held: usize = budget.whole_at_ns.shards().map(|shard| shard.len()).sum();
        assert!((100..=1000).contains(&held), "{held}");
        for key in over {
            assert!(budget.is_over(key, clock.now()));
        }
    }
}
