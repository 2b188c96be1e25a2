//! The control plane's thread, and the tasks that run on it.

use super::workers::until_drain;
use super::{Gateway, StartError};
use crate::admin::{self, View};
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::Metrics;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;

/// How often expired tokens and the like are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How often signing keys are looked after.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

impl Gateway {
    pub(super) fn start_control(
        &self,
        runtime: tokio::runtime::Runtime,
        admin: Option<tokio::net::TcpListener>,
    ) -> Result<JoinHandle<()>, StartError> {
        let mut phase = self.phase.subscribe();
        let (pipeline, is_draining) = (Arc::clone(&self.pipeline), Arc::clone(&self.is_draining));
        let waits_for = Arc::new(move || waits_for(&pipeline, &is_draining));
        let view = View { metrics: Arc::clone(&self.metrics), waits_for };
        let (pipeline, metrics) = (Arc::clone(&self.pipeline), Arc::clone(&self.metrics));
        let run = move || {
            runtime.block_on(async {
                if let Some(listener) = admin {
                    tokio::spawn(admin::serve(listener, view));
                }
                tokio::spawn(upkeep(pipeline, metrics));
                // The admin listener answers as long as workers drain.
                let deadline = until_drain(&mut phase).await;
                let _ = tokio::time::timeout(deadline, phase.changed()).await;
            });
        };
        std::thread::Builder::new().name("control".into()).spawn(run).map_err(StartError::Thread)
    }

    /// Starts the refresh loops of issuers that have none, and ends those of issuers that are gone.
    pub(super) fn run_issuers(&self) {
        let pipeline = self.pipeline.load();
        let mut tasks = self.issuer_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, task) in tasks.drain() {
            task.abort();
        }
        for issuer in pipeline.verifier().issuers() {
            let task = self.handle.spawn(Arc::clone(issuer).run());
            tasks.insert(issuer.config().name.clone(), task.abort_handle());
        }
    }
}

/// What is waited for before the gateway is ready.
pub(super) fn waits_for(pipeline: &ArcSwap<Pipeline>, is_draining: &AtomicBool) -> Vec<String> {
    let pipeline = pipeline.load();
    let without_keys = pipeline.verifier().issuers().filter(|issuer| !issuer.is_ready());
    let mut missing: Vec<_> = without_keys.map(|issuer| format!("keys of issuer `{}`", issuer.config().name)).collect();
    if is_draining.load(Ordering::Relaxed) {
        missing.push("draining".into());
    }
    missing
}

/// Looks after what gets old.
async fn upkeep(pipeline: Arc<ArcSwap<Pipeline>>, metrics: Arc<Metrics>) {
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

pub(super) fn bind_admin(address: SocketAddr, handle: &Handle) -> Result<tokio::net::TcpListener, StartError> {
    let _in_runtime = handle.enter();
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    listen().map_err(|source| StartError::Listen { address, source })
}
