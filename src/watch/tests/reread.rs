use super::fake::World;
use crate::issuer::keycloak::{Feed, Meaning};
use crate::users::{Cause, Judgement, State};
use crate::watch::SignIn;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn changed(user: &str) -> Meaning {
    Meaning::Changed { user: user.to_owned() }
}

#[tokio::test(start_paused = true)]
async fn any_event_about_a_user_is_a_reason_to_ask() {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(3600)).await;
    world.fake.kc().users.get_mut("alice").unwrap().is_disabled = true;
    world.fake.tell(Feed::Admin, changed("alice"));
    world.fake.kc().users.remove("bob");
    world.fake.tell(Feed::User, changed("bob"));
    world.after(1_500).await;
    assert_eq!(world.cause("alice"), Some(Cause::Disabled));
    assert_eq!(world.cause("bob"), Some(Cause::Deleted));
    assert_eq!(world.state("carol"), State::Active);
}

#[tokio::test(start_paused = true)]
async fn a_user_of_another_directory_is_disabled_only_if_listed() {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(30)).await;
    {
        let mut kc = world.fake.kc();
        let alice = kc.users.get_mut("alice").unwrap();
        (alice.is_disabled, alice.is_federated, alice.is_unlisted) = (true, true, true);
    }
    world.fake.tell(Feed::Admin, changed("alice"));
    world.after(60_000).await;
    assert_eq!(world.state("alice"), State::Active);
    world.fake.kc().users.get_mut("alice").unwrap().is_unlisted = false;
    world.after(30_000).await;
    assert_eq!(world.cause("alice"), Some(Cause::Disabled));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_blocks_nobody_and_is_asked_again() {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(3600)).await;
    world.fake.tell(Feed::Admin, changed("alice"));
    world.after(450).await;
    world.fake.kc().is_down = true;
    world.after(30_000).await;
    assert_eq!(world.state("alice"), State::Active);
    world.fake.kc().users.get_mut("alice").unwrap().is_disabled = true;
    world.fake.tell(Feed::Admin, changed("alice"));
    world.fake.kc().is_down = false;
    world.after(10_000).await;
    assert_eq!(world.state("alice"), State::Blocked);
}

