//! Writes: each planned once more right before, decided on what was seen, and read back.
//!
//! Where others write too, a token is written in this order: the state of the Secret is seen; then a fence is begun, which reads what is
//! known against the user by all replicas; then it is planned once more; then it is written on that state. Whoever blocks says so where
//! the fence reads it, and then changes the Secret. So a write that was decided on before a block is refused after it, however long its
//! writer was paused.

use super::book::{Book, Entry, Lane};
use super::home::Place;
use super::jobs::{Job, Jobs};
use super::plan::{Act, Why};
use super::record::{Seen, User};
use super::run::{Done, Turn};
use super::sink::{Flaw, Found, Order, SinkError, Wrote};
use super::{Asked, Delivery, Roster};
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::identity::KeptToken;
use crate::kubernetes::Version;
use crate::token_service::{CredentialCache, TokenService};
use crate::users::{State, UserId};
use std::sync::Arc;

/// Files written by one job: whoever is blocked meanwhile waits for it.
const FILES_AT_ONCE: usize = 32;

/// Jobs of a lane that write Secrets at once, one each.
const SECRETS_AT_ONCE: usize = 16;

/// Fences at once, and users for whom one is asked.
const FENCES_AT_ONCE: usize = 4;
const FENCED_AT_ONCE: usize = 64;

/// However long a server asks to be left alone, who is blocked is seen to after this.
const LONGEST_CALM_MS: u64 = 2_000;

/// What cannot be done now is looked at again after this.
const AGAIN_MS: u64 = 1_000;

/// What came of an order.
pub(super) type Written = (Order, Result<Wrote, SinkError>);

impl<R: Roster> Delivery<R> {
    /// Begins fences for those who are lined up to be filled, where others write too.
    pub(super) fn start_fences(&self, book: &mut Book, turn: &Turn<'_>, jobs: &mut Jobs) {
        while book.is_shared && book.fences < FENCES_AT_ONCE && turn.now.monotonic_ms >= book.calm_until_ms {
            let users = self.to_fence(book, turn);
            if users.is_empty() {
                return;
            }
            book.fences += 1;
            let ids: Vec<_> = users.iter().map(|(id, _)| id.clone()).collect();
            let fence = self.fence.as_ref().map(|fence| fence(ids.clone()));
            jobs.spawn(Job::Fence(ids), async move {
                let outcome = match fence {
                    Some(fence) => fence.await,
                    None => Ok(()),
                };
                Done::Fenced { users, outcome }
            });
        }
    }

    /// Who is to be filled now, and on what.
    fn to_fence(&self, book: &mut Book, turn: &Turn<'_>) -> Vec<(UserId, Version)> {
        let mut users = Vec::new();
        while users.len() < FENCED_AT_ONCE
            && let Some(id) = book.lane(Lane::Fill).users.pop_front()
        {
            let Some(entry) = book.users.get_mut(&id).filter(|entry| entry.queued == Some(Lane::Fill)) else {
                continue;
            };
            entry.queued = None;
            let (plan, _) = self.plan(&id, &entry.user, &book.issuer, turn);
            match &entry.user.live.stand {
                Some(stand) if plan.act == Act::Fill && !entry.is_busy(Lane::Fill, true) => {
                    entry.writing[Lane::Fill as usize] = true;
                    users.push((id, stand.version.clone()));
                }
                _ => book.wake(&id),
            }
        }
        users
    }

    pub(super) fn take_up_fenced(
        &self,
        book: &mut Book,
        users: Vec<(UserId, Version)>,
        outcome: Result<(), String>,
        now: Now,
    ) {
        book.fences = book.fences.saturating_sub(1);
        if let Err(error) = &outcome {
            tracing::warn!(error, users = users.len(), "it cannot be asked who is blocked: these users are not filled");
        }
        for (id, version) in users {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            if outcome.is_ok() {
                // They stay taken until their turn.
                entry.fence = Some(version);
                book.fenced.push_back(id);
            } else {
                entry.writing[Lane::Fill as usize] = false;
                entry.user.live.failures.note_write(now.monotonic_ms);
                book.wake(&id);
            }
        }
    }

