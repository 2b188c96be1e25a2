//! When what was a user's may be removed: the guards, as functions of values. To remove too late costs little, too early everything.

use crate::base::clock::Now;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// For how long an issuer has known no such user. Only looks that said so count; one that says otherwise ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// When that was first said, by our wall clock, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// When it was last said.
    pub last_unix_ms: u64,
    /// The time between such looks, added up.
    pub elapsed_ms: u64,
    /// When it was last said in this process, by the monotonic clock.
    #[serde(skip)]
    last_ms: Option<u64>,
}

/// Two looks that are further apart say nothing about the time between.
const LONGEST_GAP_MS: u64 = 2 * 60 * 60 * 1000;

/// Over so long it is counted how many users go.
const WINDOW_MS: u64 = 24 * 60 * 60 * 1000;

/// So many may always go.
const FEW: usize = 3;

impl Gone {
    /// An issuer said that there is no such user.
    pub fn said(known: Option<Self>, now: Now) -> Self {
        let begin = Self {
            since_unix_ms: now.unix_ms,
            last_unix_ms: now.unix_ms,
            elapsed_ms: 0,
            last_ms: Some(now.monotonic_ms),
        };
        let Some(known) = known else { return begin };
        // The wall clock may have been set; only where there is no other does it count, and then not for long.
        let passed_ms = match known.last_ms {
            Some(last_ms) => now.monotonic_ms.saturating_sub(last_ms),
            None if now.unix_ms < known.last_unix_ms => return begin,
            None => now.unix_ms - known.last_unix_ms,
        };
        if passed_ms > LONGEST_GAP_MS {
            return begin;
        }
        Self { since_unix_ms: known.since_unix_ms, elapsed_ms: known.elapsed_ms.saturating_add(passed_ms), ..begin }
    }

    /// Whether it has been so for long enough.
    pub fn is_over(&self, after: Duration) -> bool {
        u128::from(self.elapsed_ms) >= after.as_millis()
    }

    /// Whether it will have been so within a day.
    fn is_over_soon(&self, after: Duration) -> bool {
        u128::from(self.elapsed_ms.saturating_add(WINDOW_MS)) >= after.as_millis()
    }
}

/// Nobody goes: too many would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// How many would go within a day.
    pub would_go: usize,
    /// How many may.
    pub most: usize,
}

/// Holds those who are gone against the share of users that may go within a day.
///
/// `users`: everybody who is known, those who are gone included. `removed_unix_ms`: when others were removed.
///
/// # Errors
/// More than three and more than a tenth would go, or would have gone by now, within 24 hours.
pub fn check_share<'a>(
    gone: impl Iterator<Item = &'a Gone> + Clone,
    users: usize,
    removed_unix_ms: &[u64],
    after: Duration,
    now: Now,
) -> Result<(), TooMany> {
    let is_recent = |at: &&u64| at.saturating_add(WINDOW_MS) > now.unix_ms;
    let removed = removed_unix_ms.iter().filter(is_recent).count();
    let most = FEW.max((users + removed) / 10);
    let over = gone.clone().filter(|gone| gone.is_over(after)).count();
    let soon = gone.filter(|gone| gone.is_over_soon(after)).count();
    let would_go = soon.max(removed + over);
    if would_go > most { Err(TooMany { would_go, most }) } else { Ok(()) }
}

