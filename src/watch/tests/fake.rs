//! A directory in memory, and a watch over it.

use crate::base::clock::Clock;
use crate::base::http_client::HttpError;
use crate::identity::ceiling::Ceiling;
use crate::issuer::keycloak::{
    Answer, DisabledPage, Event, EventPage, EventsConfig, Feed, IssuerSpan, KeycloakError, Meaning, Session, User,
    UserState,
};
use crate::users::{Cause, Judgement, State, TokenClaims, UserId, Users};
use crate::watch::{Directory, Hint, Settings, Watch};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::broadcast;

/// The year 2026, in seconds.
pub(super) const START: u64 = 1_795_000_000;

#[derive(Clone)]
pub(super) struct Fake {
    clock: Clock,
    state: Arc<Mutex<Keycloak>>,
}

pub(super) struct Keycloak {
    pub(super) users: BTreeMap<String, Person>,
    events: [Vec<(String, u64, Meaning)>; 2],
    pub(super) is_down: bool,
    /// Whether events are written.
    pub(super) has_events: bool,
    pub(super) config: EventsConfig,
    pub(super) realm_not_before_ms: u64,
    /// How far its clock is ahead of ours, in milliseconds.
    pub(super) ahead_ms: i64,
    /// What a look at it some time ago said, if that was not just now.
    pub(super) shown_ahead_ms: Option<i64>,
    /// Whether a page of events comes newest first.
    pub(super) is_reversed: bool,
    /// Each call takes so long.
    pub(super) takes: Duration,
    pub(super) page_size: usize,
    /// Every call, in order.
    pub(super) calls: Vec<String>,
    next_id: u64,
}

#[derive(Clone, Default)]
pub(super) struct Person {
    pub(super) is_disabled: bool,
    pub(super) is_unlisted: bool,
    pub(super) is_federated: bool,
    pub(super) not_before_ms: u64,
    pub(super) sessions: Vec<Session>,
}

impl Fake {
    pub(super) fn kc(&self) -> MutexGuard<'_, Keycloak> {
        self.state.lock().unwrap()
    }

    /// What its clock shows, in milliseconds.
    pub(super) fn now(&self) -> u64 {
        self.clock.now().unix_ms.checked_add_signed(self.kc().ahead_ms).unwrap()
    }

    fn shown(&self) -> IssuerSpan {
        let off_ms = {
            let kc = self.kc();
            kc.shown_ahead_ms.map_or(0, |shown_ms| shown_ms - kc.ahead_ms)
        };
        let now = self.now().checked_add_signed(off_ms).unwrap();
        IssuerSpan { earliest_ms: now - 500, latest_ms: now + 500 }
    }

    /// Writes an event that was made `ago` milliseconds before.
    pub(super) fn tell_late(&self, feed: Feed, meaning: Meaning, ago: u64) {
        let time = self.now() - ago;
        let mut kc = self.kc();
        kc.next_id += 1;
        let id = format!("event-{}", kc.next_id);
        if kc.has_events {
            kc.events[feed as usize].push((id, time, meaning));
        }
    }

    pub(super) fn tell(&self, feed: Feed, meaning: Meaning) {
        self.tell_late(feed, meaning, 0);
    }

    /// An administrator disables or enables a user.
    pub(super) fn enable(&self, user: &str, enabled: bool) {
        self.kc().users.get_mut(user).unwrap().is_disabled = !enabled;
        let user = user.to_owned();
        self.tell(Feed::Admin, if enabled { Meaning::Enabled { user } } else { Meaning::Disabled { user } });
    }

    pub(super) fn delete(&self, user: &str) {
        self.kc().users.remove(user);
        self.tell(Feed::Admin, Meaning::Deleted { user: user.to_owned() });
    }

    /// An administrator, or a gateway that ends all sessions, logs a user out.
    pub(super) fn log_out(&self, user: &str) {
        let now = self.now();
        if let Some(person) = self.kc().users.get_mut(user) {
            person.sessions.clear();
            person.not_before_ms = now / 1000 * 1000;
        }
        self.tell(Feed::Admin, Meaning::LoggedOut { user: user.to_owned() });
    }

    /// A user signs in by the password grant, or in a browser.
    pub(super) fn sign_in(&self, user: &str, session: &str, is_new: bool) {
        let began_ms = self.now() / 1000 * 1000;
        self.kc().users.get_mut(user).unwrap().sessions.push(Session { id: session.to_owned(), began_ms });
        self.tell(Feed::User, Meaning::SignedIn { user: user.to_owned(), session: session.to_owned(), is_new });
    }

    /// How often something was asked.
    pub(super) fn count(&self, call: &str) -> usize {
        self.kc().calls.iter().filter(|made| *made == call).count()
    }

    async fn answer<T>(
        &self,
        call: String,
        value: impl FnOnce(&mut Keycloak) -> T,
    ) -> Result<Answer<T>, KeycloakError> {
        let asked_ms = self.clock.now().monotonic_ms;
        let takes = self.kc().takes;
        self.kc().calls.push(call);
        tokio::time::sleep(takes / 2).await;
        let result = if self.kc().is_down {
            Err(HttpError::Timeout { url: "fake".to_owned() }.into())
        } else {
            Ok(value(&mut self.kc()))
        };
        tokio::time::sleep(takes / 2).await;
        result.map(|value| Answer { value, asked_ms, time: self.shown() })
    }
}

