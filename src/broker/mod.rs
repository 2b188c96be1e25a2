//! Gets credentials that somebody else makes: the caller's token exchanged at its issuer (RFC 8693), tokens of Postern's own clients
//! (RFC 6749 §4.4).
//!
//! What was got is kept in a [`Slot`]: that of a user in their identity, so that it goes with a changed claim or a block, that of a
//! client here. However many requests need one, one call is made, on the control plane, and one that gives up cancels none.

mod answer;
mod party;

pub use answer::{AnswerError, Wanted, read};

use crate::base::clock::{Clock, Now};
use crate::base::http_client::HttpError;
use crate::base::tick::Deadline;
use crate::base::tls::TlsError;
use crate::config::{Config, Credential};
use crate::identity::{Identity, Shared, VerifiedToken};
use crate::issuer::Issuer;
use crate::telemetry::metrics::Metrics;
use crate::token_service::obtained::{Found, Obtained, Purpose, Slot};
use party::{Party, Subject, What};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The credentials of one configuration that somebody else makes. A reload makes another, which takes over what clients hold.
pub struct Broker {
    /// By index of the route.
    parties: Vec<Option<Arc<Party>>>,
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
}

/// Why there is no credential for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no credential for the upstream: {0}")]
pub struct Unavailable(Arc<str>);

impl Broker {
    /// Prepares the credentials of a configuration whose issuers are these.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn new<'a>(
        config: &Config,
        issuers: impl Iterator<Item = &'a Arc<Issuer>>,
        shared: &Shared,
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
                _ => None,
            };
            parties.push(party);
        }
        Ok(Self { parties, control: shared.control.clone(), clock: shared.clock.clone() })
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
        let party = party.ok_or_else(|| Unavailable("the route asks for none".into()))?;
        let now = self.clock.now();
        let (slot, subject) = match &party.what {
            What::Client { slot, .. } => (Arc::clone(slot), None),
            What::Exchange(template) => {
                let (token, identity) = caller.ok_or_else(|| Unavailable("nobody's token is there".into()))?;
                let maker = token.issuer().config();
                if (&maker.name, &maker.url) != (&template.issuer.name, &template.issuer.url) {
                    return Err(Unavailable("the token was made by another issuer".into()));
                }
                let session = token.session().map(Into::into);
                let slot = identity.credentials.slot(&Purpose::Exchange(Arc::clone(template), session), now);
                (slot, Some(Subject { token: Arc::clone(token), name: identity.subject.clone() }))
            }
        };
        let credential = self.find(party, &slot, subject, now).await?;
        Ok(Injected { slot, credential })
    }

    /// What the slot holds, or what one call brings.
    async fn find(
        &self,
        party: &Arc<Party>,
        slot: &Arc<Slot>,
        subject: Option<Subject>,
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
                return Err(Unavailable(why));
            }
            if !is_last {
                let _ = Deadline::after(party.timeout()).bound(ended.as_mut()).await;
            }
        }
        Err(Unavailable("it did not come in time".into()))
    }

    /// Makes the one call for a slot, unless somebody does. It belongs to the control plane: a request that gives up does not cancel it.
    fn begin(&self, party: &Arc<Party>, slot: &Arc<Slot>, subject: Option<Subject>, now: Now) {
        let Some(turn) = slot.begin(now) else { return };
        let (party, clock) = (Arc::clone(party), self.clock.clone());
        self.control.spawn(async move {
            let outcome = party.ask(subject, &clock).await;
            turn.finish(outcome, clock.now());
        });
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("parties", &self.parties.iter().flatten().count()).finish_non_exhaustive()
    }
}
