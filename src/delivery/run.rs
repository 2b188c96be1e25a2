//! The loop: hears, plans, has things done, takes up what came of them. What waits for a disk or for the issuer is a job beside it.

use super::book::{Book, Lane, Task};
use super::follow::{self, Follow};
use super::jobs::{Job, Jobs};
use super::removal::{List, Removed};
use super::secrets::Settled;
use super::sink::{Found, SinkError};
use super::store::{Store, StoreError, Stored};
use super::write::Written;
use super::{Delivery, Inbox, Roster};
use crate::base::clock::Now;
use crate::identity::News;
use crate::issuer::keycloak::{Answer, KeycloakError, Person};
use crate::kubernetes::Version;
use crate::token_service::TokenService;
use crate::users::{Decision, State, UserId};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// How often is read back what readers find.
pub(super) const LOOK_EVERY_MS: u64 = 60_000;

/// The longest that nothing is looked at: the clock may have been moved.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// While refills wait for their turn it is looked again after this.
const PACE: Duration = Duration::from_millis(50);

/// So much is taken up before something else is looked at.
pub(super) const BATCH: usize = 1000;

/// What came of a job.
#[derive(Debug)]
pub(super) enum Done {
    /// The issuer was asked about a user.
    Read { id: UserId, outcome: Result<Answer<Option<Person>>, KeycloakError> },
    /// It was looked what one user's readers find.
    Found { id: UserId, found: Result<Found, SinkError> },
    /// A user's namespace was made, or put right.
    Settled { id: UserId, settled: Result<Settled, SinkError> },
    /// It was asked of all replicas what is known against these users, of whom this had been seen before.
    Fenced { users: Vec<(UserId, Version)>, outcome: Result<(), String> },
    /// Tokens were written, or emptied.
    Written { lane: Lane, written: Vec<Written> },
    /// Something was stored.
    Stored { users: Vec<UserId>, outcome: Result<Vec<(UserId, Stored)>, StoreError> },
    /// It was read back what readers find.
    Looked { began_ms: u64, found: Vec<(UserId, Result<Found, SinkError>)> },
    /// All users were listed.
    Listed(Box<List>),
    /// What was some users' was removed.
    Removed(Vec<Removed>),
}

/// What all plans of one turn have in common.
pub(super) struct Turn<'a> {
    pub(super) now: Now,
    pub(super) keys: &'a [&'a str],
    pub(super) service: &'a TokenService,
    /// Whether this process may do what only one may.
    pub(super) leads: bool,
}

impl<R: Roster> Delivery<R> {
    /// Keeps tokens fresh for ever; dropping the future ends it. Once, on the control plane.
    pub async fn run(self: Arc<Self>) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = inbox else { return };
        let mut follow = match self.follow() {
            Ok(follow) => follow,
            Err(error) => {
                tracing::error!(%error, "nothing can be followed");
                return;
            }
        };
        if follow.is_none() {
            self.begin().await;
        }
        let mut jobs = Jobs::default();
        loop {
            let pause = self.turn(&mut jobs);
            let is_restored = self.book().followed.is_restored;
            let event = async {
                match &mut follow {
                    Some(follow) => follow.next(is_restored).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                decision = inbox.decisions.recv() => match decision {
                    Ok(decision) => self.hear_decision(&decision),
                    Err(RecvError::Lagged(_)) => self.book().wake_all(),
                    Err(RecvError::Closed) => return,
                },
                done = jobs.next() => self.take_up(done),
                event = event => match event {
                    Some(event) => self.take_up_event(&mut self.book(), event, self.clock.now()),
                    None => return,
                },
                Some(news) = inbox.news.recv() => self.hear(news),
                () = tokio::time::sleep(pause) => {}
            }
            self.drain(&mut inbox, follow.as_mut(), &mut jobs);
        }
    }

    fn follow(&self) -> Result<Option<Follow>, crate::kubernetes::KubernetesError> {
        let (Some((cluster, _)), Store::Shared(store)) = (&self.cluster, &self.store) else { return Ok(None) };
        Follow::start(cluster, store.state()).map(Some)
    }

    /// Looks at what is there, before anything is done about it.
    async fn begin(&self) {
        let everybody: Vec<_> = self.book().users.keys().cloned().collect();
        let found = self.sink.read_all(everybody).await;
        let now = self.clock.now();
        let mut book = self.book();
        self.see_all(&mut book, found, u64::MAX, now);
        self.note_returned(&mut book);
        self.settle_names(&mut book);
        book.look.after_ms = now.monotonic_ms + LOOK_EVERY_MS;
        book.wake_all();
    }

    /// Who is in again since a block has signed in, and that may have been told while no delivery listened.
    pub(super) fn note_returned(&self, book: &mut Book) {
        for view in self.users.list() {
            let has_signed_in = view.state == State::Active && view.threshold_ms > 0;
            if let Some(entry) = book.users.get_mut(&view.user).filter(|_| has_signed_in) {
                entry.user.record.has_signed_in = true;
                book.note(&view.user);
            }
        }
    }

    /// Takes up what else is there.
    fn drain(&self, inbox: &mut Inbox, follow: Option<&mut Follow>, jobs: &mut Jobs) {
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
        while let Some(done) = jobs.try_next() {
            self.take_up(done);
        }
        let Some(follow) = follow else { return };
        for _ in 0..BATCH {
            let mut book = self.book();
            let Some(event) = follow.try_next(book.followed.is_restored) else { break };
            self.take_up_event(&mut book, event, self.clock.now());
        }
    }

