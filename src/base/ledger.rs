//! What was taken of budgets that other processes count too, noted until they are told.
//!
//! Who asks never waits for the others: units are taken of the [`RateTable`] here, and noted. Whoever tells the others drains the notes,
//! and raises what the others took. A note is exact: whenever a budget was to be whole before, what was taken made that
//! `max(before + time, alone)`, as taking the units one by one would; so a process that is alone loses nothing by telling itself.

use super::budget::Pace;
use super::clock::Now;
use super::rate_table::RateTable;
use super::sharded::{SHARDS, Sharded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What stands for a key in every process.
pub type Name = [u8; 32];

/// Notes about the keys of one table.
#[derive(Debug)]
pub struct Ledger {
    table: Arc<RateTable>,
    /// By what stands for the key in the table.
    taken: Sharded<u64, Taken>,
    capacity: usize,
    untold: AtomicU64,
}

/// What was taken of one budget since it was told last.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Whose budget.
    pub name: Name,
    pace: Pace,
    /// How long all units take to come back.
    time_ns: u64,
    /// When the budget would be whole again if it had been whole before the first.
    alone_ns: u64,
}

/// No budget is believed to be owed more than what so many processes can have taken of it at once.
const PROCESSES: u64 = 100;

impl Ledger {
    /// Of so many keys at most, at some 100 bytes each while they are noted.
    pub fn new(table: Arc<RateTable>, capacity: usize) -> Self {
        Self { table, taken: Sharded::default(), capacity: capacity.max(SHARDS), untold: AtomicU64::new(0) }
    }

