//! The plan for one user in a cluster, where others write too.

use super::plan::{user, world};
use crate::delivery::home::{Home, LOOK_EVERY_MS, Place, Session};
use crate::delivery::plan::{Act, World, plan};
use crate::delivery::record::{Seen, User};
use crate::delivery::sink::{Flaw, Stand};
use crate::kubernetes::Version;
use crate::users::State;

const MINUTE: u64 = 60_000;

/// Somebody whose namespace is in order.
fn placed(left_ms: u64) -> (User, World<'static>) {
    let (mut user, world) = (user(left_ms), world());
    user.live.home = Home { session: Session::Open, ..Home::default() };
    user.live.home.settle(Place::Ready, world.now);
    stand(&mut user, 3, None);
    (user, world)
}

fn stand(user: &mut User, epoch: u64, flaw: Option<Flaw>) {
    let version = Version { uid: "u".into(), resource_version: "7".into() };
    user.live.stand = Some(Stand { version, epoch, flaw });
}

#[track_caller]
fn check(change: impl FnOnce(&mut User, &mut World<'static>), left_ms: u64, act: Act) {
    let (mut user, mut world) = placed(left_ms);
    change(&mut user, &mut world);
    assert_eq!(plan(&user, &world).act, act);
}

fn fresh(user: &mut User, world: &World<'_>) {
    user.live.read_ms = Some(world.now.monotonic_ms);
}

#[test]
fn only_who_leads_reads_makes_and_fills_and_everybody_empties() {
    for (leads, read, fill) in [(true, Act::Read, Act::Fill), (false, Act::Rest, Act::Rest)] {
        check(|_, world| world.leads = leads, 17 * MINUTE, read);
        check(
            |user, world| {
                world.leads = leads;
                fresh(user, world);
            },
            17 * MINUTE,
            fill,
        );
        check(
            |_, world| {
                world.leads = leads;
                world.state = State::Blocked;
            },
            17 * MINUTE,
            Act::Empty,
        );
        let settle = if leads { Act::Settle } else { Act::Rest };
        check(
            |user, world| {
                world.leads = leads;
                user.live.home.disturb(Place::Unready);
            },
            29 * MINUTE,
            settle,
        );
    }
}

#[test]
fn a_read_that_shows_who_is_out_is_made_again_if_another_replica_filled_since() {
    let check = |leads: bool, is_answering: bool, read_ms: Option<u64>, act: Act| {
        let change = |user: &mut User, world: &mut World<'static>| {
            (world.leads, world.is_answering) = (leads, is_answering);
            (user.record.facts.enabled, user.live.read_ms) = (false, read_ms);
        };
        check(change, 29 * MINUTE, act);
    };
    let now_ms = world().now.monotonic_ms;
    // The token was learnt of 50 s ago.
    for old in [None, Some(now_ms - MINUTE)] {
        check(true, true, old, Act::Read);
        check(true, false, old, Act::Rest);
        check(false, true, old, Act::Rest);
    }
    for leads in [true, false] {
        check(leads, false, Some(now_ms), Act::Empty);
    }
}

#[test]
fn a_block_is_done_when_nothing_is_there_that_says_so_and_the_session_is_closed() {
    let blocked = |epoch: u64, session: Session, seen: Seen, act: Act| {
        check(
            |user, world| {
                (world.state, user.live.seen, user.live.home.session) = (State::Blocked, seen, session);
                stand(user, epoch, None);
            },
            29 * MINUTE,
            act,
        );
    };
    blocked(3, Session::Closed, Seen::Empty, Act::Rest);
    blocked(4, Session::Closed, Seen::Empty, Act::Rest);
    // What was decided before the block would still be done.
    blocked(2, Session::Closed, Seen::Empty, Act::Empty);
    blocked(3, Session::Open, Seen::Empty, Act::Empty);
    blocked(3, Session::Unknown, Seen::Empty, Act::Empty);
    blocked(3, Session::Unknown, Seen::Absent, Act::Empty);
    blocked(3, Session::Closed, Seen::Foreign, Act::Empty);
}

#[test]
fn before_the_first_sign_in_the_secret_is_empty_and_the_session_open() {
    check(
        |user, _| {
            (user.record.has_signed_in, user.live.seen) = (false, Seen::Empty);
            stand(user, 0, None);
        },
        0,
        Act::Rest,
    );
}

