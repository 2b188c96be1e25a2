//! Every metric, with bounded labels: route, reason, class of status, issuer. Never a subject.

use super::credentials::{Credentials, RouteCredentials};
use super::histogram::Histogram;
use super::reason::Reason;
use super::traces::SpanCounts;
use super::upstreams::{UpstreamMetrics, Upstreams};
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Mutex;
use std::sync::PoisonError;

/// The metrics of one gateway. Handles for the request path are taken once, so that counting is one atomic addition.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    durations: Family<RouteLabel, Histogram>,
    /// `postern_connections`: open client connections.
    pub connections: Gauge,
    /// `postern_connections_refused_total`: closed at once because of `max_connections`.
    pub connections_refused: Counter,
    /// `postern_access_lines_dropped_total`: the writer could not keep up.
    pub access_lines_dropped: Counter,
    /// `postern_user_block_delay_seconds`: from the moment an issuer knew to the decision, where an event told it.
    pub user_block_delay: Histogram,
    decisions: Family<DecisionLabels, Counter>,
    /// `postern_config_reloads_total` by outcome.
    pub reloads: Family<OutcomeLabel, Counter>,
    /// `postern_key_maintenance_failures_total`: signing keys that could not be read or rotated.
    pub key_maintenance_failures: Counter,
    /// `postern_streams_total`: uploads, answers that did not come at once, and upgraded connections, of users.
    pub streams: Counter,
    /// `postern_streams_ended_total`: those that were ended because of their user or token.
    pub streams_ended: Family<CauseLabel, Counter>,
    /// `postern_webhook_reviews_total`: what the admission webhook was asked, by what became of it.
    pub webhook_reviews: Family<OutcomeLabel, Counter>,
    /// `postern_webhook_certificate_failures_total`: the webhook's certificates could not be read or renewed.
    pub webhook_certificate_failures: Counter,
    /// `postern_webhook_certificate_expires_timestamp_seconds`: when its certificate ends; 0 where there is none.
    pub webhook_certificate_expires: Gauge,
    /// `postern_spans_total` by outcome.
    pub spans: SpanCounts,
    credentials: Credentials,
    upstreams: Upstreams,
}

/// The handles of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    /// By class of status, `1xx` first.
    by_class: [Counter; 5],
    /// By reason, in the order of [`Reason::ALL`].
    refusals: Vec<Counter>,
    duration: Histogram,
    /// What became of the credentials that its upstream was given.
    pub credentials: RouteCredentials,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    route: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabel {
    pub(super) route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    kind: &'static str,
    cause: &'static str,
}

/// `outcome` of something that can fail.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `ok` or `failed`; of the webhook's reviews one of a few words.
    pub outcome: &'static str,
}

