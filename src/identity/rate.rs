//! How many calls there may be, and were, a second.

use std::time::Duration;
use tokio::time::Instant;

/// Calls that become available evenly.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Thousandths of a call in a second.
    rate: u32,
    /// Most thousandths at once.
    most: u64,
    level: u64,
    since: Instant,
}

/// A call in thousandths.
pub(super) const MILLI: u32 = 1000;

impl Bucket {
    pub(super) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let most = u64::from(burst) * u64::from(MILLI);
        Self { rate: rate.max(1), most, level: most, since: now }
    }

    /// Whether so many calls are there; else when they could be. More than it can hold are never there: then all it can hold will do.
    pub(super) fn has(&mut self, calls: u32, now: Instant) -> Result<(), Duration> {
        // In microseconds, so that a bucket that is looked at often is not cheated of fractions.
        let gained = now.duration_since(self.since).as_micros() * u128::from(self.rate) / 1_000_000;
        if gained > 0 {
            self.level = u64::try_from(gained).unwrap_or(u64::MAX).saturating_add(self.level).min(self.most);
            self.since = now;
        }
        let wanted = (u64::from(calls) * u64::from(MILLI)).min(self.most);
        if self.level >= wanted {
            return Ok(());
        }
        Err(Duration::from_millis((wanted - self.level) * 1000 / u64::from(self.rate) + 1))
    }

    pub(super) fn take(&mut self) {
        self.level = self.level.saturating_sub(u64::from(MILLI));
    }
}

/// Calls of the last ten seconds.
#[derive(Debug, Default)]
pub(super) struct Recent {
    slots: [u32; 10],
    start: Option<Instant>,
    second: u64,
}

impl Recent {
    fn turn(&mut self, now: Instant) {
        let second = now.duration_since(*self.start.get_or_insert(now)).as_secs();
        for passed in self.second + 1..=second.min(self.second + 10) {
            self.slots[usize::try_from(passed % 10).unwrap_or(0)] = 0;
        }
        self.second = second.max(self.second);
    }

    pub(super) fn count(&mut self, now: Instant) {
        self.turn(now);
        self.slots[usize::try_from(self.second % 10).unwrap_or(0)] += 1;
    }

    /// The average of a second, rounded up, of those that were.
    pub(super) fn a_second(&mut self, now: Instant) -> u64 {
        self.turn(now);
        let seconds = (self.second + 1).min(10);
        self.slots.iter().map(|count| u64::from(*count)).sum::<u64>().div_ceil(seconds)
    }
}
