//! Replicas that decide at the same time, in any order: what always holds of what they agree on.

use super::super::merge;
use super::super::state::*;
use super::super::terms::*;
use super::act;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What a replica does.
#[derive(Debug, Clone)]
enum Step {
    Issuer(IssuerCause, IssuerTime),
    Operator,
    LiftIssuer(Option<u64>),
    LiftOperator(u64),
    SignIn(Option<u8>, u64),
    /// What was made for all sessions is taken back.
    Revoke,
    Mint,
    Push,
    Pull,
}

/// A record, and by what it came about.
#[derive(Debug, Clone, Default)]
struct Known {
    record: Record,
    issuer: BTreeSet<usize>,
    operator: BTreeSet<usize>,
    /// Those of both that were lifted knowingly.
    lifted: BTreeSet<usize>,
    /// Whatever voids what was made before.
    shuts: BTreeSet<usize>,
}

#[derive(Debug, Clone, Default)]
struct Replica {
    base: Record,
    mine: Known,
}

struct Token {
    epoch: u64,
    known: BTreeSet<usize>,
}

fn is_active(record: &Record) -> bool {
    record.state(0) == State::Active
}

impl Known {
    fn decide(&mut self, step: &Step, number: usize) {
        let before = self.record.clone();
        // What the issuer says is the same, whoever hears it.
        let number = if let Step::Issuer(cause, time) = step { heard(*cause, *time) } else { number };
        match step {
            Step::Issuer(cause, time) => {
                self.record.block_by_issuer(*cause, *time, 1);
                // By a clock of this process, of which others learn nothing.
                self.record.proof_known_ms = 0;
                if *cause != IssuerCause::NotBefore && self.record != before {
                    self.issuer.insert(number);
                }
            }
            Step::Operator => {
                let act = Act { reason: number.to_string(), ..act() };
                if self.record.block_by_operator(act) == Effect::Decided {
                    self.operator.insert(number);
                }
            }
            Step::LiftIssuer(enabled_ms) => {
                let lift = Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: *enabled_ms };
                if self.record.lift(&lift) == LiftEffect::Lifted {
                    self.lifted.extend(&self.issuer);
                }
            }
            Step::LiftOperator(issuer_now_ms) => {
                let lift = Lift::Operator { act: act(), issuer_now_ms: *issuer_now_ms };
                if self.record.lift(&lift) == LiftEffect::Lifted {
                    self.lifted.extend(&self.operator);
                }
            }
            Step::SignIn(session, began_ms) => {
                let session = session.map(|name| name.to_string());
                self.record.signed_in(session.as_deref(), *began_ms, 0);
            }
            Step::Revoke => self.record.epoch += 1,
            Step::Mint | Step::Push | Step::Pull => {}
        }
        if self.record.epoch > before.epoch {
            self.shuts.insert(number);
        }
        if self.record != before {
            self.record.changed_ms = before.changed_ms + 1 + number as u64 % 2;
        }
    }
}

fn heard(cause: IssuerCause, time: IssuerTime) -> usize {
    let time = time.earliest_ms() * 2 + u64::from(matches!(time, IssuerTime::At(_)));
    1_000 + usize::try_from(time).unwrap() * 8 + cause as usize
}

/// Whether what was [`heard`] is an event of before the last that is known.
fn is_before(number: usize, record: &Record) -> bool {
    let time = (number - 1_000) / 8;
    let (ms, is_exact) = (time as u64 / 2, time % 2 == 1);
    is_exact && ms.max(1) <= record.seen_ms
}

/// As well, and one that can be told late: a deletion always counts, unless one is known.
fn is_told_late(number: usize, record: &Record) -> bool {
    (number - 1_000) % 8 != IssuerCause::Deleted as usize && is_before(number, record)
}

