//! Metrics of what is done about upstreams that fail. Labels are names of the configuration and a few words.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// All of them.
#[derive(Debug, Default)]
pub struct Upstreams {
    retries: Family<OutcomeLabels, Counter>,
    overflows: Family<LimitLabels, Counter>,
    ejections: Family<UpstreamLabel, Counter>,
    connect_failures: Family<UpstreamLabel, Counter>,
    health_checks: Family<OutcomeLabels, Counter>,
    lookups: Family<OutcomeLabels, Counter>,
}

/// The handles of one upstream. By default they belong to no set of metrics.
#[derive(Debug, Clone, Default)]
pub struct UpstreamMetrics {
    /// `postern_upstream_retries_total`: requests that were sent again.
    pub retries: Counter,
    /// The same metric: those that would have been, but for the budget.
    pub retries_denied: Counter,
    /// `postern_upstream_overflows_total`: refused because of `max_connections`, after waiting.
    pub connections_overflows: Counter,
    /// Refused because of `max_pending_requests`.
    pub pending_overflows: Counter,
    /// Refused because of `max_requests`.
    pub requests_overflows: Counter,
    /// `postern_upstream_ejections_total`: endpoints that were left out for a time.
    pub ejections: Counter,
    /// `postern_upstream_connect_failures_total`: connections that could not be made.
    pub connect_failures: Counter,
    /// `postern_upstream_health_checks_total`.
    pub checks_ok: Counter,
    /// The same metric: those that failed.
    pub checks_failed: Counter,
    /// `postern_upstream_lookups_total`: names that were looked up in the background.
    pub lookups_ok: Counter,
    /// The same metric: those that failed.
    pub lookups_failed: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    upstream: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    upstream: String,
    limit: &'static str,
}

impl Upstreams {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests that were sent again to an upstream, or were not because of the budget";
        registry.register("upstream_retries", help, self.retries.clone());
        let help = "Requests refused because of a limit of the upstream's circuit breaker";
        registry.register("upstream_overflows", help, self.overflows.clone());
        let help = "Endpoints of an upstream that were left out for a time because they failed requests";
        registry.register("upstream_ejections", help, self.ejections.clone());
        let help = "Connections to an upstream that could not be made";
        registry.register("upstream_connect_failures", help, self.connect_failures.clone());
        let help = "Health checks of endpoints";
        registry.register("upstream_health_checks", help, self.health_checks.clone());
        let help = "Names of an upstream that were looked up in the background";
        registry.register("upstream_lookups", help, self.lookups.clone());
    }

    /// The handles of one upstream.
    pub fn of(&self, name: &str) -> UpstreamMetrics {
        let upstream = || name.to_owned();
        let label = UpstreamLabel { upstream: upstream() };
        let limit = |limit| self.overflows.get_or_create(&LimitLabels { upstream: upstream(), limit }).clone();
        let outcome = |family: &Family<OutcomeLabels, Counter>, outcome| {
            family.get_or_create(&OutcomeLabels { upstream: upstream(), outcome }).clone()
        };
        UpstreamMetrics {
            retries: outcome(&self.retries, "sent"),
            retries_denied: outcome(&self.retries, "denied"),
            connections_overflows: limit("connections"),
            pending_overflows: limit("pending_requests"),
            requests_overflows: limit("requests"),
            ejections: self.ejections.get_or_create(&label).clone(),
            connect_failures: self.connect_failures.get_or_create(&label).clone(),
            checks_ok: outcome(&self.health_checks, "ok"),
            checks_failed: outcome(&self.health_checks, "failed"),
            lookups_ok: outcome(&self.lookups, "ok"),
            lookups_failed: outcome(&self.lookups, "failed"),
        }
    }
}
