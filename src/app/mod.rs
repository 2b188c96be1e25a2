//! Puts the parts together: a configuration in, a running gateway out; reload; drain.
//!
//! One thread with a runtime of its own is the control plane (keys, user status, admin, upkeep); every other thread is a worker
//! that serves requests. Only this module starts threads and long-lived tasks. Dropping the [`Gateway`] ends them all.

mod cluster;
mod control;
mod deliveries;
mod error;
mod known;
mod observe;
mod observe_users;
mod operators;
mod outlets;
mod placed;
mod rates;
mod replicas;
mod restart;
mod shared_secret;
mod signing_keys;
mod upkeep;
mod watches;
mod webhook;
mod webhook_tls;
mod workers;

pub use error::StartError;

use crate::base::clock::Clock;
use crate::broker::Broker;
use crate::config::{self, Config};
use crate::delivery::Delivery;
use crate::endpoints::{Counts, Endpoints, Feed, Surroundings};
use crate::identity::{Shared, Verifier};
use crate::issuer::keycloak::Keycloak;
use crate::listener::tls::{Prepared, ServerTls};
use crate::pipeline::Pipeline;
use crate::telemetry::audit_log::Audit;
use crate::telemetry::metrics::{Metrics, OutcomeLabel};
use crate::token_service::{SharedKeys, TokenService};
use arc_swap::ArcSwap;
use cluster::Joined;
use known::{issuers, users};
use outlets::Outlets;
use replicas::Beside;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use watches::Watches;

/// How many verified tokens are remembered at most.
const TOKEN_CAPACITY: usize = 100_000;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    operator_address: Option<SocketAddr>,
    phase: watch::Sender<Phase>,
    workers: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    operators: Option<JoinHandle<()>>,
    webhook: Option<webhook::Running>,
    joined: Option<Joined>,
    beside: Option<Beside>,
    signing_keys: Arc<SharedKeys>,
    surroundings: Surroundings,
    metrics: Arc<Metrics>,
    pipeline: Arc<ArcSwap<Pipeline>>,
    is_draining: Arc<AtomicBool>,
    tls: Option<ServerTls>,
    config: Mutex<Config>,
    /// What looks after issuers and upstreams in force.
    loops: Mutex<Vec<AbortHandle>>,
    watches: Arc<Watches>,
    delivery: Option<Arc<Delivery<Keycloak>>>,
    audit: Audit,
    outlets: Option<Outlets>,
}

/// What the threads are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Serve.
    Serve,
    /// Accept nothing new, end what runs within this time, then stop.
    Drain(Duration),
}

impl Gateway {
    /// Starts a gateway; it serves once this returns, and is ready once its issuers' keys are there.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let handle = runtime.handle().clone();
        let (metrics, watches) = (Arc::new(Metrics::new()), Arc::<Watches>::default());
        let (outlets, exporting) = Outlets::start(&config.log, &metrics, &handle)?;
        let (users, audit) = users(&config, &clock)?;
        let joined = cluster::join(config.kubernetes.as_ref(), &users, (&clock, &metrics, &runtime))?;
        let beside = replicas::beside(config.redis.as_ref(), &users, (&clock, &metrics, &handle))?;
        let (token_service, signing_keys) = signing_keys::start(&config.token_service, &clock)?;
        let issuers = issuers(&config, &clock, &[])?;
        let shared =
            Shared { users: Arc::clone(&users), links: Arc::default(), clock: clock.clone(), control: handle.clone() };
        let asked = Pipeline::claims_asked(&config);
        let verifier = Arc::new(Verifier::new(issuers, asked, &token_service, shared.clone(), TOKEN_CAPACITY)?);
        upkeep::run_verifier(&verifier, &handle);
        let surroundings = surroundings(&config, shared, &metrics, audit.clone())?;
        let tls = Prepared::read(&config)?;
        let pipeline = pipeline(&config, (verifier, token_service), &surroundings, joined.as_ref(), &metrics, None)?;
        let pipeline = pipeline.with_client_trust(tls.as_ref().and_then(Prepared::trust).cloned());
        let pipeline = Arc::new(ArcSwap::from_pointee(pipeline));
        let (phase, cluster) = (watch::Sender::new(Phase::Serve), config.cluster);
        let kept = deliveries::start(&config, &pipeline, &surroundings, (&metrics, &phase), joined.as_ref())?;
        observe::register(&metrics, &pipeline, &users, &watches);
        let (sockets, addresses) = workers::bind(&config.server)?;
        let admin = config.admin.listen.map(|address| control::bind_admin(address, &handle)).transpose()?;
        let admin_address = admin.as_ref().and_then(|listener| listener.local_addr().ok());
        let operator = operators::bind(config.operator.as_ref())?;
        let operator_address = operator.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        let webhook = webhook::open(config.webhook.as_ref(), &clock)?;

