//! Looks at single users of a cluster: at their Secret, and at all that stands in their namespace.

use super::book::{Book, Entry};
use super::home::{Place, Session};
use super::jobs::{Job, Jobs};
use super::plan::{Act, Why};
use super::run::{Done, Turn};
use super::secrets::Settled;
use super::sink::{Found, Sink, SinkError};
use super::{Delivery, Roster};
use crate::base::clock::Now;
use crate::users::UserId;

/// Of either kind.
const LOOKS_AT_ONCE: usize = 16;

impl<R: Roster> Delivery<R> {
    pub(super) fn start_looks(&self, book: &mut Book, jobs: &mut Jobs) {
        while book.looks < LOOKS_AT_ONCE
            && let Some(id) = book.to_look.pop_front()
        {
            let Some(entry) = book.users.get(&id) else { continue };
            let (sink, namespace) = (self.sink.clone(), entry.user.record.namespace.clone());
            book.looks += 1;
            jobs.spawn(Job::Look(id.clone()), async move {
                let found = sink.read(&id, namespace.as_deref()).await;
                Done::Found { id, found }
            });
        }
    }

    pub(super) fn take_up_look(&self, book: &mut Book, id: &UserId, found: Result<Found, SinkError>, now: Now) {
        book.looks = book.looks.saturating_sub(1);
        let Some(entry) = book.users.get_mut(id) else { return };
        entry.is_looking = false;
        match found {
            Ok(found) => self.see(id, entry, found, &(self.token_service)(), now),
            Err(error) => {
                tracing::debug!(user = %id, %error, "a token cannot be read back");
                entry.user.live.failures.note_write(now.monotonic_ms);
            }
        }
        book.wake(id);
    }

    /// Has namespaces made, and what belongs in them.
    pub(super) fn start_settles(&self, book: &mut Book, turn: &Turn<'_>, jobs: &mut Jobs) {
        while book.settles < LOOKS_AT_ONCE
            && turn.now.monotonic_ms >= book.calm_until_ms
            && let Some(id) = book.to_settle.pop_front()
        {
            let Some(entry) = book.users.get_mut(&id) else { continue };
            entry.is_settling = false;
            let (plan, why) = self.plan(&id, &entry.user, &book.issuer, turn);
            let (Act::Settle, Sink::Secrets(secrets), Some(namespace)) =
                (plan.act, self.sink.clone(), entry.user.record.namespace.clone())
            else {
                book.wake(&id);
                continue;
            };
            entry.is_settling = true;
            book.settles += 1;
            let opens = !why.is_some_and(Why::is_out);
            let (leads, clock) = (self.leads.clone(), self.clock.clone());
            jobs.spawn(Job::Settle(id.clone()), async move {
                let settled = secrets.settle(&id, &namespace, opens, || leads.is_leader(clock.now())).await;
                Done::Settled { id, settled }
            });
        }
    }

    pub(super) fn take_up_settled(&self, book: &mut Book, id: &UserId, settled: Result<Settled, SinkError>, now: Now) {
        book.settles = book.settles.saturating_sub(1);
        let Some(entry) = book.users.get_mut(id) else { return };
        entry.is_settling = false;
        match settled {
            Ok(settled) => self.take_up_home(id, entry, settled, now),
            Err(error) => {
                let wait_ms = error.retry_after().map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(0));
                book.calm_until_ms = book.calm_until_ms.max(now.monotonic_ms + wait_ms.min(60_000));
                note_problem(id, entry, &error, wait_ms.min(60_000), now);
            }
        }
        book.wake(id);
    }

    fn take_up_home(&self, id: &UserId, entry: &mut Entry, settled: Settled, now: Now) {
        let Settled { place, found, is_open, repairs, problem } = settled;
        let was = entry.user.live.home.place;
        let namespace = entry.user.record.namespace.as_deref().unwrap_or_default();
        if was != place {
            match place {
                Place::Taken => tracing::error!(
                    user = %id, namespace,
                    "the namespace of this name is not theirs, or lost its mark: it is left alone, and they get no token"
                ),
                Place::Terminating => tracing::warn!(user = %id, namespace, "the user's namespace is being deleted"),
                Place::Ready => tracing::info!(user = %id, namespace, "the user's namespace is in order"),
                Place::Elsewhere | Place::Unready => {}
            }
        }
        if was == Place::Ready {
            self.counts.repaired(repairs);
        }
        // Where it is not ours to write nothing is promised.
        entry.user.live.is_promised &= place == Place::Ready;
        let home = &mut entry.user.live.home;
        home.settle(place, now);
        if is_open {
            home.session = Session::Open;
        }
        if let Some(error) = problem {
            note_problem(id, entry, &SinkError::Kubernetes(error), 0, now);
        }
        if let Some(found) = found {
            self.see(id, entry, found, &(self.token_service)(), now);
        }
    }
}

fn note_problem(id: &UserId, entry: &mut Entry, error: &SinkError, wait_ms: u64, now: Now) {
    let home = &mut entry.user.live.home;
    if home.failures == 0 && !matches!(error, SinkError::NotNow(_)) {
        tracing::error!(user = %id, %error, "the user's namespace cannot be put in order");
    }
    home.fail(wait_ms, now);
}
