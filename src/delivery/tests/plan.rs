//! The plan for one user, case by case.

use crate::base::clock::{Clock, Now};
use crate::base::secret::Secret;
use crate::delivery::plan::{Act, Plan, World, plan};
use crate::delivery::record::{Facts, Held, Live, Record, Seen, User};
use crate::delivery::reserve::{CEILING_MS, PERIOD_MS, REFILL_MS};
use crate::token_service::Said;
use crate::users::State;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: u64 = 60_000;

/// A minute after the process began, so that there is room before.
pub(super) fn now() -> Now {
    let clock = Clock::manual(1_800_000_000);
    clock.advance(Duration::from_hours(1));
    clock.now()
}

pub(super) fn world() -> World<'static> {
    World {
        now: now(),
        state: State::Active,
        epoch: 3,
        claims: "claims",
        keys: &["old", "key"],
        are_clocks_right: true,
        is_answering: true,
        silent_ms: Some(1_000),
        allow_for_ms: 5 * MINUTE,
        phase_ms: 0,
        leads: true,
    }
}

fn said() -> Said {
    Said { key: "key".into(), expires: 0, epoch: 3, claims: "claims".into() }
}

/// Somebody who signed in, with a token that has so much left.
pub(super) fn user(left_ms: u64) -> User {
    let now_ms = now().monotonic_ms;
    let ends_ms = now_ms + left_ms;
    let held = Held {
        token: Secret::new("token"),
        digest: "digest".into(),
        said: Some(said()),
        expires: 0,
        ends_ms,
        learned_ms: ends_ms.saturating_sub(CEILING_MS - 10_000),
    };
    let facts = Facts { username: "alice".into(), enabled: true, ..Facts::default() };
    let record =
        Record { facts, read_unix_ms: 1, namespace: Some("alice".into()), has_signed_in: true, ..Record::default() };
    let live = Live { seen: Seen::Token(Arc::new(held)), read_ms: Some(now_ms - 20 * MINUTE), ..Live::default() };
    User { record, live }
}

/// Has the token that is there say something else.
fn resay(user: &mut User, said: Option<Said>) {
    let Seen::Token(held) = &user.live.seen else { panic!("no token") };
    let (token, digest, expires) = (held.token.clone(), held.digest.clone(), held.expires);
    let (ends_ms, learned_ms) = (held.ends_ms, held.learned_ms);
    user.live.seen = Seen::Token(Arc::new(Held { token, digest, said, expires, ends_ms, learned_ms }));
}

