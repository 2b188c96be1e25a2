//! Gets credentials that somebody else makes: the caller's token exchanged at its issuer (RFC 8693), tokens of Postern's own clients
//! (RFC 6749 §4.4), tokens of the ServiceAccount of a user's namespace, and secrets that are kept in Kubernetes.
//!
//! What was got is kept in a [`Slot`]: that of a user in their identity, so that it goes with a changed claim or a block, that of a
//! client here. However many requests need one, one call is made, on the control plane, and one that gives up cancels none.

mod account;
mod answer;
mod party;
mod stored;

pub use answer::{AnswerError, Wanted, read};

use crate::base::clock::{Clock, Now};
use crate::base::http_client::HttpError;
use crate::base::tick::Deadline;
use crate::base::tls::TlsError;
use crate::config::{Config, Credential, IssuerKind, NamespaceSource, SecretValue, ServiceAccount};
use crate::identity::{Bulletin, Identity, Shared, VerifiedToken};
use crate::issuer::Issuer;
use crate::kubernetes::{Cluster, KubernetesError};
use crate::telemetry::metrics::Metrics;
use crate::token_service::obtained::{Found, Obtained, Purpose, Slot};
use crate::users::UserId;
use http::HeaderValue;
use party::{Party, Subject, What};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use stored::Stored;
use tokio::runtime::Handle;

/// The credentials of one configuration that somebody else makes. A reload makes another, which takes over what clients hold.
pub struct Broker {
    /// By index of the route.
    parties: Vec<Option<Arc<Party>>>,
    /// By index of the route.
    stored: Vec<Option<Arc<Stored>>>,
    /// Where the token service's word about namespaces is found.
    bulletin: Arc<Bulletin>,
    control: Handle,
    clock: Clock,
}

/// A credential for one request, and the place that it is kept in.
#[derive(Debug, Clone)]
pub struct Injected {
    /// Where it is purged, and got anew.
    pub slot: Arc<Slot>,
    /// What is sent.
    pub credential: Arc<Obtained>,
}

/// Why a configuration's credentials cannot be had at all.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The `ca` of a `token_endpoint` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A route names an issuer that nobody asks.
    #[error("issuer `{0}` is not there")]
    NoIssuer(String),
    /// A route needs the API server of a cluster.
    #[error("there is no cluster to ask")]
    NoCluster,
    /// A Secret cannot be followed.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

/// Why there is no credential for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// None could be got.
    #[error("no credential for the upstream: {0}")]
    Because(Arc<str>),
    /// It would be for the caller's own namespace, and they have none.
    #[error("the caller has no namespace of their own")]
    NoNamespace,
}