/// Holds a merge against all that has to hold of it.
fn merged(base: &Record, found: &Known, mine: &Known) -> Result<Known, TestCaseError> {
    let record = merge::user(base, &found.record, &mine.record);
    let union = |a: &BTreeSet<usize>, b: &BTreeSet<usize>| -> BTreeSet<usize> { a.union(b).copied().collect() };
    let (issuer, operator) = (union(&found.issuer, &mine.issuer), union(&found.operator, &mine.operator));
    let mut lifted = union(&found.lifted, &mine.lifted);
    // A further deletion of who was known to be deleted is told late as any other event.
    let was_deleted = base.by_issuer == Some(Cause::Deleted);
    let late = |lifter: &Known, other: &Known| -> Vec<usize> {
        let is_late = |number| is_told_late(number, &lifter.record) || was_deleted && is_before(number, &lifter.record);
        other.issuer.difference(&lifter.issuer).copied().filter(|number| is_late(*number)).collect()
    };
    if found.record.by_issuer.is_none() {
        lifted.extend(late(found, mine));
    }
    if mine.record.by_issuer.is_none()
        && found.record == (Record { changed_ms: found.record.changed_ms, ..base.clone() })
    {
        // What came to it since changed nothing: it was lifted on the same.
        lifted.extend(late(mine, found));
    }
    prop_assert!(record.by_issuer.is_some() || issuer.is_subset(&lifted), "let in against the issuer");
    prop_assert!(record.by_operator.is_some() || operator.is_subset(&lifted), "let in against an operator");
    for one in [&found.record, &mine.record] {
        prop_assert!(record.epoch >= one.epoch && record.threshold_ms >= one.threshold_ms, "something fell");
    }
    prop_assert!(record.seen_ms <= record.threshold_ms);
    prop_assert!(!is_active(&record) || is_active(&found.record) || is_active(&mine.record), "nobody let them in");
    let is_out = record.by_issuer.is_some() || record.by_operator.is_some();
    for session in &record.sessions {
        prop_assert!(!is_out && session.began_ms >= record.threshold_ms);
        prop_assert!(found.record.sessions.contains(session) || mine.record.sessions.contains(session));
    }
    // What is answered once and not heard is asked again.
    let again = merge::user(base, &record, &mine.record);
    if mine.record.epoch > base.epoch || is_out {
        prop_assert_eq!(&Record { epoch: record.epoch, ..again }, &record);
    } else {
        prop_assert_eq!(&again, &record);
    }
    // A lift that was dropped lifted nothing that the other one knew of.
    let is_dropped = |number: &usize| {
        (record.by_issuer.is_some() && found.issuer.contains(number))
            || (record.by_operator.is_some() && found.operator.contains(number))
    };
    let lifted = lifted.into_iter().filter(|number| found.lifted.contains(number) || !is_dropped(number)).collect();
    // An event that was told late shut nobody out who was not out before.
    let is_late = record == found.record && mine.record.is_event && mine.record.epoch == base.epoch + 1;
    let shuts = if is_late { found.shuts.clone() } else { union(&found.shuts, &mine.shuts) };
    Ok(Known { record, issuer, operator, lifted, shuts })
}

fn check_tokens(known: &Known, tokens: &[Token]) -> Result<(), TestCaseError> {
    for token in tokens {
        let counts = token.epoch == known.record.epoch && is_active(&known.record);
        // Before the two have heard of each other, their epochs may be the same by chance.
        let is_older = token.known.is_subset(&known.shuts) && token.known != known.shuts;
        prop_assert!(!counts || !is_older, "a token outlives what voids it");
    }
    Ok(())
}

fn push(replica: &mut Replica, shared: &mut Known) -> Result<(), TestCaseError> {
    if replica.mine.record != replica.base {
        *shared = merged(&replica.base, shared, &replica.mine)?;
    }
    replica.mine = shared.clone();
    replica.base = shared.record.clone();
    Ok(())
}

