use super::fake::World;
use crate::users::{Judgement, State};
use crate::watch::SignIn;
use std::sync::Arc;
use std::time::Duration;

/// A world where alice was disabled and enabled again, having an old session.
async fn awaiting() -> World {
    let world = World::start().await;
    world.fake.sign_in("alice", "old", false);
    world.after(2_000).await;
    world.fake.enable("alice", false);
    world.after(2_000).await;
    world.fake.enable("alice", true);
    world.after(3_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    world
}

#[tokio::test(start_paused = true)]
async fn a_listed_session_that_began_since_is_a_proof() {
    let world = awaiting().await;
    let alice = world.user("alice");
    assert_eq!(world.watch.sign_in(&alice, "old").await, SignIn::NotProven);
    let began_ms = world.fake.now() / 1000 * 1000;
    let session = crate::issuer::keycloak::Session { id: "new".to_owned(), began_ms };
    world.fake.kc().users.get_mut("alice").unwrap().sessions.push(session);
    assert_eq!(world.watch.sign_in(&alice, "new").await, SignIn::Proven);
    assert_eq!((world.state("alice"), world.judge("alice", "new")), (State::Active, Judgement::Admitted));
    assert_eq!(world.watch.sign_in(&alice, "old").await, SignIn::NotProven);
    assert_eq!(world.fake.count("sessions alice"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_old_session_used_again_in_a_browser_is_no_proof() {
    let world = awaiting().await;
    let again = crate::issuer::keycloak::Meaning::SignedIn {
        user: "alice".to_owned(),
        session: "old".to_owned(),
        is_new: false,
    };
    world.fake.tell(crate::issuer::keycloak::Feed::User, again);
    world.after(2_000).await;
    assert_eq!(world.fake.count("sessions alice"), 1, "it is a reason to look");
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    assert!(matches!(world.judge("alice", "old"), Judgement::Refused(_)));
}

#[tokio::test(start_paused = true)]
async fn a_browsers_new_session_is_found_by_its_event() {
    let world = awaiting().await;
    world.fake.sign_in("alice", "new", false);
    world.after(1_200).await;
    assert_eq!((world.state("alice"), world.judge("alice", "new")), (State::Active, Judgement::Admitted));
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_session_is_not_looked_for_time_and_again() {
    let world = awaiting().await;
    let alice = world.user("alice");
    for _ in 0..50 {
        assert_eq!(world.watch.sign_in(&alice, "offline").await, SignIn::NotProven);
        world.after(100).await;
    }
    assert_eq!(world.fake.count("sessions alice"), 1);
    world.after(10_000).await;
    assert_eq!(world.watch.sign_in(&alice, "offline").await, SignIn::NotProven);
    assert_eq!(world.fake.count("sessions alice"), 2);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_share_one_call() {
    let world = awaiting().await;
    world.fake.kc().takes = Duration::from_secs(1);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (watch, alice) = (Arc::clone(&world.watch), world.user("alice"));
        waiting.spawn(async move { watch.sign_in(&alice, "unlisted").await });
    }
    assert!(waiting.join_all().await.iter().all(|outcome| *outcome == SignIn::NotProven));
    assert_eq!(world.fake.count("sessions alice"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_nothing_is_known() {
    let world = awaiting().await;
    world.fake.kc().is_down = true;
    let sign_ins = Arc::clone(&world.watch);
    assert_eq!(sign_ins.sign_in(&world.user("alice"), "new").await, SignIn::Unknown);
    assert_eq!(world.judge("alice", "new"), Judgement::NeedsSignInProof);
}

#[tokio::test(start_paused = true)]
async fn a_user_that_is_gone_is_asked_about() {
    let world = awaiting().await;
    world.fake.kc().users.remove("alice");
    assert_eq!(world.watch.sign_in(&world.user("alice"), "new").await, SignIn::NotProven);
    world.after(200).await;
    assert_eq!(world.state("alice"), State::Removed);
}

/// Where sweeps come at 0.6, 1.2, 1.8 seconds and so on, and feeds are read at each full one; now it is 1.1.
async fn between_feeds(end_sessions: bool) -> World {
    let bound = Duration::from_millis(990);
    let world =
        World::start_with("main", |_| (), |settings| (settings.bound, settings.end_sessions) = (bound, end_sessions));
    let world = world.await;
    world.after(550).await;
    world.fake.sign_in("alice", "old", true);
    world.after(50).await;
    world
}

async fn check_let_back(world: &World) {
    assert_eq!((world.state("alice"), world.judge("alice", "new")), (State::Active, Judgement::Admitted));
    assert_ne!(world.judge("alice", "old"), Judgement::Admitted);
    world.after(5_000).await;
    assert_eq!((world.state("alice"), world.judge("alice", "new")), (State::Active, Judgement::Admitted));
    assert_eq!(world.watch.sign_in(&world.user("alice"), "old").await, SignIn::NotProven);
    assert!(world.fake.kc().users["alice"].sessions.iter().any(|session| session.id == "new"));
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_right_after_a_block_that_a_sweep_noticed_first_counts() {
    let world = between_feeds(false).await;
    world.fake.enable("alice", false);
    world.after(150).await;
    assert_eq!(world.state("alice"), State::Blocked);
    // The sweep's own time is known to a second only.
    world.fake.enable("alice", true);
    world.after(50).await;
    world.fake.sign_in("alice", "new", true);
    world.after(800).await;
    check_let_back(&world).await;
}

#[tokio::test(start_paused = true)]
async fn without_events_the_doubt_of_a_sweep_stays() {
    let world = between_feeds(false).await;
    world.fake.kc().has_events = false;
    world.fake.enable("alice", false);
    world.after(150).await;
    let shown = world.fake.now();
    world.fake.enable("alice", true);
    world.after(5_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    assert!(world.users.state(&world.user("alice")).unwrap().threshold_ms >= shown);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_within_the_second_of_a_logout_by_an_administrator_counts() {
    let world = between_feeds(false).await;
    world.fake.log_out("alice");
    world.after(50).await;
    world.fake.sign_in("alice", "new", true);
    world.after(1_000).await;
    check_let_back(&world).await;
}

#[tokio::test(start_paused = true)]
async fn it_counts_also_if_the_user_was_read_before_the_event_told() {
    let world = between_feeds(false).await;
    world.fake.log_out("alice");
    // One of the user's tokens was found inactive.
    world.watch.reread(&world.user("alice"));
    world.after(50).await;
    assert_eq!(world.fake.count("user alice"), 1);
    world.fake.sign_in("alice", "new", true);
    world.after(1_000).await;
    check_let_back(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_no_event_tells_of_counts_a_little_later() {
    let world = between_feeds(false).await;
    world.fake.kc().has_events = false;
    world.fake.log_out("alice");
    world.watch.reread(&world.user("alice"));
    world.after(1_000).await;
    assert_eq!(world.state("alice"), State::Active);
    world.after(5_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    // And no more is asked than that.
    assert_eq!(world.fake.count("user alice"), 2);
    world.after(60_000).await;
    assert_eq!(world.fake.count("user alice"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_within_the_second_in_which_all_sessions_were_ended_counts() {
    let world = between_feeds(true).await;
    world.fake.enable("alice", false);
    world.after(200).await;
    assert_eq!(world.fake.count("end alice all"), 1);
    world.fake.enable("alice", true);
    world.after(50).await;
    world.fake.sign_in("alice", "new", true);
    // A sweep has the user read before any event tells of that.
    let reads = world.fake.count("user alice");
    world.after(550).await;
    assert_eq!((world.state("alice"), world.fake.count("user alice")), (State::Blocked, reads + 1));
    world.after(300).await;
    check_let_back(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_session_is_not_ended_with_the_old_ones() {
    let world = between_feeds(true).await;
    world.after(150).await;
    // The user is back before it is known that they were out.
    world.fake.enable("alice", false);
    world.fake.enable("alice", true);
    world.after(50).await;
    world.fake.sign_in("alice", "new", true);
    world.after(900).await;
    assert_eq!(world.fake.count("end alice all"), 0);
    check_let_back(&world).await;
}

#[tokio::test(start_paused = true)]
async fn nor_while_it_is_not_known_when_the_user_was_enabled() {
    let world = between_feeds(true).await;
    world.fake.enable("alice", false);
    // The sweep has read it, and what follows from it has yet to be done.
    world.after(132).await;
    assert_eq!(world.state("alice"), State::Active);
    world.fake.enable("alice", true);
    world.fake.sign_in("alice", "new", true);
    world.after(100).await;
    assert_eq!(world.state("alice"), State::Blocked);
    world.after(1_000).await;
    assert_eq!(world.fake.count("end alice all"), 0);
    check_let_back(&world).await;
}
