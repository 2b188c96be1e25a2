//! The control plane's thread, and the tasks that run on it.

use super::cluster::Joined;
use super::observe_users::count_decisions;
use super::upkeep::{tick_users, upkeep};
use super::workers::until_drain;
use super::{Gateway, StartError, rates, replicas};
use crate::admin::{self, View};
use crate::delivery::Delivery;
use crate::issuer::keycloak::Keycloak;
use crate::pipeline::Pipeline;
use crate::replica::Replica;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task;

/// How long the last spans may take to reach their collector.
const LAST_EXPORT: Duration = Duration::from_secs(3);

impl Gateway {
    pub(super) fn start_control(
        &self,
        runtime: tokio::runtime::Runtime,
        admin: Option<tokio::net::TcpListener>,
        (election, exporting): (Option<task::JoinHandle<()>>, Option<task::JoinHandle<()>>),
    ) -> Result<JoinHandle<()>, StartError> {
        let mut phase = self.phase.subscribe();
        rates::start(self.beside.as_ref(), &self.pipeline, (&self.metrics, runtime.handle()));
        let (pipeline, is_draining) = (Arc::clone(&self.pipeline), Arc::clone(&self.is_draining));
        let (joined, delivery) = (self.joined.clone(), self.delivery.clone());
        let replica = replicas::of(self.joined.as_ref(), self.beside.as_ref()).cloned();
        let shared = replica.clone();
        let waits_for = Arc::new(move || {
            waits_for(&pipeline, &is_draining, (shared.as_ref(), joined.as_ref(), delivery.as_deref()))
        });
        let goes_without = Arc::new(move || goes_without(replica.as_deref()));
        let view = View { metrics: Arc::clone(&self.metrics), waits_for, goes_without };
        let (pipeline, metrics) = (Arc::clone(&self.pipeline), Arc::clone(&self.metrics));
        let (users, counted) = (Arc::clone(&self.shared().users), Arc::clone(&self.metrics));
        let run = move || {
            runtime.block_on(async {
                if let Some(listener) = admin {
                    tokio::spawn(admin::serve(listener, view));
                }
                tokio::spawn(upkeep(pipeline, metrics));
                tokio::spawn(count_decisions(Arc::clone(&users), counted));
                tokio::spawn(tick_users(users));
                // The admin listener answers as long as workers drain.
                let deadline = until_drain(&mut phase).await;
                let _ = tokio::time::timeout(deadline, phase.changed()).await;
                if let Some(exporting) = exporting {
                    let _ = tokio::time::timeout(LAST_EXPORT, exporting).await;
                }
                if let Some(election) = election {
                    // Gives the Lease back, so that another replica leads at once. Its calls end in time.
                    let _ = election.await;
                }
            });
        };
        std::thread::Builder::new().name("control".into()).spawn(run).map_err(StartError::Thread)
    }

    /// Starts what looks after issuers and upstreams in force, in place of what looked after those before.
    pub(super) fn run_loops(&self) {
        let (pipeline, control) = (self.pipeline.load(), &self.shared().control);
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.drain(..).for_each(|task| task.abort());
        for issuer in pipeline.verifier().issuers() {
            loops.push(control.spawn(Arc::clone(issuer).run()).abort_handle());
        }
        for upstream in pipeline.upstreams().filter(|upstream| upstream.needs_upkeep()) {
            loops.push(control.spawn(Arc::clone(upstream).run()).abort_handle());
        }
    }
}

/// What is waited for before the gateway is ready.
pub(super) fn waits_for(
    pipeline: &ArcSwap<Pipeline>,
    is_draining: &AtomicBool,
    (replica, joined, delivery): (Option<&Arc<Replica>>, Option<&Joined>, Option<&Delivery<Keycloak>>),
) -> Vec<String> {
    let pipeline = pipeline.load();
    let without_keys = pipeline.verifier().issuers().filter(|issuer| !issuer.is_ready());
    let mut missing: Vec<_> = without_keys.map(|issuer| format!("keys of issuer `{}`", issuer.config().name)).collect();
    if pipeline.token_service().ring().current().is_none() {
        missing.push("signing keys".into());
    }
    missing.extend(joined.into_iter().flat_map(|joined| joined.waits.left()));
    if replica.is_some_and(|replica| !replica.is_loaded()) {
        missing.push("what other replicas know about users".into());
    }
    if delivery.is_some_and(|delivery| !delivery.is_ready()) {
        missing.push("what stands in users' namespaces".into());
    }
    if is_draining.load(Ordering::Relaxed) {
        missing.push("draining".into());
    }
    missing
}

/// What is not there and keeps nobody from being served.
fn goes_without(replica: Option<&Replica>) -> Vec<String> {
    let is_alone = replica.is_some_and(|replica| replica.is_loaded() && replica.is_alone());
    is_alone.then(|| "what other replicas decide about users".to_owned()).into_iter().collect()
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
