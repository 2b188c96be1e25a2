//! From a proof to what is to be stored, and to the decision that is told: reads the memory, changes nothing.

use super::decision::{Decision, Kind, Target};
use super::memory::{ClusterRecord, IssuerRecord, Memory, Refusal, TokenKey, Write};
use super::state::{Effect, LiftEffect, Record, SignInEffect};
use super::terms::{Act, Cause, IssuerClock, IssuerTime, Lift, Proof, State, Tokens, UserId};
use crate::base::clock::Now;
use std::collections::HashMap;
use std::sync::Arc;

/// What is to be done: all of it, or nothing.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What will be known of users.
    records: HashMap<UserId, Record>,
    /// All else.
    other: Vec<Write>,
    /// Each with the moment at which what was decided happened, by our clock.
    decisions: Vec<(Decision, Option<u64>)>,
    /// Whether a token that was admitted may be refused from now on.
    pub(super) moves: bool,
    /// Whether it only ever refuses more: then it is done even if it cannot be stored.
    pub(super) is_against: bool,
    /// Whether others decided it: then it is neither to be shared nor written to the audit log.
    pub(super) is_adopted: bool,
}

impl Plan {
    /// What is known of a user once the plan so far is done.
    fn record(&self, memory: &Memory, user: &UserId) -> Record {
        self.records.get(user).or_else(|| memory.record(user)).cloned().unwrap_or_default()
    }

    fn set_record(&mut self, user: &UserId, record: Record) {
        self.records.insert(user.clone(), record);
    }

    pub(super) fn into_parts(self) -> (Vec<Write>, Vec<(Decision, Option<u64>)>) {
        let users = self.records.into_iter().map(|(user, record)| Write::User(user, record));
        (users.chain(self.other).collect(), self.decisions)
    }

    pub(super) fn decide(&mut self, decision: Decision, happened_ms: Option<u64>) {
        self.decisions.push((decision, happened_ms));
    }

    /// Adds a write, as it is.
    pub(super) fn push(&mut self, write: Write) {
        self.other.push(write);
    }
}

impl Decision {
    pub(super) fn new(kind: Kind, target: Target, cause: Cause, now: Now) -> Self {
        let at_ms = now.unix_ms;
        Self { kind, target, cause, act: None, at_ms, issuer_time_ms: None, delay_ms: None, epoch: 0, state: None }
    }
}

/// The state and epoch of a user once `record` holds.
pub(super) fn after(memory: &Memory, user: &UserId, record: &Record) -> (State, u64) {
    let before = memory.record(user).map_or(0, |before| before.epoch);
    let epoch = memory.epoch(user.issuer(), user.subject()) - before + record.epoch;
    (record.state(memory.floor(user.issuer())), epoch)
}

/// Adds to `plan` what blocking a user takes.
pub(super) fn block(plan: &mut Plan, memory: &Memory, user: &UserId, proof: Proof, now: Now) {
    let mut record = plan.record(memory, user);
    let (effect, cause, act, time, happened_ms) = match proof {
        Proof::Issuer { cause, time, happened_ms } => {
            (record.block_by_issuer(cause, time, now.monotonic_ms), cause.into(), None, Some(time), happened_ms)
        }
        Proof::Operator(act) => (record.block_by_operator(act.clone()), Cause::Operator, Some(act), None, None),
    };
    if effect == Effect::Nothing {
        return;
    }
    if effect == Effect::Decided {
        record.changed_ms = now.unix_ms;
        let (state, epoch) = after(memory, user, &record);
        let decision = Decision::new(Kind::Block, Target::User(user.clone()), cause, now);
        let issuer_time_ms = time.map(IssuerTime::latest_ms);
        plan.decide(Decision { act, issuer_time_ms, epoch, state: Some(state), ..decision }, happened_ms);
        plan.moves = true;
    }
    plan.is_against = true;
    plan.set_record(user, record);
}

