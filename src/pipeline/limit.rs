//! Stage 3: what one address may ask for before anybody knows who is asking.
//!
//! Two budgets an address: requests, off by default, and failed authentications. Both are counted exactly over all workers, in
//! a table in parts. A request pays for a look-up only where a limit of requests is configured, or while some address is
//! over its failures; else it pays for one load. An address of IPv6 is its network of 64 bits, which one customer has whole.

use crate::base::clock::Now;
use crate::base::sharded::{SHARDS, Sharded};
use crate::config::{self, Rate};
use crate::telemetry::reason::Reason;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The budgets of one configuration. A budget that stays the same outlives a reload.
#[derive(Debug)]
pub struct Limits {
    requests: Option<Arc<Budget>>,
    failures: Option<Arc<Budget>>,
}

/// How many addresses a budget remembers. At 32 bytes each in tables that may be half empty: up to 7 MB.
const CAPACITY: usize = 100_000;

impl Limits {
    /// The budgets that `config` asks for; those that `former` has under the same rate go on.
    pub(super) fn new(config: &config::Limits, former: Option<&Self>) -> Self {
        let budget = |rate: Option<Rate>, former: Option<&Arc<Budget>>| {
            let rate = rate?;
            let known = former.filter(|former| former.rate == rate).cloned();
            Some(known.unwrap_or_else(|| Arc::new(Budget::new(rate, CAPACITY))))
        };
        Self {
            requests: budget(config.address, former.and_then(|former| former.requests.as_ref())),
            failures: budget(config.failed_authentications, former.and_then(|former| former.failures.as_ref())),
        }
    }

    /// Lets a request go on, or not; counts it.
    ///
    /// # Errors
    /// The reason to answer 429.
    pub(super) fn admit(&self, client: IpAddr, now: Now) -> Result<(), Reason> {
        match &self.requests {
            Some(requests) if !requests.take(client, now) => Err(Reason::TooManyRequests),
            _ => Ok(()),
        }
    }

    /// Whether the address may show no further token but one that was verified before: that one costs a look-up, and its holder
    /// must not pay for a neighbour who floods, or for a proxy that is not named in `trusted_proxies`.
    pub(super) fn is_over_failures(&self, client: IpAddr, now: Now) -> bool {
        self.failures.as_ref().is_some_and(|failures| failures.is_over(client, now))
    }

    /// Counts a refusal, if it is a failed authentication.
    pub(super) fn refused(&self, client: IpAddr, reason: Reason, now: Now) {
        if let Some(failures) = &self.failures
            && is_failed_authentication(reason)
        {
            // Whether there was room is for the next request.
            let _ = failures.take(client, now);
        }
    }

    /// Requests that one address may make.
    pub fn requests(&self) -> Option<Rate> {
        self.requests.as_ref().map(|budget| budget.rate)
    }

    /// Failed authentications that one address may have.
    pub fn failures(&self) -> Option<Rate> {
        self.failures.as_ref().map(|budget| budget.rate)
    }
}

/// What shows that the caller has no token for us. One that expired, or whose user is inactive, is genuine: a client that
/// repeats it costs a look-up, and must not shut out its neighbours. Why each is what it is: `docs/decisions.md`.
fn is_failed_authentication(reason: Reason) -> bool {
    matches!(reason, Reason::MalformedAuthorization | Reason::InvalidToken | Reason::WrongAudience)
}

/// Counts by address (the generic cell rate algorithm: one number each, and no upkeep).
#[derive(Debug)]
struct Budget {
    rate: Rate,
    /// The time that one unit takes to come back.
    interval_ns: u64,
    /// By network: when its budget will be whole again.
    whole_at_ns: Sharded<IpAddr, u64>,
    hasher: RandomState,
    capacity: usize,
    /// Until then some address may be over its budget; a later moment needs no look-up.
    over_until_ns: AtomicU64,
}

impl Budget {
    fn new(rate: Rate, capacity: usize) -> Self {
        Self {
            rate,
            interval_ns: 1_000_000_000_u64.div_ceil(u64::from(rate.per_second).max(1)),
            whole_at_ns: Sharded::default(),
            hasher: RandomState::new(),
            capacity: capacity.max(SHARDS),
            over_until_ns: AtomicU64::new(0),
        }
    }

    /// How far ahead of now a budget's end can lie and leave room for one more.
    fn room_ns(&self) -> u64 {
        self.interval_ns * u64::from(self.rate.burst.saturating_sub(1))
    }

    /// Takes one unit. False if there was none: then nothing is taken.
    fn take(&self, client: IpAddr, now: Now) -> bool {
        let now_ns = now.monotonic_us * 1000;
        let network = network(client);
        let mut shard = self.whole_at_ns.shard(self.hasher.hash_one(network));
        let known = shard.get(&network).copied();
        let start = known.unwrap_or(0).max(now_ns);
        if start > now_ns + self.room_ns() {
            return false;
        }
        let whole_at = start + self.interval_ns;
        if known.is_none() && shard.len() >= self.capacity / SHARDS {
            self.make_room(&mut shard, now_ns);
            if shard.len() >= self.capacity / SHARDS {
                // All of them are over their budgets; whoever is new is not.
                return true;
            }
        }
        shard.insert(network, whole_at);
        if whole_at > now_ns + self.room_ns() {
            self.over_until_ns.fetch_max(whole_at - self.room_ns(), Ordering::Relaxed);
        }
        true
    }