    /// Notes that a unit was taken; `name` is called for the first of a key. The lock that it takes is held for one look-up.
    pub fn note(&self, key: u64, pace: Pace, now: Now, name: impl FnOnce() -> Name) {
        let now_ns = now.monotonic_us * 1000;
        let mut shard = self.taken.shard(key);
        if let Some(taken) = shard.get_mut(&key) {
            taken.add(now_ns);
        } else if shard.len() < self.capacity / SHARDS {
            let mut taken = Taken { name: name(), pace, time_ns: 0, alone_ns: 0 };
            taken.add(now_ns);
            shard.insert(key, taken);
        } else {
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All notes, which are forgotten here.
    pub fn drain(&self) -> Vec<(u64, Taken)> {
        let mut all = Vec::new();
        self.taken.shards().for_each(|mut shard| all.extend(shard.drain()));
        all
    }

    /// Others took of a budget too: at `now`, when what was drained was told, it lacked so many microseconds to be whole, or was whole
    /// for so long.
    pub fn raise(&self, key: u64, taken: &Taken, owed_us: i64, now: Now) {
        let most_ns = taken.pace.whole_ns().saturating_mul(PROCESSES).min(u64::MAX / 4);
        let by_ns = owed_us.unsigned_abs().saturating_mul(1000).min(most_ns);
        let now_ns = now.monotonic_us * 1000;
        let told = if owed_us < 0 { now_ns.saturating_sub(by_ns) } else { now_ns + by_ns };
        let since = self.taken.shard(key).get(&key).copied();
        self.table.raise(key, since.map_or(told, |since| since.after(told)), now);
    }

    /// How many units were taken that nobody is told of, since there was no room for a note.
    pub fn untold(&self) -> u64 {
        self.untold.load(Ordering::Relaxed)
    }
}

impl Taken {
    fn add(&mut self, now_ns: u64) {
        let interval_ns = self.pace.interval_ns();
        self.time_ns = self.time_ns.saturating_add(interval_ns);
        self.alone_ns = self.alone_ns.max(now_ns).saturating_add(interval_ns);
    }

    /// When the budget is whole that was to be whole then before all this was taken.
    fn after(&self, whole_at_ns: u64) -> u64 {
        whole_at_ns.saturating_add(self.time_ns).max(self.alone_ns)
    }

    /// How many microseconds all units take to come back, rounded up.
    pub fn time_us(&self) -> u64 {
        self.time_ns.div_ceil(1000)
    }

    /// How many microseconds after `now` the budget would be whole again if it had been whole before, rounded up.
    pub fn alone_us(&self, now: Now) -> i64 {
        let us = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
        us(self.alone_ns.div_ceil(1000)).saturating_sub(us(now.monotonic_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::base::rate_table::Single;
    use proptest::prelude::*;
    use std::time::Duration;

    const NAME: Name = [7; 32];

    fn at(us: u64) -> Now {
        Now { monotonic_us: us, monotonic_ms: us / 1000, unix_ms: 0 }
    }

    /// The whole of what was taken: its time, and the end of it alone.
    fn drained(ledger: &Ledger, us: u64) -> (u64, i64) {
        let [(_, taken)] = ledger.drain()[..] else { panic!("one note") };
        (taken.time_us(), taken.alone_us(at(us)))
    }

    fn ledger() -> Ledger {
        Ledger::new(Arc::new(RateTable::new(1000)), 1000)
    }

    #[test]
    fn a_note_is_told_once_and_named_once() {
        let (ledger, pace) = (ledger(), Pace::new(5, Duration::from_micros(10)));
        ledger.note(1, pace, at(100), || NAME);
        ledger.note(1, pace, at(103), || panic!("it has a name"));
        ledger.note(1, pace, at(150), || panic!("it has a name"));
        assert_eq!(drained(&ledger, 170), (30, -10));
        assert!(ledger.drain().is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (ledger, pace) = (Ledger::new(Arc::new(RateTable::new(1)), 1), Pace::new(5, Duration::from_secs(1)));
        for key in 0..3 {
            ledger.note(key, pace, at(1), || NAME);
        }
        ledger.note(0, pace, at(1), || NAME);
        assert_eq!((ledger.untold(), drained(&ledger, 1)), (2, (2_000_000, 2_000_000)));
    }

    #[test]
    fn a_budget_that_is_raised_has_less_and_never_more() {
        let (table, shared, clock) = (Arc::new(RateTable::new(1000)), Single::default(), Clock::manual(1));
        let (ledger, pace) = (Ledger::new(Arc::clone(&table), 1000), Pace::new(4, Duration::from_secs(1)));
        let left = |key| (0..10).filter(|_| table.take(key, pace, &shared, clock.now()).is_ok()).count();
        let raise = |key, owed_us| {
            let taken = Taken { name: NAME, pace, time_ns: 0, alone_ns: 0 };
            ledger.raise(key, &taken, owed_us, clock.now());
        };
        // Of one that is not known here, one that is, and one that is owed more here.
        raise(1, 3_000_000);
        assert_eq!(left(1), 1);
        assert!(table.take(2, pace, &shared, clock.now()).is_ok());
        raise(2, 2_000_000);
        raise(2, 1_000_000);
        raise(2, -5);
        assert_eq!(left(2), 2);
        // What was taken while others were told counts on top.
        ledger.note(4, pace, clock.now(), || NAME);
        raise(4, 2_000_000);
        assert_eq!(left(4), 1);
        assert_eq!(ledger.drain().len(), 1);
        // Nonsense is not believed for ever.
        raise(3, i64::MAX);
        clock.advance(Duration::from_secs(4 * PROCESSES));
        assert_eq!(left(3), 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_note_is_what_one_by_one_would_be(
            before in 0_u64..400,
            interval_us in 1_u64..50,
            steps in prop::collection::vec(0_u64..60, 1..30),
        ) {
            let (ledger, pace) = (ledger(), Pace::new(1, Duration::from_micros(interval_us)));
            let (mut now, mut whole_at) = (100, before);
            for step in steps {
                now += step;
                whole_at = now.max(whole_at) + interval_us;
                ledger.note(1, pace, at(now), || NAME);
            }
            let (time, alone) = drained(&ledger, now);
            let told = i64::try_from(before + time).unwrap().max(i64::try_from(now).unwrap() + alone);
            prop_assert_eq!(told, i64::try_from(whole_at).unwrap());
        }
    }
}
