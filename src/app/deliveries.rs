//! Users' tokens, kept where they are read: opened at the start, run on the control plane; outlives every reload.

use super::cluster::Joined;
use super::{Gateway, StartError, placed};
use crate::config::{self, Config};
use crate::delivery::counts::Counts;
use crate::delivery::{Delivery, Parts, Settings, secrets, sink};
use crate::endpoints::Surroundings;
use crate::issuer::keycloak::Keycloak;
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::Metrics;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The delivery of a configuration, running.
pub(super) fn start(
    config: &Config,
    pipeline: &Arc<ArcSwap<Pipeline>>,
    surroundings: &Surroundings,
    metrics: &Metrics,
    joined: Option<&Joined>,
) -> Result<Option<Arc<Delivery<Keycloak>>>, StartError> {
    if let Some(joined) = joined {
        placed::follow(joined, &surroundings.shared, pipeline);
    }
    let Some(delivery) = &config.delivery else { return Ok(None) };
    let shared = surroundings.shared.clone();
    let issuer = config.issuers.iter().find(|issuer| issuer.name == delivery.issuer);
    let (Some(issuer), Some(link)) = (issuer, shared.links.get(&delivery.issuer)) else { return Ok(None) };
    let Some(roster) = roster(issuer, surroundings)? else { return Ok(None) };
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
    let opened = if let Some(joined) = joined {
        shared.control.spawn(placed::hear_sign_ins(Arc::clone(&joined.replica), shared.clone()));
        Delivery::in_cluster(settings, parts, placed::beside(joined, &shared)?)?
    } else {
        Delivery::open(settings, parts, &config.state.path.join("delivery.redb"))?
    };
    shared.control.spawn(Arc::clone(&opened).run());
    Ok(Some(opened))
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
