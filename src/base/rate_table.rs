//! Budgets of many keys without a lock: one number a key, in one table of fixed size that all workers share.
//!
//! A place of the table is an owner (the hash of a key) and the time at which the owner's budget will be whole. Who finds their place
//! takes a unit by one compare-and-swap. A key that has no place gets one under the lock of its part, which only newcomers take: a place
//! that was never used, or one whose owner's budget is whole again, which is what a new budget is. So nothing that is owed is forgotten.
//! Where the places of a newcomer are all taken, it shares one budget of the same size with all others like it.
//!
//! What holds, over any time and whatever threads do at once: a key takes no more than its burst and what came back meanwhile.
//! Two units of a key are begun an interval apart at least, for the number in a place only ever grows: within an owner's time by each
//! unit, and from one owner to the next since the next begins no earlier than the former was whole. (So an old value cannot come back
//! either, and a compare-and-swap that was prepared for a former owner fails.)

use super::budget::Pace;
use super::clock::Now;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Budgets of many keys.
#[derive(Debug)]
pub struct RateTable {
    /// A power of two of them.
    places: Box<[Place]>,
    hasher: RandomState,
    /// For those who look for a place, so that no key gets two.
    joining: Vec<Mutex<()>>,
    /// The latest time at which somebody looked for a place: whoever lost theirs was whole by then.
    latest_ns: AtomicU64,
    crowded: AtomicU64,
}

/// One budget.
#[derive(Debug, Default)]
pub struct Single(AtomicU64);

/// Whose budget, and when it will be whole.
#[derive(Debug, Default)]
struct Place {
    /// 0 until it is used.
    owner: AtomicU64,
    whole_at_ns: AtomicU64,
}

/// In how many places a key can be: those from its own on.
const WINDOW: usize = 32;
/// How many locks newcomers share.
const PARTS: u64 = 64;
/// Stands for a time while a place changes its owner.
const CHANGING: u64 = u64::MAX;

impl RateTable {
    /// Room for at least so many keys, at 16 bytes each. Where it is nearly full, some of them share.
    pub fn new(capacity: usize) -> Self {
        let places = capacity.next_power_of_two().max(WINDOW);
        Self {
            places: std::iter::repeat_with(Place::default).take(places).collect(),
            hasher: RandomState::new(),
            joining: (0..PARTS).map(|_| Mutex::default()).collect(),
            latest_ns: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
        }
    }

