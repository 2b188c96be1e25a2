//! The control plane's thread, and the tasks that run on it.

use super::cluster::Joined;
use super::observe_users::count_decisions;
use super::upkeep::{tick_users, upkeep};
use super::workers::until_drain;
use super::{Gateway, StartError};
use crate::admin::{self, View};
use crate::delivery::Delivery;
use crate::issuer::keycloak::Keycloak;
use crate::pipeline::Pipeline;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use tokio::runtime::Handle;

impl Gateway {
    pub(super) fn start_control(
        &self,
        runtime: tokio::runtime::Runtime,
        admin: Option<tokio::net::TcpListener>,
        election: Option<tokio::task::JoinHandle<()>>,
    ) -> Result<JoinHandle<()>, StartError> {
        let mut phase = self.phase.subscribe();
        let (pipeline, is_draining) = (Arc::clone(&self.pipeline), Arc::clone(&self.is_draining));
        let (joined, delivery) = (self.joined.clone(), self.delivery.clone());
        let waits_for = Arc::new(move || waits_for(&pipeline, &is_draining, (joined.as_ref(), delivery.as_deref())));
        let view = View { metrics: Arc::clone(&self.metrics), waits_for };
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
        self.run_issuers();
        self.run_upstreams();
    }

    fn run_issuers(&self) {
        let pipeline = self.pipeline.load();
        let mut tasks = self.issuer_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, task) in tasks.drain() {
            task.abort();
        }
        for issuer in pipeline.verifier().issuers() {
            let task = self.shared().control.spawn(Arc::clone(issuer).run());
            tasks.insert(issuer.config().name.clone(), task.abort_handle());
        }
    }

    fn run_upstreams(&self) {
        let pipeline = self.pipeline.load();
        let mut tasks = self.upstream_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
        for upstream in pipeline.upstreams().filter(|upstream| upstream.needs_upkeep()) {
            tasks.push(self.shared().control.spawn(Arc::clone(upstream).run()).abort_handle());
        }
    }
}

/// What is waited for before the gateway is ready.
pub(super) fn waits_for(
    pipeline: &ArcSwap<Pipeline>,
    is_draining: &AtomicBool,
    (joined, delivery): (Option<&Joined>, Option<&Delivery<Keycloak>>),
) -> Vec<String> {
    let pipeline = pipeline.load();
    let without_keys = pipeline.verifier().issuers().filter(|issuer| !issuer.is_ready());
    let mut missing: Vec<_> = without_keys.map(|issuer| format!("keys of issuer `{}`", issuer.config().name)).collect();
    if pipeline.token_service().ring().current().is_none() {
        missing.push("signing keys".into());
    }
    missing.extend(joined.into_iter().flat_map(|joined| joined.waits.left()));
    if joined.is_some_and(|joined| !joined.replica.is_loaded()) {
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

pub(super) fn bind_admin(address: SocketAddr, handle: &Handle) -> Result<tokio::net::TcpListener, StartError> {
    let _in_runtime = handle.enter();
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    listen().map_err(|source| StartError::Listen { address, source })
}
