//! Replicas of a delivery over a fake API server, on real sockets and a clock that is moved by hand.

use super::stage::{Fake, config, id};
use crate::base::clock::Clock;
use crate::delivery::counts::Counts;
use crate::delivery::{Delivery, Fence, InCluster, Leads, Parts, Settings, ShownUser, secrets};
use crate::identity::{Links, News, Shared};
use crate::kubernetes::lease::{Leadership, Term};
use crate::kubernetes::tests::server::ApiServer;
use crate::telemetry::metrics::Metrics;
use crate::token_service::TokenService;
use crate::users::{IssuerCause, IssuerTime, Lift, Proof, Users};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CORE: &str = "api/v1";
const RBAC: &str = "apis/rbac.authorization.k8s.io/v1";

/// A cluster and an issuer.
pub(super) struct Site {
    pub(super) server: ApiServer,
    pub(super) clock: Clock,
    pub(super) fake: Fake,
    service: Arc<TokenService>,
}

/// One process.
pub(super) struct Replica {
    pub(super) users: Arc<Users>,
    pub(super) links: Arc<Links>,
    pub(super) delivery: Arc<Delivery<Fake>>,
    pub(super) metrics: Metrics,
    pub(super) counts: Arc<Counts>,
    clock: Clock,
    term: watch::Sender<Option<Term>>,
    task: JoinHandle<()>,
}

impl Site {
    pub(super) async fn new(names: &[&str]) -> Self {
        let clock = Clock::manual(super::stage::START);
        let fake = Fake::new(&clock, names);
        let service = Arc::new(TokenService::ephemeral(config().token_service, clock.clone()).unwrap());
        Self { server: ApiServer::start().await, clock, fake, service }
    }

    /// A replica that leads.
    pub(super) async fn leader(&self) -> Replica {
        let replica = self.replica(None).await;
        replica.lead();
        replica
    }

    pub(super) async fn replica(&self, fence: Option<Fence>) -> Replica {
        let users = Users::in_memory(self.clock.clone());
        self.replica_of(users, fence).await
    }

    pub(super) async fn replica_of(&self, users: Arc<Users>, fence: Option<Fence>) -> Replica {
        let config = config();
        let links = Arc::new(Links::default());
        let shared = Shared {
            users: Arc::clone(&users),
            links: Arc::clone(&links),
            clock: self.clock.clone(),
            control: Handle::current(),
        };
        let metrics = Metrics::new();
        let counts = Counts::new(&metrics, self.clock.clone());
        let settings = Settings::new(config.delivery.as_ref().unwrap(), &config.issuers[0]);
        let in_force = Arc::clone(&self.service);
        let cluster = self.server.connect().await;
        let parts = Parts {
            roster: self.fake.clone(),
            link: links.of("main", 10_000),
            token_service: Arc::new(move || Arc::clone(&in_force)),
            shared,
            sink: secrets(cluster.clone()),
            counts: Arc::clone(&counts),
        };
        let (term, terms) = watch::channel(None);
        let beside =
            InCluster { cluster, leads: Leads::Elected(Leadership::of(terms)), fence, present: Arc::default() };
        let delivery = Delivery::in_cluster(settings, parts, beside).unwrap();
        let task = tokio::spawn(Arc::clone(&delivery).run());
        Replica { users, links, delivery, metrics, counts, clock: self.clock.clone(), term, task }
    }