    /// Begins to write what is lined up, each as it is planned at this moment.
    pub(super) fn start_writes(&self, book: &mut Book, lane: Lane, turn: &Turn<'_>, jobs: &mut Jobs) {
        let (most, at_once) = if book.is_shared { (SECRETS_AT_ONCE, 1) } else { (1, FILES_AT_ONCE) };
        while book.lane(lane).running < most {
            let mut orders = Vec::new();
            while orders.len() < at_once
                && let Some(id) = book.next_of(lane)
            {
                match self.order(book, &id, lane, turn) {
                    Some(order) => {
                        let doubt = self.doubt(book, &order, lane, turn);
                        orders.push((order, doubt));
                    }
                    None => book.wake(&id),
                }
            }
            if orders.is_empty() {
                return;
            }
            book.lane(lane).running += 1;
            let ids = orders.iter().map(|(order, _)| order.id.clone()).collect();
            let (sink, leads, clock) = (self.sink.clone(), self.leads.clone(), self.clock.clone());
            let users = Arc::clone(&self.users);
            jobs.spawn(Job::Write(lane, ids), async move {
                let mut written: Vec<Written> = Vec::new();
                for (order, doubt) in orders {
                    let is_known = match doubt {
                        Some(asked) => asked.await.is_ok() && users.standing(&order.id, clock.now()).0 != State::Active,
                        None => true,
                    };
                    let outcome = if !is_known {
                        Err(SinkError::NotNow("another replica knows better"))
                    } else if lane == Lane::Fill && !leads.is_leader(clock.now()) {
                        Err(SinkError::NotNow("this replica does not lead any more"))
                    } else {
                        sink.write(&order).await
                    };
                    written.push((order, outcome));
                }
                Done::Written { lane, written }
            });
        }
    }

    /// Whoever filled a Secret in an epoch that is not below ours knew of every block that we know of, and perhaps of a sign-in that we
    /// do not know of yet: what all know is asked before it is emptied. A block that is news here is in a higher epoch, and waits for
    /// nothing.
    fn doubt(&self, book: &Book, order: &Order, lane: Lane, turn: &Turn<'_>) -> Option<Asked> {
        let entry = book.users.get(&order.id)?;
        let is_as_new = match &entry.user.live.seen {
            Seen::Token(held) => held.said.as_ref().is_some_and(|said| said.epoch >= order.epoch),
            Seen::Unknown | Seen::Absent | Seen::Empty | Seen::Foreign => false,
        };
        let state = self.users.standing(&order.id, turn.now).0;
        // Who leads read for itself what the issuer says.
        let is_own = turn.leads && state == State::Active;
        let fence = self.fence.as_ref().filter(|_| lane == Lane::Empty && is_as_new && !is_own)?;
        Some(fence(vec![order.id.clone()]))
    }

    fn order(&self, book: &mut Book, id: &UserId, lane: Lane, turn: &Turn<'_>) -> Option<Order> {
        let is_shared = book.is_shared;
        let entry = book.users.get_mut(id)?;
        let fence = entry.fence.take();
        if entry.is_busy(lane, is_shared) {
            return None;
        }
        let (plan, why) = self.plan(id, &entry.user, &book.issuer, turn);
        let on = entry.user.live.stand.clone();
        let epoch = self.users.standing(id, turn.now).1;
        let (token, on) = match (lane, plan.act) {
            (Lane::Empty, Act::Empty) => {
                let is_empty = matches!(entry.user.live.seen, Seen::Empty);
                let is_right = |flaw| matches!(flaw, None | Some(Flaw::Unmarked));
                (None, on.filter(|stand| !is_empty || stand.epoch < epoch || !is_right(stand.flaw)))
            }
            // What was seen before the fence, or the fence says nothing.
            (Lane::Fill, Act::Fill) if !is_shared || fence == on.as_ref().map(|stand| stand.version.clone()) => {
                let minted = self.mint(id, &entry.user, epoch, turn);
                if minted.is_none() {
                    entry.user.live.failures.note_write(turn.now.monotonic_ms);
                }
                (Some(minted?), on)
            }
            _ => return None,
        };
        entry.writing[lane as usize] = true;
        Some(Order {
            id: id.clone(),
            namespace: entry.user.record.namespace.clone(),
            token,
            epoch,
            on,
            closes: is_shared && why.is_some_and(Why::is_out),
        })
    }

    /// A token for the user as they are.
    fn mint(&self, id: &UserId, user: &User, epoch: u64, turn: &Turn<'_>) -> Option<Secret> {
        let grant = user.record.grant(&self.settings.issue, id.subject(), epoch)?;
        let minted = match turn.service.credential(&CredentialCache::default(), &grant, turn.now) {
            Ok(minted) => minted,
            Err(error) => {
                tracing::error!(%error, "no token can be minted");
                return None;
            }
        };
        Some(Secret::new(minted.header().to_str().ok()?.strip_prefix("Bearer ")?))
    }

