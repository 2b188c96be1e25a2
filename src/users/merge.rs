//! Two replicas decided about the same: what holds. Each is a function of three values: the last that both knew (`base`), what the
//! other one put since (`found`), and what was decided here (`mine`).
//!
//! Whoever is against the user wins. What lets somebody in (a lift, a sign-in) holds only if what was against the user is still what
//! it was decided on; else it is dropped, and has to be shown anew. Thresholds and epochs only grow. Nothing here needs a clock.

use super::memory::{ClusterRecord, IssuerRecord, Refusal};
use super::state::{Record, SESSIONS_KEPT, Shown};
use super::terms::{Cause, State};

/// What is known about one user.
pub(super) fn user(base: &Record, found: &Record, mine: &Record) -> Record {
    // With an epoch of their own each may have voided what the other one did not know of, even if they look alike.
    if mine == base || (mine == found && mine.epoch == base.epoch) {
        return found.clone();
    }
    if found == base {
        return mine.clone();
    }
    if against(found) == against(base) {
        decided_here(base, found, mine)
    } else if against(found) == against(mine) && mine.epoch == base.epoch {
        // The same lift, or the same proof once more, which both saw.
        with_sessions(found.clone(), mine)
    } else {
        decided_there(base, found, mine)
    }
}

/// What of a record speaks against its user.
type Against<'a> = (Option<Cause>, Option<(&'a str, &'a str)>, u64, u64, Option<Shown>, u64);

fn against(record: &Record) -> Against<'_> {
    let operator = record.by_operator.as_ref().map(|act| (act.by.as_str(), act.reason.as_str()));
    (record.by_issuer, operator, record.threshold_ms, record.seen_ms, record.shown, record.epoch)
}

fn is_blocked(record: &Record) -> bool {
    record.by_issuer.is_some() || record.by_operator.is_some()
}

/// Others showed sessions at most, so what was decided here was decided on what still holds.
fn decided_here(base: &Record, found: &Record, mine: &Record) -> Record {
    if mine.epoch == base.epoch {
        return with_sessions(mine.clone(), found);
    }
    // Shut out here, by who did not know of that sign-in.
    let mut merged = mine.clone();
    if found.signed_in_ms > base.signed_in_ms {
        merged.threshold_ms = merged.threshold_ms.max(found.signed_in_ms.saturating_add(1));
    }
    settle(&mut merged, base, found, mine);
    merged
}

/// Something against the user was changed elsewhere. What is against them here is joined to it, and no more.
fn decided_there(base: &Record, found: &Record, mine: &Record) -> Record {
    if is_behind(base, found, mine) {
        return found.clone();
    }
    let mut merged = found.clone();
    if mine.by_operator.is_some() && merged.by_operator.is_none() && has_news_of_operator(base, mine) {
        merged.by_operator.clone_from(&mine.by_operator);
    }
    if mine.by_issuer.is_some() && has_news_of_issuer(base, mine) {
        merged.by_issuer = match (found.by_issuer, mine.by_issuer) {
            (_, Some(Cause::Deleted)) | (None, _) => mine.by_issuer,
            (known, _) => known,
        };
        merged.shown = join_shown(found.shown, mine.shown);
    }
    merged.threshold_ms = found.threshold_ms.max(mine.threshold_ms);
    // As in one place: whoever signed in before a block has to do so again, whatever the clocks say.
    if mine.epoch > base.epoch && found.signed_in_ms > base.signed_in_ms {
        let is_known = mine.signed_in_ms >= found.signed_in_ms;
        let after = if is_known { 0 } else { found.signed_in_ms.saturating_add(1) };
        merged.threshold_ms = merged.threshold_ms.max(after);
    }
    merged.seen_ms = found.seen_ms.max(mine.seen_ms).min(merged.threshold_ms);
    merged.changed_ms = found.changed_ms.max(mine.changed_ms);
    merged.is_event = found.is_event && mine.is_event;
    settle(&mut merged, base, found, mine);
    // A block that adds nothing leaves a trace nevertheless, so that a lift by who does not know of it does not hold.
    let by_operator = mine.by_operator.is_some() && has_news_of_operator(base, mine);
    let by_issuer = mine.by_issuer.is_some() && has_news_of_issuer(base, mine);
    let is_another_act = found.by_operator != mine.by_operator || mine.epoch > base.epoch;
    let is_hidden = (by_operator && found.by_operator.is_some() && is_another_act)
        || (by_issuer && proof(&merged) == proof(found) && proof(found) != proof(mine));
    merged.epoch += u64::from(is_hidden);
    // What was shown here was shown on all that holds.
    if against(&merged) == against(mine) && mine.epoch == base.epoch { with_sessions(merged, mine) } else { merged }
}

/// Whether all that came to be against the user here is an event that is known there, with what came of it: told late, to a replica that
/// was away. As in one place, where an event up to `seen_ms` is no news.
fn is_behind(base: &Record, found: &Record, mine: &Record) -> bool {
    let by_operator = mine.by_operator.is_some() && has_news_of_operator(base, mine);
    let is_deleted = mine.by_issuer == Some(Cause::Deleted) && found.by_issuer != mine.by_issuer;
    // It is the one thing that shut them out here.
    mine.is_event
        && mine.epoch == base.epoch + 1
        && !(by_operator || is_deleted)
        && mine.seen_ms > base.seen_ms
        && mine.seen_ms <= found.seen_ms
        && mine.threshold_ms <= found.threshold_ms
        && mine.epoch <= found.epoch
}

fn has_news_of_operator(base: &Record, mine: &Record) -> bool {
    // With a further block in between, the same words may be another act.
    mine.by_operator != base.by_operator || mine.epoch > base.epoch
}

