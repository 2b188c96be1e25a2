//! The loop: hears, plans, has things done, takes up what came of them. What waits for a disk or for the issuer is a job beside it.

use super::book::{Book, Lane, Task};
use super::record::Record;
use super::removal::{List, Removed};
use super::sink::Found;
use super::store::{StoreError, Write};
use super::{Delivery, Inbox, Roster};
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::identity::News;
use crate::issuer::keycloak::{Answer, KeycloakError, Person};
use crate::token_service::TokenService;
use crate::users::{Decision, State, UserId};
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinSet;

/// How often is read back what readers find.
const LOOK_EVERY_MS: u64 = 60_000;

/// The longest that nothing is looked at: the clock may have been moved.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What is known is stored at most so often, where nothing else is written with it.
const STORE_EVERY_MS: u64 = 1_000;

/// So much is taken up before something else is looked at.
const BATCH: usize = 1000;

/// What came of a job.
#[derive(Debug)]
pub(super) enum Done {
    /// The issuer was asked about a user.
    Read { id: UserId, outcome: Result<Answer<Option<Person>>, KeycloakError> },
    /// Tokens were written, or emptied.
    Written { lane: Lane, written: Vec<(UserId, io::Result<Found>)>, stored: Result<(), StoreError> },
    /// Something was stored.
    Stored { users: Vec<UserId>, outcome: Result<(), StoreError> },
    /// It was read back what readers find.
    Looked { began_ms: u64, found: Vec<(UserId, io::Result<Found>)> },
    /// All users were listed.
    Listed(Box<List>),
    /// What was some users' was removed.
    Removed(Vec<Removed>),
}

/// What is to be written for a user.
pub(super) struct Order {
    pub(super) id: UserId,
    pub(super) record: Box<Record>,
    pub(super) text: Secret,
}

/// What all plans of one turn have in common.
pub(super) struct Turn<'a> {
    pub(super) now: Now,
    pub(super) keys: &'a [&'a str],
    pub(super) service: &'a TokenService,
}

