//! Users' tokens, kept where they are read: opened at the start, run on the control plane; outlives every reload.

use super::cluster::Joined;
use super::{Gateway, Phase, StartError, placed};
use crate::config::{self, Config};
use crate::delivery::counts::Counts;
use crate::delivery::{Delivery, Parts, Settings, secrets, sink};
use crate::endpoints::Surroundings;
use crate::issuer::keycloak::Keycloak;
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::Metrics;
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What keeps users' tokens.
#[derive(Default)]
pub(super) struct Deliveries {
    pub(super) delivery: Option<Arc<Delivery<Keycloak>>>,
    /// Among replicas. Ends once the Lease is given back, when the gateway is to end.
    pub(super) election: Option<JoinHandle<()>>,
}

/// The delivery of a configuration, running.
pub(super) fn start(
    config: &Config,
    pipeline: &Arc<ArcSwap<Pipeline>>,
    surroundings: &Surroundings,
    (metrics, phase): (&Metrics, &watch::Sender<Phase>),
    joined: Option<&Joined>,
) -> Result<Deliveries, StartError> {
    if let Some(joined) = joined {
        placed::follow(joined, &surroundings.shared, pipeline);
    }
    let Some(delivery) = &config.delivery else { return Ok(Deliveries::default()) };
    let shared = surroundings.shared.clone();
    let issuer = config.issuers.iter().find(|issuer| issuer.name == delivery.issuer);
    let (Some(issuer), Some(link)) = (issuer, shared.links.get(&delivery.issuer)) else {
        return Ok(Deliveries::default());
    };
    let Some(roster) = roster(issuer, surroundings)? else { return Ok(Deliveries::default()) };
    let pipeline = Arc::clone(pipeline);
    let parts = Parts {
        roster,
        link,
        token_service: Arc::new(move || Arc::clone(pipeline.load().token_service())),
        counts: Counts::new(metrics, shared.clock.clone()),
        sink: match joined {
            Some(joined) => secrets(joined.cluster.clone()),
            None => sink(delivery.files.as_deref(), &delivery.issuer)?,
        },
        shared: shared.clone(),
    };
    let settings = Settings::new(delivery, issuer);
    let (delivery, election) = if let Some(joined) = joined {
        shared.control.spawn(placed::hear_sign_ins(Arc::clone(&joined.replica), shared.clone()));
        let (beside, election) = placed::beside(joined, &shared, phase.subscribe())?;
        (Delivery::in_cluster(settings, parts, beside)?, Some(election))
    } else {
        (Delivery::open(settings, parts, &config.state.path.join("delivery.redb"))?, None)
    };
    shared.control.spawn(Arc::clone(&delivery).run());
    Ok(Deliveries { delivery: Some(delivery), election })
}

/// How the issuer is asked about everybody.
fn roster(issuer: &config::Issuer, surroundings: &Surroundings) -> Result<Option<Keycloak>, StartError> {
    let Some(status) = issuer.user_status.keycloak() else { return Ok(None) };
    let made = Keycloak::new(issuer, status, surroundings.shared.clock.clone());
    let failed = |error| StartError::Issuer { name: issuer.name.clone(), source: Box::new(error) };
    made.map(Some).map_err(failed)
}

impl Gateway {
    /// Has the issuer asked as the configuration in force says.
    pub(super) fn set_roster(&self, config: &Config) -> Result<(), StartError> {
        let Some(delivery) = &self.delivery else { return Ok(()) };
        let issuer = config.issuers.iter().find(|issuer| issuer.name == *delivery.settings().issuer);
        if let Some(issuer) = issuer
            && let Some(roster) = roster(issuer, &self.surroundings)?
        {
            delivery.set_roster(roster);
        }
        Ok(())
    }
}
