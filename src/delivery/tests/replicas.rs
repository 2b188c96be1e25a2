//! Secrets, with one replica or two: what others do, what is lost, and who writes.

use super::cluster::{Site, marked};
use super::stage::id;
use crate::delivery::{Asked, Directory};
use crate::identity::Bulletin;
use crate::kubernetes::tests::server::Fault;
use crate::users::IssuerCause;
use http::Method;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const WRITES: &str = "/secrets/access-token";

#[tokio::test]
async fn a_user_gets_a_namespace_with_all_that_belongs_in_it_and_a_token_after_they_signed_in() {
    let site = Site::new(&["alice", "bob"]).await;
    let leader = site.leader().await;
    site.until("all is there", || site.is_empty("alice") && site.has_session("alice") && site.is_empty("bob")).await;
    let namespace = site.namespace("alice").unwrap();
    assert_eq!(namespace["metadata"]["annotations"]["postern.dev/subject"], "id-alice");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "baseline");
    let binding = site.object("rolebindings", "alice", "postern-user").unwrap();
    assert_eq!(binding["roleRef"]["name"], "postern-user");
    assert!(site.object("serviceaccounts", "alice", "postern-user").is_some());
    site.sign_in(&[&leader], "alice").await;
    assert!(site.is_empty("bob"));
    for request in site.server.requests(&Method::PATCH, WRITES) {
        assert!(request.contains("force=false"), "{request}");
    }
    // Nothing is written twice, and a good token is left alone until its turn.
    let written = || {
        // What Postern itself remembers is stored when there is something new.
        let all = site.server.requests(&Method::PATCH, "");
        all.iter().filter(|request| !request.contains("/namespaces/postern/secrets/")).count()
    };
    let writes = written();
    site.pass(MINUTE * 2).await;
    assert_eq!(written(), writes);
    site.pass(MINUTE * 10).await;
    site.until("it was refilled", || site.left("alice") > 1500).await;
    assert_eq!((leader.counts.violations(), written()), (0, writes + 1));
}

#[tokio::test]
async fn a_leader_that_was_paused_before_its_write_does_nothing_after_a_block() {
    for is_first in [true, false] {
        let site = Site::new(&["alice"]).await;
        let leader = site.leader().await;
        let follower = site.replica(None).await;
        site.until("the Secret is there", || site.is_empty("alice") && site.has_session("alice")).await;
        if !is_first {
            site.sign_in(&[&leader, &follower], "alice").await;
            site.until("the other saw it", || follower.shown("alice").is_some_and(|user| user.seconds_left.is_some()))
                .await;
        }
        site.until("the other is whole", || follower.delivery.is_ready() && follower.shown("alice").is_some()).await;
        let gate = Arc::new(Notify::new());
        site.server.fail(Some(Method::PATCH), WRITES, Fault::Held(Arc::clone(&gate)), 1);
        let before = site.server.requests(&Method::PATCH, WRITES).len();
        if is_first {
            leader.sign_in("alice");
        } else {
            site.pass(MINUTE * 12).await;
        }
        // It has decided, and its request is under way.
        site.until("it writes", || site.server.requests(&Method::PATCH, WRITES).len() > before).await;
        follower.block("alice", IssuerCause::Disabled);
        site.until("the other has emptied it", || site.is_empty("alice") && !site.has_session("alice")).await;
        let epoch = || site.secret("alice").unwrap()["metadata"]["annotations"]["postern.dev/epoch"] == "1";
        site.until("and said so", epoch).await;
        // Nobody tells the leader: only what it wrote on stops it.
        leader.lose();
        gate.notify_one();
        site.pass(MINUTE).await;
        assert!(site.is_empty("alice"), "first: {is_first}");
    }
}

#[tokio::test]
async fn nobody_is_filled_while_it_cannot_be_asked_who_is_blocked() {
    let site = Site::new(&["alice"]).await;
    let knows = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&knows);
    let fence = move |_| -> Asked {
        let knows = asked.load(Ordering::SeqCst);
        Box::pin(async move { if knows { Ok(()) } else { Err("no answer".to_owned()) } })
    };
    let leader = site.replica(Some(Box::new(fence))).await;
    leader.lead();
    site.until("the Secret is there", || site.is_empty("alice")).await;
    leader.sign_in("alice");
    site.pass(MINUTE).await;
    assert!(site.is_empty("alice"));
    knows.store(true, Ordering::SeqCst);
    site.until("the token is there", || site.is_filled("alice")).await;
}

