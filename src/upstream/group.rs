//! The endpoints of one upstream as one worker sees them, and which of them a request goes to.

use crate::upstream::Upstream;
use crate::upstream::endpoint::{FULL, State};
use crate::upstream::endpoints::most_ejected;
use crate::upstream::pool::Pool;
use crate::upstream::pools::Worker;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The pools of one upstream, one for each endpoint. Replaced when the endpoints change.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) version: u64,
    /// There is one endpoint, and nothing to choose, to count or to try again.
    pub(super) is_plain: bool,
    pub(super) pools: Vec<Rc<Pool>>,
    slow_start: Duration,
}

/// Endpoints that a request was sent to, by their place; those beyond the 64th are not remembered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tried(u64);

impl Tried {
    pub(super) fn add(&mut self, index: usize) {
        self.0 |= Self::bit(index);
    }

    pub(super) fn has(self, index: usize) -> bool {
        self.0 & Self::bit(index) != 0
    }

    fn bit(index: usize) -> u64 {
        u32::try_from(index).ok().and_then(|index| 1_u64.checked_shl(index)).unwrap_or(0)
    }
}

impl Group {
    /// `former`: what there was before the endpoints changed, whose connections stay in use.
    pub(super) fn new(upstream: &Upstream, worker: &Rc<Worker>, former: Option<&Self>) -> Self {
        // In this order: endpoints that change meanwhile are seen the next time.
        let version = upstream.endpoints.version();
        let current = upstream.endpoints.current();
        let known = former.map(|former| former.pools.as_slice()).unwrap_or_default();
        let pools: Vec<_> = current
            .iter()
            .map(|endpoint| match known.iter().find(|known| Arc::ptr_eq(&known.endpoint, endpoint)) {
                Some(known) => Rc::clone(known),
                None => Rc::new(Pool::new(upstream, Arc::clone(endpoint), worker)),
            })
            .collect();
        let config = &*upstream.config;
        let ejects = config.outlier_detection.as_ref().is_some_and(|found| most_ejected(pools.len(), found) > 0);
        let is_watched = ejects || config.health_check.is_some();
        let is_plain = pools.len() == 1 && !is_watched && config.retry.is_none() && upstream.shared.breaker.is_none();
        Self { version, is_plain, pools, slow_start: config.slow_start }
    }

    /// The less loaded of two healthy endpoints that are chosen at random, none of those that were tried; `None` if there is none left.
    pub(super) fn pick(&self, worker: &Worker, tried: Tried) -> Option<usize> {
        let now = worker.now();
        let is_usable = |index: usize| {
            !tried.has(index) && self.pools.get(index).is_some_and(|p| p.endpoint.health.state(now) == State::Healthy)
        };
        let (one, other) = two_of(self.pools.len(), worker);
        if is_usable(one) && is_usable(other) {
            return Some(self.better(one, other, worker, now));
        }
        let usable = || (0..self.pools.len()).filter(|index| is_usable(*index));
        let (one, other) = two_of(usable().count(), worker);
        let one = usable().nth(one)?;
        Some(usable().nth(other).map_or(one, |other| self.better(one, other, worker, now)))
    }

    /// One that is only back since a moment takes part by chance.
    fn better(&self, one: usize, other: usize, worker: &Worker, now: Instant) -> usize {
        let takes_part = |index: usize| {
            let weight = self.pools[index].endpoint.health.weight(now, self.slow_start);
            weight >= FULL || worker.random() % u64::from(FULL) < u64::from(weight)
        };
        if !self.slow_start.is_zero() {
            match (takes_part(one), takes_part(other)) {
                (true, false) => return one,
                (false, true) => return other,
                _ => {}
            }
        }
        if self.pools[other].active() < self.pools[one].active() { other } else { one }
    }

    /// Whether anything is going on or open.
    pub(super) fn is_used(&self) -> bool {
        self.pools.iter().any(|pool| Rc::strong_count(pool) > 1 || pool.is_open())
    }
}

/// Two different numbers below `count` in random order, or twice the same if there is but one.
fn two_of(count: usize, worker: &Worker) -> (usize, usize) {
    let random = worker.random();
    let below = |random: u64, count: usize| usize::try_from(((random & 0xffff_ffff) * count as u64) >> 32).unwrap_or(0);
    let (one, other) = (below(random, count), below(random >> 32, count.saturating_sub(1)));
    (one, if other >= one && count > 1 { other + 1 } else { other })
}
