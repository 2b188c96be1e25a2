//! The tokens in use of one issuer, and which is to be asked about next. No clock, no call: whoever holds this has both.

use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

/// A token's place among those in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub(super) usize);

/// The moment when a call began, in the order of calls and hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Begun(u64);

/// The tokens in use.
#[derive(Debug)]
pub(super) struct InUse<T> {
    entries: Slab<Entry<T>>,
    by_user: HashMap<Arc<str>, Vec<usize>>,
    /// When each is to be asked again. An entry that was put in anew since is passed over.
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
    /// To be asked at once: something happened.
    urgent: VecDeque<(usize, u64)>,
    /// Of users who had their share of this second; asked when nobody else waits.
    set_aside: VecDeque<(usize, u64)>,
    /// Calls of this second, by user.
    shares: HashMap<Arc<str>, u32>,
    second: u64,
    /// Counts calls, hints and entries.
    order: u64,
    /// When something was last said about users.
    hints: HashMap<Arc<str>, u64>,
    /// When something was last said about all of them.
    hint_for_all: u64,
    /// Calls under way.
    under_way: BTreeSet<u64>,
}

#[derive(Debug)]
struct Entry<T> {
    token: T,
    user: Arc<str>,
    /// Tells this entry's last mention in the queues from earlier ones; 0 while it is being asked about.
    mention: u64,
}

impl Begun {
    /// A number that looks random and differs for each.
    pub(super) fn mixed(self) -> u64 {
        let bits = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (bits ^ (bits >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 20
    }
}

/// So many hints are remembered by user; beyond that all are taken to be meant.
const MOST_HINTS: usize = 10_000;

impl<T: Clone> InUse<T> {
    pub(super) fn new() -> Self {
        Self {
            entries: Slab::new(),
            by_user: HashMap::new(),
            due: BinaryHeap::new(),
            urgent: VecDeque::new(),
            set_aside: VecDeque::new(),
            shares: HashMap::new(),
            second: 0,
            order: 1,
            hints: HashMap::new(),
            hint_for_all: 0,
            under_way: BTreeSet::new(),
        }
    }

    /// Adds a token that is being asked about; [`Self::again`] puts it in its place.
    pub(super) fn add(&mut self, user: Arc<str>, token: T) -> Place {
        let key = self.entries.insert(Entry { token, user: Arc::clone(&user), mention: 0 });
        self.by_user.entry(user).or_default().push(key);
        Place(key)
    }

    /// The moment of a call that begins now. To be told of its end.
    pub(super) fn begin(&mut self) -> Begun {
        let order = self.next_order();
        self.under_way.insert(order);
        Begun(order)
    }

    /// A call is over, and [`Self::again`] was told about it where that is called for.
    pub(super) fn end(&mut self, begun: Begun) {
        self.under_way.remove(&begun.0);
        // A hint matters as long as a call is under way that began before it.
        match self.under_way.first() {
            None => self.hints.clear(),
            Some(first) => {
                let first = *first;
                if self.hints.len() > self.under_way.len() {
                    self.hints.retain(|_, hint| *hint > first);
                }
            }
        }
    }

    /// Takes a token out of the queues, because a call about it begins by another way.
    pub(super) fn taken(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(place.0) {
            entry.mention = 0;
        }
    }

    /// A token was asked about by a call that began then, and is to be asked again at `due_ms`: at once, if something was said of its user
    /// since.
    pub(super) fn again(&mut self, place: Place, begun: Begun, due_ms: u64) {
        let mention = self.next_order();
        let Some(entry) = self.entries.get_mut(place.0) else { return };
        entry.mention = mention;
        let hint = self.hints.get(&entry.user).copied().unwrap_or(0).max(self.hint_for_all);
        if hint > begun.0 {
            self.urgent.push_back((place.0, mention));
        } else {
            self.due.push(Reverse((due_ms, place.0, mention)));
        }
    }

    /// A call failed; the token is to be asked again at `due_ms`.
    pub(super) fn retry(&mut self, place: Place, due_ms: u64) {
        let mention = self.next_order();
        if let Some(entry) = self.entries.get_mut(place.0) {
            entry.mention = mention;
            self.due.push(Reverse((due_ms, place.0, mention)));
        }
    }

    /// Forgets a token.
    pub(super) fn remove(&mut self, place: Place) {
        let Some(entry) = self.entries.try_remove(place.0) else { return };
        if let Some(own) = self.by_user.get_mut(&entry.user) {
            own.retain(|key| *key != place.0);
            if own.is_empty() {
                self.by_user.remove(&entry.user);
            }
        }
    }

    /// Something happened to a user: their tokens are asked about at once, by calls that begin after this.
    pub(super) fn hint(&mut self, user: &Arc<str>) {
        let order = self.next_order();
        if self.hints.len() >= MOST_HINTS && !self.hints.contains_key(user) {
            // Too many to tell apart: whatever call is under way settles nothing.
            self.hints.clear();
            self.hint_for_all = order;
        } else {
            self.hints.insert(Arc::clone(user), order);
        }
        for key in self.by_user.get(user).cloned().unwrap_or_default() {
            self.hurry(key);
        }
    }

    /// Something happened that may concern anybody.
    pub(super) fn hint_for_all(&mut self) {
        self.hint_for(|_| true);
    }

    /// Something happened to some tokens. Whatever call is under way may be about one of them, and settles nothing.
    pub(super) fn hint_for(&mut self, is_meant: impl Fn(&T) -> bool) {
        self.hints.clear();
        self.hint_for_all = self.next_order();
        let meant = self.entries.iter().filter(|(_, entry)| is_meant(&entry.token));
        let keys: Vec<_> = meant.map(|(key, _)| key).collect();
        for key in keys {
            self.hurry(key);
        }
    }

    /// The next token to ask about, out of those that `is_wanted`; the others are forgotten. A user has `share` calls a second before all others
    /// whose time has come.
    pub(super) fn next(&mut self, now_ms: u64, share: u32, is_wanted: impl Fn(&T) -> bool) -> Option<(Place, T)> {
        if self.second != now_ms / 1000 {
            self.second = now_ms / 1000;
            self.shares.clear();
        }
        loop {
            let (key, is_last_resort) = self.candidate(now_ms, share)?;
            let entry = self.entries.get_mut(key)?;
            if !is_wanted(&entry.token) {
                self.remove(Place(key));
                continue;
            }
            let used = self.shares.entry(Arc::clone(&entry.user)).or_insert(0);
            if *used >= share && !is_last_resort {
                self.set_aside.push_back((key, entry.mention));
                continue;
            }
            *used += 1;
            entry.mention = 0;
            return Some((Place(key), entry.token.clone()));
        }
    }

    /// When the next token is to be asked about that is not to be asked about already.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((due_ms, ..))| *due_ms)
    }

    /// The tokens.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| &entry.token)
    }

