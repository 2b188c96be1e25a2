//! Replicas over a real Redis.

use super::*;
use crate::redis::tests::server::RedisServer;
use crate::redis::tests::{config, shelf};
use crate::users::{Cause, SessionScope};
use proptest::prelude::*;
use std::collections::BTreeSet;
use tempfile::TempDir;

fn idle(server: &RedisServer, store: Option<&Path>) -> Node {
    Node::over(shelf(&config(server)), store)
}

async fn ready(server: &RedisServer, store: Option<&Path>) -> Node {
    let node = idle(server, store).run();
    eventually("it is ready", || node.replica.is_loaded()).await;
    node
}

fn repairs(node: &Node) -> u64 {
    node.replica.counters().repairs.load(Ordering::Relaxed)
}

async fn is_shared(nodes: &[&Node]) {
    eventually("all is shared", || nodes.iter().all(|node| node.replica.unshared() == 0 && !node.replica.is_alone()))
        .await;
}

/// Shut out by a session that ended.
fn judge_session(node: &Node, session: &str) -> Judgement {
    let claims = TokenClaims {
        issuer: "main",
        subject: "carol",
        session: Some(session),
        issued: Some(1),
        id: None,
        epoch: None,
    };
    node.users.judge(&claims, node.clock.now())
}

fn sign_in(node: &Node, subject: &str, began_ms: u64) {
    node.users.signed_in(&user(subject), Some("s"), began_ms).unwrap();
}

#[tokio::test]
async fn a_block_an_end_and_a_sign_in_reach_all_replicas_and_their_own_stores() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (a, b, c) = (ready(&server, None).await, ready(&server, Some(&path("b"))).await, ready(&server, None).await);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    a.users.block(&user("bob"), by_operator()).unwrap();
    b.users.end_session(&"main".into(), SessionScope::Session("gone".into()), Cause::LoggedOut).unwrap();
    for node in [&a, &b, &c] {
        node.comes_to("alice", Standing::Blocked).await;
        node.comes_to("bob", Standing::Blocked).await;
        eventually("the end is known", || judge_session(node, "gone") == Judgement::Refused(Cause::LoggedOut)).await;
    }
    c.users.lift(&user("alice"), enabled()).unwrap();
    sign_in(&c, "alice", 950_000);
    for node in [&a, &b, &c] {
        node.comes_to("alice", Standing::Active).await;
        assert_eq!(node.judge("alice"), Judgement::Admitted);
    }
    is_shared(&[&a, &b, &c]).await;
    let users = Arc::downgrade(&b.users);
    drop(b);
    eventually("it has ended", || users.strong_count() == 0).await;
    // Without any Redis.
    let own = Users::open(&path("b"), Clock::manual(1_000), Audit::off()).unwrap();
    assert_eq!(own.standing(&user("bob"), a.clock.now()).0, Standing::Blocked);
    assert_eq!(own.standing(&user("alice"), a.clock.now()), (Standing::Active, 1));
}

/// Redis tells nobody anything: whoever has much to tell must ask all the same.
#[tokio::test]
async fn a_replica_that_decides_all_the_time_hears_what_others_decide() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (ready(&server, None).await, ready(&server, None).await);
    let deciding = async {
        for number in 0.. {
            b.users.block(&user(&number.to_string()), by_operator()).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let heard = async {
        a.comes_to("10", Standing::Blocked).await;
        a.users.block(&user("alice"), disabled(900_000)).unwrap();
        b.comes_to("alice", Standing::Blocked).await;
    };
    tokio::select! {
        () = deciding => {}
        () = heard => {}
    }
}

#[tokio::test]
async fn without_redis_each_keeps_what_it_knew_decides_alone_and_says_so() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let (a, b) = (ready(&server, None).await, ready(&server, None).await);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    b.comes_to("alice", Standing::Blocked).await;
    is_shared(&[&a, &b]).await;
    server.kill();
    for node in [&a, &b] {
        eventually("it says so", || node.replica.is_alone()).await;
        assert_eq!((node.state("alice"), node.judge("bob")), (Standing::Blocked, Judgement::Admitted));
    }
    a.users.block(&user("bob"), by_operator()).unwrap();
    b.users.block(&user("bob"), disabled(900_000)).unwrap();
    b.users.block(&user("carol"), disabled(900_000)).unwrap();
    assert_eq!(
        (a.state("bob"), b.state("bob"), a.state("carol")),
        (Standing::Blocked, Standing::Blocked, Standing::Active)
    );
    assert_eq!((a.replica.unshared(), b.replica.unshared(), a.replica.is_loaded()), (1, 2, true));
    // It comes back with nothing at all.
    server.run();
    a.comes_to("carol", Standing::Blocked).await;
    eventually("both reasons are known to both", || {
        [&a, &b].iter().all(|node| {
            let known = node.users.state(&user("bob")).unwrap();
            known.by_issuer.is_some() && known.by_operator.is_some()
        })
    })
    .await;
    is_shared(&[&a, &b]).await;
    let c = ready(&server, None).await;
    for subject in ["alice", "bob", "carol"] {
        assert_eq!(c.state(subject), Standing::Blocked);
    }
}

