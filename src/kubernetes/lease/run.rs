//! The loop of an election.

use super::super::call::Target;
use super::super::connect::Cluster;
use super::super::error::KubernetesError;
use super::{Leadership, Observed, Step, Term, Terms, next, until};
use crate::base::clock::{Clock, Now};
use k8s_openapi::api::coordination::v1 as coordination;
use serde_json::{Value, json};
use std::pin::pin;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;

const GROUP: &str = "apis/coordination.k8s.io/v1";
const KIND: &str = "leases";

/// How long one look or write may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How often one turn looks again because others wrote meanwhile.
const ROUNDS: usize = 3;

/// One replica of an election.
pub struct Elector {
    cluster: Cluster,
    target: Target,
    namespace: String,
    name: String,
    identity: String,
    terms: Terms,
    clock: Clock,
    observed: Option<Observed>,
    /// Whether what was observed is what the server answered to our last write.
    is_sure: bool,
    leads: watch::Sender<Option<Term>>,
}

impl Elector {
    /// Stands for the Lease `name` in Postern's own namespace. `identity` must be this process's alone: a pod's name with something
    /// drawn at the start, so that a restarted container does not take itself for its predecessor.
    ///
    /// # Errors
    /// [`KubernetesError::Invalid`] for a name that is none.
    pub fn new(
        cluster: Cluster,
        name: &str,
        identity: &str,
        terms: Terms,
        clock: Clock,
    ) -> Result<(Self, Leadership), KubernetesError> {
        let namespace = cluster.namespace().to_owned();
        let target = Target::object(GROUP, Some(&namespace), KIND, name)?;
        let (leads, receiver) = watch::channel(None);
        let (name, identity) = (name.to_owned(), identity.to_owned());
        let elector =
            Self { cluster, target, namespace, name, identity, terms, clock, observed: None, is_sure: false, leads };
        Ok((elector, Leadership(receiver)))
    }