    /// What stands for a key here. That two of them share it has a probability of 2⁻⁶⁴.
    pub fn key(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of).max(1)
    }

    /// Takes one unit of a key; those who find no place take it of `shared`.
    ///
    /// # Errors
    /// There is none, and nothing is taken; so long it takes until there is.
    pub fn take(&self, key: u64, pace: Pace, shared: &Single, now: Now) -> Result<(), Duration> {
        let now_ns = now.monotonic_us * 1000;
        let known = self.find(key).and_then(|place| place.take(key, pace, now_ns));
        known.unwrap_or_else(|| self.join(key, pace, shared, now_ns)).map_err(Duration::from_nanos)
    }

    /// How long it takes until a key has a unit; nothing if it has one.
    pub fn wait(&self, key: u64, pace: Pace, shared: &Single, now: Now) -> Option<Duration> {
        let known = self.find(key).and_then(|place| place.of(key));
        let whole_at = known.unwrap_or_else(|| shared.0.load(Ordering::Acquire));
        let wait_ns = pace.take(whole_at, now.monotonic_us * 1000).err()?;
        if known.is_none() {
            self.crowded.fetch_add(1, Ordering::Relaxed);
        }
        Some(Duration::from_nanos(wait_ns))
    }

    /// Others took of a budget too: it is whole no earlier than then. For a key that has no place, and finds none, nothing changes.
    pub(super) fn raise(&self, key: u64, whole_at_ns: u64, now: Now) {
        let now_ns = now.monotonic_us * 1000;
        if whole_at_ns <= now_ns || self.find(key).is_some_and(|place| place.raise(key, whole_at_ns)) {
            return;
        }
        let _joining = self.joining(key);
        if self.window(key).any(|place| place.raise(key, whole_at_ns)) {
            return;
        }
        let now_ns = self.latest_ns.fetch_max(now_ns, Ordering::AcqRel).max(now_ns);
        if whole_at_ns > now_ns {
            self.window(key).any(|place| place.change(key, whole_at_ns, now_ns));
        }
    }

    /// How often somebody found no place, or paid for those who found none.
    pub fn crowded(&self) -> u64 {
        self.crowded.load(Ordering::Relaxed)
    }

    fn window(&self, key: u64) -> impl Iterator<Item = &Place> {
        let first = usize::try_from(key >> 32).unwrap_or(0);
        (first..first + WINDOW).map(|at| &self.places[at & (self.places.len() - 1)])
    }

    /// The place of a key, as far as can be seen: behind one that was never used there is seldom another.
    fn find(&self, key: u64) -> Option<&Place> {
        let owned = |place: &&Place| place.owner.load(Ordering::Relaxed);
        self.window(key).take_while(|place| owned(place) != 0).find(|place| owned(place) == key)
    }

    /// For who looks for a place for a key.
    fn joining(&self, key: u64) -> MutexGuard<'_, ()> {
        let part = usize::try_from(key % PARTS).unwrap_or(0);
        // There is nothing that a panic could have left half done.
        self.joining[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a unit for a key that has no place, or did not a moment ago.
    #[cold]
    fn join(&self, key: u64, pace: Pace, shared: &Single, now_ns: u64) -> Result<(), u64> {
        let _joining = self.joining(key);
        for place in self.window(key).filter(|place| place.owner.load(Ordering::Acquire) == key) {
            if let Some(taken) = place.take(key, pace, now_ns) {
                return taken;
            }
        }
        // Whoever took the key's place before this line looked no later than this, and the budget was whole then. So this is the
        // moment that counts, though the request may have come a little earlier.
        let now_ns = self.latest_ns.fetch_max(now_ns, Ordering::AcqRel).max(now_ns);
        // What was taken of the shared budget may have been taken for this key.
        let whole_at = pace.take(shared.0.load(Ordering::Acquire), now_ns);
        if whole_at.is_ok_and(|whole_at| self.window(key).any(|place| place.change(key, whole_at, now_ns))) {
            return Ok(());
        }
        self.crowded.fetch_add(1, Ordering::Relaxed);
        whole_at.and_then(|_| shared.take(pace, now_ns))
    }
}

impl Single {
    fn take(&self, pace: Pace, now_ns: u64) -> Result<(), u64> {
        let mut whole_at = self.0.load(Ordering::Acquire);
        loop {
            let next = pace.take(whole_at, now_ns)?;
            match self.0.compare_exchange_weak(whole_at, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(other) => whole_at = other,
            }
        }
    }
}

impl Place {
    /// When the owner's budget will be whole, if it is their place still.
    fn of(&self, owner: u64) -> Option<u64> {
        let whole_at = self.whole_at_ns.load(Ordering::Acquire);
        // In this order: whoever sees a time of another's sees their name as well.
        (whole_at != CHANGING && self.owner.load(Ordering::Acquire) == owner).then_some(whole_at)
    }

    /// Takes one unit, if it is the owner's place still.
    fn take(&self, owner: u64, pace: Pace, now_ns: u64) -> Option<Result<(), u64>> {
        loop {
            let whole_at = self.of(owner)?;
            let next = match pace.take(whole_at, now_ns) {
                Ok(next) => next,
                Err(wait_ns) => return Some(Err(wait_ns)),
            };
            if self.exchange(whole_at, next) {
                return Some(Ok(()));
            }
        }
    }