#[tokio::test]
async fn a_redis_that_stands_still_holds_nobody_up() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (ready(&server, None).await, ready(&server, None).await);
    server.signal("-STOP");
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    assert_eq!(a.state("alice"), Standing::Blocked);
    eventually("it says so", || a.replica.is_alone() && b.replica.is_alone()).await;
    server.signal("-CONT");
    b.comes_to("alice", Standing::Blocked).await;
    is_shared(&[&a, &b]).await;
}

#[tokio::test]
async fn what_redis_lost_is_put_again() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let (a, b) = (ready(&server, None).await, ready(&server, None).await);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    b.comes_to("alice", Standing::Blocked).await;
    is_shared(&[&a, &b]).await;
    let is_there =
        |server: &RedisServer| server.command(&["HGET", "{postern}:users", "u/main/alice"]).contains("epoch");
    // Emptied; one key removed to make room; one value removed by hand; put back from a copy of before.
    server.command(&["FLUSHALL"]);
    eventually("it is there again", || is_there(&server)).await;
    server.command(&["DEL", "{postern}:users"]);
    eventually("it is there again", || is_there(&server)).await;
    server.command(&["HDEL", "{postern}:users", "u/main/alice"]);
    eventually("it is there again", || is_there(&server)).await;
    assert!(repairs(&a) + repairs(&b) >= 3);
    server.command(&["SAVE"]);
    b.users.block(&user("bob"), by_operator()).unwrap();
    a.comes_to("bob", Standing::Blocked).await;
    is_shared(&[&a, &b]).await;
    drop(b);
    server.kill();
    server.run();
    eventually("it is there again", || {
        server.command(&["HGET", "{postern}:users", "u/main/bob"]).contains("by_operator")
    })
    .await;
    let c = ready(&server, None).await;
    assert_eq!((c.state("alice"), c.state("bob")), (Standing::Blocked, Standing::Blocked));
    assert_eq!((c.users.epoch("main", "alice"), a.users.epoch("main", "alice")), (1, 1));
}

/// The newest are lost, and who comes first afterwards had not heard of them.
#[tokio::test]
async fn a_block_that_redis_took_and_lost_is_not_outdone_by_what_was_decided_without_it() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (idle(&server, None), idle(&server, None));
    a.users.block(&user("bob"), disabled(1_000)).unwrap();
    a.turn().await;
    b.turn().await;
    let copy = Copy::of(&server).await;
    a.users.block(&user("alice"), by_operator()).unwrap();
    a.turn().await;
    assert_eq!(a.replica.unshared(), 0);
    copy.put_back(&server).await;
    // As many blocks as there were, and later times: it looks like what could follow.
    b.users.block(&user("alice"), disabled(900_000)).unwrap();
    b.turn().await;
    b.users.lift(&user("alice"), enabled()).unwrap();
    sign_in(&b, "alice", 950_000);
    b.turn().await;
    assert_eq!(b.state("alice"), Standing::Active);
    a.turn().await;
    b.turn().await;
    assert_eq!((a.state("alice"), b.state("alice")), (Standing::Blocked, Standing::Blocked));
    assert_eq!((a.replica.unshared(), b.replica.unshared()), (0, 0));
}

#[tokio::test]
async fn who_starts_without_redis_lets_nobody_in_until_it_was_read() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("users.redb");
    let a = ready(&server, None).await;
    server.kill();
    a.users.block(&user("alice"), by_operator()).unwrap();
    let b = idle(&server, Some(&path)).run();
    eventually("it fails", || b.replica.counters().failures.load(Ordering::Relaxed) > 1).await;
    assert_eq!((b.replica.is_loaded(), b.judge("bob"), b.replica.age()), (false, Judgement::Unknown, None));
    server.run();
    eventually("it is ready", || b.replica.is_loaded()).await;
    assert_eq!(b.judge("bob"), Judgement::Admitted);
    b.comes_to("alice", Standing::Blocked).await;
}

