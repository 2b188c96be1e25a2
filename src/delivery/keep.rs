//! What is known is stored before it is acted on; and whoever a job was for that broke off is looked at again.

use super::book::{Book, Lane};
use super::jobs::{Job, Jobs};
use super::run::{BATCH, Done, LOOK_EVERY_MS};
use super::store::{Store, StoreError, Stored, Write};
use super::{Delivery, Roster};
use crate::base::clock::Now;
use crate::users::UserId;
use std::time::Duration;

/// What is known is stored at most so often, where nobody waits for it.
const STORE_EVERY_MS: u64 = 1_000;

impl<R: Roster> Delivery<R> {
    /// Has stored what is known.
    pub(super) fn start_store(&self, book: &mut Book, now: Now, jobs: &mut Jobs) {
        if book.is_storing || book.unstored.is_empty() || now.monotonic_ms < book.store_after_ms {
            return;
        }
        let (mut users, mut writes) = (Vec::new(), Vec::new());
        while let Some(id) = book.unstored.pop_front() {
            if let Some(entry) = book.users.get_mut(&id)
                && entry.is_unstored
                && entry.storing.is_none()
            {
                let record = Box::new(entry.user.record.clone());
                entry.storing = Some(record.gist(book.counts_reads));
                writes.push(Write::Put { user: id.clone(), record, base: entry.base });
                users.push(id);
            }
            if writes.len() >= BATCH {
                break;
            }
        }
        if writes.is_empty() {
            return;
        }
        book.is_storing = true;
        let store: Store = self.store.clone();
        jobs.spawn(Job::Store(users.clone()), async move {
            let outcome = store.commit(writes).await;
            Done::Stored { users, outcome }
        });
    }

    pub(super) fn take_up_stored(
        &self,
        book: &mut Book,
        users: &[UserId],
        outcome: Result<Vec<(UserId, Stored)>, StoreError>,
        now: Now,
    ) {
        book.is_storing = false;
        book.store_after_ms = now.monotonic_ms + STORE_EVERY_MS;
        for id in users {
            let Some(entry) = book.users.get_mut(id) else { continue };
            let storing = entry.storing.take();
            if outcome.is_ok() {
                entry.stored = storing;
            }
            entry.is_unstored = false;
            book.note(id);
            book.schedule(id, book.store_after_ms + 1);
        }
        let outcome = outcome.map(|stored| {
            for (id, stored) in stored {
                match stored {
                    Stored::Done(base) => {
                        if let Some(entry) = book.users.get_mut(&id) {
                            entry.base = base.or(entry.base);
                        }
                    }
                    Stored::Superseded(value) => self.adopt(book, &id, &value, now),
                }
                book.wake(&id);
            }
        });
        self.note_stored(outcome);
    }

    /// Said once when it begins to fail, and once when it is over.
    fn note_stored(&self, outcome: Result<(), StoreError>) {
        let is_failing = outcome.is_err();
        let was_failing = self.counts.is_store_failing(is_failing);
        match outcome {
            Err(error) if !was_failing => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(error, "what is known of users' tokens cannot be stored: none is minted");
            }
            Ok(()) if was_failing => tracing::info!("what is known of users' tokens is stored again"),
            Ok(()) | Err(_) => {}
        }
    }

    /// A job broke off: it is not known what of it was done, and whoever it was for is looked at again.
    pub(super) fn take_up_broken(&self, book: &mut Book, job: Job, now: Now) {
        let users = match job {
            Job::LookAll => return book.look.end(now, Duration::from_millis(LOOK_EVERY_MS)),
            Job::List => return book.list.end(now, Duration::from_millis(LOOK_EVERY_MS)),
            Job::Store(users) => {
                (book.is_storing, book.store_after_ms) = (false, now.monotonic_ms + STORE_EVERY_MS);
                for id in &users {
                    if let Some(entry) = book.users.get_mut(id) {
                        (entry.storing, entry.is_unstored) = (None, false);
                    }
                    book.note(id);
                    book.schedule(id, book.store_after_ms + 1);
                }
                return;
            }
            Job::Read(id) => {
                book.reads = book.reads.saturating_sub(1);
                vec![id]
            }
            Job::Look(id) => {
                book.looks = book.looks.saturating_sub(1);
                vec![id]
            }
            Job::Settle(id) => {
                book.settles = book.settles.saturating_sub(1);
                vec![id]
            }
            Job::Fence(users) => {
                book.fences = book.fences.saturating_sub(1);
                let fill = Lane::Fill as usize;
                let free = |id: &UserId| book.users.get_mut(id).map(|entry| entry.writing[fill] = false);
                users.iter().map(free).for_each(drop);
                users
            }
            Job::Write(lane, users) => {
                book.end_write(lane, &users, now.monotonic_ms);
                users
            }
            Job::Remove(users) => {
                book.is_removing = false;
                users
            }
        };
        for id in users {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            (entry.is_reading, entry.is_looking, entry.is_settling, entry.is_removing) = (false, false, false, false);
            entry.user.live.failures.note_read(now.monotonic_ms);
            entry.user.live.failures.note_write(now.monotonic_ms);
            entry.user.live.home.fail(0, now);
            book.wake(&id);
        }
    }
}
