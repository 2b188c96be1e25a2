//! Many seeds, on all processors.

use crate::say;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Plays these seeds and gives the sum of what happened. Says which failed, and fails if any did. `variable` plays one again.
pub(crate) fn play<C: Default + Debug + Send>(
    variable: &str,
    seeds: u64,
    add: impl Fn(&mut C, &C) + Sync,
    run: impl Fn(u64) -> (Option<String>, C) + Sync + std::panic::RefUnwindSafe,
) -> C {
    let (next, failed, sum) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(C::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let play_on = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let failure = match std::panic::catch_unwind(|| run(seed)) {
                Ok((failure, counts)) => {
                    add(&mut sum.lock().unwrap_or_else(PoisonError::into_inner), &counts);
                    failure
                }
                Err(_) => Some("it panicked".to_owned()),
            };
            if let Some(failure) = failure {
                failed.fetch_add(1, Ordering::Relaxed);
                say(&format!("{failure}\nseed {seed} failed; `{variable}={seed}` plays it again"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play_on);
        }
    });
    let (failed, sum) = (failed.into_inner(), sum.into_inner().unwrap_or_else(PoisonError::into_inner));
    say(&format!("{seeds} seeds: {sum:?}"));
    say(&format!("{} passed, {failed} failed, 0 skipped", seeds - failed));
    assert_eq!(failed, 0, "seeds failed");
    sum
}
