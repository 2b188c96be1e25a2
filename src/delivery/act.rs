//! From a plan to what is done, and what came of it.

use super::book::{Book, Issuer, Lane, phase_ms};
use super::plan::{self, Act, Plan, Why, World};
use super::record::{Facts, Seen, User, Written, digest_of};
use super::run::{Done, Order, Turn};
use super::sink::Found;
use super::store::{StoreError, Write};
use super::{Delivery, Roster};
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::identity::{KeptToken, NoToken};
use crate::issuer::keycloak::{Answer, KeycloakError, Person};
use crate::token_service::CredentialCache;
use crate::users::UserId;
use std::io;
use std::sync::{Arc, PoisonError};
use tokio::task::JoinSet;

/// Users asked about at once.
const READS_AT_ONCE: usize = 16;

/// Tokens written by one job: whoever is blocked meanwhile waits for it.
const WRITES_AT_ONCE: usize = 32;

/// After a failure nobody else is asked about for so long.
const PAUSE_MS: u64 = 2_000;

/// Keycloak's name for the user of a service account begins so. They are nobody's.
const SERVICE_ACCOUNT: &str = "service-account-";

impl<R: Roster> Delivery<R> {
    /// Plans for a user, and lines up what is to be done.
    pub(super) fn consider(&self, book: &mut Book, id: &UserId, turn: &Turn<'_>) {
        let Some(entry) = book.users.get_mut(id) else { return };
        // When that has ended it is looked at again.
        if entry.is_writing {
            return;
        }
        let (plan, why) = self.plan(id, &entry.user, &book.issuer, turn);
        if why.is_some() {
            self.bulletin.keep(id, None);
        }
        match plan.act {
            Act::Rest => {}
            Act::Read if entry.is_reading => {}
            Act::Read => {
                entry.is_reading = true;
                book.to_read.push_back(id.clone());
            }
            Act::Fill => line_up(book, id, Lane::Fill),
            Act::Empty => line_up(book, id, Lane::Empty),
        }
        if let Some(next_ms) = plan.next_ms {
            book.schedule(id, next_ms.max(turn.now.monotonic_ms + 1));
        }
        match why {
            Some(Why::NoNamespace) => self.answer(book, id, &Err(NoToken::NoNamespace)),
            Some(Why::NeverSignedIn) => self.answer(book, id, &Err(NoToken::NeverSignedIn)),
            Some(Why::Out(_)) => self.answer(book, id, &Err(NoToken::NotNow)),
            Some(Why::SaidToBeOut) | None => {}
        }
    }

    /// The plan for a user, and why they are to have no token, if so.
    pub(super) fn plan(&self, id: &UserId, user: &User, issuer: &Issuer, turn: &Turn<'_>) -> (Plan, Option<Why>) {
        let (state, epoch) = self.users.standing(id, turn.now);
        let now = turn.now;
        let silent_ms = match issuer.heard_ms {
            Some(heard_ms) => Some(now.monotonic_ms.saturating_sub(heard_ms)),
            None if issuer.heard_unix_ms > 0 => now.unix_ms.checked_sub(issuer.heard_unix_ms),
            None => None,
        };
        let world = World {
            now,
            state,
            epoch,
            claims: &user.record.claims(&self.settings.issue),
            keys: turn.keys,
            are_clocks_right: !issuer.are_clocks_apart,
            is_answering: issuer.failed_ms.is_none_or(|failed_ms| now.monotonic_ms >= failed_ms + PAUSE_MS),
            silent_ms,
            allow_for_ms: u64::try_from(self.settings.allow_for.as_millis()).unwrap_or(u64::MAX),
            phase_ms: phase_ms(id),
        };
        (plan::plan(user, &world), plan::why_empty(user, state))
    }

    pub(super) fn start_reads(&self, book: &mut Book, jobs: &mut JoinSet<Done>) {
        while book.reads < READS_AT_ONCE
            && let Some(id) = book.to_read.pop_front()
        {
            book.reads += 1;
            let (roster, ceiling) = (self.roster.load_full(), Arc::clone(self.link.ceiling()));
            jobs.spawn(async move {
                // Three calls, one after another.
                drop(ceiling.begin_read().await);
                drop(ceiling.begin_read().await);
                let _turn = ceiling.begin_read().await;
                let outcome = roster.person(id.subject()).await;
                Done::Read { id, outcome }
            });
        }
    }

