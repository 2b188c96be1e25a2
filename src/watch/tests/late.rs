//! What is told late, out of order, or by a clock that was set: each found by the simulation.

use super::fake::{Fake, Keycloak, START, World};
use crate::base::clock::Clock;
use crate::issuer::keycloak::{Feed, Meaning, Session};
use crate::users::{IssuerCause, IssuerTime, Proof, State, UserId, Users};
use crate::watch::SignIn;
use std::time::Duration;

fn disabled(user: &str) -> Meaning {
    Meaning::Disabled { user: user.to_owned() }
}

/// A world in which no sweep helps.
async fn world() -> World {
    let world = World::start_with("main", |_| (), |settings| settings.bound = Duration::from_secs(36_000)).await;
    world.after(4_600).await;
    world
}

/// A session that begins while the user is being disabled: the event that tells of it bears an earlier time.
async fn sign_in_too_soon(fake: &Fake) {
    fake.sign_in("alice", "between", true);
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_begun_while_its_user_was_being_disabled_is_no_proof() {
    let world = world().await;
    sign_in_too_soon(&world.fake).await;
    // No event tells that alice is enabled again. It is waited for, and then she is read for another reason.
    world.fake.tell_late(Feed::Admin, disabled("alice"), 3_000);
    world.after(5_000).await;
    world.fake.tell(Feed::Admin, Meaning::Changed { user: "alice".to_owned() });
    world.after(2_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    world.fake.sign_in("alice", "new", true);
    world.after(1_100).await;
    assert_eq!(world.state("alice"), State::Active);
}

#[tokio::test(start_paused = true)]
async fn an_enabling_before_the_last_disabling_does_not_count_in_whatever_order_both_are_told() {
    for is_reversed in [false, true] {
        let world = world().await;
        world.fake.kc().is_reversed = is_reversed;
        sign_in_too_soon(&world.fake).await;
        world.fake.tell_late(Feed::Admin, disabled("alice"), 5_000);
        world.fake.tell_late(Feed::Admin, Meaning::Enabled { user: "alice".to_owned() }, 4_000);
        world.fake.tell_late(Feed::Admin, disabled("alice"), 3_000);
        world.fake.enable("alice", true);
        let enabled_ms = world.fake.now();
        world.after(2_000).await;
        let view = world.users.state(&world.user("alice")).unwrap();
        assert_eq!((view.state, view.threshold_ms), (State::AwaitingSignIn, enabled_ms), "{is_reversed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_enabling_before_a_deletion_does_not_count() {
    let world = world().await;
    world.fake.enable("alice", false);
    world.after(2_000).await;
    sign_in_too_soon(&world.fake).await;
    world.fake.tell_late(Feed::Admin, Meaning::Enabled { user: "alice".to_owned() }, 500);
    world.fake.tell_late(Feed::Admin, Meaning::Deleted { user: "alice".to_owned() }, 300);
    world.fake.kc().users.get_mut("alice").unwrap().is_disabled = false;
    world.fake.tell(Feed::Admin, Meaning::Created { user: "alice".to_owned() });
    world.after(2_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_and_went_on_past_the_position_hides_no_event() {
    let world = world().await;
    world.fake.tell(Feed::Admin, Meaning::ForMany);
    world.after(1_100).await;
    // Nobody looks at the clock for a while.
    world.fake.kc().shown_ahead_ms = Some(0);
    world.fake.kc().ahead_ms = -30_000;
    world.fake.delete("alice");
    world.after(45_000).await;
    world.fake.kc().shown_ahead_ms = None;
    world.after(2_100).await;
    assert_eq!(world.state("alice"), State::Removed);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_while_nothing_ran_here_hides_no_event() {
    for back_ms in [30_000, 3_600_000] {
        let clock = Clock::of_runtime(START);
        let users = Users::in_memory(clock.clone());
        let before = START * 1000 - 1_000;
        for feed in ["admin_events", "user_events"] {
            users.set_position(&"main".into(), &feed.into(), before);
            users.set_position(&"main".into(), &format!("{feed}_at").into(), before);
        }
        tokio::time::sleep(Duration::from_secs(300)).await;
        let set_back = |kc: &mut Keycloak| (kc.ahead_ms, kc.is_down) = (-back_ms, true);
        let world =
            World::over("main", clock, users, set_back, |settings| settings.bound = Duration::from_secs(36_000));
        let world = world.await;
        // Just after the clock was set, four minutes before the start.
        world.fake.tell_late(Feed::Admin, Meaning::Deleted { user: "alice".to_owned() }, 240_000);
        world.fake.kc().users.remove("alice");
        world.fake.kc().is_down = false;
        world.after(3_100).await;
        assert_eq!(world.state("alice"), State::Removed, "{back_ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_from_before_this_process_is_lifted_as_of_the_read_that_shows_it() {
    let clock = Clock::of_runtime(START);
    let users = Users::in_memory(clock.clone());
    let told = IssuerTime::At(START * 1000 - 3_000);
    let proof = Proof::Issuer { cause: IssuerCause::Deleted, time: told, happened_ms: None };
    users.block(&UserId::new("main", "alice").unwrap(), proof).unwrap();
    // Begun after what the event says, and before alice was out.
    let old = Session { id: "between".to_owned(), began_ms: START * 1000 - 2_000 };
    let list = |kc: &mut Keycloak| kc.users.get_mut("alice").unwrap().sessions.push(old);
    let world = World::over("main", clock, users, list, |_| ()).await;
    world.after(1_000).await;
    assert_eq!(world.state("alice"), State::AwaitingSignIn);
    assert_eq!(world.watch.sign_in(&world.user("alice"), "between").await, SignIn::NotProven);
    world.fake.sign_in("alice", "new", true);
    world.after(1_100).await;
    assert_eq!(world.state("alice"), State::Active);
}
