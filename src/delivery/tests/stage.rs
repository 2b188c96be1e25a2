//! A delivery over a directory in memory, on a clock that goes as the runtime's timers do.

use crate::base::clock::Clock;
use crate::base::http_client::HttpError;
use crate::config::{self, Config};
use crate::delivery::counts::Counts;
use crate::delivery::{Delivery, Parts, Roster, Settings, ShownUser, sink};
use crate::identity::{KeptToken, Links, News, NoToken, Shared};
use crate::issuer::keycloak::{Answer, IssuerSpan, KeycloakError, Listed, Person, User, UserState, UsersPage};
use crate::telemetry::metrics::Metrics;
use crate::token_service::TokenService;
use crate::users::{IssuerCause, IssuerTime, Lift, Proof, UserId, Users};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(super) const START: u64 = 1_800_000_000;

const CONFIG: &str = "version = 1
dev = true
[token_service]
issuer = 'https://postern.example'
[issuer.main]
url = 'http://127.0.0.1:1/realms/demo'
audience = 'gateway'
user_status = { keycloak = { client_id = 'gateway', client_secret = 'x', when_unknown = { allow_for = '5m' } } }
[upstream.orders]
to = 'http://127.0.0.1:2'
[[route]]
path = '/**'
upstream = 'orders'
[delivery]
issuer = 'main'
offboard_after = '4h'
";

/// What the directory holds.
#[derive(Default)]
pub(super) struct Realm {
    pub(super) users: BTreeMap<String, Person>,
    pub(super) is_down: bool,
    pub(super) ahead_ms: i64,
    /// Persons asked about.
    pub(super) reads: usize,
    /// The next that is asked about makes a panic.
    pub(super) breaks: bool,
}

#[derive(Clone)]
pub(super) struct Fake {
    clock: Clock,
    realm: Arc<Mutex<Realm>>,
}

impl Fake {
    fn answer<T>(&self, value: impl FnOnce(&mut Realm) -> T) -> Result<Answer<T>, KeycloakError> {
        let mut realm = self.realm.lock().unwrap_or_else(PoisonError::into_inner);
        if realm.is_down {
            return Err(HttpError::Status { url: "http://kc".into(), status: 503 }.into());
        }
        let time = self.span(realm.ahead_ms);
        Ok(Answer { value: value(&mut realm), asked_ms: self.clock.now().monotonic_ms, time })
    }

    fn span(&self, ahead_ms: i64) -> IssuerSpan {
        let now_ms = self.clock.now().unix_ms.saturating_add_signed(ahead_ms);
        IssuerSpan { earliest_ms: now_ms, latest_ms: now_ms + 999 }
    }
}

impl Fake {
    /// A directory of these users.
    pub(super) fn new(clock: &Clock, names: &[&str]) -> Self {
        let fake = Self { clock: clock.clone(), realm: Arc::default() };
        for name in names {
            fake.realm().users.insert(format!("id-{name}"), person(name));
        }
        fake
    }

