//! A pace that calls keep.

use super::locked;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// So much of a second's calls may come at once.
const BURST: Duration = Duration::from_millis(500);

/// So many calls a second, with half a second's worth at once after a pause.
#[derive(Debug)]
pub(super) struct Pace {
    step: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        Self { step: Duration::from_secs(1) / per_second.max(1), next: Mutex::default() }
    }

    /// Waits for one's turn. Who gives up waiting leaves it unused.
    pub(super) async fn take(&self) {
        let turn = {
            let mut next = locked(&self.next);
            let now = Instant::now();
            let earliest = now.checked_sub(BURST.saturating_sub(self.step)).unwrap_or(now);
            let turn = next.map_or(now, |next| next.max(earliest));
            *next = Some(turn + self.step);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_a_second_at_once_then_one_by_one() {
        let pace = Pace::new(10);
        pace.take().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        let mut turns = Vec::new();
        for _ in 0..8 {
            pace.take().await;
            turns.push(start.elapsed().as_millis());
        }
        assert_eq!(turns, [0, 0, 0, 0, 0, 100, 200, 300]);
    }
}
