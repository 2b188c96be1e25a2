//! Everybody for whom a token is kept, in memory: what is known of each, when to look at whom, and what waits to be done.

use super::names::Names;
use super::offboard::TooMany;
use super::record::{Seen, User};
use super::store::Kept;
use crate::identity::{KeptToken, NoToken};
use crate::users::UserId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Who waits for a token.
pub(super) type Waiter = oneshot::Sender<Result<Arc<KeptToken>, NoToken>>;

/// All of it. Times are of the monotonic clock, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) users: HashMap<UserId, Entry>,
    due: BinaryHeap<Reverse<(u64, UserId)>>,
    pub(super) names: Names,
    /// When users were removed, in milliseconds since 1970.
    pub(super) removals: Vec<u64>,
    pub(super) is_removing: bool,
    /// Why nobody is removed.
    pub(super) held: Option<TooMany>,
    pub(super) waiters: HashMap<UserId, Vec<Waiter>>,
    pub(super) to_read: VecDeque<UserId>,
    pub(super) reads: usize,
    pub(super) lanes: [Queue; 2],
    /// Users of whom something is known that is not stored.
    pub(super) unstored: VecDeque<UserId>,
    pub(super) is_storing: bool,
    pub(super) store_after_ms: u64,
    pub(super) issuer: Issuer,
    pub(super) list: Task,
    pub(super) look: Task,
    pub(super) upkeep: Task,
    /// The ids of the keys that are published.
    pub(super) keys: Vec<String>,
}

/// One user.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) user: User,
    due_ms: Option<u64>,
    pub(super) is_reading: bool,
    pub(super) queued: Option<Lane>,
    pub(super) is_writing: bool,
    pub(super) is_unstored: bool,
    /// When the last write ended.
    pub(super) wrote_ms: u64,
}

/// Two ways to the place where tokens are written: whoever is to have none never waits for those who are to have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Empty,
    Fill,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) users: VecDeque<UserId>,
    pub(super) is_busy: bool,
}

/// How the issuer is doing.
#[derive(Debug, Default)]
pub(super) struct Issuer {
    /// When it was asked what it told last about users.
    pub(super) heard_ms: Option<u64>,
    /// The same before this process began, by our wall clock.
    pub(super) heard_unix_ms: u64,
    /// When it last failed to answer, if it did not answer since.
    pub(super) failed_ms: Option<u64>,
    pub(super) are_clocks_apart: bool,
}

/// Something that is done now and then.
#[derive(Debug, Default)]
pub(super) struct Task {
    pub(super) is_running: bool,
    pub(super) after_ms: u64,
    /// In a row.
    pub(super) failures: u32,
}

impl Lane {
    pub(super) const EVERY: [Self; 2] = [Self::Empty, Self::Fill];
}

impl Book {
    /// What the store holds.
    pub(super) fn restore(kept: Kept, names: Names) -> Self {
        let mut book = Self { names, removals: kept.removals, ..Self::default() };
        for (id, record) in kept.records {
            if let Some(name) = &record.namespace {
                book.names.restore(&id, name);
            }
            book.issuer.heard_unix_ms = book.issuer.heard_unix_ms.max(record.read_unix_ms);
            let user = User { record, ..User::default() };
            book.users.insert(id, Entry { user, ..Entry::default() });
        }
        book
    }

    pub(super) fn lane(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Empty => &mut self.lanes[0],
            Lane::Fill => &mut self.lanes[1],
        }
    }

    /// The user, who is made if they are not known: nothing of theirs was ever written, as far as is known.
    pub(super) fn entry(&mut self, id: &UserId) -> &mut Entry {
        self.users.entry(id.clone()).or_insert_with(|| {
            let mut entry = Entry::default();
            entry.user.live.seen = Seen::Absent;
            entry
        })
    }

    /// Looks at a user at this time, or earlier if that was to be.
    pub(super) fn schedule(&mut self, id: &UserId, at_ms: u64) {
        let Some(entry) = self.users.get_mut(id) else { return };
        if entry.due_ms.is_none_or(|due_ms| due_ms > at_ms) {
            entry.due_ms = Some(at_ms);
            self.due.push(Reverse((at_ms, id.clone())));
        }
    }

    /// Looks at a user now.
    pub(super) fn wake(&mut self, id: &UserId) {
        self.schedule(id, 0);
    }

    pub(super) fn wake_all(&mut self) {
        let everybody: Vec<_> = self.users.keys().cloned().collect();
        everybody.iter().for_each(|id| self.wake(id));
    }

    /// Somebody who is to be looked at by now.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<UserId> {
        while let Some(Reverse((at_ms, _))) = self.due.peek() {
            if *at_ms > now_ms {
                return None;
            }
            let Reverse((at_ms, id)) = self.due.pop()?;
            // What was put off or done earlier has another time.
            if let Some(entry) = self.users.get_mut(&id).filter(|entry| entry.due_ms == Some(at_ms)) {
                entry.due_ms = None;
                return Some(id);
            }
        }
        None
    }

    /// When somebody is to be looked at next.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// What is known of a user is to be stored.
    pub(super) fn note(&mut self, id: &UserId) {
        if let Some(entry) = self.users.get_mut(id)
            && !std::mem::replace(&mut entry.is_unstored, true)
        {
            self.unstored.push_back(id.clone());
        }
    }
}

/// The user's place among all, the same in every process.
pub(super) fn phase_ms(id: &UserId) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(id) % super::reserve::PERIOD_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(subject: &str) -> UserId {
        UserId::new("main", subject).unwrap()
    }

    #[test]
    fn whoever_is_due_comes_once_and_in_order() {
        let mut book = Book::default();
        for subject in ["a", "b", "c"] {
            book.entry(&id(subject));
        }
        book.schedule(&id("a"), 30);
        book.schedule(&id("b"), 20);
        book.schedule(&id("a"), 10);
        book.schedule(&id("a"), 15);
        book.schedule(&id("nobody"), 1);
        assert_eq!(book.next_ms(), Some(10));
        assert_eq!((book.pop_due(9), book.pop_due(10), book.pop_due(10)), (None, Some(id("a")), None));
        assert_eq!((book.pop_due(100), book.pop_due(100)), (Some(id("b")), None));
        book.wake(&id("c"));
        assert_eq!(book.pop_due(0), Some(id("c")));
    }
}
