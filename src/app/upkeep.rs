//! What runs on the control plane as long as a configuration or a verifier lives.

use crate::identity::Verifier;
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::Metrics;
use crate::users::Users;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How often expired tokens and the like are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How often signing keys are looked after.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

/// Starts the loops of a verifier, which end with it.
pub(super) fn run_verifier(verifier: &Arc<Verifier>, control: &Handle) {
    for task in verifier.tasks() {
        control.spawn(task);
    }
}

/// Makes what is due of what is known against users, each second.
pub(super) async fn tick_users(users: Arc<Users>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Err(error) = users.tick() {
            tracing::error!(error = &error as &dyn std::error::Error, "what is known against users cannot be stored");
        }
    }
}

/// Looks after what gets old.
pub(super) async fn upkeep(pipeline: Arc<ArcSwap<Pipeline>>, metrics: Arc<Metrics>) {
    let mut since_maintained = Duration::ZERO;
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let pipeline = pipeline.load_full();
        pipeline.verifier().sweep();
        since_maintained += SWEEP_EVERY;
        if since_maintained >= MAINTAIN_EVERY {
            since_maintained = Duration::ZERO;
            let token_service = Arc::clone(pipeline.token_service());
            // Files and, once a month, a new key: off the loop that answers probes.
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || token_service.maintain()).await {
                tracing::error!(error = &error as &dyn std::error::Error, "signing keys cannot be maintained");
                metrics.key_maintenance_failures.inc();
            }
            pipeline.verifier().refresh_own_keys(pipeline.token_service());
        }
    }
}
