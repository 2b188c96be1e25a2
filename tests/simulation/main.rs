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
mod replicas;
mod scaling;
mod scenario;
mod seeds;
mod world;

use scenario::{Outcome, run};
use std::io::Write as _;
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
    let count = if std::env::var_os("POSTERN_FULL").is_some() { SEEDS_FULL } else { SEEDS };
    let sum = seeds::play("POSTERN_SEED", count, Counts::add, |seed| {
        let Outcome { failure, last_lines, counts } = run(seed, false);
        (failure.map(|failure| last_lines + &failure), counts)
    });
    let enough = [sum.must_be_out, sum.must_be_in, sum.proofs_asked, sum.decisions].map(|happened| happened > count);
    assert_eq!((enough, sum.crashes > count / 4), ([true; 4], true), "too little happens: {sum:?}");
}

#[test]
fn a_seed_plays_the_same_each_time() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed, false).counts, run(seed, false).counts, "seed {seed}");
    }
}
