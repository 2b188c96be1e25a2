//! The worker threads: each has its own runtime, listening sockets, upstream connections and caches.

use super::{Gateway, Phase, StartError};
use crate::base::tick;
use crate::base::tls::Asked;
use crate::config;
use crate::listener::activity::InFlight;
use crate::listener::connection::Service;
use crate::listener::{self, Listeners};
use crate::pipeline::record::Recorded;
use crate::pipeline::{Connection, Worker};
use http::{Request, Response};
use hyper::body::Incoming;
use ipnet::IpNet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;

/// How often a worker lets go of what is no longer needed, in ticks.
const SWEEP_EVERY: u64 = 5;

/// Opens the listening sockets: for each worker, one for each address. Also gives the addresses, with the ports taken.
pub(super) fn bind(server: &config::Server) -> Result<(Vec<Vec<TcpListener>>, Vec<SocketAddr>), StartError> {
    let workers = server.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from);
    let mut sockets: Vec<Vec<TcpListener>> = std::iter::repeat_with(Vec::new).take(workers).collect();
    let mut addresses = Vec::new();
    for address in &server.listen {
        let mut address = *address;
        let failed = |address| move |source| StartError::Listen { address, source };
        // Workers share the port, but nobody else may have it already.
        if address.port() != 0 {
            drop(TcpListener::bind(address).map_err(failed(address))?);
        }
        for sockets in &mut sockets {
            let socket = listener::bind(address).map_err(failed(address))?;
            address = socket.local_addr().map_err(failed(address))?;
            sockets.push(socket);
        }
        addresses.push(address);
    }
    Ok((sockets, addresses))
}

impl Gateway {
    pub(super) fn start_worker(&self, index: usize, sockets: Vec<TcpListener>) -> Result<JoinHandle<()>, StartError> {
        let server = self.config.lock().unwrap_or_else(PoisonError::into_inner).server.clone();
        let (pipeline, metrics, tls) = (Arc::clone(&self.pipeline), Arc::clone(&self.metrics), self.tls.clone());
        let outlets = self.outlets.as_ref().map(|outlets| outlets.of_worker(&metrics));
        let (phase, is_draining) = (self.phase.subscribe(), Arc::clone(&self.is_draining));
        let run = move || {
            let Some((log, spans)) = outlets else { return };
            let built = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            let runtime = match built {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "a worker cannot start");
                    return;
                }
            };
            runtime.block_on(async move {
                let worker = Rc::new(Worker::new(pipeline, log, spans, &metrics, is_draining));
                let service = Front { worker: Rc::clone(&worker), trusted: server.trusted_proxies.clone().into() };
                let (open, refused) = (metrics.connections.clone(), metrics.connections_refused.clone());
                let listeners = Listeners::new(&server, tls, service, open, refused);
                serve(&worker, &listeners, sockets, phase).await;
                worker.flush();
            });
        };
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(run).map_err(StartError::Thread)
    }
}

async fn serve(
    worker: &Rc<Worker>,
    listeners: &Rc<Listeners<Front>>,
    sockets: Vec<TcpListener>,
    mut phase: watch::Receiver<Phase>,
) {
    let accepting: Vec<_> =
        sockets.into_iter().map(|socket| tokio::task::spawn_local(Rc::clone(listeners).run(socket))).collect();
    tokio::task::spawn_local(tick::run());
    tokio::task::spawn_local(sweep(Rc::clone(worker), Rc::clone(listeners)));
    let deadline = until_drain(&mut phase).await;
    for task in accepting {
        task.abort();
    }
    listeners.drain();
    let drained = async {
        while listeners.connections() > 0 {
            tokio::time::sleep(tick::TICK / 4).await;
        }
    };
    if tokio::time::timeout(deadline, drained).await.is_err() && !deadline.is_zero() {
        tracing::warn!(connections = listeners.connections(), "cut at the drain deadline");
    }
}

/// Waits until the gateway is to end; gives how long running requests may take.
pub(super) async fn until_drain(phase: &mut watch::Receiver<Phase>) -> Duration {
    match phase.wait_for(|phase| *phase != Phase::Serve).await.as_deref() {
        Ok(Phase::Drain(deadline)) => *deadline,
        Ok(Phase::Serve) | Err(_) => Duration::ZERO,
    }
}

async fn sweep(worker: Rc<Worker>, listeners: Rc<Listeners<Front>>) {
    let mut rounds = 0_u64;
    loop {
        tokio::time::sleep(tick::TICK).await;
        listeners.sweep();
        worker.tick();
        rounds += 1;
        if rounds.is_multiple_of(SWEEP_EVERY) {
            worker.sweep();
        }
    }
}

/// The pipeline as a listener's service.
#[derive(Debug, Clone)]
pub(super) struct Front {
    worker: Rc<Worker>,
    trusted: Rc<[IpNet]>,
}

impl Service for Front {
    type Connection = Connection;
    type Body = Recorded<InFlight>;

    fn takes_websockets(&self) -> bool {
        self.worker.takes_websockets()
    }

    fn connect(&self, peer: IpAddr, is_tls: bool, asked: Option<Box<Asked>>) -> Rc<Connection> {
        Rc::new(Connection::new(peer, is_tls, Rc::clone(&self.trusted)).with_asked(asked))
    }

    fn call(
        self,
        connection: Rc<Connection>,
        request: Request<Incoming>,
        in_flight: InFlight,
    ) -> impl Future<Output = Result<Response<Self::Body>, Infallible>> {
        self.worker.handle(connection, request, in_flight)
    }
}
