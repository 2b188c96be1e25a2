use super::fake::{Person, START, World};
use crate::issuer::keycloak::{Feed, Meaning};
use crate::users::{Cause, State};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn disabled() -> Person {
    Person { is_disabled: true, ..Person::default() }
}

#[tokio::test(start_paused = true)]
async fn every_disabled_user_is_blocked_those_never_seen_too() {
    let world = World::start_with(
        "main",
        |kc| kc.users.extend((0..250).map(|number| (format!("user-{number}"), disabled()))),
        |_| (),
    )
    .await;
    assert_eq!(world.users.blocked_users(), 250);
    assert_eq!(world.watch.counters().sweep_users.load(Ordering::Relaxed), 250);
    assert_eq!(world.state("alice"), State::Active);
}

#[tokio::test(start_paused = true)]
async fn what_no_event_told_is_found_within_the_bound() {
    let world = World::start().await;
    for pause in [0, 3_000, 9_000, 14_000, 19_000, 19_990, 20_500] {
        let name = format!("user-{pause}");
        world.after(pause).await;
        world.fake.kc().users.insert(name.clone(), disabled());
        world.after(30_000).await;
        assert_eq!(world.state(&name), State::Blocked, "{pause}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_sweeps_come_one_after_the_other_and_are_told() {
    let slow = |kc: &mut super::fake::Keycloak| kc.takes = Duration::from_secs(4);
    let world = World::start_with("main", slow, |_| ()).await;
    world.after(20_000).await;
    world.fake.kc().users.insert("dave".to_owned(), disabled());
    world.after(30_000).await;
    assert_eq!(world.state("dave"), State::Blocked);
    assert!(!world.watch.counters().sweep_is_late.load(Ordering::Relaxed));
    world.fake.kc().takes = Duration::from_secs(8);
    world.after(100_000).await;
    assert!(world.watch.counters().sweep_is_late.load(Ordering::Relaxed));
    let sweeps = world.watch.counters().sweeps.load(Ordering::Relaxed);
    world.after(100_000).await;
    // It does nothing but sweep half of the time.
    let more = world.watch.counters().sweeps.load(Ordering::Relaxed) - sweeps;
    assert!((2..=4).contains(&more), "{more}");
}

#[tokio::test(start_paused = true)]
async fn who_is_enabled_again_without_an_event_has_to_sign_in() {
    let world = World::start().await;
    world.fake.kc().has_events = false;
    world.fake.enable("alice", false);
    world.after(30_000).await;
    assert_eq!(world.state("alice"), State::Blocked);
    let seen = world.fake.now();
    world.fake.sign_in("alice", "meanwhile", false);
    world.after(22_000).await;
    world.fake.enable("alice", true);
    world.after(30_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    // Not before a later sweep saw them disabled still.
    let threshold = world.users.state(&world.user("alice")).unwrap().threshold_ms;
    assert!(threshold > seen + 1_000, "{threshold} {seen}");
    assert_eq!(world.watch.sign_in(&world.user("alice"), "meanwhile").await, crate::watch::SignIn::NotProven);
}

#[tokio::test(start_paused = true)]
async fn who_is_disabled_behind_the_issuer_stays_out() {
    let world = World::start().await;
    world.fake.kc().users.insert("dave".to_owned(), Person { is_unlisted: true, ..disabled() });
    world.fake.tell(Feed::Admin, Meaning::Changed { user: "dave".to_owned() });
    world.after(100_000).await;
    assert_eq!(world.state("dave"), State::Blocked);
    assert!(world.fake.count("user dave") >= 4, "asked about after each sweep");
    world.fake.kc().users.get_mut("dave").unwrap().is_disabled = false;
    world.after(30_000).await;
    assert_eq!(world.state("dave"), State::AwaitingSignIn);
}

#[tokio::test(start_paused = true)]
async fn a_user_that_the_issuer_lost_for_a_while_is_let_in_again() {
    let world = World::start().await;
    let alice = world.fake.kc().users.remove("alice").unwrap();
    world.fake.tell(Feed::Admin, Meaning::Changed { user: "alice".to_owned() });
    world.after(1_600).await;
    assert_eq!(world.cause("alice"), Some(Cause::Deleted));
    world.fake.kc().users.insert("alice".to_owned(), alice);
    world.after(30_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
}

#[tokio::test(start_paused = true)]
async fn the_realms_not_before_is_noticed_and_an_old_one_is_no_news() {
    let old = START * 1000 - 48 * 3_600_000;
    let world = World::start_with("main", |kc| kc.realm_not_before_ms = old, |_| ()).await;
    world.after(60_000).await;
    assert_eq!(world.judge("alice", "s1"), crate::users::Judgement::Admitted);
    let now = world.fake.now();
    world.fake.kc().realm_not_before_ms = now / 1000 * 1000;
    world.fake.tell(Feed::Admin, Meaning::ForMany);
    world.after(1_100).await;
    assert_eq!(world.judge("alice", "s1"), crate::users::Judgement::NeedsSignInProof);
}

#[tokio::test(start_paused = true)]
async fn events_that_are_not_kept_are_told() {
    let world = World::start().await;
    let is_off = |feed| world.watch.counters().feed(feed).is_off.load(Ordering::Relaxed);
    assert!(!is_off(Feed::Admin) && !is_off(Feed::User));
    world.fake.kc().config.has_details = false;
    world.after(30_000).await;
    assert!(is_off(Feed::Admin) && !is_off(Feed::User));
    world.fake.kc().config.has_user_events = false;
    world.fake.kc().config.has_details = true;
    world.after(30_000).await;
    assert!(!is_off(Feed::Admin) && is_off(Feed::User));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_fails_is_tried_again_soon() {
    let world = World::start().await;
    world.fake.kc().is_down = true;
    world.after(60_000).await;
    assert!(world.watch.counters().sweep_failures.load(Ordering::Relaxed) >= 5);
    world.fake.kc().users.insert("dave".to_owned(), disabled());
    world.fake.kc().is_down = false;
    world.after(5_100).await;
    assert_eq!(world.state("dave"), State::Blocked);
}
