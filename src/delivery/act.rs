//! From a plan to what is done, and what came of it.

use super::book::{Book, Issuer, Lane, phase_ms};
use super::jobs::{Job, Jobs};
use super::plan::{self, Act, Plan, Why, World};
use super::record::{Facts, Record, Seen, User};
use super::reserve;
use super::run::{Done, Turn};
use super::{Delivery, Roster};
use crate::base::clock::Now;
use crate::identity::{KeptToken, NoToken};
use crate::issuer::keycloak::{Answer, KeycloakError, Person};
use crate::token_service::TokenService;
use crate::users::UserId;
use std::sync::Arc;

/// Users asked about at once.
const READS_AT_ONCE: usize = 16;

/// While as many are asked about, no refill begins that can wait: whoever has no token finds a place.
const REFILLS_AT_ONCE: usize = READS_AT_ONCE / 2;

/// After a failure nobody else is asked about for so long.
const PAUSE_MS: u64 = 2_000;

/// Keycloak's name for the user of a service account begins so. They are nobody's.
const SERVICE_ACCOUNT: &str = "service-account-";

impl<R: Roster> Delivery<R> {
    /// Plans for a user, and lines up what is to be done.
    pub(super) fn consider(&self, book: &mut Book, id: &UserId, turn: &Turn<'_>) {
        let is_shared = book.is_shared;
        let Some(entry) = book.users.get_mut(id) else { return };
        // When that has ended it is looked at again.
        if entry.is_busy(Lane::Empty, is_shared) || (!is_shared && entry.is_busy(Lane::Fill, false)) {
            return;
        }
        let claims = self.outline(id, &entry.user, turn.service);
        let world = self.world(id, &book.issuer, turn, &claims);
        let (plan, why) = (plan::plan(&entry.user, &world), plan::why_empty(&entry.user, world.state));
        note_promise(&mut entry.user, why);
        if why.is_some() {
            self.bulletin.keep(id, None);
        }
        // A refill takes its turn before the issuer is asked: what it says would be old when the turn came.
        let can_wait_until = match plan.act {
            Act::Read | Act::Fill if !entry.has_turn => plan::can_wait_until(&entry.user, &world),
            _ => None,
        };
        if let Some(until_ms) = can_wait_until {
            if !std::mem::replace(&mut entry.is_waiting, true) {
                book.refills.push_back(id.clone());
            }
            return book.schedule(id, until_ms);
        }
        entry.is_waiting = false;
        match plan.act {
            Act::Rest => entry.has_turn = false,
            Act::Look => {
                if !std::mem::replace(&mut entry.is_looking, true) {
                    book.to_look.push_back(id.clone());
                }
            }
            Act::Read => {
                if !std::mem::replace(&mut entry.is_reading, true) {
                    book.to_read.push_back(id.clone());
                }
            }
            Act::Settle if entry.is_busy(Lane::Fill, true) => {}
            // What is known of them is on the disk before it is acted on.
            Act::Settle | Act::Fill if entry.is_unstored => book.store_after_ms = 0,
            Act::Settle => {
                entry.is_settling = true;
                book.to_settle.push_back(id.clone());
            }
            Act::Fill if entry.is_busy(Lane::Fill, true) => {}
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

    /// What the plan for a user depends on beside them, and the plan, and why they are to have no token, if so.
    pub(super) fn plan(&self, id: &UserId, user: &User, issuer: &Issuer, turn: &Turn<'_>) -> (Plan, Option<Why>) {
        let claims = self.outline(id, user, turn.service);
        let world = self.world(id, issuer, turn, &claims);
        (plan::plan(user, &world), plan::why_empty(user, world.state))
    }

    /// The digest of what a token for this user would say.
    pub(super) fn outline(&self, id: &UserId, user: &User, service: &TokenService) -> String {
        let grant = user.record.grant(&self.settings.issue, id.subject(), 0);
        grant.map(|grant| service.outline(&grant)).unwrap_or_default()
    }

    pub(super) fn world<'a>(&self, id: &UserId, issuer: &Issuer, turn: &'a Turn<'_>, claims: &'a str) -> World<'a> {
        let (state, epoch) = self.users.standing(id, turn.now);
        let now = turn.now;
        let silent_ms = match issuer.heard_ms {
            Some(heard_ms) => Some(now.monotonic_ms.saturating_sub(heard_ms)),
            None if issuer.heard_unix_ms > 0 => now.unix_ms.checked_sub(issuer.heard_unix_ms),
            None => None,
        };
        World {
            now,
            state,
            epoch,
            claims,
            keys: turn.keys,
            are_clocks_right: !issuer.are_clocks_apart,
            is_answering: issuer.failed_ms.is_none_or(|failed_ms| now.monotonic_ms >= failed_ms + PAUSE_MS),
            silent_ms,
            allow_for_ms: u64::try_from(self.settings.allow_for.as_millis()).unwrap_or(u64::MAX),
            phase_ms: phase_ms(id),
            leads: turn.leads,
        }
    }

