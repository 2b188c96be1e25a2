//! Replicas over one fake API server, on real sockets; over a real Redis in `redis`.

mod redis;

use super::part::Due;
use super::*;
use crate::kubernetes::state::State;
use crate::kubernetes::tests::server::{ApiServer, Fault, eventually, in_time};
use crate::telemetry::audit_log::Audit;
use crate::users::{Act, IssuerCause, IssuerTime, Judgement, Lift, Proof, State as Standing, TokenClaims};
use std::path::Path;
use tempfile::TempDir;
use tokio::task::AbortHandle;

struct Node {
    users: Arc<Users>,
    replica: Arc<Replica>,
    clock: Clock,
    task: Option<AbortHandle>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

impl Node {
    /// A replica that does nothing by itself.
    async fn idle(server: &ApiServer, store: Option<&Path>) -> Self {
        Self::over(State::new(server.connect().await, STATE, PARTS).unwrap(), store)
    }

    fn over(carrier: impl Into<Carrier>, store: Option<&Path>) -> Self {
        let clock = Clock::manual(1_000);
        let users = match store {
            Some(path) => Users::open(path, clock.clone(), Audit::off()).unwrap(),
            None => Users::in_memory(clock.clone()),
        };
        let replica = Replica::new(carrier, Arc::clone(&users), clock.clone()).unwrap();
        Self { users, replica, clock, task: None }
    }

    fn run(mut self) -> Self {
        self.task = Some(tokio::spawn(Arc::clone(&self.replica).run()).abort_handle());
        self
    }

    /// One that runs and has read everything.
    async fn ready(server: &ApiServer) -> Self {
        let node = Self::idle(server, None).await.run();
        eventually("it is ready", || node.replica.is_loaded()).await;
        node
    }

    /// Reads and writes everything once.
    async fn turn(&self) {
        for index in 0..self.replica.parts.len() {
            self.replica.turn(index, Due::Read).await.unwrap();
        }
    }

    fn state(&self, subject: &str) -> Standing {
        self.users.standing(&user(subject), self.clock.now()).0
    }

    fn judge(&self, subject: &str) -> Judgement {
        let claims =
            TokenClaims { issuer: "main", subject, session: Some("s"), issued: Some(1), id: None, epoch: None };
        self.users.judge(&claims, self.clock.now())
    }

    async fn comes_to(&self, subject: &str, state: Standing) {
        eventually("the user's state", || self.state(subject) == state).await;
    }
}

fn user(subject: &str) -> UserId {
    UserId::new("main", subject).unwrap()
}

fn disabled(at_ms: u64) -> Proof {
    Proof::Issuer { cause: IssuerCause::Disabled, time: IssuerTime::At(at_ms), happened_ms: None }
}

fn by_operator() -> Proof {
    Proof::Operator(Act { by: "olga".into(), reason: String::new() })
}

fn enabled() -> Lift {
    Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: None }
}

const SECRETS: &str = "/namespaces/postern/secrets";

fn go_down(server: &ApiServer) {
    server.fail(None, SECRETS, Fault::Closed, usize::MAX);
    server.drop_watches();
}

#[tokio::test]
async fn what_one_replica_decides_the_other_acts_on() {
    let server = ApiServer::start().await;
    let (a, b) = (Node::ready(&server).await, Node::ready(&server).await);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    b.comes_to("alice", Standing::Blocked).await;
    b.users.lift(&user("alice"), enabled()).unwrap();
    a.comes_to("alice", Standing::AwaitingSignIn).await;
    assert_eq!(a.judge("alice"), Judgement::NeedsSignInProof);
    a.users.signed_in(&user("alice"), Some("s"), 950_000).unwrap();
    b.comes_to("alice", Standing::Active).await;
    assert_eq!(b.judge("alice"), Judgement::Admitted);
    eventually("all is shared", || a.replica.unshared() + b.replica.unshared() == 0).await;
    // One that comes later knows as much.
    let c = Node::ready(&server).await;
    assert_eq!((c.users.epoch("main", "alice"), c.judge("alice")), (1, Judgement::Admitted));
    assert!(c.replica.age().is_some());
}