fn proof(record: &Record) -> (Option<Cause>, u64, u64, Option<Shown>) {
    (record.by_issuer, record.threshold_ms, record.seen_ms, record.shown)
}

fn has_news_of_issuer(base: &Record, mine: &Record) -> bool {
    mine.epoch > base.epoch || proof(mine) != proof(base)
}

fn join_shown(found: Option<Shown>, mine: Option<Shown>) -> Option<Shown> {
    let (Some(a), Some(b)) = (found, mine) else { return found.or(mine) };
    Some(Shown {
        earliest_ms: a.earliest_ms.max(b.earliest_ms),
        latest_ms: a.latest_ms.max(b.latest_ms),
        is_told: a.is_told && b.is_told,
    })
}

/// The epoch after a merge, and the sign-ins that still count.
fn settle(merged: &mut Record, base: &Record, found: &Record, mine: &Record) {
    if is_blocked(merged) {
        merged.sessions.clear();
        merged.signed_in_ms = 0;
    } else {
        let threshold_ms = merged.threshold_ms;
        merged.sessions.retain(|session| session.began_ms >= threshold_ms);
    }
    // What was made for an active user dies with an epoch. Where `found` is known the user may have signed in by now, and something
    // was made that does not know of who was shut out here. But for those blocked alike: all heard of the same, as is usual.
    let is_active = |record: &Record| record.state(0) == State::Active;
    let is_shut_out = |record: &Record| is_active(record) && !is_active(merged);
    let is_the_same = is_blocked(found) && against(found) == against(mine);
    let is_newly_out = is_blocked(merged) && !is_blocked(found) || mine.epoch > base.epoch && !is_the_same;
    let beyond_found = found.epoch + u64::from(is_newly_out || is_shut_out(found));
    let mut epoch = beyond_found.max(mine.epoch + u64::from(is_shut_out(mine)));
    let both = mine.epoch > base.epoch && found.epoch > base.epoch;
    if both && is_active(merged) {
        // Each voided only what it knew of.
        epoch = epoch.max(found.epoch + 1).max(mine.epoch + 1);
    }
    merged.epoch = epoch;
}

/// Adds the sessions that `other` was shown, on the same grounds.
fn with_sessions(mut merged: Record, other: &Record) -> Record {
    merged.changed_ms = merged.changed_ms.max(other.changed_ms);
    if is_blocked(&merged) {
        return merged;
    }
    merged.signed_in_ms = merged.signed_in_ms.max(other.signed_in_ms);
    for shown in &other.sessions {
        if merged.sessions.iter().all(|known| known.session != shown.session) {
            merged.sessions.push(shown.clone());
        }
    }
    merged.sessions.retain(|session| session.began_ms >= merged.threshold_ms);
    // In an order that is the same wherever they are put together.
    merged.sessions.sort_by(|a, b| (b.began_ms, &b.session).cmp(&(a.began_ms, &a.session)));
    merged.sessions.truncate(SESSIONS_KEPT);
    merged
}

/// Tokens that are refused: of both the longer and the further.
pub(super) fn refusal(found: &Refusal, mine: &Refusal) -> Refusal {
    // 0 is "whenever issued".
    let is_any = found.issued_before_ms == 0 || mine.issued_before_ms == 0;
    let later = found.issued_before_ms.max(mine.issued_before_ms);
    Refusal {
        issued_before_ms: if is_any { 0 } else { later },
        until_ms: found.until_ms.max(mine.until_ms),
        subject: found.subject.clone().or_else(|| mine.subject.clone()),
        ..found.clone()
    }
}

/// What holds for everybody of an issuer.
pub(super) fn issuer(base: IssuerRecord, found: IssuerRecord, mine: IssuerRecord) -> IssuerRecord {
    if mine == base || mine == found {
        return found;
    }
    if found == base {
        return mine;
    }
    let threshold_ms = found.threshold_ms.max(mine.threshold_ms);
    let is_behind = |record: IssuerRecord| u64::from(record.threshold_ms < threshold_ms);
    let mut epoch = (found.epoch + is_behind(found)).max(mine.epoch + is_behind(mine));
    let both = found.epoch > base.epoch && mine.epoch > base.epoch;
    // The same time, told to both, is one. Tokens taken back twice are two.
    if both && threshold_ms == base.threshold_ms {
        epoch = found.epoch.max(mine.epoch) + 1;
    }
    IssuerRecord { threshold_ms, epoch }
}

/// What holds for everybody.
pub(super) fn cluster(base: &ClusterRecord, found: &ClusterRecord, mine: &ClusterRecord) -> ClusterRecord {
    if mine == base || mine == found {
        return found.clone();
    }
    if found == base {
        return mine.clone();
    }
    let mut merged = found.clone();
    let is_news = mine.epoch > base.epoch;
    if mine.closed.is_some() && merged.closed.is_none() && (is_news || mine.closed != base.closed) {
        merged.closed.clone_from(&mine.closed);
    }
    merged.is_expired |= mine.is_expired && (is_news || !base.is_expired);
    merged.threshold_ms = found.threshold_ms.max(mine.threshold_ms);
    let is_open = |record: &ClusterRecord| record.closed.is_none() && !record.is_expired;
    let is_shut = |record: &ClusterRecord| {
        let is_behind = !is_open(&merged) || record.threshold_ms < merged.threshold_ms;
        u64::from(is_open(record) && is_behind)
    };
    merged.epoch = (found.epoch + is_shut(found)).max(mine.epoch + is_shut(mine));
    merged
}