    pub(super) fn realm(&self) -> MutexGuard<'_, Realm> {
        self.realm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster for Fake {
    async fn users(&self, first: usize) -> Result<Answer<UsersPage>, KeycloakError> {
        self.answer(|realm| {
            let users = realm.users.values().skip(first).map(|person| person.listed.clone()).collect();
            UsersPage { users, next: None }
        })
    }

    async fn user(&self, id: &str) -> Result<Answer<UserState>, KeycloakError> {
        self.answer(|realm| match realm.users.get(id) {
            None => UserState::Deleted,
            Some(person) => {
                UserState::Present(User { enabled: person.listed.enabled, is_federated: false, not_before_ms: 0 })
            }
        })
    }

    async fn person(&self, id: &str) -> Result<Answer<Option<Person>>, KeycloakError> {
        self.answer(|realm| {
            realm.reads += 1;
            assert!(!std::mem::take(&mut realm.breaks), "a read that breaks off");
            realm.users.get(id).cloned()
        })
    }

    async fn realm(&self) -> Result<(), KeycloakError> {
        self.answer(|_| ()).map(drop)
    }

    fn time(&self) -> Option<IssuerSpan> {
        Some(self.span(self.realm().ahead_ms))
    }
}

pub(super) fn config() -> Config {
    config::parse(CONFIG, Path::new("postern.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

pub(super) fn id(subject: &str) -> UserId {
    UserId::new("main", subject).unwrap()
}

/// A user whose id is `id-` and their name.
fn person(username: &str) -> Person {
    let email = Some(format!("{username}@example.com"));
    Person {
        listed: Listed { id: format!("id-{username}"), username: username.into(), email, enabled: true },
        is_federated: false,
        roles: vec!["reader".into()],
        groups: vec!["/staff".into()],
    }
}

pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) users: Arc<Users>,
    pub(super) links: Arc<Links>,
    pub(super) service: Arc<TokenService>,
    pub(super) counts: Arc<Counts>,
    pub(super) metrics: Metrics,
    pub(super) delivery: Arc<Delivery<Fake>>,
    fake: Fake,
    folder: Arc<tempfile::TempDir>,
    task: JoinHandle<()>,
}

impl Stage {
    /// A running delivery in files, for these users.
    pub(super) async fn new(names: &[&str]) -> Self {
        let clock = Clock::of_runtime(START);
        let fake = Fake::new(&clock, names);
        let users = Users::in_memory(clock.clone());
        let service = TokenService::ephemeral(config().token_service, clock.clone()).unwrap();
        let stage = Self::with(clock, fake, users, Arc::new(tempfile::tempdir().unwrap()), Arc::new(service));
        stage.pass(2).await;
        stage
    }

    pub(super) fn with(
        clock: Clock,
        fake: Fake,
        users: Arc<Users>,
        folder: Arc<tempfile::TempDir>,
        service: Arc<TokenService>,
    ) -> Self {
        let config = config();
        let links = Arc::new(Links::default());
        let shared = Shared {
            users: Arc::clone(&users),
            links: Arc::clone(&links),
            clock: clock.clone(),
            control: Handle::current(),
        };
        let metrics = Metrics::new();
        let counts = Counts::new(&metrics, clock.clone());
        let settings = Settings::new(config.delivery.as_ref().unwrap(), &config.issuers[0]);
        let in_force = Arc::clone(&service);
        let parts = Parts {
            roster: fake.clone(),
            link: links.of("main", 10_000),
            token_service: Arc::new(move || Arc::clone(&in_force)),
            shared,
            sink: sink(Some(&folder.path().join("tokens")), "main").unwrap(),
            counts: Arc::clone(&counts),
        };
        let delivery = Delivery::open(settings, parts, &folder.path().join("delivery.redb")).unwrap();
        let task = tokio::spawn(Arc::clone(&delivery).run());
        Self { clock, users, links, service, counts, metrics, delivery, fake, folder, task }
    }

    /// As after `kill -9`. The signing key was kept.
    pub(super) async fn restart(self) -> Self {
        let (clock, users, service) = (self.clock.clone(), Arc::clone(&self.users), Arc::clone(&self.service));
        let (fake, folder) = (self.fake.clone(), Arc::clone(&self.folder));
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        drop(self);
        let stage = Self::with(clock, fake, users, folder, service);
        stage.pass(2).await;
        stage
    }

    pub(super) fn realm(&self) -> MutexGuard<'_, Realm> {
        self.fake.realm()
    }

    pub(super) fn add(&self, name: &str) {
        self.realm().users.insert(format!("id-{name}"), person(name));
    }

    pub(super) async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// The same, in which the issuer's disabled users are listed each 20 seconds.
    pub(super) async fn pass_swept(&self, seconds: u64) {
        for _ in 0..seconds / 20 {
            self.pass(20).await;
            if !self.realm().is_down {
                let began_ms = self.clock.now().monotonic_ms;
                self.tell(News::Swept { issuer: "main".into(), began_ms });
            }
        }
    }

    pub(super) fn tell(&self, news: News) {
        self.links.bulletin().tell(|| Some(news));
    }

    pub(super) async fn sign_in(&self, name: &str) {
        self.tell(News::SignedIn(id(&format!("id-{name}"))));
        self.pass(2).await;
    }

    pub(super) fn block(&self, name: &str, cause: IssuerCause) {
        let time = IssuerTime::At(self.clock.now().unix_ms);
        let proof = Proof::Issuer { cause, time, happened_ms: None };
        self.users.block(&id(&format!("id-{name}")), proof).unwrap().unwrap();
    }

    pub(super) fn lift(&self, name: &str) {
        let lift = Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: Some(self.clock.now().unix_ms) };
        self.users.lift(&id(&format!("id-{name}")), lift).unwrap();
    }

    /// Signs in again after a block.
    pub(super) async fn return_of(&self, name: &str) {
        self.users.signed_in(&id(&format!("id-{name}")), Some("new"), self.clock.now().unix_ms).unwrap().unwrap();
        self.pass(2).await;
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("tokens/main/id-{name}"))
    }

    /// What a reader of the file finds; `None`: no file.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    /// The claims of the token in the file.
    #[track_caller]
    pub(super) fn claims(&self, name: &str) -> Value {
        let token = self.read(name).unwrap_or_default();
        let payload = token.split('.').nth(1).unwrap_or_else(|| panic!("no token for {name}: {token:?}"));
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    /// How long the token in the file lives, in seconds.
    #[track_caller]
    pub(super) fn left(&self, name: &str) -> i64 {
        self.claims(name)["exp"].as_i64().unwrap() - self.clock.now().unix_seconds()
    }

    pub(super) fn shown(&self, name: &str) -> Option<ShownUser> {
        self.delivery.shown().users.into_iter().find(|user| **user.id.subject() == format!("id-{name}"))
    }

    pub(super) fn conditions(&self, name: &str) -> Vec<&'static str> {
        let shown = self.shown(name).unwrap_or_else(|| panic!("nobody is called {name}"));
        shown.conditions.iter().map(|condition| condition.code()).collect()
    }

    /// As `GET /token` does.
    pub(super) async fn want(&self, name: &str) -> Result<Arc<KeptToken>, NoToken> {
        let (reply, answer) = oneshot::channel();
        self.tell(News::Wanted { user: id(&format!("id-{name}")), reply });
        tokio::time::timeout(Duration::from_secs(5), answer).await.unwrap().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}
