//! What a replica counts as a broken promise, and what not.

use super::cluster::{Replica, Site};
use crate::kubernetes::tests::server::Fault;
use crate::users::IssuerCause;
use http::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_another_replica_emptied_after_a_block_breaks_no_promise_where_the_block_is_not_known_yet() {
    let site = Site::new(&["alice", "bob"]).await;
    let leader = site.leader().await;
    let follower = site.replica(None).await;
    site.until("the other is whole", || follower.delivery.is_ready() && follower.shown("bob").is_some()).await;
    for name in ["alice", "bob"] {
        site.sign_in(&[&leader, &follower], name).await;
    }
    let told = |name: &str| {
        follower.nudge();
        let text = follower.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let filled = "postern_delivery_users{token=\"filled\"}";
    site.until("both are to have a token", || told(filled) == 2).await;
    leader.block("alice", IssuerCause::Disabled);
    site.until("the other sees nothing", || follower.shown("alice").unwrap().seconds_left.is_none()).await;
    let is_below = follower.has("alice", "below_floor");
    let looks = || told("postern_delivered_life_seconds_count");
    let before = looks();
    site.pass(MINUTE).await;
    site.until("it was looked what readers find", || looks() > before).await;
    assert_eq!((follower.shown("alice").unwrap().state, is_below, follower.counts.violations()), ("active", false, 0));
}

#[tokio::test]
async fn a_token_that_another_emptied_before_its_writer_had_an_answer_was_not_promised() {
    let site = Site::new(&["alice"]).await;
    let leader = site.leader().await;
    let follower = site.replica(None).await;
    site.until("the other is whole", || follower.delivery.is_ready() && follower.shown("alice").is_some()).await;
    site.sign_in(&[&leader, &follower], "alice").await;
    let gate = Arc::new(Notify::new());
    site.server.fail(Some(Method::PATCH), "/secrets/access-token", Fault::Late(Arc::clone(&gate)), 1);
    let (token, wrote) = (site.read("alice"), leader.counts.writes().0);
    site.pass(MINUTE * 12).await;
    site.until("it was refilled", || site.read("alice") != token).await;
    let left = |replica: &Replica| replica.shown("alice").unwrap().seconds_left;
    site.until("the other saw it", || left(&follower) > Some(1500)).await;
    follower.block("alice", IssuerCause::Disabled);
    site.until("it is empty, and its writer saw that", || site.is_empty("alice") && left(&leader).is_none()).await;
    gate.notify_one();
    site.until("its writer has its answer", || leader.counts.writes().0 > wrote).await;
    assert_eq!((leader.shown("alice").unwrap().state, leader.counts.violations()), ("active", 0));
}