    pub(super) fn take_up_read(
        &self,
        book: &mut Book,
        id: &UserId,
        outcome: Result<Answer<Option<Person>>, KeycloakError>,
        now: Now,
    ) {
        book.reads = book.reads.saturating_sub(1);
        let Some(entry) = book.users.get_mut(id) else { return };
        entry.is_reading = false;
        let answer = match outcome {
            // Or its directory does not answer.
            Ok(Answer { value: Some(person), .. }) if person.is_federated && !person.listed.enabled => {
                entry.user.live.failures.note_read(now.monotonic_ms);
                return book.wake(id);
            }
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(user = %id, %error, "a user cannot be read");
                entry.user.live.failures.note_read(now.monotonic_ms);
                if !matches!(error, KeycloakError::NoId) {
                    book.issuer.failed_ms = Some(now.monotonic_ms);
                }
                return book.wake(id);
            }
        };
        book.issuer.failed_ms = None;
        book.issuer.heard_ms = book.issuer.heard_ms.max(Some(answer.asked_ms));
        let is_nobody = answer.value.as_ref().is_some_and(|person| person.listed.username.starts_with(SERVICE_ACCOUNT));
        if is_nobody && entry.user.record.namespace.is_none() {
            book.users.remove(id);
            return self.answer(book, id, &Err(NoToken::NoNamespace));
        }
        let asked_ago_ms = now.monotonic_ms.saturating_sub(answer.asked_ms);
        let User { record, live } = &mut entry.user;
        live.failures.reads = 0;
        live.failures.read_after_ms = 0;
        live.read_ms = Some(answer.asked_ms);
        live.doubted_ms = live.doubted_ms.filter(|doubted_ms| *doubted_ms > answer.asked_ms);
        record.read_unix_ms = now.unix_ms.saturating_sub(asked_ago_ms);
        match answer.value {
            Some(Person { listed, roles, groups, .. }) => {
                let (username, email, enabled) = (listed.username, listed.email, listed.enabled);
                record.facts = Facts { username, email, roles, groups, enabled };
                record.gone = None;
                record.is_offboarded = false;
            }
            None => record.facts.enabled = false,
        }
        if !record.facts.enabled {
            // What follows from that is decided where everything about users is.
            self.link.reread(id.clone());
        }
        self.settle(book, id);
    }

    /// Gives a user a namespace, if they have none and may have one; what is known of them changed.
    pub(super) fn settle(&self, book: &mut Book, id: &UserId) {
        let Book { users, names, .. } = book;
        if let Some(entry) = users.get_mut(id) {
            let had_one = entry.user.record.namespace.is_some();
            names.settle(&self.settings.namespace, id, &mut entry.user);
            if !had_one && entry.user.record.namespace.is_some() {
                entry.user.record.named_unix_ms = self.clock.now().unix_ms;
            }
            self.bulletin.record(id, entry.user.record.namespace.as_deref());
            book.note(id);
            book.wake(id);
        }
    }

    /// Begins to write what is lined up, each as it is planned at this moment.
    pub(super) fn start_writes(&self, book: &mut Book, lane: Lane, turn: &Turn<'_>, jobs: &mut JoinSet<Done>) {
        if book.lane(lane).is_busy {
            return;
        }
        let mut orders = Vec::new();
        while orders.len() < WRITES_AT_ONCE
            && let Some(id) = book.lane(lane).users.pop_front()
        {
            let Some(entry) = book.users.get_mut(&id).filter(|entry| entry.queued == Some(lane)) else { continue };
            entry.queued = None;
            if entry.is_writing {
                continue;
            }
            let (plan, _) = self.plan(&id, &entry.user, &book.issuer, turn);
            let text = match (lane, plan.act) {
                (Lane::Empty, Act::Empty) => {
                    entry.user.record.written = None;
                    Secret::new("")
                }
                (Lane::Fill, Act::Fill) => match self.mint(&id, &mut entry.user, turn) {
                    Some(token) => token,
                    None => {
                        entry.user.live.failures.note_write(turn.now.monotonic_ms);
                        book.wake(&id);
                        continue;
                    }
                },
                _ => {
                    book.wake(&id);
                    continue;
                }
            };
            entry.is_writing = true;
            entry.is_unstored = false;
            orders.push(Order { id, record: Box::new(entry.user.record.clone()), text });
        }
        if !orders.is_empty() {
            book.lane(lane).is_busy = true;
            self.start_write(lane, orders, jobs);
        }
    }

    fn start_write(&self, lane: Lane, orders: Vec<Order>, jobs: &mut JoinSet<Done>) {
        let (store, sink) = (Arc::clone(&self.store), Arc::clone(&self.sink));
        jobs.spawn_blocking(move || {
            let writes: Vec<_> =
                orders.iter().map(|order| Write::Put(order.id.clone(), order.record.clone())).collect();
            let stored = store.lock().unwrap_or_else(PoisonError::into_inner).commit(&writes);
            let write = |order: Order| {
                // What is not on the disk is not acted on; but a full disk keeps no token where it must not be.
                let written = match (&stored, lane) {
                    (Err(_), Lane::Fill) => Err(io::Error::other("it could not be stored")),
                    _ => sink.write(&order.id, &order.text),
                };
                (order.id, written)
            };
            let written = orders.into_iter().map(write).collect();
            Done::Written { lane, written, stored }
        });
    }

    /// A token for the user as they are, noted as about to be written.
    fn mint(&self, id: &UserId, user: &mut User, turn: &Turn<'_>) -> Option<Secret> {
        let (_, epoch) = self.users.standing(id, turn.now);
        let claims = user.record.claims(&self.settings.issue);
        let grant = user.record.grant(&self.settings.issue, id.subject(), epoch)?;
        let minted = match turn.service.credential(&CredentialCache::default(), &grant, turn.now) {
            Ok(minted) => minted,
            Err(error) => {
                tracing::error!(%error, "no token can be minted");
                return None;
            }
        };
        let token = Secret::new(minted.header().to_str().ok()?.strip_prefix("Bearer ")?);
        user.record.written = Some(Written {
            expires: minted.expires,
            key: minted.key_id().to_owned(),
            epoch,
            claims,
            token: digest_of(token.expose().as_bytes()),
        });
        Some(token)
    }

    pub(super) fn take_up_written(
        &self,
        book: &mut Book,
        lane: Lane,
        written: Vec<(UserId, io::Result<Found>)>,
        stored: Result<(), StoreError>,
        now: Now,
    ) {
        book.lane(lane).is_busy = false;
        if stored.is_err() {
            written.iter().for_each(|(id, _)| book.note(id));
        }
        self.note_stored(stored);
        for (id, found) in written {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            entry.is_writing = false;
            entry.wrote_ms = now.monotonic_ms;
            let outcome = found.map(|found| entry.user.live.seen = entry.user.live.seen.after(found, now));
            let is_there = match (&entry.user.live.seen, &entry.user.record.written) {
                (Seen::Token(held), Some(written)) => held.digest == written.token,
                (Seen::Empty, None) => true,
                _ => false,
            };
            self.counts.written(lane, outcome.is_ok() && is_there);
            if outcome.is_ok() && is_there {
                let failures = &mut entry.user.live.failures;
                (failures.writes, failures.write_after_ms) = (0, 0);
                self.hand_out(&id, &entry.user);
                self.observe(&id, entry, now);
            } else {
                let is_first = entry.user.live.failures.writes == 0;
                entry.user.live.failures.note_write(now.monotonic_ms);
                if is_first {
                    let error = outcome.err().map_or_else(|| "something else is there".to_owned(), |e| e.to_string());
                    tracing::error!(user = %id, error, "a token cannot be written or emptied");
                }
            }
            book.wake(&id);
            if let Some(kept) = self.bulletin.kept(&id) {
                self.answer(book, &id, &Ok(kept));
            }
        }
    }

    /// Gives what readers find to whoever asks for it here, if it is what was written.
    pub(super) fn hand_out(&self, id: &UserId, user: &User) {
        let kept = match (&user.live.seen, &user.record.written, &user.record.namespace) {
            (Seen::Token(held), Some(written), Some(namespace)) if held.digest == written.token => {
                Some(Arc::new(KeptToken {
                    token: held.token.clone(),
                    expires: held.expires,
                    epoch: written.epoch,
                    namespace: namespace.clone(),
                    named_unix_ms: user.record.named_unix_ms,
                    roles: user.record.facts.roles.clone(),
                    groups: user.record.facts.groups.clone(),
                }))
            }
            _ => None,
        };
        self.bulletin.keep(id, kept);
    }

    /// Answers whoever waits for a user's token.
    pub(super) fn answer(&self, book: &mut Book, id: &UserId, answer: &Result<Arc<KeptToken>, NoToken>) {
        for waiter in book.waiters.remove(id).into_iter().flatten() {
            // They may have given up.
            let _ = waiter.send(answer.clone());
        }
    }
}

fn line_up(book: &mut Book, id: &UserId, lane: Lane) {
    let Some(entry) = book.users.get_mut(id) else { return };
    if entry.queued != Some(lane) {
        entry.queued = Some(lane);
        book.lane(lane).users.push_back(id.clone());
    }
}
