//! What there may be at once to one upstream, of all workers together: the circuit breaker; and how often it is asked again: the
//! budget of retries. Neither takes a lock on a request that is within the limits.

use crate::config::{self, CircuitBreaker};
use crate::telemetry::upstreams::UpstreamMetrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What all namespaces and all workers of one upstream share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) metrics: UpstreamMetrics,
    /// None where nothing is limited.
    pub(super) breaker: Option<Arc<Breaker>>,
    /// None where nothing is sent again.
    pub(super) budget: Option<Budget>,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The keys of `circuit_breaker`.
pub enum Limit {
    MaxConnections,
    MaxPendingRequests,
    MaxRequests,
}

impl Limit {
    /// Its key in the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::MaxPendingRequests => "max_pending_requests",
            Self::MaxRequests => "max_requests",
        }
    }
}

/// What there is at once.
#[derive(Debug)]
pub(super) struct Breaker {
    limits: CircuitBreaker,
    requests: AtomicU32,
    pending: AtomicU32,
    /// A permit for each connection, in the order in which they are asked for.
    pub(super) connections: Option<Arc<Semaphore>>,
    metrics: UpstreamMetrics,
}

/// A request that waits for a connection.
#[derive(Debug)]
pub(super) struct Pending<'a>(&'a Breaker);

impl Shared {
    pub(super) fn new(config: &config::Upstream, metrics: UpstreamMetrics) -> Self {
        let limits = config.circuit_breaker;
        let is_limited = limits != CircuitBreaker::default();
        Self {
            breaker: is_limited.then(|| Arc::new(Breaker::new(limits, metrics.clone()))),
            budget: config.retry.as_ref().map(Budget::new),
            metrics,
        }
    }
}

impl Breaker {
    fn new(limits: CircuitBreaker, metrics: UpstreamMetrics) -> Self {
        let connections = limits.max_connections.map(|most| Arc::new(Semaphore::new(most as usize)));
        Self { limits, requests: AtomicU32::new(0), pending: AtomicU32::new(0), connections, metrics }
    }

    /// Counts a request that begins, until [`Breaker::leave`].
    pub(super) fn enter(&self) -> Result<(), Limit> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        if self.limits.max_requests.is_some_and(|most| before >= most) {
            self.leave();
            self.metrics.requests_overflows.inc();
            return Err(Limit::MaxRequests);
        }
        Ok(())
    }

    pub(super) fn leave(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a request that waits for a connection.
    pub(super) fn wait(&self) -> Result<Pending<'_>, Limit> {
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        let pending = Pending(self);
        if self.limits.max_pending_requests.is_some_and(|most| before >= most) {
            self.metrics.pending_overflows.inc();
            return Err(Limit::MaxPendingRequests);
        }
        Ok(pending)
    }

    /// Whether any worker's request waits for a connection.
    pub(super) fn is_waited_for(&self) -> bool {
        self.connections.is_some() && self.pending.load(Ordering::Relaxed) > 0
    }

    /// A request has waited in vain.
    pub(super) fn gave_up(&self) -> Limit {
        self.metrics.connections_overflows.inc();
        Limit::MaxConnections
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many requests may be sent again: a share of all, and some each second whatever their number.
///
/// The share is saved up, as far as [`SAVED`]; races between workers lose or add a retry, no more.
#[derive(Debug)]
pub(super) struct Budget {
    /// What each request adds.
    percent: i64,
    /// Hundredths of a retry.
    balance: AtomicI64,
    least: u32,
    born: Instant,
    /// A second, and how many retries of the least it has had.
    second: AtomicU64,
}

/// The most that is saved up, in hundredths: a hundred retries.
const SAVED: i64 = 10_000;

impl Budget {
    fn new(retry: &config::Retry) -> Self {
        Self {
            percent: i64::from(retry.budget_percent),
            balance: AtomicI64::new(0),
            least: retry.min_retries_per_second,
            born: Instant::now(),
            second: AtomicU64::new(0),
        }
    }

    /// A request is sent.
    pub(super) fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < SAVED {
            self.balance.fetch_add(self.percent, Ordering::Relaxed);
        }
    }

    /// Whether one may be sent again; counts it.
    pub(super) fn withdraw(&self) -> bool {
        if self.balance.fetch_sub(100, Ordering::Relaxed) >= 100 {
            return true;
        }
        self.balance.fetch_add(100, Ordering::Relaxed);
        let now = self.born.elapsed().as_secs() << 32;
        let used = |second: u64| if second >> 32 == now >> 32 { second & 0xffff_ffff } else { 0 };
        let next = |second| (used(second) < u64::from(self.least)).then(|| now | (used(second) + 1));
        self.second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// How long is waited before the `nth` retry goes where a try has failed, of which the caller takes a random part.
pub(super) fn backoff(nth: u32) -> Duration {
    Duration::from_millis(25).saturating_mul(1 << nth.min(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(budget_percent: u8, min_retries_per_second: u32) -> Budget {
        let (max_retries, statuses, per_try_timeout) = (2, Vec::new(), None);
        Budget::new(&config::Retry { max_retries, statuses, per_try_timeout, budget_percent, min_retries_per_second })
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_all_requests_may_be_sent_again() {
        let budget = budget(20, 0);
        assert!(!budget.withdraw());
        for _ in 0..100 {
            budget.deposit();
        }
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 20);
        // A quiet night does not pay for a storm in the morning.
        for _ in 0..1_000_000 {
            budget.deposit();
        }
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn some_may_be_each_second_whatever_the_share() {
        let budget = budget(0, 10);
        for _ in 0..3 {
            assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    #[test]
    fn what_is_over_a_limit_is_refused_and_leaves_no_trace() {
        let limits = CircuitBreaker { max_connections: Some(1), max_pending_requests: Some(1), max_requests: Some(2) };
        let breaker = Breaker::new(limits, UpstreamMetrics::default());
        for _ in 0..2 {
            assert_eq!((breaker.enter(), breaker.enter(), breaker.enter()), (Ok(()), Ok(()), Err(Limit::MaxRequests)));
            breaker.leave();
            breaker.leave();
            let first = breaker.wait().unwrap();
            assert_eq!(breaker.wait().unwrap_err(), Limit::MaxPendingRequests);
            assert!(breaker.is_waited_for());
            drop(first);
            assert!(!breaker.is_waited_for());
        }
    }
}
