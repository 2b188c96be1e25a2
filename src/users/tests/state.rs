use super::super::state::*;
use super::super::terms::*;
use super::act;
use proptest::prelude::*;

fn token<'a>(session: Option<&'a str>, issued: Option<i64>) -> TokenClaims<'a> {
    TokenClaims { issuer: "main", subject: "alice", session, issued, id: None, epoch: None }
}

fn disabled(at_ms: u64) -> Record {
    let mut record = Record::default();
    assert_eq!(record.block_by_issuer(IssuerCause::Disabled, IssuerTime::At(at_ms), 1), Effect::Decided);
    record
}

fn by_issuer(read_began_ms: u64, enabled_ms: Option<u64>) -> Lift {
    Lift::Issuer { read_began_ms, enabled_ms }
}

fn by_operator(issuer_now_ms: u64) -> Lift {
    Lift::Operator { act: act(), issuer_now_ms }
}

#[test]
fn enabling_alone_lets_nobody_in() {
    let mut record = disabled(10_000);
    assert_eq!(record.judge(&token(Some("s"), None), 0), Judgement::Refused(Cause::Disabled));
    assert_eq!(record.lift(&by_issuer(1, Some(20_000))), LiftEffect::Lifted);
    assert_eq!(record.state(0), State::AwaitingSignIn);
    assert_eq!(record.judge(&token(Some("s"), Some(99)), 0), Judgement::NeedsSignInProof);
    assert_eq!(record.signed_in(Some("s"), 19_999, 0), SignInEffect::TooOld);
    assert_eq!(record.signed_in(Some("new"), 20_000, 0), SignInEffect::Decided);
    assert_eq!(record.state(0), State::Active);
    assert_eq!(record.judge(&token(Some("new"), None), 0), Judgement::Admitted);
    // Others are no better for it.
    assert_eq!(record.judge(&token(Some("s"), Some(99)), 0), Judgement::NeedsSignInProof);
}

#[test]
fn a_token_without_a_session_has_to_be_issued_after_the_lift() {
    let mut record = disabled(10_000);
    assert_eq!(record.judge(&token(None, Some(99)), 0), Judgement::Refused(Cause::Disabled));
    record.lift(&by_issuer(1, Some(20_500)));
    for (issued, judgement) in [
        (Some(20), Judgement::Refused(Cause::SignInTooOld)),
        (Some(21), Judgement::Admitted),
        (Some(-1), Judgement::Refused(Cause::SignInTooOld)),
        (None, Judgement::Refused(Cause::SignInTooOld)),
    ] {
        assert_eq!(record.judge(&token(None, issued), 0), judgement, "{issued:?}");
    }
    assert_eq!(record.signed_in(None, 21_000, 0), SignInEffect::Decided);
    assert_eq!(record.state(0), State::Active);
}

#[test]
fn the_issuers_block_and_the_operators_are_independent() {
    let mut record = disabled(10_000);
    assert_eq!(record.block_by_operator(act()), Effect::Decided);
    assert_eq!(record.block_by_operator(act()), Effect::Nothing);
    assert_eq!(record.lift(&by_issuer(1, None)), LiftEffect::Lifted);
    assert_eq!(record.state(0), State::Blocked);
    assert_eq!(record.judge(&token(Some("s"), None), 0), Judgement::Refused(Cause::Operator));
    assert_eq!(record.lift(&by_issuer(1, None)), LiftEffect::NotBlocked);
    assert_eq!(record.block_by_issuer(IssuerCause::Disabled, IssuerTime::At(30_000), 2), Effect::Decided);
    assert_eq!(record.lift(&by_operator(40_000)), LiftEffect::Lifted);
    assert_eq!(record.judge(&token(Some("s"), None), 0), Judgement::Refused(Cause::Disabled));
    assert_eq!((record.threshold_ms, record.epoch), (40_000, 3));
}

#[test]
fn a_removed_user_is_removed_until_there_again_enabled_and_signed_in() {
    let mut record = disabled(10_000);
    assert_eq!(record.block_by_issuer(IssuerCause::Deleted, IssuerTime::At(11_000), 2), Effect::Decided);
    assert_eq!(record.state(0), State::Removed);
    assert_eq!(record.block_by_operator(act()), Effect::Decided);
    assert_eq!(record.lift(&by_operator(12_000)), LiftEffect::Lifted);
    assert_eq!(record.state(0), State::Removed);
    assert_eq!(record.signed_in(Some("s"), 99_000, 0), SignInEffect::Nothing);
    assert_eq!(record.lift(&by_issuer(2, None)), LiftEffect::Lifted);
    assert_eq!(record.state(0), State::AwaitingSignIn);
}