pub(super) fn lift(plan: &mut Plan, memory: &Memory, user: &UserId, lift: Lift, now: Now) -> LiftEffect {
    let mut record = plan.record(memory, user);
    let effect = record.lift(&lift);
    if effect == LiftEffect::Lifted {
        record.changed_ms = now.unix_ms;
        let (state, epoch) = after(memory, user, &record);
        let (cause, act, issuer_time_ms) = match lift {
            Lift::Issuer { enabled_ms, .. } => (Cause::Enabled, None, enabled_ms),
            Lift::Operator { act, .. } => (Cause::Operator, Some(act), None),
        };
        let decision = Decision::new(Kind::Lift, Target::User(user.clone()), cause, now);
        plan.decide(Decision { act, issuer_time_ms, epoch, state: Some(state), ..decision }, None);
        plan.set_record(user, record);
    }
    effect
}

pub(super) fn signed_in(
    plan: &mut Plan,
    memory: &Memory,
    user: &UserId,
    session: Option<&str>,
    began_ms: u64,
    now: Now,
) -> SignInEffect {
    let mut record = plan.record(memory, user);
    let effect = record.signed_in(session, began_ms, memory.floor(user.issuer()));
    if effect == SignInEffect::Decided {
        record.changed_ms = now.unix_ms;
        let (state, epoch) = after(memory, user, &record);
        let decision = Decision::new(Kind::SignIn, Target::User(user.clone()), Cause::SignedIn, now);
        let issuer_time_ms = Some(began_ms);
        plan.decide(Decision { issuer_time_ms, epoch, state: Some(state), ..decision }, None);
    }
    if matches!(effect, SignInEffect::Decided | SignInEffect::Noted) {
        plan.set_record(user, record);
    }
    effect
}

/// Some tokens are refused until `until_ms`. `subject`: whose session it is, if that is known.
pub(super) fn refuse(
    plan: &mut Plan,
    memory: &Memory,
    (issuer, tokens, subject): (&Arc<str>, Tokens, Option<String>),
    (cause, act): (Cause, Option<Act>),
    until_ms: u64,
    now: Now,
) {
    let issued_before_ms = match &tokens {
        Tokens::Id(_) | Tokens::Session(_) => 0,
        // 0 would mean "whenever".
        Tokens::User { issued_before_ms, .. } | Tokens::All { issued_before_ms } => (*issued_before_ms).max(1),
    };
    let key = TokenKey::of(issuer, &tokens);
    let mut refusal = Refusal { cause, act: act.clone(), issued_before_ms, until_ms, subject, at_ms: now.unix_ms };
    if let Some(known) = memory.refused(&key) {
        if known.issued_before_ms >= issued_before_ms && known.until_ms >= until_ms {
            return;
        }
        refusal.subject = refusal.subject.or_else(|| known.subject.clone());
        refusal.issued_before_ms = issued_before_ms.max(known.issued_before_ms);
        refusal.until_ms = until_ms.max(known.until_ms);
    }
    plan.other.push(Write::Refuse(key, refusal));
    // What was made for all their sessions, and is bound to none, goes with them.
    match &tokens {
        Tokens::Id(_) | Tokens::Session(_) => {}
        Tokens::User { subject, .. } => {
            if let Some(user) = UserId::new(Arc::clone(issuer), subject.as_str()) {
                let mut record = plan.record(memory, &user);
                record.epoch += 1;
                plan.set_record(&user, record);
            }
        }
        Tokens::All { .. } => {
            let known = memory.issuer(issuer);
            plan.other.push(Write::Issuer(Arc::clone(issuer), IssuerRecord { epoch: known.epoch + 1, ..known }));
        }
    }
    let kind = if act.is_some() { Kind::Revocation } else { Kind::SessionEnd };
    let target = Target::Tokens { issuer: Arc::clone(issuer), tokens };
    plan.decide(Decision { act, ..Decision::new(kind, target, cause, now) }, None);
    (plan.moves, plan.is_against) = (true, true);
}