    /// How many should be asked about now, and wait for a call.
    pub(super) fn waiting(&self, now_ms: u64) -> usize {
        let overdue = self.due.iter().filter(|Reverse((due_ms, ..))| *due_ms <= now_ms);
        let overdue = overdue.filter(|Reverse((_, key, mention))| self.is_mentioned(*key, *mention)).count();
        let others = self.urgent.iter().chain(&self.set_aside);
        overdue + others.filter(|(key, mention)| self.is_mentioned(*key, *mention)).count()
    }

    /// A token whose turn it is, and whether it is taken only because nothing else waits.
    fn candidate(&mut self, now_ms: u64, share: u32) -> Option<(usize, bool)> {
        while let Some((key, mention)) = self.urgent.pop_front() {
            if self.is_mentioned(key, mention) {
                return Some((key, false));
            }
        }
        while let Some((key, mention)) = self.set_aside.front().copied() {
            if !self.is_mentioned(key, mention) {
                self.set_aside.pop_front();
                continue;
            }
            let user = self.entries.get(key).map(|entry| &entry.user);
            if user.is_some_and(|user| self.shares.get(user).copied().unwrap_or(0) >= share) {
                break;
            }
            self.set_aside.pop_front();
            return Some((key, false));
        }
        while let Some(Reverse((due_ms, key, mention))) = self.due.peek().copied() {
            if self.is_mentioned(key, mention) && due_ms > now_ms {
                break;
            }
            self.due.pop();
            if self.is_mentioned(key, mention) {
                return Some((key, false));
            }
        }
        let (key, _) = self.set_aside.pop_front()?;
        Some((key, true))
    }

    /// Puts a token among the urgent ones, unless it is being asked about.
    fn hurry(&mut self, key: usize) {
        let mention = self.next_order();
        // One that is being asked about comes again when that is over.
        if let Some(entry) = self.entries.get_mut(key)
            && entry.mention != 0
        {
            entry.mention = mention;
            self.urgent.push_back((key, mention));
        }
    }