        let mut gateway = Self {
            addresses,
            admin_address,
            operator_address,
            phase,
            workers: Vec::new(),
            control: None,
            operators: None,
            webhook: None,
            joined,
            beside,
            signing_keys,
            surroundings,
            metrics,
            pipeline,
            is_draining: Arc::default(),
            tls: tls.map(ServerTls::new),
            config: Mutex::new(config),
            loops: Mutex::default(),
            watches,
            delivery: kept.delivery,
            audit,
            outlets: Some(outlets),
        };
        gateway.control = Some(gateway.start_control(runtime, admin, (kept.election, exporting))?);
        gateway.run_parts(cluster)?;
        gateway.operators = operator.map(|(listener, config)| gateway.start_operators(listener, config)).transpose()?;
        gateway.webhook = webhook.map(|opened| gateway.start_webhook(opened)).transpose()?;
        for (index, sockets) in sockets.into_iter().enumerate() {
            gateway.workers.push(gateway.start_worker(index, sockets)?);
        }
        Ok(gateway)
    }

    fn shared(&self) -> &Shared {
        &self.surroundings.shared
    }

    /// The public addresses, in the order of `server.listen`, with the ports that were taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The admin listener's address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The address of the operators' API.
    pub fn operator_address(&self) -> Option<SocketAddr> {
        self.operator_address
    }

    /// The address of the admission webhook.
    pub fn webhook_address(&self) -> Option<SocketAddr> {
        self.webhook.as_ref().map(|webhook| webhook.address)
    }

    /// Whether all is there that requests need: every issuer's keys, and in a cluster what replicas share.
    pub fn is_ready(&self) -> bool {
        let parts =
            (replicas::of(self.joined.as_ref(), self.beside.as_ref()), self.joined.as_ref(), self.delivery.as_deref());
        control::waits_for(&self.pipeline, &self.is_draining, parts).is_empty()
    }

    /// Puts another configuration in force. Running requests end under the old one; listeners, admin and log stay as they are.
    ///
    /// # Errors
    /// [`StartError`]; the old configuration stays in force.
    pub fn reload(&self, config: Config) -> Result<(), StartError> {
        match self.try_reload(config) {
            Ok(()) => {
                self.metrics.reloads.get_or_create(&OutcomeLabel { outcome: "ok" }).inc();
                Ok(())
            }
            Err(error) => {
                self.count_failed_reload();
                Err(error)
            }
        }
    }

    fn try_reload(&self, mut config: Config) -> Result<(), StartError> {
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if config.has_state() && !current.has_state() {
            return Err(StartError::NoStore);
        }
        if config.kubernetes != current.kubernetes {
            return Err(StartError::OtherCluster);
        }
        let needs_restart = restart::keep_what_needs_one(&mut config, &current);
        let old = self.pipeline.load_full();
        let asked = Pipeline::claims_asked(&config);
        let is_same_service = config.token_service == current.token_service;
        let token_service = if is_same_service {
            // Its key files may have changed.
            old.token_service().maintain()?;
            Arc::clone(old.token_service())
        } else {
            let (config, clock) = (config.token_service.clone(), self.shared().clock.clone());
            Arc::new(TokenService::start_shared(config, clock, &self.signing_keys)?)
        };
        let asks_the_same = config.issuers == current.issuers && asked == Pipeline::claims_asked(&current);
        let has_authorities = config.issuers.iter().any(|issuer| issuer.ca.is_some());
        let verifier = if is_same_service && asks_the_same && !has_authorities {
            Arc::clone(old.verifier())
        } else {
            let former: Vec<_> = old.verifier().issuers().cloned().collect();
            let issuers = issuers(&config, &self.shared().clock, &former)?;
            let shared = self.shared().clone();
            let verifier = Verifier::new(issuers, asked, &token_service, shared, TOKEN_CAPACITY)?;
            Arc::new(verifier.after(old.verifier()))
        };
        let parts = (Arc::clone(&verifier), token_service);
        let new = pipeline(&config, parts, &self.surroundings, self.joined.as_ref(), &self.metrics, Some(&old))?;
        let redis = self.redis_access(&current, &config)?;
        // The last that can fail, so that a reload takes effect as a whole or not at all.
        let tls = Prepared::read(&config)?;
        let new = new.with_client_trust(tls.as_ref().and_then(Prepared::trust).cloned());
        if let (Some(in_force), Some(tls)) = (&self.tls, tls) {
            in_force.replace(tls);
        }
        if needs_restart {
            tracing::warn!(
                "changes of [server], [admin], [operator], [webhook], [log], [state] and [delivery], but for server.tls, need a restart"
            );
        }
        self.set_roster(&config)?;
        let redis = self.reach_redis(redis, &current, config.redis.take());
        self.pipeline.store(Arc::new(new));
        if let Some(feed) = &self.surroundings.feed {
            feed.configure(&config);
        }
        if !Arc::ptr_eq(&verifier, old.verifier()) {
            old.verifier().retire();
            upkeep::run_verifier(&verifier, &self.shared().control);
        }
        let cluster = config.cluster;
        *current = Config { redis, ..config };
        drop(current);
        self.run_parts(cluster)
    }

    /// Starts what the pipeline in force needs, and ends what it does not.
    fn run_parts(&self, cluster: config::Cluster) -> Result<(), StartError> {
        self.follow_signing_keys()?;
        self.run_loops();
        self.run_watches()?;
        self.set_valid_until(cluster)
    }

    /// Counts a reload that failed before it came here: the file has mistakes.
    pub fn count_failed_reload(&self) {
        self.metrics.reloads.get_or_create(&OutcomeLabel { outcome: "failed" }).inc();
    }

    /// Opens the files of access and audit log again, after they were moved away.
    pub fn reopen_log(&self) {
        if let Some(outlets) = &self.outlets {
            outlets.reopen();
        }
        self.audit.reopen();
    }

    /// Ends in good order: not ready, a while of serving on, then no new connection, then what runs is ended. Blocks.
    pub fn drain(self) {
        let (wait, deadline) = {
            let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            (config.server.drain_wait, config.server.drain_deadline)
        };
        self.is_draining.store(true, Ordering::Relaxed);
        tracing::info!(?wait, ?deadline, "draining");
        std::thread::sleep(wait);
        self.stop(deadline);
    }

    /// Ends without waiting longer than `deadline` for running requests.
    fn stop(mut self, deadline: Duration) {
        if let Some(feed) = &self.surroundings.feed {
            feed.end_waiting();
        }
        self.phase.send_replace(Phase::Drain(deadline));
        self.join();
    }

    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so.
            let _ = worker.join();
        }
        // Ends the export of spans, on the control plane, once it has sent those of the workers.
        self.outlets = None;
        // The control plane waits for the workers, and no longer.
        self.phase.send_replace(Phase::Drain(Duration::ZERO));
        let webhook = self.webhook.take().map(|webhook| webhook.thread);
        for thread in [self.control.take(), self.operators.take(), webhook].into_iter().flatten() {
            let _ = thread.join();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Drain(Duration::ZERO));
        self.join();
    }
}

