//! Who of several replicas leads: a Lease of `coordination.k8s.io/v1`, renewed while we live.
//!
//! Nobody's wall clock counts. A holder is taken for gone when this replica has *observed* no renewal for the term of the Lease, by its
//! own monotonic clock; and a leader believes in itself for less than a term from the moment before it *sent* its last renewal. So two
//! replicas never lead at once, however wrong their clocks are, as long as those run at about the same speed.
//!
//! A leader that was paused may still write once, after its check: so leadership only saves work, and what must not happen twice is
//! held by the `resourceVersion` of each write.

mod run;

pub use run::Elector;

use crate::base::clock::Now;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use std::time::Duration;
use tokio::sync::watch;

/// How long a Lease is good for. Together with [`Terms::look_every`] it bounds a takeover: observed up to one look late, over one term
/// later, taken by the next look.
const TERM: Duration = Duration::from_secs(10);

/// How long before that a leader stops to believe in itself.
const MARGIN: Duration = Duration::from_secs(2);

/// How often a leader renews.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How often others look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// No term that stands in a Lease is waited for longer: whoever wrote it was not one of us.
const LONGEST_TERM: Duration = Duration::from_secs(15);

/// The times of an election, the same for all replicas.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long a Lease is good for without a renewal.
    pub term: Duration,
    /// How much sooner a leader stops to believe in itself.
    pub margin: Duration,
    /// How often a leader renews.
    pub renew_every: Duration,
    /// How often others look.
    pub look_every: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { term: TERM, margin: MARGIN, renew_every: RENEW_EVERY, look_every: LOOK_EVERY }
    }
}

/// A time of leading. It ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Until when we lead, in milliseconds of our monotonic clock.
    pub until_ms: u64,
    /// How often the Lease has changed hands: no two leaders have the same number.
    pub number: i32,
}

/// Whether this replica leads. Cheap to clone and to ask.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Term>>);

impl Leadership {
    /// The term, if we lead now. A writer asks right before each write.
    pub fn term(&self, now: Now) -> Option<Term> {
        self.0.borrow().filter(|term| now.monotonic_ms < term.until_ms)
    }

    /// Whether we lead now.
    pub fn is_leader(&self, now: Now) -> bool {
        self.term(now).is_some()
    }

    /// Waits until a term begins, is prolonged, or is given up; not until one runs out. `false` once the election has ended.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

#[cfg(test)]
impl Leadership {
    /// One that is given and taken away by hand.
    pub(crate) fn of(terms: watch::Receiver<Option<Term>>) -> Self {
        Self(terms)
    }
}

/// What tells one renewal from the next. A change of the object that is no renewal, by whomever, prolongs nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The identity of who holds the Lease; empty once it was given back.
    pub holder: String,
    /// The holder's time of the renewal. Compared, never read as a time.
    pub renewed: String,
    /// How often the Lease has changed hands.
    pub transitions: i32,
}

/// The Lease as this replica has observed it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What the next write is decided on; `None` while the Lease is not there.
    pub resource_version: Option<String>,
    /// Its last renewal.
    pub renewal: Renewal,
    /// How long it is good for, as it says.
    pub term: Duration,
    /// When this renewal was first seen here, in milliseconds of our monotonic clock.
    pub since_ms: u64,
    acquired: Option<MicroTime>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease, and nobody who may still believe in one.
    Create,
    /// It is ours: prolong it.
    Renew,
    /// Nobody holds it, or whoever does has not renewed it in time.
    Take,
    /// Somebody holds it.
    Wait,
}

impl Observed {
    /// What was read at `now`, after what was `known`.
    fn read(lease: &coordination::Lease, known: Option<&Self>, now: Now) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let renewal = Renewal {
            holder: spec.holder_identity.unwrap_or_default(),
            renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
            transitions: spec.lease_transitions.unwrap_or_default(),
        };
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let version = lease.metadata.resource_version.clone();
        Self { acquired: spec.acquire_time, ..Self::of(version, renewal, Duration::from_secs(seconds), known, now) }
    }

    /// A Lease that was seen at `now`, after what was `known`.
    pub fn of(
        resource_version: Option<String>,
        renewal: Renewal,
        term: Duration,
        known: Option<&Self>,
        now: Now,
    ) -> Self {
        let since_ms = known.filter(|known| known.renewal == renewal).map_or(now.monotonic_ms, |known| known.since_ms);
        Self { resource_version, renewal, term: term.min(LONGEST_TERM), since_ms, acquired: None }
    }

    /// The same after somebody deleted the Lease: who held it may believe in it until its term is over.
    pub fn deleted(self) -> Self {
        Self { resource_version: None, ..self }
    }
}

/// What `identity` does about the Lease as it was last observed. `term` is ours, for a Lease that says less.
pub fn next(observed: Option<&Observed>, identity: &str, term: Duration, now: Now) -> Step {
    let Some(observed) = observed else { return Step::Create };
    let is_there = observed.resource_version.is_some();
    let holder = observed.renewal.holder.as_str();
    if holder == identity && is_there {
        return Step::Renew;
    }
    let over = observed.since_ms.saturating_add(millis(observed.term.max(term)));
    let is_free = holder.is_empty() || holder == identity || now.monotonic_ms >= over;
    match (is_free, is_there) {
        (true, true) => Step::Take,
        (true, false) => Step::Create,
        (false, _) => Step::Wait,
    }
}