    /// Stands, leads, stands again, until `stop`; then gives the Lease back, so that another leads at once.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let pause = tokio::select! {
                biased;
                () = &mut stop => break,
                pause = self.turn() => pause,
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release().await;
    }

    /// Looks, does what is due, and says how long until the next turn.
    async fn turn(&mut self) -> Duration {
        match tokio::time::timeout(CALL_TIMEOUT, self.step()).await {
            Ok(Ok(true)) => self.terms.renew_every,
            Ok(Ok(false)) => self.terms.look_every,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the Lease cannot be looked after");
                self.terms.look_every.max(error.retry_after().unwrap_or_default()).min(self.terms.term)
            }
            // What was sent may have been done; the next look tells.
            Err(_) => {
                tracing::warn!("the Lease cannot be looked after: no answer in time");
                self.terms.look_every
            }
        }
    }

    /// Whether we lead after this.
    async fn step(&mut self) -> Result<bool, KubernetesError> {
        for _ in 0..ROUNDS {
            if !self.is_sure {
                self.look().await?;
            }
            let now = self.clock.now();
            let step = next(self.observed.as_ref(), &self.identity, self.terms.term, now);
            if step == Step::Wait {
                self.is_sure = false;
                self.lose("another replica leads");
                return Ok(false);
            }
            // Until the answer is read nobody knows what stands there.
            self.is_sure = false;
            match self.write(step, now).await {
                Ok(lease) => {
                    self.lead(&lease, step, now);
                    return Ok(true);
                }
                // Somebody else was there: look again.
                Err(
                    KubernetesError::Conflict { .. }
                    | KubernetesError::Exists { .. }
                    | KubernetesError::NotFound { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        self.lose("others write the Lease too");
        Ok(false)
    }

    async fn write(&self, step: Step, now: Now) -> Result<coordination::Lease, KubernetesError> {
        let body = self.body(&self.held(now, step != Step::Renew));
        if step == Step::Create {
            return self.cluster.post(&Target::list(GROUP, Some(&self.namespace), KIND)?, &body).await;
        }
        self.cluster.put(&self.target, &body).await
    }

    fn lead(&mut self, lease: &coordination::Lease, step: Step, sent: Now) {
        let observed = Observed::read(lease, self.observed.as_ref(), self.clock.now());
        let number = observed.renewal.transitions;
        self.observed = Some(observed);
        self.is_sure = true;
        if step != Step::Renew {
            tracing::info!(lease = %self.name, term = number, "this replica leads");
        }
        // From before it was sent: nobody can have observed it earlier.
        self.leads.send_replace(Some(Term { until_ms: until(sent.monotonic_ms, &self.terms), number }));
    }

    async fn look(&mut self) -> Result<(), KubernetesError> {
        let read: Result<coordination::Lease, _> = self.cluster.get(&self.target).await;
        self.observed = match read {
            Ok(lease) => Some(Observed::read(&lease, self.observed.as_ref(), self.clock.now())),
            Err(KubernetesError::NotFound { .. }) => self.observed.take().map(Observed::deleted),
            Err(error) => return Err(error),
        };
        Ok(())
    }

    fn lose(&mut self, why: &str) {
        if self.leads.send_replace(None).is_some() {
            tracing::warn!(lease = %self.name, "this replica leads no more: {why}");
        }
    }

    /// First nobody here believes to lead, then others may.
    async fn release(mut self) {
        if self.leads.send_replace(None).is_none() {
            return;
        }
        match tokio::time::timeout(CALL_TIMEOUT, self.give_back()).await {
            Ok(Ok(true)) => tracing::info!(lease = %self.name, "the Lease was given back"),
            Ok(Ok(false)) => tracing::warn!(lease = %self.name, "the Lease was not given back: others write it too"),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the Lease was not given back");
            }
            Err(_) => tracing::warn!("the Lease was not given back: no answer in time"),
        }
    }

    async fn give_back(&mut self) -> Result<bool, KubernetesError> {
        for _ in 0..ROUNDS {
            let Some(observed) = self.observed.as_ref().filter(|seen| seen.renewal.holder == self.identity) else {
                return Ok(false);
            };
            // On the version of our last renewal: a Lease that another took meanwhile stays theirs.
            let body = self.body(&json!({
                "leaseDurationSeconds": 1,
                "leaseTransitions": observed.renewal.transitions,
                "renewTime": micro_time(self.clock.now()),
            }));
            match self.cluster.put::<Value>(&self.target, &body).await {
                Ok(_) => return Ok(true),
                // A renewal of ours whose answer was not waited for may have been done.
                Err(KubernetesError::Conflict { .. }) => self.look().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What a Lease is that is held by us from `now`.
    fn held(&self, now: Now, is_new_term: bool) -> Value {
        let time = micro_time(now);
        let observed = self.observed.as_ref();
        let transitions = observed.map_or(0, |seen| seen.renewal.transitions);
        let acquired = observed.and_then(|seen| seen.acquired.as_ref()).filter(|_| !is_new_term);
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.terms.term.as_secs().max(1),
            "acquireTime": acquired.map_or_else(|| json!(time), |acquired| json!(acquired)),
            "renewTime": time,
            "leaseTransitions": transitions.saturating_add(i32::from(is_new_term)),
        })
    }

    /// The Lease as it is to be, on the version that was last observed.
    fn body(&self, spec: &Value) -> Value {
        let mut metadata = json!({ "name": self.name, "namespace": self.namespace });
        if let Some(version) = self.observed.as_ref().and_then(|seen| seen.resource_version.as_ref()) {
            metadata["resourceVersion"] = json!(version);
        }
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec })
    }
}

/// A time as the API server takes it: exactly six digits of a second, or it answers 400.
fn micro_time(now: Now) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_millis(now.unix_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_digits_of_a_second() {
        assert_eq!(micro_time(Clock::manual(1_700_000_000).now()), "2023-11-14T22:13:20.000000Z");
    }
}