/// How often all users are listed: hourly, and at least four times within the time after which users are removed.
pub fn look_every(after: Duration) -> Duration {
    (after / 4).clamp(Duration::from_secs(1), Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR: Duration = Duration::from_secs(3600);

    /// As it is after a restart.
    fn stored(gone: Gone) -> Gone {
        serde_json::from_str(&serde_json::to_string(&gone).unwrap()).unwrap()
    }

    #[test]
    fn a_user_goes_after_a_day_in_which_every_look_said_so() {
        let clock = Clock::manual(1_800_000_000);
        let mut gone = Gone::said(None, clock.now());
        for hour in 1..=24 {
            assert!(!gone.is_over(DAY), "hour {hour}");
            clock.advance(HOUR);
            gone = Gone::said(Some(stored(gone)), clock.now());
        }
        assert!(gone.is_over(DAY));
        assert_eq!(gone.since_unix_ms, 1_800_000_000_000);
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let clock = Clock::manual(1_800_000_000);
        let gone = Gone::said(None, clock.now());
        clock.advance(DAY * 2);
        for known in [gone, stored(gone)] {
            let again = Gone::said(Some(known), clock.now());
            assert_eq!((again.elapsed_ms, again.since_unix_ms), (0, clock.now().unix_ms));
        }
    }

    #[test]
    fn a_wall_clock_that_was_set_makes_nobody_go() {
        let clock = Clock::manual(1_800_000_000);
        let gone = Gone::said(None, clock.now());
        let set = |by: i64| Now { unix_ms: clock.now().unix_ms.checked_add_signed(by).unwrap(), ..clock.now() };
        let day = 86_400_000;
        assert_eq!(Gone::said(Some(gone), set(day)).elapsed_ms, 0);
        assert_eq!(Gone::said(Some(stored(gone)), set(day)).elapsed_ms, 0);
        assert_eq!(Gone::said(Some(stored(gone)), set(-day)).elapsed_ms, 0);
    }

    fn over(clock: &Clock) -> Gone {
        Gone { elapsed_ms: 86_400_000, ..Gone::said(None, clock.now()) }
    }

    #[test]
    fn a_realm_that_suddenly_lists_nobody_removes_nobody() {
        let clock = Clock::manual(1_800_000_000);
        let check = |gone: usize, users: usize, removed: usize| {
            let gone = vec![over(&clock); gone];
            let removed = vec![clock.now().unix_ms - 1000; removed];
            check_share(gone.iter(), users, &removed, DAY, clock.now())
        };
        assert_eq!(check(3, 3, 0), Ok(()));
        assert_eq!(check(4, 4, 0), Err(TooMany { would_go: 4, most: 3 }));
        assert_eq!(check(10, 100, 0), Ok(()));
        assert_eq!(check(11, 100, 0), Err(TooMany { would_go: 11, most: 10 }));
        // In portions neither.
        assert_eq!(check(1, 97, 3), Ok(()));
        assert_eq!(check(1, 1, 3), Err(TooMany { would_go: 4, most: 3 }));
        assert_eq!(check(6, 94, 5), Err(TooMany { would_go: 11, most: 9 }));
    }

    #[test]
    fn it_is_said_before_the_day_is_over() {
        let clock = Clock::manual(1_800_000_000);
        let gone = vec![Gone::said(None, clock.now()); 20];
        assert_eq!(check_share(gone.iter(), 100, &[], DAY, clock.now()), Err(TooMany { would_go: 20, most: 10 }));
        // Those who would go in a week are not counted today.
        assert_eq!(check_share(gone.iter(), 100, &[], DAY * 7, clock.now()), Ok(()));
    }

    proptest! {
        #[test]
        fn nobody_goes_early_whatever_clocks_and_restarts_do(
            looks in prop::collection::vec((1_u64..4 * 3600, any::<bool>(), -90_000_i64..90_000), 1..60),
        ) {
            let clock = Clock::manual(1_800_000_000);
            let mut wall = 0_i64;
            let mut gone = Gone::said(None, clock.now());
            let begin = clock.now().monotonic_ms;
            for (seconds, is_restarted, step) in looks {
                clock.advance(Duration::from_secs(seconds));
                // Across a restart at most the longest gap can be made up, once each.
                let mut allowance = 0;
                if is_restarted {
                    gone = stored(gone);
                    allowance = LONGEST_GAP_MS;
                }
                wall += step * 1000;
                let now = Now { unix_ms: clock.now().unix_ms.saturating_add_signed(wall), ..clock.now() };
                let before = gone.elapsed_ms;
                gone = Gone::said(Some(gone), now);
                let passed = seconds * 1000;
                prop_assert!(gone.elapsed_ms <= before + passed.max(allowance));
                if !is_restarted {
                    prop_assert!(gone.elapsed_ms <= before + passed);
                }
            }
            prop_assert!(clock.now().monotonic_ms >= begin);
        }
    }
}