impl Directory for Fake {
    async fn events(&self, feed: Feed, since_ms: u64, first: usize) -> Result<Answer<EventPage>, KeycloakError> {
        self.answer(format!("{} {first}", feed.code()), |kc| {
            let mut rows = kc.events[feed as usize].clone();
            rows.retain(|(_, time, _)| *time >= since_ms);
            rows.sort_by_key(|(_, time, _)| *time);
            let mut rows: Vec<_> = rows.into_iter().skip(first).take(kc.page_size).collect();
            if kc.is_reversed {
                rows.reverse();
            }
            let newest_ms = rows.iter().map(|(_, time, _)| *time).max().unwrap_or(0);
            let (count, is_full) = (rows.len(), rows.len() == kc.page_size);
            let events = rows.into_iter().map(|(id, time_ms, meaning)| Event { id, time_ms, meaning }).collect();
            EventPage { events, rows: count, is_full, newest_ms, malformed: 0, unrelated: 0 }
        })
        .await
    }

    async fn events_config(&self) -> Result<EventsConfig, KeycloakError> {
        self.answer("config".to_owned(), |kc| kc.config).await.map(|answer| answer.value)
    }

    async fn disabled_users(&self, first: usize) -> Result<Answer<DisabledPage>, KeycloakError> {
        self.answer(format!("disabled {first}"), |kc| {
            let disabled = kc.users.iter().filter(|(_, person)| person.is_disabled && !person.is_unlisted);
            let users: Vec<_> = disabled.map(|(id, _)| id.clone()).skip(first).take(kc.page_size).collect();
            let next = (users.len() == kc.page_size).then_some(first + users.len());
            DisabledPage { users, next }
        })
        .await
    }

    async fn user(&self, id: &str) -> Result<Answer<UserState>, KeycloakError> {
        self.answer(format!("user {id}"), |kc| match kc.users.get(id) {
            None => UserState::Deleted,
            Some(person) => UserState::Present(User {
                enabled: !person.is_disabled,
                is_federated: person.is_federated,
                not_before_ms: person.not_before_ms,
            }),
        })
        .await
    }

    async fn sessions(&self, id: &str) -> Result<Answer<Option<Vec<Session>>>, KeycloakError> {
        self.answer(format!("sessions {id}"), |kc| kc.users.get(id).map(|person| person.sessions.clone())).await
    }

    async fn end_sessions(&self, id: &str, begun_before_ms: Option<u64>) -> Result<(), KeycloakError> {
        let call = format!("end {id} {}", if begun_before_ms.is_some() { "old" } else { "all" });
        self.answer(call, |kc| {
            if let (Some(person), Some(before)) = (kc.users.get_mut(id), begun_before_ms) {
                person.sessions.retain(|session| session.began_ms + 999 >= before);
            }
        })
        .await?;
        if begun_before_ms.is_none() {
            self.log_out(id);
        }
        Ok(())
    }