    /// Waits until something holds, while time goes by.
    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..12_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.clock.advance(Duration::from_millis(5));
        }
        let asked = [Method::GET, Method::POST, Method::PATCH, Method::DELETE].map(|method| {
            let asked = self.server.requests(&method, "");
            let of_users = asked.into_iter().filter(|at| !at.contains("postern-delivery") && !at.contains("watch"));
            format!("{method} {:#?}", of_users.collect::<Vec<_>>())
        });
        panic!("it never came to pass: {what}; asked were {}", asked.join("\n"));
    }

    /// Lets some time go by in which nothing in particular happens.
    pub(super) async fn pass(&self, by: Duration) {
        for _ in 0..10 {
            self.clock.advance(by / 10);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let group = if kind == "rolebindings" { RBAC } else { CORE };
        self.server.get(group, kind, Some(namespace), name)
    }

    pub(super) fn namespace(&self, name: &str) -> Option<Value> {
        self.server.get(CORE, "namespaces", None, name)
    }

    pub(super) fn secret(&self, namespace: &str) -> Option<Value> {
        self.object("secrets", namespace, "access-token")
    }

    /// What a reader of a user's Secret finds; `None`: no Secret.
    pub(super) fn read(&self, namespace: &str) -> Option<String> {
        let secret = self.secret(namespace)?;
        let held = STANDARD.decode(secret["data"]["AUTH_TOKEN"].as_str().unwrap_or_default()).unwrap();
        Some(String::from_utf8(held).unwrap())
    }

    pub(super) fn is_empty(&self, namespace: &str) -> bool {
        self.read(namespace).as_deref() == Some("")
    }

    /// How long the token lives that a reader finds, in seconds; 0 for whatever is no token.
    pub(super) fn left(&self, namespace: &str) -> i64 {
        let token = self.read(namespace).unwrap_or_default();
        let payload = token.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
        let claims: Value = payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default();
        claims["exp"].as_i64().map_or(0, |expires| expires - self.clock.now().unix_seconds())
    }

    pub(super) fn is_filled(&self, namespace: &str) -> bool {
        self.left(namespace) > 1080
    }

    /// Whether there is what a user's own credentials are bound to.
    pub(super) fn has_session(&self, namespace: &str) -> bool {
        self.object("secrets", namespace, "postern-session").is_some()
    }

    /// Changes a user's Secret as they may.
    pub(super) fn edit(&self, namespace: &str, change: impl FnOnce(&mut Value)) {
        let mut secret = self.secret(namespace).unwrap();
        change(&mut secret);
        self.server.put(CORE, "secrets", Some(namespace), &secret);
    }

    /// Deletes a namespace with what is in it, as the cluster does.
    pub(super) fn remove_namespace(&self, name: &str) {
        self.empty_namespace(name);
        self.server.remove(CORE, "namespaces", None, name);
    }

    /// What the cluster does to the objects of a namespace that goes.
    pub(super) fn empty_namespace(&self, name: &str) {
        for secret in ["access-token", "postern-session"] {
            self.server.remove(CORE, "secrets", Some(name), secret);
        }
        self.server.remove(CORE, "serviceaccounts", Some(name), "postern-user");
        self.server.remove(RBAC, "rolebindings", Some(name), "postern-user");
    }

    pub(super) fn put_namespace(&self, object: &Value) {
        self.server.put(CORE, "namespaces", None, object);
    }

    /// A user who signed in, with their token in its place.
    pub(super) async fn sign_in(&self, replicas: &[&Replica], name: &str) {
        for replica in replicas {
            replica.sign_in(name);
        }
        self.until("the token is there", || self.is_filled(name)).await;
    }
}

impl Replica {
    pub(super) fn lead(&self) {
        self.term.send_replace(Some(Term { until_ms: u64::MAX, number: 1 }));
    }

    pub(super) fn lose(&self) {
        self.term.send_replace(None);
    }

    /// As after `kill -9`.
    pub(super) async fn kill(self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn tell(&self, news: News) {
        self.links.bulletin().tell(|| Some(news));
    }

    /// Has it look at the time, which was moved.
    pub(super) fn nudge(&self) {
        self.tell(News::Changed(id("nobody")));
    }

    pub(super) fn sign_in(&self, name: &str) {
        self.tell(News::SignedIn(id(&format!("id-{name}"))));
    }

    pub(super) fn block(&self, name: &str, cause: IssuerCause) {
        let time = IssuerTime::At(self.clock.now().unix_ms);
        let proof = Proof::Issuer { cause, time, happened_ms: None };
        self.users.block(&id(&format!("id-{name}")), proof).unwrap();
    }

    /// Enabled again, and signed in again.
    pub(super) fn return_of(&self, name: &str) {
        let (id, now_ms) = (id(&format!("id-{name}")), self.clock.now().unix_ms);
        self.users.lift(&id, Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: Some(now_ms) }).unwrap();
        self.clock.advance(Duration::from_secs(2));
        self.users.signed_in(&id, Some("new"), self.clock.now().unix_ms).unwrap().unwrap();
    }

    pub(super) fn shown(&self, name: &str) -> Option<ShownUser> {
        self.delivery.shown().users.into_iter().find(|user| **user.id.subject() == format!("id-{name}"))
    }

    pub(super) fn has(&self, name: &str, code: &str) -> bool {
        self.shown(name).is_some_and(|user| user.conditions.iter().any(|condition| condition.code() == code))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The mark of a user's namespace, as an administrator may write it.
pub(super) fn marked(name: &str, subject: &str) -> Value {
    let owner = crate::kubernetes::Owner::new("main", subject);
    json!({ "metadata": {
        "name": name,
        "labels": { "postern.dev/user": owner.label() },
        "annotations": { "postern.dev/issuer": "main", "postern.dev/subject": subject },
    } })
}
