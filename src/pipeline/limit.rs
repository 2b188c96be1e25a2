//! Stage 3: what one address may ask for before anybody knows who is asking.
//!
//! Two budgets an address: requests, off by default, and failed authentications. Both are counted exactly over all workers, in
//! a table in parts. A request pays for a look-up only where a limit of requests is configured, or while some address is
//! over its failures; else it pays for one load. An address of IPv6 is its network of 64 bits, which one customer has whole.

use super::Rejection;
use crate::base::budget::{Budget, network};
use crate::base::clock::Now;
use crate::config::{self, Rate};
use crate::telemetry::reason::Reason;
use std::net::IpAddr;
use std::sync::Arc;

/// The budgets of one configuration. A budget that stays the same outlives a reload.
#[derive(Debug)]
pub struct Limits {
    requests: Option<Limit>,
    failures: Option<Limit>,
}

#[derive(Debug, Clone)]
struct Limit {
    rate: Rate,
    /// By network.
    budget: Arc<Budget<IpAddr>>,
}

/// How many addresses a budget remembers.
const CAPACITY: usize = 100_000;

impl Limits {
    /// The budgets that `config` asks for; those that `former` has under the same rate go on.
    pub(super) fn new(config: &config::Limits, former: Option<&Self>) -> Self {
        let limit = |rate: Option<Rate>, former: Option<&Limit>| {
            let rate = rate?;
            let known = former.filter(|former| former.rate == rate).cloned();
            Some(known.unwrap_or_else(|| Limit::new(rate)))
        };
        Self {
            requests: limit(config.address, former.and_then(|former| former.requests.as_ref())),
            failures: limit(config.failed_authentications, former.and_then(|former| former.failures.as_ref())),
        }
    }

    /// Lets a request go on, or not; counts it.
    ///
    /// # Errors
    /// 429.
    pub(super) fn admit(&self, client: IpAddr, now: Now) -> Result<(), Rejection> {
        match &self.requests {
            Some(requests) if !requests.budget.take(network(client), now) => {
                Err(requests.refused(Reason::TooManyRequests, client, now))
            }
            _ => Ok(()),
        }
    }

    /// Whether the address may show no further token but one that was verified before: that one costs a look-up, and its holder
    /// must not pay for a neighbour who floods, or for a proxy that is not named in `trusted_proxies`.
    pub(super) fn is_over_failures(&self, client: IpAddr, now: Now) -> bool {
        self.failures.as_ref().is_some_and(|failures| failures.budget.is_over(network(client), now))
    }

    /// The refusal of an address that is over its failures.
    pub(super) fn over_failures(&self, client: IpAddr, now: Now) -> Rejection {
        let reason = Reason::TooManyFailedAuthentications;
        self.failures.as_ref().map_or(reason.into(), |failures| failures.refused(reason, client, now))
    }

    /// Counts a refusal, if it is a failed authentication.
    pub(super) fn refused(&self, client: IpAddr, reason: Reason, now: Now) {
        if let Some(failures) = &self.failures
            && is_failed_authentication(reason)
        {
            // Whether there was room is for the next request.
            let _ = failures.budget.take(network(client), now);
        }
    }

    /// Requests that one address may make.
    pub fn requests(&self) -> Option<Rate> {
        self.requests.as_ref().map(|limit| limit.rate)
    }

    /// Failed authentications that one address may have.
    pub fn failures(&self) -> Option<Rate> {
        self.failures.as_ref().map(|limit| limit.rate)
    }
}

impl Limit {
    fn new(rate: Rate) -> Self {
        Self { rate, budget: Arc::new(Budget::new(rate.burst, rate.interval(), CAPACITY)) }
    }

    fn refused(&self, reason: Reason, client: IpAddr, now: Now) -> Rejection {
        Rejection::too_many(reason, self.budget.wait(network(client), now).unwrap_or_default())
    }
}

/// What shows that the caller has no token for us. One that expired, or whose user is inactive, is genuine: a client that
/// repeats it costs a look-up, and must not shut out its neighbours. Why each is what it is: `docs/decisions.md`.
fn is_failed_authentication(reason: Reason) -> bool {
    matches!(reason, Reason::MalformedAuthorization | Reason::InvalidToken | Reason::WrongAudience)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use std::time::Duration;

    fn nth(n: u32) -> IpAddr {
        IpAddr::from((10 << 24 | n).to_be_bytes())
    }

    fn limits(address: Option<Rate>, failed_authentications: Option<Rate>) -> Limits {
        Limits::new(&config::Limits { address, failed_authentications }, None)
    }

    const TEN: Rate = Rate { rate: 10, per: Duration::from_secs(1), burst: 3 };

    /// The reason to refuse a request.
    fn asked(limits: &Limits, now: Now) -> Result<(), Reason> {
        limits.admit(nth(1), now).map_err(|refused| refused.reason)
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
            assert_eq!((asked(&limits, now), limits.is_over_failures(nth(1), now)), (Ok(()), false));
        }
    }

    #[test]
    fn a_budget_goes_on_through_a_reload_that_leaves_it_alone() {
        let config = config::Limits { address: Some(TEN), failed_authentications: Some(TEN) };
        let (former, now) = (Limits::new(&config, None), Clock::manual(1).now());
        for _ in 0..3 {
            assert_eq!(asked(&former, now), Ok(()));
        }
        let same = Limits::new(&config, Some(&former));
        assert_eq!(asked(&same, now), Err(Reason::TooManyRequests));
        let config = config::Limits { address: Some(Rate { rate: 20, ..TEN }), ..config };
        assert_eq!(asked(&Limits::new(&config, Some(&former)), now), Ok(()));
    }
}
