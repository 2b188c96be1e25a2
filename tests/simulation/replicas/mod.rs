//! Replicas of the token service over a simulated cluster and a simulated Keycloak, in time that a test makes.
//!
//! Two or three token services and a gateway run in one process, each on its own way to an API server in memory. A seed draws what
//! happens: users are disabled, enabled, deleted and sign in; the API server and Keycloak are slow, fail, hang or are down; replicas are
//! killed and lose their store, or are paused, the leader right before it writes; the Lease is lost, watches are cut off or are told
//! nothing, others write the same objects, users edit their Secrets; and no two clocks agree. What is promised is held against what
//! readers find ([`oracle`]).
//!
//! `POSTERN_REPLICAS_SEED=n` plays one seed with all that happens, `POSTERN_FULL=1` plays thousands.

mod keycloak;
mod moves;
mod oracle;
mod people;
pub(crate) mod replica;
pub(crate) mod scenario;
mod switch;
pub(crate) mod wire;
pub(crate) mod world;

/// What the module's own tests use over sockets.
#[path = "../../../src/kubernetes/tests/memory/mod.rs"]
mod memory;

use crate::{say, seeds};
use scenario::{Cast, run};
use world::Counts;

/// How many seeds are played: few without optimization, as `cargo test` does it.
const SEEDS: u64 = if cfg!(debug_assertions) { 25 } else { 500 };
const SEEDS_FULL: u64 = 5_000;

#[test]
fn floor_ceiling_one_writer_and_an_empty_secret_hold_whatever_happens_to_replicas() {
    let one = std::env::var("POSTERN_REPLICAS_SEED").ok().map(|seed| seed.parse().unwrap());
    if let Some(seed) = one {
        let outcome = run(seed, None, true);
        say(&format!("seed {seed}: {:?}", outcome.counts));
        assert_eq!(outcome.failure, None, "seed {seed}");
        return;
    }
    let count = if std::env::var_os("POSTERN_FULL").is_some() { SEEDS_FULL } else { SEEDS };
    let sum = seeds::play("POSTERN_REPLICAS_SEED", count, Counts::add, |seed| {
        let outcome = run(seed, None, false);
        (outcome.failure.map(|failure| outcome.last_lines + &failure), outcome.counts)
    });
    let enough = [sum.fills, sum.empties, sum.blocks, sum.takeovers].map(|happened| happened > count);
    let more = [sum.kills, sum.ambushes, sum.late_writes, sum.conflicts, sum.freezes, sum.edits]
        .map(|happened| happened > count / 8);
    assert_eq!((enough, more), ([true; 4], [true; 6]), "too little happens: {sum:?}");
}

/// As many as [`floor_ceiling_one_writer_and_an_empty_secret_hold_whatever_happens_to_replicas`] has few: readers of all of them look once
/// a second, for hours, in which each token is refilled several times.
#[test]
fn the_same_holds_for_many_users_for_hours() {
    let cast = if cfg!(debug_assertions) {
        Cast { users: 12, lasts: 45 * MINUTE_MS }
    } else {
        Cast { users: 1_000, lasts: 150 * MINUTE_MS }
    };
    let outcome = run(1, Some(cast), std::env::var_os("POSTERN_REPLICAS_HOURS").is_some());
    say(&format!("{} users for {} minutes: {:?}", cast.users, cast.lasts / MINUTE_MS, outcome.counts));
    assert_eq!(outcome.failure, None, "after\n{}", outcome.last_lines);
    assert!(
        outcome.counts.fills > cast.users * (cast.lasts / MINUTE_MS) / 30,
        "each is refilled: {:?}",
        outcome.counts
    );
    assert!(outcome.counts.troubles > 5 && outcome.counts.takeovers > 0, "too little happens: {:?}", outcome.counts);
}

const MINUTE_MS: u64 = 60_000;

#[test]
fn a_seed_of_replicas_plays_the_same_each_time() {
    for seed in [1, 2] {
        assert_eq!(run(seed, None, false).counts, run(seed, None, false).counts, "seed {seed}");
    }
}