/// What outlives configurations: the feed of events runs from now on, where there is a store.
fn surroundings(config: &Config, shared: Shared, metrics: &Metrics, audit: Audit) -> Result<Surroundings, StartError> {
    let counts = Counts::new(metrics);
    let feed = if config.has_state() {
        let (path, users) = (config.state.path.join("events.redb"), Arc::clone(&shared.users));
        let feed = Feed::open(&path, users, Arc::clone(&counts), shared.clock.clone())?;
        feed.configure(config);
        shared.control.spawn(Arc::clone(&feed).run());
        Some(feed)
    } else {
        None
    };
    Ok(Surroundings { shared, feed, counts, audit })
}

/// The pipeline of a configuration, with Postern's own endpoints.
fn pipeline(
    config: &Config,
    (verifier, token_service): (Arc<Verifier>, Arc<TokenService>),
    surroundings: &Surroundings,
    joined: Option<&Joined>,
    metrics: &Metrics,
    former: Option<&Pipeline>,
) -> Result<Pipeline, StartError> {
    if let Some(feed) = &surroundings.feed {
        token_service.send_receipts(feed.receipts());
    }
    let known = former.and_then(Pipeline::endpoints).map(AsRef::as_ref);
    let endpoints = Endpoints::new(config, Arc::clone(&verifier), Arc::clone(&token_service), surroundings, known);
    let former_broker = former.and_then(Pipeline::broker);
    let cluster = joined.map(|joined| &joined.cluster);
    let broker = Broker::new(config, verifier.issuers(), &surroundings.shared, cluster, metrics, former_broker)?;
    let clock = surroundings.shared.clock.clone();
    let pipeline = Pipeline::new(config, verifier, token_service, metrics, clock, former)?;
    Ok(pipeline.with_endpoints(Arc::new(endpoints)).with_broker(Arc::new(broker)))
}