    pub(super) fn take_up_written(&self, book: &mut Book, lane: Lane, written: Vec<Written>, now: Now) {
        let service = (self.token_service)();
        let ids: Vec<_> = written.iter().map(|(order, _)| order.id.clone()).collect();
        book.end_write(lane, &ids, now.monotonic_ms);
        for (order, outcome) in written {
            let Some(entry) = book.users.get_mut(&order.id) else { continue };
            let outcome = match outcome {
                Ok(Wrote::Done(found)) if found.is_as(order.token.as_ref()) => {
                    self.take_up_done(entry, &order, found, &service, now);
                    Ok(true)
                }
                Ok(Wrote::Done(found)) => {
                    self.see(&order.id, entry, found, &service, now);
                    Err("something else is there".to_owned())
                }
                Ok(Wrote::Stale(found)) => {
                    self.see(&order.id, entry, found, &service, now);
                    Ok(false)
                }
                Err(SinkError::NotNow(_)) => {
                    let failures = &mut entry.user.live.failures;
                    failures.write_after_ms = failures.write_after_ms.max(now.monotonic_ms + AGAIN_MS);
                    Ok(false)
                }
                Err(error) => {
                    let wait_ms = error.retry_after().map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(0));
                    book.calm_until_ms = book.calm_until_ms.max(now.monotonic_ms + wait_ms.min(60_000));
                    let failures = &mut entry.user.live.failures;
                    failures.write_after_ms =
                        failures.write_after_ms.max(now.monotonic_ms + wait_ms.min(LONGEST_CALM_MS));
                    Err(error.to_string())
                }
            };
            match outcome {
                Ok(true) => self.counts.written(lane, true),
                Ok(false) => self.counts.conflict(),
                Err(error) => {
                    self.counts.written(lane, false);
                    if entry.user.live.failures.writes == 0 {
                        tracing::error!(user = %order.id, error, "a token cannot be written or emptied");
                    }
                    let after_ms = entry.user.live.failures.write_after_ms;
                    entry.user.live.failures.note_write(now.monotonic_ms);
                    let failures = &mut entry.user.live.failures;
                    failures.write_after_ms = failures.write_after_ms.max(after_ms);
                }
            }
            book.wake(&order.id);
            if let Some(kept) = self.bulletin.kept(&order.id) {
                self.answer(book, &order.id, &Ok(kept));
            }
        }
    }

    fn take_up_done(&self, entry: &mut Entry, order: &Order, found: Found, service: &TokenService, now: Now) {
        let failures = &mut entry.user.live.failures;
        (failures.writes, failures.write_after_ms) = (0, 0);
        if order.closes {
            entry.user.live.home.session = super::home::Session::Closed;
        }
        if found.stand.is_none() && order.on.is_some() {
            // It had to go, to be made anew.
            entry.user.live.home.disturb(Place::Unready);
        }
        self.see(&order.id, entry, found, service, now);
        // Or something newer is known to be there.
        if let (Seen::Token(held), Some(token)) = (&entry.user.live.seen, &order.token)
            && held.token == *token
        {
            entry.user.live.is_promised = true;
        }
        if self.observe(&order.id, entry, now) {
            tracing::error!(user = %order.id, "a token that was just written has less left than is promised");
        }
    }

    /// Notes what a reader finds, unless something newer is known.
    pub(super) fn see(&self, id: &UserId, entry: &mut Entry, found: Found, service: &TokenService, now: Now) {
        let live = &mut entry.user.live;
        if let (Some(found), Some(known)) = (&found.stand, &live.stand)
            && found.version.is_before(&known.version)
        {
            return;
        }
        if let (Some(found), Some(lost)) = (&found.stand, &live.lost)
            && found.version.revision().is_before(lost)
        {
            // It was read before it was deleted.
            live.home.disturb(Place::Unready);
            return;
        }
        self.note_change(id, entry, &found, now);
        let live = &mut entry.user.live;
        live.seen = live.seen.after(found.content, now, |token| service.ring().said(token));
        live.stand = found.stand;
        self.hand_out(id, &entry.user, service);
    }

    /// Gives what readers find to whoever asks for it here, if it is a token of ours that says of this user what is known of them.
    pub(super) fn hand_out(&self, id: &UserId, user: &User, service: &TokenService) {
        let kept = match (&user.live.seen, &user.record.namespace) {
            (Seen::Token(held), Some(namespace)) => held.said.as_ref().and_then(|said| {
                let is_theirs = said.claims == self.outline(id, user, service);
                is_theirs.then(|| {
                    Arc::new(KeptToken {
                        token: held.token.clone(),
                        expires: held.expires,
                        epoch: said.epoch,
                        namespace: namespace.clone(),
                        named_unix_ms: user.record.named_unix_ms,
                        roles: user.record.facts.roles.clone(),
                        groups: user.record.facts.groups.clone(),
                    })
                })
            }),
            _ => None,
        };
        self.bulletin.keep(id, kept);
    }
}