#[tokio::test]
async fn what_a_fence_finds_out_stops_the_write_that_waited_for_it() {
    let site = Site::new(&["alice"]).await;
    let users = crate::users::Users::in_memory(site.clock.clone());
    let (told, clock) = (Arc::clone(&users), site.clock.clone());
    let fence = move |ids: Vec<_>| -> Asked {
        let (told, clock) = (Arc::clone(&told), clock.clone());
        Box::pin(async move {
            let time = crate::users::IssuerTime::At(clock.now().unix_ms);
            let cause = IssuerCause::Disabled;
            for id in ids {
                told.block(&id, crate::users::Proof::Issuer { cause, time, happened_ms: None }).unwrap();
            }
            Ok(())
        })
    };
    let leader = site.replica_of(users, Some(Box::new(fence))).await;
    leader.lead();
    site.until("the Secret is there", || site.is_empty("alice")).await;
    leader.sign_in("alice");
    site.until("the block is known", || leader.shown("alice").is_some_and(|user| user.state == "blocked")).await;
    site.pass(MINUTE).await;
    assert!(site.is_empty("alice") && leader.counts.writes().0 == 0);
}

#[tokio::test]
async fn what_is_edited_stripped_fixed_or_deleted_is_put_right_at_once() {
    let site = Site::new(&["alice", "bob"]).await;
    let leader = site.leader().await;
    site.until("both are there", || site.is_empty("alice") && site.is_empty("bob")).await;
    site.sign_in(&[&leader], "alice").await;
    let foreign = json!("c29tZWJvZHkncw==");
    site.edit("alice", |secret| secret["data"]["AUTH_TOKEN"] = foreign.clone());
    site.edit("bob", |secret| secret["data"]["AUTH_TOKEN"] = foreign.clone());
    site.until("both are right", || site.is_filled("alice") && site.is_empty("bob")).await;
    assert!(leader.has("alice", "tampered") && leader.has("bob", "tampered"));
    site.edit("alice", |secret| {
        secret["metadata"].as_object_mut().unwrap().remove("labels");
        secret["metadata"].as_object_mut().unwrap().remove("annotations");
    });
    // Somebody else's nothing, too.
    site.edit("alice", |secret| secret["data"]["AUTH_TOKEN"] = json!(""));
    let has_mark = || site.secret("alice").is_some_and(|secret| !secret["metadata"]["labels"].is_null());
    site.until("the mark is back", || has_mark() && site.is_filled("alice")).await;
    // Pods that name the key do not start without it, whoever they are of.
    for name in ["alice", "bob"] {
        site.edit(name, |secret| secret["data"] = json!({}));
    }
    let has_key = || site.secret("bob").is_some_and(|secret| secret["data"]["AUTH_TOKEN"] == "");
    site.until("the key is back", || has_key() && site.is_filled("alice")).await;
    site.edit("alice", |secret| secret["data"]["AUTH_TOKEN"] = json!("bm8="));
    site.edit("alice", |secret| secret["immutable"] = json!(true));
    let is_fixed = || site.secret("alice").is_none_or(|secret| secret["immutable"] == true);
    site.until("it was made anew", || !is_fixed() && site.is_filled("alice")).await;
    for name in ["alice", "bob"] {
        site.server.remove("api/v1", "secrets", Some(name), "access-token");
    }
    site.until("both are there again", || site.is_filled("alice") && site.is_empty("bob")).await;
    assert_eq!(leader.counts.violations(), 0);
}

#[tokio::test]
async fn what_stands_beside_the_token_is_put_right_within_the_hour() {
    let site = Site::new(&["alice"]).await;
    let _leader = site.leader().await;
    site.until("all is there", || site.has_session("alice")).await;
    let rbac = "apis/rbac.authorization.k8s.io/v1";
    site.server.remove(rbac, "rolebindings", Some("alice"), "postern-user");
    site.server.remove("api/v1", "secrets", Some("alice"), "postern-session");
    // What made them may have been taken up only after the clock was moved.
    site.pass(HOUR * 2).await;
    site.until("it is back", || site.object("rolebindings", "alice", "postern-user").is_some()).await;
    site.until("and that too", || site.has_session("alice")).await;
}