/// All of a Redis, for another day.
struct Copy(Vec<(String, Vec<u8>)>);

impl Copy {
    const KEYS: [&str; 2] = ["{postern}:users", "{postern}:users:log"];

    async fn of(server: &RedisServer) -> Self {
        let redis = crate::redis::Redis::new(crate::redis::Access::new(&config(server)).unwrap());
        let mut all = Vec::new();
        for key in Self::KEYS {
            if let ::redis::Value::BulkString(dump) = redis.ask(::redis::cmd("DUMP").arg(key)).await.unwrap() {
                all.push((key.to_owned(), dump));
            }
        }
        Self(all)
    }

    async fn put_back(&self, server: &RedisServer) {
        server.command(&["FLUSHALL"]);
        let redis = crate::redis::Redis::new(crate::redis::Access::new(&config(server)).unwrap());
        for (key, dump) in &self.0 {
            redis.ask(::redis::cmd("RESTORE").arg(key).arg(0).arg(&dump[..])).await.unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Block(u8, u64),
    BlockByOperator(u8),
    Lift(u8),
    SignIn(u8, u64),
    EndSession(u8),
    Turn,
    Copy,
    PutBack,
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    let (subject, time) = (|| 0..3_u8, || (1..40_u64).prop_map(|time| time * 1_000));
    prop_oneof![
        2 => (subject(), time()).prop_map(|(subject, at)| Step::Block(subject, at)),
        2 => subject().prop_map(Step::BlockByOperator),
        2 => subject().prop_map(Step::Lift),
        1 => (subject(), time()).prop_map(|(subject, at)| Step::SignIn(subject, at)),
        1 => (0..3_u8).prop_map(Step::EndSession),
        6 => Just(Step::Turn),
        1 => Just(Step::Copy),
        1 => Just(Step::PutBack),
        1 => Just(Step::Empty),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// User 0 is never let in again by anybody, whatever else is decided or lost.
    #[test]
    fn whatever_redis_loses_replicas_agree_and_no_block_is_forgotten(
        steps in prop::collection::vec((0..3_usize, step()), 1..40),
    ) {
        let Some(server) = RedisServer::start(&[]) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let nodes = [idle(&server, None), idle(&server, None), idle(&server, None)];
            let (mut copy, mut ended, mut is_blocked) = (Copy::of(&server).await, BTreeSet::new(), false);
            for (who, step) in &steps {
                let (node, whom) = (&nodes[*who], |subject: &u8| user(&subject.to_string()));
                match step {
                    Step::Block(subject, at) => drop(node.users.block(&whom(subject), disabled(*at)).unwrap()),
                    Step::BlockByOperator(subject) => drop(node.users.block(&whom(subject), by_operator()).unwrap()),
                    Step::Lift(0) | Step::SignIn(0, _) => {}
                    Step::Lift(subject) => {
                        node.users.lift(&whom(subject), enabled()).unwrap();
                        let act = Act { by: "olga".into(), reason: String::new() };
                        node.users.lift(&whom(subject), Lift::Operator { act, issuer_now_ms: 30_000 }).unwrap();
                    }
                    Step::SignIn(subject, at) => sign_in(node, &subject.to_string(), *at),
                    Step::EndSession(session) => {
                        let scope = SessionScope::Session(session.to_string());
                        node.users.end_session(&"main".into(), scope, Cause::LoggedOut).unwrap();
                        ended.insert(session.to_string());
                    }
                    Step::Turn => node.turn().await,
                    Step::Copy => copy = Copy::of(&server).await,
                    Step::PutBack => copy.put_back(&server).await,
                    Step::Empty => drop(server.command(&["FLUSHALL"])),
                }
                is_blocked |= matches!(step, Step::Block(0, _) | Step::BlockByOperator(0));
            }
            for _ in 0..3 {
                for node in &nodes {
                    node.turn().await;
                }
            }
            for node in &nodes {
                prop_assert_eq!(node.replica.unshared(), 0);
                prop_assert!(!is_blocked || node.state("0") == Standing::Blocked, "a block is forgotten");
                for session in &ended {
                    prop_assert_eq!(judge_session(node, session), Judgement::Refused(Cause::LoggedOut));
                }
                for subject in ["0", "1", "2"].map(user) {
                    let standing = |node: &Node| node.users.standing(&subject, node.clock.now());
                    prop_assert_eq!(standing(node), standing(&nodes[0]));
                }
            }
            Ok(())
        })?;
    }
}