#[tokio::test(start_paused = true)]
async fn many_reasons_while_a_call_is_under_way_make_one_more() {
    let world = World::start_with("main", |kc| kc.takes = Duration::from_secs(2), |_| ()).await;
    for _ in 0..20 {
        world.fake.tell(Feed::Admin, changed("alice"));
        world.after(100).await;
    }
    world.after(20_000).await;
    let calls = world.fake.count("user alice");
    assert!((1..=3).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_began_before_the_block_lifts_nothing() {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(3600)).await;
    world.fake.tell(Feed::Admin, changed("alice"));
    world.fake.kc().takes = Duration::from_secs(3);
    // The read is answered while alice is enabled; she is disabled on its way back, and the event overtakes it.
    world.after(3_500).await;
    assert_eq!(world.fake.count("user alice"), 0);
    world.after(1_500).await;
    assert_eq!(world.fake.count("user alice"), 1);
    world.fake.enable("alice", false);
    world.fake.kc().takes = Duration::from_millis(10);
    world.after(10_000).await;
    assert_eq!(world.state("alice"), State::Blocked);
}

#[tokio::test(start_paused = true)]
async fn who_is_disabled_stays_out_until_a_session_began_since() {
    let world = World::start().await;
    world.fake.sign_in("alice", "old", false);
    world.after(2_000).await;
    assert_eq!(world.judge("alice", "old"), Judgement::Admitted);
    world.fake.enable("alice", false);
    world.after(2_000).await;
    assert_eq!(world.judge("alice", "old"), Judgement::Refused(Cause::Disabled));
    world.fake.enable("alice", true);
    let enabled = world.fake.now();
    world.after(2_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    // An event tells the moment, so no doubt about the clock is added.
    assert_eq!(world.users.state(&world.user("alice")).unwrap().threshold_ms, enabled);
    assert_eq!(world.judge("alice", "old"), Judgement::NeedsSignInProof);
    assert_eq!(world.watch.sign_in(&world.user("alice"), "old").await, SignIn::NotProven);
    world.fake.sign_in("alice", "new", true);
    world.after(1_100).await;
    assert_eq!((world.state("alice"), world.judge("alice", "new")), (State::Active, Judgement::Admitted));
    assert_eq!(world.judge("alice", "old"), Judgement::Refused(Cause::SignInTooOld));
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_that_is_told_before_the_block_is_counts() {
    let world = World::start().await;
    // All within one second: the user feed may be read first.
    world.after(300).await;
    world.fake.enable("alice", false);
    world.after(10).await;
    world.fake.enable("alice", true);
    world.after(10).await;
    world.fake.sign_in("alice", "new", true);
    world.fake.sign_in("bob", "b", true);
    world.after(2_000).await;
    assert_eq!((world.state("alice"), world.judge("alice", "new")), (State::Active, Judgement::Admitted));
    assert!(world.users.state(&world.user("bob")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_not_before_that_grew_makes_the_user_sign_in_again() {
    let world = World::start().await;
    let long_ago = world.fake.now() - 48 * 3_600_000;
    world.fake.kc().users.get_mut("bob").unwrap().not_before_ms = long_ago;
    let now = world.fake.now() / 1000 * 1000;
    world.fake.kc().users.get_mut("alice").unwrap().not_before_ms = now;
    for user in ["alice", "bob"] {
        world.fake.tell(Feed::Admin, Meaning::LoggedOut { user: user.to_owned() });
    }
    world.after(1_500).await;
    assert_eq!((world.state("alice"), world.state("bob")), (State::AwaitingSignIn, State::Active));
    let epoch = world.users.state(&world.user("alice")).unwrap().epoch;
    world.fake.tell(Feed::Admin, changed("alice"));
    world.after(1_500).await;
    assert_eq!(world.users.state(&world.user("alice")).unwrap().epoch, epoch, "it is no news");
}

#[tokio::test(start_paused = true)]
async fn sessions_are_ended_on_block_and_the_old_ones_on_lift() {
    let world = World::start_with("main", |_| (), |settings| settings.end_sessions = true).await;
    world.fake.sign_in("alice", "old", false);
    world.fake.enable("alice", false);
    world.after(1_600).await;
    assert_eq!(world.fake.count("end alice all"), 1);
    world.fake.sign_in("alice", "older", false);
    world.after(5_000).await;
    world.fake.enable("alice", true);
    world.after(3_000).await;
    assert_eq!((world.fake.count("end alice all"), world.fake.count("end alice old")), (1, 1));
    assert!(world.fake.kc().users["alice"].sessions.is_empty());
    world.fake.delete("bob");
    world.after(2_000).await;
    assert_eq!(world.fake.count("end bob all"), 0);
    assert_eq!(world.watch.counters().sessions_ended.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn reads_keep_the_ceiling_and_known_users_come_first() {
    let world =
        World::start_with("main", |kc| kc.page_size = 1000, |settings| settings.bound = Duration::from_secs(3600))
            .await;
    world.ceiling.set_most(40);
    world.fake.enable("alice", false);
    world.after(2_000).await;
    for number in 0..200 {
        world.fake.tell(Feed::Admin, changed(&format!("user-{number}")));
    }
    world.after(2_000).await;
    world.fake.enable("alice", true);
    world.after(1_500).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    let calls = world.fake.kc().calls.iter().filter(|call| call.starts_with("user ")).count();
    assert!((20..=45).contains(&calls), "{calls}");
    assert!(world.watch.errands_waiting() >= 150);
}

#[tokio::test(start_paused = true)]
async fn a_new_user_is_not_asked_about_unless_one_was_known() {
    let world = World::start().await;
    world.fake.tell(Feed::Admin, Meaning::Created { user: "carol".to_owned() });
    world.fake.delete("alice");
    world.after(1_500).await;
    assert_eq!(world.fake.count("user carol"), 0);
    world.fake.kc().users.insert("alice".to_owned(), super::fake::Person::default());
    world.fake.tell(Feed::Admin, Meaning::Created { user: "alice".to_owned() });
    world.after(1_500).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
}
