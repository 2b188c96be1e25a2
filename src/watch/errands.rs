//! One user asked about at a time, under the ceiling, by a call that begins after the reason for it came.
//!
//! What is to be asked about a user is taken from the list before the call begins, so a reason that comes meanwhile makes
//! another. There is one errand at a time, so no answer about a user can overtake another.

use super::{Directory, Watch, back_off, locked};
use crate::issuer::keycloak::{Answer, Feed, IssuerSpan, KeycloakError, User, UserState};
use crate::users::{Cause, IssuerCause, IssuerTime, Lift, Lifted, Proof, UserId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// An errand is given up after so many tries; the sweep brings it again if it matters.
const TRIES: u32 = 20;

/// A not-before from longer ago is no news: tokens from before it have ended, and the issuer itself takes no session from then.
pub(super) const NEWS_MS: u64 = 24 * 60 * 60 * 1000;

/// So long after something happened its event has been read, unless the feed fails.
const EVENT_MS: u64 = 3_000;

/// After so long a user is read again whose event is due: surely none comes any more.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// What is to be asked and done, user by user.
#[derive(Debug, Default)]
pub(super) struct Errands {
    list: Mutex<List>,
    /// Users to be read again, and when.
    later: Mutex<VecDeque<(Instant, Arc<str>)>>,
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
    told: Told,
    /// Look whether this session is new.
    look: Option<String>,
    /// End all sessions, or those begun before a time.
    end: Option<Option<u64>>,
    tries: u32,
    is_urgent: bool,
}

/// What events tell that the answer is to be understood by, by the issuer's clock.
#[derive(Debug, Default, Clone)]
struct Told {
    /// When the user was enabled, in no order.
    enabled_ms: Vec<u64>,
    /// When an administrator last ended all the user's sessions.
    logged_out_ms: Option<u64>,
}

impl Errand {
    /// Both, as one.
    fn join(&mut self, other: Self) {
        self.read |= other.read;
        self.told.enabled_ms.extend(other.told.enabled_ms);
        self.told.logged_out_ms = self.told.logged_out_ms.max(other.told.logged_out_ms);
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
        let told = Told { enabled_ms: vec![enabled_ms], ..Told::default() };
        self.add(subject, Errand { read: true, told, is_urgent: true, ..Errand::default() });
    }

    /// Ask about the user, whose sessions an administrator ended at this time of the issuer's clock.
    pub(super) fn read_logged_out(&self, subject: &str, logged_out_ms: u64, is_urgent: bool) {
        let told = Told { logged_out_ms: Some(logged_out_ms), ..Told::default() };
        self.add(subject, Errand { read: true, told, is_urgent, ..Errand::default() });
    }

    /// Ask about the user, when no event can be due any more.
    fn read_later(&self, subject: &Arc<str>) {
        locked(&self.later).push_back((Instant::now() + READ_AGAIN, Arc::clone(subject)));
        self.wake.notify_one();
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
        loop {
            let next = self.begin_later();
            if !locked(&self.list).errands.is_empty() {
                return;
            }
            match next {
                Some(at) => drop(tokio::time::timeout_at(at, self.wake.notified()).await),
                None => self.wake.notified().await,
            }
        }
    }

    /// Has those read whose time has come. Gives when the next one's does.
    fn begin_later(&self) -> Option<Instant> {
        loop {
            let subject = {
                let mut later = locked(&self.later);
                let (at, _) = later.front()?;
                if *at > Instant::now() {
                    return Some(*at);
                }
                later.pop_front()?.1
            };
            self.read(&subject, true);
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
        // All sessions are ended only of a user who was just seen to be out still: one of who is back may be new.
        if errand.read || errand.end == Some(None) {
            let turn = self.ceiling.begin_read().await;
            let answer = self.directory.user(user.subject()).await;
            drop(turn);
            match answer {
                Ok(answer) => {
                    let is_back = self.act_read(user, &answer, &std::mem::take(&mut errand.told)).await;
                    errand.end = errand.end.filter(|begun_before_ms| begun_before_ms.is_some() || !is_back);
                }
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
            let _turn = self.ceiling.begin_read().await;
            self.directory.end_sessions(user.subject(), begun_before_ms).await?;
            self.counters.sessions_ended.fetch_add(1, Ordering::Relaxed);
            errand.end = None;
        }
        Ok(())
    }

    /// Gives whether the user is there and enabled.
    async fn act_read(&self, user: &UserId, answer: &Answer<UserState>, told: &Told) -> bool {
        let (count, cause) = match answer.value {
            UserState::Present(found) if found.enabled => {
                self.counters.reads_enabled.fetch_add(1, Ordering::Relaxed);
                return self.act_enabled(user, found, answer, told);
            }
            // Or its directory does not answer: the sweep will show which.
            UserState::Present(found) if found.is_federated => {
                self.counters.reads_unknown.fetch_add(1, Ordering::Relaxed);
                return false;
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
        // Known to the millisecond now; when the user is enabled again only the not-before is left of it.
        if let UserState::Present(found) = answer.value
            && let time @ IssuerTime::At(_) = not_before(found, told)
        {
            self.act_not_before(user, time);
        }
        false
    }

    /// The time of what was read, which must not be earlier than it was: if the issuer's clock was set, it is set now.
    pub(super) async fn shown_until(&self, read: IssuerSpan) -> IssuerTime {
        let asked = self.directory.ask_time().await;
        let latest_ms = asked.map_or(read.latest_ms, |now| now.latest_ms.max(read.latest_ms));
        IssuerTime::Within(latest_ms.saturating_sub(1000))
    }

    /// Gives whether the user is enabled as far as is known: a block may be newer than the read.
    fn act_enabled(&self, user: &UserId, found: User, answer: &Answer<UserState>, told: &Told) -> bool {
        let view = self.users.state(user);
        let is_blocked = view.as_ref().is_some_and(|view| view.by_issuer.is_some());
        let is_due = self.is_event_due(user, found, answer, told);
        let time = not_before(found, told);
        let is_news = match &view {
            Some(view) => time.earliest_ms() >= view.threshold_ms,
            None => found.not_before_ms.saturating_add(NEWS_MS) > answer.time.latest_ms,
        };
        let is_exact = matches!(time, IssuerTime::At(_));
        if found.not_before_ms > 0 && is_news {
            if is_exact || !is_due {
                self.act_not_before(user, time);
            } else if !is_blocked {
                self.errands.read_later(user.subject());
            }
        }
        if !is_blocked || is_due {
            return true;
        }
        let enabled_ms = Some(self.enabled_at(user.subject(), &told.enabled_ms, answer.time));
        match self.users.lift(user, Lift::Issuer { read_began_ms: answer.asked_ms, enabled_ms }) {
            Ok(Lifted::Done(_)) => self.follow_lift(user, answer.asked_ms),
            // The block is newer than the read, and so may be the moment of enabling.
            Ok(Lifted::Stale) => {
                self.read_anew(user, told);
                return false;
            }
            Ok(Lifted::NotBlocked) => {}
            Err(error) => self.note_store(&error),
        }
        true
    }

    /// Asks again, by the same events if they are newer than all that is known.
    fn read_anew(&self, user: &UserId, told: &Told) {
        let threshold_ms = self.users.state(user).map_or(0, |view| view.threshold_ms);
        self.errands.read(user.subject(), true);
        for enabled_ms in told.enabled_ms.iter().filter(|enabled_ms| **enabled_ms > threshold_ms) {
            self.errands.read_enabled(user.subject(), *enabled_ms);
        }
    }

    /// Whether the events of what made the difference just now are still to come: they tell the moments to the millisecond, the read
    /// to a second, and within it the user may have signed in. Should they not come, a sweep has a user who is blocked read again, and
    /// any other is read a little later.
    fn is_event_due(&self, user: &UserId, found: User, answer: &Answer<UserState>, told: &Told) -> bool {
        let is_kept = !self.counters.feed(Feed::Admin).is_off.load(Ordering::Relaxed);
        let seen_ms = locked(&self.disabled).get(user.subject()).map_or(0, |seen| seen.latest_ms);
        let latest_ms = seen_ms.max(IssuerTime::Within(found.not_before_ms).latest_ms());
        is_kept && told.enabled_ms.is_empty() && latest_ms.saturating_add(EVENT_MS) > answer.time.earliest_ms
    }

    fn act_not_before(&self, user: &UserId, time: IssuerTime) {
        self.block(user, Proof::Issuer { cause: IssuerCause::NotBefore, time, happened_ms: None });
        // The user may have signed in again, which the other feed told before.
        self.recall_logins(user);
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
        let threshold_ms = self.recall_logins(user);
        if self.settings.end_sessions {
            self.errands.end_sessions(user.subject(), Some(threshold_ms));
        }
    }

    /// Holds the sign-ins that were told lately against what is known now: from when on they count.
    fn recall_logins(&self, user: &UserId) -> u64 {
        let threshold_ms = self.users.state(user).map_or(0, |view| view.threshold_ms);
        let logins = locked(&self.logins).of(user.subject());
        for login in logins.iter().filter(|login| login.time_ms >= threshold_ms) {
            self.act_login(user, &login.session, login.time_ms, login.is_new);
        }
        threshold_ms
    }
}

/// A user's not-before. Keycloak keeps the second only, and whoever signs in again at once does so within it: where an event tells
/// of the logout that set it, that was by then.
fn not_before(found: User, told: &Told) -> IssuerTime {
    let from_ms = found.not_before_ms;
    let is_within = |told_ms: &u64| (from_ms..from_ms.saturating_add(1000)).contains(told_ms);
    told.logged_out_ms.filter(is_within).map_or(IssuerTime::Within(from_ms), IssuerTime::At)
}