impl<R: Roster> Delivery<R> {
    /// Keeps tokens fresh for ever; dropping the future ends it. Once, on the control plane.
    pub async fn run(self: Arc<Self>) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = inbox else { return };
        if !self.begin().await {
            return;
        }
        let mut jobs = JoinSet::new();
        loop {
            let pause = self.turn(&mut jobs);
            tokio::select! {
                biased;
                decision = inbox.decisions.recv() => match decision {
                    Ok(decision) => self.hear_decision(&decision),
                    Err(RecvError::Lagged(_)) => self.book().wake_all(),
                    Err(RecvError::Closed) => return,
                },
                Some(done) = jobs.join_next() => match done {
                    Ok(done) => self.take_up(done),
                    Err(error) if error.is_cancelled() => return,
                    Err(error) => tracing::error!(%error, "a write or a read of users' tokens broke off"),
                },
                Some(news) = inbox.news.recv() => self.hear(news),
                () = tokio::time::sleep(pause) => {}
            }
            self.drain(&mut inbox, &mut jobs);
        }
    }

    /// Looks at what is there, before anything is done about it.
    async fn begin(&self) -> bool {
        let everybody: Vec<_> = self.book().users.keys().cloned().collect();
        let sink = Arc::clone(&self.sink);
        let looked = tokio::task::spawn_blocking(move || {
            everybody.into_iter().map(|id| (sink.read(&id), id)).map(|(found, id)| (id, found)).collect::<Vec<_>>()
        });
        let Ok(found) = looked.await else { return false };
        let now = self.clock.now();
        let mut book = self.book();
        self.see(&mut book, found, u64::MAX, now);
        // Who is in again since a block has signed in, and that may have been told while no delivery listened.
        for view in self.users.list() {
            let has_signed_in = view.state == State::Active && view.threshold_ms > 0;
            if let Some(entry) = book.users.get_mut(&view.user).filter(|_| has_signed_in) {
                entry.user.record.has_signed_in = true;
            }
        }
        self.settle_names(&mut book);
        book.look.after_ms = now.monotonic_ms + LOOK_EVERY_MS;
        book.wake_all();
        true
    }

    /// Takes up what else is there.
    fn drain(&self, inbox: &mut Inbox, jobs: &mut JoinSet<Done>) {
        for _ in 0..BATCH {
            match inbox.decisions.try_recv() {
                Ok(decision) => self.hear_decision(&decision),
                Err(TryRecvError::Lagged(_)) => self.book().wake_all(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        for _ in 0..BATCH {
            let Ok(news) = inbox.news.try_recv() else { break };
            self.hear(news);
        }
        while let Some(Ok(done)) = jobs.try_join_next() {
            self.take_up(done);
        }
    }

    /// Plans for everybody who is due, and has begun what can begin. Gives for how long nothing more is due.
    fn turn(&self, jobs: &mut JoinSet<Done>) -> Duration {
        let now = self.clock.now();
        let service = (self.token_service)();
        let ring = service.ring();
        let keys: Vec<_> = ring.published().iter().map(|key| key.id()).collect();
        let turn = Turn { now, keys: &keys, service: &service };
        let mut book = self.book();
        let book = &mut *book;
        self.compare_clocks(book, now);
        if book.keys != keys {
            book.keys = keys.iter().map(ToString::to_string).collect();
            book.wake_all();
        }
        while let Some(id) = book.pop_due(now.monotonic_ms) {
            self.consider(book, &id, &turn);
        }
        for lane in Lane::EVERY {
            self.start_writes(book, lane, &turn, jobs);
        }
        self.start_reads(book, jobs);
        self.start_store(book, now, jobs);
        if book.look.is_due(now) {
            self.start_look(book, now, jobs);
        }
        if book.list.is_due(now) {
            self.start_list(book, jobs);
        }
        if book.upkeep.is_due(now) {
            book.upkeep.end(now, Duration::from_secs(1));
            self.start_removal(book, now, jobs);
            self.measure(book, now);
        }
        let next_ms = book.next_ms().unwrap_or(u64::MAX).saturating_sub(now.monotonic_ms);
        Duration::from_millis(next_ms).min(LONGEST_PAUSE)
    }

    fn take_up(&self, done: Done) {
        let now = self.clock.now();
        let mut book = self.book();
        match done {
            Done::Read { id, outcome } => self.take_up_read(&mut book, &id, outcome, now),
            Done::Written { lane, written, stored } => self.take_up_written(&mut book, lane, written, stored, now),
            Done::Stored { users, outcome } => self.take_up_stored(&mut book, &users, outcome, now),
            Done::Looked { began_ms, found } => {
                book.look.end(now, Duration::from_millis(LOOK_EVERY_MS));
                let seen: Vec<_> = found.iter().map(|(id, _)| id.clone()).collect();
                self.see(&mut book, found, began_ms, now);
                seen.iter().for_each(|id| book.wake(id));
                for (id, entry) in &book.users {
                    self.observe(id, entry, now);
                }
            }
            Done::Listed(list) => self.take_up_list(&mut book, *list, now),
            Done::Removed(removed) => self.take_up_removed(&mut book, removed, now),
        }
    }

    /// Whether our clock and the issuer's agree. Said when it changes.
    fn compare_clocks(&self, book: &mut Book, now: Now) {
        let ahead_ms = self.roster.load().time().map_or(0, |time| time.ahead_ms(now.unix_ms));
        let are_apart = ahead_ms.unsigned_abs() > super::reserve::CLOCKS_MS;
        if std::mem::replace(&mut book.issuer.are_clocks_apart, are_apart) != are_apart {
            let (issuer, seconds) = (&*self.settings.issuer, ahead_ms / 1000);
            if are_apart {
                tracing::error!(issuer, seconds, "the issuer's clock is ahead of ours by too much: no token is minted");
            } else {
                tracing::info!(issuer, "the issuer's clock and ours agree again");
            }
            book.wake_all();
        }
    }

    /// Has stored what is known and was not written with anything else.
    fn start_store(&self, book: &mut Book, now: Now, jobs: &mut JoinSet<Done>) {
        if book.is_storing || book.unstored.is_empty() || now.monotonic_ms < book.store_after_ms {
            return;
        }
        let (mut users, mut writes) = (Vec::new(), Vec::new());
        while let Some(id) = book.unstored.pop_front() {
            if let Some(entry) = book.users.get_mut(&id)
                && std::mem::take(&mut entry.is_unstored)
            {
                writes.push(Write::Put(id.clone(), Box::new(entry.user.record.clone())));
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
        let store = Arc::clone(&self.store);
        jobs.spawn_blocking(move || {
            let outcome = store.lock().unwrap_or_else(PoisonError::into_inner).commit(&writes);
            Done::Stored { users, outcome }
        });
    }

    fn take_up_stored(&self, book: &mut Book, users: &[UserId], outcome: Result<(), StoreError>, now: Now) {
        book.is_storing = false;
        book.store_after_ms = now.monotonic_ms + STORE_EVERY_MS;
        if outcome.is_err() {
            users.iter().for_each(|id| book.note(id));
        }
        self.note_stored(outcome);
    }

    /// Said once when it begins to fail, and once when it is over.
    pub(super) fn note_stored(&self, outcome: Result<(), StoreError>) {
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

    fn start_look(&self, book: &mut Book, now: Now, jobs: &mut JoinSet<Done>) {
        book.look.is_running = true;
        let everybody: Vec<_> = book.users.keys().cloned().collect();
        let (sink, began_ms) = (Arc::clone(&self.sink), now.monotonic_ms);
        jobs.spawn_blocking(move || {
            let found = everybody.into_iter().map(|id| (sink.read(&id), id)).map(|(found, id)| (id, found));
            Done::Looked { began_ms, found: found.collect() }
        });
    }

    /// Notes what readers find, where nothing was written since the look began.
    fn see(&self, book: &mut Book, found: Vec<(UserId, io::Result<Found>)>, began_ms: u64, now: Now) {
        for (id, found) in found {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            if entry.is_writing || entry.wrote_ms >= began_ms {
                continue;
            }
            let live = &mut entry.user.live;
            match found {
                Ok(found) => {
                    live.seen = live.seen.after(found, now);
                    self.hand_out(&id, &entry.user);
                }
                // It is written again, which shows whether that can be.
                Err(error) => {
                    tracing::warn!(user = %id, %error, "a token cannot be read back");
                    live.seen = super::record::Seen::Foreign;
                }
            }
        }
    }

    /// What is told by who decides about users.
    fn hear_decision(&self, decision: &Decision) {
        self.take_up_decision(&mut self.book(), decision);
    }

    fn hear(&self, news: News) {
        let now = self.clock.now();
        self.take_up_news(&mut self.book(), news, now);
    }
}

impl Task {
    fn is_due(&self, now: Now) -> bool {
        !self.is_running && now.monotonic_ms >= self.after_ms
    }

    pub(super) fn end(&mut self, now: Now, pause: Duration) {
        self.is_running = false;
        self.after_ms = now.monotonic_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
    }
}