    async fn realm_not_before(&self) -> Result<u64, KeycloakError> {
        self.answer("realm".to_owned(), |kc| kc.realm_not_before_ms).await.map(|answer| answer.value)
    }

    fn time(&self) -> Option<IssuerSpan> {
        Some(self.shown())
    }

    async fn ask_time(&self) -> Result<IssuerSpan, KeycloakError> {
        self.answer("time".to_owned(), |_| ()).await.map(|answer| answer.time)
    }
}

/// A watch that runs, over users `alice`, `bob` and `carol`.
pub(super) struct World {
    pub(super) fake: Fake,
    pub(super) users: Arc<Users>,
    pub(super) watch: Arc<Watch<Fake>>,
    pub(super) ceiling: Arc<Ceiling>,
    pub(super) hints: broadcast::Receiver<Hint>,
    pub(super) clock: Clock,
}

impl World {
    /// One that has come to rest.
    pub(super) async fn start() -> Self {
        Self::start_with("main", |_| (), |_| ()).await
    }

    pub(super) async fn start_with(
        issuer: &str,
        change: impl FnOnce(&mut Keycloak),
        set: impl FnOnce(&mut Settings),
    ) -> Self {
        let clock = Clock::of_runtime(START);
        let users = Users::in_memory(clock.clone());
        Self::over(issuer, clock, users, change, set).await
    }

    pub(super) async fn over(
        issuer: &str,
        clock: Clock,
        users: Arc<Users>,
        change: impl FnOnce(&mut Keycloak),
        set: impl FnOnce(&mut Settings),
    ) -> Self {
        let config =
            EventsConfig { has_admin_events: true, has_details: true, has_user_events: true, has_lockouts: true };
        let mut kc = Keycloak {
            users: ["alice", "bob", "carol"].map(|name| (name.to_owned(), Person::default())).into(),
            events: Default::default(),
            is_down: false,
            has_events: true,
            config,
            realm_not_before_ms: 0,
            ahead_ms: 0,
            shown_ahead_ms: None,
            is_reversed: false,
            takes: Duration::from_millis(10),
            page_size: 100,
            calls: Vec::new(),
            next_id: 0,
        };
        change(&mut kc);
        let fake = Fake { clock: clock.clone(), state: Arc::new(Mutex::new(kc)) };
        let mut settings = Settings { issuer: issuer.into(), bound: Duration::from_secs(30), end_sessions: false };
        set(&mut settings);
        let (sender, hints) = broadcast::channel(100);
        let ceiling = Arc::new(Ceiling::new(100));
        let watch = Watch::new(settings, fake.clone(), Arc::clone(&users), clock.clone(), Arc::clone(&ceiling), sender);
        tokio::spawn(Arc::clone(&watch).run());
        let world = Self { fake, users, watch, ceiling, hints, clock };
        world.after(500).await;
        world
    }

    /// Waits so many milliseconds.
    pub(super) async fn after(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    pub(super) fn user(&self, name: &str) -> UserId {
        self.watch.user(name).unwrap()
    }

    pub(super) fn state(&self, name: &str) -> State {
        self.users.state(&self.user(name)).map_or(State::Active, |view| view.state)
    }

    pub(super) fn cause(&self, name: &str) -> Option<Cause> {
        self.users.state(&self.user(name)).and_then(|view| view.by_issuer)
    }

    /// Whether a token of that session passes.
    pub(super) fn judge(&self, name: &str, session: &str) -> Judgement {
        let user = self.user(name);
        let claims = TokenClaims {
            issuer: user.issuer(),
            subject: name,
            session: Some(session),
            issued: None,
            id: None,
            epoch: None,
        };
        self.users.judge(&claims, self.clock.now())
    }

    /// Everything hinted at so far.
    pub(super) fn hinted(&mut self) -> Vec<Hint> {
        std::iter::from_fn(|| self.hints.try_recv().ok()).collect()
    }
}
