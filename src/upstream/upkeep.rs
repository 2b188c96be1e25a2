//! What is done about an upstream beside requests, on the control plane: its names are looked up, its endpoints are asked how they are.

use crate::config::{HealthCheck, Target};
use crate::upstream::Upstream;
use crate::upstream::connect::{Spoken, open};
use crate::upstream::endpoint::{Endpoint, State};
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// However many connections fail, names are looked up no more often.
const LEAST_REFRESH: Duration = Duration::from_secs(1);

/// How a check shows itself to the endpoint.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("postern/", env!("CARGO_PKG_VERSION"), " (health check)"));

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Failed(#[from] Box<dyn Error + Send + Sync>),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Upstream {
    /// Whether there is anything to [`Upstream::run`] for.
    pub fn needs_upkeep(&self) -> bool {
        !self.follows_user && (self.config.health_check.is_some() || self.names().next().is_some())
    }

    /// Looks names up and checks endpoints, for ever.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.look_up(), self.check());
    }

    fn names(&self) -> impl Iterator<Item = (usize, (&str, u16))> {
        self.config.targets.iter().enumerate().filter_map(|(index, target)| match target {
            Target::Host { host, port } if host.parse::<IpAddr>().is_err() => Some((index, (host.as_str(), *port))),
            _ => None,
        })
    }

    async fn look_up(&self) {
        if self.names().next().is_none() {
            return;
        }
        loop {
            for (index, name) in self.names() {
                self.look_up_one(index, name).await;
            }
            tokio::time::sleep(LEAST_REFRESH).await;
            let rest = self.config.dns_refresh.saturating_sub(LEAST_REFRESH);
            // Whichever comes first.
            let _ = tokio::time::timeout(rest, self.endpoints.stale.notified()).await;
        }
    }

    /// A name that cannot be resolved keeps the addresses that it had.
    async fn look_up_one(&self, index: usize, (host, port): (&str, u16)) {
        let upstream = &self.config.name;
        let addresses: Vec<_> = match tokio::net::lookup_host((host, port)).await {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                self.shared.metrics.lookups_failed.inc();
                tracing::warn!(upstream, host, %error, "the name of an upstream cannot be resolved");
                return;
            }
        };
        self.shared.metrics.lookups_ok.inc();
        match self.endpoints.resolved(&self.config, index, &addresses) {
            Ok(false) => {}
            Ok(true) => tracing::info!(upstream, host, addresses = addresses.len(), "the endpoints have changed"),
            Err(error) => tracing::error!(upstream, %error, "an address cannot be used"),
        }
    }

    async fn check(self: &Arc<Self>) {
        let Some(check) = &self.config.health_check else { return };
        let mut interval = tokio::time::interval(check.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let mut checks = JoinSet::new();
            for endpoint in self.endpoints.current().iter() {
                let (upstream, endpoint) = (Arc::clone(self), Arc::clone(endpoint));
                checks.spawn(async move { upstream.check_one(&endpoint).await });
            }
            // Each ends before the interval does.
            checks.join_all().await;
        }
    }

    async fn check_one(&self, endpoint: &Endpoint) {
        let Some(check) = &self.config.health_check else { return };
        let asked = tokio::time::timeout(check.timeout, self.ask(endpoint, check)).await;
        let outcome = asked.unwrap_or(Err(CheckError::Timeout(check.timeout)));
        let metrics = &self.shared.metrics;
        if outcome.is_ok() { &metrics.checks_ok } else { &metrics.checks_failed }.inc();
        let changed = endpoint.health.checked(outcome.is_ok(), check.healthy_threshold, check.unhealthy_threshold);
        let (upstream, endpoint) = (&self.config.name, &endpoint.address);
        match (changed, outcome) {
            (Some(State::Healthy), _) => tracing::info!(upstream, %endpoint, "endpoint is healthy"),
            (Some(_), Err(error)) => {
                let error: &(dyn Error + 'static) = &error;
                tracing::warn!(upstream, %endpoint, error, "endpoint is not healthy");
            }
            _ => {}
        }
    }

    /// One check, on a connection of its own: an endpoint that takes none is not healthy.
    async fn ask(&self, endpoint: &Endpoint, check: &HealthCheck) -> Result<(), CheckError> {
        let (io, spoken) = open(self, endpoint, false).await.map_err(boxed)?;
        let request = Request::get(check.path.as_str()).header(USER_AGENT, AGENT);
        let io = TokioIo::new(io);
        let status = match spoken {
            Spoken::Http1 => {
                let request = request.header(HOST, &endpoint.host).body(Empty::<Bytes>::new()).map_err(boxed)?;
                let (mut sender, connection) = http1::handshake(io).await.map_err(boxed)?;
                driven(sender.send_request(request), connection).await?
            }
            Spoken::Http2 => {
                let scheme = if self.config.is_tls { "https" } else { "http" };
                let uri = Uri::builder().scheme(scheme).authority(endpoint.host.as_bytes());
                let uri = uri.path_and_query(check.path.clone()).build().map_err(boxed)?;
                let request = request.uri(uri).body(Empty::<Bytes>::new()).map_err(boxed)?;
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(boxed)?;
                driven(sender.send_request(request), connection).await?
            }
        };
        if status.is_success() { Ok(()) } else { Err(CheckError::Status(status)) }
    }
}

/// The status of the answer, with the connection read and written meanwhile.
async fn driven<B>(
    answer: impl Future<Output = hyper::Result<http::Response<B>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<StatusCode, CheckError> {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => Ok(answer.map_err(boxed)?.status()),
        // What it has brought is with the sender by then.
        _ = connection => Ok(answer.await.map_err(boxed)?.status()),
    }
}

fn boxed(error: impl Error + Send + Sync + 'static) -> CheckError {
    CheckError::Failed(Box::new(error))
}
