//! A realm, as a Postern sees it that asks: late, in pages, in whole seconds, or not at all.

use crate::world::{Endpoint, Ms, REALMS, Shared, Weather, World};
use postern::base::clock::Clock;
use postern::base::http_client::HttpError;
use postern::issuer::keycloak::{
    Answer, DisabledPage, Event, EventPage, EventsConfig, Feed, IssuerSpan, KeycloakError, Meaning, Offset, Session,
    User, UserState,
};
use postern::watch::Directory;
use std::sync::Mutex;
use std::time::Duration;

/// Rows of the last page of disabled users that are asked for again. The real one has pages of 500 and 20 of these.
const OVERLAP: usize = 2;

/// As `issuer::keycloak` renews its token.
const RENEW_AFTER_MS: u64 = 60_000;

/// A call that takes longer is not at once; one that takes longer than this part of the bound is not in good time.
const CRISP_MS: Ms = 150;
const FAIR_PART: Ms = 20;

/// One realm, asked by one process.
pub(crate) struct SimDirectory {
    pub(crate) world: Shared,
    pub(crate) realm: usize,
    pub(crate) process: u32,
    pub(crate) clock: Clock,
    /// Held while a token is had, as `issuer::keycloak::account` does.
    pub(crate) renewed_ms: tokio::sync::Mutex<Option<u64>>,
    pub(crate) offset: Mutex<Option<Offset>>,
}

/// What becomes of a call.
struct Fate {
    there: Ms,
    back: Ms,
    error: Option<HttpError>,
}

impl World {
    fn fate(&mut self, realm: usize, endpoint: Endpoint) -> Fate {
        let timeout = self.timeout;
        let random = &mut self.luck;
        let url = || format!("{endpoint:?}");
        let fair = |there, back| Fate { there, back, error: None };
        let timed_out = Fate { there: 0, back: timeout, error: Some(HttpError::Timeout { url: url() }) };
        let failed = |after| Fate { there: 0, back: after, error: Some(HttpError::Status { url: url(), status: 500 }) };
        match self.realms[realm].weather {
            Weather::Down => Fate {
                there: 0,
                back: random.between(0, 3),
                error: Some(HttpError::Unreachable { url: url(), cause: "refused".to_owned() }),
            },
            Weather::Hanging => timed_out,
            Weather::Broken(broken) if broken == endpoint => failed(random.between(0, 20)),
            Weather::Flaky(percent) if random.chance(percent) => match random.chance(30) {
                true => timed_out,
                false => failed(random.between(0, 500)),
            },
            Weather::Slow => match fair(random.between(0, 2_500), random.between(0, 2_500)) {
                slow if slow.there + slow.back > timeout => timed_out,
                slow => slow,
            },
            _ => fair(random.between(0, 40), random.between(0, 40)),
        }
    }

    /// A realm did not answer as it should: what is promised counts from now.
    pub(crate) fn disturb(&mut self, realm: usize, is_fair: bool) {
        self.settle(realm);
        let now = self.now();
        self.realms[realm].crisp_since = now;
        if !is_fair {
            self.realms[realm].fair_since = now;
        }
    }

    fn note(&mut self, realm: usize, took: Ms, has_failed: bool) {
        if has_failed || took > CRISP_MS {
            self.disturb(realm, !has_failed && took <= self.bound / FAIR_PART);
        }
    }
}

impl SimDirectory {
    async fn sleep(&self, ms: Ms) {
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }

    fn is_alive(&self) -> bool {
        self.world.lock().unwrap().process.as_ref().is_some_and(|process| process.number == self.process)
    }

    /// One call, without a look at who asks.
    async fn call<T>(&self, endpoint: Endpoint, value: impl FnOnce(&mut World) -> T) -> Result<T, KeycloakError> {
        if !self.is_alive() {
            // Whom nobody waits for.
            std::future::pending::<()>().await;
        }
        let Fate { there, back, error } = {
            let mut world = self.world.lock().unwrap();
            world.counts.calls += 1;
            let fate = world.fate(self.realm, endpoint);
            world.note(self.realm, fate.there + fate.back, fate.error.is_some());
            fate
        };
        self.sleep(there).await;
        let result = match error {
            None => Ok(value(&mut self.world.lock().unwrap())),
            Some(error) => Err(error.into()),
        };
        self.sleep(back).await;
        self.world.lock().unwrap().note(self.realm, there + back, result.is_err());
        result
    }

    async fn renew(&self, renewed_ms: &mut Option<u64>) -> Result<(), KeycloakError> {
        let asked_ms = self.clock.now().monotonic_ms;
        let issued_ms = self.call(Endpoint::Token, |world| world.moment(self.realm).issuer_ms).await?;
        let offset = Offset::new(issued_ms / 1000, asked_ms, self.clock.now().monotonic_ms);
        let mut known = self.offset.lock().unwrap();
        *known = Some(offset.narrowed(*known));
        *renewed_ms = Some(asked_ms);
        Ok(())
    }

    async fn ask<T>(
        &self,
        endpoint: Endpoint,
        value: impl FnOnce(&mut World) -> T,
    ) -> Result<Answer<T>, KeycloakError> {
        let mut renewed_ms = self.renewed_ms.lock().await;
        let now_ms = self.clock.now().monotonic_ms;
        let is_old = renewed_ms.is_none_or(|renewed_ms| now_ms - renewed_ms >= RENEW_AFTER_MS);
        if is_old {
            let result = self.renew(&mut renewed_ms).await;
            // The old one is good for a while.
            if renewed_ms.is_none() {
                result?;
            }
        }
        drop(renewed_ms);
        let asked_ms = self.clock.now().monotonic_ms;
        let value = self.call(endpoint, value).await?;
        let offset = self.offset.lock().unwrap().unwrap();
        Ok(Answer { value, asked_ms, time: offset.between(asked_ms, self.clock.now().monotonic_ms) })
    }
}