/// Until when we lead after a renewal that was sent at `sent_ms`.
pub fn until(sent_ms: u64, terms: &Terms) -> u64 {
    sent_ms.saturating_add(millis(terms.term.saturating_sub(terms.margin)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use serde_json::json;

    fn lease(holder: &str, renewed: &str, version: &str) -> coordination::Lease {
        let spec = json!({ "holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 10 });
        serde_json::from_value(json!({ "metadata": { "resourceVersion": version }, "spec": spec })).unwrap()
    }

    const EARLY: &str = "1999-01-01T00:00:00.000000Z";
    const LATE: &str = "2099-01-01T00:00:00.000000Z";

    fn step(observed: &Observed, clock: &Clock) -> Step {
        next(Some(observed), "b", TERM, clock.now())
    }

    #[test]
    fn a_holder_is_gone_when_no_renewal_was_observed_for_a_term_whatever_its_clock_says() {
        for renewed in [EARLY, LATE] {
            let clock = Clock::manual(1_000_000);
            let first = Observed::read(&lease("a", renewed, "1"), None, clock.now());
            assert_eq!(step(&first, &clock), Step::Wait, "{renewed}");
            clock.advance(TERM - Duration::from_millis(1));
            let second = Observed::read(&lease("a", renewed, "1"), Some(&first), clock.now());
            assert_eq!(step(&second, &clock), Step::Wait, "{renewed}");
            clock.advance(Duration::from_millis(1));
            assert_eq!(step(&second, &clock), Step::Take, "{renewed}");
        }
    }

    #[test]
    fn a_renewal_prolongs_and_another_change_of_the_object_does_not() {
        let clock = Clock::manual(1_000_000);
        let first = Observed::read(&lease("a", EARLY, "1"), None, clock.now());
        clock.advance(TERM);
        let touched = Observed::read(&lease("a", EARLY, "2"), Some(&first), clock.now());
        assert_eq!(step(&touched, &clock), Step::Take);
        assert_eq!(touched.resource_version.as_deref(), Some("2"));
        let renewed = Observed::read(&lease("a", LATE, "3"), Some(&touched), clock.now());
        assert_eq!(step(&renewed, &clock), Step::Wait);
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once_and_our_own_is_renewed() {
        let clock = Clock::manual(1_000_000);
        let read = |holder| Observed::read(&lease(holder, EARLY, "1"), None, clock.now());
        assert_eq!(step(&read(""), &clock), Step::Take);
        assert_eq!(step(&read("b"), &clock), Step::Renew);
        assert_eq!(next(None, "b", TERM, clock.now()), Step::Create);
    }

    #[test]
    fn a_lease_that_was_deleted_is_made_anew_only_when_its_holder_knows() {
        let clock = Clock::manual(1_000_000);
        let deleted = Observed::read(&lease("a", EARLY, "1"), None, clock.now()).deleted();
        assert_eq!(step(&deleted, &clock), Step::Wait);
        clock.advance(TERM);
        assert_eq!(step(&deleted, &clock), Step::Create);
        let own = Observed::read(&lease("b", EARLY, "1"), None, clock.now()).deleted();
        assert_eq!(step(&own, &clock), Step::Create);
    }

    #[test]
    fn a_term_written_by_others_is_not_waited_for_without_end() {
        let clock = Clock::manual(1_000_000);
        let mut foreign = lease("a", EARLY, "1");
        foreign.spec.as_mut().unwrap().lease_duration_seconds = Some(3_600);
        let observed = Observed::read(&foreign, None, clock.now());
        clock.advance(LONGEST_TERM);
        assert_eq!(step(&observed, &clock), Step::Take);
    }

    #[test]
    fn a_leader_stops_before_anybody_may_take_over() {
        let terms = Terms::default();
        assert!(until(5_000, &terms) + millis(terms.margin) <= 5_000 + millis(terms.term));
        // Even if the renewal was observed the moment it was sent.
        let (sender, receiver) = watch::channel(Some(Term { until_ms: until(1, &terms), number: 1 }));
        let (leadership, clock) = (Leadership(receiver), Clock::manual(1_000_000));
        let observed = Observed::read(&lease("a", EARLY, "1"), None, clock.now());
        for _ in 0..100 {
            assert!(!(leadership.is_leader(clock.now()) && step(&observed, &clock) == Step::Take));
            clock.advance(Duration::from_millis(150));
        }
        assert!(!leadership.is_leader(clock.now()) && step(&observed, &clock) == Step::Take);
        drop(sender);
    }

    #[test]
    fn a_takeover_takes_less_than_fifteen_seconds() {
        let terms = Terms::default();
        assert!(terms.look_every + terms.term + terms.look_every + run::CALL_TIMEOUT <= Duration::from_secs(15));
        assert!(terms.renew_every + run::CALL_TIMEOUT < terms.term - terms.margin);
    }
}
