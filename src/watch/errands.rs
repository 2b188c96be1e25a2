//! One user asked about at a time, under the ceiling, by a call that begins after the reason for it came.
//!
//! What is to be asked about a user is taken from the list before the call begins, so a reason that comes meanwhile makes
//! another. There is one errand at a time, so no answer about a user can overtake another.

use super::{Directory, Watch, back_off, locked};
use crate::issuer::keycloak::{Answer, IssuerSpan, KeycloakError, User, UserState};
use crate::users::{Cause, IssuerCause, IssuerTime, Lift, Lifted, Proof, UserId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// An errand is given up after so many tries; the sweep brings it again if it matters.
const TRIES: u32 = 20;

/// A not-before from longer ago is no news: tokens from before it have ended, and the issuer itself takes no session from then.
pub(super) const NEWS_MS: u64 = 24 * 60 * 60 * 1000;

/// What is to be asked and done, user by user.
#[derive(Debug, Default)]
pub(super) struct Errands {
    list: Mutex<List>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct List {
    errands: BTreeMap<Arc<str>, Errand>,
    /// Users about whom something is known come first.
    urgent: VecDeque<Arc<str>>,
    other: VecDeque<Arc<str>>,
}

#[derive(Debug, Default, Clone)]
struct Errand {
    /// Ask whether the user is there and enabled.
    read: bool,
    /// When events say that the user was enabled, by the issuer's clock, in no order.
    enabled_ms: Vec<u64>,
    /// Look whether this session is new.
    look: Option<String>,
    /// End all sessions, or those begun before a time.
    end: Option<Option<u64>>,
    tries: u32,
    is_urgent: bool,
}

impl Errand {
    /// Both, as one.
    fn join(&mut self, other: Self) {
        self.read |= other.read;
        self.enabled_ms.extend(other.enabled_ms);
        self.look = other.look.or(self.look.take());
        // To end all is more than to end some.
        self.end = match (self.end, other.end) {
            (Some(None), _) | (_, Some(None)) => Some(None),
            (Some(Some(one)), Some(Some(other))) => Some(Some(one.max(other))),
            (one, other) => one.or(other),
        };
        self.tries = self.tries.min(other.tries);
        self.is_urgent |= other.is_urgent;
    }
}

impl Errands {
    /// Ask about the user.
    pub(super) fn read(&self, subject: &str, is_urgent: bool) {
        self.add(subject, Errand { read: true, is_urgent, ..Errand::default() });
    }

    /// Ask about the user, who was enabled at this time of the issuer's clock.
    pub(super) fn read_enabled(&self, subject: &str, enabled_ms: u64) {
        let errand = Errand { read: true, enabled_ms: vec![enabled_ms], is_urgent: true, ..Errand::default() };
        self.add(subject, errand);
    }

    /// Look whether the session is new.
    pub(super) fn look(&self, subject: &str, session: &str) {
        self.add(subject, Errand { look: Some(session.to_owned()), is_urgent: true, ..Errand::default() });
    }

    /// End sessions at the issuer.
    pub(super) fn end_sessions(&self, subject: &str, begun_before_ms: Option<u64>) {
        self.add(subject, Errand { end: Some(begun_before_ms), ..Errand::default() });
    }

    fn add(&self, subject: &str, errand: Errand) {
        let mut list = locked(&self.list);
        let was_urgent = match list.errands.get_mut(subject) {
            Some(known) => {
                let was_urgent = known.is_urgent;
                known.join(errand.clone());
                Some(was_urgent)
            }
            None => {
                list.errands.insert(subject.into(), errand.clone());
                None
            }
        };
        // One that became urgent stands in both lines; it is done at the first.
        match (was_urgent, errand.is_urgent) {
            (None | Some(false), true) => list.urgent.push_back(subject.into()),
            (None, false) => list.other.push_back(subject.into()),
            _ => {}
        }
        drop(list);
        self.wake.notify_one();
    }

    /// Waits until there is an errand.
    async fn wait(&self) {
        while locked(&self.list).errands.is_empty() {
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Option<(Arc<str>, Errand)> {
        let mut list = locked(&self.list);
        while let Some(subject) = list.urgent.pop_front().or_else(|| list.other.pop_front()) {
            if let Some(errand) = list.errands.remove(&subject) {
                return Some((subject, errand));
            }
        }
        None
    }

    /// How many users there are to be asked about.
    pub(super) fn len(&self) -> usize {
        locked(&self.list).errands.len()
    }
}

impl<D: Directory> Watch<D> {
    /// How many users there are to be asked about.
    pub fn errands_waiting(&self) -> usize {
        self.errands.len()
    }

    /// Does errands for ever.
    pub(super) async fn run_errands(&self) {
        let mut failures = 0;
        loop {
            self.errands.wait().await;
            self.pace.take().await;
            let Some((subject, errand)) = self.errands.take() else { continue };
            let Some(user) = self.user(&subject) else { continue };
            let mut left = errand;
            if self.run_errand(&user, &mut left).await.is_ok() {
                failures = 0;
                continue;
            }
            left.tries += 1;
            if left.tries < TRIES {
                self.errands.add(&subject, left);
            } else {
                self.counters.given_up.fetch_add(1, Ordering::Relaxed);
            }
            failures += 1;
            tokio::time::sleep(back_off(failures - 1)).await;
        }
    }

    /// What is done is taken from the errand.
    async fn run_errand(&self, user: &UserId, errand: &mut Errand) -> Result<(), KeycloakError> {
        if errand.read {
            match self.directory.user(user.subject()).await {
                Ok(answer) => self.act_read(user, &answer, &std::mem::take(&mut errand.enabled_ms)).await,
                Err(error) => {
                    self.counters.reads_unknown.fetch_add(1, Ordering::Relaxed);
                    return Err(error);
                }
            }
            errand.read = false;
        }
        if let Some(session) = errand.look.take() {
            self.sign_in(user, &session).await;
        }
        if let Some(begun_before_ms) = errand.end {
            self.directory.end_sessions(user.subject(), begun_before_ms).await?;
            self.counters.sessions_ended.fetch_add(1, Ordering::Relaxed);
            errand.end = None;
        }
        Ok(())
    }

    async fn act_read(&self, user: &UserId, answer: &Answer<UserState>, enabled_ms: &[u64]) {
        let (count, cause) = match answer.value {
            UserState::Present(found) if found.enabled => {
                self.counters.reads_enabled.fetch_add(1, Ordering::Relaxed);
                return self.act_enabled(user, found, answer, enabled_ms);
            }
            // Or its directory does not answer: the sweep will show which.
            UserState::Present(found) if found.is_federated => {
                self.counters.reads_unknown.fetch_add(1, Ordering::Relaxed);
                return;
            }
            UserState::Present(_) => (&self.counters.reads_disabled, IssuerCause::Disabled),
            UserState::Deleted => (&self.counters.reads_deleted, IssuerCause::Deleted),
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.saw_disabled(user.subject(), answer.time);
        let known = self.users.state(user).and_then(|view| view.by_issuer);
        let is_known = match cause {
            IssuerCause::Deleted => known == Some(Cause::Deleted),
            _ => matches!(known, Some(Cause::Disabled | Cause::LockedOut)),
        };
        if !is_known {
            let time = self.shown_until(answer.time).await;
            self.block(user, Proof::Issuer { cause, time, happened_ms: None });
        }
    }

    /// The time of what was read, which must not be earlier than it was: if the issuer's clock was set, it is set now.
    pub(super) async fn shown_until(&self, read: IssuerSpan) -> IssuerTime {
        let asked = self.directory.ask_time().await;
        let latest_ms = asked.map_or(read.latest_ms, |now| now.latest_ms.max(read.latest_ms));
        IssuerTime::Within(latest_ms.saturating_sub(1000))
    }

    fn act_enabled(&self, user: &UserId, found: User, answer: &Answer<UserState>, enabled_ms: &[u64]) {
        let view = self.users.state(user);
        let is_news = match &view {
            Some(view) => found.not_before_ms >= view.threshold_ms,
            None => found.not_before_ms.saturating_add(NEWS_MS) > answer.time.latest_ms,
        };
        if found.not_before_ms > 0 && is_news {
            let time = IssuerTime::Within(found.not_before_ms);
            self.block(user, Proof::Issuer { cause: IssuerCause::NotBefore, time, happened_ms: None });
        }
        if view.is_none_or(|view| view.by_issuer.is_none()) {
            return;
        }
        let enabled_ms = Some(self.enabled_at(user.subject(), enabled_ms, answer.time));
        match self.users.lift(user, Lift::Issuer { read_began_ms: answer.asked_ms, enabled_ms }) {
            Ok(Lifted::Done(_)) => self.follow_lift(user, answer.asked_ms),
            // The block is newer than the read, and so may be the moment of enabling.
            Ok(Lifted::Stale) => self.errands.read(user.subject(), true),
            Ok(Lifted::NotBlocked) => {}
            Err(error) => self.note_store(&error),
        }
    }

    /// Notes that a user who is blocked was disabled at some moment of `span`.
    pub(super) fn saw_disabled(&self, subject: &Arc<str>, span: IssuerSpan) {
        let mut disabled = locked(&self.disabled);
        let seen = disabled.entry(Arc::clone(subject)).or_insert(span);
        // Only what was later counts, and an event may come late.
        seen.earliest_ms = seen.earliest_ms.max(span.earliest_ms);
        seen.latest_ms = seen.latest_ms.max(span.latest_ms);
    }

    /// From when on a session counts: when the first event since the user was last disabled says that they were enabled; else not
    /// before the latest moment at which they can have been disabled. For a block from before this process that is the read.
    fn enabled_at(&self, subject: &str, told_ms: &[u64], read: IssuerSpan) -> u64 {
        let seen = locked(&self.disabled).get(subject).copied();
        let earliest_ms = seen.map_or(0, |seen| seen.earliest_ms);
        let told_ms = told_ms.iter().copied().filter(|told_ms| *told_ms >= earliest_ms).min();
        told_ms.unwrap_or(seen.map_or(read.latest_ms, |seen| seen.latest_ms))
    }

    fn follow_lift(&self, user: &UserId, asked_ms: u64) {
        locked(&self.disabled).remove(user.subject());
        locked(&self.lifted).insert(Arc::clone(user.subject()), asked_ms);
        let threshold_ms = self.users.state(user).map_or(0, |view| view.threshold_ms);
        let logins = locked(&self.logins).of(user.subject());
        for login in logins.iter().filter(|login| login.time_ms >= threshold_ms) {
            self.act_login(user, &login.session, login.time_ms, login.is_new);
        }
        if self.settings.end_sessions {
            self.errands.end_sessions(user.subject(), Some(threshold_ms));
        }
    }
}
