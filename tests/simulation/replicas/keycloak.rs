//! Keycloak, as a replica asks it: for what happened, once a second, and for what tokens say about a user.
//!
//! The loops that watch over users are simulated elsewhere; what matters here is what each replica is told, and when.

use super::people::{Happening, Kind};
use super::wire::{Line, sleep};
use super::world::{ISSUER, Ms, Role, Shared, Weather, World};
use postern::base::clock::Clock;
use postern::base::http_client::HttpError;
use postern::delivery::Roster;
use postern::identity::{Links, News};
use postern::issuer::keycloak::{Answer, IssuerSpan, KeycloakError, Listed, Person, User, UserState, UsersPage};
use postern::replica::Replica;
use postern::users::{IssuerCause, IssuerTime, Lift, Proof, State, UserId, Users};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How often events are asked for, and everybody who is disabled.
const POLL_MS: Ms = 1_000;
const SWEEP_MS: Ms = 20_000;

/// So much of what the last process had read is read again by the next: the watch over users does so.
const AGAIN_MS: Ms = 80_000;

/// A call that is not answered ends after this.
const TIMEOUT_MS: Ms = 5_000;

/// One replica's view of the realm.
#[derive(Clone)]
pub(crate) struct Realm {
    pub(crate) line: Arc<Line>,
    has_answered: Arc<AtomicBool>,
}

impl Realm {
    pub(crate) fn new(line: &Arc<Line>) -> Self {
        Self { line: Arc::clone(line), has_answered: Arc::default() }
    }

    fn world(&self) -> &Shared {
        &self.line.world
    }

    fn clock(&self) -> &Clock {
        &self.line.clock
    }

    async fn ask<T>(
        &self,
        kind: &'static str,
        value: impl FnOnce(&mut World) -> T,
    ) -> Result<Answer<T>, KeycloakError> {
        self.line.thaw().await;
        self.world().lock().unwrap().asked.count(kind);
        let asked_ms = self.clock().now().monotonic_ms;
        let (delay, error) = self.world().lock().unwrap().keycloak_fate();
        sleep(delay).await;
        let value = match error {
            None => value(&mut self.world().lock().unwrap()),
            Some(error) => {
                self.line.thaw().await;
                return Err(error.into());
            }
        };
        let back = self.world().lock().unwrap().luck.between(1, 10);
        sleep(back).await;
        self.line.thaw().await;
        if self.clock().now().monotonic_ms > asked_ms + TIMEOUT_MS {
            // The process was paused meanwhile: the client looks at its clock first.
            return Err(HttpError::Timeout { url: "keycloak".to_owned() }.into());
        }
        self.has_answered.store(true, Ordering::Relaxed);
        let now_ms = self.world().lock().unwrap().unix_ms();
        // Its answers tell the second.
        let time = IssuerSpan { earliest_ms: now_ms / 1000 * 1000, latest_ms: now_ms / 1000 * 1000 + 999 };
        Ok(Answer { value, asked_ms, time })
    }
}

impl World {
    fn keycloak_fate(&mut self) -> (Ms, Option<HttpError>) {
        let url = || "keycloak".to_owned();
        let random = &mut self.luck;
        match self.keycloak {
            Weather::Down => (1, Some(HttpError::Unreachable { url: url(), cause: "refused".to_owned() })),
            Weather::Hanging => (TIMEOUT_MS, Some(HttpError::Timeout { url: url() })),
            Weather::Flaky(percent) if random.chance(percent) => match random.chance(30) {
                true => (TIMEOUT_MS, Some(HttpError::Timeout { url: url() })),
                false => (random.between(1, 500), Some(HttpError::Status { url: url(), status: 503 })),
            },
            Weather::Slow => (random.between(50, 3_000), None),
            Weather::Fair | Weather::Flaky(_) => (random.between(1, 40), None),
        }
    }

    fn listed(&self, id: &str) -> Option<Person> {
        let person = self.people.get(id).filter(|person| person.exists)?;
        let email = Some(format!("{}@example.com", person.name));
        let listed = Listed { id: id.to_owned(), username: person.name.clone(), email, enabled: person.enabled };
        Some(Person { listed, is_federated: false, roles: person.roles.clone(), groups: Vec::new() })
    }
}

impl Roster for Realm {
    async fn users(&self, first: usize) -> Result<Answer<UsersPage>, KeycloakError> {
        self.ask("list", |world| {
            let all = world.people.keys().filter_map(|id| world.listed(id)).map(|person| person.listed);
            UsersPage { users: all.skip(first).collect(), next: None }
        })
        .await
    }

    async fn user(&self, id: &str) -> Result<Answer<UserState>, KeycloakError> {
        self.ask("user", |world| match world.listed(id) {
            None => UserState::Deleted,
            Some(person) => {
                UserState::Present(User { enabled: person.listed.enabled, is_federated: false, not_before_ms: 0 })
            }
        })
        .await
    }

    async fn person(&self, id: &str) -> Result<Answer<Option<Person>>, KeycloakError> {
        self.ask("person", |world| world.listed(id)).await
    }

    async fn realm(&self) -> Result<(), KeycloakError> {
        self.ask("realm", |_| ()).await.map(drop)
    }

    fn time(&self) -> Option<IssuerSpan> {
        let now_ms = self.world().lock().unwrap().unix_ms();
        let is_known = self.has_answered.load(Ordering::Relaxed);
        is_known.then_some(IssuerSpan { earliest_ms: now_ms, latest_ms: now_ms + 999 })
    }
}