#[tokio::test]
async fn a_namespace_of_others_is_left_alone_until_it_is_given() {
    let site = Site::new(&["team-a"]).await;
    let leader = site.leader().await;
    site.until("it is told", || leader.has("team-a", "namespace_taken")).await;
    leader.sign_in("team-a");
    site.pass(MINUTE).await;
    assert_eq!((site.read("team-a"), site.has_session("team-a")), (None, false));
    site.put_namespace(&marked("team-a", "id-team-a"));
    site.until("the token is there", || site.is_filled("team-a")).await;
    assert!(!leader.has("team-a", "namespace_taken"));
}

#[tokio::test]
async fn a_namespace_that_is_deleted_by_hand_is_made_again_when_it_is_gone() {
    let site = Site::new(&["alice"]).await;
    let leader = site.leader().await;
    site.until("it is there", || site.is_empty("alice")).await;
    site.sign_in(&[&leader], "alice").await;
    let mut going = site.namespace("alice").unwrap();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    site.put_namespace(&going);
    site.empty_namespace("alice");
    site.until("it is told", || leader.has("alice", "namespace_terminating")).await;
    site.pass(MINUTE).await;
    assert_eq!(site.read("alice"), None);
    site.remove_namespace("alice");
    site.until("all is there again", || site.is_filled("alice") && site.has_session("alice")).await;
}

#[tokio::test]
async fn a_block_empties_whoever_leads_and_who_is_back_has_all_again() {
    let site = Site::new(&["alice"]).await;
    let leader = site.leader().await;
    let follower = site.replica(None).await;
    site.until("it is there", || site.is_empty("alice") && site.has_session("alice")).await;
    site.sign_in(&[&leader, &follower], "alice").await;
    site.until("the other saw it", || follower.shown("alice").is_some_and(|user| user.seconds_left.is_some())).await;
    // There is nobody else.
    leader.kill().await;
    follower.block("alice", IssuerCause::Disabled);
    site.until("it is empty", || site.is_empty("alice") && !site.has_session("alice")).await;
    follower.lead();
    site.pass(MINUTE * 30).await;
    assert!(site.is_empty("alice") && !site.has_session("alice"));
    follower.return_of("alice");
    site.until("all is there again", || site.is_filled("alice") && site.has_session("alice")).await;
}

#[tokio::test]
async fn another_replica_goes_on_with_what_it_knows() {
    let site = Site::new(&["alice", "bob"]).await;
    let leader = site.leader().await;
    let follower = site.replica(None).await;
    site.until("both are there", || site.is_empty("alice") && site.is_empty("bob")).await;
    site.sign_in(&[&leader, &follower], "alice").await;
    leader.kill().await;
    let before = site.read("alice");
    site.until("it is known", || follower.shown("alice").is_some_and(|user| user.namespace.is_some())).await;
    follower.lead();
    site.pass(MINUTE).await;
    assert_eq!(site.read("alice"), before, "a good token stays");
    site.pass(MINUTE * 12).await;
    site.until("it was refilled", || site.left("alice") > 1500).await;
    assert_eq!((site.is_empty("bob"), follower.counts.violations()), (true, 0));
    site.sign_in(&[&follower], "bob").await;
}

