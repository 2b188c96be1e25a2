//! What the endpoints did, for `/metrics`.

use super::events::Feed;
use crate::telemetry::encode;
use crate::telemetry::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

/// Counters of all endpoints. One a process.
#[derive(Debug, Default)]
pub struct Counts {
    calls: Family<CallLabels, Counter>,
    /// Security event tokens that were queued.
    pub(super) events_queued: Counter,
    /// Security event tokens that nobody fetched in time.
    pub(super) events_dropped: Counter,
    /// Security event tokens that a receiver could not use.
    pub(super) events_refused: Counter,
    /// Times that the outbox could not be written or read.
    pub(super) outbox_failures: Counter,
    feed: OnceLock<Weak<Feed>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    endpoint: &'static str,
    outcome: &'static str,
}

#[derive(Debug)]
struct Shown(Arc<Counts>);

impl Counts {
    /// Counters at zero, shown by `metrics`.
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        let counts = Arc::new(Self::default());
        metrics.register_collector(Box::new(Shown(Arc::clone(&counts))));
        counts
    }

    /// Shows how much waits in a feed, too.
    pub(super) fn show(&self, feed: &Arc<Feed>) {
        let _ = self.feed.set(Arc::downgrade(feed));
    }

    /// Counts one call.
    pub(super) fn call(&self, endpoint: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&CallLabels { endpoint, outcome }).inc();
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.0;
        let help = "Calls of Postern's own endpoints, by endpoint and outcome";
        let family = encoder.encode_descriptor("endpoint_calls", help, None, MetricType::Counter)?;
        counts.calls.encode(family)?;
        let single: [(&str, &str, &Counter); 4] = [
            ("events_queued", "Security event tokens queued for a client", &counts.events_queued),
            ("events_dropped", "Security event tokens that were not acknowledged in time", &counts.events_dropped),
            ("events_refused", "Security event tokens that a client could not use", &counts.events_refused),
            ("event_outbox_failures", "Times that the outbox could not be used", &counts.outbox_failures),
        ];
        for (name, help, counter) in single {
            encode::counter(&mut encoder, name, help, counter.get())?;
        }
        let Some(feed) = counts.feed.get().and_then(Weak::upgrade) else { return Ok(()) };
        let polls = i64::try_from(feed.polls_that_wait()).unwrap_or(i64::MAX);
        let help = "Polls of the feed of events that wait for news";
        encode::gauge(&mut encoder, "event_polls", help, polls)?;
        let help = "Security event tokens that wait for a client";
        let mut family = encoder.encode_descriptor("events_waiting", help, None, MetricType::Gauge)?;
        for (client, count) in feed.waiting() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&[("client", &*client)])?)?;
        }
        Ok(())
    }
}
