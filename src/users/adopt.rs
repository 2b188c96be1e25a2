//! What others decided is taken over: stored and remembered as if it had been decided here, and told, but not written to the audit
//! log, where who decided it has it.

use super::Users;
use super::decide::{self, Plan};
use super::decision::{Decision, Kind, Target};
use super::memory::{By, ClusterRecord, Memory, Refusal, TokenKey, Write};
use super::share::{Key, ShareError, Value, merged, read};
use super::state::Record;
use super::terms::{Act, Cause, State, Tokens, UserId};
use crate::base::clock::Now;
use std::sync::Arc;

/// What came of adopting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Keys about which more or something else is known now.
    pub changed: usize,
    /// Keys under which somebody put back what was there before. What is known here is to be put again.
    pub repaired: usize,
}

impl Users {
    /// Takes over what stands under keys. A key that was decided about here, and is not shared yet, is merged and stays to be shared.
    ///
    /// # Errors
    /// A value that cannot be read: the others are adopted nevertheless. That something cannot be stored: it holds nevertheless.
    pub fn adopt(&self, found: &[(String, Vec<u8>)]) -> Result<Adopted, ShareError> {
        let mut unreadable = None;
        let mut values = Vec::with_capacity(found.len());
        for (key, bytes) in found {
            match read(key, bytes) {
                Ok(value) => values.push(value),
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        let (adopted, _) = self.change(|plan, memory, now| {
            let mut adopted = Adopted::default();
            (plan.moves, plan.is_against, plan.is_adopted) = (false, true, true);
            for (key, value) in values {
                adopt(plan, memory, (key, value), &mut adopted, now);
            }
            plan.moves = adopted.changed > 0;
            adopted
        })?;
        if adopted.repaired > 0 {
            self.outbox_moved();
        }
        unreadable.map_or(Ok(adopted), Err)
    }

    /// These keys are not there any more, and nobody decided that: what is known of them, and still matters, is to be put again.
    /// Gives how many.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn restore(&self, gone: &[String]) -> Result<usize, ShareError> {
        let (count, _) = self.change(|plan, memory, now| {
            (plan.moves, plan.is_against, plan.is_adopted) = (false, true, true);
            let Some(outbox) = memory.outbox() else { return 0 };
            let mut count = 0;
            for key in gone {
                let known = match outbox.get(key) {
                    Some(unshared) => Some(unshared.key.clone()),
                    None => memory.key_of(key),
                };
                let Some(key) = known else { continue };
                let Some(value) = memory.value(&key).filter(|value| !is_over(value, now)) else { continue };
                // What another replica puts meanwhile comes from the same, unless it is less.
                plan.push(Write::Unshared(key, Some(value)));
                count += 1;
            }
            count
        })?;
        if count > 0 {
            self.outbox_moved();
        }
        Ok(count)
    }

    /// What stood under these keys until now may be lost where it was shared, though it was there. It counts as not shared, with what
    /// stood there before as what all started from. To be called before what stands there now is adopted.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn doubt(&self, before: &[(String, Option<Vec<u8>>)]) -> Result<(), ShareError> {
        self.change(|plan, memory, _| {
            (plan.moves, plan.is_against, plan.is_adopted) = (false, true, true);
            let Some(outbox) = memory.outbox() else { return };
            // What waits there began no later.
            for (text, base) in before.iter().filter(|(text, _)| !outbox.contains_key(text)) {
                let Some(key) = memory.key_of(text).filter(|key| memory.value(key).is_some()) else { continue };
                let base = base.as_deref().and_then(|bytes| read(text, bytes).ok());
                plan.push(Write::Unshared(key, base.map(|(_, value)| value)));
            }
        })?;
        self.outbox_moved();
        Ok(())
    }

    /// Whether a value that is shared concerns nobody any more, so that it may be removed for all. Later than each replica forgets it.
    pub fn is_over(&self, key: &str, bytes: &[u8]) -> bool {
        let mut now = self.clock.now();
        now.unix_ms = now.unix_ms.saturating_sub(REMOVED_LATER_MS);
        read(key, bytes).is_ok_and(|(_, value)| is_over(&value, now))
    }
}

/// How long after all have forgotten it something is removed from what is shared: longer than clocks differ.
const REMOVED_LATER_MS: u64 = 60 * 60 * 1000;

fn is_over(value: &Value, now: Now) -> bool {
    match value {
        Value::User(record) => decide::is_forgotten(record, now),
        Value::Refusal(refusal) => refusal.until_ms <= now.unix_ms,
        Value::Issuer(_) | Value::Cluster(_) => false,
    }
}