#[tokio::test]
async fn nobody_is_let_in_before_all_is_read() {
    let server = ApiServer::start().await;
    let a = Node::ready(&server).await;
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    eventually("it is shared", || a.replica.unshared() == 0).await;
    server.fail(None, "postern-users-7", Fault::Status(500, None), usize::MAX);
    let b = Node::idle(&server, None).await.run();
    eventually("it fails", || b.replica.counters().failures.load(Ordering::Relaxed) > 2).await;
    assert_eq!((b.replica.is_loaded(), b.judge("bob"), b.replica.age()), (false, Judgement::Unknown, None));
    assert!(matches!(b.replica.refresh(&[]).await, Err(ReplicaError::NotLoaded)));
    server.heal();
    eventually("it is ready", || b.replica.is_loaded()).await;
    assert_eq!((b.judge("bob"), b.state("alice")), (Judgement::Admitted, Standing::Blocked));
}

#[tokio::test]
async fn what_was_decided_while_the_server_was_away_is_merged_when_it_is_back() {
    let server = ApiServer::start().await;
    let (a, b) = (Node::ready(&server).await, Node::ready(&server).await);
    go_down(&server);
    a.users.block(&user("alice"), by_operator()).unwrap();
    b.users.block(&user("alice"), disabled(900_000)).unwrap();
    b.users.block(&user("bob"), disabled(900_000)).unwrap();
    for node in [&a, &b] {
        eventually("it fails", || node.replica.counters().failures.load(Ordering::Relaxed) > 2).await;
    }
    assert_eq!((a.replica.unshared(), b.replica.unshared(), a.state("bob")), (1, 2, Standing::Active));
    server.heal();
    a.comes_to("bob", Standing::Blocked).await;
    eventually("both know both reasons", || {
        [&a, &b].iter().all(|node| {
            let known = node.users.state(&user("alice")).unwrap();
            known.by_issuer.is_some() && known.by_operator.is_some() && node.replica.unshared() == 0
        })
    })
    .await;
    let conflicts = |node: &Node| node.replica.counters().conflicts.load(Ordering::Relaxed);
    assert_eq!(conflicts(&a) + conflicts(&b), 1);
}

#[tokio::test]
async fn what_was_decided_and_not_put_outlives_the_process() {
    let server = ApiServer::start().await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("users.redb");
    let b = Node::ready(&server).await;
    let a = Node::idle(&server, Some(&path)).await.run();
    eventually("it is ready", || a.replica.is_loaded()).await;
    server.fail(Some(http::Method::PATCH), SECRETS, Fault::Closed, usize::MAX);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    eventually("it fails", || a.replica.counters().failures.load(Ordering::Relaxed) > 0).await;
    let users = Arc::downgrade(&a.users);
    drop(a);
    eventually("it has ended", || users.strong_count() == 0).await;
    server.heal();
    let a = Node::idle(&server, Some(&path)).await.run();
    b.comes_to("alice", Standing::Blocked).await;
    eventually("it is shared", || a.replica.unshared() == 0).await;
}

#[tokio::test]
async fn a_write_that_was_done_and_not_answered_is_done_once() {
    let server = ApiServer::start().await;
    let (a, b) = (Node::ready(&server).await, Node::ready(&server).await);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    b.comes_to("alice", Standing::Blocked).await;
    server.fail(Some(http::Method::PATCH), SECRETS, Fault::Lost, 1);
    a.users.lift(&user("alice"), enabled()).unwrap();
    b.comes_to("alice", Standing::AwaitingSignIn).await;
    eventually("it is shared", || a.replica.unshared() == 0).await;
    assert_eq!((a.state("alice"), a.users.epoch("main", "alice")), (Standing::AwaitingSignIn, 1));
}

