//! Time: the wall clock for what tokens say, a monotonic one for how long ago something was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clock that every check of time reads. A test holds one that stands still until moved.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System { start: Instant },
    Manual { unix_ms: Arc<AtomicU64>, monotonic_ms: Arc<AtomicU64> },
    Runtime { start: tokio::time::Instant, unix_ms: u64 },
}

/// One reading of both clocks, taken together at the start of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970-01-01T00:00:00Z; what `exp`, `nbf` and `iat` are held against.
    pub unix_ms: u64,
    /// Milliseconds on a clock that never steps back; what ages and bounds are measured with.
    pub monotonic_ms: u64,
    /// The same clock in microseconds, for how long things took.
    pub monotonic_us: u64,
}

impl Now {
    /// Whole seconds since 1970, the unit of a JWT's `NumericDate` (RFC 7519 §2).
    pub fn unix_seconds(self) -> i64 {
        i64::try_from(self.unix_ms / 1000).unwrap_or(i64::MAX)
    }
}

impl Clock {
    /// The machine's own clocks.
    pub fn system() -> Self {
        Self(Source::System { start: Instant::now() })
    }

    /// A clock that stands at `unix_seconds` until [`Clock::advance`] moves it.
    pub fn manual(unix_seconds: u64) -> Self {
        Self(Source::Manual {
            unix_ms: Arc::new(AtomicU64::new(unix_seconds * 1000)),
            monotonic_ms: Arc::new(AtomicU64::new(1)),
        })
    }

    /// A clock that begins at `unix_seconds` and goes as the timers of the tokio runtime do, which a test can pause: then what
    /// sleeps and what reads the time agree.
    pub fn of_runtime(unix_seconds: u64) -> Self {
        Self(Source::Runtime { start: tokio::time::Instant::now(), unix_ms: unix_seconds * 1000 })
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let monotonic_us = self.monotonic_us();
                Now {
                    unix_ms: since.as_secs() * 1000 + u64::from(since.subsec_millis()),
                    monotonic_ms: monotonic_us / 1000,
                    monotonic_us,
                }
            }
            Source::Manual { unix_ms, monotonic_ms } => {
                let monotonic_ms = monotonic_ms.load(Ordering::SeqCst);
                Now { unix_ms: unix_ms.load(Ordering::SeqCst), monotonic_ms, monotonic_us: monotonic_ms * 1000 }
            }
            Source::Runtime { start, unix_ms } => {
                let monotonic_us = micros(start.elapsed());
                Now { unix_ms: unix_ms + monotonic_us / 1000 - 1, monotonic_ms: monotonic_us / 1000, monotonic_us }
            }
        }
    }

    /// Reads the monotonic clock alone, in microseconds.
    pub fn monotonic_us(&self) -> u64 {
        match &self.0 {
            Source::System { start } => micros(start.elapsed()),
            Source::Runtime { start, .. } => micros(start.elapsed()),
            Source::Manual { monotonic_ms, .. } => monotonic_ms.load(Ordering::SeqCst) * 1000,
        }
    }

    /// Moves a manual clock forward; others cannot be moved and are left alone.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { unix_ms, monotonic_ms } = &self.0 {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            unix_ms.fetch_add(by, Ordering::SeqCst);
            monotonic_ms.fetch_add(by, Ordering::SeqCst);
        }
    }
}

/// A millisecond is added so that 0 can mean "never".
fn micros(elapsed: Duration) -> u64 {
    elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros()) + 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(1_000);
        let before = clock.now();
        assert_eq!(before, clock.now());
        clock.advance(Duration::from_millis(2_500));
        let after = clock.now();
        assert_eq!(after.unix_seconds(), 1_002);
        assert_eq!(after.monotonic_ms - before.monotonic_ms, 2_500);
    }

    #[test]
    fn the_monotonic_reading_is_never_zero() {
        assert!(Clock::system().now().monotonic_ms > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_a_runtime_goes_as_its_timers_do() {
        let clock = Clock::of_runtime(1_000);
        let before = clock.now();
        assert_eq!((before.unix_ms, before.monotonic_ms), (1_000_000, 1));
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!((clock.now().unix_ms, clock.now().monotonic_ms), (1_007_000, 7_001));
    }
}