#[test]
fn an_event_that_comes_again_is_no_news_and_an_older_read_lifts_nothing() {
    let mut record = disabled(10_000);
    assert_eq!(record.block_by_issuer(IssuerCause::Disabled, IssuerTime::At(10_000), 9), Effect::Nothing);
    // A later proof raises the threshold without a decision.
    assert_eq!(record.block_by_issuer(IssuerCause::Disabled, IssuerTime::Within(12_000), 50), Effect::Noted);
    assert_eq!((record.threshold_ms, record.epoch), (12_000, 1));
    assert_eq!(record.lift(&by_issuer(49, None)), LiftEffect::Stale);
    assert_eq!(record.lift(&by_issuer(50, None)), LiftEffect::Lifted);
    assert_eq!(record.threshold_ms, 13_000);
    assert_eq!(record.block_by_issuer(IssuerCause::Disabled, IssuerTime::At(12_000), 51), Effect::Nothing);
    // What is not surely older counts.
    assert_eq!(record.block_by_issuer(IssuerCause::Deleted, IssuerTime::At(12_001), 51), Effect::Decided);
}

#[test]
fn a_read_leaves_a_doubt_of_a_second_that_only_both_events_end() {
    let read_and = |told: Option<u64>, enabled_ms| {
        let mut record = Record::default();
        record.block_by_issuer(IssuerCause::Disabled, IssuerTime::Within(10_000), 1);
        if let Some(told) = told {
            let effect = record.block_by_issuer(IssuerCause::Disabled, IssuerTime::At(told), 2);
            assert_eq!(effect, Effect::Noted);
        }
        assert_eq!(record.lift(&by_issuer(2, enabled_ms)), LiftEffect::Lifted);
        assert_eq!(record.shown, None);
        record.threshold_ms
    };
    assert_eq!(read_and(None, None), 11_000);
    assert_eq!(read_and(None, Some(10_400)), 11_000, "perhaps of an earlier block");
    assert_eq!(read_and(Some(10_300), None), 11_000, "perhaps enabled and disabled again meanwhile");
    assert_eq!(read_and(Some(10_300), Some(10_400)), 10_400);
    assert_eq!(read_and(Some(9_000), Some(9_500)), 10_000, "what was read was not before that");
    assert_eq!(read_and(Some(10_300), Some(12_000)), 12_000);
    // A later read is in doubt again.
    let mut record = disabled(9_000);
    record.block_by_issuer(IssuerCause::Disabled, IssuerTime::Within(10_000), 1);
    record.lift(&by_issuer(1, Some(10_400)));
    assert_eq!(record.threshold_ms, 11_000);
}

#[test]
fn a_not_before_asks_for_a_new_sign_in_and_blocks_nobody() {
    let mut record = Record::default();
    assert_eq!(record.block_by_issuer(IssuerCause::NotBefore, IssuerTime::At(10_000), 1), Effect::Decided);
    assert_eq!((record.state(0), record.epoch), (State::AwaitingSignIn, 1));
    assert_eq!(record.block_by_issuer(IssuerCause::NotBefore, IssuerTime::At(10_000), 1), Effect::Nothing);
    record.signed_in(Some("s"), 10_000, 0);
    assert_eq!(record.state(0), State::Active);
    assert_eq!(record.block_by_issuer(IssuerCause::NotBefore, IssuerTime::At(10_001), 1), Effect::Decided);
    assert_eq!(record.judge(&token(Some("s"), None), 0), Judgement::NeedsSignInProof);
}

#[test]
fn a_clock_that_steps_back_makes_no_old_session_new() {
    let mut record = disabled(10_000);
    record.lift(&by_issuer(1, None));
    record.signed_in(Some("s"), 60_000, 0);
    // The issuer's clock went back half a minute; the event is taken for an old one, the sweep is not.
    assert_eq!(record.block_by_issuer(IssuerCause::Disabled, IssuerTime::Within(30_000), 2), Effect::Decided);
    record.lift(&by_issuer(2, None));
    assert_eq!(record.signed_in(Some("s"), 60_000, 0), SignInEffect::TooOld);
}

#[test]
fn a_threshold_for_everybody_holds_for_those_who_are_active_too() {
    let mut record = disabled(10_000);
    record.lift(&by_issuer(1, None));
    record.signed_in(Some("s"), 15_000, 0);
    assert_eq!(record.judge(&token(Some("s"), None), 15_001), Judgement::Refused(Cause::SignInTooOld));
    assert_eq!(record.state(15_001), State::AwaitingSignIn);
    assert_eq!(record.signed_in(Some("t"), 15_001, 15_001), SignInEffect::Decided);
    assert_eq!(record.sessions.len(), 1);
    // And for those of whom nothing is known.
    assert_eq!(Record::default().judge(&token(Some("s"), None), 5), Judgement::NeedsSignInProof);
}

