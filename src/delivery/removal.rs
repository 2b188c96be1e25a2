//! All users listed, now and then: who is new, who is gone; and the removal of what was theirs, under the guards of [`super::offboard`].

use super::book::{Book, Lane};
use super::jobs::{Job, Jobs};
use super::leads::{Asked, Leads};
use super::offboard::{Gone, check_share, look_every};
use super::record::{Facts, Record, Seen};
use super::run::Done;
use super::sink::{Sink, SinkError};
use super::store::{Store, Write};
use super::{Delivery, Roster};
use crate::base::clock::{Clock, Now};
use crate::identity::ceiling::Ceiling;
use crate::issuer::keycloak::{KeycloakError, Listed, UserState};
use crate::users::{State, UserId, Users};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// After a list that did not come to its end.
const RETRY: Duration = Duration::from_secs(30);

/// A list of all users.
#[derive(Debug)]
pub(super) struct List {
    /// When it was begun, by the monotonic clock.
    began_ms: u64,
    users: Vec<Listed>,
    /// Of those who are known and were not listed: whether there is such a user.
    missing: Vec<(UserId, bool)>,
    /// Whether the realm answered all along.
    outcome: Result<(), KeycloakError>,
}

/// What was a user's, removed or not.
#[derive(Debug)]
pub(super) struct Removed {
    id: UserId,
    unix_ms: u64,
    keeps_namespace: bool,
    outcome: Result<(), String>,
}

/// Whose things are to be removed, and what is to be kept of them where anything is.
struct Doomed {
    id: UserId,
    record: Record,
    base: Option<u64>,
}

/// What a removal needs.
struct Removal {
    fence: Option<Asked>,
    users: Arc<Users>,
    leads: Leads,
    clock: Clock,
    sink: Sink,
    store: Store,
    keeps_namespaces: bool,
}

impl Removal {
    async fn run(self, doomed: Vec<Doomed>) -> Vec<Removed> {
        let Self { fence, users, leads, clock, sink, store, keeps_namespaces } = self;
        let fenced = match fence {
            Some(fence) => fence.await,
            None => Ok(()),
        };
        let mut removed = Vec::new();
        for Doomed { id, record, base } in doomed {
            let now = clock.now();
            let unix_ms = now.unix_ms;
            let outcome = if let Err(error) = &fenced {
                Err(error.clone())
            } else if !leads.is_leader(now) || users.standing(&id, now).0 != State::Removed {
                Err(SinkError::NotNow("that they are gone is not so any more").to_string())
            } else {
                let namespace = record.namespace.clone();
                let outcome = sink.remove(&id, namespace.as_deref(), keeps_namespaces).await;
                match outcome {
                    Err(error) => Err(error.to_string()),
                    Ok(()) => {
                        let left = keeps_namespaces.then(|| Box::new(record));
                        let write = Write::Removed { user: id.clone(), unix_ms, left, base };
                        store.commit(vec![write]).await.map(drop).map_err(|error| error.to_string())
                    }
                }
            };
            removed.push(Removed { id, unix_ms, keeps_namespace: keeps_namespaces, outcome });
        }
        removed
    }
}

async fn list<R: Roster>(roster: &R, ceiling: &Arc<Ceiling>, known: Vec<UserId>, began_ms: u64) -> List {
    let mut list = List { began_ms, users: Vec::new(), missing: Vec::new(), outcome: Ok(()) };
    list.outcome = fill(roster, ceiling, known, &mut list).await;
    list
}

async fn fill<R: Roster>(
    roster: &R,
    ceiling: &Arc<Ceiling>,
    known: Vec<UserId>,
    list: &mut List,
) -> Result<(), KeycloakError> {
    roster.realm().await?;
    let mut next = Some(0);
    while let Some(first) = next {
        let _turn = ceiling.begin_read().await;
        let page = roster.users(first).await?.value;
        next = page.next.filter(|next| *next > first);
        list.users.extend(page.users);
    }
    let listed: HashSet<&str> = list.users.iter().map(|user| user.id.as_str()).collect();
    // The list may have passed somebody over.
    for id in known.into_iter().filter(|id| !listed.contains(&**id.subject())) {
        let _turn = ceiling.begin_read().await;
        let is_there = match roster.user(id.subject()).await {
            Ok(answer) => answer.value != UserState::Deleted,
            Err(KeycloakError::NoId) => true,
            Err(error) => return Err(error),
        };
        list.missing.push((id, is_there));
    }
    // What was said of users counts only while the realm itself is there.
    roster.realm().await
}

impl<R: Roster> Delivery<R> {
    pub(super) fn start_list(&self, book: &mut Book, jobs: &mut Jobs) {
        book.list.is_running = true;
        let known: Vec<_> = book.users.keys().cloned().collect();
        let (roster, ceiling) = (self.roster.load_full(), Arc::clone(self.link.ceiling()));
        let began_ms = self.clock.now().monotonic_ms;
        jobs.spawn(Job::List, async move { Done::Listed(Box::new(list(&*roster, &ceiling, known, began_ms).await)) });
    }

    pub(super) fn take_up_list(&self, book: &mut Book, list: List, now: Now) {
        let List { began_ms, users, missing, outcome } = list;
        let issuer = &*self.settings.issuer;
        if let Err(error) = outcome {
            self.counts.listed(false);
            if book.list.failures == 0 {
                tracing::warn!(issuer, %error, "users cannot be listed");
            }
            book.list.failures += 1;
            return book.list.end(now, RETRY);
        }
        self.counts.listed(true);
        book.list.failures = 0;
        book.list.end(now, look_every(self.settings.offboard_after));
        book.issuer.heard_ms = book.issuer.heard_ms.max(Some(began_ms));
        for listed in users {
            self.take_up_listed(book, listed, began_ms);
        }
        for (id, is_there) in missing {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            let record = &mut entry.user.record;
            let known = record.gone;
            record.gone = if is_there { None } else { Some(Gone::said(known, now)) };
            if !is_there && known.is_none() {
                tracing::warn!(user = %id, namespace = record.namespace, "the issuer knows no such user any more");
                self.link.reread(id.clone());
            }
            book.note(&id);
            book.wake(&id);
        }
    }