fn adopt(plan: &mut Plan, memory: &Memory, (key, found): (Key, Value), adopted: &mut Adopted, now: Now) {
    let before = memory.value(&key);
    let unshared = memory.outbox().and_then(|outbox| outbox.get(&key.text()));
    let after = match (unshared, &before) {
        (Some(unshared), Some(mine)) => {
            let after = merged(unshared.ancestor(Some(&found)), Some(&found), mine);
            if after == found {
                plan.push(Write::Shared(key.clone()));
            } else if unshared.base.as_ref() != Some(&found) {
                plan.push(Write::Unshared(key.clone(), Some(found)));
            }
            after
        }
        (Some(_), None) => {
            plan.push(Write::Shared(key.clone()));
            found
        }
        (None, Some(mine)) if !found.may_follow(mine) => {
            plan.push(Write::Unshared(key, Some(found)));
            adopted.repaired += 1;
            return;
        }
        (None, None) if is_over(&found, now) => return,
        (None, _) => found,
    };
    if before.as_ref() == Some(&after) {
        return;
    }
    adopted.changed += 1;
    match (key, after, before) {
        (Key::User(user), Value::User(mut after), _) => {
            if after.by_issuer.is_some() {
                // A read that began before this came in does not lift it.
                after.proof_known_ms = now.monotonic_ms;
            }
            let before = memory.record(&user).cloned().unwrap_or_default();
            tell_user(plan, memory, &user, &before, &after, now);
            plan.push(Write::User(user, after));
        }
        (Key::Tokens(key), Value::Refusal(after), _) => {
            tell_refusal(plan, &key, &after, now);
            plan.push(Write::Refuse(key, after));
        }
        (Key::Issuer(issuer), Value::Issuer(after), _) => {
            if after.threshold_ms > memory.issuer(&issuer).threshold_ms {
                let target = Target::Issuer(Arc::clone(&issuer));
                let decision = Decision::new(Kind::IssuerNotBefore, target, Cause::NotBefore, now);
                plan.decide(Decision { issuer_time_ms: Some(after.threshold_ms), ..decision }, None);
            }
            plan.push(Write::Issuer(issuer, after));
        }
        (Key::Cluster, Value::Cluster(after), _) => {
            tell_cluster(plan, &memory.cluster, &after, now);
            plan.push(Write::Cluster(after));
        }
        _ => {}
    }
}

/// What a change of a record amounts to, in the words in which it is decided.
fn tell_user(plan: &mut Plan, memory: &Memory, user: &UserId, before: &Record, after: &Record, now: Now) {
    let floor = memory.floor(user.issuer());
    let (was, is) = (before.state(floor), after.state(floor));
    let (state, epoch) = decide::after(memory, user, after);
    let mut tell = |kind, cause, act: Option<&Act>, issuer_time_ms| {
        let decision = Decision::new(kind, Target::User(user.clone()), cause, now);
        plan.decide(Decision { act: act.cloned(), issuer_time_ms, epoch, state: Some(state), ..decision }, None);
    };
    let mut is_told = false;
    if let Some(cause) = after.by_issuer.filter(|_| after.by_issuer != before.by_issuer) {
        tell(Kind::Block, cause, None, None);
        is_told = true;
    }
    if after.by_operator.is_some() && before.by_operator.is_none() {
        tell(Kind::Block, Cause::Operator, after.by_operator.as_ref(), None);
        is_told = true;
    }
    // Out and in again before it was heard of, or shut out without a block.
    let was_out = after.epoch > before.epoch && after.changed_ms != before.changed_ms;
    if !is_told && was == State::Active && (was_out || is == State::AwaitingSignIn) {
        tell(Kind::Block, Cause::NotBefore, None, Some(after.threshold_ms));
    }
    if before.by_issuer.is_some() && after.by_issuer.is_none() {
        tell(Kind::Lift, Cause::Enabled, None, None);
    }
    if before.by_operator.is_some() && after.by_operator.is_none() {
        tell(Kind::Lift, Cause::Operator, None, None);
    }
    if is == State::Active && (was != State::Active || was_out) {
        tell(Kind::SignIn, Cause::SignedIn, None, Some(after.signed_in_ms));
    }
}

fn tell_refusal(plan: &mut Plan, key: &TokenKey, refusal: &Refusal, now: Now) {
    let issued_before_ms = refusal.issued_before_ms;
    let tokens = match key.by {
        By::Id => Tokens::Id(key.id.to_string()),
        By::Session => Tokens::Session(key.id.to_string()),
        By::User => Tokens::User { subject: key.id.to_string(), issued_before_ms },
        By::All => Tokens::All { issued_before_ms },
    };
    let kind = if refusal.act.is_some() { Kind::Revocation } else { Kind::SessionEnd };
    let target = Target::Tokens { issuer: Arc::clone(&key.issuer), tokens };
    plan.decide(Decision { act: refusal.act.clone(), ..Decision::new(kind, target, refusal.cause, now) }, None);
}

fn tell_cluster(plan: &mut Plan, before: &ClusterRecord, after: &ClusterRecord, now: Now) {
    let reasons = [
        (Cause::ClusterClosed, before.closed.is_some(), after.closed.is_some()),
        (Cause::ClusterExpired, before.is_expired, after.is_expired),
    ];
    for (cause, was, is) in reasons.into_iter().filter(|(_, was, is)| was != is) {
        let kind = if is { Kind::ClusterClosed } else { Kind::ClusterOpened };
        let act = after.closed.clone().filter(|_| is && !was && cause == Cause::ClusterClosed);
        plan.decide(Decision { act, ..Decision::new(kind, Target::Cluster, cause, now) }, None);
    }
}
