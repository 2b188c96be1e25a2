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
mod replica;
mod scenario;
mod switch;
mod wire;
mod world;

/// What the module's own tests use over sockets.
#[path = "../../../src/kubernetes/tests/memory/mod.rs"]
mod memory;

use crate::{say, seeds};
use scenario::run;
use world::Counts;

/// How many seeds are played: few without optimization, as `cargo test` does it.
const SEEDS: u64 = if cfg!(debug_assertions) { 25 } else { 500 };
const SEEDS_FULL: u64 = 5_000;

#[test]
fn floor_ceiling_one_writer_and_an_empty_secret_hold_whatever_happens_to_replicas() {
    let one = std::env::var("POSTERN_REPLICAS_SEED").ok().map(|seed| seed.parse().unwrap());
    if let Some(seed) = one {
        let outcome = run(seed, true);
        say(&format!("seed {seed}: {:?}", outcome.counts));
        assert_eq!(outcome.failure, None, "seed {seed}");
        return;
    }
    let count = if std::env::var_os("POSTERN_FULL").is_some() { SEEDS_FULL } else { SEEDS };
    let sum = seeds::play("POSTERN_REPLICAS_SEED", count, Counts::add, |seed| {
        let outcome = run(seed, false);
        (outcome.failure.map(|failure| outcome.last_lines + &failure), outcome.counts)
    });
    let enough = [sum.fills, sum.empties, sum.blocks, sum.takeovers].map(|happened| happened > count);
    let more = [sum.kills, sum.ambushes, sum.late_writes, sum.conflicts, sum.freezes, sum.edits]
        .map(|happened| happened > count / 8);
    assert_eq!((enough, more), ([true; 4], [true; 6]), "too little happens: {sum:?}");
}

#[test]
fn a_seed_of_replicas_plays_the_same_each_time() {
    for seed in [1, 2] {
        assert_eq!(run(seed, false).counts, run(seed, false).counts, "seed {seed}");
    }
}