impl Directory for SimDirectory {
    async fn events(&self, feed: Feed, since_ms: u64, first: usize) -> Result<Answer<EventPage>, KeycloakError> {
        self.ask(Endpoint::Events, |world| event_page(world, self.realm, feed, since_ms, first)).await
    }

    async fn events_config(&self) -> Result<EventsConfig, KeycloakError> {
        let is_on = self.ask(Endpoint::Other, |world| world.realms[self.realm].keeps_events).await?.value;
        Ok(EventsConfig { has_admin_events: is_on, has_details: is_on, has_user_events: is_on, has_lockouts: is_on })
    }

    async fn disabled_users(&self, first: usize) -> Result<Answer<DisabledPage>, KeycloakError> {
        self.ask(Endpoint::Disabled, |world| {
            let realm = &world.realms[self.realm];
            let disabled = realm.people.iter().filter(|(_, person)| person.exists && !person.enabled);
            let users: Vec<_> = disabled.map(|(name, _)| name.clone()).skip(first).take(realm.user_page).collect();
            let next = (users.len() == realm.user_page).then(|| first + users.len() - OVERLAP);
            DisabledPage { users, next }
        })
        .await
    }

    async fn user(&self, id: &str) -> Result<Answer<UserState>, KeycloakError> {
        self.ask(Endpoint::User, |world| match world.realms[self.realm].people.get(id) {
            Some(person) if person.exists => UserState::Present(User {
                enabled: person.enabled,
                is_federated: false,
                not_before_ms: person.not_before_ms,
            }),
            _ => UserState::Deleted,
        })
        .await
    }

    async fn sessions(&self, id: &str) -> Result<Answer<Option<Vec<Session>>>, KeycloakError> {
        self.ask(Endpoint::Sessions, |world| {
            let person = world.realms[self.realm].people.get(id).filter(|person| person.exists)?;
            let whole = |ms: u64| ms / 1000 * 1000;
            let session = |session: &crate::world::Session| Session {
                id: session.id.clone(),
                began_ms: whole(session.began.issuer_ms),
            };
            Some(person.sessions.iter().map(session).collect())
        })
        .await
    }

    async fn end_sessions(&self, id: &str, begun_before_ms: Option<u64>) -> Result<(), KeycloakError> {
        self.ask(Endpoint::User, |world| {
            if !world.realms[self.realm].people.get(id).is_some_and(|person| person.exists) {
                return;
            }
            match begun_before_ms {
                None => world.log_out(self.realm, id),
                Some(before) => {
                    let sessions = &mut world.person(self.realm, id).sessions;
                    sessions.retain(|session| session.began.issuer_ms / 1000 * 1000 + 999 >= before);
                }
            }
        })
        .await
        .map(|_| ())
    }

    async fn realm_not_before(&self) -> Result<u64, KeycloakError> {
        self.call(Endpoint::Other, |_| 0).await
    }

    fn time(&self) -> Option<IssuerSpan> {
        let now_ms = self.clock.now().monotonic_ms;
        let offset = *self.offset.lock().unwrap();
        offset.map(|offset| offset.between(now_ms, now_ms))
    }

    async fn ask_time(&self) -> Result<IssuerSpan, KeycloakError> {
        let asked_ms = self.clock.now().monotonic_ms;
        let mut renewed_ms = self.renewed_ms.lock().await;
        if renewed_ms.is_none_or(|renewed_ms| renewed_ms < asked_ms) {
            self.renew(&mut renewed_ms).await?;
        }
        Ok(self.time().unwrap())
    }
}

fn event_page(world: &mut World, realm: usize, feed: Feed, since_ms: u64, first: usize) -> EventPage {
    let World { realms, luck: random, .. } = world;
    let realm = &realms[realm];
    let mut rows: Vec<_> = realm.events[feed as usize].iter().filter(|row| row.time_ms >= since_ms).collect();
    rows.sort_by_key(|row| row.time_ms);
    let mut rows: Vec<_> = rows.into_iter().skip(first).take(realm.event_page).cloned().collect();
    let (count, is_full) = (rows.len(), rows.len() == realm.event_page);
    let newest_ms = rows.iter().map(|row| row.time_ms).max().unwrap_or(0);
    if realm.is_messy && !rows.is_empty() {
        let again = rows[random.below(rows.len())].clone();
        rows.push(again);
        random.shuffle(&mut rows);
    }
    let events = rows.into_iter().map(|row| Event { id: row.id, time_ms: row.time_ms, meaning: row.meaning }).collect();
    EventPage { events, rows: count, is_full, newest_ms, malformed: 0, unrelated: 0 }
}

impl World {
    /// An administrator, or Postern, logs a user out of everything.
    pub(crate) fn log_out(&mut self, realm: usize, name: &str) {
        let moment = self.moment(realm);
        let person = self.person(realm, name);
        person.sessions.clear();
        person.not_before_ms = moment.issuer_ms / 1000 * 1000;
        person.is_touched = true;
        person.changed = moment.at;
        self.tell(realm, Feed::Admin, moment.issuer_ms, Meaning::LoggedOut { user: name.to_owned() });
        self.log(|| format!("{} {name} is logged out", REALMS[realm]));
    }
}
