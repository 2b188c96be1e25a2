//! The watch over users and the store of what is known against them, with a simulated Keycloak, in time that a test makes.
//!
//! A seed draws everything that happens: disables, enables, sign-ins, calls that are slow, fail or hang, a realm that is down,
//! events late, twice and out of order or not kept at all, clocks that are set, operators, and a Postern that is killed and begins
//! again. The real loops and the real store run on tokio's paused time; what is promised is held against what is so
//! ([`oracle`]) some times a second.
//!
//! `POSTERN_SEED=n` plays one seed with all that happens, `POSTERN_FULL=1` plays some thousands.

// Helpers are no tests, so clippy does not see that a failure in them is a test's failure.
#![allow(clippy::unwrap_used)]

mod acts;
mod directory;
mod judge;
mod moves;
mod oracle;
mod process;
mod random;
mod scenario;
mod world;

use scenario::{Outcome, run};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use world::Counts;

/// How many seeds are played.
const SEEDS: u64 = 150;
const SEEDS_FULL: u64 = 3_000;

/// Prints a line even where a test's output is kept back.
fn say(line: &str) {
    let mut log = std::io::stderr();
    writeln!(log, "{line}").unwrap();
}

#[test]
fn the_bound_and_the_sticky_block_hold_whatever_happens() {
    let one = std::env::var("POSTERN_SEED").ok().map(|seed| seed.parse().unwrap());
    if let Some(seed) = one {
        let Outcome { failure, counts, .. } = run(seed, true);
        say(&format!("seed {seed}: {counts:?}"));
        assert_eq!(failure, None, "seed {seed}");
        return;
    }
    let seeds = if std::env::var_os("POSTERN_FULL").is_some() { SEEDS_FULL } else { SEEDS };
    let (next, failed, sum) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Counts::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let outcome = std::panic::catch_unwind(|| run(seed, false));
                    failed.fetch_add(u64::from(!is_well(seed, outcome, &sum)), Ordering::Relaxed);
                }
            });
        }
    });
    let (failed, sum) = (failed.into_inner(), sum.into_inner().unwrap());
    say(&format!("{seeds} seeds: {sum:?}"));
    say(&format!("{} passed, {failed} failed, 0 skipped", seeds - failed));
    assert_eq!(failed, 0, "seeds failed; `POSTERN_SEED=n` plays one again");
    let enough = [sum.must_be_out, sum.must_be_in, sum.proofs_asked, sum.decisions].map(|count| count > seeds);
    assert_eq!((enough, sum.crashes > seeds / 4), ([true; 4], true), "too little happens: {sum:?}");
}

#[test]
fn a_seed_plays_the_same_each_time() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed, false).counts, run(seed, false).counts, "seed {seed}");
    }
}

/// Adds up what happened, and says what failed.
fn is_well(seed: u64, outcome: std::thread::Result<Outcome>, sum: &Mutex<Counts>) -> bool {
    let Ok(Outcome { failure, last_lines, counts }) = outcome else {
        say(&format!("seed {seed} panicked"));
        return false;
    };
    sum.lock().unwrap_or_else(PoisonError::into_inner).add(counts);
    if let Some(failure) = &failure {
        say(&format!("{last_lines}seed {seed}: {failure}"));
    }
    failure.is_none()
}