fn pull(replica: &mut Replica, shared: &Known) -> Result<(), TestCaseError> {
    replica.mine = merged(&replica.base, shared, &replica.mine)?;
    replica.base = shared.record.clone();
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    let time = || (0..40_u64).prop_map(|half| half * 500);
    let cause = prop_oneof![
        Just(IssuerCause::Disabled),
        Just(IssuerCause::Disabled),
        Just(IssuerCause::Deleted),
        Just(IssuerCause::NotBefore)
    ];
    let moment = (any::<bool>(), time()).prop_map(
        |(is_exact, ms)| {
            if is_exact { IssuerTime::At(ms) } else { IssuerTime::Within(ms) }
        },
    );
    prop_oneof![
        2 => (cause, moment).prop_map(|(cause, time)| Step::Issuer(cause, time)),
        1 => Just(Step::Operator),
        2 => proptest::option::of(time()).prop_map(Step::LiftIssuer),
        1 => time().prop_map(Step::LiftOperator),
        3 => (proptest::option::of(0..4_u8), time()).prop_map(|(session, began)| Step::SignIn(session, began)),
        1 => Just(Step::Revoke),
        2 => Just(Step::Mint),
        2 => Just(Step::Push),
        2 => Just(Step::Pull),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree_and_whoever_is_against_the_user_wins(
        count in 2..4_usize,
        steps in prop::collection::vec((0..3_usize, step()), 1..40),
    ) {
        let mut shared = Known::default();
        let mut replicas = vec![Replica::default(); count];
        let mut tokens = Vec::new();
        for (number, (who, step)) in steps.iter().enumerate() {
            let replica = &mut replicas[who % count];
            match step {
                Step::Push => push(replica, &mut shared)?,
                Step::Pull => pull(replica, &shared)?,
                Step::Mint if is_active(&replica.mine.record) => {
                    let Known { record, shuts, .. } = &replica.mine;
                    tokens.push(Token { epoch: record.epoch, known: shuts.clone() });
                }
                decided => replica.mine.decide(decided, number),
            }
            let replica = &replicas[who % count];
            check_tokens(&replica.mine, &tokens)?;
            check_tokens(&shared, &tokens)?;
        }
        for _ in 0..2 {
            for replica in &mut replicas {
                push(replica, &mut shared)?;
                check_tokens(&shared, &tokens)?;
            }
        }
        for replica in &replicas {
            prop_assert_eq!(&replica.mine.record, &shared.record);
        }
    }
}

fn blocked() -> Record {
    let mut record = Record::default();
    assert_eq!(record.block_by_issuer(IssuerCause::Disabled, IssuerTime::At(10_000), 0), Effect::Decided);
    record
}

fn lifted(mut record: Record, enabled_ms: u64) -> Record {
    let lift = Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: Some(enabled_ms) };
    assert_eq!(record.lift(&lift), LiftEffect::Lifted);
    record
}

fn signed_in(mut record: Record, session: &str, began_ms: u64) -> Record {
    assert_ne!(record.signed_in(Some(session), began_ms, 0), SignInEffect::Nothing);
    record
}

#[test]
fn a_lift_holds_on_what_it_was_decided_on_and_on_nothing_else() {
    let base = blocked();
    let mine = lifted(base.clone(), 20_000);
    assert_eq!(merge::user(&base, &base, &mine), mine);
    // Another replica saw the user disabled once more.
    let mut found = base.clone();
    found.block_by_issuer(IssuerCause::Disabled, IssuerTime::At(30_000), 0);
    let merged = merge::user(&base, &found, &mine);
    assert_eq!((merged.state(0), merged.threshold_ms), (State::Blocked, 30_000));
    // And the other way round: who saw it comes second.
    let merged = merge::user(&base, &mine, &found);
    assert_eq!((merged.state(0), merged.threshold_ms), (State::Blocked, 30_000));
}

#[test]
fn a_block_by_one_and_a_sign_in_by_another_is_a_block() {
    let base = lifted(blocked(), 20_000);
    let active = signed_in(base.clone(), "s", 25_000);
    let mut out = base.clone();
    out.block_by_operator(act());
    for (found, mine) in [(&active, &out), (&out, &active)] {
        let merged = merge::user(&base, found, mine);
        assert_eq!((merged.state(0), merged.sessions.len()), (State::Blocked, 0));
        assert!(merged.epoch > active.epoch);
    }
}

#[test]
fn two_who_saw_the_same_write_nothing_new() {
    let base = Record::default();
    let found = Record { changed_ms: 1, ..blocked() };
    let merged = merge::user(&base, &found, &Record { changed_ms: 2, ..blocked() });
    assert_eq!(Record { changed_ms: 1, ..merged }, found);
    let base = found;
    let (found, mine) = (lifted(base.clone(), 20_000), lifted(base.clone(), 20_000));
    let (found, mine) = (signed_in(found, "a", 21_000), signed_in(mine, "b", 22_000));
    let merged = merge::user(&base, &found, &mine);
    let sessions: Vec<_> = merged.sessions.iter().map(|known| &*known.session).collect();
    assert_eq!((merged.state(0), merged.epoch, sessions), (State::Active, 1, vec!["b", "a"]));
}

#[test]
fn who_is_deleted_stays_so_whatever_else_is_said() {
    let mut deleted = Record::default();
    deleted.block_by_issuer(IssuerCause::Deleted, IssuerTime::At(5_000), 0);
    for (found, mine) in [(deleted.clone(), blocked()), (blocked(), deleted)] {
        assert_eq!(merge::user(&Record::default(), &found, &mine).state(0), State::Removed);
    }
}
