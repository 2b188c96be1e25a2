//! What replicas pass together, in a time of the test's own, with a Redis that adds as the real one does.

use super::owed;
use crate::base::budget::Pace;
use crate::base::clock::Now;
use crate::base::ledger::Ledger;
use crate::base::rate_table::{RateTable, Single};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// Between two exchanges of a replica.
const EVERY_US: u64 = 50;

struct Node {
    table: Arc<RateTable>,
    ledger: Ledger,
    shared: Single,
    /// How far its clock is ahead of the others'.
    ahead_us: u64,
}

impl Node {
    fn new(ahead_us: u64) -> Self {
        let table = Arc::new(RateTable::new(100));
        Self { ledger: Ledger::new(Arc::clone(&table), 100), table, shared: Single::default(), ahead_us }
    }

    fn at(&self, us: u64) -> Now {
        let monotonic_us = us + self.ahead_us;
        Now { monotonic_us, monotonic_ms: monotonic_us / 1000, unix_ms: 0 }
    }

    fn passes(&self, pace: Pace, us: u64) -> bool {
        let passes = self.table.take(1, pace, &self.shared, self.at(us)).is_ok();
        if passes {
            self.ledger.note(1, pace, self.at(us), || [0; 32]);
        }
        passes
    }

    /// With one that knows of one budget when it is whole.
    fn exchange(&self, redis: &mut Option<(i64, i64)>, us: u64) {
        // It has another clock, too.
        let now = i64::try_from(us).unwrap() + 1_000_000_007;
        for (key, taken) in self.ledger.drain() {
            let time = i64::try_from(taken.time_us()).unwrap();
            let owed = owed(*redis, now, time, taken.alone_us(self.at(us)));
            *redis = Some((now + owed, now));
            self.ledger.raise(key, &taken, owed, self.at(us));
        }
    }
}

/// When requests pass that come at these times, each to one of the replicas.
fn passed(nodes: &[Node], pace: Pace, requests: &[(u64, usize)]) -> Vec<u64> {
    let (mut redis, mut passed, mut clock) = (None, Vec::new(), 0);
    for (us, node) in requests {
        for us in clock + 1..=*us {
            // One after another within the time that each has.
            let due = |index: u64| (us + index * 13).is_multiple_of(EVERY_US);
            let due = nodes.iter().zip(0..).filter(|(_, index)| due(*index));
            due.for_each(|(node, _)| node.exchange(&mut redis, us));
        }
        clock = *us;
        passed.extend(nodes[*node % nodes.len()].passes(pace, *us).then_some(*us));
    }
    passed
}

fn nodes(count: usize) -> Vec<Node> {
    (0..count).map(|index| Node::new(10_000 + 77_777 * u64::try_from(index).unwrap())).collect()
}

/// Requests after such times each, in turn or at random.
fn requests() -> impl Strategy<Value = Vec<(u64, usize)>> {
    let step = prop_oneof![4 => 0_u64..4, 1 => 0_u64..200];
    prop::collection::vec((step, 0_usize..12), 1..400).prop_map(|steps| {
        let mut us = 1;
        let mut next = |step| {
            us += step;
            us
        };
        steps.into_iter().map(|(step, node)| (next(step), node)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// In any window: the burst and the rate, and for each further replica a burst and what comes back between two exchanges.
    #[test]
    fn replicas_together_pass_the_limit_and_what_each_can_before_it_hears(
        count in 1_usize..5,
        burst in 1_u32..12,
        interval_us in 1_u64..60,
        requests in requests(),
    ) {
        let pace = Pace::new(burst, Duration::from_micros(interval_us));
        let passed = passed(&nodes(count), pace, &requests);
        let others = u64::try_from(count - 1).unwrap();
        let beyond = others * (u64::from(burst) + (2 * EVERY_US).div_ceil(interval_us));
        for (index, first) in passed.iter().enumerate() {
            for (count, last) in (1..).zip(&passed[index..]) {
                let most = u64::from(burst) + (last - first) / interval_us + beyond;
                prop_assert!(count <= most, "{count} of {most} from {first} to {last}");
            }
        }
    }

    #[test]
    fn a_replica_that_is_alone_passes_what_it_would_without_redis(
        burst in 1_u32..12,
        interval_us in 1_u64..60,
        requests in requests(),
    ) {
        let pace = Pace::new(burst, Duration::from_micros(interval_us));
        let alone = Node::new(10_000);
        let expected: Vec<_> = requests.iter().map(|(us, _)| *us).filter(|us| alone.passes(pace, *us)).collect();
        prop_assert_eq!(passed(&nodes(1), pace, &requests), expected);
    }
}

#[test]
fn what_is_asked_of_several_without_end_passes_at_the_rate() {
    const INTERVAL_US: u64 = 20;
    for (count, burst) in [(2, 1), (3, 5), (4, 100)] {
        let requests: Vec<_> = (1..100_000).flat_map(|us| (0..count).map(move |node| (us, node))).collect();
        let pace = Pace::new(u32::try_from(burst).unwrap(), Duration::from_micros(INTERVAL_US));
        let passed = passed(&nodes(count), pace, &requests).len();
        let rate = usize::try_from(100_000 / INTERVAL_US).unwrap();
        let beyond = count * burst + (count - 1) * 5;
        assert!((rate * 99 / 100..=rate + beyond).contains(&passed), "{count} replicas pass {passed} of {rate}");
    }
}