    pub(super) fn start_reads(&self, book: &mut Book, jobs: &mut Jobs) {
        while book.reads < READS_AT_ONCE
            && let Some(id) = book.to_read.pop_front()
        {
            book.reads += 1;
            let (roster, ceiling) = (self.roster.load_full(), Arc::clone(self.link.ceiling()));
            jobs.spawn(Job::Read(id.clone()), async move {
                // The calls are made one after another.
                for _ in 1..reserve::CALLS_PER_REFILL {
                    drop(ceiling.begin_read().await);
                }
                let _turn = ceiling.begin_read().await;
                let outcome = roster.person(id.subject()).await;
                Done::Read { id, outcome }
            });
        }
    }

    /// Begins refills that can wait, at their pace, and behind everybody else.
    pub(super) fn start_refills(&self, book: &mut Book, turn: &Turn<'_>, jobs: &mut Jobs) {
        while book.reads < REFILLS_AT_ONCE
            && book.to_read.is_empty()
            && let Some(id) = book.next_refill(turn.now.monotonic_ms)
        {
            self.consider(book, &id, turn);
            self.start_reads(book, jobs);
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
        let Book { users, names, is_shared, .. } = book;
        if let Some(entry) = users.get_mut(id) {
            names.settle(&self.settings.namespace, id, &mut entry.user);
            self.note_name(id, &mut entry.user.record, *is_shared);
            book.note(id);
            book.wake(id);
        }
    }

    /// Tells which namespace is the user's own. Where there is no cluster it is with its name; else a look at it says so.
    pub(super) fn note_name(&self, id: &UserId, record: &mut Record, is_shared: bool) {
        if !is_shared {
            record.set_owned(record.namespace.is_some(), self.clock.now());
        }
        self.bulletin.record(id, record.own_namespace());
    }

    /// Answers whoever waits for a user's token.
    pub(super) fn answer(&self, book: &mut Book, id: &UserId, answer: &Result<Arc<KeptToken>, NoToken>) {
        for waiter in book.waiters.remove(id).into_iter().flatten() {
            // They may have given up.
            let _ = waiter.send(answer.clone());
        }
    }
}

/// A token that was there once is to be there until something is against the user.
fn note_promise(user: &mut User, why: Option<Why>) {
    let is_flawed = user.live.stand.as_ref().is_some_and(|stand| stand.flaw.is_some());
    match &user.live.seen {
        _ if why.is_some() => user.live.is_promised = false,
        Seen::Token(held) if held.said.is_some() && user.live.home.is_placed() && !is_flawed => {
            user.live.is_promised = true;
        }
        _ => {}
    }
}

fn line_up(book: &mut Book, id: &UserId, lane: Lane) {
    let Some(entry) = book.users.get_mut(id) else { return };
    if entry.queued != Some(lane) {
        entry.queued = Some(lane);
        book.lane(lane).users.push_back(id.clone());
    }
}