impl Broker {
    /// Prepares the credentials of a configuration whose issuers are these.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn new<'a>(
        config: &Config,
        issuers: impl Iterator<Item = &'a Arc<Issuer>>,
        shared: &Shared,
        cluster: Option<&Cluster>,
        metrics: &Metrics,
        former: Option<&Self>,
    ) -> Result<Self, BrokerError> {
        let issuers: Vec<_> = issuers.collect();
        let mut parties: Vec<Option<Arc<Party>>> = Vec::new();
        for route in &config.routes {
            let known = || parties.iter().flatten().find(|party| party.is_of(&route.credential)).cloned();
            let party = match (&route.credential, known()) {
                (_, Some(known)) => Some(known),
                (Credential::Exchange(template), None) => Some(Arc::new(Party::exchange(template, metrics))),
                (Credential::ClientCredentials(client), None) => {
                    let before = former.into_iter().flat_map(|former| former.parties.iter().flatten());
                    let slot = before.filter(|party| party.is_of(&route.credential)).find_map(|party| party.slot());
                    Some(Arc::new(Party::client(client, &issuers, slot, metrics)?))
                }
                (Credential::ServiceAccount(account), None) => {
                    let cluster = cluster.ok_or(BrokerError::NoCluster)?;
                    Some(Arc::new(Party::account(account, cluster, metrics)))
                }
                _ => None,
            };
            parties.push(party);
        }
        let stored = follow_stored(config, cluster, &shared.control, former)?;
        let bulletin = Arc::clone(shared.links.bulletin());
        Ok(Self { parties, stored, bulletin, control: shared.control.clone(), clock: shared.clock.clone() })
    }

    /// The header of a route whose value is kept in Kubernetes.
    ///
    /// # Errors
    /// [`Unavailable`] while it is not there.
    pub fn stored(&self, route: usize) -> Result<HeaderValue, Unavailable> {
        let stored = self.stored.get(route).and_then(Option::as_ref);
        stored.and_then(|stored| stored.header()).ok_or_else(|| because("it is not in its Secret"))
    }

    /// The credential of a route for its caller. Waits only where none is held that may be handed out.
    ///
    /// # Errors
    /// [`Unavailable`]: none could be got, now or a moment ago, or it was less than what the route asks for.
    pub async fn obtain(
        &self,
        route: usize,
        caller: Option<(&Arc<VerifiedToken>, &Arc<Identity>)>,
    ) -> Result<Injected, Unavailable> {
        let party = self.parties.get(route).and_then(Option::as_ref);
        let party = party.ok_or_else(|| because("the route asks for none"))?;
        let caller = caller.ok_or_else(|| because("nobody's token is there"));
        let now = self.clock.now();
        let (slot, subject) = match &party.what {
            What::Client { slot, .. } => (Arc::clone(slot), Subject::Nobody),
            What::Account(config, _) => {
                let (token, identity) = caller?;
                let namespace = self.namespace(config, token, identity).ok_or(Unavailable::NoNamespace)?;
                let namespace: Box<str> = namespace.into();
                let purpose = Purpose::ServiceAccount(Arc::clone(config), namespace.clone());
                (identity.credentials.slot(&purpose, now), Subject::Namespace(namespace))
            }
            What::Exchange(template) => {
                let (token, identity) = caller?;
                let maker = token.issuer().config();
                if (&maker.name, &maker.url) != (&template.issuer.name, &template.issuer.url) {
                    return Err(because("the token was made by another issuer"));
                }
                let session = token.session().map(Into::into);
                let slot = identity.credentials.slot(&Purpose::Exchange(Arc::clone(template), session), now);
                (slot, Subject::Caller(Arc::clone(token), identity.subject.clone()))
            }
        };
        let credential = self.find(party, &slot, subject, now).await?;
        Ok(Injected { slot, credential })
    }

    /// The caller's own namespace. A ServiceAccount of a cluster is not the user of the namespace that it lies in.
    fn namespace(&self, config: &ServiceAccount, token: &VerifiedToken, identity: &Identity) -> Option<String> {
        let is_account = matches!(token.issuer().config().kind, IssuerKind::Kubernetes { .. });
        let user = UserId::new(identity.issuer.name.as_str(), identity.subject.as_str()).filter(|_| !is_account)?;
        own_namespace(config.namespace, self.bulletin.namespace(&user), identity.namespace.as_deref())
    }

    /// What the slot holds, or what one call brings.
    async fn find(
        &self,
        party: &Arc<Party>,
        slot: &Arc<Slot>,
        subject: Subject,
        now: Now,
    ) -> Result<Arc<Obtained>, Unavailable> {
        match slot.find(now) {
            Some(Found::Fresh(credential)) => return Ok(credential),
            Some(Found::Due(credential)) => {
                self.begin(party, slot, subject, now);
                return Ok(credential);
            }
            None => {}
        }
        // Before the call is begun, so that its end is not missed.
        let mut ended = pin!(slot.ended());
        ended.as_mut().enable();
        self.begin(party, slot, subject, now);
        for is_last in [false, true] {
            let now = self.clock.now();
            if let Some(Found::Fresh(credential) | Found::Due(credential)) = slot.find(now) {
                return Ok(credential);
            }
            if let Some(why) = slot.failure(now) {
                return Err(Unavailable::Because(why));
            }
            if !is_last {
                let _ = Deadline::after(party.timeout()).bound(ended.as_mut()).await;
            }
        }
        Err(because("it did not come in time"))
    }

    /// Makes the one call for a slot, unless somebody does. It belongs to the control plane: a request that gives up does not cancel it.
    fn begin(&self, party: &Arc<Party>, slot: &Arc<Slot>, subject: Subject, now: Now) {
        let Some(turn) = slot.begin(now) else { return };
        let (party, clock) = (Arc::clone(party), self.clock.clone());
        self.control.spawn(async move {
            let outcome = party.ask(subject, &clock).await;
            turn.finish(outcome, clock.now());
        });
    }
}

/// The Secrets of all routes; one that is followed already goes on.
fn follow_stored(
    config: &Config,
    cluster: Option<&Cluster>,
    control: &Handle,
    former: Option<&Broker>,
) -> Result<Vec<Option<Arc<Stored>>>, BrokerError> {
    let mut known: Vec<_> = former.into_iter().flat_map(|former| former.stored.iter().flatten()).cloned().collect();
    let mut found = Vec::new();
    for route in &config.routes {
        let Credential::Secret { value: SecretValue::Stored(wanted), .. } = &route.credential else {
            found.push(None);
            continue;
        };
        let stored = match known.iter().find(|known| known.is_of(wanted)) {
            Some(known) => Arc::clone(known),
            None => Arc::new(Stored::follow(wanted, cluster.ok_or(BrokerError::NoCluster)?, control)?),
        };
        known.push(Arc::clone(&stored));
        found.push(Some(stored));
    }
    Ok(found)
}

/// The namespace that is recorded, or that is claimed where the configuration is content with that.
fn own_namespace(source: NamespaceSource, recorded: Option<String>, claimed: Option<&str>) -> Option<String> {
    match source {
        NamespaceSource::Recorded => recorded,
        NamespaceSource::Claimed => recorded.or_else(|| claimed.map(str::to_owned)),
    }
}

fn because(why: &str) -> Unavailable {
    Unavailable::Because(why.into())
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("parties", &self.parties.iter().flatten().count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_claims_is_no_record() {
        use NamespaceSource::{Claimed, Recorded};
        let check = |source, recorded: Option<&str>, claimed, expected: Option<&str>| {
            assert_eq!(own_namespace(source, recorded.map(Into::into), claimed).as_deref(), expected);
        };
        check(Recorded, Some("alice"), Some("bob"), Some("alice"));
        check(Recorded, None, Some("bob"), None);
        check(Claimed, Some("alice"), Some("bob"), Some("alice"));
        check(Claimed, None, Some("bob"), Some("bob"));
        check(Claimed, None, None, None);
    }
}