/// Pods that name the key do not start without it.
#[test]
fn an_empty_secret_without_its_key_gets_it_back() {
    for state in [State::Active, State::Blocked] {
        check(
            |user, world| {
                (user.record.has_signed_in, user.live.seen) = (false, Seen::Empty);
                (world.state, user.live.home.session) = (state, Session::Closed);
                stand(user, 3, Some(Flaw::Keyless));
            },
            0,
            Act::Empty,
        );
    }
}

#[test]
fn a_secret_that_lost_its_key_after_a_block_that_is_not_known_here_is_not_filled() {
    check(
        |user, world| {
            user.live.seen = Seen::Empty;
            fresh(user, world);
            stand(user, world.epoch + 1, Some(Flaw::Keyless));
        },
        0,
        Act::Rest,
    );
}

#[test]
fn who_is_back_has_their_session_made_again_before_their_token() {
    check(|user, _| user.live.home.session = Session::Closed, 17 * MINUTE, Act::Settle);
    check(
        |user, world| {
            user.live.home.session = Session::Closed;
            user.live.home.fail(0, world.now);
            fresh(user, world);
        },
        17 * MINUTE,
        Act::Fill,
    );
}

#[test]
fn what_others_set_is_taken_out_before_a_refill_and_a_lost_mark_or_key_comes_back_with_it() {
    let flaws =
        [(Flaw::Held, Act::Empty), (Flaw::Fixed, Act::Empty), (Flaw::Unmarked, Act::Fill), (Flaw::Keyless, Act::Fill)];
    for (flaw, act) in flaws {
        check(
            |user, world| {
                stand(user, 3, Some(flaw));
                fresh(user, world);
            },
            17 * MINUTE,
            act,
        );
    }
    // A good token is left alone, whoever says that it is theirs too; but not without its mark.
    check(|user, _| stand(user, 3, Some(Flaw::Held)), 29 * MINUTE, Act::Rest);
    check(|user, _| stand(user, 3, Some(Flaw::Unmarked)), 29 * MINUTE, Act::Read);
}

#[test]
fn where_there_is_no_place_nothing_is_written_and_it_is_looked_again() {
    for place in [Place::Taken, Place::Terminating] {
        let (mut user, world) = placed(17 * MINUTE);
        user.live.home.settle(place, world.now);
        fresh(&mut user, &world);
        let planned = plan(&user, &world);
        assert_eq!(planned.act, Act::Rest);
        assert!(planned.next_ms.is_some_and(|next_ms| next_ms <= world.now.monotonic_ms + MINUTE), "{planned:?}");
    }
}

/// The leader may have died between the two.
#[test]
fn a_namespace_without_its_secret_is_put_in_order_at_once() {
    for (has_signed_in, leads, act) in [(true, true, Act::Settle), (false, true, Act::Settle), (true, false, Act::Rest)]
    {
        let (mut user, mut world) = placed(17 * MINUTE);
        (user.live.seen, user.live.stand, world.leads) = (Seen::Absent, None, leads);
        user.record.has_signed_in = has_signed_in;
        assert_eq!(plan(&user, &world).act, act, "{has_signed_in} {leads}");
    }
}

#[test]
fn all_that_stands_there_is_looked_at_again_now_and_then() {
    let (mut user, mut world) = placed(29 * MINUTE);
    assert_eq!(plan(&user, &world).act, Act::Rest);
    user.live.home.look_ms = world.now.monotonic_ms;
    assert_eq!(plan(&user, &world).act, Act::Settle);
    // What was ready stays so while it cannot be looked at.
    user.live.home.fail(0, world.now);
    fresh(&mut user, &world);
    assert_eq!((plan(&user, &world).act, user.live.home.place), (Act::Rest, Place::Ready));
    // Nothing is made again for who is gone.
    user.live.home.look_ms = 0;
    user.record.gone = Some(crate::delivery::offboard::Gone::said(None, world.now));
    world.state = State::Removed;
    (user.live.seen, user.live.home.session) = (Seen::Absent, Session::Closed);
    assert_eq!(plan(&user, &world).act, Act::Rest);
    const { assert!(LOOK_EVERY_MS >= 600_000) };
}

#[test]
fn of_what_is_not_known_it_is_looked_first() {
    for leads in [true, false] {
        check(
            |user, world| {
                (world.leads, user.live.seen, world.state) = (leads, Seen::Unknown, State::Blocked);
            },
            0,
            Act::Look,
        );
    }
}