    /// Has the budget be whole no earlier than then; false if it is not the owner's place.
    fn raise(&self, owner: u64, whole_at_ns: u64) -> bool {
        while let Some(known) = self.of(owner) {
            if known >= whole_at_ns || self.exchange(known, whole_at_ns) {
                return true;
            }
        }
        false
    }

    /// Gives the place to another, if its owner's budget is whole.
    fn change(&self, owner: u64, whole_at_ns: u64, now_ns: u64) -> bool {
        let whole_at = self.whole_at_ns.load(Ordering::Acquire);
        if whole_at > now_ns || !self.exchange(whole_at, CHANGING) {
            return false;
        }
        self.owner.store(owner, Ordering::Release);
        self.whole_at_ns.store(whole_at_ns, Ordering::Release);
        true
    }

    fn exchange(&self, from: u64, to: u64) -> bool {
        self.whole_at_ns.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;

    fn at(us: u64) -> Now {
        Now { monotonic_us: us, monotonic_ms: us / 1000, unix_ms: 0 }
    }

    /// Whether, of what passed at some time between the two of each pair, no more than `burst` and what came back lies in any window.
    #[track_caller]
    fn holds(mut passed: Vec<(u64, u64)>, burst: usize, interval_us: u64) {
        passed.sort_by_key(|(_, latest)| *latest);
        for (index, (first, _)) in passed.iter().enumerate() {
            let later = passed.iter().filter(|(earliest, _)| earliest >= first);
            for (count, (_, last)) in later.enumerate().filter(|(count, _)| *count >= burst) {
                let back = (last.saturating_sub(*first)) / interval_us;
                let most = u64::try_from(burst).unwrap() + back;
                assert!(
                    u64::try_from(count + 1).unwrap() <= most,
                    "{} in a window of {back} units, from {index}",
                    count + 1
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Also where the table is so small that keys lose their places and share.
        #[test]
        fn no_key_ever_passes_more_than_burst_and_rate(
            burst in 1_u32..6,
            interval_us in 1_u64..40,
            steps in prop::collection::vec((0_u64..60, 0_u64..12), 1..400),
        ) {
            let table = RateTable::new(WINDOW);
            // Most of the window is never whole.
            let long = Pace::new(1, Duration::from_secs(3600));
            for other in 0..28_u64 {
                assert!(table.take(table.key(("other", other)), long, &Single::default(), at(1)).is_ok());
            }
            let (pace, shared) = (Pace::new(burst, Duration::from_micros(interval_us)), Single::default());
            let (mut now, mut passed) = (1, HashMap::<u64, Vec<(u64, u64)>>::new());
            for (step, key) in steps {
                now += step / 4;
                // A clock that was read a little earlier, by another thread.
                let read = now.saturating_sub(step % 4);
                if table.take(table.key(key), pace, &shared, at(read)).is_ok() {
                    passed.entry(key).or_default().push((read, now));
                }
            }
            for passed in passed.into_values() {
                holds(passed, usize::try_from(burst).unwrap(), interval_us);
            }
        }
    }

    #[test]
    fn two_workers_together_pass_no_more_than_one_would() {
        const KEYS: u64 = 80;
        let table = RateTable::new(64);
        let (pace, shared) = (Pace::new(3, Duration::from_micros(300)), Single::default());
        let (clock, is_begun) = (AtomicU64::new(1), AtomicBool::new(false));
        let work = |seed: u64| {
            let (mut random, mut passed) = (seed, Vec::new());
            while !is_begun.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            for _ in 0..40_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = (random >> 33) % KEYS;
                let before = clock.fetch_add(1, Ordering::SeqCst);
                if table.take(table.key(key), pace, &shared, at(before)).is_ok() {
                    passed.push((key, (before, clock.load(Ordering::SeqCst))));
                }
            }
            passed
        };
        let passed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=2).map(|seed| scope.spawn(move || work(seed))).collect();
            is_begun.store(true, Ordering::Release);
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(passed.len() > 5000 && table.crowded() > 0, "{} {}", passed.len(), table.crowded());
        for key in 0..KEYS {
            holds(passed.iter().filter(|(of, _)| *of == key).map(|(_, times)| *times).collect(), 3, 300);
        }
    }

    #[test]
    fn threads_together_pass_exactly_a_burst() {
        const ROUNDS: u64 = 500;
        let (table, shared, now) = (RateTable::new(8192), Single::default(), Clock::manual(1).now());
        let (pace, arrived) = (Pace::new(20, Duration::from_secs(1)), AtomicU64::new(0));
        let round = |round: u64| {
            // Both begin at the same moment, each time with a key that is new.
            arrived.fetch_add(1, Ordering::AcqRel);
            while arrived.load(Ordering::Acquire) < 2 * round {
                std::thread::yield_now();
            }
            (0..30).filter(|_| table.take(table.key(round), pace, &shared, now).is_ok()).count()
        };
        let [one, other]: [Vec<usize>; 2] = std::thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(|| (1..=ROUNDS).map(round).collect()));
            threads.map(|thread| thread.join().unwrap())
        });
        let passed: Vec<_> = one.iter().zip(&other).map(|(one, other)| one + other).collect();
        assert_eq!(passed, [20; 500]);
    }

    #[test]
    fn whoever_lost_their_place_counts_from_when_it_was_taken() {
        let (table, shared, pace) =
            (RateTable::new(WINDOW), Single::default(), Pace::new(1, Duration::from_micros(100)));
        let take = |key, us| table.take(key, pace, &shared, at(us)).is_ok();
        let long = Pace::new(1, Duration::from_secs(3600));
        for other in 100..99 + u64::try_from(WINDOW).unwrap() {
            assert!(table.take(other, long, &shared, at(1)).is_ok());
        }
        // One is whole at 200, and loses the only place left to the other.
        assert!(take(1, 100) && take(2, 201));
        // A request of the first that came earlier and was late. It is judged as of 201.
        assert!(take(1, 150));
        assert!(!take(1, 299) && take(1, 301));
    }

    #[test]
    fn the_wait_is_until_one_came_back() {
        let (table, shared, clock) = (RateTable::new(1000), Single::default(), Clock::manual(1));
        let pace = Pace::new(2, Duration::from_millis(100));
        let wait = |key| table.wait(key, pace, &shared, clock.now());
        for _ in 0..2 {
            assert_eq!((wait(1), table.take(1, pace, &shared, clock.now())), (None, Ok(())));
        }
        let most = Duration::from_millis(100);
        assert_eq!((wait(1), table.take(1, pace, &shared, clock.now())), (Some(most), Err(most)));
        assert_eq!(wait(2), None);
        clock.advance(Duration::from_millis(60));
        assert_eq!(wait(1), Some(Duration::from_millis(40)));
        clock.advance(Duration::from_millis(40));
        assert_eq!((wait(1), table.take(1, pace, &shared, clock.now())), (None, Ok(())));
    }

    #[test]
    fn those_without_a_place_share_one_budget_until_there_is_room() {
        let (table, shared, clock) = (RateTable::new(WINDOW), Single::default(), Clock::manual(1));
        let pace = Pace::new(2, Duration::from_secs(1));
        let take = |key| table.take(key, pace, &shared, clock.now()).is_ok();
        let keys = u64::try_from(WINDOW).unwrap();
        assert!((1..=keys).all(take));
        assert_eq!((table.crowded(), (101..200).filter(|key| take(*key)).count(), table.crowded()), (0, 2, 99));
        // Whom only a look refuses counts as well.
        assert!(table.wait(101, pace, &shared, clock.now()).is_some() && table.crowded() == 100);
        // Whoever has a place does not pay for them.
        assert!((1..=keys).all(take) && !(1..=keys).any(take));
        clock.advance(Duration::from_secs(2));
        assert!((101..101 + keys).all(take));
        assert_eq!(table.crowded(), 100);
    }
}