/// What stands in for the watch over users in one replica.
pub(crate) struct Follower {
    pub(crate) realm: Realm,
    pub(crate) users: Arc<Users>,
    pub(crate) links: Arc<Links>,
    pub(crate) shared: Arc<Replica>,
    /// How many happenings it has seen.
    pub(crate) position: Arc<AtomicUsize>,
}

impl Follower {
    pub(crate) async fn run(self) {
        self.begin();
        let mut swept_ms = 0;
        let phase = self.realm.world().lock().unwrap().luck.between(0, POLL_MS);
        sleep(phase).await;
        loop {
            self.follow().await;
            let now_ms = self.realm.clock().now().monotonic_ms;
            if (swept_ms == 0 || now_ms >= swept_ms + SWEEP_MS) && self.sweep().await {
                swept_ms = now_ms;
            }
            sleep(POLL_MS).await;
        }
    }

    fn id(subject: &str) -> UserId {
        UserId::new(ISSUER, subject).unwrap()
    }

    /// What a process left is where another begins, but for what happened shortly before: that is told again.
    fn begin(&self) {
        let position = self.position.load(Ordering::Relaxed);
        let world = self.realm.world().lock().unwrap();
        let seen = &world.happenings[..position];
        let since = seen.last().map_or(0, |last| last.at.saturating_sub(AGAIN_MS));
        let again = seen.iter().rev().take_while(|happening| happening.at >= since).count();
        self.position.store(position - again, Ordering::Relaxed);
    }

    async fn follow(&self) {
        let position = self.position.load(Ordering::Relaxed);
        let told = self.realm.ask("watch", |world| {
            let now = world.now();
            // They are told in order: one that is late holds up those after it.
            let new = world.happenings[position..].iter();
            new.take_while(|happening| happening.told <= now).cloned().collect::<Vec<_>>()
        });
        let Ok(told) = told.await else { return };
        for happening in told.value {
            self.take(happening).await;
            self.position.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tell(&self, news: News) {
        self.links.bulletin().tell(|| Some(news));
    }

    async fn take(&self, happening: Happening) {
        let id = Self::id(&happening.user);
        let time_ms = super::world::EPOCH * 1000 + happening.at;
        let block = |cause| {
            let proof = Proof::Issuer { cause, time: IssuerTime::At(time_ms), happened_ms: Some(time_ms) };
            self.users.block(&id, proof).unwrap();
        };
        match happening.kind {
            Kind::Created => self.tell(News::Created(id)),
            Kind::Disabled => {
                block(IssuerCause::Disabled);
                self.look(&id, None).await;
            }
            Kind::Deleted => block(IssuerCause::Deleted),
            Kind::Enabled => {
                self.look(&id, Some(time_ms)).await;
                self.tell(News::Changed(id));
            }
            Kind::Changed => self.tell(News::Changed(id)),
            Kind::SignedIn { session } => {
                self.users.signed_in(&id, Some(&session), time_ms).unwrap();
                if self.realm.world().lock().unwrap().slots[self.realm.line.slot].role == Role::Gateway {
                    self.shared.note_sign_in(&id);
                }
                self.tell(News::SignedIn(id));
            }
        }
    }

    /// Reads a user whom the issuer blocks, as far as is known.
    async fn look(&self, id: &UserId, enabled_ms: Option<u64>) {
        if self.users.state(id).is_none_or(|view| view.by_issuer.is_none()) {
            return;
        }
        let Ok(found) = Roster::user(&self.realm, id.subject()).await else { return };
        if matches!(found.value, UserState::Present(User { enabled: true, .. })) {
            self.users.lift(id, Lift::Issuer { read_began_ms: found.asked_ms, enabled_ms }).unwrap();
        }
    }

    /// Lists everybody who is disabled; looks at everybody who is blocked; and a gateway, to which users come with their tokens,
    /// asks for the sessions of whoever is to sign in.
    async fn sweep(&self) -> bool {
        let listed = self.realm.ask("watch", |world| {
            let out = world.people.iter().filter(|(_, person)| person.exists && !person.enabled);
            out.map(|(id, _)| id.clone()).collect::<Vec<_>>()
        });
        let Ok(Answer { value: disabled, asked_ms, time }) = listed.await else { return false };
        for subject in &disabled {
            let id = Self::id(subject);
            if self.users.state(&id).is_none_or(|view| view.by_issuer.is_none()) {
                let time = IssuerTime::Within(time.earliest_ms);
                let proof = Proof::Issuer { cause: IssuerCause::Disabled, time, happened_ms: None };
                self.users.block(&id, proof).unwrap();
            }
        }
        let mut blocked = self.users.blocked_by_issuer(ISSUER);
        blocked.sort();
        for id in blocked {
            if !disabled.contains(&id.subject().to_string()) {
                self.look(&id, None).await;
            }
        }
        self.tell(News::Swept { issuer: ISSUER.into(), began_ms: asked_ms });
        let role = self.realm.world().lock().unwrap().slots[self.realm.line.slot].role;
        if role == Role::Gateway { self.look_for_sign_ins().await } else { true }
    }

    async fn look_for_sign_ins(&self) -> bool {
        let mut awaited = self.users.list();
        awaited.sort_by(|one, other| one.user.cmp(&other.user));
        for view in awaited.into_iter().filter(|view| view.state == State::AwaitingSignIn) {
            let subject = view.user.subject().to_string();
            let Ok(found) = self
                .realm
                .ask("watch", |world| world.people.get(&subject).and_then(|person| person.session.clone()))
                .await
            else {
                return false;
            };
            if let Some((session, began)) = found.value {
                // Keycloak knows the second.
                let began_ms = (super::world::EPOCH * 1000 + began) / 1000 * 1000;
                self.users.signed_in(&view.user, Some(&session), began_ms).unwrap();
            }
        }
        true
    }
}