    fn take_up_listed(&self, book: &mut Book, listed: Listed, began_ms: u64) {
        let Some(id) = UserId::new(Arc::clone(&self.settings.issuer), listed.id.as_str()) else { return };
        let is_new = !book.users.contains_key(&id);
        let entry = book.entry(&id);
        let record = &mut entry.user.record;
        let was_gone = record.gone.take().is_some() | std::mem::take(&mut record.is_offboarded);
        if record.facts.username.is_empty() {
            // The rest is asked for when it is needed: at the first sign-in.
            let Listed { username, email, enabled, .. } = listed;
            record.facts = Facts { username, email, enabled, ..Facts::default() };
        } else if record.facts.username != listed.username || record.facts.email != listed.email || was_gone {
            entry.user.live.doubted_ms = entry.user.live.doubted_ms.max(Some(began_ms));
        } else if !is_new {
            return;
        }
        self.settle(book, &id);
    }

    /// Whose things go now: of those who are gone for long enough and whom nothing else holds. Says so if too many would.
    pub(super) fn to_remove(&self, book: &mut Book, now: Now) -> Vec<UserId> {
        let after = self.settings.offboard_after;
        let records = || book.users.values().map(|entry| &entry.user.record).filter(|record| !record.is_offboarded);
        let gone: Vec<_> = records().filter_map(|record| record.gone).collect();
        let outcome = check_share(gone.iter(), records().count(), &book.removals, after, now);
        let held = outcome.err();
        if held != book.held
            && let Some(many) = held
        {
            let super::offboard::TooMany { would_go, most } = many;
            tracing::error!(
                would_go,
                most,
                "too many users are gone at once: nobody's namespace or token file is removed"
            );
        }
        book.held = held;
        if held.is_some() {
            return Vec::new();
        }
        let is_due = |entry: &super::book::Entry| {
            !entry.is_busy(Lane::Fill, true) && now.monotonic_ms >= entry.user.live.failures.write_after_ms
        };
        let is_over = |(id, entry): &(&UserId, &super::book::Entry)| {
            let record = &entry.user.record;
            let is_gone = record.gone.is_some_and(|gone| gone.is_over(after)) && !record.is_offboarded;
            // Proof about the user, kept where all proofs are.
            is_gone && is_due(entry) && self.users.standing(id, now).0 == State::Removed
        };
        book.users.iter().filter(is_over).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn start_removal(&self, book: &mut Book, now: Now, jobs: &mut Jobs) {
        if book.is_removing {
            return;
        }
        let ids = self.to_remove(book, now);
        if ids.is_empty() {
            return;
        }
        book.is_removing = true;
        let mut doomed = Vec::new();
        for id in &ids {
            let Some(entry) = book.users.get_mut(id) else { continue };
            entry.is_removing = true;
            let mut record = entry.user.record.clone();
            record.is_offboarded = true;
            doomed.push(Doomed { id: id.clone(), record, base: entry.base });
        }
        let removal = Removal {
            fence: self.fence.as_ref().map(|fence| fence(ids.clone())),
            users: Arc::clone(&self.users),
            leads: self.leads.clone(),
            clock: self.clock.clone(),
            sink: self.sink.clone(),
            store: self.store.clone(),
            keeps_namespaces: self.settings.keeps_namespaces,
        };
        jobs.spawn(Job::Remove(ids), async move { Done::Removed(removal.run(doomed).await) });
    }

    pub(super) fn take_up_removed(&self, book: &mut Book, removed: Vec<Removed>, now: Now) {
        book.is_removing = false;
        for Removed { id, unix_ms, keeps_namespace, outcome } in removed {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            entry.is_removing = false;
            entry.wrote_ms = now.monotonic_ms;
            if let Err(error) = outcome {
                if entry.user.live.failures.writes == 0 {
                    tracing::error!(user = %id, error, "what was a user's cannot be removed");
                }
                entry.user.live.failures.note_removal(now.monotonic_ms);
                book.wake(&id);
                continue;
            }
            tracing::info!(user = %id, namespace = entry.user.record.namespace, keeps_namespace, "a user was off-boarded");
            self.counts.offboarded();
            book.removals.push(unix_ms);
            if keeps_namespace {
                entry.user.record.is_offboarded = true;
                entry.stored = None;
                entry.user.live.seen = Seen::Absent;
                entry.user.live.stand = None;
            } else if let Some(entry) = book.users.remove(&id)
                && let Some(name) = &entry.user.record.namespace
            {
                book.names.release(&id, name);
                self.bulletin.record(&id, None);
            }
        }
        self.settle_names(book);
    }

    /// Gives namespaces to those who have none and may have one now.
    pub(super) fn settle_names(&self, book: &mut Book) {
        let Book { users, names, .. } = book;
        let mut settled = Vec::new();
        for (id, entry) in users {
            let had_one = entry.user.record.namespace.is_some();
            names.settle(&self.settings.namespace, id, &mut entry.user);
            self.bulletin.record(id, entry.user.record.namespace.as_deref());
            if !had_one && entry.user.record.namespace.is_some() {
                settled.push(id.clone());
            }
        }
        for id in settled {
            book.note(&id);
            book.wake(&id);
        }
    }
}
