//! Users who are gone.

use super::stage::{Stage, id};
use crate::users::IssuerCause;

const HOUR: u64 = 3600;

async fn delete(stage: &Stage, name: &str) {
    stage.realm().users.remove(&format!("id-{name}"));
    stage.block(name, IssuerCause::Deleted);
    stage.pass(2).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_has_nothing_at_once_and_no_file_after_a_while() {
    let stage = Stage::new(&["alice", "bob"]).await;
    stage.sign_in("alice").await;
    delete(&stage, "alice").await;
    assert_eq!(stage.read("alice").as_deref(), Some(""));
    stage.pass(4 * HOUR - 60).await;
    assert_eq!(stage.read("alice").as_deref(), Some(""));
    assert_eq!(stage.conditions("alice"), ["gone"]);
    stage.pass(2 * HOUR).await;
    assert_eq!((stage.read("alice"), stage.shown("alice").is_none()), (None, true));
    assert_eq!(stage.read("bob").as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn while_the_realm_does_not_answer_nobody_is_gone() {
    let stage = Stage::new(&["alice"]).await;
    delete(&stage, "alice").await;
    stage.pass(HOUR).await;
    stage.realm().is_down = true;
    stage.pass(9 * HOUR).await;
    stage.realm().is_down = false;
    stage.pass(2 * HOUR).await;
    assert_eq!(stage.read("alice").as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn whoever_the_issuer_lists_again_stays() {
    let stage = Stage::new(&["alice"]).await;
    stage.realm().users.clear();
    stage.pass(3 * HOUR).await;
    assert_eq!(stage.conditions("alice"), ["gone"]);
    stage.add("alice");
    stage.pass(2 * HOUR).await;
    assert!(stage.conditions("alice").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_realm_that_suddenly_lists_nobody_costs_nobody_their_file() {
    let names = ["a1", "a2", "a3", "a4"];
    let stage = Stage::new(&names).await;
    for name in names {
        delete(&stage, name).await;
    }
    stage.pass(8 * HOUR).await;
    for name in names {
        assert_eq!(stage.read(name).as_deref(), Some(""));
        assert_eq!(stage.conditions(name), ["gone", "held"]);
    }
    assert_eq!(stage.delivery.shown().held, Some((4, 3)));
    assert!(stage.metrics.encode().contains("postern_offboarding_open 0"));
}

#[tokio::test(start_paused = true)]
async fn a_user_of_the_same_name_with_another_id_waits_for_the_namespace() {
    let stage = Stage::new(&["alice"]).await;
    stage.sign_in("alice").await;
    let mut second = stage.realm().users["id-alice"].clone();
    delete(&stage, "alice").await;
    second.listed.id = "id-second".into();
    stage.realm().users.insert("id-second".into(), second);
    stage.sign_in("second").await;
    assert_eq!(stage.conditions("second"), ["name_taken"]);
    assert_eq!(stage.read("second").as_deref(), Some(""));
    stage.pass(6 * HOUR).await;
    assert_eq!(stage.claims("second")["namespace"], "alice");
    assert_eq!(stage.users.standing(&id("id-second"), stage.clock.now()).0.code(), "active");
}