/// `cause` of something that Postern did by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    /// One of a few words.
    pub cause: &'static str,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    /// An empty set, registered under the prefix `postern`.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("postern");
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            refusals: Family::default(),
            durations: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            access_lines_dropped: Counter::default(),
            user_block_delay: Histogram::default(),
            decisions: Family::default(),
            reloads: Family::default(),
            key_maintenance_failures: Counter::default(),
            streams: Counter::default(),
            streams_ended: Family::default(),
            webhook_reviews: Family::default(),
            webhook_certificate_failures: Counter::default(),
            webhook_certificate_expires: Gauge::default(),
            spans: SpanCounts::default(),
            credentials: Credentials::default(),
            upstreams: Upstreams::default(),
        };
        registry.register("requests", "Requests answered, by route and class of status", metrics.requests.clone());
        registry.register("refusals", "Requests refused, by route and reason", metrics.refusals.clone());
        registry.register_with_unit(
            "request_duration",
            "From the request's head to the end of the answer",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        metrics.register_connections(&mut registry);
        registry.register(
            "access_lines_dropped",
            "Access log lines lost because the writer could not keep up",
            metrics.access_lines_dropped.clone(),
        );
        registry.register_with_unit(
            "user_block_delay",
            "From the moment an issuer knew that a user is out to the decision, where an event told it",
            Unit::Seconds,
            metrics.user_block_delay.clone(),
        );
        registry.register("user_decisions", "Changes of what is known against users", metrics.decisions.clone());
        registry.register("config_reloads", "Times that the configuration was read again", metrics.reloads.clone());
        registry.register(
            "key_maintenance_failures",
            "Times that signing keys could not be read or rotated",
            metrics.key_maintenance_failures.clone(),
        );
        metrics.register_streams(&mut registry);
        metrics.register_webhook(&mut registry);
        metrics.spans.register(&mut registry);
        metrics.credentials.register(&mut registry);
        metrics.upstreams.register(&mut registry);
        // Both are there from the start, so that the first failure is an increase.
        for outcome in ["ok", "failed"] {
            drop(metrics.reloads.get_or_create(&OutcomeLabel { outcome }));
        }
        Self { registry: Mutex::new(registry), ..metrics }
    }

    fn register_connections(&self, registry: &mut Registry) {
        registry.register("connections", "Open client connections", self.connections.clone());
        let help = "Client connections closed at once because of max_connections";
        registry.register("connections_refused", help, self.connections_refused.clone());
    }

    fn register_streams(&self, registry: &mut Registry) {
        let help = "Uploads, answers that did not come at once, and upgraded connections, of users";
        registry.register("streams", help, self.streams.clone());
        let help = "Those that were ended because of their user or token";
        registry.register("streams_ended", help, self.streams_ended.clone());
    }

    fn register_webhook(&self, registry: &mut Registry) {
        let help = "Reviews that the admission webhook was sent, by what became of them";
        registry.register("webhook_reviews", help, self.webhook_reviews.clone());
        let help = "Times that the certificates of the admission webhook could not be read or renewed";
        registry.register("webhook_certificate_failures", help, self.webhook_certificate_failures.clone());
        let help = "When the certificate of the admission webhook ends, in seconds since 1970; 0 where there is none";
        let expires = self.webhook_certificate_expires.clone();
        registry.register("webhook_certificate_expires_timestamp_seconds", help, expires);
    }

    /// Adds metrics that something else keeps.
    pub fn register_collector(&self, collector: Box<dyn prometheus_client::collector::Collector>) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(collector);
    }

    /// The handles of one route, or of all requests that found none.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let route = || name.to_owned();
        let duration = self.durations.get_or_create(&RouteLabel { route: route() }).clone();
        RouteMetrics {
            by_class: CLASSES
                .map(|status| self.requests.get_or_create(&RequestLabels { route: route(), status }).clone()),
            refusals: Reason::ALL
                .iter()
                .map(|reason| {
                    self.refusals.get_or_create(&RefusalLabels { route: route(), reason: reason.code() }).clone()
                })
                .collect(),
            duration,
            credentials: self.credentials.of_route(name),
        }
    }

    /// What concerns credentials.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The handles of one upstream.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        self.upstreams.of(name)
    }

    /// Counts one change of what is known against users.
    pub fn count_decision(&self, kind: &'static str, cause: &'static str) {
        self.decisions.get_or_create(&DecisionLabels { kind, cause }).inc();
    }

    /// All of it in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl RouteMetrics {
    /// Counts one answered request.
    pub fn count(&self, status: StatusCode, reason: Option<Reason>, duration_us: u64) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_class[class].inc();
        self.duration.observe_us(duration_us);
        if let Some(reason) = reason
            && let Some(counter) = self.refusals.get(reason as usize)
        {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_counted_under_its_route_and_reason() {
        let metrics = Metrics::new();
        let orders = metrics.route("orders");
        orders.count(StatusCode::FORBIDDEN, Some(Reason::RoleMissing), 300);
        let text = metrics.encode();
        for line in [
            "postern_requests_total{route=\"orders\",status=\"4xx\"} 1",
            "postern_refusals_total{route=\"orders\",reason=\"role_missing\"} 1",
            "postern_request_duration_seconds_count{route=\"orders\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