#[test]
fn of_many_sessions_the_newest_are_kept() {
    let mut record = disabled(1);
    record.lift(&by_issuer(1, None));
    for began in 0..300 {
        record.signed_in(Some(&format!("s{began}")), 1_000 + began, 0);
    }
    assert_eq!(record.sessions.len(), SESSIONS_KEPT);
    assert_eq!(record.judge(&token(Some("s43"), None), 0), Judgement::NeedsSignInProof);
    assert_eq!(record.judge(&token(Some("s44"), None), 0), Judgement::Admitted);
}

#[derive(Debug, Clone)]
enum Step {
    Issuer(IssuerCause, IssuerTime),
    Operator,
    Lift(Lift),
    SignIn(Option<String>, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let time = 0..40_u64;
    let cause = prop_oneof![
        Just(IssuerCause::Disabled),
        Just(IssuerCause::LockedOut),
        Just(IssuerCause::Deleted),
        Just(IssuerCause::NotBefore)
    ];
    let at = (any::<bool>(), time.clone()).prop_map(|(is_exact, ms)| match is_exact {
        true => IssuerTime::At(ms * 500),
        false => IssuerTime::Within(ms * 500 / 1000 * 1000),
    });
    let session = proptest::option::of(time.clone());
    prop_oneof![
        3 => (cause, at).prop_map(|(cause, at)| Step::Issuer(cause, at)),
        1 => Just(Step::Operator),
        3 => (time.clone(), proptest::option::of(time.clone()))
            .prop_map(|(began, enabled)| Step::Lift(by_issuer(began, enabled.map(|ms| ms * 500)))),
        1 => time.clone().prop_map(|now| Step::Lift(by_operator(now * 500))),
        // A session's name tells when it began, so that it always began then.
        4 => (session, time).prop_map(|(session, ms)| match session {
            Some(began) => Step::SignIn(Some(began.to_string()), began * 500),
            None => Step::SignIn(None, ms * 500),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is shown, in whatever order and however often.
    #[test]
    fn nobody_gets_in_but_by_a_sign_in_that_began_after_every_proof(steps in proptest::collection::vec(step(), 1..40)) {
        let mut record = Record::default();
        // No session from before this may ever pass again.
        let mut newest_proof = 0;
        for (known_ms, step) in (0..).zip(steps) {
            let before = record.clone();
            let was = before.state(0);
            match &step {
                Step::Issuer(cause, time) => {
                    record.block_by_issuer(*cause, *time, known_ms);
                    newest_proof = newest_proof.max(time.earliest_ms());
                    prop_assert_eq!(&record.by_operator, &before.by_operator);
                }
                Step::Operator => {
                    record.block_by_operator(act());
                    prop_assert_eq!(record.by_issuer, before.by_issuer);
                }
                Step::Lift(lift) => {
                    record.lift(lift);
                    prop_assert!(was == State::Active || record.state(0) != State::Active, "lifted to active");
                    match lift {
                        Lift::Issuer { .. } => prop_assert_eq!(&record.by_operator, &before.by_operator),
                        Lift::Operator { issuer_now_ms, .. } => {
                            prop_assert_eq!(record.by_issuer, before.by_issuer);
                            if before.by_operator.is_some() {
                                newest_proof = newest_proof.max(*issuer_now_ms);
                            }
                        }
                    }
                }
                Step::SignIn(session, began) => {
                    record.signed_in(session.as_deref(), *began, 0);
                    if was != State::Active && record.state(0) == State::Active {
                        prop_assert!(was == State::AwaitingSignIn && *began >= before.threshold_ms);
                    }
                }
            }
            prop_assert!(record.threshold_ms >= before.threshold_ms, "the threshold fell");
            prop_assert!(record.epoch >= before.epoch && record.seen_ms <= record.threshold_ms);
            let is_out = record.by_issuer.is_some() || record.by_operator.is_some();
            prop_assert!(!is_out || record.sessions.is_empty());
            for began in 0..40_u64 {
                let name = began.to_string();
                let of_session = record.judge(&token(Some(&name), Some(99)), 0);
                let without = record.judge(&token(None, Some(i64::try_from(began / 2).unwrap())), 0);
                if is_out {
                    prop_assert!(matches!(of_session, Judgement::Refused(_)));
                }
                prop_assert!(began * 500 >= newest_proof || of_session != Judgement::Admitted);
                prop_assert!(began / 2 * 1000 >= newest_proof || without != Judgement::Admitted);
            }
        }
    }
}