#[tokio::test]
async fn what_was_deleted_by_hand_is_put_again() {
    let server = ApiServer::start().await;
    let (a, b) = (Node::ready(&server).await, Node::ready(&server).await);
    for subject in ["alice", "bob"] {
        a.users.block(&user(subject), disabled(900_000)).unwrap();
        b.comes_to(subject, Standing::Blocked).await;
    }
    let secrets = || (0..PARTS).filter(|part| secret(&server, *part).is_some()).count();
    let before = secrets();
    for part in 0..PARTS {
        server.remove("api/v1", "secrets", Some("postern"), &format!("{STATE}-{part}"));
    }
    eventually("they are there again", || secrets() == before).await;
    let repairs = |node: &Node| node.replica.counters().repairs.load(Ordering::Relaxed);
    eventually("they are told", || repairs(&a) + repairs(&b) >= 2).await;
    let c = Node::ready(&server).await;
    for subject in ["alice", "bob"] {
        assert_eq!((c.state(subject), c.users.epoch("main", subject)), (Standing::Blocked, 1));
        assert_eq!(a.state(subject), Standing::Blocked);
    }
}

fn secret(server: &ApiServer, part: u16) -> Option<serde_json::Value> {
    let object = server.get("api/v1", "secrets", Some("postern"), &format!("{STATE}-{part}"))?;
    object["data"].as_object().is_some_and(|data| !data.is_empty()).then_some(object)
}

#[tokio::test]
async fn a_lift_that_another_replica_knows_better_is_not_done() {
    let server = ApiServer::start().await;
    let (a, b) = (Node::idle(&server, None).await, Node::idle(&server, None).await);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    a.turn().await;
    b.turn().await;
    a.users.block(&user("alice"), disabled(950_000)).unwrap();
    a.turn().await;
    b.users.lift(&user("alice"), enabled()).unwrap();
    assert_eq!(b.state("alice"), Standing::AwaitingSignIn);
    b.turn().await;
    a.turn().await;
    assert_eq!((a.state("alice"), b.state("alice")), (Standing::Blocked, Standing::Blocked));
}

#[tokio::test]
async fn a_fence_knows_what_was_shared_before_it_or_fails() {
    let server = ApiServer::start().await;
    let (a, b) = (Node::ready(&server).await, Node::idle(&server, None).await);
    b.turn().await;
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    a.users.issuer_not_before(&"main".into(), 5_000).unwrap();
    eventually("it is shared", || a.replica.unshared() == 0).await;
    assert_eq!((b.state("alice"), b.state("bob")), (Standing::Active, Standing::Active));
    b.replica.refresh(&[user("alice"), user("bob")]).await.unwrap();
    assert_eq!((b.state("alice"), b.state("bob")), (Standing::Blocked, Standing::AwaitingSignIn));
    server.fail(None, SECRETS, Fault::Status(503, None), usize::MAX);
    assert!(matches!(b.replica.refresh(&[user("bob")]).await, Err(ReplicaError::Kubernetes(_))));
}

#[tokio::test]
async fn a_sign_in_that_a_gateway_saw_is_told_until_it_is_taken_up() {
    let server = ApiServer::start().await;
    let (gateway, service) = (Node::ready(&server).await, Node::ready(&server).await);
    let mut told = service.replica.sign_ins();
    gateway.replica.note_sign_in(&user("al/ice"));
    gateway.replica.note_sign_in(&user("al/ice"));
    assert_eq!(in_time(told.recv()).await, Some(user("al/ice")));
    // Another that leads from now on hears of it too.
    let next = Node::ready(&server).await;
    let mut told_next = next.replica.sign_ins();
    assert_eq!(in_time(told_next.recv()).await, Some(user("al/ice")));
    next.replica.forget_sign_in(&user("al/ice"));
    let is_there = || (0..PARTS).any(|part| secret(&server, part).is_some());
    eventually("it is removed", || !is_there()).await;
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_part_that_cannot_be_read_keeps_the_process_from_being_ready() {
    let server = ApiServer::start().await;
    let a = Node::ready(&server).await;
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    eventually("it is shared", || a.replica.unshared() == 0).await;
    let part = (0..PARTS).find(|part| secret(&server, *part).is_some()).unwrap();
    let mut object = secret(&server, part).unwrap();
    object["data"].as_object_mut().unwrap().values_mut().for_each(|value| *value = "eA==".into());
    server.put("api/v1", "secrets", Some("postern"), &object);
    let b = Node::idle(&server, None).await.run();
    eventually("it fails", || b.replica.counters().failures.load(Ordering::Relaxed) > 2).await;
    assert!(!b.replica.is_loaded());
    // Who knew it goes on knowing.
    assert_eq!(a.state("alice"), Standing::Blocked);
}
