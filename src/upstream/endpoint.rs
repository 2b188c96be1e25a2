//! One endpoint of an upstream: where it is, and how it is. Shared by all workers; what is known about it is in atomics.

use crate::config::OutlierDetection;
use http::HeaderValue;
use rustls::pki_types::ServerName;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Where connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// An address, of the file or of a name that has several.
    Socket(SocketAddr),
    /// A name that is looked up for each connection, whose addresses are tried in turn.
    Name { host: String, port: u16 },
    /// A socket in the file system.
    Unix(PathBuf),
}

/// One of those among which requests are spread.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Which member of `to` it comes from.
    pub(super) target: usize,
    pub(super) address: Address,
    /// `Host` of requests to it.
    pub(super) host: HeaderValue,
    /// The name to verify, over TLS.
    pub(super) server_name: Option<ServerName<'static>>,
    pub(super) health: Health,
}

/// How an endpoint is. Times are milliseconds since `born`; 0 is never.
#[derive(Debug)]
pub(super) struct Health {
    born: Instant,
    /// Failed requests in a row.
    failures: AtomicU32,
    /// How often in a row it was ejected.
    ejections: AtomicU32,
    ejected_until: AtomicU64,
    /// What checks say.
    is_unhealthy: AtomicBool,
    /// Checks in a row that say otherwise.
    checks: AtomicU32,
    /// When checks brought it back, or when it joined others.
    up_since: AtomicU64,
}

/// What is so of an endpoint at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It gets requests.
    Healthy,
    /// It failed requests, and is left out for a time.
    Ejected,
    /// It failed its checks.
    Unhealthy,
}

impl State {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Ejected, Self::Unhealthy];

    /// The state in a metric.
    pub fn code(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The whole of a share of requests.
pub(super) const FULL: u32 = 1024;

impl Health {
    /// `is_late`: others have been at work before it.
    pub(super) fn new(is_late: bool) -> Self {
        Self {
            born: Instant::now(),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            is_unhealthy: AtomicBool::new(false),
            checks: AtomicU32::new(0),
            up_since: AtomicU64::new(u64::from(is_late)),
        }
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }

    /// What is so now.
    pub(super) fn state(&self, now: Instant) -> State {
        if self.is_unhealthy.load(Ordering::Relaxed) {
            return State::Unhealthy;
        }
        match self.ejected_until.load(Ordering::Relaxed) {
            0 => State::Healthy,
            until if self.at(now) >= until => State::Healthy,
            _ => State::Ejected,
        }
    }

    /// The part of its share, of [`FULL`], that an endpoint gets which is back since less than `slow_start`; never less than a tenth.
    pub(super) fn weight(&self, now: Instant, slow_start: Duration) -> u32 {
        let since = self.up_since.load(Ordering::Relaxed).max(self.ejected_until.load(Ordering::Relaxed));
        if slow_start.is_zero() || since == 0 {
            return FULL;
        }
        let length = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX).max(1);
        let weight = self.at(now).saturating_sub(since).saturating_mul(u64::from(FULL)) / length;
        u32::try_from(weight).unwrap_or(FULL).clamp(FULL / 10, FULL)
    }

    /// A request was answered as it should be.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed. True if the endpoint is to be ejected for it.
    pub(super) fn failed(&self, detection: &OutlierDetection) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= detection.consecutive_failures
    }

    /// Leaves the endpoint out; gives for how long. Whoever calls this holds the lock of the set.
    pub(super) fn eject(&self, detection: &OutlierDetection, now: Instant) -> Duration {
        let (at, until) = (self.at(now), self.ejected_until.load(Ordering::Relaxed));
        // One that was well for as long as it could have been out begins anew.
        let was_well = at.saturating_sub(until) > u64::try_from(detection.max_ejection_time.as_millis()).unwrap_or(0);
        let row = if was_well { 1 } else { self.ejections.load(Ordering::Relaxed).saturating_add(1) };
        let time = detection.base_ejection_time.saturating_mul(row).min(detection.max_ejection_time);
        self.ejections.store(row, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        let until = at.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.ejected_until.store(until, Ordering::Relaxed);
        time
    }

    /// Takes the outcome of a check; gives the new state if it changed.
    pub(super) fn checked(&self, is_good: bool, healthy: u32, unhealthy: u32) -> Option<State> {
        let was_good = !self.is_unhealthy.load(Ordering::Relaxed);
        if is_good == was_good {
            self.checks.store(0, Ordering::Relaxed);
            return None;
        }
        if self.checks.fetch_add(1, Ordering::Relaxed) + 1 < if is_good { healthy } else { unhealthy } {
            return None;
        }
        self.checks.store(0, Ordering::Relaxed);
        if is_good {
            // What it failed before it was out is no longer held against it.
            self.failures.store(0, Ordering::Relaxed);
            self.up_since.store(self.at(Instant::now()).max(1), Ordering::Relaxed);
        }
        self.is_unhealthy.store(!is_good, Ordering::Relaxed);
        Some(if is_good { State::Healthy } else { State::Unhealthy })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETECTION: OutlierDetection = OutlierDetection {
        consecutive_failures: 3,
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(80),
        max_ejection_percent: 50,
    };

    #[tokio::test(start_paused = true)]
    async fn the_time_out_grows_with_each_ejection_up_to_its_limit_and_is_forgotten_after_a_good_while() {
        let health = Health::new(false);
        let mut times = Vec::new();
        for _ in 0..4 {
            let time = health.eject(&DETECTION, Instant::now());
            assert_eq!(health.state(Instant::now()), State::Ejected);
            tokio::time::sleep(time).await;
            assert_eq!(health.state(Instant::now()), State::Healthy);
            times.push(time.as_secs());
        }
        assert_eq!(times, [30, 60, 80, 80]);
        tokio::time::sleep(Duration::from_secs(81)).await;
        assert_eq!(health.eject(&DETECTION, Instant::now()).as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_in_a_row_count() {
        let health = Health::new(false);
        assert!(!health.failed(&DETECTION) && !health.failed(&DETECTION));
        health.succeeded();
        assert!(!health.failed(&DETECTION) && !health.failed(&DETECTION) && health.failed(&DETECTION));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_back_gets_its_share_little_by_little() {
        let (health, slow_start) = (Health::new(false), Duration::from_secs(10));
        assert_eq!(health.weight(Instant::now(), slow_start), FULL, "it was never out");
        let time = health.eject(&DETECTION, Instant::now());
        tokio::time::sleep(time).await;
        assert_eq!(health.weight(Instant::now(), slow_start), FULL / 10);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(health.weight(Instant::now(), slow_start), FULL / 2);
        assert_eq!(health.weight(Instant::now(), Duration::ZERO), FULL);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(health.weight(Instant::now(), slow_start), FULL);
    }

    #[tokio::test(start_paused = true)]
    async fn checks_change_the_state_only_if_as_many_in_a_row_say_so() {
        let health = Health::new(false);
        let checked = |is_good| health.checked(is_good, 2, 3);
        for is_good in [false, false, true, false, false] {
            assert_eq!(checked(is_good), None);
        }
        assert_eq!(checked(false), Some(State::Unhealthy));
        assert_eq!([checked(true), checked(false), checked(true)], [None; 3]);
        assert_eq!(checked(true), Some(State::Healthy));
    }
}