#[tokio::test]
async fn who_begins_to_lead_looks_at_namespaces_in_their_turn_and_not_at_all_at_once() {
    let names: Vec<_> = (0..30).map(|number| format!("user-{number}")).collect();
    let site = Site::new(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let leader = site.leader().await;
    let follower = site.replica(None).await;
    site.until("all are there", || names.iter().all(|name| site.has_session(name))).await;
    site.until("it is known", || {
        names.iter().all(|name| follower.shown(name).is_some_and(|user| user.namespace.is_some()))
    })
    .await;
    site.pass(HOUR + MINUTE).await;
    leader.kill().await;
    let looks = || site.server.requests(&Method::GET, "/rolebindings/").len();
    let before = looks();
    follower.lead();
    site.sign_in(&[&follower], "user-0").await;
    let at_once = looks() - before;
    assert!(at_once <= 5, "{at_once} of 30 are looked at before somebody gets a token");
    site.pass(HOUR).await;
    site.until("all were looked at", || looks() - before >= 30).await;
}

#[tokio::test]
async fn a_dropped_watch_loses_nothing() {
    let site = Site::new(&["alice", "bob"]).await;
    let leader = site.leader().await;
    site.until("both are there", || site.is_empty("alice") && site.is_empty("bob")).await;
    site.sign_in(&[&leader], "alice").await;
    site.server.fail(Some(Method::GET), "watch=true", Fault::Status(500, None), 40);
    site.server.drop_watches();
    site.edit("alice", |secret| secret["data"]["AUTH_TOKEN"] = json!("bm8="));
    site.server.remove("api/v1", "secrets", Some("bob"), "access-token");
    site.server.compact();
    site.server.heal();
    site.until("both are right", || site.is_filled("alice") && site.is_empty("bob")).await;
}

#[tokio::test]
async fn a_server_that_is_busy_failing_or_in_conflict_is_asked_again() {
    let site = Site::new(&["alice"]).await;
    let leader = site.leader().await;
    site.until("it is there", || site.is_empty("alice") && site.has_session("alice")).await;
    site.server.fail(Some(Method::PATCH), WRITES, Fault::Status(429, Some(1)), 1);
    site.server.fail(Some(Method::PATCH), WRITES, Fault::Status(503, None), 1);
    site.server.fail(Some(Method::PATCH), WRITES, Fault::Lost, 1);
    leader.sign_in("alice");
    site.until("the token is there", || site.is_filled("alice")).await;
    // Somebody changes what is theirs right before a write.
    let gate = Arc::new(Notify::new());
    site.server.fail(Some(Method::PATCH), WRITES, Fault::Held(Arc::clone(&gate)), 1);
    let before = site.server.requests(&Method::PATCH, WRITES).len();
    site.pass(MINUTE * 12).await;
    site.until("it writes", || site.server.requests(&Method::PATCH, WRITES).len() > before).await;
    site.edit("alice", |secret| secret["metadata"]["labels"]["mine"] = json!("yes"));
    gate.notify_one();
    site.until("it was refilled", || site.left("alice") > 1500).await;
    assert_eq!(site.secret("alice").unwrap()["metadata"]["labels"]["mine"], "yes");
    assert!(leader.metrics.encode().contains("postern_delivery_conflicts_total 1"));
}

#[tokio::test]
async fn who_is_gone_goes_with_their_namespace_if_it_is_marked_as_theirs() {
    let site = Site::new(&["alice", "bob", "carol"]).await;
    let leader = site.leader().await;
    let all = ["alice", "bob", "carol"];
    site.until("all are there", || all.iter().all(|name| site.is_empty(name))).await;
    let mut stripped = site.namespace("bob").unwrap();
    stripped["metadata"].as_object_mut().unwrap().remove("labels");
    site.put_namespace(&stripped);
    for name in ["alice", "bob"] {
        site.fake.realm().users.remove(&format!("id-{name}"));
        leader.block(name, IssuerCause::Deleted);
    }
    for _ in 0..7 * 6 {
        site.clock.advance(MINUTE * 10);
        leader.nudge();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.until("she is gone", || site.namespace("alice").is_none() && leader.shown("alice").is_none()).await;
    assert!(site.namespace("bob").is_some() && site.namespace("carol").is_some());
    assert!(leader.has("bob", "unwritable"), "{:?}", leader.shown("bob"));
    assert!(leader.metrics.encode().contains("postern_offboarded_total 1"));
}

#[tokio::test]
async fn what_is_recorded_is_followed_and_outlives_the_deletion_of_where_it_lies() {
    let site = Site::new(&["alice"]).await;
    let leader = site.leader().await;
    let (directory, bulletin) = (Arc::new(Directory::default()), Arc::new(Bulletin::default()));
    let (follows, told, cluster) = (Arc::clone(&directory), Arc::clone(&bulletin), site.server.connect().await);
    let task = tokio::spawn(async move { follows.follow(cluster, &told).await });
    site.until("it is there", || site.is_empty("alice")).await;
    site.until("it is told", || directory.is_whole() && bulletin.owner("alice").is_some()).await;
    assert_eq!(bulletin.owner("alice"), Some(id("id-alice")));
    assert_eq!(bulletin.namespace(&id("id-alice")).as_deref(), Some("alice"));
    site.sign_in(&[&leader], "alice").await;
    let roles = || directory.record(&id("id-alice")).is_some_and(|record| record.facts.roles == ["reader"]);
    site.until("what she may is told too", roles).await;
    for index in 0..16 {
        site.server.remove("api/v1", "secrets", Some("postern"), &format!("postern-delivery-{index}"));
    }
    let lies =
        || (0..16).any(|index| site.object("secrets", "postern", &format!("postern-delivery-{index}")).is_some());
    site.until("it is stored again", lies).await;
    assert_eq!(bulletin.owner("alice"), Some(id("id-alice")));
    task.abort();
}