    /// Whether nothing is left.
    fn is_over(&self, client: IpAddr, now: Now) -> bool {
        let now_ns = now.monotonic_us * 1000;
        if now_ns >= self.over_until_ns.load(Ordering::Relaxed) {
            return false;
        }
        let network = network(client);
        let whole_at = self.whole_at_ns.shard(self.hasher.hash_one(network)).get(&network).copied();
        whole_at.is_some_and(|whole_at| whole_at > now_ns + self.room_ns())
    }

    /// Forgets who has a whole budget again; where that is not enough, the eighth that is nearest to it. Never who has none left.
    fn make_room(&self, shard: &mut std::collections::HashMap<IpAddr, u64>, now_ns: u64) {
        shard.retain(|_, whole_at| *whole_at > now_ns);
        let most = self.capacity / SHARDS;
        if shard.len() <= most - most.div_ceil(8) {
            return;
        }
        let mut times: Vec<u64> = shard.values().copied().collect();
        let (_, limit, _) = times.select_nth_unstable(most.div_ceil(8) - 1);
        let limit = (*limit).min(now_ns + self.room_ns());
        shard.retain(|_, whole_at| *whole_at > limit);
    }
}

/// Whom an address stands for.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use std::time::Duration;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nth(n: u32) -> IpAddr {
        IpAddr::from((10 << 24 | n).to_be_bytes())
    }

    fn limits(address: Option<Rate>, failed_authentications: Option<Rate>) -> Limits {
        Limits::new(&config::Limits { address, failed_authentications }, None)
    }

    const TEN: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (budget, clock) = (Budget::new(TEN, 1000), Clock::manual(1));
        let taken = |times: u32| (0..times).filter(|_| budget.take(nth(1), clock.now())).count();
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
        let (budget, clock) = (Budget::new(Rate { per_second: 7, burst: 1 }, 1000), Clock::manual(1));
        let mut taken = 0;
        for _ in 0..100_000 {
            taken += u32::from(budget.take(nth(1), clock.now()));
            clock.advance(Duration::from_millis(1));
        }
        // The clock's step of one millisecond costs half of one on average, of 143.
        assert!((690..=701).contains(&taken), "{taken}");
    }

    #[test]
    fn threads_together_pass_what_one_would() {
        let budget = Budget::new(Rate { per_second: 1, burst: 500 }, 1000);
        let now = Clock::manual(1).now();
        let take = || (0..1000).filter(|_| budget.take(nth(1), now)).count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 500);
    }

    #[test]
    fn one_network_is_one_caller() {
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
    fn failures_beyond_the_budget_are_refused_until_one_came_back() {
        let (limits, clock) = (limits(None, Some(TEN)), Clock::manual(1));
        let is_over = |client| limits.is_over_failures(client, clock.now());
        for _ in 0..3 {
            assert!(!is_over(nth(1)));
            limits.refused(nth(1), Reason::InvalidToken, clock.now());
        }
        assert!(is_over(nth(1)) && !is_over(nth(2)));
        // What was on its way before is not held against the address for longer.
        for _ in 0..1000 {
            limits.refused(nth(1), Reason::InvalidToken, clock.now());
        }
        clock.advance(Duration::from_millis(99));
        assert!(is_over(nth(1)));
        clock.advance(Duration::from_millis(1));
        assert!(!is_over(nth(1)));
    }

    #[test]
    fn only_who_shows_no_genuine_token_fails() {
        let counted: Vec<_> = Reason::ALL.iter().filter(|reason| is_failed_authentication(**reason)).collect();
        assert_eq!(counted, [&Reason::MalformedAuthorization, &Reason::InvalidToken, &Reason::WrongAudience]);
    }

    #[test]
    fn nobody_is_limited_without_a_limit() {
        let (limits, now) = (limits(None, None), Clock::manual(1).now());
        for _ in 0..10_000 {
            limits.refused(nth(1), Reason::InvalidToken, now);
            assert_eq!((limits.admit(nth(1), now), limits.is_over_failures(nth(1), now)), (Ok(()), false));
        }
    }

    #[test]
    fn no_more_addresses_are_remembered_than_fit_and_none_that_is_over_is_forgotten() {
        let (budget, clock) = (Budget::new(Rate { per_second: 1, burst: 2 }, 1000), Clock::manual(1));
        let over = [nth(1), nth(2), nth(3)];
        for client in over {
            assert!(budget.take(client, clock.now()) && budget.take(client, clock.now()));
        }
        for n in 100..100_000 {
            assert!(budget.take(nth(n), clock.now()));
        }
        let held: usize = budget.whole_at_ns.shards().map(|shard| shard.len()).sum();
        assert!((100..=1000).contains(&held), "{held}");
        for client in over {
            assert!(budget.is_over(client, clock.now()));
        }
    }

    #[test]
    fn a_budget_goes_on_through_a_reload_that_leaves_it_alone() {
        let config = config::Limits { address: Some(TEN), failed_authentications: Some(TEN) };
        let (former, now) = (Limits::new(&config, None), Clock::manual(1).now());
        for _ in 0..3 {
            assert_eq!(former.admit(nth(1), now), Ok(()));
        }
        let same = Limits::new(&config, Some(&former));
        assert_eq!(same.admit(nth(1), now), Err(Reason::TooManyRequests));
        let config = config::Limits { address: Some(Rate { per_second: 20, ..TEN }), ..config };
        assert_eq!(Limits::new(&config, Some(&former)).admit(nth(1), now), Ok(()));
    }
}