    /// Plans for everybody who is due, and has begun what can begin. Gives for how long nothing more is due.
    fn turn(&self, jobs: &mut Jobs) -> Duration {
        let now = self.clock.now();
        let mut book = self.book();
        let book = &mut *book;
        if book.is_shared && !book.followed.is_whole {
            return LONGEST_PAUSE;
        }
        let service = (self.token_service)();
        let ring = service.ring();
        let keys: Vec<_> = ring.published().iter().map(|key| key.id()).collect();
        // Who has no keys yet can fill nothing, however it stands.
        let leads = self.leads.is_leader(now) && ring.current().is_some();
        let turn = Turn { now, keys: &keys, service: &service, leads };
        self.note_lead(book, turn.leads, now);
        self.compare_clocks(book, now);
        if book.keys != keys {
            book.keys = keys.iter().map(ToString::to_string).collect();
            self.judge_again(book, &service, now);
            book.wake_all();
        }
        while let Some(id) = book.pop_due(now.monotonic_ms) {
            self.consider(book, &id, &turn);
        }
        if turn.leads {
            self.start_reads(book, jobs);
            self.start_refills(book, &turn, jobs);
        }
        self.start_fences(book, &turn, jobs);
        for lane in Lane::EVERY {
            self.start_writes(book, lane, &turn, jobs);
        }
        self.start_looks(book, jobs);
        self.start_settles(book, &turn, jobs);
        if turn.leads {
            self.start_store(book, now, jobs);
            if book.list.is_due(now) {
                self.start_list(book, jobs);
            }
        }
        if book.look.is_due(now) {
            self.start_look(book, now, jobs);
        }
        if book.upkeep.is_due(now) {
            book.upkeep.end(now, Duration::from_secs(1));
            if turn.leads {
                self.start_removal(book, now, jobs);
            }
            self.measure(book, now);
        }
        let waits = !book.refills.is_empty() || book.is_shared && !book.lane(Lane::Fill).users.is_empty();
        let longest = if waits { PACE } else { LONGEST_PAUSE };
        let next_ms = book.next_ms().unwrap_or(u64::MAX).saturating_sub(now.monotonic_ms);
        Duration::from_millis(next_ms).min(longest)
    }

    /// Leadership came or went: who leads plans for everybody, and looks soon who there is.
    fn note_lead(&self, book: &mut Book, leads: bool, now: Now) {
        if std::mem::replace(&mut book.leads, leads) == leads {
            return;
        }
        self.counts.leads(leads);
        if leads {
            book.list.after_ms = 0;
            self.settle_names(book);
            follow::spread_looks(book, now);
            let everybody: Vec<_> = book.users.keys().cloned().collect();
            everybody.iter().for_each(|id| book.note(id));
            book.wake_all();
        }
    }

    /// A token that no key of ours had signed may be one of a key that is known by now.
    fn judge_again(&self, book: &mut Book, service: &TokenService, now: Now) {
        for (id, entry) in &mut book.users {
            if let super::record::Seen::Token(held) = &entry.user.live.seen
                && held.said.is_none()
            {
                let content = super::sink::Content::Text(held.token.clone());
                let found = Found { content, stand: entry.user.live.stand.clone() };
                self.see(id, entry, found, service, now);
            }
        }
    }

    fn take_up(&self, done: Result<Done, Job>) {
        let now = self.clock.now();
        let mut book = self.book();
        match done {
            Err(job) => self.take_up_broken(&mut book, job, now),
            Ok(Done::Read { id, outcome }) => self.take_up_read(&mut book, &id, outcome, now),
            Ok(Done::Found { id, found }) => self.take_up_look(&mut book, &id, found, now),
            Ok(Done::Settled { id, settled }) => self.take_up_settled(&mut book, &id, settled, now),
            Ok(Done::Fenced { users, outcome }) => self.take_up_fenced(&mut book, users, outcome, now),
            Ok(Done::Written { lane, written }) => self.take_up_written(&mut book, lane, written, now),
            Ok(Done::Stored { users, outcome }) => self.take_up_stored(&mut book, &users, outcome, now),
            Ok(Done::Looked { began_ms, found }) => {
                book.look.end(now, Duration::from_millis(LOOK_EVERY_MS));
                let seen: Vec<_> = found.iter().map(|(id, _)| id.clone()).collect();
                self.see_all(&mut book, found, began_ms, now);
                seen.iter().for_each(|id| book.wake(id));
                self.observe_all(&book, now);
            }
            Ok(Done::Listed(list)) => self.take_up_list(&mut book, *list, now),
            Ok(Done::Removed(removed)) => self.take_up_removed(&mut book, removed, now),
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

    fn start_look(&self, book: &mut Book, now: Now, jobs: &mut Jobs) {
        book.look.is_running = true;
        let everybody: Vec<_> = book.users.keys().cloned().collect();
        let (sink, began_ms) = (self.sink.clone(), now.monotonic_ms);
        jobs.spawn(Job::LookAll, async move { Done::Looked { began_ms, found: sink.read_all(everybody).await } });
    }

    /// Notes what readers find, where nothing was written since the look began.
    fn see_all(&self, book: &mut Book, found: Vec<(UserId, Result<Found, SinkError>)>, began_ms: u64, now: Now) {
        let service = (self.token_service)();
        for (id, found) in found {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            if entry.is_busy(Lane::Fill, false) || entry.wrote_ms >= began_ms {
                continue;
            }
            match found {
                Ok(found) => self.see(&id, entry, found, &service, now),
                // It is written again, which shows whether that can be.
                Err(error) => {
                    tracing::warn!(user = %id, %error, "a token cannot be read back");
                    entry.user.live.seen = super::record::Seen::Foreign;
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
