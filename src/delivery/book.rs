//! Everybody for whom a token is kept, in memory: what is known of each, when to look at whom, and what waits to be done.

use super::home::Home;
use super::names::Names;
use super::offboard::TooMany;
use super::pace::Pace;
use super::record::{Seen, User};
use super::store::Kept;
use crate::identity::{KeptToken, NoToken};
use crate::kubernetes::Version;
use crate::users::UserId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Who waits for a token.
pub(super) type Waiter = oneshot::Sender<Result<Arc<KeptToken>, NoToken>>;

/// All of it. Times are of the monotonic clock, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) users: BTreeMap<UserId, Entry>,
    due: BinaryHeap<Reverse<(u64, UserId)>>,
    pub(super) names: Names,
    /// When users were removed, in milliseconds since 1970.
    pub(super) removals: Vec<u64>,
    pub(super) is_removing: bool,
    /// Why nobody is removed.
    pub(super) held: Option<TooMany>,
    pub(super) waiters: BTreeMap<UserId, Vec<Waiter>>,
    pub(super) to_read: VecDeque<UserId>,
    pub(super) reads: usize,
    pub(super) to_look: VecDeque<UserId>,
    pub(super) looks: usize,
    pub(super) to_settle: VecDeque<UserId>,
    pub(super) settles: usize,
    pub(super) lanes: [Queue; 2],
    /// Users for whom a fence held, in their turn to be filled.
    pub(super) fenced: VecDeque<UserId>,
    pub(super) fences: usize,
    /// Users whose tokens merely come to their end, in their turn to be refilled.
    pub(super) refills: VecDeque<UserId>,
    pace: Pace,
    /// The server asked for fewer requests until then.
    pub(super) calm_until_ms: u64,
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
    /// Whether others write beside us.
    pub(super) is_shared: bool,
    /// Whether times of reads are stored too.
    pub(super) counts_reads: bool,
    pub(super) leads: bool,
    pub(super) followed: Followed,
}

/// One user.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) user: User,
    due_ms: Option<u64>,
    pub(super) is_reading: bool,
    pub(super) is_looking: bool,
    pub(super) is_settling: bool,
    pub(super) is_removing: bool,
    pub(super) queued: Option<Lane>,
    /// A refill waits for its turn, or has it.
    pub(super) is_waiting: bool,
    pub(super) has_turn: bool,
    /// By lane.
    pub(super) writing: [bool; 2],
    /// What was seen when the fence was begun that held.
    pub(super) fence: Option<Version>,
    pub(super) is_unstored: bool,
    /// The gist of what is stored, of what is being stored, and of the bytes that stand there.
    pub(super) stored: Option<u64>,
    pub(super) storing: Option<u64>,
    pub(super) base: Option<u64>,
    /// When the last write ended.
    pub(super) wrote_ms: u64,
    /// When others were last seen to have changed what is ours to write.
    pub(super) tampered_ms: Option<u64>,
}

/// What is followed of a cluster.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Parts of the state of which everything was told.
    pub(super) parts: BTreeSet<usize>,
    pub(super) secrets: bool,
    pub(super) namespaces: bool,
    /// A watch broke off, and users' Secrets were not told anew since.
    pub(super) is_behind: bool,
    /// All records were told once.
    pub(super) is_restored: bool,
    /// And all that stands in the cluster.
    pub(super) is_whole: bool,
    /// Whose records lie in which part.
    pub(super) users: BTreeMap<usize, BTreeSet<UserId>>,
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
    /// Jobs.
    pub(super) running: usize,
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
    /// Nobody yet: who is known is told by the cluster.
    pub(super) fn shared(names: Names) -> Self {
        Self { names, is_shared: true, ..Self::default() }
    }

    /// What the store holds.
    pub(super) fn restore(kept: Kept, names: Names) -> Self {
        let mut book = Self { names, removals: kept.removals, counts_reads: true, ..Self::default() };
        for (id, record) in kept.records {
            if let Some(name) = &record.namespace {
                book.names.restore(&id, name);
            }
            book.issuer.heard_unix_ms = book.issuer.heard_unix_ms.max(record.read_unix_ms);
            let stored = Some(record.gist(true));
            let user = User { record, ..User::default() };
            book.users.insert(id, Entry { user, stored, ..Entry::default() });
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
        let is_shared = self.is_shared;
        self.users.entry(id.clone()).or_insert_with(|| {
            let mut entry = Entry::default();
            entry.user.live.seen = Seen::Absent;
            if is_shared {
                entry.user.live.home = Home::unready();
            }
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

    /// What is known of a user may have to be stored.
    pub(super) fn note(&mut self, id: &UserId) {
        // What is being stored is looked at again when that has ended.
        let Some(entry) = self.users.get_mut(id).filter(|entry| entry.storing.is_none()) else { return };
        if entry.stored == Some(entry.user.record.gist(self.counts_reads)) {
            entry.is_unstored = false;
        } else if !std::mem::replace(&mut entry.is_unstored, true) {
            self.unstored.push_back(id.clone());
        }
    }

    /// The next whose turn it is in a lane.
    pub(super) fn next_of(&mut self, lane: Lane) -> Option<UserId> {
        if self.is_shared && lane == Lane::Fill {
            let id = self.fenced.pop_front()?;
            if let Some(entry) = self.users.get_mut(&id) {
                entry.writing[Lane::Fill as usize] = false;
            }
            return Some(id);
        }
        loop {
            let id = self.lane(lane).users.pop_front()?;
            if let Some(entry) = self.users.get_mut(&id).filter(|entry| entry.queued == Some(lane)) {
                entry.queued = None;
                return Some(id);
            }
        }
    }

    /// Who may be refilled now, of those who can wait.
    pub(super) fn next_refill(&mut self, now_ms: u64) -> Option<UserId> {
        loop {
            let id = self.refills.front()?;
            // Who could not wait any longer did not.
            if let Some(entry) = self.users.get_mut(id).filter(|entry| entry.is_waiting) {
                if !self.pace.take(now_ms) {
                    return None;
                }
                (entry.is_waiting, entry.has_turn) = (false, true);
                return self.refills.pop_front();
            }
            self.refills.pop_front();
        }
    }

    /// A job that wrote has ended, for these.
    pub(super) fn end_write(&mut self, lane: Lane, users: &[UserId], now_ms: u64) {
        let queue = self.lane(lane);
        queue.running = queue.running.saturating_sub(1);
        for id in users {
            if let Some(entry) = self.users.get_mut(id) {
                entry.writing[lane as usize] = false;
                entry.wrote_ms = now_ms;
                entry.has_turn = false;
            }
        }
    }
}

impl Entry {
    /// Whether a write has to wait. Where a write names what it was decided on, emptying waits for nothing else: of two, one is done.
    pub(super) fn is_busy(&self, lane: Lane, is_shared: bool) -> bool {
        let is_emptying = self.writing[Lane::Empty as usize];
        match lane {
            Lane::Empty if is_shared => is_emptying,
            _ => is_emptying || self.writing[Lane::Fill as usize] || self.is_settling || self.is_removing,
        }
    }
}

/// The user's place among all, the same in every process.
pub(super) fn phase_ms(id: &UserId) -> u64 {
    hash_of(id) % super::reserve::PERIOD_MS
}

/// The same in every process.
pub(super) fn hash_of(id: &UserId) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(id)
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