#[track_caller]
fn check(change: impl FnOnce(&mut User, &mut World<'static>), left_ms: u64, act: Act) {
    let (mut user, mut world) = (user(left_ms), world());
    change(&mut user, &mut world);
    let Plan { act: planned, next_ms } = plan(&user, &world);
    assert_eq!(planned, act);
    assert!(next_ms.is_none_or(|next_ms| next_ms > world.now.monotonic_ms), "{next_ms:?}");
}

#[test]
fn a_good_token_is_left_alone_until_its_turn() {
    check(|_, _| {}, 29 * MINUTE, Act::Rest);
    // Eleven minutes of phases lie between the first and the last turn.
    for phase_ms in (0..PERIOD_MS).step_by(60_000) {
        check(|_, world| world.phase_ms = phase_ms, 18 * MINUTE, Act::Read);
        check(|_, world| world.phase_ms = phase_ms, REFILL_MS + PERIOD_MS + 1, Act::Rest);
    }
}

#[test]
fn before_a_token_is_written_the_issuer_is_asked() {
    check(|_, _| {}, 17 * MINUTE, Act::Read);
    check(|user, world| user.live.read_ms = Some(world.now.monotonic_ms - 1_000), 17 * MINUTE, Act::Fill);
}

#[test]
fn what_says_something_else_than_it_should_is_written_anew() {
    let fresh = |user: &mut User| user.live.read_ms = Some(now().monotonic_ms);
    let changes: [fn(&mut User, &mut World<'static>); 5] = [
        |_, world| world.epoch = 4,
        |_, world| world.claims = "other",
        |_, world| world.keys = &["new"],
        |user, _| resay(user, None),
        |user, _| resay(user, Some(Said { claims: "another's".into(), ..said() })),
    ];
    for change in changes {
        check(change, 29 * MINUTE, Act::Read);
        check(
            |user, world| {
                change(user, world);
                fresh(user);
            },
            29 * MINUTE,
            Act::Fill,
        );
    }
    // A key that only no longer signs is no reason: the next write has the new one.
    check(|_, world| world.keys = &["new", "key"], 29 * MINUTE, Act::Rest);
}

#[test]
fn who_is_not_to_have_a_token_has_none() {
    let changes: [fn(&mut User, &mut World<'static>); 7] = [
        |_, world| world.state = State::Blocked,
        |_, world| world.state = State::AwaitingSignIn,
        |_, world| world.state = State::Removed,
        |user, _| user.record.has_signed_in = false,
        |user, _| user.record.facts.enabled = false,
        |user, _| user.record.namespace = None,
        |user, world| user.record.gone = Some(crate::delivery::offboard::Gone::said(None, world.now)),
    ];
    for change in changes {
        for left_ms in [0, 12 * MINUTE, 29 * MINUTE] {
            check(change, left_ms, Act::Empty);
            // Whatever else is wrong.
            check(
                |user, world| {
                    change(user, world);
                    (world.are_clocks_right, world.is_answering, world.silent_ms) = (false, false, None);
                    user.live.doubted_ms = Some(1);
                },
                left_ms,
                Act::Empty,
            );
        }
        for seen in [Seen::Absent, Seen::Foreign] {
            check(
                |user, world| {
                    change(user, world);
                    user.live.seen = seen;
                },
                0,
                Act::Empty,
            );
        }
    }
    check(|user, world| (user.live.seen, world.state) = (Seen::Empty, State::Blocked), 0, Act::Rest);
}

#[test]
fn nothing_is_done_before_it_is_known_what_is_there() {
    check(|user, _| user.live.seen = Seen::Unknown, 0, Act::Rest);
    check(|user, world| (user.live.seen, world.state) = (Seen::Unknown, State::Blocked), 0, Act::Rest);
}

#[test]
fn what_somebody_else_put_there_is_replaced() {
    let fresh = |user: &mut User, seen| (user.live.read_ms, user.live.seen) = (Some(now().monotonic_ms), seen);
    for seen in [Seen::Absent, Seen::Empty, Seen::Foreign] {
        check(|user, _| fresh(user, seen), 0, Act::Fill);
    }
}

#[test]
fn nothing_is_minted_while_the_clocks_are_apart() {
    for left_ms in [0, 11 * MINUTE, 17 * MINUTE] {
        check(
            |user, world| {
                world.are_clocks_right = false;
                user.live.read_ms = Some(world.now.monotonic_ms);
            },
            left_ms,
            Act::Rest,
        );
    }
}

#[test]
fn while_the_issuer_is_silent_tokens_are_minted_for_as_long_as_is_allowed() {
    let silent = |for_ms: Option<u64>| {
        move |_: &mut User, world: &mut World<'static>| (world.is_answering, world.silent_ms) = (false, for_ms)
    };
    check(silent(Some(5 * MINUTE)), 17 * MINUTE, Act::Fill);
    check(silent(Some(5 * MINUTE + 1)), 17 * MINUTE, Act::Rest);
    check(silent(None), 17 * MINUTE, Act::Rest);
    check(
        |user, world| {
            silent(Some(1_000))(user, world);
            world.state = State::Blocked;
        },
        17 * MINUTE,
        Act::Empty,
    );
    // It answers, but not about this user.
    for (since_ms, act) in [(5 * MINUTE, Act::Fill), (5 * MINUTE + 1, Act::Rest)] {
        check(
            |user, world| {
                let now_ms = world.now.monotonic_ms;
                let failures = &mut user.live.failures;
                failures.note_read(now_ms - since_ms);
                failures.note_read(now_ms);
            },
            17 * MINUTE,
            act,
        );
    }
    // Something changed, and what it is cannot be asked.
    check(
        |user, world| {
            silent(Some(1_000))(user, world);
            user.live.doubted_ms = Some(world.now.monotonic_ms);
        },
        17 * MINUTE,
        Act::Rest,
    );
    // Somebody of whom only the name is known.
    check(
        |user, world| {
            silent(Some(1_000))(user, world);
            user.record.read_unix_ms = 0;
        },
        17 * MINUTE,
        Act::Rest,
    );
}

#[test]
fn a_change_has_the_user_read_at_once() {
    check(|user, world| user.live.doubted_ms = Some(world.now.monotonic_ms), 29 * MINUTE, Act::Read);
    check(|user, world| (user.live.doubted_ms, world.is_answering) = (Some(1), false), 29 * MINUTE, Act::Rest);
}

#[test]
fn what_fails_is_left_alone_for_a_while_but_not_for_long() {
    let now_ms = now().monotonic_ms;
    check(|user, _| user.live.failures.read_after_ms = now_ms + 1, 29 * MINUTE, Act::Rest);
    check(
        |user, _| {
            user.live.failures.write_after_ms = now_ms + 1;
            user.live.read_ms = Some(now_ms);
        },
        17 * MINUTE,
        Act::Rest,
    );
    let mut failures = crate::delivery::record::Failures::default();
    for _ in 0..100 {
        failures.note_write(now_ms);
        failures.note_read(now_ms);
        assert!(failures.write_after_ms <= now_ms + 2_000 && failures.read_after_ms <= now_ms + 20_000);
    }
}

#[test]
fn of_whom_nothing_is_known_is_asked_and_nothing_written() {
    let nobody = |user: &mut User| {
        let signed_in = user.record.has_signed_in;
        *user = User::default();
        (user.live.seen, user.record.has_signed_in) = (Seen::Absent, signed_in);
    };
    check(|user, _| nobody(user), 0, Act::Read);
    check(
        |user, _| {
            nobody(user);
            user.record.has_signed_in = false;
        },
        0,
        Act::Read,
    );
}
