use super::fake::{START, World};
use crate::base::clock::Clock;
use crate::issuer::keycloak::{Feed, Meaning};
use crate::users::{Cause, State, Users};
use crate::watch::Hint;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_disabled_user_is_blocked_by_the_event_alone() {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(3600)).await;
    let mut decisions = world.users.subscribe();
    world.fake.enable("alice", false);
    world.after(1_100).await;
    assert_eq!((world.state("alice"), world.cause("alice")), (State::Blocked, Some(Cause::Disabled)));
    assert_eq!(world.state("bob"), State::Active);
    let delay = decisions.try_recv().unwrap().delay_ms.unwrap();
    assert!(delay <= 1_010, "{delay}");
}

#[tokio::test(start_paused = true)]
async fn a_quick_disable_and_enable_is_not_missed() {
    let world = World::start().await;
    world.fake.sign_in("alice", "old", false);
    world.fake.enable("alice", false);
    world.fake.enable("alice", true);
    world.after(1_500).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
}

#[tokio::test(start_paused = true)]
async fn deletion_and_lockout_block_by_themselves() {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(3600)).await;
    world.fake.delete("alice");
    world.fake.kc().users.get_mut("bob").unwrap().is_disabled = true;
    world.fake.tell(Feed::User, Meaning::LockedOut { user: "bob".to_owned() });
    world.after(1_100).await;
    assert_eq!((world.state("alice"), world.cause("alice")), (State::Removed, Some(Cause::Deleted)));
    assert_eq!(world.cause("bob"), Some(Cause::LockedOut));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_committed_late_is_seen() {
    let world = World::start().await;
    world.fake.tell(Feed::Admin, Meaning::ForMany);
    world.after(1_100).await;
    world.fake.tell_late(Feed::Admin, Meaning::Deleted { user: "alice".to_owned() }, 9_000);
    world.after(1_100).await;
    assert_eq!(world.state("alice"), State::Removed);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_again_is_no_news() {
    let mut world = World::start().await;
    world.fake.tell(Feed::Admin, Meaning::Changed { user: "alice".to_owned() });
    world.after(5_000).await;
    assert_eq!(world.hinted(), [Hint::Reintrospect(world.user("alice"))]);
    assert_eq!(world.fake.count("user alice"), 1);
    assert!(world.watch.counters().feed(Feed::Admin).repeated.load(Ordering::Relaxed) >= 3);
}

#[tokio::test(start_paused = true)]
async fn the_position_is_where_the_next_start_begins() {
    let clock = Clock::of_runtime(START);
    let users = Users::in_memory(clock.clone());
    let world = World::over("main", clock.clone(), users.clone(), |_| (), |_| ()).await;
    let first = users.position("main", "admin_events").unwrap();
    assert!(first <= world.fake.now() && first >= START * 1000 - 1_000, "{first}");
    world.after(20_000).await;
    world.fake.tell(Feed::Admin, Meaning::ForMany);
    let told = world.fake.now();
    world.after(1_100).await;
    assert_eq!(users.position("main", "admin_events"), Some(told));
    assert_eq!(users.position("main", "user_events"), Some(first));
    // What was told before the first start is the sweep's: another issuer's position says nothing.
    assert_eq!(users.position("other", "admin_events"), None);
}

#[tokio::test(start_paused = true)]
async fn full_pages_are_followed_by_the_next() {
    let world =
        World::start_with("main", |kc| kc.page_size = 50, |settings| settings.bound = Duration::from_secs(3600)).await;
    for number in 0..240 {
        world.fake.tell(Feed::Admin, Meaning::Deleted { user: format!("user-{number}") });
        world.after(1).await;
    }
    world.after(2_500).await;
    assert_eq!(world.users.blocked_users(), 240);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_and_nothing_is_lost() {
    let world = World::start().await;
    world.fake.kc().is_down = true;
    world.fake.enable("alice", false);
    world.after(120_000).await;
    assert_eq!(world.state("alice"), State::Active);
    let admin = world.watch.counters().feed(Feed::Admin);
    assert!((20..40).contains(&admin.failures.load(Ordering::Relaxed)), "{admin:?}");
    assert!(admin.lag_ms(world.clock.now()).unwrap() >= 120_000);
    world.fake.kc().is_down = false;
    world.after(5_100).await;
    assert_eq!(world.state("alice"), State::Blocked);
    assert!(admin.lag_ms(world.clock.now()).unwrap() <= 1_100);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_hides_no_event() {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(36_000)).await;
    world.fake.tell(Feed::Admin, Meaning::ForMany);
    world.after(2_000).await;
    world.fake.kc().ahead_ms = -3_600_000;
    world.fake.enable("alice", false);
    world.after(3_000).await;
    assert_eq!(world.state("alice"), State::Blocked);
    let steps = world.watch.counters().feed(Feed::Admin).clock_steps.load(Ordering::Relaxed);
    assert_eq!(steps, 1);
    assert!((-3_600.0..-3_599.0).contains(&world.watch.clock_offset_seconds().unwrap()));
    // And forward again.
    world.fake.kc().ahead_ms = 3_600_000;
    world.fake.enable("bob", false);
    world.after(1_100).await;
    assert_eq!(world.state("bob"), State::Blocked);
}

#[tokio::test(start_paused = true)]
async fn what_may_concern_everybody_is_hinted_at_once() {
    let mut world = World::start().await;
    for _ in 0..5 {
        world.fake.tell(Feed::Admin, Meaning::ForMany);
    }
    let session = Meaning::SessionEnded { user: None, session: "s1".to_owned() };
    world.fake.tell(Feed::Admin, session);
    world.after(1_100).await;
    let issuer: std::sync::Arc<str> = "main".into();
    let expected =
        [Hint::SessionEnded { issuer: issuer.clone(), session: "s1".to_owned() }, Hint::ReintrospectAll { issuer }];
    assert_eq!(world.hinted(), expected);
}

#[tokio::test(start_paused = true)]
async fn hints_that_nobody_takes_do_no_harm() {
    let world = World::start().await;
    for number in 0..300 {
        world.fake.tell(Feed::Admin, Meaning::SessionEnded { user: None, session: number.to_string() });
    }
    world.fake.enable("alice", false);
    world.after(2_100).await;
    assert_eq!(world.state("alice"), State::Blocked);
}

#[tokio::test(start_paused = true)]
async fn the_same_subject_of_two_issuers_is_two_users() {
    let clock = Clock::of_runtime(START);
    let users = Users::in_memory(clock.clone());
    let one = World::over("one", clock.clone(), users.clone(), |_| (), |_| ()).await;
    let two = World::over("two", clock, users, |_| (), |_| ()).await;
    one.fake.enable("alice", false);
    one.after(1_600).await;
    assert_eq!((one.state("alice"), two.state("alice")), (State::Blocked, State::Active));
    two.fake.delete("alice");
    one.after(1_600).await;
    assert_eq!((one.cause("alice"), two.cause("alice")), (Some(Cause::Disabled), Some(Cause::Deleted)));
    one.fake.enable("alice", true);
    one.after(1_600).await;
    assert_eq!((one.state("alice"), two.state("alice")), (State::AwaitingSignIn, State::Removed));
}