    fn is_mentioned(&self, key: usize, mention: u64) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.mention == mention)
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue in which nobody's share is ever used up.
    struct Queue(InUse<&'static str>);

    impl Queue {
        /// With tokens of these users, due then.
        fn of(tokens: &[(&str, &'static str, u64)]) -> (Self, Vec<Place>) {
            let mut queue = InUse::new();
            let mut add = |(user, token, due_ms): &(&str, &'static str, u64)| {
                let begun = queue.begin();
                let place = queue.add(Arc::from(*user), *token);
                queue.again(place, begun, *due_ms);
                queue.end(begun);
                place
            };
            let places = tokens.iter().map(&mut add).collect();
            (Self(queue), places)
        }

        fn next(&mut self, now_ms: u64) -> Option<&'static str> {
            self.0.next(now_ms, u32::MAX, |_| true).map(|(_, token)| token)
        }
    }

    #[test]
    fn the_oldest_answer_is_asked_for_again_first_and_none_before_its_time() {
        let (mut queue, _) = Queue::of(&[("a", "late", 30), ("a", "early", 10), ("b", "middle", 20)]);
        assert_eq!((queue.next(9), queue.0.next_due_ms()), (None, Some(10)));
        assert_eq!(queue.0.waiting(20), 2);
        assert_eq!([queue.next(25), queue.next(25), queue.next(25)], [Some("early"), Some("middle"), None]);
        assert_eq!((queue.next(30), queue.next(1_000_000)), (Some("late"), None), "each is asked about once");
    }

    #[test]
    fn a_token_that_is_not_wanted_leaves() {
        let (mut queue, _) = Queue::of(&[("a", "unused", 10), ("a", "used", 20)]);
        let next = queue.0.next(50, 9, |token| *token == "used");
        assert_eq!(next.map(|(_, token)| token), Some("used"));
        assert_eq!(queue.0.tokens().collect::<Vec<_>>(), [&"used"]);
        queue.0.hint(&Arc::from("a"));
        assert_eq!(queue.next(50), None);
    }

    #[test]
    fn a_hint_brings_a_users_tokens_forward_and_nobody_elses() {
        let (mut queue, _) = Queue::of(&[("a", "a1", 100), ("b", "b1", 90), ("a", "a2", 80)]);
        queue.0.hint(&Arc::from("a"));
        queue.0.hint(&Arc::from("a"));
        let mut asked = [queue.next(1), queue.next(1)];
        asked.sort_unstable();
        assert_eq!((asked, queue.next(1)), ([Some("a1"), Some("a2")], None));
        queue.0.hint_for_all();
        assert_eq!((queue.next(1), queue.next(1)), (Some("b1"), None), "the others are being asked about");
        let (mut queue, _) = Queue::of(&[("a", "a1", 100), ("b", "b1", 90)]);
        queue.0.hint_for(|token| *token == "b1");
        assert_eq!((queue.next(1), queue.next(1)), (Some("b1"), None));
    }

    #[test]
    fn an_answer_to_a_call_from_before_the_hint_settles_nothing() {
        let (mut queue, places) = Queue::of(&[("a", "token", 10), ("b", "other", 10_000)]);
        for hint_all in [false, true] {
            assert_eq!(queue.next(20), Some("token"));
            let early = queue.0.begin();
            if hint_all {
                queue.0.hint_for_all()
            } else {
                queue.0.hint(&Arc::from("a"))
            };
            assert_eq!(queue.next(20), hint_all.then_some("other"));
            queue.0.again(places[0], early, 99);
            queue.0.end(early);
            assert_eq!(queue.next(20), Some("token"), "asked again at once");
            let late = queue.0.begin();
            queue.0.again(places[0], late, 20);
            queue.0.end(late);
        }
        assert!(queue.0.hints.is_empty());
    }

    #[test]
    fn a_hint_during_the_first_call_about_a_token_counts() {
        let mut queue = InUse::new();
        let (first, other) = (queue.begin(), queue.begin());
        queue.hint(&Arc::from("a"));
        queue.end(other);
        let place = queue.add(Arc::from("a"), "token");
        queue.again(place, first, 99);
        queue.end(first);
        assert_eq!(queue.next(1, 9, |_| true), Some((place, "token")));
    }

    #[test]
    fn a_user_with_many_tokens_delays_only_himself() {
        let mut tokens = vec![("many", "many", 10); 20];
        tokens.extend([("one", "one", 500), ("two", "two", 900)]);
        let (mut queue, _) = Queue::of(&tokens);
        let mut next = |now_ms| queue.0.next(now_ms, 3, |_| true).map(|(_, token)| token);
        let order: Vec<_> = std::iter::from_fn(|| next(999)).collect();
        assert_eq!(order[..6], ["many", "many", "many", "one", "two", "many"]);
        assert_eq!(order.len(), 22, "what nobody else needs is his");
        let (mut queue, _) = Queue::of(&[("many", "many", 10); 20]);
        for second in 1..=2 {
            for _ in 0..5 {
                assert_eq!(queue.0.next(second * 1000, 3, |_| true).map(|(_, token)| token), Some("many"));
            }
        }
    }

    #[test]
    fn a_token_asked_about_by_another_way_is_not_asked_about_twice() {
        let (mut queue, places) = Queue::of(&[("a", "token", 10)]);
        queue.0.taken(places[0]);
        assert_eq!(queue.next(20), None);
        queue.0.retry(places[0], 30);
        assert_eq!((queue.next(20), queue.next(30)), (None, Some("token")));
        queue.0.remove(places[0]);
        queue.0.retry(places[0], 30);
        assert_eq!(queue.next(40), None);
    }
}