/// Nothing of one issuer from before a time counts.
pub(super) fn issuer_not_before(plan: &mut Plan, memory: &Memory, issuer: &Arc<str>, time_ms: u64, now: Now) {
    let known = memory.issuer(issuer);
    if time_ms <= known.threshold_ms {
        return;
    }
    let record = IssuerRecord { threshold_ms: time_ms, epoch: known.epoch + 1 };
    plan.other.push(Write::Issuer(Arc::clone(issuer), record));
    let decision = Decision::new(Kind::IssuerNotBefore, Target::Issuer(Arc::clone(issuer)), Cause::NotBefore, now);
    plan.decide(Decision { issuer_time_ms: Some(time_ms), ..decision }, None);
    (plan.moves, plan.is_against) = (true, true);
}

/// Everybody is out: by hand, or, without an act, since a date has passed.
pub(super) fn close_cluster(plan: &mut Plan, memory: &Memory, act: Option<Act>, now: Now) {
    let known = &memory.cluster;
    let is_known = if act.is_some() { known.closed.is_some() } else { known.is_expired };
    if is_known {
        return;
    }
    let mut record = ClusterRecord { epoch: known.epoch + 1, ..known.clone() };
    let cause = match &act {
        Some(act) => {
            record.closed = Some(act.clone());
            Cause::ClusterClosed
        }
        None => {
            record.is_expired = true;
            Cause::ClusterExpired
        }
    };
    plan.other.push(Write::Cluster(record));
    plan.decide(Decision { act, ..Decision::new(Kind::ClusterClosed, Target::Cluster, cause, now) }, None);
    (plan.moves, plan.is_against) = (true, true);
}

/// One of the two reasons is gone; everybody has to sign in again.
pub(super) fn open_cluster(plan: &mut Plan, memory: &Memory, act: Option<Act>, clocks: &[IssuerClock<'_>], now: Now) {
    let known = &memory.cluster;
    let is_closed = if act.is_some() { known.closed.is_some() } else { known.is_expired };
    if !is_closed {
        return;
    }
    let mut record = known.clone();
    let cause = if act.is_some() {
        record.closed = None;
        Cause::ClusterClosed
    } else {
        record.is_expired = false;
        Cause::ClusterExpired
    };
    // For issuers whose clock nobody knows: ours, rounded up.
    record.threshold_ms = record.threshold_ms.max(now.unix_ms.saturating_add(1000));
    let threshold = record.threshold_ms;
    let unnamed = memory.issuers.keys().filter(|issuer| clocks.iter().all(|clock| *clock.issuer != ***issuer));
    let unnamed = unnamed.map(|issuer| (Arc::clone(issuer), threshold));
    for (issuer, at_ms) in clocks.iter().map(|clock| (Arc::from(clock.issuer), clock.now_ms)).chain(unnamed) {
        let known = memory.issuer(&issuer);
        let record = IssuerRecord { threshold_ms: known.threshold_ms.max(at_ms), ..known };
        plan.other.push(Write::Issuer(issuer, record));
    }
    plan.other.push(Write::Cluster(record));
    plan.decide(Decision { act, ..Decision::new(Kind::ClusterOpened, Target::Cluster, cause, now) }, None);
    // From now on each session has to be proven.
    plan.moves = true;
}

/// How long a removed user is remembered. Nothing that was theirs lives longer.
const REMOVED_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Forgets what can no longer concern any token.
pub(super) fn sweep(plan: &mut Plan, memory: &Memory, now: Now) {
    for (key, refusal) in memory.refusals() {
        if refusal.until_ms <= now.unix_ms {
            plan.other.push(Write::Accept(key));
        }
    }
    for (user, record) in memory.users() {
        if is_forgotten(record, now) {
            plan.other.push(Write::ForgetUser(user));
        }
    }
}

/// Whether a record is of a user who was removed so long ago that nothing of theirs is left.
pub(super) fn is_forgotten(record: &Record, now: Now) -> bool {
    let is_removed = record.state(0) == State::Removed && record.by_operator.is_none();
    is_removed && record.changed_ms.saturating_add(REMOVED_KEPT_MS) <= now.unix_ms
}
